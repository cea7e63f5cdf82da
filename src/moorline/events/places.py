"""Where the facts of an event are found: its id, its type, and what marks it as none for us.

A place is ``"header:X-GitHub-Event"``, ``"query:name"``, ``"form:MessageSid"``, a text that stands for itself
(``"=message"``), or the name of a field at the top of the JSON body; ``"data.id"`` is one that lies deeper, also within
a text that holds JSON itself (SNS's ``Message``).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from moorline.errors import UnusableEvent
from moorline.events.body import fields, pieces
from moorline.events.hashing import sha256_of

if TYPE_CHECKING:
    from moorline.events.delivery import Delivery

__all__ = ["MAX_ID", "Located", "Verified", "look"]

MAX_ID = 255
"""Characters of an id or type; it stands in an index, so it must have a bound."""

_NOTHING: Mapping[str, Any] = {}
BATCH = "batch"
"""The type of a delivery that holds several events of different types."""


@dataclass(frozen=True, slots=True)
class Verified:
    """What the check of a delivery found.

    ``id``, ``type`` and ``action`` as in Event; ``key`` is what it is deduplicated by; ``secret_index`` counts the
    accepted secrets from 0; ``timestamp`` is the signed time in seconds since the epoch, or None; ``problem`` says why
    a well-signed delivery is not fit to be received, else it is empty.
    """

    id: str
    type: str
    secret_index: int
    timestamp: float | None = None
    action: str | None = None
    problem: str = ""
    key: str = ""


class _Plan(NamedTuple):
    """What a record says, made ready for the thousands of deliveries a second that are read by it."""

    ids: tuple[str, ...]
    types: tuple[str, ...]
    names: tuple[str, ...]
    refuse: tuple[tuple[str, str], ...]
    believed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """Where the facts of an event are found, which every scheme needs.

    ``id``: one place, or several that are joined by ``:``, of which the last must be there; empty for senders that give
    none, whose events are known by a digest of the body. ``type``: a place, or several of which the first counts that
    holds something; it may be empty where ``typed`` is False. ``each``: where the events of a delivery lie that holds
    several: ``"*"`` is a list at the top, ``"items.*.item"`` lies deeper, ``"lines"`` is one on each line.
    ``refuse`` maps places to values that mark something which is signed and yet no event for us, such as Stripe's thin
    events, which hold no data. ``dedup``: ``"content"`` also where the id could be believed.
    """

    env: str
    id: str | tuple[str, ...] = ""
    type: str | tuple[str, ...] = ""
    action: str | None = None
    each: str = ""
    refuse: Mapping[str, str] = field(default_factory=dict)
    typed: bool = True
    dedup: str = "id"
    _plan: _Plan | None = field(default=None, init=False, repr=False, compare=False)

    def vouches_for(self, place: str) -> bool:
        """Whether the signature covers what stands at that place: all but headers, unless a scheme says otherwise."""
        return not place.startswith("header:")

    def read(self, delivery: Delivery, secret_index: int, timestamp: float | None) -> Verified:
        """The facts of a delivery whose signature was made by the secret of that index, at that time.

        One that holds several events has the facts of the only one, else a digest for its id. Raises UnusableEvent when
        it must be refused, or when an id that belongs into the body is not there.
        """
        if not self.each:
            return self._facts(delivery, delivery.body, secret_index, timestamp)
        parts = self.parts(delivery, secret_index, timestamp)
        if len(parts) == 1:
            return parts[0][0]
        types = {found.type for found, _ in parts}
        kind = types.pop() if len(types) == 1 else BATCH
        whole = digest(delivery.body)
        return Verified(whole, kind, secret_index, timestamp, key=whole)

    def parts(self, delivery: Delivery, secret_index: int, timestamp: float | None) -> list[tuple[Verified, bytes]]:
        """The facts and the bytes of each event in the delivery. Raises UnusableEvent as ``read`` does.

        Of several, one without an id is known by its digest: the others must not be lost for its sake.
        """
        if not self.each:
            return [(self._facts(delivery, delivery.body, secret_index, timestamp), delivery.body)]
        bodies = pieces(delivery.body, self.each)
        return [(self._facts(delivery, body, secret_index, timestamp, strict=False), body) for body in bodies]

    def _facts(
        self, delivery: Delivery, body: bytes, secret_index: int, timestamp: float | None, *, strict: bool = True
    ) -> Verified:
        plan = self._plan or self._planned()
        found, problem = _fields(body, plan.names) if plan.names else (_NOTHING, "")
        for place, value in plan.refuse:
            if look(place, delivery, found) == value:
                raise UnusableEvent(f"{place} is {value!r}: such events are not taken")
        ids = plan.ids
        delivered = look(ids[-1], delivery, found) if ids else ""
        if delivered:
            whole = (
                delivered if len(ids) == 1 else _joined([*[look(one, delivery, found) for one in ids[:-1]], delivered])
            )
            key = whole if plan.believed else digest(body)
        else:
            if ids and strict:
                problem = self._without_id(ids[-1], problem)
            key = whole = digest(body)
        kind = ""
        for place in plan.types:
            kind = look(place, delivery, found)
            if kind:
                break
        if not kind and strict and self.typed:
            problem = problem or f"the event has no type ({' or '.join(plan.types)})"
        action = look(self.action, delivery, found) if self.action else ""
        return Verified(_fit(whole), _fit(kind), secret_index, timestamp, _fit(action) or None, problem, key)

    def _planned(self) -> _Plan:
        ids, types, refuse = _several(self.id), _several(self.type), tuple(self.refuse.items())
        names = _top_names((*ids, *types, self.action or "", *self.refuse))
        believed = bool(ids) and self.dedup == "id" and self.vouches_for(ids[-1])
        plan = _Plan(ids, types, names, refuse, believed)
        object.__setattr__(self, "_plan", plan)
        return plan

    @staticmethod
    def _without_id(place: str, problem: str) -> str:
        if ":" not in place:
            raise UnusableEvent(problem or f"the event has no {place!r}")
        where, _, name = place.partition(":")
        return problem or f"there is no {name} {where}"


def digest(body: bytes) -> str:
    """What stands for the content, within the keys of a service."""
    return "sha256:" + sha256_of(body)


def _several(place: str | tuple[str, ...]) -> tuple[str, ...]:
    if isinstance(place, str):
        return (place,) if place else ()
    return place


def _joined(parts: Iterable[str]) -> str:
    return ":".join([part for part in parts if part])


def _fields(body: bytes, names: tuple[str, ...]) -> tuple[Mapping[str, Any], str]:
    """Those top-level fields of the JSON body; and what is wrong with the body."""
    try:
        return fields(body, names), ""
    except UnusableEvent as error:
        return _NOTHING, str(error)


def _top_names(places: tuple[str, ...]) -> tuple[str, ...]:
    in_body = [place for place in places if place and ":" not in place and not place.startswith("=")]
    return tuple(dict.fromkeys(place.partition(".")[0] for place in in_body))


def look(place: str, delivery: Delivery, found: Mapping[str, Any]) -> str:
    """The text at that place, or an empty one; numbers are ids too. Raises UnusableEvent for what is neither."""
    if place.startswith("header:"):
        return delivery.headers.get(place[7:].lower(), "")
    if place.startswith("="):
        return place[1:]
    if place.startswith(("query:", "form:")):
        where, _, name = place.partition(":")
        return next((value for key, value in getattr(delivery, where) if key == name), "")
    if "." not in place:
        value: Any = found.get(place)
    else:
        value = found
        for name in place.split("."):
            value = _inside(value).get(name)
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise UnusableEvent(f"{place!r} is neither text nor a whole number")


def _inside(value: Any) -> Mapping[str, Any]:
    if isinstance(value, str) and value.startswith("{"):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return {}
    return value if isinstance(value, Mapping) else {}


def _fit(text: str) -> str:
    """Ids and types end in indexes and terminals: bounded, and without control characters."""
    if len(text) > MAX_ID or not text.isprintable():
        raise UnusableEvent(f"an id or type is longer than {MAX_ID} characters, or holds control characters")
    return text
