"""What is kept of an account that somebody has connected, and when its token is to be refreshed. Decisions only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

from moorline.errors import DecryptionFailed
from moorline.secrets.secret import Secret

__all__ = ["Connection", "Granted", "State", "Tokens", "What", "place_of", "refresh_at"]

State: TypeAlias = Literal["good", "ended", "revoking"]
What: TypeAlias = Literal["connected", "ended", "reduced", "disconnected"]
"""What becomes of a connection: made or made again; over; good for less than before; taken back."""

_EARLIEST: Final = 300.0  # seconds before its end from which a token is refreshed
_SHARE: Final = 0.2  # of its life, if that is less
_SPREAD: Final = 0.5  # of that time, by which connections differ


@dataclass(frozen=True, slots=True)
class Tokens:
    """What opens an account. *extra* are the provider's further answers that calls need (``instance_url``); *grant* is
    what is asked with anew, where there is no refresh token: see :mod:`.grants`.
    """

    access: Secret
    refresh: Secret | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    grant: Mapping[str, Any] | None = field(default=None, repr=False)

    def to_bytes(self) -> bytes:
        """In the clear: to be encrypted at once."""
        held = {
            "access": self.access.reveal(),
            "refresh": None if self.refresh is None else self.refresh.reveal(),
            "extra": dict(self.extra),
        }
        if self.grant is not None:
            held["grant"] = dict(self.grant)
        return json.dumps(held, separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, plain: bytes) -> Tokens:
        """What ``to_bytes`` gave. Raises DecryptionFailed for anything else."""
        try:
            held = json.loads(plain)
            refresh = held["refresh"]
            found = Secret(held["access"], name="an access token")
            following = None if refresh is None else Secret(refresh, name="a refresh token")
            return cls(found, following, held["extra"], held.get("grant"))
        except (ValueError, KeyError, TypeError) as error:
            raise DecryptionFailed(f"what was decrypted are no tokens ({type(error).__name__})") from None


@dataclass(frozen=True, slots=True)
class Granted:
    """What a provider has granted: tokens, for how many seconds the access token is good (None: it does not say), and
    for what (*scopes*; None: as before, or as asked).
    """

    tokens: Tokens
    lasts: float | None = None
    scopes: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Connection:
    """An account at a *service* that an *owner* (a user, a tenant) has connected. Times are seconds since the epoch.

    *account* is who it is there, as the service names it; empty where that is not known. *state* is ``good``, or
    ``ended`` with the *reason*: then the owner has to connect it again; or ``revoking``: its owner has disconnected it,
    and the service is yet to be told. *version* counts the changes of its tokens,
    *refreshing_since* is when a process began to refresh them, *lost_at* when one began of which the end was never
    seen. It holds no token itself.
    """

    id: str
    owner: str
    service: str
    account: str = ""
    scopes: frozenset[str] = frozenset()
    state: State = "good"
    version: int = 1
    expires_at: float | None = None
    refreshing_since: float | None = None
    lost_at: float | None = None
    reason: str | None = None
    created_at: float = 0.0
    updated_at: float = 0.0
    sealed: bytes = field(default=b"", repr=False, compare=False)

    @property
    def place(self) -> str:
        """What its tokens are bound to."""
        return place_of(self)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it; no token."""
        names = ("id", "owner", "service", "account", "state", "reason", "expires_at", "created_at", "updated_at")
        return {**{name: getattr(self, name) for name in names}, "scopes": sorted(self.scopes)}

    def wants_refresh(self, now: float) -> bool:
        """Whether its access token is over, or soon will be."""
        return self.expires_at is not None and now >= refresh_at(self.id, self.updated_at, self.expires_at)

    def is_over(self, now: float) -> bool:
        """Whether its access token is of no more use."""
        return self.expires_at is not None and now >= self.expires_at


def place_of(row: Any) -> str:
    """What the tokens of a connection, or of its row, are bound to."""
    return f"{row.id}\0{row.owner}\0{row.service}\0{row.account}"


def refresh_at(id: str, since: float, until: float) -> float:
    """When a token that is good from *since* to *until* is refreshed: five minutes before its end, or a fifth of its
    life if that is less; up to half of that time earlier, by its *id*, so that those of one hour are spread.
    """
    early = min(_EARLIEST, max(until - since, 0.0) * _SHARE)
    chance = (int(id[-8:], 16) if id else 0) / 0xFFFF_FFFF
    return until - early * (1.0 + _SPREAD * chance)
