"""The access tokens of a process: one for each account, whichever service objects want it, and one request for it.

An account is what the same service, grant, credential, address, client and rights stand for (``Grant.account``).
Objects of it on the same guards share its token: fetched once for all who wait, on threads and loops, anew when the
credential changes, and renewed before its end. A request that is under way goes on when who began it has gone: with the
token may come a refresh token, in place of one that is good no more. The request for a token has a breaker and limits
of its own, so that a token endpoint that is down is told apart from a service that is.

Where other processes are to have the token too, a :class:`TokenKeeper` is asked in place of the endpoint.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol, TypeVar
from urllib.parse import urlsplit

from moorline import telemetry
from moorline.calls.call import Call
from moorline.calls.flight import Flight, Start, Wait
from moorline.calls.token_accounts import TokenAccount, account_of, digest_of
from moorline.calls.token_endpoint import TokenEndpoint
from moorline.calls.tokens import Grant, RefreshToken, Token, TokenService
from moorline.errors import AuthenticationFailed, CallError, ConfigurationError, ServiceUnavailable
from moorline.secrets.secret import Secret

__all__ = ["Asking", "TokenKeeper", "Tokens"]

T = TypeVar("T")

_PATIENCE: Final = 20.0  # seconds: longer than a request for a token takes
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


class Tokens:
    """The token of one service object: that of its account. For the object's requests: see ``FetchedKey``.

    From five minutes before its end (or the last tenth of its life) a new one is fetched; as long as that fails, the
    old one serves until it ends. *keeper* keeps it for other processes.
    """

    def __init__(self, owner: TokenService, grant: Grant) -> None:
        self.keeper: TokenKeeper | None = None
        self._owner = owner
        self._grant = grant
        self._endpoints: dict[str, TokenEndpoint] = {}  # by their origins
        self._now: tuple[Secret, tuple[str, ...], str, TokenAccount] | None = None

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
            _perform(self._steps())

    async def ready_async(self) -> None:
        """As ``ready``, on an event loop."""
        if self._owner.without_token() is None and self._wanted():
            await _perform_async(self._steps())

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
        if (flight := self._bringing()) is not None:
            flight.linger(_PATIENCE)
        for endpoint in self._endpoints.values():
            endpoint.close()

    async def aclose(self) -> None:
        """Close all connections."""
        if (flight := self._bringing()) is not None:
            await asyncio.to_thread(flight.linger, _PATIENCE)
        for endpoint in self._endpoints.values():
            await endpoint.aclose()

    def _bringing(self) -> Flight[bool] | None:
        """The request under way that may bring another refresh token in place of the one that it shows, and is to end
        before what it needs is closed.
        """
        return self._now[3].flight if self._now is not None and isinstance(self._grant, RefreshToken) else None

    def _drop(self, refused: Secret) -> None:
        if self._now is not None:
            self._now[3].drop(refused, self._owner.clock.monotonic())

    def _wanted(self) -> bool:
        return self._current()[3].wanted(self._owner.clock.monotonic())

    def _current(self) -> tuple[Secret, tuple[str, ...], str, TokenAccount]:
        """The configured credential, what it is for, and the account that both stand for."""
        secret = self._owner.secret()
        parts = self._grant.account(self._owner, secret)
        known = self._now
        if known is not None and (known[0] is secret or known[0] == secret) and known[1] == parts:
            return known
        digest = digest_of(self._owner.name, secret, parts)
        self._now = known = secret, parts, digest, account_of(self._owner, digest)
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
            if leads:
                flown = partial(self._flown, flight, secret, digest, account)
                yield Start(flight, lambda: _perform(flown()), lambda: _perform_async(flown()))  # noqa: B023 (at once)
            if not (yield Wait(flight, clock)):
                account.given_up(flight)
            elif flight.outcome and leads:
                return  # who did not begin it looks again: it may have had its token some time ago

    def _flown(
        self, flight: Flight[bool], secret: Secret, digest: str, account: TokenAccount
    ) -> Generator[_Step, Any, bool]:
        """Renew it; False where the credential was refused, and there is another one."""
        try:
            yield from self._renewed(secret, digest, account)
        except CallError as error:
            if self._is_refused(secret, account, error):
                return False
            if not account.good(self._owner.clock.monotonic()):
                raise
            _log.warning("token_not_renewed", service=self._owner.name, reason=error.message)
        finally:
            account.given_up(flight)
        return True

    def _is_refused(self, secret: Secret, account: TokenAccount, error: CallError) -> bool:
        """Whether the credential itself was refused, and there is another accepted version to ask with."""
        if not isinstance(error, AuthenticationFailed) or account.followed is not None:
            return False
        return self._owner.refused(secret)

    def _renewed(self, secret: Secret, digest: str, account: TokenAccount) -> Generator[_Step, Any, None]:
        account.tried = self._owner.clock.monotonic()
        asking = _Asks(self, secret, account)
        token: Token | None = None
        keeper = None if self._owner.keeps_successors() else self.keeper
        if keeper is not None:
            token = yield _Kept(keeper, self._owner.name, digest, asking, account.refused)
            if token is None and self._must_be_kept(account):
                raise ServiceUnavailable(
                    "the database that keeps its refresh token is away or not open, and the token is good for one use",
                    outcome="not_sent", retryable=True,
                )  # fmt: skip
        if token is None:
            token = yield _Ask(asking(None, _same))
        account.keep(token)
        self._follow(secret, account, token.successor)

    def _must_be_kept(self, account: TokenAccount) -> bool:
        """Whether another refresh token comes with each token, and the one before is of no more use."""
        grant = self._grant
        return account.followed is not None or (isinstance(grant, RefreshToken) and grant.single_use)

    def _follow(self, secret: Secret, account: TokenAccount, successor: Secret | None) -> None:
        if successor is None or successor in (secret, account.followed):
            return
        account.followed = successor
        # Where its source keeps it, it is what is configured from now on, and no other account for that.
        digest = digest_of(self._owner.name, successor, self._grant.account(self._owner, successor))
        account_of(self._owner, digest, account)
        self._owner.renewed_credential(successor)

    def _asked(self, secret: Secret, made: Callable[[Token], T]) -> Call[T]:
        request = self._grant.request(self._owner, secret, self._owner.clock.wall())
        parts = urlsplit(request.url)
        origin = f"{parts.scheme}://{parts.netloc}"
        if origin not in self._endpoints:
            self._endpoints[origin] = TokenEndpoint(self._owner, origin)
        return self._endpoints[origin].asked(request, made)


def _same(token: Token) -> Token:
    return token


def _perform(steps: Generator[_Step, Any, T]) -> T:
    answer: Callable[[], _Step] = steps.__next__
    while True:
        try:
            step = answer()
        except StopIteration as end:
            result: T = end.value
            return result
        try:
            answer = _sent(steps, step.now())
        except BaseException as error:  # noqa: BLE001 -- it is theirs, whatever it is
            answer = _thrown(steps, error)


async def _perform_async(steps: Generator[_Step, Any, T]) -> T:
    answer: Callable[[], _Step] = steps.__next__
    while True:
        try:
            step = answer()
        except StopIteration as end:
            result: T = end.value
            return result
        try:
            answer = _sent(steps, await step.later())
        except BaseException as error:  # noqa: BLE001 -- it is theirs, a cancellation included
            answer = _thrown(steps, error)


def _sent(steps: Generator[_Step, Any, Any], answer: Any) -> Callable[[], _Step]:
    return lambda: steps.send(answer)


def _thrown(steps: Generator[_Step, Any, Any], error: BaseException) -> Callable[[], _Step]:
    return lambda: steps.throw(error)


class _Step(Protocol):
    def now(self) -> Any: ...

    def later(self) -> Awaitable[Any]: ...


@dataclass(frozen=True, slots=True)
class _Asks:
    tokens: Tokens
    secret: Secret
    account: TokenAccount

    @property
    def refreshes(self) -> bool:
        return isinstance(self.tokens._grant, RefreshToken)  # noqa: SLF001 (its own part)

    def __call__(self, refresh: Secret | None, made: Callable[[Token], T]) -> Call[T]:
        def counted(token: Token) -> T:
            if self.secret.tally is not None:
                self.secret.tally.worked(self.tokens._owner.clock.wall())  # noqa: SLF001 (its own part)
            return made(token)

        return self.tokens._asked(refresh or self.account.followed or self.secret, counted)  # noqa: SLF001 (its own part)


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
