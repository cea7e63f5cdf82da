"""A TCP proxy in front of a real server, whose connections a test cuts or stalls."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType
from typing import Self

__all__ = ["TcpProxy"]


class TcpProxy:
    """Listens on ``port`` of the loopback for a ``with`` block and passes all on to *target*, as long as it may."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._sockets: set[socket.socket] = set()
        self._flows = threading.Event()
        self._flows.set()
        self._refuses = False
        self.came = 0  # connections, those that were refused as well
        self._left: dict[bool, int] = {}  # bytes until the cut, of answers (True) or of requests
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Closing alone does not wake who waits in accept().
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._flows.set()
        self.cut()

    def cut(self, *, refuse: bool = False) -> None:
        """Reset all connections; with *refuse*, new ones too until ``allow()``."""
        self._refuses = refuse
        for one in list(self._sockets):
            with contextlib.suppress(OSError):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
                one.shutdown(socket.SHUT_RDWR)
                one.close()
            self._sockets.discard(one)

    def cut_after(self, size: int, *, of_answers: bool) -> None:
        """Reset all connections, once, when *size* more bytes of answers, or of requests, have passed."""
        self._left[of_answers] = size

    def allow(self) -> None:
        """Take connections again."""
        self._refuses = False

    def stall(self, *, refuse: bool = False) -> None:
        """Pass nothing on, and close nothing; with *refuse*, reset new connections."""
        self._refuses = refuse
        self._flows.clear()

    def flow(self) -> None:
        """Pass all on again, and take connections."""
        self._refuses = False
        self._flows.set()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                theirs, _ = self._listener.accept()
                self.came += 1
                if self._refuses:
                    theirs.close()
                    continue
                try:
                    ours = socket.create_connection(("127.0.0.1", self._target), 5)
                except OSError:
                    theirs.close()
                    continue
                ours.settimeout(None)
                self._sockets |= {theirs, ours}
                for pair in ((theirs, ours, False), (ours, theirs, True)):
                    threading.Thread(target=self._pass_on, args=pair, daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, of_answers: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                self._flows.wait()
                sink.sendall(data)
                if of_answers in self._left:
                    self._left[of_answers] -= len(data)
                    if self._left[of_answers] <= 0:
                        del self._left[of_answers]
                        self.cut()
        for one in (source, sink):
            self._sockets.discard(one)
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
