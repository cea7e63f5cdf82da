r"""Where the facts of an event are found: its id, its type, and what marks it as none for us.

A place is ``"header:X-GitHub-Event"``, ``"query:name"``, ``"form:MessageSid"``, a text that stands for itself
(``"=message"``), or the name of a field of the body: at the top of its JSON, in its form, the root of its XML;
``"data.id"`` is one that lies deeper, also within a text that holds JSON itself (SNS's ``Message``),
``"changes.0.field"`` one in a list; a dot that belongs to a name is written ``\.``. ``"has:form:command"`` is the last
word of it, if there is anything at that place; ``"whole:object"`` is looked up in the whole delivery where the others
are in one of its events. ``"event_id|form:trigger_id"`` is the first of these places that holds something.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from moorline.errors import ConfigurationError, UnusableEvent
from moorline.events.body import FORM_FIELD, fields, is_xml, pieces
from moorline.events.hashing import sha256_of
from moorline.events.markup import parse

if TYPE_CHECKING:
    from moorline.events.delivery import Delivery

__all__ = ["HEADER", "MAX_ID", "ONCE", "WHOLE", "Located", "Verified", "check_place", "look"]

MAX_ID = 255
"""Characters of an id or type; it stands in an index, so it must have a bound."""

ONCE = "once:"
"""How the key begins of an event that is deduplicated by a text of which its sender makes a new one each time."""

_NOTHING: Mapping[str, Any] = {}
WHOLE: Final = "whole:"
"""How a place begins that lies in the whole delivery."""
HEADER: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""The name of a header."""
_DOT: Final = re.compile(r"(?<!\\)\.")
BATCH = "batch"
"""The type of a delivery that holds several events of different types."""


@dataclass(frozen=True, slots=True)
class Verified:
    """What the check of a delivery found.

    ``id``, ``type`` and ``action`` as in Event; ``key`` is what it is deduplicated by; ``secret_index`` counts the
    accepted secrets from 0; ``timestamp`` is the signed time in seconds since the epoch, or None; ``problem`` says why
    a well-signed delivery is not fit to be received, else it is empty; ``once_for`` as in Located, 0 where ``key`` is
    no text that is used once.
    """

    id: str
    type: str
    secret_index: int
    timestamp: float | None = None
    action: str | None = None
    problem: str = ""
    key: str = ""
    once_for: float = 0.0


