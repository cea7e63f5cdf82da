"""httpx 0.28's connections under a deadline, and its pool mended after cancellations.

Blocking: httpcore 1.0.9 times each read by itself; here each wait is clamped to what remains (see ``sockets.py``,
which does this for httpcore2). On the loop: a request that is cancelled while it connects leaves its slot of the pool
taken for good (encode/httpcore#1093, #1099; encode/httpx#3782), and every deadline cancels. ``mend`` finds the
connections that no request holds any longer, and gives their slots back.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterable
from typing import Any, Final

import httpcore

from moorline.calls.resolving import RESOLVER
from moorline.calls.wires import Phases, Until

__all__ = ["Marks", "clamp", "is_full", "mend", "tidy"]

_SLICE: Final = 16_384  # bytes that are written under one timeout


class Marks(Phases):
    """The timeouts of one attempt, by which its request is known in the pool; *alive* until its answer is over."""

    __slots__ = ("alive",)

    def __init__(self, given: dict[str, float | None]) -> None:
        super().__init__(given)
        self.alive = True


def is_full(transport: Any) -> bool:
    """Whether the next request may have to wait for a connection of *transport* (an AsyncHTTPTransport of httpx)."""
    pool = getattr(transport, "_pool", None)
    connections = getattr(pool, "_connections", None)
    most = getattr(pool, "_max_connections", None)
    return connections is not None and most is not None and len(connections) >= most


async def mend(transport: Any) -> int:
    """Free the slots of *transport* that nobody holds; how many there were."""
    pool = getattr(transport, "_pool", None)
    connections, requests = getattr(pool, "_connections", None), getattr(pool, "_requests", None)
    if pool is None or connections is None or requests is None:
        return 0
    for request in [each for each in requests if not _is_alive(each)]:
        requests.remove(request)
    held = {id(each.connection) for each in requests}
    lost = [each for each in connections if id(each) not in held and not each.is_idle() and not each.is_closed()]
    for connection in lost:
        connections.remove(connection)
    if lost:
        freed = pool._assign_requests_to_connections()  # noqa: SLF001 (those who wait get the slots)
        for connection in (*lost, *freed):
            await connection.aclose()
    return len(lost)


def _is_alive(request: Any) -> bool:
    """A request that is not ours is for others to judge."""
    marks = request.request.extensions.get("timeout")
    return marks.alive if isinstance(marks, Marks) else True


def tidy(transport: Any) -> None:
    """Have *transport* close what it was connecting when it was cancelled."""
    pool = getattr(transport, "_pool", None)
    if isinstance(getattr(pool, "_network_backend", None), httpcore.AsyncNetworkBackend):
        pool._network_backend = _TidyBackend(pool._network_backend)  # type: ignore[union-attr]  # noqa: SLF001


class _TidyStream(httpcore.AsyncNetworkStream):
    """A plain connection that does not outlive a handshake that failed or was cancelled."""

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return await self._stream.read(max_bytes, timeout)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        try:
            return await self._stream.start_tls(ssl_context, server_hostname, timeout)
        except BaseException:
            await self._stream.aclose()
            raise

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _TidyBackend(httpcore.AsyncNetworkBackend):
    """Opens connections that are tidy."""

    def __init__(self, backend: httpcore.AsyncNetworkBackend) -> None:
        self._backend = backend

    async def connect_tcp(self, *args: Any, **options: Any) -> httpcore.AsyncNetworkStream:
        return _TidyStream(await self._backend.connect_tcp(*args, **options))

    async def connect_unix_socket(self, *args: Any, **options: Any) -> httpcore.AsyncNetworkStream:
        return _TidyStream(await self._backend.connect_unix_socket(*args, **options))

    async def sleep(self, seconds: float) -> None:
        await self._backend.sleep(seconds)


def clamp(transport: Any) -> None:
    """Have *transport* (an HTTPTransport of httpx) look at ``Until`` timeouts before each wait."""
    pool = getattr(transport, "_pool", None)
    if isinstance(getattr(pool, "_network_backend", None), httpcore.NetworkBackend):
        pool._network_backend = _ClampedBackend(pool._network_backend)  # type: ignore[union-attr]  # noqa: SLF001


def _left(timeout: float | None, late: type[Exception]) -> float | None:
    if not isinstance(timeout, Until):
        return timeout
    left = min(timeout.at - time.monotonic(), float(timeout))
    if left <= 0:
        raise late("timed out")
    return left


class _ClampedStream(httpcore.NetworkStream):
    """A connection, plain or TLS."""

    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for start in range(0, len(buffer), _SLICE):
            self._stream.write(buffer[start : start + _SLICE], _left(timeout, httpcore.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        left = _left(timeout, httpcore.ConnectTimeout)
        return _ClampedStream(self._stream.start_tls(ssl_context, server_hostname, left))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _ClampedBackend(httpcore.NetworkBackend):
    """Opens connections; the time for the name and all addresses of a host together is clamped."""

    def __init__(self, backend: httpcore.NetworkBackend) -> None:
        self._backend = backend

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        try:
            found = RESOLVER.resolve(host, port, _left(timeout, httpcore.ConnectTimeout))
        except TimeoutError as error:
            raise httpcore.ConnectTimeout(f"{host} was not resolved in time") from error
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from error
        failure: Exception = httpcore.ConnectError("the name has no address")
        for address in found:
            left = _left(timeout, httpcore.ConnectTimeout)
            try:
                stream = self._backend.connect_tcp(address, port, left, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
            else:
                return _ClampedStream(stream)
        raise failure

    def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore.NetworkStream:
        left = _left(timeout, httpcore.ConnectTimeout)
        return _ClampedStream(self._backend.connect_unix_socket(path, left, socket_options))

    def sleep(self, seconds: float) -> None:
        self._backend.sleep(seconds)
