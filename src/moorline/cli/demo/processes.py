"""The demonstration's process tree: sandbox, receiver and worker, real processes that do not outlive it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Self

from moorline.errors import MoorlineError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["Crew", "DemoFailed", "free_port", "until"]

_PATIENCE = 15.0
_HELD = (signal.SIGTERM, signal.SIGINT)


class DemoFailed(MoorlineError):
    """A part of the demonstration did not start, or did not get where it had to be in time."""


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def until(happened: Callable[[], bool], what: str, *, patience: float = _PATIENCE) -> float:
    """Look again and again until it is so; gives the seconds that it took. Raises DemoFailed when it never is."""
    began = time.monotonic()
    while not happened():
        if time.monotonic() - began > patience:
            raise DemoFailed(f"after {patience:.0f} s still not so: {what}")
        time.sleep(0.02)
    return time.monotonic() - began


class _Member:
    """One process, started again when it dies (``restarts`` counts), until it is dismissed."""

    def __init__(self, name: str, command: list[str], environment: dict[str, str], log: Path) -> None:
        self.name = name
        self.restarts = 0
        # Not by a preexec_fn: that runs Python's fork hooks, and a signal in one of them leaves a lock held for ever.
        self._command = [sys.executable, "-m", "moorline.cli.demo.member", str(os.getpid()), *command]
        self._environment = environment
        self._log = log
        self._dismissed = threading.Event()
        self._changing = threading.Lock()  # between starting again and being dismissed: no process may slip through
        self._process = self._start()
        self._watch = threading.Thread(target=self._keep, name=f"demo-{name}", daemon=True)
        self._watch.start()

    def _start(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(
                self._command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,  # Ctrl-C is ours: we stop them, in order
            )

    def _keep(self) -> None:
        while True:
            self._process.wait()
            if self._dismissed.is_set():
                return
            self.restarts += 1
            self._dismissed.wait(min(0.05 * 2**self.restarts, 1.0))
            with self._changing:
                if self._dismissed.is_set():
                    return
                self._process = self._start()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        self._process.kill()

    def dismiss(self) -> int:
        """Ask it to stop, then insist; gives its exit code."""
        with self._changing:
            self._dismissed.set()
        self._process.terminate()
        try:
            return self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()
        finally:
            self._watch.join(_PATIENCE)


class Crew:
    """All members; leaving the ``with`` block dismisses them in the reverse order of their coming."""

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        self._environment = {**os.environ, **environment}
        self._folder = folder
        self._members: dict[str, _Member] = {}
        self._ports: dict[str, int] = {}
        self.exits: dict[str, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        for name, member in reversed(self._members.items()):
            self.exits[name] = member.dismiss()

    def hire(self, name: str, *command: str, port: int | None = None) -> None:
        """Start ``moorline COMMAND``; it is up when its port answers."""
        # No signal may end us between the start of a process and its entry in the books; it lets them in again.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)
        try:
            self._members[name] = _Member(name, list(command), self._environment, self._folder / f"{name}.log")
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if port is not None:
            self._ports[name] = port

    def ready(self) -> None:
        """Wait until all are up. Raises DemoFailed when one does not start."""
        for name, port in self._ports.items():
            member = self._members[name]
            until(partial(_up_or_hopeless, member, port), f"the {name} listens on port {port}")
            if not _answers(port):
                raise DemoFailed(f"the {name} does not start: {self.log(name)[-600:]}")

    def restarts(self, name: str) -> int:
        """How often it had to be started again."""
        return self._members[name].restarts

    def kill(self, name: str) -> None:
        """Kill -9; it is started again."""
        self._members[name].kill()

    def log(self, name: str) -> str:
        """What it wrote."""
        return (self._folder / f"{name}.log").read_text(errors="replace")


def _up_or_hopeless(member: _Member, port: int) -> bool:
    return member.restarts > 2 or _answers(port)


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=0.2).close()
    except OSError:
        return False
    return True
