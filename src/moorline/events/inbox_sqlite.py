"""Storing a group of events with one statement, on SQLite.

Each statement gives the interpreter's lock up several times, and waits for it again against an event loop that is busy
with what comes next. In a transaction of four (begin, events, jobs, commit) those waits were most of the time. A
statement alone is a transaction as well, so all rows of a group go into one INSERT, into a view that only this
connection has, whose triggers part them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy.exc import DBAPIError, NoResultFound

from moorline.events.inbox_sql import BODY, COLUMNS, Arrival, Stored, old_or_new, sent, shrink, store_arrivals
from moorline.events.places import ONCE
from moorline.jobs.job import JobRow
from moorline.store.engines import translated
from moorline.store.ids import new_id
from moorline.store.writer import AtOnce

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

__all__ = ["STORE_ARRIVALS"]

_EVENT: Final = 0  # with its first job, if it has any
_JOB: Final = 1  # one more job of the event before it
_MOST: Final = 128  # rows of a statement; there is one, which stays prepared, for each number of them
_OF_JOB: Final = ("job_id", "job_name", "max_attempts")
_VALUES: Final = ("kind", *COLUMNS, *_OF_JOB)
_ROW: Final = f"({', '.join('?' * len(_VALUES))})"
_AT: Final = COLUMNS.index("received_at")
_BEFORE: Final = (None,) * (_AT - 1)
_BEHIND: Final = (None,) * (len(COLUMNS) - _AT - 1)
_NO_JOB: Final = (None,) * len(_OF_JOB)
_MADE: Final = "moorline.arriving"

_KEPT: Final = "SELECT id FROM events WHERE service = ? AND delivery_key = ?"
_VIEW: Final = f"CREATE TEMP VIEW IF NOT EXISTS arriving AS SELECT {', '.join(f'NULL AS {name}' for name in _VALUES)}"
# What ``jobs_of`` makes: the rest of a job follows from its event.
_JOB_IS: Final = {
    "id": "NEW.job_id",
    "name": "NEW.job_name",
    "payload": "CAST(NEW.id AS BLOB)",
    "run_at": "NEW.received_at",
    "created_at": "NEW.received_at",
    "queue": f"'{JobRow._field_defaults['queue']}'",
    "priority": str(JobRow._field_defaults["priority"]),
    "max_attempts": "NEW.max_attempts",
    "event_id": "NEW.id",
    "state": "'ready'",
}
_MAKE_JOB: Final = f"INSERT INTO jobs ({', '.join(_JOB_IS)}) SELECT {', '.join(_JOB_IS.values())}"
_EVENTS: Final = f"""CREATE TEMP TRIGGER IF NOT EXISTS arriving_events INSTEAD OF INSERT ON arriving
    WHEN NEW.kind = {_EVENT} BEGIN
        INSERT INTO events ({", ".join(COLUMNS)}) VALUES ({", ".join(f"NEW.{name}" for name in COLUMNS)})
            ON CONFLICT (service, delivery_key) DO NOTHING;
        {_MAKE_JOB} WHERE NEW.job_id IS NOT NULL AND changes() = 1;
    END"""  # noqa: S608 -- constants only, here and below
# An event that came before has another id: it gets no jobs.
_JOBS: Final = f"""CREATE TEMP TRIGGER IF NOT EXISTS arriving_jobs INSTEAD OF INSERT ON arriving
    WHEN NEW.kind = {_JOB} BEGIN
        {_MAKE_JOB} WHERE EXISTS (SELECT 1 FROM events WHERE id = NEW.id);
    END"""  # noqa: S608


def _store_at_once(connection: Connection, arrivals: list[Arrival]) -> Sequence[Stored | Exception] | None:
    """As ``store_arrivals``, outside of a transaction; None where that needs more than one statement."""
    values: list[Any] = []
    answers: list[Stored] = []
    first: dict[tuple[str, str], int] = {}  # where in the values those begin that may come again in the group
    wanted = 0  # rows of both tables, if all are new
    for arrival in arrivals:
        key = arrival[:2]
        if arrival.relayed or key[1].startswith(ONCE):
            return None
        at = arrival.received_at
        if key in first:
            place = first[key]
            values[place + len(COLUMNS)] += 1
            answers.append(Stored(values[place + 1], True))
            continue
        first[key] = len(values)
        event_id = new_id(at)
        job: tuple[Any, ...] = _NO_JOB
        more: list[Any] = []
        for handler, order_key in arrival.handlers:
            if order_key is not None:
                return None
            made = (new_id(at), handler.job, handler.attempts)
            if job is _NO_JOB:
                job = made
            else:
                more += (_JOB, event_id, *_BEFORE, at, *_BEHIND, *made)
            wanted += 1
        values += (_EVENT, event_id, *sent(arrival), 0, *job, *more)
        wanted += 1
        answers.append(Stored(event_id, False))
    count = len(values) // len(_VALUES)
    if count > _MOST:
        return None
    shrink((values, start + 1 + BODY) for start in first.values())
    try:
        driver = _driver(connection)
        before: int = driver.total_changes
        driver.execute(_insert(count), values)
    except sqlite3.Error:
        return None  # nothing was written; the usual way waits for locks, and says what is wrong
    if driver.total_changes - before == wanted:
        return answers
    return _with_old(connection, arrivals, answers, values)


def _driver(connection: Connection) -> Any:
    """SQLite's own connection, which commits each statement and has the view."""
    driver = connection.connection.dbapi_connection
    assert driver is not None
    if _MADE not in connection.info:
        for statement in (_VIEW, _EVENTS, _JOBS):
            driver.execute(statement)
        connection.info[_MADE] = True
    return driver


