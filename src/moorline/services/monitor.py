"""``Monitor``: errors, messages, metrics, lines of a log and events, handed to one or several services that watch.

It neither blocks nor raises nor reports itself: what is handed over waits in a batch for each service and kind, and
goes by a thread of its own (:class:`~moorline.calls.batcher.Batcher`). Wrong arguments are counted, and logged once of
each kind; what happens while something is sent, or while a report is made, is never reported again.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from moorline.calls.batcher import BatchCounts, Batcher, close_all, flush_all, in_batcher
from moorline.clock import SYSTEM, Clock
from moorline.errors import ConfigurationError
from moorline.policies.checks import check_count
from moorline.services.batches import FRAME, BatchService, Item, scrubbed, watching
from moorline.services.limits import as_text, refused
from moorline.services.monitoring.protocol import (
    Crumb,
    Level,
    LogLine,
    Metric,
    MetricKind,
    Occurrence,
    Person,
    Report,
    Value,
)
from moorline.services.reports import LONGEST, report, shortened
from moorline.telemetry import logger

if TYPE_CHECKING:
    from moorline.calls.call import Call

__all__ = ["Monitor"]

T = TypeVar("T")

log = logger("monitor")

_REPORTED: Final = "__moorline_reports__"


@dataclass(frozen=True, slots=True)
class _Scope:
    """What is known of where something happens. Never changed: a change makes a new one, in its own context."""

    tags: Mapping[str, str] = field(default_factory=dict)
    user: Person | None = None
    crumbs: tuple[Crumb, ...] = ()


_NOWHERE: Final = _Scope()


class Monitor:
    """One object over one or several *services* (``Monitor(Sentry, Datadog(region="eu"))``), each of which gets what it
    takes: what one has no intake for is given to it in another form where there is one (an event to Sentry as a
    message, an exception to Datadog as a line of the log).

    *release* (``SENTRY_RELEASE``), *environment* (``SENTRY_ENVIRONMENT``) and *server* (this host's name) are on every
    report. With *locals* reports have the variables of each frame, scrubbed. *crumbs* is how many breadcrumbs are kept,
    *age* after how many seconds a batch goes that is not full, *capacity* how many items may wait of each kind.

    Raises ConfigurationError naming the argument; no other method raises.
    """

    def __init__(
        self,
        *services: BatchService | type[BatchService],
        release: str | None = None,
        environment: str | None = None,
        server: str | None = None,
        locals: bool = False,
        crumbs: int = 100,
        age: float = 5.0,
        capacity: int = 10_000,
        clock: Clock = SYSTEM,
    ) -> None:
        check_count("Monitor", "crumbs", crumbs)
        if not services:
            raise ConfigurationError("Monitor needs a service, such as Monitor(Sentry)")
        self.services: tuple[BatchService, ...] = tuple(_made(one) for one in services)
        self._about = {
            "release": release or os.environ.get("SENTRY_RELEASE"),
            "environment": environment or os.environ.get("SENTRY_ENVIRONMENT"),
            "server": server or socket.gethostname(),
        }
        self._locals = locals
        self._most_crumbs = crumbs
        self._clock = clock
        self._batching: dict[str, Any] = {"age": age, "capacity": capacity, "clock": clock}
        self._batchers: dict[tuple[int, str], Batcher[Any]] = {}
        for number, service in enumerate(self.services):
            for operation in service.caps:
                self._batchers[number, operation] = self._batcher(number, service, operation)
        self._scope: ContextVar[_Scope] = ContextVar("moorline_scope", default=_NOWHERE)
        self._busy: ContextVar[bool] = ContextVar("moorline_reporting", default=False)
        self._wrong: Counter[str] = Counter()
        self._limited: Counter[str] = Counter()
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<Monitor of {', '.join(one.name for one in self.services)}>"

    def _batcher(self, number: int, service: BatchService, operation: str) -> Batcher[Any]:
        caps = service.caps[operation]
        again = sum(one.name == service.name for one in self.services[:number])
        return Batcher(
            partial(_alone, service) if operation == "capture" else getattr(service, operation),
            name=f"{service.name}{f'#{again + 1}' if again else ''}.{operation}",
            size=service.size,
            most=caps.most,
            most_bytes=max(caps.most_bytes - FRAME, caps.largest + 1),
            **self._batching,
        )

    # Handing over ----------------------------------------------------------------------------------------------------

    def capture_exception(
        self,
        error: BaseException | None = None,
        *,
        level: Level = "error",
        handled: bool = True,
        tags: Mapping[str, str] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> str | None:
        """Report *error*, by default the one that is being handled. Gives the report's id; None where there is nothing
        to report. An exception that was reported already, as it passes on, keeps its first id.
        """

        def act() -> str | None:
            found = error if error is not None else sys.exc_info()[1]
            if found is None:
                raise ValueError("capture_exception() outside of an except block needs the exception")
            known: dict[int, str] = getattr(found, _REPORTED, {})
            if id(self) in known:
                return known[id(self)]
            fields = self._fields(tags, extra)
            made = report(found, locals=self._locals, level=level, handled=handled, **fields)
            if self._hand(made):
                _remember(found, {**known, id(self): made.id})
                return made.id
            return None

        return self._quietly(act, None)

    def capture_message(
        self,
        message: str,
        level: Level = "info",
        *,
        tags: Mapping[str, str] | None = None,
        extra: Mapping[str, Any] | None = None,
        fingerprint: Sequence[str] = (),
    ) -> str | None:
        """Report a message. Gives the report's id; None where nobody takes it."""

        def act() -> str | None:
            fields = self._fields(tags, extra)
            made = Report(message, level, fingerprint=tuple(fingerprint), **fields)
            return made.id if self._hand(made) else None

        return self._quietly(act, None)

    def count(self, name: str, value: float = 1, **tags: str) -> bool:
        """So many more of *name*. As all of these, it gives whether anybody takes it."""
        return self._metric(name, value, MetricKind.COUNT, tags)

    def gauge(self, name: str, value: float, **tags: str) -> bool:
        """What *name* is now."""
        return self._metric(name, value, MetricKind.GAUGE, tags)

    def distribution(self, name: str, value: float, **tags: str) -> bool:
        """One of many that are measured. Datadog's intake takes none."""
        return self._metric(name, value, MetricKind.DISTRIBUTION, tags)

    def event(
        self,
        title: str,
        text: str = "",
        *,
        kind: str = "Moorline",
        level: Level = "info",
        group: str = "",
        **more: Value,
    ) -> bool:
        """Something that happened; *more* are attributes of it."""
        return self._quietly(
            lambda: self._hand(Occurrence(title, text, kind, level, more, group, self._now())), default=False
        )

    def log(self, message: str, level: Level = "info", **attributes: Value) -> bool:
        """A line of the log."""
        return self._quietly(lambda: self._hand(LogLine(message, level, attributes, at=self._now())), default=False)

    def hand(self, item: Item, *, apart: bool = False) -> bool:
        """A report, point, line or event with all that it can have; nothing of this context is added. With *apart* only
        to services where reports are apart from lines.
        """
        return self._quietly(lambda: self._hand(item, apart=apart), default=False)

    # What is known ---------------------------------------------------------------------------------------------------

    def add_breadcrumb(
        self, message: str, category: str = "", level: Level = "info", data: Mapping[str, Value] | None = None
    ) -> None:
        """Something that happened before, for the reports that follow in this context: task, thread or ``scope``. Long
        texts are cut, since each of these reports carries them.
        """

        def act() -> None:
            scope = self._scope.get()
            plain = {name: _plain(one) for name, one in scrubbed(data or {}).items()}
            crumb = Crumb(_cut(message), category, level, plain, self._now())
            self._scope.set(replace(scope, crumbs=(*scope.crumbs, crumb)[-self._most_crumbs :]))

        self._quietly(act, None)

    def set_tag(self, name: str, value: str) -> None:
        """A tag of the reports that follow in this context."""

        def act() -> None:
            if not as_text("name", name).strip():  # here, not of each report that follows
                raise refused("name", "must not be empty")
            scope = self._scope.get()
            self._scope.set(replace(scope, tags={**scope.tags, name: str(value)}))

        self._quietly(act, None)

    def set_user(self, id: str | None = None, *, email: str | None = None, username: str | None = None) -> None:
        """Whom the reports that follow in this context are about; nothing given is nobody."""

        def act() -> None:
            user = Person(id, email, username) if id or email or username else None
            self._scope.set(replace(self._scope.get(), user=user))

        self._quietly(act, None)

    @contextmanager
    def scope(self) -> Iterator[None]:
        """What is set within the block ends with it."""
        token = self._scope.set(self._scope.get())
        try:
            yield
        finally:
            self._scope.reset(token)

    # The end ---------------------------------------------------------------------------------------------------------

    def flush(self, timeout: float = 5.0, *, spill: bool = False) -> bool:
        """Send what waits, now. With *spill*, what still waits after *timeout* seconds becomes durable jobs, where
        there is an application. False if some of it waits even then.
        """
        return flush_all(self._batchers.values(), timeout, spill=spill)

    async def aflush(self, timeout: float = 5.0, *, spill: bool = False) -> bool:
        """As ``flush``, on the event loop."""
        return await asyncio.to_thread(self.flush, timeout, spill=spill)

    def close(self, timeout: float = 5.0) -> bool:
        """Take nothing more, and send what waits; True if nothing was lost."""
        return close_all(self._batchers.values(), timeout)

    async def aclose(self, timeout: float = 5.0) -> bool:
        """As ``close``, on the event loop."""
        return await asyncio.to_thread(self.close, timeout)

    @property
    def counts(self) -> Mapping[str, BatchCounts]:
        """What became of what was handed over, by service and operation (``sentry.capture``)."""
        return {one.name: one.counts for one in self._batchers.values()}

    @property
    def limited(self) -> Mapping[str, int]:
        """How much was dropped because a service wanted nothing of that kind just then, as ``counts`` names it."""
        with self._lock:
            return dict(self._limited)

    @property
    def misused(self) -> Mapping[str, int]:
        """How often it was called with what cannot be, by kind of error."""
        with self._lock:
            return dict(self._wrong)

    @property
    def reporting(self) -> bool:
        """Whether this is within its own work, of which nothing is to be reported."""
        return in_batcher() or self._busy.get()

    # All below may raise, and is called quietly ----------------------------------------------------------------------

    def _quietly(self, act: Callable[[], T], default: T) -> T:
        """What *act* gives; *default* where it fails, or where this is within our own work."""
        if self.reporting:
            return default
        token = self._busy.set(True)
        try:
            return act()
        except Exception as error:  # noqa: BLE001 - who watches must not break what is watched
            self._count_wrong(error)
            return default
        finally:
            self._busy.reset(token)

    def _count_wrong(self, error: Exception) -> None:
        kind = type(error).__name__
        with self._lock:
            self._wrong[kind] += 1
            first = self._wrong[kind] == 1
        if first:
            log.warning("monitor_misused", kind=kind, reason=str(error))

    def _hand(self, item: Item, *, apart: bool = False) -> bool:
        if not isinstance(item, Item):
            raise TypeError(f"expected a Report, Metric, LogLine or Occurrence, not {type(item).__name__}")
        taken = False
        for number, service in enumerate(self.services):
            try:
                taken = self._hand_to(number, service, item, apart=apart) or taken
            except Exception as error:  # noqa: BLE001 - one service must not silence the others
                self._count_wrong(error)
        return taken

    def _hand_to(self, number: int, service: BatchService, item: Item, *, apart: bool) -> bool:
        if service.switched_off or (apart and not service.reports_apart):
            return False
        fitting = service.suited(item)
        operation = service.taken[type(fitting)]
        batcher = self._batchers.get((number, operation))
        if batcher is None:
            return False
        if service.limited(operation):
            with self._lock:
                self._limited[batcher.name] += 1
            return False
        return batcher.add(fitting)

    def _metric(self, name: str, value: float, kind: MetricKind, tags: dict[str, str]) -> bool:
        return self._quietly(lambda: self._hand(Metric(name, value, kind, tags, at=self._now())), default=False)

    def _fields(self, tags: Mapping[str, str] | None, extra: Mapping[str, Any] | None) -> dict[str, Any]:
        scope = self._scope.get()
        return {
            **self._about,
            "tags": {**scope.tags, **(tags or {})},
            "extra": scrubbed(dict(extra or {})),  # now, so that it has a form in a job as well
            "user": scope.user,
            "crumbs": scope.crumbs,
            "at": self._now(),
        }

    def _now(self) -> float:
        return self._clock.wall()


def _made(service: Any) -> BatchService:
    made = service() if isinstance(service, type) and issubclass(service, BatchService) else service
    return watching(made, "Monitor")


def _plain(value: Any) -> Value:
    return value if isinstance(value, bool | int | float) else _cut(value if isinstance(value, str) else str(value))


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else shortened(text)


def _alone(service: Any, batch: list[Report]) -> Call[Any]:
    if len(batch) != 1:
        raise refused("reports", "go one with each request")
    call: Call[Any] = service.capture(batch[0])
    return call


def _remember(error: BaseException, known: Mapping[int, str]) -> None:
    try:
        setattr(error, _REPORTED, known)
    except (AttributeError, TypeError):  # one with slots, or a will of its own: it may be reported twice
        return
