"""Inserting jobs, with whatever connection is at hand: the store's writer, or the caller's own transaction."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache
from itertools import chain
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from moorline.errors import ConfigurationError, Misuse
from moorline.jobs.brokers.sql_arrays import blobs, numbers, texts
from moorline.jobs.brokers.sql_order import held, lock
from moorline.jobs.brokers.sql_unique import insert_unique
from moorline.jobs.job import JobRow, State
from moorline.store.schema import jobs

__all__ = ["Insertion", "insert_jobs", "insert_missing", "insert_rows", "insertion", "states_of"]

_COLUMNS: Final = ", ".join(JobRow._fields)
_SIZES: Final = (256, 64)  # rows of SQLite's statements, the last of any number below: each stays prepared
_PLACES: Final = "?, " * len(JobRow._fields)
_TYPES: Final = ("text", "text", "bytea", "float8", "float8", "text", "int2", "int4", "text", "text", "text", "float8")
_ARRAYS: Final[dict[str, Callable[[Any], str]]] = {"text": texts, "bytea": blobs}
_KINDS: Final = (*(_ARRAYS.get(kind, numbers) for kind in _TYPES), texts)


class Insertion(NamedTuple):
    """An INSERT of jobs; ``state`` is None where each row ends with its own, ``end`` is how the statement ends."""

    state: State | None
    end: str
    postgres: str
    postgres_one: str

    def sqlite(self, rows: int) -> str:
        """For so many rows."""
        return _sqlite_insert("?" if self.state is None else f"'{self.state}'", self.end, rows)


def insertion(state: State | None, end: str = "") -> Insertion:
    """Inserts jobs in that state; ``end`` is how the statement ends."""
    arrays = ", ".join(f"%s::{kind}[]" for kind in (*_TYPES, *(("text",) if state is None else ())))
    constant = "" if state is None else f", '{state}'"
    places = len(_TYPES) + (state is None)
    return Insertion(
        state,
        end,
        f"INSERT INTO jobs ({_COLUMNS}, state) SELECT *{constant} FROM unnest({arrays}){end}",  # noqa: S608
        # Of a single row, which an idle worker may be waiting for: in half the time.
        f"INSERT INTO jobs ({_COLUMNS}, state) VALUES ({', '.join(['%s'] * places)}{constant}){end}",  # noqa: S608
    )


@cache
def _sqlite_insert(place: str, end: str, rows: int) -> str:
    # Many rows in one statement: each one that is run gives the interpreter's lock up, several times, and waits for it
    # again against a busy event loop.
    places = ", ".join([f"({_PLACES}{place})"] * rows)
    return f"INSERT INTO jobs ({_COLUMNS}, state) VALUES {places}{end}"  # noqa: S608


_READY: Final = insertion("ready")
_READY_IF_MISSING: Final = insertion("ready", " ON CONFLICT (id) DO NOTHING")
_ORDERED: Final = insertion(None)

_STATES_OF: Final = {
    "sqlite": sa.text("SELECT id, state FROM jobs WHERE id IN (SELECT value FROM json_each(:ids))"),
    "postgresql": sa.text("SELECT id, state FROM jobs WHERE id = ANY(CAST(:ids AS text[]))"),
}


def insert_jobs(connection: Connection, rows: Sequence[JobRow], *, brief: bool = True) -> list[str]:
    """Insert *rows* in the connection's transaction; one id for each, in order.

    The id is another one than the row's when another job has its unique key (see ``sql_unique``). A row whose order
    key has a job that has not ended is inserted blocked; on PostgreSQL, in a transaction that is not *brief*, each row
    with an order key is, because knowing more would hold up all who use that key. Works with the drivers of both
    databases, the asynchronous ones (through ``run_sync``) included.
    """
    return _insert(connection, rows, _READY, brief=brief)


def insert_missing(connection: Connection, rows: Sequence[JobRow]) -> list[str]:
    """As ``insert_jobs``, but rows whose ids are there already are left as they are, whatever became of them.

    The order keys must be locked (see ``with_keys``). ConfigurationError for rows that this database itself is to
    relay: they would never be.
    """
    there = states_of(connection, [row.id for row in rows])
    if "outbox" in there.values():
        raise ConfigurationError("broker: it keeps its jobs in the database that they are relayed from")
    missing = list({row.id: row for row in rows if row.id not in there}.values())
    kept = dict(zip([row.id for row in missing], _insert(connection, missing, _READY_IF_MISSING), strict=True))
    return [kept.get(row.id, row.id) for row in rows]


def states_of(connection: Connection, ids: Sequence[str]) -> dict[str, State]:
    """The states of those that are there."""
    dialect = connection.dialect.name
    found = connection.execute(_STATES_OF[dialect], {"ids": list(ids) if dialect == "postgresql" else json.dumps(ids)})
    return {row[0]: row[1] for row in found}


def insert_rows(connection: Connection, how: Insertion, rows: Sequence[tuple[Any, ...]]) -> None:
    """Insert job rows as they are."""
    driver = connection.dialect.driver
    if driver == "pysqlite":
        _insert_chunks(connection, how, rows)
    elif driver == "psycopg" and len(rows) == 1:
        connection.exec_driver_sql(how.postgres_one, tuple(rows[0]))
    elif driver == "psycopg":
        columns = zip(_KINDS, zip(*rows, strict=True), strict=False)  # rows may end with a state
        connection.exec_driver_sql(how.postgres, tuple([as_array(column) for as_array, column in columns]))
    else:
        names, state = (*JobRow._fields, "state"), () if how.state is None else (how.state,)
        connection.execute(sa.insert(jobs), [dict(zip(names, (*row, *state), strict=True)) for row in rows])


def _insert(connection: Connection, rows: Sequence[JobRow], ready: Insertion, *, brief: bool = True) -> list[str]:
    plain = [row for row in rows if row.unique_key is None and row.order_key is None]
    if plain:
        insert_rows(connection, ready, plain)
    if len(plain) == len(rows):
        return [row.id for row in rows]
    ordered = [row for row in rows if row.order_key is not None]
    if any(row.unique_key is not None for row in ordered):
        raise Misuse("a job has either a unique key or an order key")  # the index of unique keys knows no blocked jobs
    if ordered:
        states = _states(connection, ordered, brief=brief)
        insert_rows(connection, _ORDERED, [(*row, state) for row, state in zip(ordered, states, strict=True)])
    unique = sorted((row for row in rows if row.unique_key is not None), key=_turn)
    kept = {row.id: insert_unique(connection, row) for row in unique}
    return [kept.get(row.id, row.id) for row in rows]


def _turn(row: JobRow) -> tuple[str, bool]:
    # In one order, lest two transactions wait for each other: by their keys, those that open a window first.
    return str(row.unique_key), row.unique_until is None


def _states(connection: Connection, rows: list[JobRow], *, brief: bool) -> list[State]:
    """The first job of a key that has none is ready, each other one blocked."""
    if not brief and connection.dialect.name == "postgresql":
        return ["blocked"] * len(rows)
    keys = {str(row.order_key) for row in rows}
    lock(connection, keys)
    taken = held(connection, keys)
    states: list[State] = []
    for row in rows:
        key = str(row.order_key)
        states.append("blocked" if key in taken else "ready")
        taken.add(key)
    return states


def _insert_chunks(connection: Connection, how: Insertion, rows: Sequence[tuple[Any, ...]]) -> None:
    start = 0
    for size in _SIZES:
        while len(rows) - start >= size or (size == _SIZES[-1] and start < len(rows)):
            part = rows[start : start + size]
            connection.exec_driver_sql(how.sqlite(len(part)), tuple(chain.from_iterable(part)))
            start += size
