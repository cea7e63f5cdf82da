"""The wire of pyreqwest (Rust's reqwest): several times as fast as httpx2's where many calls are under way.

Facts are those of pyreqwest 0.15, found against servers that misbehave: a connection that the peer closes before it
answers is a ConnectError too, so only the cause "client error (Connect)" means that nothing was sent; the wait for a
place in its pool is not inside of a request's timeout, so that the places are counted here.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from functools import lru_cache
from typing import Any, Final, NoReturn

from pyreqwest.client import Client, ClientBuilder, SyncClient, SyncClientBuilder
from pyreqwest.exceptions import (
    BodyDecodeError,
    BuilderError,
    ClientClosedError,
    NetworkError,
    PyreqwestError,
    ReadError,
    RequestTimeoutError,
)
from pyreqwest.http import Url

from moorline import redaction
from moorline.calls.clients import MAX_CONNECTIONS, Pools, PoolUnusable
from moorline.calls.collecting import Collector, gathered
from moorline.calls.effects import Expired
from moorline.calls.exchange import Exchange
from moorline.calls.sending import WITH_BODY, ServiceRequest
from moorline.calls.timer import Timer
from moorline.errors import AttemptTimeout, BadAnswer, CallError, ConnectFailed, ConnectionLost, InvalidRequest

__all__ = ["AsyncPyreqwestWire", "PyreqwestPools", "SyncPyreqwestWire"]

_NEVER_LEFT: Final = "client error (Connect)"
_CONNECT: Final = timedelta(seconds=5)  # an attempt that ends sooner does not know whether it was connected
_ROUNDING: Final = 0.002
_NO_TIME: Final = 0.001  # seconds; a timeout of nothing would be none
_LONGEST: Final = 86_400.0


def _set_up(builder: Any) -> Any:
    """As httpx2's transport is: no redirects, proxies or cookies of its own, HTTP/1.1, nothing decoded."""
    return (
        builder.follow_redirects(False)
        .no_proxy()
        .http1_only()
        .min_tls_version("TLSv1.2")
        .connect_timeout(_CONNECT)
        .gzip(False)
        .brotli(False)
        .zstd(False)
        .deflate(False)
        .pool_max_idle_per_host(MAX_CONNECTIONS)
    )


class PyreqwestPools(Pools["SyncPyreqwestWire", "AsyncPyreqwestWire"]):
    """The connections of one owner."""

    def open_blocking(self) -> SyncPyreqwestWire:
        """For blocking calls. Raises PoolUnusable in a forked child of a process that used pyreqwest."""
        try:
            return SyncPyreqwestWire(_set_up(SyncClientBuilder()).build())
        except RuntimeError as error:
            raise PoolUnusable(str(error)) from error

    def open_async(self) -> AsyncPyreqwestWire:
        """For the running loop. Raises PoolUnusable as ``open_blocking`` does."""
        try:
            return AsyncPyreqwestWire(_set_up(ClientBuilder()).build())
        except RuntimeError as error:
            raise PoolUnusable(str(error)) from error


@lru_cache(maxsize=256)
def _url(text: str) -> Url:
    """Read once: most calls go to a few addresses."""
    return Url(text)


def _builder(client: Any, request: ServiceRequest) -> Any:
    try:
        builder = client.request(request.method, _url(request.url)).headers(request.headers)
        if request.body:
            return builder.body_bytes(request.body)
        return builder.header("Content-Length", "0") if request.method in WITH_BODY else builder
    except (BuilderError, ValueError, TypeError) as error:
        _unbuildable(request, error)


def _unbuildable(request: ServiceRequest, error: Exception) -> NoReturn:
    request.refused()
    raise InvalidRequest(f"the request cannot be built ({type(error).__name__})", outcome="not_sent") from None


def _translated(request: ServiceRequest, error: PyreqwestError, *, in_body: bool) -> CallError:
    """What the error means. The first of its causes holds the URL, which may hold a key: it is left out."""
    causes = [str(one["message"]) for one in (getattr(error, "details", None) or {}).get("causes") or ()]
    said = redaction.text("; ".join(cause for cause in causes if "://" not in cause))[:200]
    message = f"{type(error).__name__}: {said}" if said else type(error).__name__
    if isinstance(error, BuilderError):
        request.refused()
        return InvalidRequest(f"the request cannot be built ({message})", outcome="not_sent")
    if _NEVER_LEFT in causes or isinstance(error, ClientClosedError):
        return ConnectFailed(f"could not connect ({message})")
    if isinstance(error, RequestTimeoutError):
        return AttemptTimeout(f"no complete answer in time ({message})")
    # The first 64 kB are read together with the head.
    if isinstance(error, BodyDecodeError) or (in_body and isinstance(error, (NetworkError, ReadError))):
        return BadAnswer(f"the answer is truncated ({message})", retryable=True)
    return ConnectionLost(f"the connection broke ({message})")


