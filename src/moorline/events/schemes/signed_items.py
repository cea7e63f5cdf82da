"""Each item of a delivery signed by itself, within it."""

from __future__ import annotations

import hmac
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from moorline.errors import ConfigurationError, InvalidSignature, UnusableEvent
from moorline.events.body import pieces, streamed, unambiguous
from moorline.events.scheme import Proof, Scheme
from moorline.events.signatures import Key, accepted, decoded, encoded, hex_key, match
from moorline.events.where import MISSING, deeper

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from moorline.events.delivery import Delivery
    from moorline.events.places import Verified

__all__ = ["SignedItems"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedItems(Scheme):
    """HMAC-SHA256, base64, over the fields ``signed`` of each item with ``:`` between; the key is written in hex.

    ``each`` says where the items lie, ``signature`` the place of its signature in one. Every item must be signed by an
    accepted key. Nothing is escaped, so only the field ``free`` may hold a ``:``: with two of them one text would be
    the signature of several items. Nothing but the listed fields is vouched for. ``otherwise`` checks what holds no
    items.
    """

    signed: tuple[str, ...]
    signature: str
    free: str = ""
    otherwise: Scheme | None = None

    def __post_init__(self) -> None:
        if not self.each or not self.signed:
            raise ConfigurationError("each, signed: say where the items lie, and what is signed of them")

    @property
    def how(self) -> str:
        """See Scheme."""
        own = f"HMAC-SHA256 of `{{{'}:{'.join(self.signed)}}}`, base64, in each item's `{self.signature}`"
        return own if self.otherwise is None else f"{own}; else {self.otherwise.how}"

    @property
    def secret_headers(self) -> tuple[str, ...]:
        """See Scheme."""
        return () if self.otherwise is None else self.otherwise.secret_headers

    def vouches_for(self, place: str) -> bool:
        """The listed fields are signed."""
        return place in self.signed

    def check(
        self,
        delivery: Delivery,
        secrets: Key | Sequence[Key],
        *,
        now: float | None = None,
        tolerance: float | None = None,
        certificates: Mapping[str, bytes] | None = None,
    ) -> Proof:
        """See Scheme. Raises InvalidSignature. The secret is that of the last item."""
        keys = accepted(secrets, now, read=hex_key)
        index = -1
        for item in self._items(delivery):
            found = _item(item)
            candidate = decoded(_at(found, self.signature), "base64")
            index = match(self._text(found), "sha256", keys, [candidate])
        if index >= 0:
            return Proof(index)
        if self.otherwise is None:
            raise InvalidSignature("the body holds no signed item", reason="missing")
        return self.otherwise.check(delivery, secrets, now=now, tolerance=tolerance, certificates=certificates)

    def read(self, delivery: Delivery, secret_index: int, timestamp: float | None) -> Verified:
        """See Located."""
        if self.otherwise is not None and next(self._items(delivery), None) is None:
            return self.otherwise.read(delivery, secret_index, timestamp)
        return super(SignedItems, self).read(delivery, secret_index, timestamp)

    def parts(self, delivery: Delivery, secret_index: int, timestamp: float | None) -> list[tuple[Verified, bytes]]:
        """See Located."""
        if self.otherwise is not None and next(self._items(delivery), None) is None:
            return self.otherwise.parts(delivery, secret_index, timestamp)
        return super(SignedItems, self).parts(delivery, secret_index, timestamp)

    def seal(
        self,
        body: bytes,
        secret: Key,
        *,
        now: float | None = None,  # noqa: ARG002
        url: str = "",  # noqa: ARG002
        key: Key | None = None,  # noqa: ARG002
    ) -> bytes:
        """The body with a signature in each of its items."""
        for item in pieces(body, self.each):
            found = json.loads(item)
            digest = hmac.digest(hex_key(secret), self._text(found), "sha256")
            *above, name = self.signature.split(".")
            holder = found
            for one in above:
                holder = holder.setdefault(one, {})
            holder[name] = encoded(digest, "base64")
            body = body.replace(item, json.dumps(found, ensure_ascii=False).encode(), 1)
        return body

    def _items(self, delivery: Delivery) -> Iterator[bytes]:
        try:
            yield from streamed(delivery.body, self.each)
        except UnusableEvent as error:
            raise InvalidSignature(str(error), reason="malformed") from error

    def _text(self, found: Mapping[str, Any]) -> bytes:
        parts = [_at(found, place) for place in self.signed]
        for place, part in zip(self.signed, parts, strict=True):
            if ":" in part and place != self.free:
                raise InvalidSignature(f"{place} holds a colon", reason="malformed")
        # "surrogatepass" encodes whatever a str can hold: a strange text must end in a mismatch.
        return ":".join(parts).encode("utf-8", "surrogatepass")


def _item(item: bytes) -> Mapping[str, Any]:
    try:
        found = unambiguous(item)
    except UnusableEvent as error:
        raise InvalidSignature(str(error), reason="malformed") from error
    if not isinstance(found, dict):
        raise InvalidSignature("an item is no object", reason="malformed")
    return found


def _at(found: Any, place: str) -> str:
    """The text or whole number there; an empty one when there is nothing. Raises InvalidSignature for anything else."""
    found = deeper(found, place.split("."))
    if found is None or found is MISSING:
        return ""
    if isinstance(found, str):
        return found
    if isinstance(found, int) and not isinstance(found, bool):
        return str(found)
    raise InvalidSignature(f"{place} is neither text nor a whole number", reason="malformed")
