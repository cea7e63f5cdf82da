"""moorline under ``httpx`` 0.28, for SDKs that have not moved to httpx2 (squareup and others made with Fern, svix):
``httpx.Client(transport=Transport(Policy(deadline=5), name="square"))``, and ``AsyncTransport`` on the loop.

What gives no response raises one of :mod:`moorline.errors` that is also httpx's exception of that kind; so does a 429
that is given up (an ``HTTPStatusError`` with its ``response``). All other statuses are responses, as ever. The client
follows redirects above its transport, so each hop is a call of its own; ``moorline.deadline`` bounds them together.
"""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

import httpx

from moorline.calls.adapters.arguments import checked
from moorline.calls.adapters.doubles import refuse_doubles
from moorline.calls.adapters.duals import as_theirs
from moorline.calls.adapters.foreign import SMALL, Foreign, Reply, is_idempotent, said
from moorline.calls.adapters.httpcore_pools import Marks, clamp, is_full, mend, tidy
from moorline.calls.adapters.httpx_bodies import WIRE_ERRORS, AsyncBody, Body
from moorline.calls.drivers import drive, drive_async
from moorline.calls.effects import POOL, Expired
from moorline.calls.engine import Pipeline
from moorline.calls.guards import Guards
from moorline.calls.hosts import guards_by_host
from moorline.calls.timer import Timer
from moorline.calls.watching import Watch
from moorline.calls.wires import timeouts, unprocessed
from moorline.errors import (
    AttemptTimeout,
    BadAnswer,
    CallError,
    ConfigurationError,
    ConnectFailed,
    ConnectionLost,
    DeadlineExceeded,
    InvalidRequest,
    RateLimited,
)
from moorline.policies.policy import Policy

__all__ = ["AsyncTransport", "Transport"]

_NOT_SENT: Final = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
    httpx.InvalidURL,
)
_ROUNDING: Final = 0.002  # a socket's timeout is counted in milliseconds


class _Base:
    """What both colours share."""

    def __init__(
        self,
        policy: Policy | None = None,
        *,
        name: str | None = None,
        idempotency_header: str = "Idempotency-Key",
        statuses: bool = False,
        wire: Any = None,
        guards: Guards | None = None,
    ) -> None:
        kind = f"httpx.{type(self).__name__}"
        self._policy, self._guards = checked(kind, policy, name, guards)
        self._name = name
        self._key_header = idempotency_header
        self._statuses = statuses
        needed = "handle_async_request" if isinstance(self, httpx.AsyncBaseTransport) else "handle_request"
        if wire is not None and not hasattr(wire, needed):
            raise ConfigurationError(f"{kind}.wire must be an httpx transport with {needed}, not {type(wire).__name__}")
        if wire is not None:
            refuse_doubles(wire)
        self._wire = wire
        self._hosts = guards_by_host(self._guards, self._policy)

    def _context(self, request: httpx.Request) -> _Context:
        name = self._name or request.url.netloc.decode("ascii") or "http"
        return _Context(
            request,
            name=name,
            guard=self._hosts[name],
            policy=self._policy,
            guards=self._guards,
            key_header=self._key_header,
            blocking=isinstance(self, httpx.BaseTransport),
            statuses=self._statuses,
            wire=self._wire,
        )

    def __repr__(self) -> str:
        return f"<moorline httpx.{type(self).__name__} {self._name or 'by host'!r}>"


