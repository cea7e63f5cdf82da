"""Storing a group of events with one statement, on SQLite.

Each statement gives the interpreter's lock up several times, and waits for it again against an event loop that is busy
with what comes next. In a transaction of four (begin, events, jobs, commit) those waits were most of the time. A
statement alone is a transaction as well, so all rows of a group go into one INSERT, into a view that only this
connection has, whose triggers part them.
"""

from __future__ import annotations

import sqlite3
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from moorline.events.inbox_sql import COLUMNS, Arrival, Stored, jobs_of, old_or_new, rows_of, store_arrivals
from moorline.events.places import ONCE
from moorline.jobs.job import JobRow
from moorline.store.writer import AtOnce

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

__all__ = ["STORE_ARRIVALS"]

_EVENT: Final = 0
_JOB: Final = 1
_MOST: Final = 128  # rows of a statement; there is one, which stays prepared, for each number of them
_WIDTH: Final = max(len(COLUMNS), len(JobRow._fields))
_NAMES: Final = [f"c{number}" for number in range(_WIDTH)]
_NO_EVENT: Final = (None,) * (_WIDTH - len(COLUMNS))
_NO_JOB: Final = (None,) * (_WIDTH - len(JobRow._fields))
_PLACES: Final = f"({', '.join('?' * (_WIDTH + 1))})"
_MADE: Final = "moorline.arriving"


def _new(columns: tuple[str, ...]) -> str:
    return ", ".join(f"NEW.{name}" for name in _NAMES[: len(columns)])


_VIEW: Final = f"CREATE TEMP VIEW IF NOT EXISTS arriving AS SELECT NULL AS kind, NULL AS {', NULL AS '.join(_NAMES)}"
_EVENTS: Final = f"""CREATE TEMP TRIGGER IF NOT EXISTS arriving_events INSTEAD OF INSERT ON arriving
    WHEN NEW.kind = {_EVENT} BEGIN
        INSERT INTO events ({", ".join(COLUMNS)}) VALUES ({_new(COLUMNS)})
            ON CONFLICT (service, delivery_key) DO NOTHING;
    END"""  # noqa: S608 -- constants only, here and below
# An event that came before has another id: it gets no jobs.
_JOBS: Final = f"""CREATE TEMP TRIGGER IF NOT EXISTS arriving_jobs INSTEAD OF INSERT ON arriving
    WHEN NEW.kind = {_JOB} BEGIN
        INSERT INTO jobs ({", ".join(JobRow._fields)}, state) SELECT {_new(JobRow._fields)}, 'ready'
            WHERE EXISTS (SELECT 1 FROM events WHERE id = NEW.{_NAMES[JobRow._fields.index("event_id")]});
    END"""  # noqa: S608


def _store_at_once(connection: Connection, arrivals: list[Arrival]) -> list[Stored] | None:
    """As ``store_arrivals``, outside of a transaction; None where that needs more than one statement."""
    if not all(map(_is_plain, arrivals)):
        return None
    rows = rows_of(arrivals)
    seen: set[str] = set()
    values: list[Any] = []
    answers: list[Stored] = []
    for arrival in arrivals:
        row = rows[arrival[:2]]
        event_id: str = row[0]
        new = event_id not in seen
        if new:
            seen.add(event_id)
            values += (_EVENT, *row, *_NO_EVENT)
            for job in jobs_of(event_id, arrival.received_at, arrival.handlers):
                values += (_JOB, *job, *_NO_JOB)
        answers.append(Stored(event_id, not new))
    count = len(values) // (_WIDTH + 1)
    if count > _MOST:
        return None
    try:
        driver = _driver(connection)
        before: int = driver.total_changes
        driver.execute(_insert(count), values)
    except sqlite3.Error:
        return None  # nothing was written; the usual way waits for locks, and says what is wrong
    return answers if driver.total_changes - before == count else _with_old(connection, answers, rows)


def _is_plain(arrival: Arrival) -> bool:
    keyed = [key for _, key in arrival.handlers if key is not None]
    return not (arrival.relayed or keyed or arrival.delivery_key.startswith(ONCE))


def _driver(connection: Connection) -> Any:
    """SQLite's own connection, which commits each statement and has the view."""
    driver = connection.connection.dbapi_connection
    assert driver is not None
    if _MADE not in connection.info:
        for statement in (_VIEW, _EVENTS, _JOBS):
            driver.execute(statement)
        connection.info[_MADE] = True
    return driver


def _with_old(connection: Connection, answers: list[Stored], rows: dict[tuple[str, str], list[Any]]) -> list[Stored]:
    """The answers where some events came before: those are counted."""
    with connection.begin():
        kept: dict[str, str] = {row[0]: old_or_new(connection, row)[0] for row in rows.values()}
    ids = [kept[answer.event_id] for answer in answers]
    return [Stored(now, answer.duplicate or now != answer.event_id) for now, answer in zip(ids, answers, strict=True)]


@cache
def _insert(rows: int) -> str:
    return f"INSERT INTO arriving VALUES {', '.join([_PLACES] * rows)}"  # noqa: S608


STORE_ARRIVALS: Final = AtOnce(store_arrivals, _store_at_once)
"""As ``store_arrivals``."""
