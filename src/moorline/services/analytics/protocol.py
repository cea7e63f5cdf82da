"""What all analytics services have in common: the facts that they take, and what became of a batch of them.

A fact gets its id and its time when it is made. Every attempt, every replay and every vendor sees the same ones, so
that what is sent twice counts once, where the vendor looks for that.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeAlias

from moorline.services.limits import as_text, at_most, encodable, refused

if TYPE_CHECKING:
    from moorline.calls.call import Call

__all__ = [
    "PAGE_VIEWED",
    "SCREEN_VIEWED",
    "Alias",
    "AnalyticsService",
    "Fact",
    "GroupCall",
    "Identify",
    "Kind",
    "PageView",
    "Refused",
    "ScreenView",
    "Taken",
    "Track",
    "encoded",
    "hashed_email",
    "hashed_phone",
    "json_value",
    "microseconds",
    "milliseconds",
    "view_properties",
]

Kind = Literal["track", "identify", "page", "screen", "group", "alias"]

_ID: Final = re.compile(r"[A-Za-z0-9-]{1,36}")  # what all vendors take: Mixpanel's is the narrowest
_LONGEST: Final = 1024
_DEEPEST: Final = 40
_DOTLESS: Final = ("gmail.com", "googlemail.com")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_encode: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode
_VENDOR: Final = re.compile(r"[a-z][a-z0-9_]*")


def _now() -> datetime:
    return datetime.now(UTC)


def _new_id() -> str:
    return str(uuid.uuid4())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Base:
    """Who, when and under which id. At least one of *user_id* and *anonymous_id* is needed: the former is your own id
    of somebody who is known, the latter that of a browser or device.

    *at* needs a time zone. *context* is what is known of the surroundings (``{"ip": …, "locale": …}``): Segment takes
    it as it is, with Mixpanel and Amplitude its entries are properties of the event; Google gets ``ip`` alone.
    *vendors* are fields for one vendor alone, by the vendor's name and with its own words:
    ``{"segment": {"integrations": {"All": False}}}``.
    """

    user_id: str | None = None
    anonymous_id: str | None = None
    at: datetime = field(default_factory=_now)
    message_id: str = field(default_factory=_new_id)
    context: Mapping[str, Any] = field(default_factory=dict, repr=False)
    vendors: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)

    def _check(self, *texts: str, **objects: Mapping[str, Any]) -> None:
        """Raise InvalidRequest, naming the field; keep a copy of what may be changed outside."""
        if self.user_id is None and self.anonymous_id is None:
            raise refused("user_id", "or anonymous_id is needed")
        for name in ("user_id", "anonymous_id", *texts):
            value = getattr(self, name)
            if value is not None:
                at_most(name, encodable(name, value), _LONGEST, "characters")
                if not value.strip():
                    raise refused(name, "must not be empty")
        at: object = self.at
        if not isinstance(at, datetime) or at.utcoffset() is None:
            raise refused("at", "must be a datetime with a time zone")
        if not _ID.fullmatch(as_text("message_id", self.message_id)):
            raise refused("message_id", "takes 1 to 36 ASCII letters, figures and '-' alone")
        for name, value in {"context": self.context, "vendors": self.vendors, **objects}.items():
            object.__setattr__(self, name, _object(name, value))
        for vendor, fields in self.vendors.items():
            if not _VENDOR.fullmatch(vendor) or not isinstance(fields, dict):
                raise refused("vendors", "must be an object of fields under each vendor's name, as 'google_analytics'")


@dataclass(frozen=True, slots=True)
class Track(_Base):
    """Somebody did something: ``Track("Order Paid", user_id="u-17", properties={"value": 12.5})``.

    Raises InvalidRequest naming the field.
    """

    event: str
    properties: Mapping[str, Any] = field(default_factory=dict, repr=False)
    kind: Literal["track"] = field(default="track", kw_only=True, repr=False)

    def __post_init__(self) -> None:
        self._check("event", properties=self.properties)


@dataclass(frozen=True, slots=True)
class Identify(_Base):
    """What is known of somebody: ``Identify({"plan": "pro"}, user_id="u-17")``. Raises InvalidRequest."""

    traits: Mapping[str, Any] = field(default_factory=dict, repr=False)
    kind: Literal["identify"] = field(default="identify", kw_only=True, repr=False)

    def __post_init__(self) -> None:
        self._check(traits=self.traits)


@dataclass(frozen=True, slots=True)
class PageView(_Base):
    """Somebody saw a page: its *name* (a title), *category* and *url*, each if known. Raises InvalidRequest."""

    name: str | None = None
    properties: Mapping[str, Any] = field(default_factory=dict, repr=False)
    category: str | None = None
    url: str | None = None
    kind: Literal["page"] = field(default="page", kw_only=True, repr=False)

    def __post_init__(self) -> None:
        self._check("name", "category", "url", properties=self.properties)


@dataclass(frozen=True, slots=True)
class ScreenView(_Base):
    """Somebody saw a screen of an application. Raises InvalidRequest."""

    name: str
    properties: Mapping[str, Any] = field(default_factory=dict, repr=False)
    category: str | None = None
    kind: Literal["screen"] = field(default="screen", kw_only=True, repr=False)

    def __post_init__(self) -> None:
        self._check("name", "category", properties=self.properties)


@dataclass(frozen=True, slots=True)
class GroupCall(_Base):
    """Somebody belongs to a group, of which *traits* are known: ``GroupCall("acme", {"seats": 5}, user_id="u-17")``.

    *group_type* is what kind of group, for vendors that have several. Raises InvalidRequest.
    """

    group_id: str
    traits: Mapping[str, Any] = field(default_factory=dict, repr=False)
    group_type: str = "company"
    kind: Literal["group"] = field(default="group", kw_only=True, repr=False)

    def __post_init__(self) -> None:
        self._check("group_id", "group_type", traits=self.traits)


@dataclass(frozen=True, slots=True)
class Alias(_Base):
    """Who was *previous_id* is *user_id* from now on. Raises InvalidRequest."""

    previous_id: str
    kind: Literal["alias"] = field(default="alias", kw_only=True, repr=False)

    def __post_init__(self) -> None:
        if self.user_id is None:
            raise refused("user_id", "is needed")
        self._check("previous_id")


Fact: TypeAlias = Track | Identify | PageView | ScreenView | GroupCall | Alias
"""Any of them; ``kind`` tells which."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A fact that was not taken: *by* our check of the vendor's documented ``limits``, before it was sent, or by the
    ``vendor``. *field* is the one at fault, where that is known.
    """

    message_id: str
    kind: str
    reason: str
    field: str = ""
    by: Literal["limits", "vendor"] = "limits"


@dataclass(frozen=True, slots=True)
class Taken:
    """How many facts the vendor took, and the others, each with the reason. Where the vendor confirms nothing (see its
    class), it is how many it was given.
    """

    taken: int
    refused: tuple[Refused, ...] = ()
    raw: Any = field(default=None, repr=False, compare=False)


class AnalyticsService(Protocol):
    """The operations that analytics services have, but for those that they say they lack."""

    def track(self, fact: Track, /) -> Call[Taken]:
        """Send one event."""
        ...

    def identify(self, fact: Identify, /) -> Call[Taken]:
        """Say what is known of somebody."""
        ...

    def page(self, fact: PageView, /) -> Call[Taken]:
        """Send the view of a page."""
        ...

    def screen(self, fact: ScreenView, /) -> Call[Taken]:
        """Send the view of a screen."""
        ...

    def group(self, fact: GroupCall, /) -> Call[Taken]:
        """Say to which group somebody belongs, and what is known of it."""
        ...

    def alias(self, fact: Alias, /) -> Call[Taken]:
        """Join two ids."""
        ...

    def send_batch(self, facts: Sequence[Fact], /) -> Call[Taken]:
        """Send several with one request; those beyond a limit of the vendor are left out, and told with the reason."""
        ...


def json_value(where: str, value: object, depth: int = _DEEPEST) -> Any:
    """A copy of *value* that is plain JSON: times become ISO 8601, decimals numbers, sets lists, UUIDs and enumerations
    their values. Raises InvalidRequest, naming where, for what has no such form.
    """
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, Mapping | list | tuple | set | frozenset):
        if depth == 0:
            raise refused(where.partition(".")[0], f"is nested more than {_DEEPEST} deep")
        if not isinstance(value, Mapping):
            return [json_value(where, one, depth - 1) for one in value]
        return {
            str(encodable(where, name)): json_value(f"{where}.{name}"[:200], one, depth - 1)
            for name, one in value.items()
        }
    return _scalar(where, value)


def _scalar(where: str, value: object) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(encodable(where, value))
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float | Decimal):
        number = float(value)
        if not math.isfinite(number):
            raise refused(where, "must be a finite number")
        return number
    if isinstance(value, datetime | date):
        if isinstance(value, datetime) and value.utcoffset() is None:
            raise refused(where, "needs a time zone")
        return value.isoformat()
    if isinstance(value, uuid.UUID):
        return str(value)
    raise refused(where, f"cannot hold a {type(value).__name__}: it has no JSON form")


def _object(name: str, value: object) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise refused(name, f"must be an object, not {type(value).__name__}")
    copied: dict[str, Any] = json_value(name, value)
    return copied


PAGE_VIEWED: Final = "Page Viewed"
SCREEN_VIEWED: Final = "Screen Viewed"
"""What views are called where they are events like any other."""


def view_properties(fact: PageView | ScreenView) -> dict[str, Any]:
    """The properties of such an event: what is known of the view, and its own."""
    known = {"name": fact.name, "category": fact.category, "url": getattr(fact, "url", None)}
    return {**{name: value for name, value in known.items() if value is not None}, **fact.properties}


def encoded(value: object) -> bytes:
    """*value* as compact JSON."""
    return _encode(value).encode()


def microseconds(at: datetime) -> int:
    """Microseconds since the epoch."""
    return (at - _EPOCH) // timedelta(microseconds=1)


def milliseconds(at: datetime) -> int:
    """Whole milliseconds since the epoch."""
    return (at - _EPOCH) // timedelta(milliseconds=1)


def hashed_email(address: str) -> str:
    """SHA-256 of an address as Google wants it normalised, in hexadecimal: trimmed, lower case, and for gmail.com and
    googlemail.com without dots before the ``@``. Raises InvalidRequest for what is no address.

    Source: developers.google.com/analytics/devguides/collection/ga4/uid-data (2026).
    """
    local, at, host = as_text("email", address).strip().lower().rpartition("@")
    if not local or not at or "." not in host or any(letter.isspace() for letter in local + host):
        raise refused("email", "is no e-mail address")
    if host in _DOTLESS:
        local = local.replace(".", "")
    return hashlib.sha256(f"{local}@{host}".encode()).hexdigest()


def hashed_phone(number: str) -> str:
    """SHA-256 of a number in E.164, in hexadecimal: a ``+`` and the figures alone. Raises InvalidRequest for a number
    without its country (``+44 7700 900000``).

    Source: as of ``hashed_email``.
    """
    text = as_text("phone", number).strip()
    digits = re.sub(r"[^0-9]", "", text)
    if not text.startswith("+") or not 7 <= len(digits) <= 15:
        raise refused("phone", "is no number in E.164, such as +447700900000")
    return hashlib.sha256(f"+{digits}".encode()).hexdigest()