class Transport(_Base, httpx.BaseTransport):
    """The pipeline for ``httpx.Client``.

    *name* shares breaker, limits and budget with all that use the same name; without one, each host has its own.
    *idempotency_header* is the header whose presence makes a POST safe to repeat. With *statuses* a 429 that is given
    up is a response as well: for SDKs that raise their own errors for statuses. *wire* is the transport underneath
    (httpx's own by default).

    Raises ConfigurationError naming the argument.
    """

    def __init__(self, policy: Policy | None = None, **options: Any) -> None:
        super().__init__(policy, **options)
        self._wire = self._wire or httpx.HTTPTransport()
        clamp(self._wire)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send *request* through the pipeline. Raises CallError, which is also an httpx.HTTPError."""
        context = self._context(request)
        try:
            response: httpx.Response = drive(Pipeline(context).run(), _Wire(self._wire), context.clock).response
        finally:
            context.restore()
        return response

    def close(self) -> None:
        """Close the wire."""
        self._wire.close()


class AsyncTransport(_Base, httpx.AsyncBaseTransport):
    """The pipeline for ``httpx.AsyncClient``; as Transport."""

    def __init__(self, policy: Policy | None = None, **options: Any) -> None:
        super().__init__(policy, **options)
        self._wire = self._wire or httpx.AsyncHTTPTransport()
        tidy(self._wire)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send *request* through the pipeline. Raises CallError, which is also an httpx.HTTPError."""
        context = self._context(request)
        wire = _AsyncWire(self._wire)
        try:
            response: httpx.Response = (await drive_async(Pipeline(context).run(), wire, context.clock)).response
        finally:
            context.restore()
        return response

    async def aclose(self) -> None:
        """Close the wire."""
        await self._wire.aclose()


class _OneBody(httpx.AsyncByteStream, httpx.SyncByteStream):
    """A one-time stream that remembers being read from: then it is spent."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.touched = False

    def __iter__(self) -> Iterator[bytes]:
        self.touched = True
        yield from self._stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self.touched = True
        async for part in self._stream:
            yield part


class _Context(Foreign):
    """One request of a client."""

    __slots__ = ("_blocking", "_extensions", "_refused", "_stream", "_wire", "marks", "sent")

    def __init__(self, request: httpx.Request, *, key_header: str, blocking: bool, wire: Any, **given: Any) -> None:
        idempotent = is_idempotent(request.method)
        key = None if idempotent else request.headers.get(key_header)
        super().__init__(operation=request.method, idempotent=idempotent, key=key, **given)
        self.sent = request
        self._blocking = blocking
        self._wire = wire
        self.marks = Marks({})
        self._extensions = request.extensions
        self._stream: Any = request.stream
        self._refused: httpx.Response | None = None
        if not isinstance(self._stream, httpx.ByteStream):
            request.stream = _OneBody(self._stream)

    @property
    def replayable(self) -> bool:
        """Whether the body can be sent again: a one-time stream only before it was begun."""
        return not getattr(self.sent.stream, "touched", False)

    def begin(self, seconds: float | None) -> httpx.Request:
        """The request of the next attempt, whose timeouts the wire reads from its own extensions."""
        given = self._extensions.get("timeout") or {}
        self.marks = Marks(given if seconds is None else timeouts(time.monotonic() + seconds, given))
        self.sent.extensions = {**self._extensions, "timeout": self.marks}
        return self.sent

    def restore(self) -> None:
        """Give the request back as it came."""
        self.sent.extensions = self._extensions
        self.sent.stream = self._stream

    def judge(self, answer: Reply) -> CallError | None:
        """As all do; the answer of a 429 is kept for its exception."""
        error = super().judge(answer)
        if isinstance(error, RateLimited):
            self._refused = answer.response
        return error

    def held(self, answer: Reply, watch: Watch) -> bool:
        """The body is the client's to read."""
        response: httpx.Response = answer.response
        if response.is_stream_consumed:
            self.marks.alive = False
            return False
        if self._blocking:
            assert isinstance(response.stream, httpx.SyncByteStream)
            left = watch.left()
            if left is not None:  # httpcore looks at the timeouts of a body when it begins
                self.marks.update(timeouts(time.monotonic() + left, self._extensions.get("timeout")))
            response.stream = Body(response.stream, watch)
        else:
            response.stream = AsyncBody(response.stream, watch, self.marks, self._wire)
        return True

    def translated(self, error: Exception, *, in_body: bool = False) -> CallError:
        """What an exception of httpx means."""
        if isinstance(error, httpx.PoolTimeout):
            made: CallError = ConnectFailed("no free connection in the pool", code=POOL)
        elif isinstance(error, _NOT_SENT):
            made = ConnectFailed(f"could not connect ({said(error)})")
        elif isinstance(error, httpx.LocalProtocolError):
            made = InvalidRequest(f"the request cannot be sent ({said(error)})", outcome="not_sent")
        elif isinstance(error, (httpx.TimeoutException, TimeoutError)):
            made = AttemptTimeout(f"no complete answer in time ({said(error)})")
        elif not in_body and unprocessed(error):
            made = ConnectionLost(f"the service did not process it ({said(error)})", outcome="not_sent")
        elif in_body:
            made = BadAnswer(f"the answer is truncated ({said(error)})", retryable=True)
        else:
            made = ConnectionLost(f"the connection broke ({said(error)})")
        made.__cause__ = error
        return made

    def dressed(self, error: CallError) -> CallError:
        """The error as httpx's own."""
        if isinstance(error, RateLimited) and error.status is not None and self._refused is not None:
            return as_theirs(error, httpx.HTTPStatusError, _request=self.sent, response=self._refused)
        return as_theirs(error, _theirs(error), _request=self.sent)


