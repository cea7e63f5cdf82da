"""moorline under aiohttp: ``aiohttp.ClientSession(middlewares=(middleware(Policy(deadline=5)),))``.

Hooks are those of aiohttp 3.14.5 (``client_middlewares.py``, ``client.py``, ``client_reqrep.py``): a middleware may
call its handler again with the same request, whose body rewinds itself unless it says that it is ``consumed``. The
session follows redirects above the middleware, so each hop is a call of its own; its own ``ClientTimeout`` holds too.

What gives no response raises one of :mod:`moorline.errors` that is also aiohttp's exception of that kind; so does a
429 that is given up (a ``ClientResponseError``). The session itself sends an idempotent request once more after a
``ServerDisconnectedError`` or ``ClientOSError``: ours are therefore a ``ClientConnectionError`` and nothing finer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Final

import aiohttp
from aiohttp import ClientHandlerType, ClientRequest, ClientResponse

from moorline import redaction
from moorline.calls.adapters.aiohttp_body import Body, Watch
from moorline.calls.adapters.arguments import checked
from moorline.calls.adapters.duals import as_theirs
from moorline.calls.dialects import RateLimitHeaders
from moorline.calls.drivers import drive_async
from moorline.calls.effects import CallContext, Expired, Lease
from moorline.calls.engine import Pipeline
from moorline.calls.exchange import IDEMPOTENT
from moorline.calls.guards import Guard, Guards
from moorline.calls.timer import Timer
from moorline.clock import Clock
from moorline.errors import (
    Attempt,
    AttemptTimeout,
    BadAnswer,
    CallError,
    ConfigurationError,
    ConnectFailed,
    ConnectionLost,
    DeadlineExceeded,
    DeadlineOutcomeUnknown,
    RateLimited,
    ServiceUnavailable,
)
from moorline.policies.policy import Policy

__all__ = ["middleware"]

Middleware = Callable[[ClientRequest, ClientHandlerType], Awaitable[ClientResponse]]

_LIMITS: Final = RateLimitHeaders()
_SERVER_FAULTS: Final = frozenset({408, 425})
_SMALL: Final = 65_536  # a body up to this size is read to keep its connection
_NOT_SENT: Final = (
    aiohttp.ClientConnectorError,
    aiohttp.ClientHttpProxyError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.ServerFingerprintMismatch,
)
_WIRE_ERRORS: Final = (aiohttp.ClientError, OSError)
_SWITCHING: Final = 101

_under_way: ContextVar[ClientRequest | None] = ContextVar("moorline_aiohttp", default=None)


def middleware(policy: Policy | None = None, *, name: str | None = None, guards: Guards | None = None) -> Middleware:
    """The pipeline as a client middleware, for a session or for one request.

    *name* shares breaker, limits and budget with all that use the same name; without one, each host that the session
    talks to has its own. The body of the answer is inside the deadline, and what the attempt holds is kept until the
    body is read or the response is closed. Two of these around one request are refused: their retries multiply.

    Raises ConfigurationError naming the argument.
    """
    chosen, shared = checked("aiohttp.middleware", policy, name, guards)
    guard = shared.guard(name, chosen) if name else None

    async def through_pipeline(request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
        if _under_way.get() is request:
            raise ConfigurationError(
                "middlewares: moorline is in there twice, and retries would multiply; leave one of the two out"
            )
        called = name or request.url.authority
        context = _Context(request, called, chosen, guard or shared.guard(called, chosen), shared.clock)
        token = _under_way.set(request)
        try:
            seen = await drive_async(Pipeline(context).run(), _Wire(handler), context.clock)
        finally:
            _under_way.reset(token)
        return seen.response

    return through_pipeline


class _Seen:
    """A response as the engine sees it."""

    __slots__ = ("response", "status")

    def __init__(self, response: ClientResponse) -> None:
        self.response = response
        self.status = response.status

    def header(self, name: str, default: str | None = None) -> str | None:
        """The value of a header."""
        return self.response.headers.get(name, default)


class _Sent:
    """A request as the engine sees it: the same for all attempts."""

    __slots__ = ("request",)

    def __init__(self, request: ClientRequest) -> None:
        self.request = request

    @property
    def replayable(self) -> bool:
        """Whether the body can be sent again."""
        body = self.request.body
        return body == b"" or not getattr(body, "consumed", False)


class _Context(CallContext[_Sent, _Seen]):
    """One request of a session."""

    __slots__ = ("_refused", "_sent")

    def __init__(self, request: ClientRequest, name: str, policy: Policy, guard: Guard, clock: Clock) -> None:
        idempotent = request.method in IDEMPOTENT
        super().__init__(
            service=name,
            operation=request.method,
            policy=policy,
            guard=guard,
            limits=_LIMITS,
            idempotent=idempotent,
            key=None if idempotent else request.headers.get("Idempotency-Key"),
            clock=clock,
        )
        self._sent = _Sent(request)
        self._refused: ClientResponse | None = None

    def request(self) -> _Sent:
        """The same request again."""
        return self._sent

    def judge(self, answer: _Seen) -> CallError | None:
        """Limits and the service's own failures; all other statuses are answers."""
        status = answer.status
        if status == 429:
            self._refused = answer.response
            return RateLimited("answered 429", status=status)
        if status >= 500 or status in _SERVER_FAULTS:
            return ServiceUnavailable(f"answered {status}", status=status)
        return None

    def succeeded(self, answer: _Seen, lease: Lease, deadline: float, attempts: tuple[Attempt, ...]) -> _Seen:
        """A response whose body keeps the lease until it is read or closed."""
        if answer.status == _SWITCHING:  # a websocket lives as long as it likes
            lease.settle(worked=True, elapsed=attempts[-1].elapsed)
            return answer
        return self._watched(answer, lease, deadline)

    def unsuccessful(self, answer: _Seen, error: CallError, deadline: float) -> _Seen | None:
        """Users of aiohttp want to see a 503 as a response; a 429 that is given up is raised."""
        return None if isinstance(error, RateLimited) else self._watched(answer, None, deadline)

    def raised(self, error: CallError) -> CallError:
        """The error as aiohttp's own."""
        request = self._sent.request
        if isinstance(error, RateLimited) and self._refused is not None and error.status is not None:
            facts = {"request_info": request.request_info, "history": (), "headers": self._refused.headers}
            return as_theirs(error, aiohttp.ClientResponseError, **facts)
        if isinstance(error, ConnectFailed) and isinstance(error.__cause__, aiohttp.ClientConnectorError):
            os_error = error.__cause__.os_error
            return as_theirs(error, aiohttp.ClientConnectorError, _conn_key=request.connection_key, _os_error=os_error)
        return as_theirs(error, _theirs(error))

    def late(self) -> CallError:
        """The deadline passed while the body was read."""
        kind = DeadlineExceeded if self.idempotent else DeadlineOutcomeUnknown
        return self.blamed(kind("no complete answer within the deadline", outcome="unknown"))

    def lost(self, cause: Exception) -> CallError:
        """The body broke off."""
        return self.blamed(_translated(cause))

    def blamed(self, error: CallError) -> CallError:
        """*error* with what is known of the call."""
        error.service, error.operation, error.idempotency_key = self.service, self.operation, self.key
        return self.raised(error)

    def _watched(self, answer: _Seen, lease: Lease | None, deadline: float) -> _Seen:
        response = answer.response
        connection = response.connection
        watch = Watch(self, lease, deadline)
        if connection is None:  # the body is here already
            watch.over()
        else:
            response.content = Body(response.content, watch)  # type: ignore[assignment]  # it reads like that one
            connection.add_callback(watch.over)  # must not hold the response: in a cycle, neither would close in order
        return answer


