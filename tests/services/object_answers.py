"""A server of answers written by hand, for what no store would say."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

__all__ = ["Answers", "answer"]


def answer(status: int, body: bytes = b"", **headers: str) -> bytes:
    """An answer as bytes; names of headers have ``_`` for ``-``."""
    lines = [f"HTTP/1.1 {status} X", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    if "Content_Length" not in headers:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode() + body


class Answers:
    """Gives each request, by its method, the next of what it was told to say; the last one again and again. Connections
    are closed after each.
    """

    def __init__(self, **told: list[bytes]) -> None:
        self._told = told
        self.asked: list[str] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def say(self, **told: list[bytes]) -> None:
        """Say this from now on."""
        self._told = told

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                with connection, contextlib.suppress(OSError):
                    connection.settimeout(5)
                    self._answer(connection.recv, connection.sendall)

    def _answer(self, receive: Callable[[int], bytes], send: Callable[[bytes], None]) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            part = receive(65_536)
            if not part:
                return
            head += part
        line = head.partition(b"\r\n")[0].decode()
        self.asked.append(line)
        told = self._told[line.partition(" ")[0]]
        send(told.pop(0) if len(told) > 1 else told[0])
