"""Programs of others that the tests ask, installed by ``scripts/install-oracles.sh``; how to start one."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

__all__ = ["browser", "command", "missing"]

_FOLDER = Path(__file__).parents[1] / ".oracles"
_INSTALLING_SECONDS = 300.0


def missing() -> str | None:
    """Why they cannot be asked; None if they are there, or on the way."""
    if (_FOLDER / ".installing").exists():
        return None
    if not (_FOLDER / ".installed").exists():
        return "scripts/install-oracles.sh was not run"
    return None if shutil.which("chromium") else "Chromium is not installed (apt-get install chromium)"


def command(script: str) -> list[str]:
    """Node and the *script* (a path below ``node_modules``), once `make test` has it installed beside the tests."""
    _wait_for(script)
    node = shutil.which("node") or str(_FOLDER / "venv/bin/node")
    return [node, str(_FOLDER / "node_modules" / script)]


def browser() -> str:
    """The path of Chromium, once `make test` has it installed beside the tests."""
    _wait_for("Chromium")
    found = shutil.which("chromium")
    if found is None:
        raise FileNotFoundError("Chromium is not installed (apt-get install chromium)")
    return found


def _wait_for(what: str) -> None:
    end = time.monotonic() + _INSTALLING_SECONDS
    while not (_FOLDER / ".installed").exists():
        # The installation is begun together with the tests, and may have a minute to go.
        if time.monotonic() > end:
            raise FileNotFoundError(f"{what}: scripts/install-oracles.sh has not installed it")
        time.sleep(0.2)
