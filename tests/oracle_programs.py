"""Programs of others that the tests ask, installed from npm by ``scripts/install-oracles.sh``; how to start one."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

__all__ = ["command", "missing"]

_FOLDER = Path(__file__).parents[1] / ".oracles"
_INSTALLING_SECONDS = 300.0


def missing() -> str | None:
    """Why they cannot be asked; None if they are there, or on the way."""
    if (_FOLDER / ".installed").exists() or (_FOLDER / ".installing").exists():
        return None
    return "scripts/install-oracles.sh was not run"


def command(script: str) -> list[str]:
    """Node and the *script* (a path below ``node_modules``), once `make test` has it installed beside the tests."""
    end = time.monotonic() + _INSTALLING_SECONDS
    while not (_FOLDER / ".installed").exists():
        # The installation is begun together with the tests, and may have a minute to go.
        if time.monotonic() > end:
            raise FileNotFoundError(f"{script}: scripts/install-oracles.sh has not installed it")
        time.sleep(0.2)
    node = shutil.which("node") or str(_FOLDER / "venv/bin/node")
    return [node, str(_FOLDER / "node_modules" / script)]
