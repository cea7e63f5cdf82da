"""A plain httpx2 request and its response, as the engine sees them, and the wires that carry them."""

from __future__ import annotations

import math
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, ClassVar, Final

import httpx2

from moorline.calls.dialects import RateLimitHeaders
from moorline.calls.effects import CallContext, Expired, Lease
from moorline.calls.exchange import IDEMPOTENT
from moorline.calls.faults import usual_request_id
from moorline.calls.guards import Guard
from moorline.calls.httpx_errors import as_httpx_error
from moorline.calls.timer import Timer
from moorline.calls.watching import Watch
from moorline.calls.wires import WIRE_ERRORS, Phases, raise_if_expired, raise_translated, timeouts
from moorline.clock import Clock
from moorline.errors import (
    Attempt,
    CallError,
    RateLimited,
    ServiceUnavailable,
)
from moorline.policies.policy import Policy

__all__ = ["LIMITS", "AsyncPlainWire", "PlainContext", "Seen", "SyncPlainWire", "restore"]

LIMITS: Final = RateLimitHeaders()
_SERVER_FAULTS: Final = frozenset({408, 425})
_SMALL: Final = 65_536  # a body up to this size is read to keep its connection


class Seen:
    """A response as the engine sees it."""

    __slots__ = ("response", "status")

    def __init__(self, response: httpx2.Response) -> None:
        self.response = response
        self.status = response.status_code

    @property
    def names(self) -> list[bytes]:
        """The names of the headers, in lower case. Most that are asked for are not there, which these tell ten times
        as fast as httpx2's own look-up.
        """
        return [name.lower() for name, _value in self.response.headers.raw]

    def header(self, name: str, default: str | None = None) -> str | None:
        """The value of a header, its name in lower case."""
        value: str | None = self.response.headers.get(name, default)
        return value


class _OneBody(httpx2.AsyncByteStream, httpx2.SyncByteStream):
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


class PlainContext(CallContext["PlainContext", Seen]):
    """One request of a plain client, which is its own view for the engine: the same httpx2 request for all attempts.

    *given* are the timeouts with which it came.
    """

    __slots__ = ("_spent", "given", "request_", "stream")

    # What all calls of a transport share stands on the class (see ``of_transport``), and not in each of them.
    limits = LIMITS
    retried = ()
    random = staticmethod(random.random)
    story = None
    cost = 1.0
    wrap: ClassVar[Any]  # makes the body that the caller reads, of a stream and its Watch

    def __init__(self, request: httpx2.Request, given: dict[str, float | None] | None) -> None:
        self.request_ = request
        self.given = given
        stream = self.stream = request.stream
        self._spent: _OneBody | None = None
        if type(stream) is not httpx2.ByteStream:
            self._spent = request.stream = _OneBody(stream)

    # These are asked for when something went wrong, or somebody watches.

    @property
    def operation(self) -> str:  # type: ignore[override]
        """The request's method."""
        return self.request_.method

    @property
    def idempotent(self) -> bool:  # type: ignore[override]
        """Whether the method says that a repeat is safe."""
        return self.request_.method in IDEMPOTENT

    @property
    def key(self) -> str | None:  # type: ignore[override]
        """The idempotency key that the request carries; it changes nothing for a GET."""
        found: str | None = None if self.idempotent else self.request_.headers.get("idempotency-key")
        return found

    @classmethod
    def of_transport(
        cls, wrap: Callable[[Any, Watch], Any], name: str, policy: Policy, guard: Guard, clock: Clock
    ) -> type[PlainContext]:
        """The class for the requests of one transport. *wrap* makes the body that its caller reads."""
        shared = {"service": name, "policy": policy, "guard": guard, "clock": clock, "wrap": staticmethod(wrap)}
        return type(cls.__name__, (cls,), {"__slots__": (), **shared})

    @property
    def replayable(self) -> bool:
        """Whether the body can be sent again: a one-time stream only before it was begun."""
        return self._spent is None or not self._spent.touched

    def restore(self) -> None:
        """Give the request back as it came."""
        request = self.request_
        if self._spent is not None:
            request.stream = self.stream
        restore(request.extensions, self.given)

    def clamp_body(self, deadline: float) -> None:
        """Let no read of the body last beyond *deadline*; httpcore2 looks at the timeouts anew when the body begins."""
        if math.isinf(deadline):
            self.restore()
        else:
            left = deadline - self.clock.monotonic()
            self.request_.extensions["timeout"] = timeouts(time.monotonic() + left, self.given)

    def request(self) -> PlainContext:
        """The same request again."""
        return self

    def judge(self, answer: Seen) -> CallError | None:
        """Limits and the service's own failures; all other statuses are answers."""
        status = answer.status
        if status < 400:
            return None
        if status == 429:
            return RateLimited("answered 429", status=status, request_id=usual_request_id(answer))
        if status >= 500 or status in _SERVER_FAULTS:
            return ServiceUnavailable(f"answered {status}", status=status, request_id=usual_request_id(answer))
        return None

    def succeeded(self, answer: Seen, lease: Lease, deadline: float, attempts: tuple[Attempt, ...]) -> Seen:
        """A response whose stream keeps the lease until it is read or closed."""
        if answer.response.is_stream_consumed:  # complete already: nothing is held
            lease.settle(worked=True, elapsed=attempts[-1].elapsed)
        else:
            self._watched(answer, Watch(self, answer, lease, deadline, attempts))
        return answer

    def unsuccessful(self, answer: Seen, error: CallError, deadline: float) -> Seen | None:
        """A plain client wants to see a 503 as a response; a 429 that is given up is raised."""
        if isinstance(error, RateLimited):
            return None
        if not answer.response.is_stream_consumed:
            self._watched(answer, Watch(self, answer, None, deadline, error.attempts))
        return answer

    def raised(self, error: CallError) -> CallError:
        """The error as httpx2's own."""
        return as_httpx_error(error, self.request_)

    def translated(self, error: Exception, *, in_body: bool = False) -> CallError:  # noqa: ARG002 (the same there)
        """What a failure of the wire means."""
        try:
            raise_translated(error)
        except CallError as translated:
            return translated

    def _watched(self, answer: Seen, watch: Watch) -> None:
        answer.response.stream = self.wrap(answer.response.stream, watch)


