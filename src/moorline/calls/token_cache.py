"""The access tokens of a process: one for each account, whichever service objects want it, and one request for it.

An account is what the same service, grant, credential, address, client and rights stand for (``Grant.account``).
Objects of it on the same guards share its token: fetched once for all who wait, on threads and loops, anew when the
credential changes, and renewed before its end. The request for a token has a breaker and limits of its own, so that a
token endpoint that is down is told apart from a service that is.

Where other processes are to have the token too, a :class:`TokenKeeper` is asked in place of the endpoint.
"""

from __future__ import annotations

import asyncio
import copy
import hashlib
import threading
import weakref
from collections.abc import Awaitable, Callable, Generator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar
from urllib.parse import urlsplit

from moorline import telemetry
from moorline.calls.call import Call
from moorline.calls.dialects import BearerKey, Endpoints
from moorline.calls.exchange import Exchange
from moorline.calls.faults import ErrorMap
from moorline.calls.lru import Lru
from moorline.calls.service import Service
from moorline.calls.tokens import Grant, RefreshToken, Request, Token, TokenService, token_of
from moorline.errors import (
    AuthenticationFailed,
    CallError,
    ConfigurationError,
    DeadlineExceeded,
    InvalidRequest,
    ServiceUnavailable,
)
from moorline.policies.deadline import remaining
from moorline.policies.policy import Policy
from moorline.secrets.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moorline.calls.guards import Guards

__all__ = ["Asking", "TokenKeeper", "Tokens"]

T = TypeVar("T")

_EARLY: Final = 300.0  # seconds before its end from which a token is renewed, or a tenth of its life if that is less
_AGAIN_AFTER: Final = 30.0
_MOST: Final = 10_000  # accounts of a process: each tenant may have one
_PATIENCE: Final = Policy(deadline=15.0, attempt_timeout=5.0)
_log: Final = telemetry.logger("calls")


class Asking(Protocol):
    """Makes the Call that asks for a token, with *refresh* in place of the configured refresh token, and gives what
    *made* makes of it. Raises ConfigurationError for a credential that cannot be used.
    """

    @property
    def refreshes(self) -> bool:
        """Whether it is a refresh token that is configured, and nothing that asks anew each time."""
        ...

    def __call__(self, refresh: Secret | None, made: Callable[[Token], T]) -> Call[T]:
        """The Call."""
        ...


class TokenKeeper(Protocol):
    """Where the tokens of services are kept for all processes of an application, and by whom one of them is asked for.

    *account* tells the accounts of a *service* apart: a hash, which shows nothing. *refused* is a token that the
    service would not take any more.
    """

    def token(self, service: str, account: str, ask: Asking, refused: Secret | None) -> Token | None:
        """A token that is good: one that is kept, or the one that *ask* got now. None where nothing can be kept at this
        moment. Raises CallError as *ask* does.
        """
        ...

    async def token_async(self, service: str, account: str, ask: Asking, refused: Secret | None) -> Token | None:
        """As ``token``, on an event loop."""
        ...


class _Endpoint(Service):
    """The place where tokens are had, as a service of its own: its failures do not count against the other."""

    category = "tokens"
    endpoints = Endpoints("https://tokens.invalid")  # never used: each request names its own
    credentials = BearerKey(env="")
    errors = ErrorMap(
        code="error|category|status",  # HubSpot's are as its other errors
        message="error_description|message",
        kinds={
            **dict.fromkeys(("invalid_client", "invalid_grant", "unauthorized_client"), AuthenticationFailed),
            **dict.fromkeys(("invalid_request", "invalid_scope", "unsupported_grant_type"), InvalidRequest),
        },
        statuses={400: AuthenticationFailed},  # in words of its own: what it was shown is all that there is to refuse
    )

    def __init__(self, owner: Service, origin: str) -> None:
        self.name = owner.name  # type: ignore[misc]
        options = {"guards": owner.guards, "clock": owner.clock, "wire": owner.wire, "addresses": owner.addresses}
        super().__init__(policy=_PATIENCE, max_body=100_000, base_url=origin, **options)  # type: ignore[arg-type]

    def _guard_name(self, base: str) -> str:
        return f"{super()._guard_name(base)} tokens"

    def key(self) -> Secret:
        """None: the request proves itself."""
        return _NOTHING

    def authorized(
        self,
        key: Secret,  # noqa: ARG002
        method: str,  # noqa: ARG002
        url: str,  # noqa: ARG002
        headers: dict[str, str],
        body: bytes | None,  # noqa: ARG002
    ) -> dict[str, str]:
        """*headers* themselves."""
        return headers

    def asked(self, request: Request, made: Callable[[Token], T]) -> Call[T]:
        """The Call that fetches a token."""
        read = request.read or token_of

        def parse(exchange: Exchange) -> T:
            return made(read(exchange))

        plan = self.post(
            request.url, form=request.form, json=request.json, headers=request.headers, parse=parse, repeatable=True
        )
        return Call.of(self, "token", plan, (), {})


