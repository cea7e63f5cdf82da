"""Where the facts of an event are found: its id, its type, and what marks it as none for us.

A place is either ``"header:X-GitHub-Event"`` or the name of a field at the top of the JSON body (``"data.id"`` for one
that lies deeper). ``id`` may be several places: the last is the sender's id, those before it say to whom it was sent.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from moorline.errors import UnusableEvent
from moorline.events.body import fields

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["MAX_ID", "Located", "Verified"]

MAX_ID = 255
"""Characters of an id or type; it stands in an index, so it must have a bound."""


@dataclass(frozen=True, slots=True)
class Verified:
    """What the check of a delivery found.

    ``id``, ``type`` and ``action`` as in Event; ``secret_index`` counts the accepted secrets from 0;
    ``timestamp`` is the signed time in seconds since the epoch, or None; ``problem`` says why a well-signed delivery is
    not fit to be received, else it is empty.
    """

    id: str
    type: str
    secret_index: int
    timestamp: float | None = None
    action: str | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """Where the facts of an event are found, which every scheme needs.

    ``refuse`` maps places to values that mark something which is signed and yet no event for us, such as Stripe's thin
    events, which hold no data.
    """

    env: str
    id: str | tuple[str, ...]
    type: str
    action: str | None = None
    refuse: Mapping[str, str] = field(default_factory=dict)

    def read(self, headers: Mapping[str, str], body: bytes, secret_index: int, timestamp: float | None) -> Verified:
        """The facts of a delivery whose signature was made by the secret of that index, at that time.

        Raises UnusableEvent when it must be refused, or when an id that belongs into the body is not there.
        """
        ids = (self.id,) if isinstance(self.id, str) else self.id
        names = _top_names((*ids, self.type, self.action or "", *self.refuse))
        found: dict[str, Any] = {}
        problem = ""
        if names:
            try:
                found = fields(body, names)
            except UnusableEvent as error:
                problem = str(error)
        for place, value in self.refuse.items():
            if _look(place, headers, found) == value:
                raise UnusableEvent(f"{place} is {value!r}: such events are not taken")
        delivery = _look(ids[-1], headers, found)
        kind = _look(self.type, headers, found)
        action = _look(self.action, headers, found) if self.action else ""
        if not delivery:
            if not ids[-1].startswith("header:"):
                raise UnusableEvent(problem or f"the event has no {ids[-1]!r}")
            problem = problem or f"there is no {ids[-1].partition(':')[2]} header"
            whole = "sha256:" + hashlib.sha256(body).hexdigest()
        else:
            whole = ":".join([part for place in ids if (part := _look(place, headers, found))])
        if not kind:
            problem = problem or self.without_type()
        return Verified(_fit(whole), _fit(kind), secret_index, timestamp, _fit(action) or None, problem)

    def without_type(self) -> str:
        """What is wrong with an event that names no type; empty where that is allowed."""
        return f"the event has no type ({self.type})"


@cache
def _top_names(places: tuple[str, ...]) -> tuple[str, ...]:
    return tuple([place.partition(".")[0] for place in places if place and not place.startswith("header:")])


def _look(place: str, headers: Mapping[str, str], found: Mapping[str, Any]) -> str:
    """The text at that place, or an empty one; numbers are ids too."""
    if place.startswith("header:"):
        return headers.get(place[7:].lower(), "")
    value: Any = found
    for name in place.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise UnusableEvent(f"{place!r} is neither text nor a whole number")


def _fit(text: str) -> str:
    """Ids and types end in indexes and terminals: bounded, and without control characters."""
    if len(text) > MAX_ID or not text.isprintable():
        raise UnusableEvent(f"an id or type is longer than {MAX_ID} characters, or holds control characters")
    return text
