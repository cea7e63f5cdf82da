"""Which keys a service accepts, on request: for rotations, in which the old one, both and the new one are good in turn.

By default each stand-in accepts what its page says. A list of keys narrows that: a request that shows none of them gets
the stand-in's own answer to a status of 401.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from typing import Any

from moorline.errors import ConfigurationError

__all__ = ["Accepted"]

_MOST = 100


class Accepted:
    """The lists, by service, and how often a request was refused for them."""

    def __init__(self) -> None:
        self._keys: dict[str, frozenset[str]] = {}
        self._refused: dict[str, int] = {}

    def narrow(self, service: str, record: Mapping[str, Any]) -> None:
        """From now on only the keys in ``accepted`` are good. Raises ConfigurationError naming the key."""
        given = record.get("accepted")
        if not isinstance(given, list) or len(given) > _MOST or not all(isinstance(one, str) and one for one in given):
            raise ConfigurationError(f"keys: 'accepted' must be a list of up to {_MOST} texts")
        self._keys[service] = frozenset(given)

    def widen(self, service: str | None) -> int:
        """As without a list, for one service or all; how many lists there were."""
        gone = [one for one in self._keys if service in (None, one)]
        for one in gone:
            del self._keys[one]
        return len(gone)

    def refuses(self, service: str, headers: Mapping[str, str]) -> bool:
        """Whether a request is refused; it is counted."""
        accepted = self._keys.get(service)
        if accepted is None or not accepted.isdisjoint(_shown(headers)):
            return False
        self._refused[service] = self._refused.get(service, 0) + 1
        return True

    def listing(self) -> dict[str, Any]:
        """The lists and counts, as JSON."""
        return {
            service: {"accepted": sorted(keys), "refused": self._refused.get(service, 0)}
            for service, keys in self._keys.items()
        }


def _shown(headers: Mapping[str, str]) -> Iterator[str]:
    """What may be the key of a request: each header's value, what ``Authorization`` shows, the parts of Basic."""
    yield from headers.values()
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    yield credentials
    if scheme.lower() == "basic":
        try:
            yield from base64.b64decode(credentials, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return