_NOTHING: Final = Secret("none: the request proves itself")


@dataclass(frozen=True, slots=True)
class _Held:
    token: Token
    until: float  # on the monotonic clock
    early: float


class _Account:
    """The token of one account in this process, and the request for it that is under way."""

    __slots__ = ("flight", "followed", "held", "lock", "refused", "tried", "wire")

    def __init__(self, wire: object) -> None:
        self.wire = wire  # kept, so that no other object has its id
        self.held: _Held | None = None
        self.followed: Secret | None = None  # the refresh token that came in place of the configured one
        self.refused: Secret | None = None
        self.tried = -_AGAIN_AFTER
        self.lock = threading.Lock()  # held for a moment, never while something is awaited
        self.flight: Future[None] | None = None

    def good(self, now: float) -> bool:
        """Whether there is a token that may be sent."""
        return self.held is not None and now < self.held.until

    def wanted(self, now: float) -> bool:
        """Whether it is time to ask for another one."""
        held = self.held
        if held is None or now >= held.until:
            return True
        return (held.token.unsaved or now >= held.until - held.early) and now >= self.tried + _AGAIN_AFTER

    def board(self, now: float) -> tuple[Future[None], bool] | None:
        """The request that is under way, and whether the caller has to make it; None: there is no need to wait."""
        with self.lock:
            if not self.wanted(now):
                return None
            if self.flight is not None:
                return None if self.good(now) else (self.flight, False)
            self.flight = Future()
            self.flight.set_running_or_notify_cancel()  # so that no waiter can cancel it for the others
            return self.flight, True

    def keep(self, token: Token) -> None:
        """The *token* is the newest."""
        early = min(_EARLY, token.lasts / 10)
        self.refused = None
        self.held = _Held(token, self.tried + token.lasts, early)

    def drop(self, refused: Secret, now: float) -> None:
        """Another token than that is wanted. One that was refused right after it was made is no old one: the storm
        would only move to where tokens are had.
        """
        held = self.held
        if held is not None and held.token.secret == refused and now >= self.tried + _AGAIN_AFTER:
            self.refused, self.held = refused, _Held(held.token, now, held.early)

    @contextmanager
    def flown(self, flight: Future[None]) -> Iterator[None]:
        """Wake all who wait at the end; they get the error too, if it would have been everybody's."""
        shared: CallError | None = None
        try:
            yield
        except CallError as error:
            shared = None if isinstance(error, DeadlineExceeded) else error
            raise
        finally:
            with self.lock:
                self.flight = None
            if shared is None:
                flight.set_result(None)
            else:
                flight.set_exception(shared)


_accounts: Final[weakref.WeakKeyDictionary[Guards, Lru[tuple[str, int, int], _Account]]] = weakref.WeakKeyDictionary()
_lock: Final = threading.Lock()


def _account(owner: Service, digest: str, known: _Account | None = None) -> _Account:
    """That of all objects which share guards, clock and, where it is an object of its own, the wire. *known* stands for
    that digest, too, from now on.
    """
    wire = None if owner.wire is None or isinstance(owner.wire, str) else owner.wire
    place = digest, id(wire), id(owner.clock)
    with _lock:
        accounts = _accounts.get(owner.guards)
        if accounts is None:
            accounts = _accounts[owner.guards] = Lru("tokens", max_bytes=_MOST, max_entries=_MOST)
        found = known or accounts.get(place)
        if found is None or known is not None:
            found = found or _Account((wire, owner.clock))
            accounts.put(place, found, 1)
        return found


