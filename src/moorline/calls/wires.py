"""httpx2 transports under the engine, and their failures as our own errors. Imported at the first send, never
before.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator, Mapping
from functools import lru_cache
from typing import Any, Final, NoReturn

import httpx2

from moorline import redaction
from moorline.calls.collecting import Collector, Sliced, joined
from moorline.calls.effects import POOL, Expired
from moorline.calls.exchange import Exchange
from moorline.calls.sending import WITH_BODY, ServiceRequest
from moorline.calls.timer import Timer
from moorline.calls.upload import Reading, SourceFailed
from moorline.errors import (
    AttemptTimeout,
    BadAnswer,
    CallError,
    ConnectFailed,
    ConnectionLost,
    InvalidRequest,
)

__all__ = [
    "AsyncServiceWire",
    "Phases",
    "SyncServiceWire",
    "Until",
    "patient",
    "raise_translated",
    "timeouts",
    "unmoved",
    "unprocessed",
]

WIRE_ERRORS: Final = (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError, OSError)
_NOT_SENT: Final = (
    httpx2.ConnectError,
    httpx2.ConnectTimeout,
    httpx2.PoolTimeout,
    httpx2.ProxyError,
    httpx2.UnsupportedProtocol,
    httpx2.InvalidURL,
)
_PHASES: Final = ("connect", "read", "write", "pool")
_REFUSED_STREAM: Final = 7
_ROUNDING: Final = 0.002  # a socket's timeout is counted in milliseconds


class Until(float):
    """A timeout in seconds that also knows the moment (``time.monotonic``) at which it all must be over.

    httpx2 hands timeouts through to the socket unchanged; our own sockets (see ``sockets.py``) look at the moment
    before each wait, so that a peer which keeps sending a byte at a time cannot stretch the call. To other
    transports it is a float.
    """

    __slots__ = ("at",)
    at: float

    @classmethod
    def of(cls, at: float, now: float, most: float | None = None) -> Until:
        """The time until *at*, or *most* seconds if that is less."""
        left = max(at - now, 0.0)
        until = cls(left if most is None else min(left, most))
        until.at = at
        return until


class Phases(dict[str, float | None]):
    """The timeouts of a request on the loop, which also tell where it is: the transport asks for ``pool`` before it
    waits for a connection, and for ``connect``, ``write`` and ``read`` later. Our own timer ends all of these waits.
    """

    __slots__ = ("last",)

    def __init__(self, given: Mapping[str, float | None]) -> None:
        super().__init__(given)
        self.last = ""

    def get(self, phase: str, default: Any = None) -> Any:
        """The timeout of *phase*, which begins now."""
        self.last = phase
        return super().get(phase, default)

    @property
    def in_pool(self) -> bool:
        """Whether the request still waits for a connection."""
        return self.last == "pool"

    @property
    def written(self) -> bool:
        """Whether the request is on its way."""
        return self.last in ("write", "read")


def timeouts(at: float, given: dict[str, float | None] | None = None) -> dict[str, float | None]:
    """httpx2's four timeouts, none of them (nor all together) longer than until *at*."""
    now = time.monotonic()
    most = None
    if given:
        connect, most, write, pool = given.get("connect"), given.get("read"), given.get("write"), given.get("pool")
        if not connect == most == write == pool:  # mostly one for all
            return {phase: Until.of(at, now, given.get(phase)) for phase in _PHASES}
    left = at - now
    until = Until(left if most is None or left < most else most) if left > 0 else Until(0.0)
    until.at = at
    return {"connect": until, "read": until, "write": until, "pool": until}


def raise_translated(error: BaseException, *, in_body: bool = False) -> NoReturn:
    """Raise what an exception of the wire means: nothing left, time is up, or the connection broke."""
    kind = type(error).__name__
    said = redaction.text(" ".join(str(error).split()))[:200]
    message = f"{kind}: {said}" if said else kind
    raise _translated(error, message, in_body=in_body) from error


def _translated(error: BaseException, message: str, *, in_body: bool) -> CallError:
    if isinstance(error, httpx2.PoolTimeout):
        return ConnectFailed("no free connection in the pool", code=POOL)
    if isinstance(error, _NOT_SENT):
        return ConnectFailed(f"could not connect ({message})")
    if isinstance(error, httpx2.LocalProtocolError):
        return InvalidRequest(f"the request cannot be sent ({message})", outcome="not_sent")
    if isinstance(error, httpx2.TimeoutException):
        return AttemptTimeout(f"no complete answer in time ({message})")
    if not in_body and unprocessed(error):
        return ConnectionLost(f"the service did not process it ({message})", outcome="not_sent")
    if isinstance(error, httpx2.DecodingError):
        return BadAnswer(f"the answer cannot be decoded ({message})", retryable=True)
    if in_body:
        return BadAnswer(f"the answer is truncated ({message})", retryable=True)
    return ConnectionLost(f"the connection broke ({message})")


