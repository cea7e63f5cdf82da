"""The token of one account in this process, shared by all objects of a service for which it is the same."""

from __future__ import annotations

import hashlib
import threading
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from moorline.calls.flight import Flight
from moorline.calls.lru import Lru

if TYPE_CHECKING:
    from moorline.calls.guards import Guards
    from moorline.calls.service import Service
    from moorline.calls.tokens import Token
    from moorline.secrets.secret import Secret

__all__ = ["TokenAccount", "account_of", "digest_of"]

_Known: TypeAlias = "Lru[tuple[str, int, int], TokenAccount]"

_EARLY: Final = 300.0  # seconds before its end from which a token is renewed, or a tenth of its life if that is less
_AGAIN_AFTER: Final = 30.0
_MOST: Final = 10_000  # accounts of a process: each tenant may have one


@dataclass(frozen=True, slots=True)
class _Held:
    token: Token
    until: float  # on the monotonic clock
    early: float


class TokenAccount:
    """The token, if there is one, and the request for it that is under way."""

    __slots__ = ("flight", "followed", "held", "lock", "refused", "tried", "wire")

    def __init__(self, wire: object) -> None:
        self.wire = wire  # kept, so that no other object has its id
        self.held: _Held | None = None
        self.followed: Secret | None = None  # the refresh token that came in place of the configured one
        self.refused: Secret | None = None
        self.tried = -_AGAIN_AFTER
        self.lock = threading.Lock()  # held for a moment, never while something is awaited
        self.flight: Flight[bool] | None = None

    def good(self, now: float) -> bool:
        """Whether there is a token that may be sent."""
        return self.held is not None and now < self.held.until

    def wanted(self, now: float) -> bool:
        """Whether it is time to ask for another one."""
        held = self.held
        if held is None or now >= held.until:
            return True
        return (held.token.unsaved or now >= held.until - held.early) and now >= self.tried + _AGAIN_AFTER

    def board(self, now: float) -> tuple[Flight[bool], bool] | None:
        """The request that is under way, and whether the caller has to begin it; None: there is no need to wait."""
        with self.lock:
            if not self.wanted(now):
                return None
            if self.flight is not None:
                return None if self.good(now) else (self.flight, False)
            self.flight = Flight()
            return self.flight, True

    def given_up(self, flight: Flight[bool]) -> None:
        """Whoever comes next has to ask: it has ended, or whoever asked will not answer any more."""
        with self.lock:
            if self.flight is flight:
                self.flight = None

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


_accounts: Final[weakref.WeakKeyDictionary[Guards, _Known]] = weakref.WeakKeyDictionary()
_lock: Final = threading.Lock()


def account_of(owner: Service, digest: str, known: TokenAccount | None = None) -> TokenAccount:
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
            found = found or TokenAccount((wire, owner.clock))
            accounts.put(place, found, 1)
        return found


def digest_of(service: str, secret: Secret, parts: tuple[str, ...]) -> str:
    """The same in each process. What services hand out as a credential is random and long: it is not to be guessed."""
    whole = hashlib.sha256(b"moorline account\0")
    for part in (service, secret.reveal(), *parts):
        whole.update(len(part).to_bytes(4, "big") + part.encode())
    return whole.hexdigest()[:40]