class Tokens:
    """The token of one service object: that of its account. For the object's requests: see ``FetchedKey``.

    From five minutes before its end (or the last tenth of its life) a new one is fetched; as long as that fails, the
    old one serves until it ends. *keeper* keeps it for other processes.
    """

    def __init__(self, owner: TokenService, grant: Grant) -> None:
        self.keeper: TokenKeeper | None = None
        self._owner = owner
        self._grant = grant
        self._endpoints: dict[str, _Endpoint] = {}  # by their origins
        self._now: tuple[Secret, tuple[str, ...], str, _Account] | None = None

    def __repr__(self) -> str:
        return f"<token of {self._owner.name}>"

    def current(self) -> Secret:
        """The token that was fetched last. Raises ConfigurationError where none was."""
        fixed = self._owner.without_token()
        if fixed is not None:
            return fixed
        held = None if self._now is None else self._now[3].held
        if held is None:
            raise ConfigurationError(f"{self._owner.name} has no access token yet")
        return held.token.secret

    @property
    def site(self) -> str:
        """Where the token that was fetched last is to be used; empty where its answer did not say."""
        held = None if self._now is None else self._now[3].held
        return "" if held is None else held.token.site

    def ready(self) -> None:
        """Fetch a token unless there is one that is good. Raises CallError, ConfigurationError."""
        if self._owner.without_token() is None and self._wanted():
            steps = self._steps()
            answer: Callable[[], _Step] = steps.__next__
            while (step := _next(answer)) is not None:
                try:
                    found = step.now()
                except BaseException as error:  # noqa: BLE001 -- it is theirs, whatever it is
                    answer = _thrown(steps, error)
                else:
                    answer = _sent(steps, found)

    async def ready_async(self) -> None:
        """As ``ready``, on an event loop."""
        if self._owner.without_token() is None and self._wanted():
            steps = self._steps()
            answer: Callable[[], _Step] = steps.__next__
            while (step := _next(answer)) is not None:
                try:
                    found = await step.later()
                except BaseException as error:  # noqa: BLE001 -- it is theirs, a cancellation included
                    answer = _thrown(steps, error)
                else:
                    answer = _sent(steps, found)

    def newer(self, refused: Secret, timeout: float | None = None) -> bool:  # noqa: ARG002 (bounded by its deadline)
        """Whether there is another token than *refused*, which the service would not take."""
        self._drop(refused)
        self.ready()
        return self.current() != refused

    async def newer_async(self, refused: Secret) -> bool:
        """As ``newer``, on an event loop."""
        self._drop(refused)
        await self.ready_async()
        return self.current() != refused

    def close(self) -> None:
        """Close the connections of blocking calls."""
        for endpoint in self._endpoints.values():
            endpoint.close()

    async def aclose(self) -> None:
        """Close all connections."""
        for endpoint in self._endpoints.values():
            await endpoint.aclose()

    def _drop(self, refused: Secret) -> None:
        if self._now is not None:
            self._now[3].drop(refused, self._owner.clock.monotonic())

    def _wanted(self) -> bool:
        return self._current()[3].wanted(self._owner.clock.monotonic())

    def _current(self) -> tuple[Secret, tuple[str, ...], str, _Account]:
        """The configured credential, what it is for, and the account that both stand for."""
        secret = self._owner.secret()
        parts = self._grant.account(self._owner, secret)
        known = self._now
        if known is not None and (known[0] is secret or known[0] == secret) and known[1] == parts:
            return known
        digest = _digest(self._owner.name, secret, parts)
        self._now = known = secret, parts, digest, _account(self._owner, digest)
        return known

    # --- the steps

    def _steps(self) -> Generator[_Step, Any, None]:
        clock = self._owner.clock
        while True:
            secret, _, digest, account = self._current()
            boarded = account.board(clock.monotonic())
            if boarded is None:
                return
            flight, leads = boarded
            if not leads:
                yield _Wait(flight, self._owner)
                continue
            with account.flown(flight):
                try:
                    yield from self._renewed(secret, digest, account)
                except CallError as error:
                    if not account.good(clock.monotonic()):
                        raise
                    _log.warning("token_not_renewed", service=self._owner.name, reason=error.message)
            return

    def _renewed(self, secret: Secret, digest: str, account: _Account) -> Generator[_Step, Any, None]:
        account.tried = self._owner.clock.monotonic()
        asking = _Asks(self, secret, account)
        token: Token | None = None
        keeper = None if self._owner.keeps_successors() else self.keeper
        if keeper is not None:
            token = yield _Kept(keeper, self._owner.name, digest, asking, account.refused)
            if token is None and self._must_be_kept(account):
                raise ServiceUnavailable(
                    "the database that keeps its refresh token is away, and the token is good for one use",
                    outcome="not_sent", retryable=True,
                )  # fmt: skip
        if token is None:
            token = yield _Ask(asking(None, _same))
        account.keep(token)
        self._follow(secret, account, token.successor)

    def _must_be_kept(self, account: _Account) -> bool:
        """Whether another refresh token comes with each token, and the one before is of no more use."""
        grant = self._grant
        return account.followed is not None or (isinstance(grant, RefreshToken) and grant.single_use)

    def _follow(self, secret: Secret, account: _Account, successor: Secret | None) -> None:
        if successor is None or successor in (secret, account.followed):
            return
        account.followed = successor
        # Where its source keeps it, it is what is configured from now on, and no other account for that.
        digest = _digest(self._owner.name, successor, self._grant.account(self._owner, successor))
        _account(self._owner, digest, account)
        self._owner.renewed_credential(successor)

    def _asked(self, secret: Secret, made: Callable[[Token], T]) -> Call[T]:
        request = self._grant.request(self._owner, secret, self._owner.clock.wall())
        parts = urlsplit(request.url)
        origin = f"{parts.scheme}://{parts.netloc}"
        if origin not in self._endpoints:
            self._endpoints[origin] = _Endpoint(self._owner, origin)
        return self._endpoints[origin].asked(request, made)