def unprocessed(error: BaseException) -> bool:
    """Whether *error*, of httpx2 or httpx, is the peer's word over HTTP/2 that it did nothing with the request: it
    refused the stream, or leaves the connection without having seen any (RFC 9113, 8.7 and 6.8).

    The pools themselves send again what came after the last stream that the peer saw. Where one had been seen, what
    they raise does not tell whether it was this one.
    """
    said = error.__cause__.args if error.__cause__ is not None else ()
    event = said[0] if said else None  # h2's, which httpcore2 2.16 and httpcore 1.0 hand on; h2 need not be there
    if getattr(event, "last_stream_id", None) == 0:
        return True
    return getattr(event, "error_code", None) == _REFUSED_STREAM and getattr(event, "remote_reset", False) is True


class _Body(httpx2.AsyncByteStream, httpx2.SyncByteStream):
    """The body of one attempt. Being read from means that the head of the request is out."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.touched = False

    def __iter__(self) -> Iterator[bytes]:
        self.touched = True
        if self._content:
            yield self._content

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self.touched = True
        if self._content:
            yield self._content

    async def aclose(self) -> None:
        """There is nothing to close."""


class _Parts(_Body):
    """A body that an Upload gives in parts."""

    def __init__(self, reading: Reading, at: float | None) -> None:
        super().__init__(b"")
        self._reading = reading
        self._at = at

    def _begin(self) -> None:
        """A pool of HTTP/2 begins anew where the peer left before it saw the request; of the source nothing is left."""
        if self.touched:
            raise ConnectionLost("the service did not process it (it left the connection)", outcome="not_sent")
        self.touched = True

    def __iter__(self) -> Iterator[bytes]:
        self._begin()
        for part in self._reading:
            if self._at is not None and time.monotonic() >= self._at:
                raise Expired(sent=True)
            yield part

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self._begin()
        async for part in self._reading:
            yield part

    def close(self) -> None:
        """Let the source go."""
        self._reading.close()

    async def aclose(self) -> None:
        """As ``close``, on the event loop."""
        await self._reading.aclose()


def _body_of(request: ServiceRequest, at: float | None, *, blocking: bool) -> _Body:
    if request.upload is None:
        return _Body(request.body or b"")
    return _Parts(request.upload.begin(blocking=blocking), at)


def _built(request: ServiceRequest, body: _Body, extensions: dict[str, Any]) -> httpx2.Request:
    try:
        url = _url(request.url)
        return httpx2.Request(request.method, url, headers=_headers(request, url), stream=body, extensions=extensions)
    except (httpx2.InvalidURL, UnicodeError, ValueError) as error:
        request.refused()
        raise InvalidRequest(f"the request cannot be built ({type(error).__name__})", outcome="not_sent") from error


@lru_cache(maxsize=256)
def _url(text: str) -> httpx2.URL:
    """Reading a URL costs more than all else that is done to a request, and most calls go to a few addresses."""
    return httpx2.URL(text)


def _headers(request: ServiceRequest, url: httpx2.URL) -> dict[str, str]:
    """The request's headers with those that HTTP itself wants, ``Host`` first, unless the caller set them."""
    given = request.headers
    names = {name.lower() for name in given}
    headers = given if "host" in names else {"Host": url.netloc.decode("ascii"), **given}
    if request.upload is not None:
        return {**headers, **_framing(request.upload.size)}
    if "content-length" not in names and (request.body or request.method in WITH_BODY):
        headers = {**headers, "Content-Length": str(len(request.body or b""))}
    return headers


def _framing(size: int | None) -> dict[str, str]:
    return {"Transfer-Encoding": "chunked"} if size is None else {"Content-Length": str(size)}


def _exchange(request: ServiceRequest, response: httpx2.Response, body: bytes) -> Exchange:
    return Exchange(response.status_code, joined(response.headers.raw), body, method=request.method, url=request.url)


def _opened(request: ServiceRequest, response: httpx2.Response) -> Exchange:
    exchange = _exchange(request, response, b"")
    exchange.open = response
    return exchange


def patient(seconds: float | None) -> dict[str, float | None]:
    """httpx2's timeouts for each step of a request whose bodies may take long; none where no *seconds* are given."""
    return {} if seconds is None else dict.fromkeys(_PHASES, seconds)


