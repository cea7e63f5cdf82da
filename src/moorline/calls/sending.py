"""A service's Call, as the engine sees it: builds the request of each attempt, judges each answer."""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import urljoin, urlsplit

from moorline.calls.dialects import LOOPBACK, UnusableKey
from moorline.calls.effects import CallContext, Lease
from moorline.calls.exchange import IDEMPOTENT, Exchange, Plan
from moorline.calls.forms import encode_form
from moorline.calls.guards import Guard
from moorline.calls.upload import Upload
from moorline.errors import Attempt, BadAnswer, CallerFault, CallError, ConfigurationError, InvalidRequest
from moorline.policies.policy import Policy

if TYPE_CHECKING:
    from moorline.calls.call import Call
    from moorline.calls.service import Service
    from moorline.secrets.secret import Secret

__all__ = ["WITH_BODY", "ServiceContext", "ServiceRequest"]

WITH_BODY: Final = frozenset({"POST", "PUT", "PATCH"})  # requests that say so when they have no body

_HEADERS: Final = {"User-Agent": "moorline/0.1", "Accept": "application/json"}
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_VERBATIM: Final = frozenset({307, 308})  # the same method and body, of which nothing was done yet (RFC 9110)
_MOST_REDIRECTS: Final = 5
_PORTS: Final = {"https": 443, "http": 80}


class Sending:
    """What the attempts of one call have in common: whether there can be another one."""

    __slots__ = ("final",)

    def __init__(self) -> None:
        self.final = False


class ServiceRequest(NamedTuple):
    """A request as a service wants it sent: the URL is whole, the body complete, or an upload that gives it in parts.

    *patience* is how many seconds may pass without progress, for bodies that may take much longer in all.
    """

    method: str
    url: str
    headers: dict[str, str]
    body: bytes | None
    max_body: int
    state: Sending | None = None
    streamed: bool = False  # whether the body of a good answer is left to be read
    upload: Upload | None = None
    patience: float | None = None

    @property
    def replayable(self) -> bool:
        """Whether it may be sent again: not what can never be sent, nor an upload that is read already."""
        if self.upload is not None and not self.upload.replayable:
            return False
        return self.state is None or not self.state.final

    def refused(self) -> None:
        """It cannot be sent, now or later."""
        if self.state is not None:
            self.state.final = True