def _headers(response: Any) -> dict[str, str]:
    """The names are in lower case already; asked for all at once, which costs half of one by one."""
    try:
        headers: dict[str, Any] = response.headers.dict_multi_value()
    except ValueError:  # one of them is not ASCII, and pyreqwest has no way to tell its bytes
        return dict(_legible(response.headers))
    for name, value in headers.items():
        if type(value) is list:
            headers[name] = ", ".join(value)
    return headers


def _legible(headers: Any) -> Iterator[tuple[str, str]]:
    """The headers that can be read; the others are left out."""
    for name in set(headers.keys()):
        with contextlib.suppress(ValueError):
            yield name, ", ".join(headers.getall(name))


def _gone() -> ConnectFailed:
    """Pyreqwest closes a client in a thread of its own, and until that has run would still send."""
    return ConnectFailed("could not connect (the client was closed)")


class AsyncPyreqwestWire:
    """The wire of one event loop."""

    __slots__ = ("_client", "_closed", "_places")

    def __init__(self, client: Client) -> None:
        self._client = client
        self._closed = False
        self._places = asyncio.Semaphore(MAX_CONNECTIONS)

    async def send(self, request: ServiceRequest, timeout: float | None) -> Exchange:
        """The answer with its body."""
        if self._closed:
            raise _gone()
        builder, places = _builder(self._client, request), self._places
        placed = False
        collector = None
        try:
            with Timer(timeout):
                await places.acquire()
                placed = True
                try:
                    async with builder.build_streamed() as response:
                        headers = _headers(response)
                        collector = Collector(request, response.status, headers.get("content-length"))
                        reader = response.body_reader
                        while collector.size != collector.expected:
                            part = await reader.read_chunk()
                            if part is None:
                                break
                            collector.add(bytes(part))
                finally:
                    places.release()
        except TimeoutError:
            raise Expired(sent=placed, in_pool=not placed) from None
        except PyreqwestError as error:
            raise _translated(request, error, in_body=collector is not None) from None
        return gathered(request, collector, headers)

    async def discard(self, answer: Exchange) -> None:
        """Nothing is left open."""

    async def aclose(self) -> None:
        """Close the connections."""
        self._closed = True
        await self._client.close()


class SyncPyreqwestWire:
    """The wire of blocking calls. Ctrl-C is heeded when the attempt is over: the wait is inside of Rust."""

    __slots__ = ("_client", "_closed", "_places")

    def __init__(self, client: SyncClient) -> None:
        self._client = client
        self._closed = False
        self._places = threading.Semaphore(MAX_CONNECTIONS)

    def send(self, request: ServiceRequest, timeout: float | None) -> Exchange:
        """The answer with its body."""
        if self._closed:
            raise _gone()
        builder = _builder(self._client, request)
        at = None if timeout is None else time.monotonic() + timeout
        if not self._places.acquire(timeout=timeout):
            raise Expired(sent=False, in_pool=True)
        try:
            if at is not None:
                left = min(max(at - time.monotonic(), _NO_TIME), _LONGEST)
                builder = builder.timeout(timedelta(seconds=left))
            return self._send(request, builder, at)
        except CallError as error:
            if isinstance(error, (AttemptTimeout, ConnectFailed)) and _over(at):
                raise Expired(sent=isinstance(error, AttemptTimeout)) from error
            raise
        finally:
            self._places.release()

    def _send(self, request: ServiceRequest, builder: Any, at: float | None) -> Exchange:
        collector = None
        try:
            with builder.build_streamed() as response:
                headers = _headers(response)
                collector = Collector(request, response.status, headers.get("content-length"))
                reader = response.body_reader
                while collector.size != collector.expected:
                    part = reader.read_chunk()
                    if part is None:
                        break
                    collector.add(bytes(part))
                    if at is not None and time.monotonic() >= at:
                        raise Expired(sent=True)
        except PyreqwestError as error:
            raise _translated(request, error, in_body=collector is not None) from None
        return gathered(request, collector, headers)

    def discard(self, answer: Exchange) -> None:
        """Nothing is left open."""

    def close(self) -> None:
        """Close the connections."""
        self._closed = True
        self._client.close()


def _over(at: float | None) -> bool:
    return at is not None and time.monotonic() >= at - _ROUNDING
