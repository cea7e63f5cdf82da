"""moorline under ``requests``: ``session.mount("https://", Adapter(Policy(deadline=5), name="acme"))``.

Hooks are those of requests 2.34.2 (``adapters.py``, ``sessions.py``): the session follows redirects above its
adapters, so each hop is a call of its own; ``moorline.deadline`` bounds them all together. requests has no timeout for
a whole request: here the deadline includes the body, whoever reads it and however slowly it comes.

What gives no response raises one of :mod:`moorline.errors` that is also requests' exception of that kind; so does a
429 that is given up (an ``HTTPError`` with its ``response``). All other statuses are responses, as ever.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.utils import rewind_body
from urllib3.exceptions import EmptyPoolError
from urllib3.exceptions import HTTPError as PoolError

from moorline.calls.adapters.arguments import checked
from moorline.calls.adapters.doubles import refuse_doubles
from moorline.calls.adapters.duals import as_theirs
from moorline.calls.adapters.foreign import SMALL, Foreign, Reply, is_idempotent, said
from moorline.calls.adapters.urllib3_sockets import Span, clamp_pools, watched, within
from moorline.calls.drivers import drive
from moorline.calls.effects import POOL, Expired
from moorline.calls.engine import Pipeline
from moorline.calls.guards import Guards
from moorline.calls.hosts import guards_by_host
from moorline.calls.watching import Watch
from moorline.errors import (
    AttemptTimeout,
    BadAnswer,
    CallError,
    ConnectFailed,
    ConnectionLost,
    DeadlineExceeded,
    RateLimited,
)
from moorline.policies.policy import Policy

__all__ = ["Adapter"]

_WIRE_ERRORS: Final = (  # all else that requests raises says that the request is wrong
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
    PoolError,
)


class Adapter(HTTPAdapter):
    """An adapter to mount: the pipeline for all requests of a session to a prefix.

    *name* shares breaker, limits and budget with all that use the same name; without one, each host has its own.
    *idempotency_header* is the header whose presence makes a POST safe to repeat. With *statuses* a 429 that is given
    up is a response as well: for SDKs that raise their own errors for statuses. The other arguments are those of
    requests' own adapter; *max_retries* must be 0, as two layers of retries multiply.

    Raises ConfigurationError naming the argument.
    """

    __attrs__: list[str] = [  # noqa: RUF012 (as requests has it)
        *HTTPAdapter.__attrs__,
        "_policy",
        "_name",
        "_key_header",
        "_statuses",
    ]

    def __init__(
        self,
        policy: Policy | None = None,
        *,
        name: str | None = None,
        idempotency_header: str = "Idempotency-Key",
        statuses: bool = False,
        guards: Guards | None = None,
        **options: Any,
    ) -> None:
        self._policy, self._guards = checked("requests.Adapter", policy, name, guards)
        self._hosts = guards_by_host(self._guards, self._policy)
        self._name = name
        self._key_header = idempotency_header
        self._statuses = statuses
        super().__init__(**options)
        refuse_doubles(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A copy in another process has that one's registry."""
        super().__setstate__(state)  # type: ignore[misc]  # the stubs leave it out
        self._guards = checked("requests.Adapter", self._policy, self._name, None)[1]
        self._hosts = guards_by_host(self._guards, self._policy)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **options: Any) -> None:  # noqa: FBT001, FBT002
        """The pools, with clamped connections."""
        super().init_poolmanager(connections, maxsize, block, **options)
        clamp_pools(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        """The pools behind a proxy, with clamped connections; those of a SOCKS proxy are as they are."""
        known = proxy in self.proxy_manager
        manager = super().proxy_manager_for(proxy, **options)
        if not known and not proxy.lower().startswith("socks"):
            clamp_pools(manager)
        return manager

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,  # noqa: FBT001, FBT002 (requests' signature)
        timeout: Any = None,
        verify: Any = True,  # noqa: FBT002
        cert: Any = None,
        proxies: Any = None,
    ) -> requests.Response:
        """The response, its body unread. Raises CallError, which is also a RequestException."""
        refuse_doubles(self)  # somebody may have changed it since
        name = self._name or _host(request.url or "")
        context = _Context(
            request,
            name=name,
            policy=self._policy,
            guards=self._guards,
            guard=self._hosts[name],
            key_header=self._key_header,
            statuses=self._statuses,
        )
        options = {"stream": stream, "timeout": timeout, "verify": verify, "cert": cert, "proxies": proxies}
        try:
            reply = drive(Pipeline(context).run(), _Wire(super().send, options), context.clock)
        finally:
            request.body = context.body
        response: requests.Response = reply.response
        return response

    def __repr__(self) -> str:
        return f"<moorline requests.Adapter {self._name or 'by host'!r}>"


