"""The tap of a process: a socket in a folder of this user, at which ``moorline calls`` listens to what the calls do,
looks at breakers and limits, and forces a breaker.

While nobody is connected it costs nothing: steps are told to those who watch, and nobody watches. It is a Unix socket
that only this user can open; there is no network in it.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import queue
import socket
import socketserver
import stat
import tempfile
import threading
from pathlib import Path
from typing import Any, Final

from moorline import redaction, telemetry
from moorline.calls import guards, story
from moorline.errors import ConfigurationError

__all__ = ["FOLDER", "close_tap", "open_tap", "tap_folder"]

FOLDER: Final = "MOORLINE_RUN_DIR"
_WAITING: Final = 10_000  # steps that a slow listener may be behind; older ones are dropped and counted
_IDLE: Final = 1.0
_LONGEST_FOLDER: Final = 90  # bytes: the path of a Unix socket has at most 107
_LONGEST: Final = 4096
_MOST: Final = 8
_KNOCK: Final = 0.01
_THREAD: Final = "moorline-tap-listener"
_log: Final = telemetry.logger("calls")


def tap_folder() -> Path:
    """Where the sockets of this user's processes are: ``MOORLINE_RUN_DIR``, else the session's runtime folder, else one
    of this user's own among the temporary files.

    Raises ConfigurationError when it belongs to somebody else, others may enter it, or its path is too long.
    """
    named, session = os.environ.get(FOLDER), os.environ.get("XDG_RUNTIME_DIR")
    folder = Path(named or (f"{session}/moorline" if session else f"{tempfile.gettempdir()}/moorline-{os.getuid()}"))
    if len(os.fsencode(folder)) > _LONGEST_FOLDER:
        raise ConfigurationError(f"{FOLDER}: {folder} is too long for sockets (at most {_LONGEST_FOLDER} bytes)")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise ConfigurationError(f"{FOLDER}: {folder} cannot be used: {error.strerror}") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise ConfigurationError(f"{FOLDER}: {folder} must be a folder of this user that nobody else may enter (0700)")
    return folder


class _Listener(socketserver.StreamRequestHandler):
    """One connection: a line of JSON asks, lines of JSON answer."""

    def handle(self) -> None:
        self.connection.settimeout(30)
        with contextlib.suppress(OSError, ValueError):  # gone, or no JSON: it gets no answer
            wanted = json.loads(self.rfile.readline(_LONGEST))
            match wanted.get("want") if isinstance(wanted, dict) else None:
                case "steps":
                    self._steps()
                case "state":
                    self._send({"pid": os.getpid(), "services": _state()})
                case "force":
                    self._write({"pid": os.getpid(), "forced": _forced(wanted)})

    def _steps(self) -> None:
        waiting: queue.Queue[story.Step] = queue.Queue(_WAITING)
        dropped = 0

        def listen(step: story.Step) -> None:
            nonlocal dropped
            try:
                waiting.put_nowait(step)
            except queue.Full:
                dropped += 1

        stop = story.watch(listen)
        try:
            self._write({"kind": "listening", "pid": os.getpid()})
            while True:
                try:
                    step = waiting.get(timeout=_IDLE)
                except queue.Empty:
                    self.wfile.write(b"\n")  # finds out whether anybody is still there
                    continue
                self._write({**step.to_dict(), "pid": os.getpid()})
                if dropped:
                    self._write({"kind": "dropped", "count": dropped, "pid": os.getpid()})
                    dropped = 0
        finally:
            stop()

    def _write(self, answer: dict[str, Any]) -> None:
        self._send(redaction.data(answer))

    def _send(self, redacted: dict[str, Any]) -> None:
        self.wfile.write(json.dumps(redacted).encode() + b"\n")


def _state() -> dict[str, Any]:
    """Each by itself: what a service is called, "google keys" say, makes no secret of its state."""
    return {redaction.text(name): redaction.data(parts) for name, parts in guards.snapshot().items()}


def _forced(wanted: dict[str, Any]) -> int:
    """How many breakers of that name were forced."""
    state = wanted.get("state")
    found = guards.breakers_of(str(wanted.get("service")))
    for breaker in found:
        breaker.force(state)
    return len(found)


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    block_on_close = False  # a listener waits for steps; its thread ends with the connection

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve at most so many at once: each takes a thread."""
        if sum(each.name == _THREAD for each in threading.enumerate()) >= _MOST:
            self.shutdown_request(request)
        else:
            super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """In a thread that is known by its name."""
        threading.current_thread().name = _THREAD
        super().process_request_thread(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 (the base's signature)
        """A listener that fails takes nobody with it."""
        _log.exception("tap_failed")


class _Tap:
    """The one tap of this process, with the number of those who opened it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0
        self.path: Path | None = None
        self._server: _Server | None = None

    def open(self) -> None:
        with self.lock:
            self.users += 1
            if self._server is None:
                path = tap_folder() / f"{os.getpid()}.sock"
                path.unlink(missing_ok=True)
                self._server = _Server(str(path), _Listener)
                self.path = path
                threading.Thread(
                    target=self._server.serve_forever, kwargs={"poll_interval": 0.2}, name="moorline-tap", daemon=True
                ).start()

    def close(self) -> None:
        with self.lock:
            self.users = max(self.users - 1, 0)
            server = self._server
            if self.users or server is None:
                return
            self._server = None
            path, self.path = self.path, None
        _ended(server)
        server.server_close()
        if path is not None:
            path.unlink(missing_ok=True)

    def forget(self) -> None:
        """In a forked child the socket is the parent's."""
        if self._server is not None:
            self._server.socket.close()
        self.__init__()  # type: ignore[misc]


def _ended(server: _Server) -> None:
    """End its loop now: by itself it looks only every so often whether it should."""
    ending = threading.Thread(target=server.shutdown, name="moorline-tap-end", daemon=True)
    ending.start()
    while ending.is_alive():
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as knock:
            knock.settimeout(_KNOCK)
            knock.connect(server.server_address)
        ending.join(_KNOCK)


_tap: Final = _Tap()


def open_tap() -> None:
    """Open the tap of this process; each caller closes it once. A tap that cannot be opened is logged and left out."""
    try:
        _tap.open()
    except (ConfigurationError, OSError) as error:
        _log.warning("no_tap", reason=str(error))


def close_tap() -> None:
    """Close it, when all who opened it have."""
    _tap.close()


def _at_exit() -> None:
    if _tap.path is not None:
        _tap.path.unlink(missing_ok=True)


atexit.register(_at_exit)
os.register_at_fork(after_in_child=_tap.forget)