class ServiceContext(CallContext[ServiceRequest, Exchange]):
    """One sending of a Call."""

    __slots__ = (
        "_body",
        "_call",
        "_headers",
        "_key",
        "_other",
        "_patience",
        "_plan",
        "_service",
        "_state",
        "_stopped",
        "_url",
        "tries",
    )

    renewable = True
    streams = False  # whether the answer's body is left to be read

    def __init__(self, service: Service, call: Call[Any], base: str, policy: Policy, guard: Guard) -> None:
        plan = call.plan
        self._patience = policy.attempt_timeout
        if plan.upload is not None:  # which may take long, as long as something moves
            policy = replace(policy, attempt_timeout=None)
        # What CallContext does, written out: it is a tenth of what the pipeline costs.
        self.service, self.operation, self.clock = service.name, call.operation, service.clock
        self.policy, self.guard, self.limits = policy, guard, service.limits
        self.idempotent = plan.method in IDEMPOTENT if plan.repeatable is None else plan.repeatable
        self.key = key = call.idempotency_key
        self.retried, self.random = service.errors.retry, random.random
        self.cost = plan.cost if call.options.cost is None else call.options.cost
        self.story = call.sending()
        self.tries = None if key is None else call._tries  # noqa: SLF001 (no call more)
        self._service = service
        self._call = call
        self._plan = plan
        self._url = _address(service, base, plan)
        self._state = Sending()
        self._other: tuple[Secret, Secret] | None = None
        self._stopped = ""  # why a redirect was not followed
        if service.addresses is not None:
            try:
                service.addresses.check_url(self._url)
            except InvalidRequest as error:
                error.service, error.operation = service.name, call.operation
                raise
        self._body, content_type = plan.frozen or plan.freeze()
        headers = self._headers = {**_HEADERS, **service.default_headers}
        if content_type is not None:
            headers["Content-Type"] = content_type
        if plan.headers:
            headers.update(plan.headers)
        if call.options.headers:
            headers.update(call.options.headers)
        if key is not None and service.idempotency is not None:
            self._body = service.idempotency.carried(key, headers, self._body)

    @property
    def lane(self) -> str:
        """The part of the service that the Plan names, or the operation."""
        return self._plan.bucket or self.operation

    @property
    def undone(self) -> Collection[str]:  # type: ignore[override]
        """See CallContext."""
        found, more = self._service.errors.undone, self._plan.undone
        return (*found, *more) if more else found

    def request(self) -> ServiceRequest:
        """The request of the next attempt: the key is read anew, so that a rotation reaches a call under way."""
        self._key = self._service.key() if self._other is None else self._other[1]
        plan, most = self._plan, self._service.max_body
        url = self._url if self._service.fetched is None else self._located()
        url, body = self._service.presented(self._key, url, self._body)
        try:
            headers = self._service.authorized(self._key, plan.method, url, self._headers, body)
        except UnusableKey:  # the service would refuse it too, if it could be sent
            if not self._service.refused(self._key):
                raise
            return self.request()
        if self.whole:
            return ServiceRequest(plan.method, url, headers, body, most, self._state)
        return ServiceRequest(
            plan.method, url, headers, body, most, self._state, self.streams, plan.upload, self._patience
        )

    def _located(self) -> str:
        """Where the token that was fetched wants to be used. Raises InvalidRequest where no request may go there."""
        url = self._service.located(self._url)
        if url != self._url and self._service.addresses is not None:
            self._service.addresses.check_url(url)
        return url

    @property
    def whole(self) -> bool:
        """Whether both bodies are in memory at once: wires other than httpx2's can no more."""
        return not self.streams and self._plan.upload is None

    def another(self) -> bool:
        """See CallContext. A right may be lacking to both: nothing is held against the first one before the other has
        worked.
        """
        other = self._service.other(self._key)
        self._other = None if other is None else (self._key, other)
        return other is not None

    def accepted(self, at: float) -> None:
        """The service has taken the credential."""
        if self._key.tally is not None:
            self._key.tally.worked(at)
        if self._other is not None:
            self._service.refused(self._other[0])

    def renew(self, timeout: float | None) -> bool:
        """Have the service's key source look for a newer key than the one that was refused."""
        return self._service.renewal.newer(self._key, timeout)

    async def renew_async(self) -> bool:
        """As ``renew``."""
        return await self._service.renewal.newer_async(self._key)

    def redirected(self, request: ServiceRequest, answer: Exchange, hops: int) -> ServiceRequest | None:
        """Follow for GET and HEAD, and for writes within the origin of services that want it; credentials stay with
        their origin, and https never becomes http.
        """
        reads = request.method in ("GET", "HEAD")
        verbatim = self._service.redirects_writes and answer.status in _VERBATIM and request.upload is None
        if answer.status not in _REDIRECTS or not (reads or verbatim):
            return None
        location = answer.header("location")
        if location is None:
            return None
        try:
            target = _onward(request.url, location, hops)
        except _NotFollowed as why:
            self._stopped = str(why)
            return None
        if self._service.addresses is not None:
            try:
                self._service.addresses.check_url(target)
            except InvalidRequest:
                request.refused()
                raise
        # Nothing of ours goes elsewhere: any header may be a credential, those of the Call included.
        same = _origin(request.url) == _origin(target)
        if not (same or reads):
            return None
        headers = request.headers if same else _HEADERS.copy()
        return request._replace(url=target, headers=headers)

    def raised(self, error: CallError) -> CallError:
        """The error itself; what can never be sent is not worth another try either."""
        if isinstance(error, InvalidRequest) and error.outcome == "not_sent":
            error.retryable = False
        return error

    def request_id_of(self, answer: Exchange) -> str | None:
        """The service's own name for this request."""
        return self._service.errors.request_id_of(answer)

    def judge(self, answer: Exchange) -> CallError | None:
        """Statuses, bodies that are no JSON, and failures that hide in a 200."""
        errors = self._service.errors
        answer.request_id = errors.request_id_of(answer)
        if not 200 <= answer.status <= 299:
            error = errors.error(answer)
            if isinstance(error, CallerFault) and self._key.tally is not None:  # the key was good, and the request not
                self._key.tally.worked(self.clock.wall())
            if self._plan.accept is not None and self._plan.accept(error) is not None:
                return None
            error.retryable = False
            if self._stopped and answer.status in _REDIRECTS:
                error = BadAnswer(f"{self._stopped} (answered {answer.status})", status=answer.status)
            return error
        if self._plan.text:  # what hides a failure there says so in words of its own (S3's 200 with an Error in XML)
            return errors.failure(answer)
        if self._plan.blank and not answer.body:
            return None
        try:
            if self._plan.method != "HEAD" and answer.data is None and not self._plan.blank:
                raise BadAnswer("the answer is empty", status=answer.status)  # noqa: TRY301
        except BadAnswer as error:
            error.retryable = True
            error.request_id = answer.request_id
            return error
        return errors.failure(answer)

    def succeeded(
        self,
        answer: Exchange,
        lease: Lease,
        deadline: float,  # noqa: ARG002 (the whole body is read within the attempt)
        attempts: tuple[Attempt, ...],
    ) -> Exchange:
        """The answer is read: nothing is held any longer."""
        if self._key.tally is not None or self._other is not None:
            self.accepted(attempts[-1].at)
        # A large body that is sent is no slow service.
        elapsed = attempts[-1].elapsed if self._plan.upload is None else 0.0
        lease.settle(worked=True, elapsed=elapsed)
        answer.attempts = attempts
        return answer


class _NotFollowed(Exception):
    """The redirect is the answer, and an error; the message says why."""


def _onward(url: str, location: str, hops: int) -> str:
    """Where a redirect leads after *hops* of them. Raises _NotFollowed."""
    if hops >= _MOST_REDIRECTS:
        raise _NotFollowed(f"redirected more than {_MOST_REDIRECTS} times")
    try:
        target = urljoin(url, location).partition("#")[0]
        here, there = urlsplit(url), urlsplit(target)
        known = _origin(target)[2] is not None
    except ValueError:
        raise _NotFollowed("redirected to what is no URL") from None
    if not known or there.scheme not in _PORTS or not there.hostname or there.username is not None:
        raise _NotFollowed("redirected to a URL that is not followed")
    if there.scheme == "http" and (here.scheme == "https" or not LOOPBACK.fullmatch(there.hostname)):
        raise _NotFollowed("redirected to plain http")
    if target == url:
        raise _NotFollowed("redirected to itself")
    return target


def _address(service: Service, base: str, plan: Plan[Any]) -> str:
    if plan.path.startswith("/"):
        url = base + plan.path
    elif plan.path.startswith(("https://", "http://")) and (
        _origin(plan.path) == _origin(base) or service.is_own(plan.path)
    ):
        url = plan.path
    else:
        raise ConfigurationError(f"path must begin with '/' (or be a URL at {base}), not {plan.path[:100]!r}")
    if not url.isprintable() or " " in url:
        raise ConfigurationError("path holds characters that no URL can carry; escape ids with segment()")
    query = encode_form(plan.query) if plan.query else ""
    if not query:
        return url
    return f"{url}{'&' if '?' in url else '?'}{query}"


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)