def _theirs(error: CallError) -> type[Exception]:
    cause = error.__cause__
    if isinstance(error, ConnectFailed):
        if error.code == POOL:
            return httpx.PoolTimeout
        timed_out = cause is None or isinstance(cause, httpx.TimeoutException)
        return httpx.ConnectTimeout if timed_out else httpx.ConnectError
    if isinstance(error, (DeadlineExceeded, AttemptTimeout)) or isinstance(cause, AttemptTimeout):
        return httpx.ReadTimeout
    if isinstance(error, InvalidRequest):
        return httpx.LocalProtocolError
    lost = cause if isinstance(cause, ConnectionLost) else error
    if isinstance(error, BadAnswer) or isinstance(lost.__cause__, httpx.RemoteProtocolError):
        return httpx.RemoteProtocolError
    if isinstance(lost, ConnectionLost):
        return httpx.ReadError
    return httpx.TransportError


def _is_small(response: httpx.Response) -> bool:
    declared = response.headers.get("content-length", "")
    return bool(declared.isdigit() and int(declared[:18]) <= SMALL)


class _Wire:
    """Sends through a blocking transport; the body of the answer stays to be read."""

    __slots__ = ("_transport",)

    def __init__(self, transport: httpx.BaseTransport) -> None:
        self._transport = transport

    def send(self, context: _Context, timeout: float | None) -> Reply:
        at = math.inf if timeout is None else time.monotonic() + timeout
        try:
            response = self._transport.handle_request(context.begin(timeout))
        except WIRE_ERRORS as error:
            made = context.translated(error)
            if isinstance(error, httpx.TimeoutException) and time.monotonic() >= at - _ROUNDING:
                raise Expired(sent=not isinstance(made, ConnectFailed), in_pool=made.code == POOL) from error
            raise made from error
        response.request = context.sent
        return Reply(response, response.status_code, response.headers)

    def discard(self, reply: Reply) -> None:
        """Read what is small, so that the connection stays, and close the rest."""
        response: httpx.Response = reply.response
        try:
            if _is_small(response):
                response.read()
        except (*WIRE_ERRORS, RuntimeError):  # it is thrown away in any case
            pass
        finally:
            response.close()


class _AsyncWire:
    """Sends through an async transport; the body of the answer stays to be read."""

    __slots__ = ("_transport",)

    def __init__(self, transport: httpx.AsyncBaseTransport) -> None:
        self._transport = transport

    async def send(self, context: _Context, timeout: float | None) -> Reply:
        if is_full(self._transport):
            await mend(self._transport)
        request = context.begin(None)  # our own timer ends all waits
        marks = context.marks
        timer = Timer(timeout)
        try:
            with timer:
                response = await self._transport.handle_async_request(request)
        except BaseException as error:
            marks.alive = False
            await mend(self._transport)
            if not isinstance(error, WIRE_ERRORS):
                raise
            if timer.expired and isinstance(error, TimeoutError):
                sent = marks.written or not isinstance(self._transport, httpx.AsyncHTTPTransport)
                raise Expired(sent=sent, in_pool=marks.in_pool) from None
            raise context.translated(error) from error
        response.request = request
        return Reply(response, response.status_code, response.headers)

    async def discard(self, reply: Reply) -> None:
        """Read what is small, so that the connection stays, and close the rest."""
        response: httpx.Response = reply.response
        try:
            if _is_small(response):
                await response.aread()
        except (*WIRE_ERRORS, RuntimeError):  # it is thrown away in any case
            pass
        finally:
            await response.aclose()
