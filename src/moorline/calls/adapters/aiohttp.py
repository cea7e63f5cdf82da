"""moorline under aiohttp: ``aiohttp.ClientSession(middlewares=(middleware(Policy(deadline=5)),))``.

Hooks are those of aiohttp 3.14.5 (``client_middlewares.py``, ``client.py``, ``client_reqrep.py``): a middleware may
call its handler again with the same request, whose body rewinds itself unless it says that it is ``consumed``. The
session follows redirects above the middleware: each hop is a call, within one deadline. ``ClientTimeout`` holds too.

What gives no response raises one of :mod:`moorline.errors` that is also aiohttp's exception of that kind; so does a
429 that is given up (a ``ClientResponseError``). The session itself sends an idempotent request once more after a
``ServerDisconnectedError`` or ``ClientOSError``: ours are therefore a ``ClientConnectionError`` and nothing finer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import replace
from typing import Any, Final

import aiohttp
from aiohttp import ClientHandlerType, ClientRequest, ClientResponse

from moorline.calls.adapters.aiohttp_body import Body
from moorline.calls.adapters.arguments import checked
from moorline.calls.adapters.duals import as_theirs
from moorline.calls.adapters.foreign import SMALL, Foreign, Reply, said
from moorline.calls.drivers import drive_async
from moorline.calls.effects import Expired
from moorline.calls.engine import Pipeline
from moorline.calls.exchange import IDEMPOTENT
from moorline.calls.guards import Guard, Guards
from moorline.calls.hosts import guards_by_host
from moorline.calls.timer import Timer
from moorline.calls.watching import Watch
from moorline.clock import Clock
from moorline.errors import (
    AttemptTimeout,
    BadAnswer,
    CallError,
    ConfigurationError,
    ConnectFailed,
    ConnectionLost,
    DeadlineExceeded,
    RateLimited,
)
from moorline.policies.policy import Policy

__all__ = ["is_ours", "meaning", "middleware"]

Middleware = Callable[[ClientRequest, ClientHandlerType], Awaitable[ClientResponse]]

_NOT_SENT: Final = (
    aiohttp.ClientConnectorError,
    aiohttp.ClientHttpProxyError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.ServerFingerprintMismatch,
)
_WIRE_ERRORS: Final = (aiohttp.ClientError, OSError)
_SWITCHING: Final = 101

_SHORTEST: Final = 0.001

_hops: ContextVar[tuple[object, float] | None] = ContextVar("moorline_aiohttp_hops", default=None)
_under_way: ContextVar[ClientRequest | None] = ContextVar("moorline_aiohttp", default=None)


def middleware(policy: Policy | None = None, *, name: str | None = None, guards: Guards | None = None) -> Middleware:
    """The pipeline as a client middleware, for a session or for one request.

    *name* shares breaker, limits and budget with all that use the same name; without one, each host that the session
    talks to has its own. The body of the answer is inside the deadline, and what the attempt holds is kept until the
    body is read or the response is closed. Two of these around one request are refused: their retries multiply.

    Raises ConfigurationError naming the argument.
    """
    chosen, shared = checked("aiohttp.middleware", policy, name, guards)
    hosts = guards_by_host(shared, chosen)

    async def through_pipeline(request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
        if _under_way.get() is request:
            raise ConfigurationError(
                "middlewares: moorline is in there twice, and retries would multiply; leave one of the two out"
            )
        called = name or request.url.authority
        call = _Call(request, called, _in_time(request, chosen, shared.clock), shared, hosts[called])
        token = _under_way.set(request)
        try:
            answer = await drive_async(Pipeline(call).run(), _Wire(handler), call.clock)
        finally:
            _under_way.reset(token)
        response: ClientResponse = answer.response
        return response

    through_pipeline.moorline = True  # type: ignore[attr-defined]  # for ``is_ours``
    return through_pipeline


def is_ours(session: aiohttp.ClientSession) -> bool:
    """Whether requests of *session* pass through the pipeline."""
    return any(getattr(each, "moorline", False) for each in getattr(session, "_middlewares", ()))


def _in_time(request: ClientRequest, policy: Policy, clock: Clock) -> Policy:
    """The policy of a hop: a redirect has no more time than the request before it had left."""
    if policy.deadline is None:
        return policy
    timer = getattr(request, "_timer", None)  # one for all hops of a request
    known, now = _hops.get(), clock.monotonic()
    if known is not None and known[0] is timer:
        return replace(policy, deadline=max(known[1] - now, _SHORTEST))
    _hops.set(None if timer is None else (timer, now + policy.deadline))
    return policy


class _Call(Foreign):
    """One request of a session."""

    __slots__ = ("_refused", "sent")

    def __init__(self, sent: ClientRequest, name: str, policy: Policy, guards: Guards, guard: Guard) -> None:
        super().__init__(
            name=name,
            operation=sent.method,
            policy=policy,
            guards=guards,
            idempotent=sent.method in IDEMPOTENT,
            key=sent.headers.get("Idempotency-Key"),
            guard=guard,
        )
        self.sent = sent
        self._refused: Any = None  # the headers of the last 429

    @property
    def replayable(self) -> bool:
        """Whether the body can be sent again."""
        body = self.sent.body
        return body == b"" or not getattr(body, "consumed", False)

    def judge(self, answer: Reply) -> CallError | None:
        """As all foreign requests; the headers of a 429 are those of its error."""
        error = super().judge(answer)
        if isinstance(error, RateLimited):
            self._refused = answer.response.headers
        return error

    def held(self, answer: Reply, watch: Watch) -> bool:
        """The body is read through *watch*, which is told when the connection is free again."""
        response: ClientResponse = answer.response
        connection = response.connection
        if connection is None or answer.status == _SWITCHING:  # read already; a websocket lives as long as it likes
            return False
        body = Body(response.content, watch)
        response.content = body  # type: ignore[assignment]  # it reads like the one that it wraps
        connection.add_callback(body.over)  # holds no response: a cycle of the two would be closed in any order
        return True

    def dressed(self, error: CallError) -> CallError:
        """The error as aiohttp's own."""
        sent, cause = self.sent, error.__cause__
        if isinstance(error, RateLimited) and error.status is not None:
            facts = {"request_info": sent.request_info, "history": (), "headers": self._refused}
            return as_theirs(error, aiohttp.ClientResponseError, **facts)
        if isinstance(error, ConnectFailed) and isinstance(cause, aiohttp.ClientConnectorError):
            facts = {"_conn_key": sent.connection_key, "_os_error": cause.os_error}
            return as_theirs(error, aiohttp.ClientConnectorError, **facts)
        return as_theirs(error, _theirs(error))

    def translated(self, error: Exception, *, in_body: bool = False) -> CallError:  # noqa: ARG002 (its kind says so)
        """What a failure of the session means: nothing left, time is up, or the connection broke."""
        return meaning(error)


