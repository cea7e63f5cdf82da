"""Emulators of Amazon SQS and S3 for tests and benchmarks, on free loopback ports, stopped by their own pids.

moto is the first opinion, fauxqs the second: it counts and hides messages in its own way, and names queues by another
host than the one that was asked.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests import oracle_programs
from tests.servers import free_port, listens, until

__all__ = ["REGION", "FauxqsServer", "MotoServer", "aws_environment"]

REGION = "eu-central-1"
_START_SECONDS = 60.0
_CREDENTIALS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}


@contextlib.contextmanager
def aws_environment() -> Iterator[None]:
    """Credentials that open nothing, and no file or variable of who runs the tests."""
    before = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("AWS_")}
    nowhere = dict.fromkeys(("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"), "/nonexistent")
    ours = _CREDENTIALS | nowhere | {"AWS_EC2_METADATA_DISABLED": "true"}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)
        os.environ.update(before)


class _Server:
    """One for a ``with`` block; it ends with the process *owner*, by default this one."""

    name = ""

    def __init__(self, owner: int | None = None) -> None:
        self._owner = os.getpid() if owner is None else owner
        self.port = free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.url = f"sqs://{REGION}?endpoint={self.endpoint}"
        self._process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        raise NotImplementedError

    def environment(self) -> Mapping[str, str]:
        return {}

    def __enter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix=f"moorline-{self.name}-"))
        environment = {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"), "HOME": str(self._folder), "LANG": "C.UTF-8",
        } | dict(self.environment())  # fmt: skip
        with (self._folder / "out").open("ab") as out:
            self._process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=self._folder, env=environment,
                start_new_session=True,
            )  # fmt: skip
        script = 'while kill -0 "$1" && kill -0 "$2"; do sleep 1; done; kill -9 "$2"; rm -rf "$3"'
        ends = ["/bin/sh", "-c", script, "watch", str(self._owner), str(self._process.pid), str(self._folder)]
        quiet = subprocess.DEVNULL
        self._watcher = subprocess.Popen(ends, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True)
        try:
            until(self._answers, seconds=_START_SECONDS)
        except AssertionError:
            said = (self._folder / "out").read_text(errors="replace")[-2000:]
            self.__exit__(None, None, None)
            raise RuntimeError(f"{self.name} did not start:\n{said}") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._watcher.kill()
        self._watcher.wait()
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def send(self, number: signal.Signals) -> None:
        """SIGSTOP freezes it, SIGCONT lets it go on."""
        assert self._process is not None
        self._process.send_signal(number)

    def client(self, service: str = "sqs") -> Any:
        """A client of our own, to look at what is there."""
        import botocore.session
        from botocore.config import Config

        return botocore.session.get_session().create_client(
            service, region_name=REGION, endpoint_url=self.endpoint, aws_access_key_id="testing",
            aws_secret_access_key="testing", config=Config(s3={"addressing_style": "path"}),
        )  # fmt: skip

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError("it ended")
        return listens(("127.0.0.1", self.port))


class MotoServer(_Server):
    """``moto_server``, all services on one port."""

    name = "moto"

    def command(self) -> list[str]:
        return [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]

    def environment(self) -> Mapping[str, str]:
        return _CREDENTIALS


class FauxqsServer(_Server):
    """``fauxqs``, SQS and S3 on one port."""

    name = "fauxqs"

    def command(self) -> list[str]:
        return oracle_programs.command("fauxqs/dist/cli.js")

    def environment(self) -> Mapping[str, str]:
        return {"FAUXQS_PORT": str(self.port), "FAUXQS_HOST": "localhost", "FAUXQS_LOGGER": "false"}
