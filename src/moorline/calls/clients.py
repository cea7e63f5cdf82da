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
from collections.abc import AsyncGenerator, Callable
from functools import cache
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    import httpx2

    from moorline.calls.addresses import PublicAddresses

__all__ = ["MAX_CONNECTIONS", "Clients", "PoolUnusable", "Pools", "tls"]

MAX_CONNECTIONS = 100
"""Of one pool: more requests at a time wait for a connection."""


class PoolUnusable(Exception):
    """The library cannot open connections in this process; the message says why."""


class _Closed(Protocol):
    def close(self) -> None: ...


class _ClosedAsync(Protocol):
    async def aclose(self) -> None: ...


B = TypeVar("B", bound=_Closed)
L = TypeVar("L", bound=_ClosedAsync)


@cache
def tls() -> ssl.SSLContext:
    """TLS 1.2 or newer, certificates and names checked against the system's store. Loading it is slow: once a
    process.
    """
    import httpx2

    context = httpx2.create_ssl_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _limits() -> httpx2.Limits:
    import httpx2

    return httpx2.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=MAX_CONNECTIONS)


class Pools(Generic[B, L]):
    """The pools of one owner, of any kind. Safe between threads and after a fork."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocking: B | None = None
        self._pools: dict[asyncio.AbstractEventLoop, _Pool[L]] = {}
        _all.add(self)

    def open_blocking(self) -> B:
        """A new pool for blocking calls."""
        raise NotImplementedError

    def open_async(self) -> L:
        """A new pool for the running loop."""
        raise NotImplementedError

    def blocking(self) -> B:
        """The pool for blocking calls; opened on first use."""
        pool = self._blocking
        if pool is None:
            with self._lock:
                pool = self._blocking
                if pool is None:
                    pool = self._blocking = self.open_blocking()
        return pool

    def known(self) -> L | None:
        """The pool of the running loop, if it is open."""
        pool = self._pools.get(asyncio.get_running_loop())
        return None if pool is None else pool.transport

    async def for_loop(self) -> L:
        """The pool of the running loop; opened on first use and closed when the loop shuts down."""
        loop = asyncio.get_running_loop()
        pool = self._pools.get(loop)
        if pool is None:
            for dead in [known for known in list(self._pools) if known.is_closed()]:
                self._pools.pop(dead, None)
            pool = self._pools[loop] = _Pool(self.open_async())
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


class Clients(Pools["httpx2.HTTPTransport", "httpx2.AsyncHTTPTransport"]):
    """httpx2's pools of one owner (a service class's name, or a transport).

    With *addresses* no connection goes elsewhere.
    """

    def __init__(self, addresses: PublicAddresses | None = None) -> None:
        self._addresses = addresses
        super().__init__()

    def open_blocking(self) -> httpx2.HTTPTransport:
        """A new pool for blocking calls."""
        from moorline.calls.sockets import clamped_transport

        return clamped_transport(tls(), _limits(), self._addresses)

    def open_async(self) -> httpx2.AsyncHTTPTransport:
        """A new pool for the running loop."""
        from moorline.calls.async_sockets import async_transport

        return async_transport(tls(), _limits(), self._addresses)


class _Pool(Generic[L]):
    """A loop's pool. The loop finalises its asynchronous generators when it shuts down, and one of them closes the
    pool.
    """

    __slots__ = ("_keeper", "transport")

    def __init__(self, transport: L) -> None:
        self.transport = transport
        self._keeper: AsyncGenerator[None] | None = None

    async def watch(self, closed: Callable[[], object]) -> None:
        self._keeper = _keep(self.transport, closed)
        await anext(self._keeper)

    async def close(self) -> None:
        if self._keeper is not None:
            await self._keeper.aclose()


async def _keep(transport: _ClosedAsync, closed: Callable[[], object]) -> AsyncGenerator[None]:
    try:
        yield
    finally:
        closed()
        await transport.aclose()


_all: weakref.WeakSet[Pools[Any, Any]] = weakref.WeakSet()


def _close_all() -> None:
    for clients in list(_all):
        clients.close()


def _forget_all() -> None:
    for clients in list(_all):
        clients.forget()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_forget_all)
