"""A real server on loopback that allows a hundred calls, in two seconds or once, and says so."""

from __future__ import annotations

import asyncio
import time

from tests.calls.ledger import Ledger
from tests.policies.limited_server import EPOCH, FixedWindow, Server

from moorline.calls.service import RateLimitHeaders

ALLOWED, WINDOW = 100, 2.0


class Metered(Ledger):
    """A service that speaks of its limit in the usual headers."""

    name = "metered"
    limits = RateLimitHeaders()


class Limited:
    """What the server does: a window that begins anew every 2 s, of which each answer tells, and 429 beyond."""

    def __init__(self, model: Server | None = None) -> None:
        self.model = model or FixedWindow(ALLOWED, WINDOW, "x")

    async def __call__(self, _head: bytes, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.01)
        answer = self.model(time.time() - EPOCH)
        fields = "".join(f"{name}: {text}\r\n" for name, text in answer.headers.items())
        body = '{"id": "b_1"}'
        writer.write(f"HTTP/1.1 {answer.status} Said\r\n{fields}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        await writer.drain()
