"""When a schedule is due: cron expressions in a time zone, and intervals. Pure; ``schedules.py`` makes the jobs.

A cron expression has the five fields of Debian's cron and means what it means there (cronsim keeps to it), also when
clocks are put forward or back: a time of the day that is left out is due when the clock goes on, one that comes twice
is due once, and what runs every so often goes on doing so. An interval is due at the multiples of its length since
1970, so that all machines agree on them without talking to each other.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import takewhile
from typing import TYPE_CHECKING, Final, Literal, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from moorline.errors import ConfigurationError
from moorline.jobs.flows import expiring

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moorline.jobs.job import JobRow

__all__ = ["MOST_MISSED", "CatchUp", "Schedule", "job_id", "seconds_of"]

CatchUp = Literal["latest", "all", "none"]

MOST_MISSED: Final = 1_000
"""Times that are caught up with at once, the newest, where all of them are wanted."""

_FIELDS: Final = 5
_SHORTEST: Final = 1.0
_GRACE: Final = 60.0
"""Seconds by which a time may be late and is not missed yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """``when`` is a cron expression, or seconds between two times.

    ``row`` is the job of one time, without id and times of its own. ``catch_up`` says what becomes of times that were
    missed while no worker ran: the ``"latest"`` of them is due late, ``"all"`` are, or ``"none"``; what is late by less
    than a minute was not missed. With ``overlap`` a time is due though the job of the one before has not ended;
    else it is left out. So it is while any other job of the row's own unique key has not, or its window is open, which
    begins when that one was due.

    Raises ConfigurationError naming the argument.
    """

    name: str
    when: str | float
    row: JobRow
    tz: str = "UTC"
    catch_up: CatchUp = "latest"
    overlap: bool = False
    zone: ZoneInfo = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not self.name or not self.name.isprintable() or len(self.name) > 100:
            raise ConfigurationError(f"name: {self.name!r} is not a name")
        if self.catch_up not in get_args(CatchUp):
            raise ConfigurationError(f'catch_up: expected "latest", "all" or "none", got {self.catch_up!r}')
        if self.catch_up == "all" and not self.overlap:
            raise ConfigurationError('catch_up: "all" makes several jobs at a time, which needs overlap=True')
        try:
            object.__setattr__(self, "zone", ZoneInfo(self.tz))
        except (ZoneInfoNotFoundError, ValueError, TypeError, OSError):
            raise ConfigurationError(f'tz: there is no time zone {self.tz!r}; such as "Europe/Berlin"') from None
        if self.row.order_key is not None and not self.overlap:
            raise ConfigurationError("overlap: jobs with a key wait for each other; give overlap=True")
        if self.row.unique_key is not None and self.overlap:
            raise ConfigurationError("overlap: of a unique job there is one at a time; leave out overlap, or unique")
        if isinstance(self.when, str):
            self._check_cron(self.when)
        elif not _SHORTEST <= self.when < math.inf:
            raise ConfigurationError(f"when: expected at least {_SHORTEST:g} second, got {self.when!r}")

    def _check_cron(self, expression: str) -> None:
        from cronsim import CronSimError

        if len(expression.split()) != _FIELDS:
            raise ConfigurationError(f"when: {expression!r} is no cron expression: it has not five fields")
        try:
            next(self._cron(0.0))
        except CronSimError as error:
            raise ConfigurationError(f"when: {expression!r} is no cron expression: {error}") from None
        except StopIteration:
            raise ConfigurationError(f"when: {expression!r} is never due") from None

    def next_after(self, moment: float) -> float:
        """The first time after that one. All are seconds since the epoch."""
        return next(self._after(moment), math.inf)

    def due(self, last: float, now: float) -> list[float]:
        """The times to make jobs for, oldest first, when all up to *last* have been looked at."""
        latest = self._latest(now)
        if latest is None or latest <= last:
            return []
        if self.catch_up != "all":
            in_time = list(takewhile(lambda time: time <= now, self._after(max(last, now - _GRACE))))[-MOST_MISSED:]
            if self.catch_up == "none":
                return in_time
            # Where none may run beside another one, there is room for one of them.
            return in_time if in_time and self.overlap else [latest]
        missed = takewhile(lambda time: time > last, self._before(now))
        return [time for time, _ in zip(missed, range(MOST_MISSED), strict=False)][::-1]

    def _latest(self, now: float) -> float | None:
        return next(self._before(now), None)

    def _after(self, moment: float) -> Iterator[float]:
        if isinstance(self.when, str):
            yield from self._cron(moment)
            return
        number = math.floor(moment / self.when) + 1
        while True:
            yield number * self.when
            number += 1

    def _before(self, moment: float) -> Iterator[float]:
        """Times up to that one, newest first."""
        if isinstance(self.when, str):
            # Cron looks at whole minutes: the one that has begun counts.
            yield from self._cron((math.floor(moment / 60) + 1) * 60, reverse=True)
            return
        number = math.floor(moment / self.when)
        while True:
            yield number * self.when
            number -= 1

    def _cron(self, moment: float, *, reverse: bool = False) -> Iterator[float]:
        from cronsim import CronSim

        start = datetime.fromtimestamp(moment, self.zone)
        for time in CronSim(str(self.when), start, reverse=reverse):
            yield time.timestamp()

    def at(self, due: float, now: float) -> JobRow:
        """The job of that time. Its id follows from both, so that whoever makes it makes the same one."""
        unique = self.row.unique_key or (None if self.overlap else f"schedule:{self.name}")
        until = self.row.unique_until
        window = None if until is None else due + until - self.row.created_at
        own = self.row._replace(id=job_id(self.name, due), run_at=due, created_at=now)
        # It expires so long after it was due, which is not when it is made; the row may have had a delay.
        early = now - due + self.row.run_at - self.row.created_at
        payload = expiring(self.row.payload, lambda seconds: seconds - early)
        return own._replace(payload=payload, unique_key=unique, unique_until=window)


def job_id(name: str, due: float) -> str:
    """The id of a schedule's job: like all ids it begins with a time, and sorts by it."""
    digest = hashlib.sha256(f"{name}\n{due:.3f}".encode()).hexdigest()
    return f"{int(due * 1000):012x}{digest[:20]}"


def seconds_of(when: str | float | timedelta) -> str | float:
    """A length of time as seconds; a cron expression as it is."""
    return when.total_seconds() if isinstance(when, timedelta) else when
