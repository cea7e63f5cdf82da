"""Makes the jobs of schedules: one for each time, whatever crashes, and however many workers look.

What was made is known by one row of ``meta`` for each schedule. A lease keeps all workers but one from looking. Neither
is needed for a time to make one job only: the job's id follows from the schedule and the time, and a broker leaves an
id that it has as it is. So the row may be written after the jobs, and is: a crash in between repeats what changes
nothing.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import sqlalchemy as sa

from moorline.errors import ConfigurationError
from moorline.store.leases import Lease, compare_and_set, take_leases
from moorline.store.schema import meta
from moorline.telemetry import logger

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.engine import Connection

    from moorline.jobs.broker import Broker
    from moorline.jobs.schedule import Schedule
    from moorline.store.store import Store

__all__ = ["Known", "Schedules", "known_schedules"]

LEASE: Final = 10.0
"""Seconds for which one worker alone looks; after its death another one does."""
_KEY: Final = "schedule:"
_INSTANT: Final = 0.001
_LEAST: Final = 0.2  # seconds between two looks
_MOST: Final = 60.0

log = logger("jobs")


class Known(NamedTuple):
    """A schedule as the database knows it: up to when all its jobs were made, and when the next one is due; in seconds
    since the epoch.
    """

    name: str
    job: str
    when: str | float
    tz: str
    last: float
    next: float


class Schedules:
    """The schedules of one application, whose jobs *broker* keeps."""

    def __init__(self, store: Store, broker: Broker) -> None:
        self._store = store
        self._broker = broker
        self._clock = store.clock
        self._all: dict[str, Schedule] = {}
        self._look_at = -math.inf  # by the wall clock

    def add(self, schedule: Schedule) -> None:
        """Raises ConfigurationError when the name is taken."""
        if schedule.name in self._all:
            raise ConfigurationError(f"name: two schedules are called {schedule.name!r}; give one of them another name")
        self._all[schedule.name] = schedule
        self._look_at = -math.inf

    def __iter__(self) -> Iterator[Schedule]:
        return iter(self._all.values())

    def __len__(self) -> int:
        return len(self._all)

    async def run_once(self, holder: str) -> int:
        """Make what is due now; how many jobs. Cheap when nothing is, so it may be called every second.

        The first look at a new schedule makes nothing: it begins then. Raises StoreError.
        """
        now = self._clock.wall()
        if not self._all or (self._look_at - _MOST <= now < self._look_at):
            return 0
        if not await self._store.write(take_leases, Lease("schedules", holder, now, LEASE)):
            self._look_at = now + LEASE / 2
            return 0
        known = await self._store.read(_rows)
        made = 0
        for schedule in self._all.values():
            made += await self._look(schedule, known.get(schedule.name), now)
        upcoming = min(schedule.next_after(now) for schedule in self._all.values())
        self._look_at = min(max(upcoming, now + _LEAST), now + _MOST)
        return made

    async def _look(self, schedule: Schedule, old: str | None, now: float) -> int:
        last = _last(schedule, old, now)
        due = schedule.due(last, now)
        if due:
            rows = [schedule.at(time, now) for time in due]
            ids = await self._broker.enqueue(rows, again=True)
            for row, kept in zip(rows, ids, strict=True):
                if row.id != kept:
                    log.warning("schedule_overlaps", schedule=schedule.name, due=row.run_at, job=kept)
            last = due[-1]
        new = json.dumps(
            {
                "job": schedule.row.name, "when": schedule.when, "tz": schedule.tz, "last": last,
                "next": schedule.next_after(now),
            }
        )  # fmt: skip
        if new != old:
            await self._store.write(_set, (f"{_KEY}{schedule.name}", old, new))
        return len(due)


def _last(schedule: Schedule, old: str | None, now: float) -> float:
    """Since when what is due was not looked for. Where it was another schedule until now, nothing of this one was
    missed before the next time of that one.
    """
    if old is None:
        return now
    facts = json.loads(old)
    last = float(facts["last"])
    if (facts["when"], facts["tz"]) == (schedule.when, schedule.tz):
        return last
    return max(last, min(float(facts["next"]) - _INSTANT, now))


def _rows(connection: Connection) -> dict[str, str]:
    query = sa.select(meta.c.key, meta.c.value).where(meta.c.key.startswith(_KEY, autoescape=True))
    return {key.removeprefix(_KEY): value for key, value in connection.execute(query)}


def _set(connection: Connection, payloads: list[tuple[str, str | None, str]]) -> list[bool]:
    return [compare_and_set(connection, key, old, new) for key, old, new in payloads]


def known_schedules(connection: Connection) -> list[Known]:
    """All that were ever looked at, by name."""
    found = []
    for name, value in sorted(_rows(connection).items()):
        facts: dict[str, Any] = json.loads(value)
        found.append(Known(name, facts["job"], facts["when"], facts["tz"], facts["last"], facts["next"]))
    return found
