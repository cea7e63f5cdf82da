"""The wire of aiohttp, for the event loop; aiohttp has no blocking client. Its C parser makes it several times as fast
as httpx2's where many calls are under way. Facts are those of aiohttp 3.14's own source.
"""

from __future__ import annotations

import asyncio
import io
from functools import lru_cache, partial
from typing import Any, Final, NoReturn

import aiohttp
import yarl
from aiohttp.client_proto import ResponseHandler

from moorline import redaction
from moorline.calls.clients import MAX_CONNECTIONS, Pools, PoolUnusable, tls
from moorline.calls.collecting import Collector, gathered, joined
from moorline.calls.effects import Expired
from moorline.calls.exchange import Exchange
from moorline.calls.sending import ServiceRequest
from moorline.calls.timer import Timer
from moorline.errors import AttemptTimeout, BadAnswer, CallError, ConnectFailed, ConnectionLost, InvalidRequest

__all__ = ["AiohttpPools", "AiohttpWire"]

_NOT_OURS: Final = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")
_SOONER: Final = 0.9  # of the attempt's time: a connection that takes longer is known never to have carried anything
_LARGE: Final = 1 << 18
_UNSENDABLE: Final = (aiohttp.InvalidURL, ValueError, TypeError)
_UNCONNECTED: Final = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
_FAILURES: Final = (aiohttp.ClientError, OSError, *_UNSENDABLE)


class AiohttpPools(Pools[Any, "AiohttpWire"]):
    """The connections of one owner."""

    def open_blocking(self) -> NoReturn:
        """There is none."""
        raise PoolUnusable("aiohttp has no blocking client")

    def open_async(self) -> AiohttpWire:
        """For the running loop."""
        return AiohttpWire()


@lru_cache(maxsize=256)
def _url(text: str) -> yarl.URL:
    return yarl.URL(text, encoded=True)


class _Connection(ResponseHandler):
    """A connection that is given up at once: aiohttp would wait for the peer to take the rest of what was written, and
    one that has stopped reading never does.
    """

    def close(self) -> None:
        """Close it."""
        transport = self.transport
        if transport is not None and transport.get_write_buffer_size():
            transport.abort()
        super().close()


class AiohttpWire:
    """The wire of one event loop: no redirects, proxies, cookies or second tries of its own, nothing decoded."""

    __slots__ = ("_places", "_session")

    def __init__(self) -> None:
        connector = aiohttp.TCPConnector(limit=0, ssl=tls())
        made: Any = partial(_Connection, loop=asyncio.get_running_loop())
        connector._factory = made  # noqa: SLF001 (as below)
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=_NOT_OURS,
            auto_decompress=False,
            trust_env=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
        )
        # A GET on a connection that turns out to be closed would be sent again behind the back of budget and breaker.
        self._session._retry_connection = False  # noqa: SLF001 (there is no public way)
        self._places = asyncio.Semaphore(MAX_CONNECTIONS)

    async def send(self, request: ServiceRequest, timeout: float | None) -> Exchange:
        """The answer with its body."""
        placed = False
        try:
            with Timer(timeout):
                async with self._places:
                    placed = True
                    return await self._send(request, timeout)
        except TimeoutError:
            raise Expired(sent=placed, in_pool=not placed) from None

    async def _send(self, request: ServiceRequest, timeout: float | None) -> Exchange:
        collector = None
        try:
            async with self._session.request(
                request.method,
                _url(request.url),
                headers=request.headers,
                data=_data(request.body),
                allow_redirects=False,
                timeout=_patience(timeout),
            ) as response:
                # From the bytes, as httpx2 reads them: aiohttp's own text may hold surrogates, which nothing can store.
                headers = joined(response.raw_headers)
                collector = Collector(request, response.status, headers.get("content-length"))
                content = response.content
                while part := await content.readany():
                    collector.add(part)
        except _FAILURES as error:
            raise _translated(request, error, in_body=collector is not None) from None
        return gathered(request, collector, headers)

    async def discard(self, answer: Exchange) -> None:
        """Nothing is left open."""

    async def aclose(self) -> None:
        """Close the connections."""
        await self._session.close()


def _data(body: bytes | None) -> bytes | io.BytesIO | None:
    """A large body in pieces: aiohttp would write it in one go, in which the loop does nothing else."""
    return io.BytesIO(body) if body is not None and len(body) > _LARGE else body


@lru_cache(maxsize=64)
def _patience(timeout: float | None) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=None, sock_connect=None if timeout is None else timeout * _SOONER)


def _translated(request: ServiceRequest, error: Exception, *, in_body: bool) -> CallError:
    """What the error means. What aiohttp says of an answer may hold the URL, and that a key: the name must do."""
    said = ""
    if isinstance(error, (OSError, aiohttp.ClientPayloadError)) and "://" not in str(error):
        said = redaction.text(" ".join(str(error).split()))[:200]
    message = f"{type(error).__name__}: {said}" if said else type(error).__name__
    if isinstance(error, _UNCONNECTED):
        return ConnectFailed(f"could not connect ({message})")  # a refused certificate is a ValueError as well
    if isinstance(error, _UNSENDABLE):
        request.refused()
        return InvalidRequest(f"the request cannot be built ({type(error).__name__})", outcome="not_sent")
    if isinstance(error, TimeoutError):
        return AttemptTimeout(f"no complete answer in time ({message})")
    if in_body:
        return BadAnswer(f"the answer is truncated ({message})", retryable=True)
    return ConnectionLost(f"the connection broke ({message})")
