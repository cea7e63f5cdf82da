"""Senders of signed webhooks over plain sockets, for tests and benchmarks: what was not answered 2xx comes again."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import Callable
from typing import Any

from moorline.services import GitHub

__all__ = ["Sender", "github_request"]

Address = tuple[str, int]


def github_request(identity: str, secret: str, *, size: int = 3000, **fields: Any) -> bytes:
    """A delivery of GitHub's as bytes, the same each time; *fields* and some *size* bytes more are its body."""
    body = json.dumps({"delivery": identity, **fields, "padding": "x" * size}, separators=(",", ":")).encode()
    headers = {
        **GitHub.webhooks.sign(body, secret),
        "Host": "receiver",
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "X-GitHub-Hook-ID": "1",
        "X-GitHub-Delivery": identity,
        "X-GitHub-Event": "push",
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST /webhooks/github HTTP/1.1\r\n{head}\r\n".encode() + body


class Sender:
    """One sender with a connection that it keeps while that works.

    ``address`` says at each try where to send, None while there is nobody; ``patience`` is in seconds for one try;
    ``source`` is the local address to send from. ``statuses`` counts the answers, 0 standing for none.
    """

    def __init__(
        self, address: Callable[[], Address | None], *, patience: float = 10.0, source: str | None = None
    ) -> None:
        self._address = address
        self._patience = patience
        self._source = source
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._at: Address | None = None
        self.statuses: Counter[int] = Counter()

    async def deliver(self, request: bytes, *, pause: Callable[[], float]) -> Address:
        """Send it until it is answered 2xx, with a pause in between; who answered."""
        while True:
            address = self._address()
            status = 0 if address is None else await self.post(request, address)
            if address is not None and 200 <= status < 300:
                return address
            await asyncio.sleep(pause())

    async def post(self, request: bytes, address: Address) -> int:
        """Send it once; the status of the answer, 0 when there was none."""
        status = 0
        try:
            async with asyncio.timeout(self._patience):
                status = await self._exchange(request, address)
        except (OSError, TimeoutError, EOFError):
            pass
        finally:
            if not status:
                await self.close()
        self.statuses[status] += 1
        return status

    async def close(self) -> None:
        """Close the connection, if there is one."""
        streams, self._streams = self._streams, None
        if streams is not None:
            streams[1].transport.abort()
            with contextlib.suppress(OSError):
                await streams[1].wait_closed()

    async def _exchange(self, request: bytes, address: Address) -> int:
        if self._at != address:
            await self.close()
        if self._streams is None:
            local = None if self._source is None else (self._source, 0)
            self._streams = await asyncio.open_connection(*address, local_addr=local)
            self._at = address
        reader, writer = self._streams
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        await reader.readexactly(int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0]))
        if b"connection: close" in head:
            await self.close()
        return int(head.split(b" ", 2)[1])
