"""Faults as they look on the wire.

ASGI has no word for a cut connection. Under :func:`moorline.sandbox.server.serve` the protocol below puts the
socket's transport into the request's state: *dropped* resets it (a real RST where the platform allows, before any
byte of the answer), *truncated* sends the true Content-Length and about half of the body, flushes and closes. Under
another server, or in process, an exception is raised instead: in process the caller gets it as it is; a server
answers 500 or breaks off.
"""

from __future__ import annotations

import asyncio
import socket
import struct

from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["TransportInScope", "drop", "truncate"]

_KEY = "moorline.transport"
_NO_LINGER = struct.pack("ii", 1, 0)


class TransportInScope(HttpToolsProtocol):
    """uvicorn's HTTP protocol, which also tells the application its transport."""

    def on_message_begin(self) -> None:
        """Called by the parser for each request."""
        super().on_message_begin()
        self.scope["state"][_KEY] = self.transport


def _transport(scope: Scope) -> asyncio.Transport | None:
    found: asyncio.Transport | None = scope.get("state", {}).get(_KEY)
    return found


async def _gone(receive: Receive) -> None:
    """Wait until the server knows that the connection is over; it would complain about an unfinished answer before."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def drop(scope: Scope, receive: Receive) -> None:
    """Cut the connection before the answer."""
    transport = _transport(scope)
    if transport is None:
        raise ConnectionResetError("the sandbox dropped the connection")
    sock = transport.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    transport.abort()
    await _gone(receive)


async def truncate(
    scope: Scope, receive: Receive, send: Send, *, status: int, headers: list[tuple[bytes, bytes]], body: bytes
) -> None:
    """Send the head and about half of the body, then cut the connection."""
    await send({"type": "http.response.start", "status": status, "headers": headers})
    if body:
        await send({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True})
    transport = _transport(scope)
    if transport is None:
        raise ConnectionAbortedError("the sandbox cut the answer")
    transport.close()
    await _gone(receive)