def _digest(service: str, secret: Secret, parts: tuple[str, ...]) -> str:
    """The same in each process. What services hand out as a credential is random and long: it is not to be guessed."""
    whole = hashlib.sha256(b"moorline account\0")
    for part in (service, secret.reveal(), *parts):
        whole.update(len(part).to_bytes(4, "big") + part.encode())
    return whole.hexdigest()[:40]


def _same(token: Token) -> Token:
    return token


def _next(answer: Callable[[], _Step]) -> _Step | None:
    try:
        return answer()
    except StopIteration:
        return None


def _sent(steps: Generator[_Step, Any, None], answer: Any) -> Callable[[], _Step]:
    return lambda: steps.send(answer)


def _thrown(steps: Generator[_Step, Any, None], error: BaseException) -> Callable[[], _Step]:
    return lambda: steps.throw(error)


class _Step(Protocol):
    def now(self) -> Any: ...

    def later(self) -> Awaitable[Any]: ...


@dataclass(frozen=True, slots=True)
class _Asks:
    tokens: Tokens
    secret: Secret
    account: _Account

    @property
    def refreshes(self) -> bool:
        return isinstance(self.tokens._grant, RefreshToken)  # noqa: SLF001 (its own part)

    def __call__(self, refresh: Secret | None, made: Callable[[Token], T]) -> Call[T]:
        return self.tokens._asked(refresh or self.account.followed or self.secret, made)  # noqa: SLF001 (its own part)


@dataclass(frozen=True, slots=True)
class _Ask:
    call: Call[Token]

    def now(self) -> Token:
        return self.call.result()

    async def later(self) -> Token:
        return await self.call


@dataclass(frozen=True, slots=True)
class _Kept:
    keeper: TokenKeeper
    service: str
    account: str
    ask: Asking
    refused: Secret | None

    def now(self) -> Token | None:
        return self.keeper.token(self.service, self.account, self.ask, self.refused)

    async def later(self) -> Token | None:
        return await self.keeper.token_async(self.service, self.account, self.ask, self.refused)


@dataclass(frozen=True, slots=True)
class _Wait:
    """For another's request, no longer than the caller has time. Raises what it failed with."""

    flight: Future[None]
    owner: Service

    def now(self) -> None:
        try:
            self.flight.result(remaining(clock=self.owner.clock))
        except CallError as error:
            raise copy.copy(error) from error
        except TimeoutError:
            raise self._late() from None

    async def later(self) -> None:
        try:
            async with asyncio.timeout(remaining(clock=self.owner.clock)):
                await asyncio.wrap_future(self.flight)
        except CallError as error:
            raise copy.copy(error) from error
        except TimeoutError:
            raise self._late() from None

    def _late(self) -> DeadlineExceeded:
        return DeadlineExceeded("its token was not there within the deadline", outcome="not_sent")