class _Wire:
    """Sends a request down the session; the body of the answer stays to be read."""

    __slots__ = ("_handler",)

    def __init__(self, handler: ClientHandlerType) -> None:
        self._handler = handler

    async def send(self, sent: _Sent, timeout: float | None) -> _Seen:
        """The answer, its body unread."""
        request = sent.request
        request.response = None  # set again by the session when it begins to write the request
        try:
            with Timer(timeout) as timer:
                await request.close()  # whatever still wrote the body of an attempt before
                response = await self._handler(request)
        except _WIRE_ERRORS as error:
            if isinstance(error, TimeoutError) and timer.expired:
                raise Expired(sent=request.response is not None) from None
            if isinstance(error, CallError):
                raise
            raise _translated(error) from error
        finally:
            request.response = None
        return _Seen(response)

    async def discard(self, seen: _Seen) -> None:
        """Read what is small, so that the connection stays, and close the rest."""
        response = seen.response
        try:
            if (response.content_length or _SMALL + 1) <= _SMALL:
                with contextlib.suppress(*_WIRE_ERRORS):  # it is thrown away in any case
                    await response.read()
        finally:
            response.release()


def _translated(error: Exception) -> CallError:
    """What a failure of the session means: nothing left, time is up, or the connection broke."""
    kind = type(error).__name__
    said = redaction.text(" ".join(str(error).split()))[:200]
    message = f"{kind}: {said}" if said else kind
    if isinstance(error, _NOT_SENT):
        made: CallError = ConnectFailed(f"could not connect ({message})")
    elif isinstance(error, TimeoutError):
        made = AttemptTimeout(f"no complete answer in time ({message})")
    elif isinstance(error, aiohttp.ClientPayloadError):
        made = BadAnswer(f"the answer is truncated ({message})", retryable=True)
    else:
        made = ConnectionLost(f"the connection broke ({message})")
    made.__cause__ = error
    return made


def _theirs(error: CallError) -> type[Exception]:
    if isinstance(error, (DeadlineExceeded, AttemptTimeout)) or isinstance(error.__cause__, AttemptTimeout):
        return aiohttp.ServerTimeoutError
    if isinstance(error, ConnectFailed):
        return aiohttp.ConnectionTimeoutError
    if isinstance(error, BadAnswer):
        return aiohttp.ClientPayloadError
    return aiohttp.ClientConnectionError
