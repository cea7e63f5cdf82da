"""What a service fulfils whose API can make and revoke its own keys, so that ``moorline keys rotate`` does it all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from moorline.calls.call import Call
    from moorline.secrets.secret import Secret

__all__ = ["KnowsKeys", "Minted", "MintsKeys"]


@dataclass(frozen=True, slots=True)
class Minted:
    """A key that a service has just made, and shows this once. *id* is what revokes it; *not_after* when it ends
    (seconds since the epoch), where the service says so.
    """

    secret: Secret
    id: str
    not_after: float | None = None


@runtime_checkable
class MintsKeys(Protocol):
    """A service that can make another key like the one that it is asked with, of the same account and rights.

    The key is for the variable that ``credentials`` names.
    """

    def mint_key(self, label: str) -> Call[Minted]:
        """Make a key, called *label* at the service where keys have names: by it one is found whose answer was lost."""
        ...

    def revoke_key(self, id: str) -> Call[bool]:
        """Have the service refuse the key of that id from now on; False where it knew none. Safe to repeat."""
        ...


@runtime_checkable
class KnowsKeys(Protocol):
    """What such a service may fulfil beside it."""

    def find_keys(self, label: str) -> Call[Sequence[str]]:
        """The ids of the keys that are called exactly so."""
        ...

    def key_id(self, secret: Secret) -> str | None:
        """The id of a key, where it can be told from the key itself: for those that somebody else has made."""
        ...
