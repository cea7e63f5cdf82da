"""Firebase's own emulator of its Authentication, on free loopback ports, stopped by its own pid. It needs no Java."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx2
from tests import oracle_programs
from tests.servers import free_port, until

__all__ = ["PROJECT", "FirebaseEmulator"]

PROJECT = "demo-moorline"  # one that begins so reaches no real service
_START_SECONDS = 110.0  # ten by itself; the tests' own limit is two minutes


class FirebaseEmulator:
    """One for a ``with`` block; with an *owner* it ends with that process instead. ``host`` is where it is."""

    def __init__(self, owner: int | None = None) -> None:
        self._owner = os.getpid() if owner is None else owner
        self._outlives = owner is not None
        self._port = free_port()
        self.host = f"127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        program = oracle_programs.command("firebase-tools/lib/bin/firebase.js")
        self._folder = Path(tempfile.mkdtemp(prefix="moorline-firebase-"))
        ports = {name: {"host": "127.0.0.1", "port": free_port()} for name in ("hub", "logging")}
        emulators = {"auth": {"host": "127.0.0.1", "port": self._port}, "ui": {"enabled": False}, **ports}
        (self._folder / "firebase.json").write_text(json.dumps({"emulators": emulators}))
        environment = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "HOME": str(self._folder), "CI": "true"}
        with (self._folder / "out").open("ab") as out:
            self._process = subprocess.Popen(
                [*program, "emulators:start", "--only", "auth", "--project", PROJECT],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=self._folder, env=environment,
                start_new_session=True,
            )  # fmt: skip
        script = 'while kill -0 "$1" && kill -0 "$2"; do sleep 1; done; kill -9 "-$2"; rm -rf "$3"'
        ends = ["/bin/sh", "-c", script, "watch", str(self._owner), str(self._process.pid), str(self._folder)]
        quiet = subprocess.DEVNULL
        self._watcher = subprocess.Popen(ends, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True)
        try:
            until(self._is_up, seconds=_START_SECONDS)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        if self._outlives:
            self._process.returncode = self._watcher.returncode = 0  # they outlive us: nobody shall be warned of it
        return self

    def _is_up(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            said = (self._folder / "out").read_text(errors="replace")
            raise RuntimeError(f"Firebase's emulator did not start:\n{said[-2000:]}")
        # It tries its ports, by listening a moment on each, before it begins: that it listens says nothing.
        try:
            return httpx2.get(f"http://{self.host}/").json()["authEmulator"]["ready"] is True
        except (httpx2.TransportError, ValueError, KeyError):
            return False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._watcher.wait()