def _with_old(
    connection: Connection, arrivals: list[Arrival], answers: list[Stored], values: list[Any]
) -> list[Stored | Exception]:
    """The answers where some events came before: those are counted."""
    starts = [start for start in range(0, len(values), len(_VALUES)) if values[start] == _EVENT]
    rows = [values[start + 1 : start + 1 + len(COLUMNS)] for start in starts]
    kept: dict[str, str | Exception]
    try:
        with connection.begin():
            kept = {row[0]: _counted(connection, arrivals, row) for row in rows}
    except DBAPIError as error:  # such as another process's lock: stored they are, counted or not
        kept = _uncounted(connection, rows, error)
    return [_answer(answer, kept[answer.event_id]) for answer in answers]


def _counted(connection: Connection, arrivals: list[Arrival], row: list[Any]) -> str:
    """The id under which the event is kept; counted if it came before."""
    try:
        kept: str = old_or_new(connection, row)[0]
    except NoResultFound:  # it came before, and was forgotten since then
        arrival = next(one for one in arrivals if one[:2] == tuple(row[1:3]))
        return store_arrivals(connection, [arrival])[0].event_id
    return kept


def _uncounted(connection: Connection, rows: list[list[Any]], error: DBAPIError) -> dict[str, str | Exception]:
    """The ids under which the events are kept, or what went wrong for those that were forgotten since then."""
    driver = _driver(connection)
    try:
        found = {row[0]: driver.execute(_KEPT, row[1:3]).fetchone() for row in rows}
    except sqlite3.Error:  # nor can it be read
        raise error from None
    return {made: translated(error) if kept is None else kept[0] for made, kept in found.items()}


def _answer(answer: Stored, kept: str | Exception) -> Stored | Exception:
    return kept if isinstance(kept, Exception) else Stored(kept, answer.duplicate or kept != answer.event_id)


@cache
def _insert(rows: int) -> str:
    return f"INSERT INTO arriving VALUES {', '.join([_ROW] * rows)}"  # noqa: S608


STORE_ARRIVALS: Final = AtOnce(store_arrivals, _store_at_once)
"""As ``store_arrivals``."""