class _Wire:
    """Sends a request down the session; the body of the answer stays to be read."""

    __slots__ = ("_handler",)

    def __init__(self, handler: ClientHandlerType) -> None:
        self._handler = handler

    async def send(self, call: _Call, timeout: float | None) -> Reply:
        """The answer, its body unread."""
        request = call.sent
        request.response = None  # set again by the session when it begins to write the request
        try:
            with Timer(timeout) as timer:
                await request.close()  # whatever still wrote the body of an attempt before
                response = await self._handler(request)
        except _WIRE_ERRORS as error:
            if isinstance(error, TimeoutError) and timer.expired:
                sent = request.response is not None
                raise Expired(sent=sent, in_pool=not sent and _pool_is_full(request)) from None
            raise call.translated(error) from error
        finally:
            request.response = None
        return Reply(response, response.status, response.headers)

    async def discard(self, answer: Reply) -> None:
        """Read what is small, so that the connection stays, and close the rest."""
        response: ClientResponse = answer.response
        try:
            if (response.content_length or SMALL + 1) <= SMALL:
                with contextlib.suppress(*_WIRE_ERRORS):  # it is thrown away in any case
                    await response.read()
        finally:
            response.release()


def _pool_is_full(request: ClientRequest) -> bool:
    """Whether the session's own pool has no connection left for this host, which says nothing of the service."""
    available = getattr(request.session.connector, "_available_connections", None)
    return callable(available) and available(request.connection_key) <= 0


def meaning(error: Exception) -> CallError:
    """What a failure of a session means: nothing left, time is up, or the connection broke."""
    if isinstance(error, _NOT_SENT):
        made: CallError = ConnectFailed(f"could not connect ({said(error)})")
    elif isinstance(error, TimeoutError):
        made = AttemptTimeout(f"no complete answer in time ({said(error)})")
    elif isinstance(error, aiohttp.ClientPayloadError):
        made = BadAnswer(f"the answer is truncated ({said(error)})", retryable=True)
    else:
        made = ConnectionLost(f"the connection broke ({said(error)})")
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
