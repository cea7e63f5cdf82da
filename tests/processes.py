"""Processes that tests and benchmarks kill: each one is started anew whenever it ends, as a supervisor does it."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from tests.warm import Warm

__all__ = ["PATIENCE", "Kept", "moorline_command", "so"]

PATIENCE = 60.0
"""Seconds that any one step may take on a machine that does much else."""


def moorline_command(*arguments: str) -> list[str]:
    """``moorline`` with these arguments, run by this Python."""
    return [sys.executable, "-m", "moorline.cli", *arguments]


_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


def _die_with_us() -> None:
    """In the new process: whoever is killed outright stops nobody, and it would live on."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Kept:
    """One command, started anew whenever it ends. ``environment`` is added to ours, without our ``MOORLINE_*``."""

    def __init__(self, command: Sequence[str], *, cwd: Path, environment: Mapping[str, str]) -> None:
        self._command = command
        self._cwd = cwd
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith("MOORLINE_")}
        # A process that lives for a second must not compile all modules anew, whatever the tests' own rule is.
        self._environment.pop("PYTHONDONTWRITEBYTECODE", None)
        self._environment |= environment
        self.process: subprocess.Popen[Any] | None = None
        self.exits: list[int] = []
        self._stopping = False
        self._keeper: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._keeper = asyncio.create_task(self._keep())
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Ask it to stop, as a deployment does."""
        assert self._keeper is not None
        self._stopping = True
        if self.process is not None and self.process.returncode is None:
            self.process.terminate()
            try:
                await asyncio.wait_for(asyncio.shield(self._keeper), PATIENCE)
            except TimeoutError:
                self.process.kill()
        await self._keeper

    async def _keep(self) -> None:
        while not self._stopping:
            self.process = self._start()
            self.exits.append(await _ended(self.process))

    def _start(self) -> subprocess.Popen[Any]:
        if self._command[0] == sys.executable:
            return Warm(self._command, cwd=self._cwd, env=self._environment)
        return subprocess.Popen(self._command, cwd=self._cwd, env=self._environment, preexec_fn=_die_with_us)  # noqa: PLW1509

    @property
    def pid(self) -> int:
        """Of the present process; 0 between two."""
        return 0 if self.process is None or self.process.returncode is not None else self.process.pid

    def kill(self, pid: int) -> bool:
        """``kill -9`` that process; False if it is gone already."""
        if not pid or pid != self.pid or self.process is None:
            return False
        try:
            self.process.kill()
        except ProcessLookupError:
            return False
        return True


async def _ended(process: subprocess.Popen[Any]) -> int:
    """Wait for it; its exit code."""
    ended = asyncio.Event()
    file = os.pidfd_open(process.pid)
    asyncio.get_running_loop().add_reader(file, ended.set)
    try:
        await ended.wait()
    finally:
        asyncio.get_running_loop().remove_reader(file)
        os.close(file)
    return process.wait()


async def so(condition: Callable[[], Any], *, seconds: float = PATIENCE) -> None:
    """Until a fact about other processes, which can be seen only by looking. Raises TimeoutError after *seconds*."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