class _Plan(NamedTuple):
    """What a record says, made ready for the thousands of deliveries a second that are read by it."""

    ids: tuple[str, ...]
    types: tuple[str, ...]
    names: tuple[str, ...]
    whole: tuple[str, ...]
    forms: bool
    refuse: tuple[tuple[str, str], ...]
    believed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """Where the facts of an event are found, which every scheme needs.

    - ``id``: one place, or several that are joined by ``:``, of which the last must be there; empty for senders that
      give none, whose events are known by a digest of the body. ``lacking`` is what happens to one without it: it is
      refused; or known by a ``"digest"`` of its content (as in deliveries of several always), also when any part of the
      id is missing or it cannot be kept; or ``"new"`` each time, where the same bytes may tell of another thing.
    - ``type``: a place, or several of which the first counts that holds something; it may be empty where ``typed`` is
      False.
    - ``each``: where the events of a delivery lie that holds several: ``"*"`` is a list at the top, ``"items.*.item"``
      lies deeper, ``"lines"`` is one on each line.
    - ``refuse`` maps places to values that mark something which is signed and yet no event for us, such as Stripe's
      thin events, which hold no data.
    - ``dedup``: ``"content"`` also where the id could be believed. ``repeats_after``: for senders that may say the same
      again and mean it, such as alerts: what is known by its content alone counts as new from one slot of that many
      seconds to the next (of the signed time, else of the arrival). A retry across the border of two slots is an event
      again: twice is better than never. ``once``: where a text lies that is signed and never used twice, for senders
      that sign it in place of the content: a second delivery with the same one is a duplicate whatever it holds, and so
      is (in the inbox) one whose id came in the ``once_for`` seconds before: as long as the sender tries again, and not
      much longer, since there are senders whose ids are unique in a day.
    - ``forms``: whether a form's fields are those of a body; elsewhere a form is no event, even if signed.
      ``templated``: a body may be anything, where it is a template of the customer's own: text, or JSON that a
      quotation mark has broken.
    """

    env: str
    id: str | tuple[str, ...] = ""
    type: str | tuple[str, ...] = ""
    action: str | None = None
    each: str = ""
    refuse: Mapping[str, str] = field(default_factory=dict)
    typed: bool = True
    lacking: Literal["refuse", "digest", "new"] = "refuse"
    dedup: str = "id"
    repeats_after: float = 0.0
    once: str = ""
    once_for: float = 4 * 86_400.0
    forms: bool = False
    templated: bool = False
    _plan: _Plan | None = field(default=None, init=False, repr=False, compare=False)

    def vouches_for(self, place: str) -> bool:
        """Whether the signature covers what stands at that place: all but headers, unless a scheme says otherwise."""
        return not place.startswith("header:")

    def believes(self, place: str) -> bool:
        """Whether the signature covers every place that it may be found at."""
        return all(self.vouches_for(one) for one in place.split("|"))

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

        Of several, one without an id, or in which anything is odd, is known by its digest, without a type if need be:
        the others must not be lost for its sake, nor it for theirs.
        """
        if not self.each:
            return [(self._facts(delivery, delivery.body, secret_index, timestamp), delivery.body)]
        bodies = pieces(delivery.body, self.each, delivery.media)
        return [(self._piece(delivery, body, secret_index, timestamp), body) for body in bodies]

    def _piece(self, delivery: Delivery, body: bytes, secret_index: int, timestamp: float | None) -> Verified:
        try:
            found = self._facts(delivery, body, secret_index, timestamp, strict=False)
            if not found.problem:
                return found
        except UnusableEvent:
            pass
        key = whole = digest(body)
        if self.repeats_after:
            key += self._slot(delivery, timestamp)
        return Verified(whole, "", secret_index, timestamp, key=key)

    def id_places(self, delivery: Delivery) -> tuple[str, ...]:  # noqa: ARG002
        """Where the id of this delivery stands."""
        return (self._plan or self._planned()).ids

    def may_repeat(self, identity: str) -> bool:  # noqa: ARG002
        """Whether what is known by its content may come again, and be meant."""
        return self.repeats_after > 0

    def content(self, delivery: Delivery, body: bytes) -> bytes:  # noqa: ARG002
        """What an event is known by that has no id: its body, where all of that is signed as it stands."""
        return body

    def _facts(
        self, delivery: Delivery, body: bytes, secret_index: int, timestamp: float | None, *, strict: bool = True
    ) -> Verified:
        plan = self._plan or self._planned()
        found, problem = _fields(body, delivery, plan.names, forms=plan.forms) if plan.names else (_NOTHING, "")
        if plan.whole:
            found = {**found, **_of_whole(delivery, plan.whole)}
        for place, value in plan.refuse:
            if look(place, delivery, found) == value:
                raise UnusableEvent(f"{place} is {value!r}: such events are not taken")
        if problem and self.templated:
            problem = ""
        ids = self.id_places(delivery)
        whole = self._identity(ids, delivery, found) if ids else ""
        if not whole and ids and strict:
            problem = self._without_id(ids[-1], problem)
        kind = self._kind(plan.types, delivery, found)
        if not kind and strict and self.typed:
            problem = problem or f"the event has no type ({' or '.join(plan.types)})"
        action = self._seen(self.action, delivery, found) if self.action else ""
        if whole and plan.believed:
            key = whole
        else:
            key, whole = self._dedup_key(whole, delivery, body, found, timestamp)
        facts = Verified(_fit(whole), _fit(kind), secret_index, timestamp, _fit(action) or None, problem, _fit(key))
        return replace(facts, once_for=self.once_for) if self.once else facts

    def _dedup_key(
        self, whole: str, delivery: Delivery, body: bytes, found: Mapping[str, Any], timestamp: float | None
    ) -> tuple[str, str]:
        """What an event is deduplicated by whose id is not there or cannot be believed; and its id."""
        if self.once:
            return ONCE + look(self.once, delivery, found), whole or digest(self.content(delivery, body))
        if not whole and self.lacking == "new":
            new = "new:" + secrets.token_hex(16)
            return new, new
        key = digest(self.content(delivery, body))
        slot = self._slot(delivery, timestamp) if self.may_repeat(whole) else ""
        return key + slot, whole or key

    def _kind(self, places: tuple[str, ...], delivery: Delivery, found: Mapping[str, Any]) -> str:
        for place in places:
            kind = self._seen(place, delivery, found)
            if kind:
                return kind
        return ""

    def _identity(self, ids: tuple[str, ...], delivery: Delivery, found: Mapping[str, Any]) -> str:
        """The sender's own id, or nothing."""
        last = self._seen(ids[-1], delivery, found)
        if not last:
            return last
        before = [self._seen(one, delivery, found) for one in ids[:-1]]
        whole = _joined(before, last)
        return "" if self.lacking == "digest" and not (all(before) and _fits(whole)) else whole

    def _seen(self, place: str, delivery: Delivery, found: Mapping[str, Any]) -> str:
        try:
            return look(place, delivery, found)
        except UnusableEvent:
            if self.lacking != "digest":
                raise
            return ""

    def _slot(self, delivery: Delivery, timestamp: float | None) -> str:
        moment = delivery.received_at if timestamp is None else timestamp
        return f"@{int(moment // self.repeats_after)}"

    def _planned(self) -> _Plan:
        ids, types, refuse = _several(self.id), _several(self.type), tuple(self.refuse.items())
        places = (*ids, *types, self.action or "", self.once, *self.refuse)
        single = [one.removeprefix("has:") for place in places for one in place.split("|") if one]
        whole = _top_names(one.removeprefix(WHOLE) for one in single if one.startswith(WHOLE))
        forms = self.forms or any(one.startswith("form:") for one in single)
        believed = bool(ids) and not self.once and self.dedup == "id" and self.believes(ids[-1])
        plan = _Plan(ids, types, _top_names(single), whole, forms, refuse, believed)
        object.__setattr__(self, "_plan", plan)
        return plan

    def _without_id(self, place: str, problem: str) -> str:
        if self.lacking != "refuse":
            if problem:
                raise UnusableEvent(problem)
            return ""
        if ":" not in place:
            raise UnusableEvent(problem or f"the event has no {place!r}")
        where, _, name = place.partition(":")
        return problem or f"there is no {name} {where}"


