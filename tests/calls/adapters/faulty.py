"""Scripted answers over real sockets, for clients whose wire cannot be replaced."""

from __future__ import annotations

import asyncio
import re
from typing import Any

from tests.calls.fault_server import FaultServer

from moorline.calls.guards import Guards
from moorline.clock import ManualClock

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_REASONS = {200: b"OK", 404: b"Not Found", 429: b"Too Many Requests", 503: b"Service Unavailable"}


class Faulty(FaultServer):
    """Answers in turn, the last for ever: a status, or (status, headers, body), or an exception to hang up.

    ``bodies`` keeps what was sent; ``clock`` and ``guards`` are for those who need no real time.
    """

    def __init__(self, *answers: Any) -> None:
        super().__init__(self._answer)
        self.answers = list(answers)
        self.bodies: list[bytes] = []
        self.clock = ManualClock()
        self.guards = Guards(self.clock)

    async def _answer(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if b"expect: 100-continue" in head.lower():  # botocore waits a second for it, then sends the body all the same
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        length = _LENGTH.search(head)
        if length:
            self.bodies.append(await reader.readexactly(int(length[1])))
        elif b"chunked" in head.lower():
            self.bodies.append(await reader.readuntil(b"0\r\n\r\n"))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        status, headers, body = answer if isinstance(answer, tuple) else (answer, {}, b"{}")
        lines = [b"HTTP/1.1 %d %s" % (status, _REASONS.get(status, b"Said"))]
        lines += [f"{name}: {value}".encode() for name, value in headers.items()]
        lines += [b"Content-Length: %d" % len(body), b"", body]
        writer.write(b"\r\n".join(lines))
        await writer.drain()


HANG_UP = ConnectionResetError("hang up")
