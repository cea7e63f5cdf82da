"""A real RabbitMQ for tests and benchmarks, on free loopback ports, stopped by its own pid."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.servers import free_port, listens, until

__all__ = ["RabbitServer", "end_processes", "rabbit_program"]

_START_SECONDS = 90.0
_PARTS = {"MNESIA_BASE": "mnesia", "LOG_BASE": "log", "PID_FILE": "pid", "ENABLED_PLUGINS_FILE": "plugins"}


def rabbit_program() -> Path | None:
    """The start script itself: Debian's wrapper on PATH insists on its own folders. None if it is not installed."""
    for folder in (Path("/usr/lib/rabbitmq/bin"), Path("/usr/local/lib/rabbitmq/sbin")):
        if (folder / "rabbitmq-server").exists():
            return folder / "rabbitmq-server"
    found = shutil.which("rabbitmq-server")
    return None if found is None else Path(found)


class RabbitServer:
    """One node for a ``with`` block; a test may kill it and start it again on the same ports and folder.

    A single node of RabbitMQ 3.10 does not bring its quorum queues back after a ``kill -9``, but after ``stop()``.
    """

    def __init__(self, owner: int | None = None) -> None:
        """It ends with the process *owner*, by default this one."""
        self._owner = os.getpid() if owner is None else owner
        self.port, self._distribution, self.mapper = free_port(), free_port(), free_port()
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}/"
        self._user = _unprivileged_user()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="moorline-rabbit-"))
        if self._user is not None:
            os.chown(self._folder, self._user.pw_uid, self._user.pw_gid)
        try:
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        program = rabbit_program()
        if program is None:
            raise RuntimeError("RabbitMQ is not installed (apt-get install rabbitmq-server)")
        environment = {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "HOME": str(self._folder),
            "LANG": "C.UTF-8",
            "ERL_EPMD_PORT": str(self.mapper),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"moorline{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._distribution),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+sbwt none +sbwtdcpu none +sbwtdio none",  # no spinning: two cores
        } | {f"RABBITMQ_{name}": str(self._folder / part) for name, part in _PARTS.items()}
        out = (self._folder / "out").open("ab")
        self._process = subprocess.Popen(
            [str(program)], stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=self._folder, env=environment,
            start_new_session=True, **_credentials(self._user),
        )  # fmt: skip
        out.close()
        if self._owner != os.getpid():
            self._process.returncode = 0  # it outlives us: nobody shall be warned that it runs
        try:
            until(self._answers, seconds=_START_SECONDS)
        except AssertionError:
            said = (self._folder / "out").read_text(errors="replace")[-2000:]
            raise RuntimeError(f"RabbitMQ did not start:\n{said}") from None
        # Whatever becomes of us, the node and its port mapper end.
        script = 'while kill -0 "$1" && kill -0 "$2"; do sleep 1; done; pkill -9 -s "$2"; rm -rf "$3"'
        ends = ["/bin/sh", "-c", script, "watch", str(self._owner), str(self._process.pid), str(self._folder)]
        quiet = subprocess.DEVNULL
        self._watcher = subprocess.Popen(ends, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True)

    def kill(self) -> None:
        """``kill -9``."""
        self._end()

    def stop(self) -> None:
        """In an orderly way."""
        node = self._node()
        if node is not None:
            os.kill(node, signal.SIGTERM)
            until(lambda: not _lives(node), seconds=30)
        self._end()

    def send(self, number: signal.Signals) -> None:
        """SIGSTOP freezes it, SIGCONT lets it go on."""
        node = self._node()
        assert node is not None
        os.kill(node, number)

    def _end(self) -> None:
        if self._process is None:
            return
        self._watcher.kill()
        self._watcher.wait()
        end_processes(self.mapper)
        self._process.wait()
        self._process = None
        (self._folder / "pid").unlink(missing_ok=True)

    def _node(self) -> int | None:
        with contextlib.suppress(OSError, ValueError):
            return int((self._folder / "pid").read_text())
        return None

    def _answers(self) -> bool:
        assert self._process is not None
        if self._owner == os.getpid() and self._process.poll() is not None:
            raise AssertionError("it ended")
        return self._node() is not None and listens(("127.0.0.1", self.port))


def end_processes(mapper: int) -> None:
    """``kill -9`` for all of the server whose port mapper has that port: the mapper is a daemon of its own."""
    mark = f"ERL_EPMD_PORT={mapper}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in folder.joinpath("environ").read_bytes().split(b"\0"):
                os.kill(int(folder.name), signal.SIGKILL)


def _unprivileged_user() -> pwd.struct_passwd | None:
    """RabbitMQ runs as root too, but its files should not be root's where it has a user."""
    if os.geteuid() == 0:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam("rabbitmq")
    return None


def _credentials(user: pwd.struct_passwd | None) -> dict[str, Any]:
    return {} if user is None else {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
