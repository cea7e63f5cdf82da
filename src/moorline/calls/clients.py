"""Who owns connections: one pool per service and event loop, closed with the loop; one per service for blocking
calls.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import ssl
import threading
import weakref
from collections.abc import AsyncGenerator
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import httpx2

    from moorline.calls.addresses import PublicAddresses

__all__ = ["Clients"]

_MAX_CONNECTIONS = 100


@cache
def _tls() -> ssl.SSLContext:
    """TLS 1.2 or newer, certificates and names checked against the system's store. Loading it is slow: once a
    process.
    """
    import httpx2

    context = httpx2.create_ssl_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _limits() -> httpx2.Limits:
    import httpx2

    return httpx2.Limits(max_connections=_MAX_CONNECTIONS, max_keepalive_connections=_MAX_CONNECTIONS)


class Clients:
    """The pools of one owner (a service class's name, or a transport). Safe between threads and after a fork.

    With *addresses* no connection goes elsewhere.
    """

    def __init__(self, addresses: PublicAddresses | None = None) -> None:
        self._addresses = addresses
        self._lock = threading.Lock()
        self._blocking: httpx2.HTTPTransport | None = None
        self._pools: dict[asyncio.AbstractEventLoop, _Pool] = {}
        _all.add(self)

    def blocking(self) -> httpx2.HTTPTransport:
        """The pool for blocking calls; opened on first use."""
        if self._blocking is None:
            from moorline.calls.sockets import clamped_transport

            with self._lock:
                if self._blocking is None:
                    self._blocking = clamped_transport(_tls(), _limits(), self._addresses)
        return self._blocking

    async def for_loop(self) -> httpx2.AsyncHTTPTransport:
        """The pool of the running loop; opened on first use and closed when the loop shuts down."""
        loop = asyncio.get_running_loop()
        pool = self._pools.get(loop)
        if pool is None:
            for dead in [known for known in list(self._pools) if known.is_closed()]:
                self._pools.pop(dead, None)
            pool = self._pools[loop] = _Pool(self._addresses)
            await pool.watch(lambda: self._pools.pop(loop, None))
        return pool.transport

    async def aclose(self) -> None:
        """Close this loop's pool and the blocking one. Later calls open new ones."""
        self.close()
        pool = self._pools.pop(asyncio.get_running_loop(), None)
        if pool is not None:
            await pool.close()

    def close(self) -> None:
        """Close the blocking pool."""
        with self._lock:
            blocking, self._blocking = self._blocking, None
        if blocking is not None:
            blocking.close()

    def forget(self) -> None:
        """Drop all without a word to the peers: in a forked child the connections belong to the parent."""
        self._lock = threading.Lock()
        self._blocking = None
        self._pools = {}


class _Pool:
    """A loop's pool. The loop finalises its asynchronous generators when it shuts down, and one of them closes the
    pool.
    """

    __slots__ = ("_keeper", "transport")

    def __init__(self, addresses: PublicAddresses | None) -> None:
        from moorline.calls.async_sockets import async_transport

        self.transport = async_transport(_tls(), _limits(), addresses)
        self._keeper: AsyncGenerator[None] | None = None

    async def watch(self, closed: object) -> None:
        self._keeper = _keep(self.transport, closed)
        await anext(self._keeper)

    async def close(self) -> None:
        if self._keeper is not None:
            await self._keeper.aclose()


async def _keep(transport: httpx2.AsyncHTTPTransport, closed: object) -> AsyncGenerator[None]:
    try:
        yield
    finally:
        if callable(closed):
            closed()
        await transport.aclose()


_all: weakref.WeakSet[Clients] = weakref.WeakSet()


def _close_all() -> None:
    for clients in list(_all):
        clients.close()


def _forget_all() -> None:
    for clients in list(_all):
        clients.forget()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_forget_all)