def _host(url: str) -> str:
    """Host and port, without a user and password that may stand before them."""
    return urlsplit(url).netloc.rpartition("@")[2].lower() or "http"


class _OneBody:
    """A body that can be read once, and remembers being read from."""

    def __init__(self, parts: Iterable[bytes]) -> None:
        self._parts = parts
        self.touched = False

    def __iter__(self) -> Iterator[bytes]:
        self.touched = True
        yield from self._parts


class _Context(Foreign):
    """One request of a session."""

    __slots__ = ("_refused", "_sends", "body", "sent", "span")

    def __init__(self, request: requests.PreparedRequest, *, key_header: str, **given: Any) -> None:
        method = request.method or "GET"
        super().__init__(
            operation=method, idempotent=is_idempotent(method), key=request.headers.get(key_header), **given
        )
        self.sent: Any = request
        body: Any = request.body
        self.body: Any = body
        self.span = Span(None)
        self._refused: requests.Response | None = None
        self._sends = 0
        if body is not None and not isinstance(body, (bytes, str)) and not self._rewindable:
            self.sent.body = _OneBody(body)  # type: ignore[assignment]  # requests sends iterables

    @property
    def _rewindable(self) -> bool:
        return isinstance(getattr(self.sent, "_body_position", None), int)

    @property
    def replayable(self) -> bool:
        """Whether the body can be sent again: a one-time body only before it was begun."""
        return not getattr(self.sent.body, "touched", False)

    def rewound(self) -> requests.PreparedRequest:
        """The request with its body at the beginning."""
        if self._sends and self._rewindable:
            rewind_body(self.sent)
        self._sends += 1
        return self.sent  # type: ignore[no-any-return]

    def judge(self, answer: Reply) -> CallError | None:
        """As all do; the answer of a 429 is kept for its exception."""
        error = super().judge(answer)
        if isinstance(error, RateLimited):
            self._refused = answer.response
        return error

    def held(self, answer: Reply, watch: Watch) -> bool:
        """The body is requests' to read."""
        return watched(answer.response.raw, watch, self.span)

    def translated(self, error: Exception, *, in_body: bool = False) -> CallError:
        """What an exception of requests, or of urllib3 underneath, means."""
        if isinstance(error, EmptyPoolError):
            made: CallError = ConnectFailed("no free connection in the pool", code=POOL)
        elif not self.span.sent:
            made = ConnectFailed(f"could not connect ({said(error)})")
        elif isinstance(error, requests.Timeout):
            made = AttemptTimeout(f"no complete answer in time ({said(error)})")
        elif in_body:
            made = BadAnswer(f"the answer is truncated ({said(error)})", retryable=True)
        else:
            made = ConnectionLost(f"the connection broke ({said(error)})")
        made.__cause__ = error
        return made

    def dressed(self, error: CallError) -> CallError:
        """The error as requests' own."""
        refused = self._refused if isinstance(error, RateLimited) and error.status is not None else None
        return as_theirs(error, _theirs(error, answered=refused is not None), request=self.sent, response=refused)


def _theirs(error: CallError, *, answered: bool) -> type[Exception]:
    cause = error.__cause__
    if answered:
        return requests.HTTPError
    if isinstance(error, ConnectFailed):
        for kind in (requests.exceptions.SSLError, requests.exceptions.ProxyError):
            if isinstance(cause, kind):
                return kind
        timed_out = cause is None or isinstance(cause, requests.Timeout)
        return requests.ConnectTimeout if timed_out else requests.ConnectionError
    if isinstance(error, (DeadlineExceeded, AttemptTimeout)) or isinstance(cause, AttemptTimeout):
        return requests.ReadTimeout
    return requests.exceptions.ChunkedEncodingError if isinstance(error, BadAnswer) else requests.ConnectionError


class _Wire:
    """Sends through requests' own adapter; the body of the answer stays to be read."""

    __slots__ = ("_options", "_send")

    def __init__(self, send: Any, options: dict[str, Any]) -> None:
        self._send = send
        self._options = options

    def send(self, context: _Context, timeout: float | None) -> Reply:
        span = context.span = Span(timeout)
        try:
            with within(span):
                response = self._send(context.rewound(), **self._options)
        except (*_WIRE_ERRORS, TimeoutError) as error:
            if span.over:
                raise Expired(sent=span.sent, in_pool=isinstance(error, EmptyPoolError)) from error
            raise context.translated(error) from error
        return Reply(response, response.status_code, response.headers)

    def discard(self, reply: Reply) -> None:
        """Read what is small, so that the connection stays, and close the rest."""
        response = reply.response
        declared = response.headers.get("content-length", "")
        try:
            if declared.isdigit() and int(declared[:18]) <= SMALL:
                _ = response.content  # the body of a 429 is there for who catches its exception
        except (*_WIRE_ERRORS, TimeoutError):  # it is thrown away in any case
            pass
        finally:
            response.close()