def check_place(name: str, place: str) -> None:
    """Raises ConfigurationError that begins with *name* unless something can be found there."""
    for one in place.split("|"):
        single = one.removeprefix("has:").removeprefix(WHOLE)
        where, colon, rest = single.partition(":")
        if single.startswith("="):
            known = True
        elif colon:
            known = bool(HEADER.fullmatch(rest)) if where == "header" else where in ("query", "form") and bool(rest)
        else:
            known = all(name.strip() for name in _path(single))
        if not known or not one.isprintable():
            raise ConfigurationError(f'{name}: {place!r} is no place; such as "data.id" or "header:X-Id"')


def digest(body: bytes) -> str:
    """What stands for the content, within the keys of a service."""
    return "sha256:" + sha256_of(body)


def _several(place: str | tuple[str, ...]) -> tuple[str, ...]:
    if isinstance(place, str):
        return (place,) if place else ()
    return place


def _joined(before: Iterable[str], last: str) -> str:
    """The parts that are there; the digest of them where they are too long together."""
    whole = ":".join([*filter(None, before), last])
    if len(whole) > MAX_ID and whole != last:
        return digest(whole.encode("utf-8", "surrogatepass"))
    return whole


def _fields(body: bytes, delivery: Delivery, names: tuple[str, ...], *, forms: bool) -> tuple[Mapping[str, Any], str]:
    """Those top-level fields of the body, be it JSON, a form or XML; and what is wrong with it."""
    if delivery.media and delivery.media != "application/json":  # what nearly all are needs no look
        try:
            if forms and body and delivery.is_form and not body.startswith(FORM_FIELD):
                return dict(reversed(delivery.texts(names))), ""  # the first counts
            if is_xml(delivery.media):
                return parse(body), ""
        except UnusableEvent as error:
            return _NOTHING, str(error)
    try:
        return fields(body, names), ""
    except UnusableEvent as error:
        return _NOTHING, str(error)


def _of_whole(delivery: Delivery, names: tuple[str, ...]) -> dict[str, Any]:
    found, _ = _fields(delivery.body, delivery, names, forms=False)
    return {WHOLE + name: value for name, value in found.items()}


def _top_names(places: Iterable[str]) -> tuple[str, ...]:
    in_body = [place for place in places if ":" not in place and not place.startswith("=")]
    return tuple(dict.fromkeys(_path(place)[0] for place in in_body))


@cache
def _path(place: str) -> tuple[str, ...]:
    return tuple(name.replace("\\.", ".") for name in _DOT.split(place))


def look(place: str, delivery: Delivery, found: Mapping[str, Any]) -> str:
    """The text at that place, or an empty one; numbers are ids too. Raises UnusableEvent for what is neither."""
    value = _getter(place)(delivery, found)
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise UnusableEvent(f"{place!r} is neither text nor a whole number")


@cache
def _getter(place: str) -> Callable[[Delivery, Mapping[str, Any]], Any]:
    """What finds the value at that place; the places are those of records, so that they are few."""
    if "|" in place:
        several = place.split("|")
        return lambda delivery, found: next(filter(None, (look(one, delivery, found) for one in several)), "")
    if place.startswith("has:"):
        inner, word = _getter(place[4:]), re.split("[.:]", place)[-1]
        return lambda delivery, found: word if inner(delivery, found) not in (None, "") else ""
    if place.startswith("header:"):
        header = place[7:].lower()
        return lambda delivery, _: delivery.headers.get(header, "")
    if place.startswith("="):
        text = place[1:]
        return lambda _, __: text
    if place.startswith(("query:", "form:")):
        where, _, name = place.partition(":")
        return lambda delivery, _: next((value for key, value in getattr(delivery, where) if key == name), "")
    if "." not in place:
        return lambda _, found: found.get(place)
    path = _path(place)
    return lambda _, found: _deep(found, path)


def _deep(value: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        if isinstance(value, list):
            value = value[int(name)] if name.isdecimal() and len(name) < 4 and int(name) < len(value) else None
        else:
            value = _inside(value).get(name)
    return value


def _inside(value: Any) -> Mapping[str, Any]:
    if isinstance(value, str) and value.startswith("{"):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return {}
    return value if isinstance(value, Mapping) else {}


def _fits(text: str) -> bool:
    return len(text) <= MAX_ID and text.isprintable()


def _fit(text: str) -> str:
    """Ids and types end in indexes and terminals: bounded, and without control characters."""
    if not _fits(text):
        raise UnusableEvent(f"an id or type is longer than {MAX_ID} characters, or holds control characters")
    return text
