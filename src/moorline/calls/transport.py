"""The pipeline as an httpx2 transport, usable with no other part of moorline.

``httpx2.AsyncClient(transport=AsyncTransport(Policy(deadline=5)))`` gets responses as before, after retries; what
gives no response raises one of :mod:`moorline.errors` that is also httpx2's exception of that kind. A 429 that is
given up is RateLimited.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

import httpx2

from moorline.calls.clients import Clients
from moorline.calls.dialects import RateLimitHeaders
from moorline.calls.drivers import drive, drive_async
from moorline.calls.effects import CallContext, Expired, Lease
from moorline.calls.engine import Pipeline
from moorline.calls.exchange import IDEMPOTENT
from moorline.calls.guards import PROCESS, Guard, Guards
from moorline.calls.httpx_errors import as_httpx_error
from moorline.calls.wires import WIRE_ERRORS, raise_if_expired, raise_translated, timeouts
from moorline.clock import Clock
from moorline.errors import (
    Attempt,
    CallError,
    ConfigurationError,
    DeadlineExceeded,
    DeadlineOutcomeUnknown,
    RateLimited,
    ServiceUnavailable,
)
from moorline.policies.policy import Policy

__all__ = ["AsyncTransport", "Transport"]

_LIMITS: Final = RateLimitHeaders()
_SERVER_FAULTS: Final = frozenset({408, 425})
_SMALL: Final = 65_536  # a body up to this size is read to keep its connection


class _Seen:
    """A response as the engine sees it."""

    __slots__ = ("response", "status")

    def __init__(self, response: httpx2.Response) -> None:
        self.response = response
        self.status = response.status_code

    def header(self, name: str, default: str | None = None) -> str | None:
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


class _Sent:
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
        self.used = self.used or (self.body.touched and not isinstance(self.stream, httpx2.ByteStream))
        return not self.used

    def restore(self) -> None:
        """Give the request back as it came."""
        self.request.stream = self.stream
        if self.given is not None:
            self.request.extensions["timeout"] = self.given
        else:
            self.request.extensions.pop("timeout", None)


class _PlainContext(CallContext[_Sent, _Seen]):
    """One request of a plain client."""

    __slots__ = ("_sent", "_wrap")

    def __init__(self, sent: _Sent, wrap: Any, name: str, policy: Policy, guard: Guard, clock: Clock) -> None:
        request = sent.request
        super().__init__(
            service=name,
            operation=request.method,
            policy=policy,
            guard=guard,
            limits=_LIMITS,
            idempotent=request.method in IDEMPOTENT,
            key=request.headers.get("idempotency-key"),
            clock=clock,
        )
        self._sent = sent
        self._wrap = wrap

    def request(self) -> _Sent:
        self._sent.begin()
        return self._sent

    def judge(self, answer: _Seen) -> CallError | None:
        status = answer.status
        if status == 429:
            return RateLimited("answered 429", status=status)
        if status >= 500 or status in _SERVER_FAULTS:
            return ServiceUnavailable(f"answered {status}", status=status)
        return None

    def succeeded(self, answer: _Seen, lease: Lease, deadline: float, attempts: tuple[Attempt, ...]) -> _Seen:  # noqa: ARG002
        self._stream(answer, lease, deadline)
        return answer

    def unsuccessful(self, answer: _Seen, error: CallError, deadline: float) -> _Seen | None:
        if isinstance(error, RateLimited):
            return None
        self._stream(answer, None, deadline)
        return answer

    def raised(self, error: CallError) -> CallError:
        return as_httpx_error(error, self._sent.request)

    def _stream(self, answer: _Seen, lease: Lease | None, deadline: float) -> None:
        if answer.response.is_stream_consumed and lease is not None:  # complete already: nothing is held
            lease.settle(worked=True)
            return
        answer.response.stream = self._wrap(answer.response.stream, _Watch(self, lease, deadline))

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


class _Watch:
    """Watches one streamed body: its deadline, its failures, and the lease that ends with it."""

    __slots__ = ("_lease", "context", "deadline")

    def __init__(self, context: _PlainContext, lease: Lease | None, deadline: float) -> None:
        self.context = context
        self.deadline = deadline
        self._lease = lease

    def left(self) -> float | None:
        """Seconds until the deadline, None without one."""
        return None if math.isinf(self.deadline) else self.deadline - self.context.clock.monotonic()

    def settle(self, *, worked: bool | None) -> None:
        if self._lease is not None:
            self._lease.settle(worked=worked)

    def failed(self, error: BaseException) -> CallError:
        """What a failure of the wire within the body means."""
        left = self.left()
        if isinstance(error, httpx2.TimeoutException) and left is not None and left <= 0.002:
            late = self.context.late()
            late.__cause__ = error
            return late
        try:
            raise_translated(error, in_body=True)
        except CallError as translated:
            return self.context.blamed(translated)


class _AsyncBody(httpx2.AsyncByteStream):
    """A body read on the loop within the deadline."""

    def __init__(self, stream: Any, watch: _Watch) -> None:
        self._stream = stream
        self._watch = watch

    async def __aiter__(self) -> AsyncIterator[bytes]:
        watch = self._watch
        parts = aiter(self._stream)
        try:
            while True:
                try:
                    async with asyncio.timeout(watch.left()):
                        part = await anext(parts)
                except StopAsyncIteration:
                    break
                except TimeoutError:
                    raise watch.context.late() from None
                except WIRE_ERRORS as error:
                    raise watch.failed(error) from error
                yield part
        except CallError:
            watch.settle(worked=False)
            await self._stream.aclose()
            raise
        watch.settle(worked=True)

    async def aclose(self) -> None:
        """Free the connection and what the attempt held."""
        try:
            await self._stream.aclose()
        finally:
            self._watch.settle(worked=True)


class _SyncBody(httpx2.SyncByteStream):
    """A body read blocking: each read on the socket is clamped, and each part checked."""

    def __init__(self, stream: Any, watch: _Watch) -> None:
        self._stream = stream
        self._watch = watch

    def __iter__(self) -> Iterator[bytes]:
        watch = self._watch
        try:
            try:
                for part in self._stream:
                    left = watch.left()
                    if left is not None and left <= 0:
                        raise watch.context.late()
                    yield part
            except WIRE_ERRORS as error:
                if isinstance(error, CallError):
                    raise
                raise watch.failed(error) from error
        except CallError:
            watch.settle(worked=False)
            self._stream.close()
            raise
        watch.settle(worked=True)

    def close(self) -> None:
        """Free the connection and what the attempt held."""
        try:
            self._stream.close()
        finally:
            self._watch.settle(worked=True)


class _AsyncWire:
    """Sends a plain request through an async transport; the body of the answer stays to be read."""

    __slots__ = ("_marks", "_transport")

    def __init__(self, transport: httpx2.AsyncBaseTransport, *, marks: bool) -> None:
        self._transport = transport
        self._marks = marks

    async def send(self, sent: _Sent, timeout: float | None) -> _Seen:
        try:
            async with asyncio.timeout(timeout):
                response = await self._transport.handle_async_request(sent.request)
        except TimeoutError:
            raise Expired(sent=sent.body.touched or not self._marks) from None
        except WIRE_ERRORS as error:
            raise_translated(error)
        return _Seen(response)

    async def discard(self, seen: _Seen) -> None:
        try:
            if _is_small(seen.response):
                await seen.response.aread()
        except (*WIRE_ERRORS, RuntimeError):  # it is thrown away in any case
            pass
        finally:
            await seen.response.aclose()


class _SyncWire:
    """The same, blocking."""

    __slots__ = ("_deadline", "_transport")

    def __init__(self, transport: httpx2.BaseTransport, deadline: float | None) -> None:
        self._transport = transport
        self._deadline = None if deadline is None else time.monotonic() + deadline

    def send(self, sent: _Sent, timeout: float | None) -> _Seen:
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
        if self._deadline is not None:
            sent.request.extensions["timeout"] = timeouts(self._deadline, sent.given)
        return _Seen(response)

    def discard(self, seen: _Seen) -> None:
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


class _Base:
    """What both transports share: a policy, a name for the shared state, and the wire underneath."""

    def __init__(
        self,
        policy: Policy | None = None,
        *,
        name: Any = None,
        wire: Any = None,
        guards: Guards | None = None,
        clock: Clock | None = None,
    ) -> None:
        kind = type(self).__name__
        if policy is not None and not isinstance(policy, Policy):
            raise ConfigurationError(f"{kind}.policy must be a Policy or None, not {type(policy).__name__}")
        if name is not None and (not isinstance(name, str) or not name):
            raise ConfigurationError(f"{kind}.name must be a string that is not empty, or None, not {name!r}")
        self._needs(wire, kind)
        self._policy = policy or Policy()
        self._name = name or "http"
        # Without a name there is nothing to share the state with.
        self._guards = guards or (PROCESS if name and clock is None else Guards(clock) if clock else Guards())
        self._guard = self._guards.guard(self._name, self._policy)
        self._wire = wire
        self._clients = Clients()

    def _needs(self, wire: Any, kind: str) -> None:
        needed = "handle_async_request" if isinstance(self, httpx2.AsyncBaseTransport) else "handle_request"
        if wire is not None and not hasattr(wire, needed):
            raise ConfigurationError(
                f"{kind}.wire must be an httpx2 transport with {needed}, not {type(wire).__name__}"
            )

    def __repr__(self) -> str:
        return f"<moorline {type(self).__name__} {self._name!r}>"


class AsyncTransport(_Base, httpx2.AsyncBaseTransport):
    """The pipeline for ``httpx2.AsyncClient``. *name* shares breaker and limits with all that use the same name.

    *wire* is the transport underneath (httpx2's own, one per event loop, by default).

    Raises ConfigurationError naming the argument.
    """

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send *request* through the pipeline."""
        sent = _Sent(request)
        context = _PlainContext(sent, _AsyncBody, self._name, self._policy, self._guard, self._guards.clock)
        transport = self._wire or await self._clients.for_loop()
        wire = _AsyncWire(transport, marks=self._wire is None or isinstance(self._wire, httpx2.AsyncHTTPTransport))
        try:
            seen = await drive_async(Pipeline(context).run(), wire, context.clock)
        finally:
            sent.restore()
        return seen.response

    async def aclose(self) -> None:
        """Close the wire."""
        await self._clients.aclose()
        if self._wire is not None:
            await self._wire.aclose()


class Transport(_Base, httpx2.BaseTransport):
    """The pipeline for ``httpx2.Client``; as AsyncTransport."""

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send *request* through the pipeline."""
        sent = _Sent(request)
        context = _PlainContext(sent, _SyncBody, self._name, self._policy, self._guard, self._guards.clock)
        wire = _SyncWire(self._wire or self._clients.blocking(), self._policy.deadline)
        kept = dict(request.extensions)
        try:
            seen = drive(Pipeline(context).run(), wire, context.clock)
        except BaseException:
            request.extensions = kept
            raise
        finally:
            request.stream = sent.stream
        return seen.response

    def close(self) -> None:
        """Close the wire."""
        self._clients.close()
        if self._wire is not None:
            self._wire.close()
