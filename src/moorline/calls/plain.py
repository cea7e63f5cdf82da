"""A plain httpx2 request and its response, as the engine sees them, and the wires that carry them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

import httpx2

from moorline.calls.bodies import Watch
from moorline.calls.dialects import RateLimitHeaders
from moorline.calls.effects import CallContext, Expired, Lease
from moorline.calls.exchange import IDEMPOTENT
from moorline.calls.guards import Guard
from moorline.calls.httpx_errors import as_httpx_error
from moorline.calls.timer import Timer
from moorline.calls.wires import WIRE_ERRORS, Phases, raise_if_expired, raise_translated, timeouts
from moorline.clock import Clock
from moorline.errors import (
    Attempt,
    CallError,
    DeadlineExceeded,
    DeadlineOutcomeUnknown,
    RateLimited,
    ServiceUnavailable,
)
from moorline.policies.policy import Policy

__all__ = ["AsyncPlainWire", "PlainContext", "Seen", "Sent", "SyncPlainWire"]

_LIMITS: Final = RateLimitHeaders()
_SERVER_FAULTS: Final = frozenset({408, 425})
_SMALL: Final = 65_536  # a body up to this size is read to keep its connection


class Seen:
    """A response as the engine sees it."""

    __slots__ = ("response", "status")

    def __init__(self, response: httpx2.Response) -> None:
        self.response = response
        self.status = response.status_code

    def header(self, name: str, default: str | None = None) -> str | None:
        """The value of a header."""
        value: str | None = self.response.headers.get(name, default)
        return value


class _OneBody(httpx2.AsyncByteStream, httpx2.SyncByteStream):
    """A request's stream that remembers being read from: the head of the request is out, and a one-time stream is
    spent.
    """

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


class Sent:
    """A request as the engine sees it: the same httpx2 request for all attempts, its stream wrapped anew for each."""

    __slots__ = ("body", "given", "request", "stream", "used")

    def __init__(self, request: httpx2.Request) -> None:
        self.request = request
        self.stream = request.stream
        self.given = request.extensions.get("timeout")
        self.body = _OneBody(self.stream)
        self.used = False

    def begin(self) -> None:
        """Prepare the next attempt."""
        if not self.used:
            self.body = _OneBody(self.stream)
            self.request.stream = self.body

    @property
    def replayable(self) -> bool:
        """Whether the body can be sent again: a one-time stream only before it was begun."""
        self.used = self.used or (self.body.touched and not isinstance(self.stream, httpx2.ByteStream))
        return not self.used

    def restore(self) -> None:
        """Give the request back as it came."""
        self.request.stream = self.stream
        self.restore_timeout()

    def restore_timeout(self) -> None:
        """Give the request its own timeouts back."""
        if self.given is not None:
            self.request.extensions["timeout"] = self.given
        else:
            self.request.extensions.pop("timeout", None)


class PlainContext(CallContext[Sent, Seen]):
    """One request of a plain client."""

    __slots__ = ("_sent", "_wrap")

    def __init__(self, sent: Sent, wrap: Any, name: str, policy: Policy, guard: Guard, clock: Clock) -> None:
        request = sent.request
        idempotent = request.method in IDEMPOTENT
        super().__init__(
            service=name,
            operation=request.method,
            policy=policy,
            guard=guard,
            limits=_LIMITS,
            idempotent=idempotent,
            key=None if idempotent else request.headers.get("idempotency-key"),  # a key changes nothing for a GET
            clock=clock,
        )
        self._sent = sent
        self._wrap = wrap

    def request(self) -> Sent:
        """The same request again."""
        self._sent.begin()
        return self._sent

    def judge(self, answer: Seen) -> CallError | None:
        """Limits and the service's own failures; all other statuses are answers."""
        status = answer.status
        if status == 429:
            return RateLimited("answered 429", status=status)
        if status >= 500 or status in _SERVER_FAULTS:
            return ServiceUnavailable(f"answered {status}", status=status)
        return None

    def succeeded(self, answer: Seen, lease: Lease, deadline: float, attempts: tuple[Attempt, ...]) -> Seen:  # noqa: ARG002
        """A response whose stream keeps the lease until it is read or closed."""
        self._stream(answer, lease, deadline)
        return answer

    def unsuccessful(self, answer: Seen, error: CallError, deadline: float) -> Seen | None:
        """A plain client wants to see a 503 as a response; a 429 that is given up is raised."""
        if isinstance(error, RateLimited):
            return None
        self._stream(answer, None, deadline)
        return answer

    def raised(self, error: CallError) -> CallError:
        """The error as httpx2's own."""
        return as_httpx_error(error, self._sent.request)

    def _stream(self, answer: Seen, lease: Lease | None, deadline: float) -> None:
        if answer.response.is_stream_consumed and lease is not None:  # complete already: nothing is held
            lease.settle(worked=True)
            return
        answer.response.stream = self._wrap(answer.response.stream, Watch(self, lease, deadline))

    def late(self) -> CallError:
        """The deadline passed while the body was read."""
        seconds = self.policy.deadline or 0.0
        kind = DeadlineExceeded if self.idempotent else DeadlineOutcomeUnknown
        error = kind(f"no complete answer within the deadline of {seconds:g} s", outcome="unknown")
        return self.blamed(error)

    def blamed(self, error: CallError) -> CallError:
        """*error* with what is known of the call."""
        error.service, error.operation, error.idempotency_key = self.service, self.operation, self.key
        return as_httpx_error(error, self._sent.request)


class AsyncPlainWire:
    """Sends a plain request through an async transport; the body of the answer stays to be read."""

    __slots__ = ("_marks", "_transport")

    def __init__(self, transport: httpx2.AsyncBaseTransport, *, marks: bool) -> None:
        self._transport = transport
        self._marks = marks

    async def send(self, sent: Sent, timeout: float | None) -> Seen:
        """The answer, its body unread."""
        phases = sent.request.extensions["timeout"] = Phases(sent.given or {})
        try:
            with Timer(timeout) as timer:
                response = await self._transport.handle_async_request(sent.request)
        except WIRE_ERRORS as error:
            if isinstance(error, TimeoutError) and timer.expired:
                raise Expired(sent=sent.body.touched or not self._marks, in_pool=phases.in_pool) from None
            raise_translated(error)
        return Seen(response)

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

    __slots__ = ("_deadline", "_transport")

    def __init__(self, transport: httpx2.BaseTransport, deadline: float | None) -> None:
        self._transport = transport
        self._deadline = None if deadline is None else time.monotonic() + deadline

    def send(self, sent: Sent, timeout: float | None) -> Seen:
        """The answer, its body unread."""
        at = None if timeout is None else time.monotonic() + timeout
        if at is not None:
            clamped = timeouts(at, sent.given)
            # The body is read after the attempt, up to the deadline; httpcore looks at this value anew when it begins.
            sent.request.extensions["timeout"] = clamped
        try:
            try:
                response = self._transport.handle_request(sent.request)
            except WIRE_ERRORS as error:
                raise_translated(error)
        except CallError as error:
            raise_if_expired(error, at)
            raise
        if self._deadline is not None and not response.is_closed:
            sent.request.extensions["timeout"] = timeouts(self._deadline, sent.given)
        else:
            sent.restore_timeout()
        return Seen(response)

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
