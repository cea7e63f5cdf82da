"""Processes of Python that do not import everything anew: ``Warm`` stands in for ``subprocess.Popen``.

A second of processor time goes into the imports of each ``moorline`` that a test starts, and the tests start many
hundreds to kill or to ask them. So one process a pytest process imports the modules once (the *parent*, this file run
as a script), and is forked for each of them, as a server does that loads the application first. What is forked has its own
pid, environment, folder and pipes; it is a child of ours, to be killed, waited for and read like any other.

MOORLINE_TEST_COLD=1 starts each one anew instead. What is about the start itself uses ``subprocess``.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import io
import json
import os
import pkgutil
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["Warm", "run"]

_MODULES = (
    "greenlet",
    "hiredis",
    "httpx2",
    "moorline.app",
    "moorline.asgi",
    "moorline.cli.root",
    "moorline.cli.runner",
    "moorline.cli.serving",
    "moorline.cli.target",
    "moorline.events.alert_watch",
    "moorline.events.receiver",
    "moorline.events.relay",
    "moorline.events.replay",
    "moorline.events.retention",
    "moorline.jobs.brokers.redis",
    "moorline.jobs.brokers.sql",
    "moorline.jobs.worker",
    "psycopg",
    "redis",
    "rich.traceback",
    "sqlalchemy.dialects.postgresql.psycopg",
    "sqlalchemy.dialects.sqlite.pysqlite",
    "structlog.dev",
    "typer._adapters",
    "uvicorn.lifespan.on",
    "uvicorn.protocols.http.auto",
    "uvicorn.protocols.websockets.auto",
    "uvloop",
)
_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_LONGEST = 1 << 20  # bytes of a command and its environment


class _Parent:
    """The process that is forked, and the socket through which it is asked to."""

    def __init__(self) -> None:
        self._one = threading.Lock()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _LONGEST)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                cwd="/",
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=_without_ours(os.environ),
            )

    def fork(self, command: Sequence[str], cwd: str, env: dict[str, str], files: Sequence[int]) -> int:
        """The pid of a new child of this process, whose first three descriptors are *files*."""
        asked = json.dumps({"command": list(command), "cwd": cwd, "env": env}).encode("utf-8", "surrogateescape")
        with self._one:
            _adopt(True)
            try:
                socket.send_fds(self._socket, [asked], files)
                answer = self._socket.recv(64)
            finally:
                _adopt(False)
        if not answer:
            raise RuntimeError(f"the process that is forked ended with {self._process.wait()}")
        return int(answer)


def _adopt(yes: bool) -> None:
    """Whether we become the parent of a descendant whose own parent ended."""
    if _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, int(yes), 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def _without_ours(environment: os._Environ[str]) -> dict[str, str]:
    # What is imported must not see the settings of a test.
    return {name: value for name, value in environment.items() if not name.startswith(("MOORLINE_", "COV_CORE"))}


_parents: dict[int, _Parent] = {}  # by the pid of their owner, which may itself be forked


class _Forked(subprocess.Popen[Any]):
    """``subprocess.Popen`` of ``python -m …``, ``python -c …`` or ``python file``; dies with us."""

    def _execute_child(self, args: Any, executable: Any, preexec_fn: Any, *rest: Any) -> None:
        _, _, cwd, env, _, _, _, p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite, *_ = rest
        assert args[0] == sys.executable
        assert executable is None
        assert preexec_fn is None
        if os.getpid() not in _parents:
            _parents[os.getpid()] = _Parent()
        files = [given if given >= 0 else ours for ours, given in enumerate((p2cread, c2pwrite, errwrite))]
        environment = dict(os.environ if env is None else env)
        try:
            self.pid = _parents[os.getpid()].fork(
                [str(word) for word in args[1:]], os.fspath(cwd or Path.cwd()), environment, files
            )
            self._child_created = True
        finally:
            self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)  # type: ignore[attr-defined]


Warm: type[subprocess.Popen[Any]] = subprocess.Popen if os.environ.get("MOORLINE_TEST_COLD") else _Forked


def run(
    command: Sequence[str],
    *,
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
    timeout: float = 60.0,
    check: bool = False,
) -> subprocess.CompletedProcess[str]:
    """``subprocess.run``, of which the output is captured as text."""
    with Warm(command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(command, process.returncode, out, err)
    if check:
        done.check_returncode()
    return done


# --- in the process that is forked


def _serve(control: socket.socket) -> dict[str, Any]:
    """Fork whenever asked, until nobody can ask any more; returns in each child, with what it shall be."""
    while True:
        asked, files, _, _ = socket.recv_fds(control, _LONGEST, 3)
        if not asked:
            os._exit(0)
        reads, writes = os.pipe()
        between = os.fork()
        if between == 0:
            short_lived = os.getpid()
            pid = os.fork()
            if pid == 0:
                os.close(reads)
                os.close(writes)
                control.close()
                for number, file in enumerate(files):
                    os.dup2(file, number)
                for file in files:
                    os.close(file)
                while os.getppid() == short_lived:
                    time.sleep(0.001)
                wanted: dict[str, Any] = json.loads(asked.decode("utf-8", "surrogateescape"))
                return wanted
            os.write(writes, str(pid).encode())
            os._exit(0)
        os.waitpid(between, 0)  # from now on the child is our owner's
        control.send(os.read(reads, 64))
        for file in (reads, writes, *files):
            os.close(file)


def _become(wanted: dict[str, Any]) -> None:
    """Run what the command says, as the interpreter would."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.chdir(wanted["cwd"])
    os.environ.clear()
    os.environ.update(wanted["env"])
    time.tzset()
    at_once = bool(os.environ.get("PYTHONUNBUFFERED"))
    binary = io.BufferedWriter(io.FileIO(1, "w", closefd=False))
    # Anew, as the parent's believes that it can be sought in.
    sys.stdout = io.TextIOWrapper(binary, encoding="utf-8", write_through=at_once)
    sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
    more = [place for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place and place not in sys.path]
    how, *words = wanted["command"]
    if how == "-m":
        sys.path[:] = [str(Path.cwd()), *more, *sys.path]
        sys.argv = words
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    elif how == "-c":
        sys.path[:] = ["", *more, *sys.path]
        sys.argv = ["-c", *words[1:]]
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(words[0], "<string>", "exec"), main.__dict__)
    else:
        sys.path[:] = [str(Path(how).resolve().parent), *more, *sys.path]
        sys.argv = [how, *words]
        runpy.run_path(how, run_name="__main__")


def _main() -> None:
    from moorline import services

    del sys.path[0]  # this folder
    for name in _MODULES:
        with contextlib.suppress(ImportError):  # what is not installed is not imported by the child either
            importlib.import_module(name)
    for module in pkgutil.walk_packages(services.__path__, "moorline.services."):
        importlib.import_module(module.name)
    gc.collect()
    gc.freeze()  # so that a collection in a child does not copy all pages
    _become(_serve(socket.socket(fileno=int(sys.argv[1]))))


if __name__ == "__main__":
    _main()
