"""The device flow (RFC 8628): an account is connected by somebody without a browser here: a terminal, a machine, a bot.

``begin`` gets a code that the user types in at the provider's page, wherever a browser is; ``finish`` asks until they
have consented, no more often than the provider wants. What comes after an answer is decided by :func:`after`, and
nothing is sent there.

By hand, as Authlib has the server's side of it alone.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar, cast

from moorline.calls.dialects import base_address
from moorline.errors import (
    BadAnswer,
    CallError,
    ConfigurationError,
    LimitFault,
    NetworkFault,
    ServiceFault,
    SignInFailed,
)
from moorline.identity.connection import Connection
from moorline.identity.flow import word
from moorline.identity.oauth import Received
from moorline.secrets.secret import Secret
from moorline.store.steps import perform, perform_sync

if TYPE_CHECKING:
    from moorline.calls.call import Call
    from moorline.calls.exchange import Exchange
    from moorline.clock import Clock
    from moorline.identity.connector import ConnectDesk
    from moorline.identity.vault import Vault

__all__ = ["DeviceCode", "DeviceFlow", "after", "device_code"]

T = TypeVar("T")
Steps: TypeAlias = "Generator[Any, Any, T]"

GRANT: Final = "urn:ietf:params:oauth:grant-type:device_code"
_INTERVAL: Final = 5.0  # seconds, where the provider names none (section 3.2)
_SLOWER: Final = 5.0  # seconds more after each slow_down (section 3.5)
_LONGEST: Final = 4096
_LONGEST_CODE: Final = 64
_LONGEST_LIFE: Final = 86_400.0
_LONGEST_INTERVAL: Final = 300.0
_DENIED: Final = frozenset({"access_denied", "authorization_declined"})  # the latter is Microsoft's


@dataclass(frozen=True, slots=True)
class DeviceCode:
    """What the user is shown: type *user_code* at *verification_uri*, or open *complete* (a QR code; empty: there is
    none). They have until *ends_at*, and the provider is asked next at *next_at* (seconds since the epoch). *scopes*
    are what is asked for.
    """

    user_code: str
    verification_uri: str
    complete: str
    ends_at: float
    next_at: float
    interval: float
    scopes: tuple[str, ...] = ()
    device_code: Secret = field(kw_only=True, repr=False)


def device_code(answer: Any, now: float, scopes: Iterable[str] = ()) -> DeviceCode:
    """The codes in an answer (section 3.2) that came *now*. Raises BadAnswer, which holds none of them."""
    if not isinstance(answer, Mapping):
        raise BadAnswer("the answer is no object")
    secret, shown = _text(answer.get("device_code"), _LONGEST), _text(answer.get("user_code"), _LONGEST_CODE)
    # Google's name is another one (unconfirmed).
    uri = _address(answer.get("verification_uri", answer.get("verification_url")))
    whole = answer.get("verification_uri_complete")
    lasts, interval = _number(answer.get("expires_in")), _number(answer.get("interval", _INTERVAL))
    if secret is None or shown is None:
        raise BadAnswer("the answer has no codes")
    if lasts is None or interval is None or not lasts > 0 or not 0 <= interval <= _LONGEST_INTERVAL:
        raise BadAnswer("the answer does not say for how long the codes are good, and how often to ask")
    seconds = max(interval, 1.0)
    return DeviceCode(
        shown, uri, "" if whole is None else _address(whole), now + min(lasts, _LONGEST_LIFE), now + seconds, seconds,
        tuple(scopes), device_code=Secret(secret, name="a device code"),
    )  # fmt: skip


def after(code: DeviceCode, error: CallError, now: float) -> DeviceCode:
    """How it goes on after the provider has answered *error*, or nothing, *now* (section 3.5).

    ``authorization_pending``: the user is not ready. ``slow_down``: five seconds more between two questions from now
    on, or what the answer names (GitHub). Where it cannot be reached or cannot answer, the time between is doubled.
    Raises SignInFailed where the user has refused (``denied``), or the codes are over (``expired``), and *error* for
    anything else.
    """
    told = error.code or ""
    if told == "authorization_pending":
        return _later(code, now, code.interval)
    if told == "slow_down":
        return _later(code, now, max(code.interval + _SLOWER, _told_interval(error)))
    if told in _DENIED:
        raise SignInFailed("the user has refused", reason="denied", code=word(told)) from error
    if told == "expired_token":
        raise _expired() from error
    if isinstance(error, (NetworkFault, ServiceFault, LimitFault)) and not isinstance(error, BadAnswer):
        return _later(code, max(now, (error.retry_at or now) - code.interval), code.interval * 2)
    raise error


def _later(code: DeviceCode, now: float, interval: float) -> DeviceCode:
    seconds = min(interval, max(_LONGEST_INTERVAL, code.interval))
    return replace(code, next_at=now + seconds, interval=seconds)


def _expired() -> SignInFailed:
    return SignInFailed("the user has not consented in time", reason="expired")


def _told_interval(error: CallError) -> float:
    return (_number(error.detail.get("interval")) if isinstance(error.detail, Mapping) else None) or 0.0


class DeviceFlow:
    """Connects accounts at the service that *desk* asks, by the device flow, and keeps them in *vault*. In two colours.

    Raises ConfigurationError for a service that does not know it.
    """

    def __init__(self, desk: ConnectDesk, vault: Vault) -> None:
        if not desk.oauth.device:
            raise ConfigurationError(f"{desk.provider.name} knows no device flow")
        self._desk = desk
        self._vault = vault
        self._clock = vault.store.clock

    def __repr__(self) -> str:
        return f"<device flow of {self._desk.provider.name}>"

    async def begin(self, scopes: Iterable[str] = ()) -> DeviceCode:
        """Get the codes, for *scopes* besides those that are always asked for. Raises CallError, ConfigurationError."""
        return await self._beginning(tuple(scopes))

    def begin_sync(self, scopes: Iterable[str] = ()) -> DeviceCode:
        """As ``begin``, blocking."""
        return self._beginning(tuple(scopes)).result()

    async def poll(self, code: DeviceCode) -> Received | DeviceCode:
        """Ask once whether the user has consented. If not, the *code* as it goes on: ask again at its ``next_at``, with
        it; before that nothing is asked.

        Raises SignInFailed (``denied``, ``expired``), CallError, ConfigurationError.
        """
        return await perform(cast("Any", None), self._polled(code))

    def poll_sync(self, code: DeviceCode) -> Received | DeviceCode:
        """As ``poll``, blocking."""
        return perform_sync(cast("Any", None), self._polled(code))

    async def finish(self, code: DeviceCode) -> Received:
        """Ask until the user has consented. Raises as ``poll``."""
        return await perform(cast("Any", None), self._finished(code))

    def finish_sync(self, code: DeviceCode) -> Received:
        """As ``finish``, blocking."""
        return perform_sync(cast("Any", None), self._finished(code))

    async def connect(self, owner: str, code: DeviceCode) -> Connection:
        """As ``finish``, and keep what was granted as a connection of that *owner*. Raises StoreError as well."""
        received = await self.finish(code)
        return await self._vault.keep(owner, self._desk.provider.name, received.granted, account=received.account)

    def connect_sync(self, owner: str, code: DeviceCode) -> Connection:
        """As ``connect``, blocking."""
        received = self.finish_sync(code)
        return self._vault.keep_sync(owner, self._desk.provider.name, received.granted, account=received.account)

    # --- the steps

    def _beginning(self, wanted: tuple[str, ...]) -> Call[DeviceCode]:
        desk = self._desk
        scopes = desk.oauth.asking((), (*desk.provider.wanted, *wanted))

        def parse(exchange: Exchange) -> DeviceCode:
            return device_code(exchange.data, self._clock.wall(), scopes)

        return desk.asked(desk.provider.placed(desk.oauth.device), desk.provider.asking(scopes), parse)

    def _polled(self, code: DeviceCode) -> Steps[Received | DeviceCode]:
        now = self._clock.wall()
        if now >= code.ends_at:
            raise _expired()
        if now < code.next_at:
            return code
        form = {"grant_type": GRANT, "device_code": code.device_code.reveal()}
        asked = self._desk.asked(self._desk.provider.places.token, form, self._read)
        try:
            received: Received = yield _Ask(asked.using(retry=None))  # when it is asked again is said here alone
        except CallError as error:
            return after(code, error, self._clock.wall())
        granted = received.granted
        if granted.scopes is None:
            granted = replace(granted, scopes=frozenset(code.scopes))
        account = received.account
        if where := self._desk.provider.places.userinfo:
            account = self._desk.oauth.account_in((yield _Ask(self._desk.told(where, granted.tokens.access))))
        return Received(granted, account)

    def _finished(self, code: DeviceCode) -> Steps[Received]:
        while True:
            if code.next_at >= code.ends_at:
                raise _expired()
            yield _Pause(self._clock, code.next_at - self._clock.wall())
            found = yield from self._polled(code)
            if isinstance(found, Received):
                return found
            code = found

    def _read(self, exchange: Exchange) -> Received:
        return self._desk.oauth.received(exchange.data)


@dataclass(frozen=True, slots=True)
class _Ask:
    call: Call[Any]

    def now(self, _: object) -> Any:
        return self.call.result()

    async def later(self, _: object) -> Any:
        return await self.call


@dataclass(frozen=True, slots=True)
class _Pause:
    clock: Clock
    seconds: float

    def now(self, _: object) -> None:
        if self.seconds > 0:
            self.clock.sleep(self.seconds)

    async def later(self, _: object) -> None:
        if self.seconds > 0:
            await self.clock.asleep(self.seconds)


def _address(value: object) -> str:
    """One that may be shown to a user, to be opened."""
    if not isinstance(value, str) or not value.isascii() or not value.isprintable() or len(value) > _LONGEST:
        raise BadAnswer("the answer does not say where the user has to go")
    try:
        base_address(value.partition("?")[0], "verification_uri")
    except ConfigurationError as error:
        raise BadAnswer(f"the answer leads to no place for a user: {error}") from None
    return value


def _text(value: object, longest: int) -> str | None:
    good = isinstance(value, str) and 0 < len(value) <= longest and value.isprintable() and value.strip()
    return str(value) if good else None


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