class AsyncServiceWire:
    """Sends a service's requests through an async httpx2 transport, and reads the whole answer within the attempt.

    *marks* tells that the transport reads the body only after the head is out (httpx2's own does), so that a timer
    that rings before knows that nothing was sent.
    """

    __slots__ = ("_marks", "_transport")

    def __init__(self, transport: httpx2.AsyncBaseTransport, *, marks: bool) -> None:
        self._transport = transport
        self._marks = marks

    async def send(self, request: ServiceRequest, timeout: float | None) -> Exchange:
        """The answer with its body."""
        phases = Phases(patient(request.patience))
        body = _body_of(request, None, blocking=False)
        try:
            built = _built(request, body, {"timeout": phases})
            with Timer(timeout):
                return await self._send(request, built)
        except TimeoutError:
            raise Expired(sent=body.touched or not self._marks, in_pool=phases.in_pool) from None
        except AttemptTimeout as error:
            unmoved(error, request.patience)
            raise
        except SourceFailed as failed:
            raise failed.error from None
        finally:
            if request.upload is not None:
                await body.aclose()

    async def _send(self, request: ServiceRequest, built: httpx2.Request) -> Exchange:
        try:
            response = await self._transport.handle_async_request(built)
        except InvalidRequest:  # of the address: another attempt would only ask the name server again
            request.refused()
            raise
        except WIRE_ERRORS as error:
            raise_translated(error)
        response.request = built
        if request.streamed and response.is_success:
            return _opened(request, response)
        try:
            collector = Collector(request, response.status_code, response.headers.get("content-length"))
            if "content-encoding" in response.headers:
                response.stream = Sliced(response.stream)
                parts: Any = response.aiter_bytes()
            else:
                parts = response.stream
            async for part in parts:
                collector.add(part)
        except WIRE_ERRORS as error:
            raise_translated(error, in_body=True)
        finally:
            await response.aclose()
        return _exchange(request, response, collector.body())

    async def discard(self, answer: Exchange) -> None:
        """Close what was not read."""
        if answer.open is not None:
            await answer.open.aclose()


class SyncServiceWire:
    """The same through a blocking transport; each wait on the socket ends when the attempt must."""

    __slots__ = ("_transport",)

    def __init__(self, transport: httpx2.BaseTransport) -> None:
        self._transport = transport

    def send(self, request: ServiceRequest, timeout: float | None) -> Exchange:
        """The answer with its body."""
        at = None if timeout is None else time.monotonic() + timeout
        waits = patient(request.patience)
        body = _body_of(request, at, blocking=True)
        try:
            built = _built(request, body, {"timeout": waits if at is None else timeouts(at, waits)})
            return self._send(request, built, at)
        except CallError as error:
            raise_if_expired(error, at)
            unmoved(error, request.patience)
            raise
        except SourceFailed as failed:
            raise failed.error from None
        finally:
            if request.upload is not None:
                body.close()

    def _send(self, request: ServiceRequest, built: httpx2.Request, at: float | None) -> Exchange:
        try:
            response = self._transport.handle_request(built)
        except InvalidRequest:
            request.refused()
            raise
        except WIRE_ERRORS as error:
            raise_translated(error)
        response.request = built
        if request.streamed and response.is_success:
            return _opened(request, response)
        try:
            collector = Collector(request, response.status_code, response.headers.get("content-length"))
            if "content-encoding" in response.headers:
                response.stream = Sliced(response.stream)
                parts: Any = response.iter_bytes()
            else:
                parts = response.stream
            for part in parts:
                collector.add(part)
                if at is not None and time.monotonic() >= at:
                    raise Expired(sent=True)
        except WIRE_ERRORS as error:
            raise_translated(error, in_body=True)
        finally:
            response.close()
        return _exchange(request, response, collector.body())

    def discard(self, answer: Exchange) -> None:
        """Close what was not read."""
        if answer.open is not None:
            answer.open.close()


def raise_if_expired(error: CallError, at: float | None) -> None:
    """Turn a timeout of the wire into Expired when the attempt's own time is over; a shorter one was the caller's."""
    if at is not None and isinstance(error.__cause__, httpx2.TimeoutException) and time.monotonic() >= at - _ROUNDING:
        raise Expired(sent=not isinstance(error, ConnectFailed), in_pool=error.code == POOL) from error.__cause__


def unmoved(error: CallError, patience: float | None) -> None:
    """Say of a wait of the wire that was too long how long it was."""
    if patience is not None and isinstance(error, AttemptTimeout):
        error.message = f"nothing moved for {patience:g} s"
