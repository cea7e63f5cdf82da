"""The network of the asynchronous pools: httpx2's own, which leaves no socket behind when a task is cancelled.

httpcore2 2.16 closes a connection whose TLS handshake fails, but not one whose handshake is cancelled: each deadline
that rings there would leave a socket open until the garbage collector finds it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Iterable
from typing import Any

import httpcore2
import httpx2

from moorline.calls.addresses import PublicAddresses
from moorline.calls.resolving import RESOLVER, system
from moorline.calls.sockets import network_errors

__all__ = ["CancelSafeBackend", "PinnedBackend", "async_transport"]


def async_transport(
    context: ssl.SSLContext, limits: httpx2.Limits, addresses: PublicAddresses | None = None
) -> httpx2.AsyncHTTPTransport:
    """httpx2's asynchronous transport on a network that is safe to cancel, and that goes to *addresses* only."""
    backend = httpcore2.AnyIOBackend() if addresses is None else PinnedBackend(addresses)
    transport = httpx2.AsyncHTTPTransport(verify=context, limits=limits)
    transport._pool = httpcore2.AsyncConnectionPool(  # noqa: SLF001 (there is no public way to give it a backend)
        ssl_context=context,
        max_connections=limits.max_connections,
        max_keepalive_connections=limits.max_keepalive_connections,
        keepalive_expiry=limits.keepalive_expiry,
        network_backend=CancelSafeBackend(backend),
    )
    return transport


class _Unencrypted(httpcore2.AsyncNetworkStream):
    """A connection before TLS; reading and writing are the inner stream's own methods, so that they cost no more."""

    def __init__(self, inner: httpcore2.AsyncNetworkStream) -> None:
        self._inner = inner
        self.read = inner.read  # type: ignore[method-assign]
        self.write = inner.write  # type: ignore[method-assign]
        self.aclose = inner.aclose  # type: ignore[method-assign]
        self.get_extra_info = inner.get_extra_info  # type: ignore[method-assign]

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.AsyncNetworkStream:
        """The same connection with TLS; closed when the handshake is cancelled."""
        try:
            return await self._inner.start_tls(ssl_context, server_hostname, timeout)
        except asyncio.CancelledError:
            with contextlib.suppress(asyncio.CancelledError, OSError):  # the first cancellation is raised below
                await self._inner.aclose()
            raise


class CancelSafeBackend(httpcore2.AsyncNetworkBackend):
    """Opens connections by *inner*."""

    def __init__(self, inner: httpcore2.AsyncNetworkBackend) -> None:
        self._inner = inner

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """A connection to *host*."""
        return _Unencrypted(await self._inner.connect_tcp(host, port, timeout, local_address, socket_options))

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore2.AsyncNetworkStream:
        """A connection to a Unix socket."""
        return await self._inner.connect_unix_socket(path, timeout, socket_options)

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await self._inner.sleep(seconds)


class PinnedBackend(httpcore2.AsyncNetworkBackend):
    """Opens connections on the loop: resolves the name once, checks every address, and connects to one of these."""

    def __init__(self, addresses: PublicAddresses) -> None:
        self._addresses = addresses
        self._ask = addresses.resolve or system
        self._backend = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """A connection to the first address that answers. Raises InvalidRequest for one that must not be called."""
        self._addresses.check_host(host, port)
        with network_errors(httpcore2.ConnectTimeout, httpcore2.ConnectError):
            async with asyncio.timeout(timeout):
                found = await RESOLVER.resolve_async(host, port, self._ask)
        failure: Exception = httpcore2.ConnectError("the name has no address")
        for text in self._addresses.checked(host, found):
            try:
                return await self._backend.connect_tcp(text, port, timeout, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
        raise failure
