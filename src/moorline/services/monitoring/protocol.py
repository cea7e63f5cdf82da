"""What services that watch have in common: what they take (reports of errors, metrics, lines of a log, events), what
came of it, and the alarms that they send.

All values are frozen and check themselves when they are made. Times are seconds since the epoch. Nothing here is
scrubbed yet: each service passes what it sends through ``redaction``, whoever made the value.
"""

from __future__ import annotations

import math
import re
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, Protocol, get_args

from moorline.services.limits import as_text, refused

if TYPE_CHECKING:
    from moorline.calls.call import Call
    from moorline.calls.group import Group
    from moorline.events.event import Event
    from moorline.services.batches import Caps

__all__ = [
    "Alarm",
    "AlarmKind",
    "Crumb",
    "Frame",
    "Level",
    "LogLine",
    "Metric",
    "MetricKind",
    "MonitoringService",
    "Occurrence",
    "Person",
    "Raised",
    "Report",
    "Shipped",
    "Value",
]

Level = Literal["debug", "info", "warning", "error", "fatal"]
Value = str | bool | int | float
"""What an attribute may hold."""

_LEVELS: Final = frozenset(get_args(Level))
_ID: Final = re.compile("[0-9a-f]{32}")


class MetricKind(StrEnum):
    """What a number stands for."""

    COUNT = "count"
    """So many since the last point: points of the same time are added up."""
    GAUGE = "gauge"
    """As it is at that time."""
    DISTRIBUTION = "distribution"
    """One of many that are measured, such as how long a call took."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One point of a metric. *interval*: over how many seconds a count was taken. *unit* is the service's own word.

    Raises InvalidRequest naming the field.
    """

    name: str
    value: float
    kind: MetricKind = MetricKind.COUNT
    tags: Mapping[str, str] = field(default_factory=dict)
    unit: str | None = None
    at: float = field(default_factory=time.time)
    interval: float = 10.0

    def __post_init__(self) -> None:
        _named("name", self.name)
        _number("value", self.value)
        object.__setattr__(self, "kind", MetricKind(self.kind))
        for name, one in self.tags.items():
            as_text(f"tags[{_named('tags', name)}]", one)
        _moment(self.at)
        if _number("interval", self.interval) <= 0:
            raise refused("interval", "must be above 0 seconds")


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of a log, with *attributes* of its own; *logger* is the name of who wrote it, *trace* the trace (32 hex
    figures) that it belongs to.

    Raises InvalidRequest naming the field.
    """

    message: str
    level: Level = "info"
    attributes: Mapping[str, Value] = field(default_factory=dict)
    logger: str = ""
    at: float = field(default_factory=time.time)
    trace: str | None = None

    def __post_init__(self) -> None:
        as_text("message", self.message)
        _level(self.level)
        _attributes(self.attributes)
        _moment(self.at)
        if self.trace is not None and not _ID.fullmatch(self.trace):
            raise refused("trace", "must be 32 hexadecimal figures")


@dataclass(frozen=True, slots=True)
class Occurrence:
    """Something that happened, such as a deployment or an alert: *kind* is what it is (letters, figures, ``_``),
    *group* what it belongs together with.

    Raises InvalidRequest naming the field.
    """

    title: str
    text: str = ""
    kind: str = "Moorline"
    level: Level = "info"
    attributes: Mapping[str, Value] = field(default_factory=dict)
    group: str = ""
    at: float = field(default_factory=time.time)

    def __post_init__(self) -> None:
        _named("title", self.title)
        as_text("text", self.text)
        if not re.fullmatch("[A-Za-z0-9_:]{1,255}", as_text("kind", self.kind)):
            raise refused("kind", "must be 1 to 255 letters, figures, _ and :")
        _level(self.level)
        _attributes(self.attributes)
        as_text("group", self.group)
        _moment(self.at)


# Reports of errors ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Frame:
    """One call on a stack. *in_app*: whether the application's own code is there, None where nobody knows. *locals* are
    the variables as text, where they were asked for.
    """

    function: str
    module: str | None = None
    filename: str | None = None
    path: str | None = None
    line: int | None = None
    before: Sequence[str] = ()
    code: str | None = None
    after: Sequence[str] = ()
    in_app: bool | None = None
    locals: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Raised:
    """One exception, with the *frames* of its traceback, the outermost first. In a tree (an exception group) *id* is
    its number, *parent* that of the one that it belongs to, and *source* by which field (``__cause__``,
    ``exceptions[0]``).
    """

    type: str
    value: str = ""
    module: str | None = None
    frames: Sequence[Frame] = ()
    errno: int | None = None
    id: int | None = None
    parent: int | None = None
    source: str | None = None
    group: bool = False


@dataclass(frozen=True, slots=True)
class Crumb:
    """What happened before."""

    message: str
    category: str = ""
    level: Level = "info"
    data: Mapping[str, Value] = field(default_factory=dict)
    at: float = field(default_factory=time.time)

    def __post_init__(self) -> None:
        as_text("message", self.message)
        _level(self.level)
        _moment(self.at)


@dataclass(frozen=True, slots=True)
class Person:
    """Whom it happened to."""

    id: str | None = None
    email: str | None = None
    username: str | None = None
    ip_address: str | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """An error, or a message, to be looked at by somebody. ``reports.report`` makes one of an exception.

    *exceptions* are the chain, the oldest first. *handled* is False where nobody caught it. *fingerprint*: what belongs
    together, if not what the service finds. *id* is made once, so that a report that is sent twice is one.

    Raises InvalidRequest naming the field.
    """

    message: str = ""
    level: Level = "error"
    exceptions: Sequence[Raised] = ()
    handled: bool = True
    crumbs: Sequence[Crumb] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    user: Person | None = None
    logger: str = ""
    release: str | None = None
    environment: str | None = None
    server: str | None = None
    fingerprint: Sequence[str] = ()
    at: float = field(default_factory=time.time)
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __post_init__(self) -> None:
        as_text("message", self.message)
        if not self.message and not self.exceptions:
            raise refused("message", "is needed where there is no exception")
        _level(self.level)
        for name, one in self.tags.items():
            as_text(f"tags[{_named('tags', name)}]", one)
        if not _ID.fullmatch(self.id):
            raise refused("id", "must be 32 hexadecimal figures")
        _moment(self.at)

    @property
    def title(self) -> str:
        """In one line: the message, or the exception that was raised last."""
        if self.message or not self.exceptions:
            return self.message
        last = self.exceptions[-1]
        return f"{last.type}: {last.value}" if last.value else last.type

    def line(self) -> LogLine:
        """It as a line of a log, for services that take no reports of errors."""
        attributes: dict[str, Value] = {**self.tags, "error.id": self.id, "error.handled": self.handled}
        if self.exceptions:
            last = self.exceptions[-1]
            attributes |= {"error.kind": last.type, "error.message": last.value, "error.stack": self.stack()}
        known = {"release": self.release, "environment": self.environment, "server": self.server}
        if self.user is not None:
            known["user.id"] = self.user.id
        attributes |= {name: value for name, value in known.items() if value}
        return LogLine(self.title, self.level, attributes, self.logger, self.at)

    def stack(self) -> str:
        """The exceptions and their tracebacks as text, the newest last."""
        return "\n".join(line for one in self.exceptions for line in _told(one))


def _told(raised: Raised) -> list[str]:
    where = [f'  File "{one.path or one.filename}", line {one.line}, in {one.function}' for one in raised.frames]
    return [*where, f"{raised.type}: {raised.value}"]


# What comes back -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Shipped:
    """So many were *accepted*, which means no more than that: all of these services look at them later. *id* is what
    the service calls the report, event or request, where it says so.
    """

    accepted: int
    id: str | None = None
    raw: Any = field(default=None, repr=False, compare=False)


class AlarmKind(StrEnum):
    """What an alarm says, in words that are the same for every service."""

    TRIGGERED = "triggered"
    WARNED = "warned"
    CHANGED = "changed"
    """It was assigned, told of again, or something else about it is new."""
    ACKNOWLEDGED = "acknowledged"
    """Somebody looks after it, or does not want to hear of it."""
    RECOVERED = "recovered"


@dataclass(frozen=True, slots=True)
class Alarm:
    """What a service tells of something that is wrong. *type* is its own word; *severity* too (``error``, ``P1``,
    ``CRITICAL``); *subject* the id of the issue or monitor that it is about, the same until that has recovered.
    """

    kind: AlarmKind
    type: str
    title: str
    subject: str | None = None
    text: str = ""
    url: str | None = None
    severity: str | None = None
    at: datetime | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


class MonitoringService(Protocol):
    """What a Monitor needs of one; what a service cannot is in its ``lacks``."""

    name: ClassVar[str]
    caps: ClassVar[Mapping[str, Caps]]

    def capture(self, report: Report) -> Call[Shipped]:
        """Report an error or a message."""
        ...

    def send_metrics(self, metrics: Sequence[Metric]) -> Call[Shipped]:
        """Send points of metrics with one request."""
        ...

    def send_logs(self, lines: Sequence[LogLine]) -> Call[Shipped]:
        """Send lines of a log with one request."""
        ...

    def send_events(self, events: Sequence[Occurrence]) -> Call[Shipped]:
        """Send events with one request."""
        ...

    def ship(self, items: Sequence[Report | Metric | LogLine | Occurrence]) -> Group[Shipped]:
        """Send any number of them, with as many requests as the service's limits ask for."""
        ...

    @classmethod
    def read_event(cls, event: Event) -> Alarm | None:
        """What a webhook of it means."""
        ...


def _named(field_: str, value: object) -> str:
    if not as_text(field_, value).strip():  # type: ignore[attr-defined, unused-ignore]
        raise refused(field_, "must not be empty")
    return str(value)


def _number(field_: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise refused(field_, "must be a finite number")
    return value


def _moment(value: object) -> None:
    if _number("at", value) < 0:
        raise refused("at", "must be seconds since the epoch")


def _level(value: object) -> None:
    if value not in _LEVELS:
        raise refused("level", f"must be one of {', '.join(get_args(Level))}, not {value!r}")


def _attributes(attributes: Mapping[str, object]) -> None:
    for name, one in attributes.items():
        _named("attributes", name)
        if isinstance(one, float) and not math.isfinite(one):
            raise refused(f"attributes[{name}]", "must be a finite number")
        if not isinstance(one, str | bool | int | float):
            raise refused(f"attributes[{name}]", f"must be text, a number or true or false, not {type(one).__name__}")
