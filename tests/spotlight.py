"""Sentry's Spotlight for tests: it reads envelopes as Sentry's own interface does, and says what it read.

It answers 200 to everything: what was good comes out of its stream, what was not is in its log.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx2
from tests import oracle_programs
from tests.servers import free_port, listens, until

__all__ = ["SpotlightServer"]


class SpotlightServer:
    """One for a ``with`` block, stopped by its pid; it ends with this process."""

    def __init__(self) -> None:
        self.port = free_port()
        self.dsn = f"http://key@127.0.0.1:{self.port}/1"

    def __enter__(self) -> Self:
        command = [*oracle_programs.command("@spotlightjs/spotlight/dist/run.js"), "server", "-p", str(self.port)]
        self._folder = Path(tempfile.mkdtemp(prefix="moorline-spotlight-"))
        environment = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "HOME": str(self._folder), "LANG": "C.UTF-8"}
        with (self._folder / "out").open("ab") as out:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                cwd=self._folder, env=environment, start_new_session=True,
            )  # fmt: skip
        script = 'while kill -0 "$1" && kill -0 "$2"; do sleep 1; done; kill -9 "$2"; rm -rf "$3"'
        ends = ["/bin/sh", "-c", script, "watch", str(os.getpid()), str(self._process.pid), str(self._folder)]
        quiet = subprocess.DEVNULL
        self._watcher = subprocess.Popen(ends, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True)
        try:
            until(lambda: listens(("127.0.0.1", self.port)), seconds=60.0)
        except AssertionError:
            said = self.log()[-2000:]
            self.__exit__(None, None, None)
            raise RuntimeError(f"Spotlight did not start:\n{said}") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watcher.kill()
        self._watcher.wait()
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def log(self) -> str:
        """What it printed so far."""
        return (self._folder / "out").read_text(errors="replace")

    def read(self, act: Callable[[], object], count: int) -> list[tuple[dict[str, Any], list[Any]]]:
        """The first *count* envelopes that it read while *act* sent them: the header, and the items with their
        payloads.
        """
        url = f"http://127.0.0.1:{self.port}/stream"
        found: list[tuple[dict[str, Any], list[Any]]] = []
        with httpx2.Client(timeout=10.0, trust_env=False) as client, client.stream("GET", url) as stream:
            act()
            for line in stream.iter_lines():
                if line.startswith("data:"):
                    head, items = json.loads(line.removeprefix("data:"))
                    found.append((head, items))
                if len(found) == count:
                    return found
        raise AssertionError(f"Spotlight read {len(found)} envelopes:\n{self.log()[-2000:]}")