def restore(extensions: dict[str, Any], given: dict[str, float | None] | None) -> None:
    """Give a request the timeouts back with which it came."""
    if given is None:
        extensions.pop("timeout", None)
    else:
        extensions["timeout"] = given


class AsyncPlainWire:
    """Sends a plain request through an async transport; the body of the answer stays to be read.

    *marks* tells that the transport asks for the timeout of each phase when that begins (httpx2's own does), so that
    a timer that rings before the request is written knows that nothing was sent.
    """

    __slots__ = ("_marks", "_transport")

    def __init__(self, transport: httpx2.AsyncBaseTransport, *, marks: bool) -> None:
        self._transport = transport
        self._marks = marks

    async def send(self, context: PlainContext, timeout: float | None) -> Seen:
        """The answer, its body unread."""
        return Seen(await self.exchange(context.request_, context.given, timeout))

    async def exchange(
        self, request: httpx2.Request, given: dict[str, float | None] | None, timeout: float | None
    ) -> httpx2.Response:
        """The response, its body unread; *given* are the timeouts that came with the request."""
        phases = request.extensions["timeout"] = Phases(given or {})
        try:
            with Timer(timeout) as timer:
                return await self._transport.handle_async_request(request)
        except WIRE_ERRORS as error:
            if isinstance(error, TimeoutError) and timer.expired:
                raise Expired(sent=phases.written or not self._marks, in_pool=phases.in_pool) from None
            raise_translated(error)

    async def discard(self, seen: Seen) -> None:
        """Read what is small, so that the connection stays, and close the rest."""
        try:
            if _is_small(seen.response):
                await seen.response.aread()
        except (*WIRE_ERRORS, RuntimeError):  # it is thrown away in any case
            pass
        finally:
            await seen.response.aclose()


class SyncPlainWire:
    """The same, blocking."""

    __slots__ = ("_transport",)

    def __init__(self, transport: httpx2.BaseTransport) -> None:
        self._transport = transport

    def send(self, context: PlainContext, timeout: float | None) -> Seen:
        """The answer, its body unread."""
        return Seen(self.exchange(context.request_, context.given, timeout))

    def exchange(
        self, request: httpx2.Request, given: dict[str, float | None] | None, timeout: float | None
    ) -> httpx2.Response:
        """As ``AsyncPlainWire.exchange``."""
        at = None
        if timeout is not None:
            at = time.monotonic() + timeout
            request.extensions["timeout"] = timeouts(at, given)
        try:
            try:
                return self._transport.handle_request(request)
            except WIRE_ERRORS as error:
                raise_translated(error)
        except CallError as error:
            raise_if_expired(error, at)
            raise

    def discard(self, seen: Seen) -> None:
        """Read what is small, so that the connection stays, and close the rest."""
        try:
            if _is_small(seen.response):
                seen.response.read()
        except (*WIRE_ERRORS, RuntimeError):  # it is thrown away in any case
            pass
        finally:
            seen.response.close()


def _is_small(response: httpx2.Response) -> bool:
    declared = response.headers.get("content-length", "")
    return bool(declared.isdigit() and int(declared[:18]) <= _SMALL)
