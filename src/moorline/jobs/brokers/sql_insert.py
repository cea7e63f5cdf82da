"""Inserting jobs, with whatever connection is at hand: the store's writer, or the caller's own transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from moorline.errors import Misuse, StoreError
from moorline.jobs.brokers.sql_order import held, lock
from moorline.jobs.job import JobRow, State
from moorline.store.schema import jobs

__all__ = ["insert_jobs"]

_COLUMNS: Final = ", ".join(JobRow._fields)
_CHUNKS: Final = (64, 32, 16, 8, 4, 2, 1)
_PLACES: Final = "?, " * len(JobRow._fields)
_TYPES: Final = ("text", "text", "bytea", "float8", "float8", "text", "int2", "int4", "text", "text", "text")


def _sqlite(state: str) -> dict[int, str]:
    # Chunks of fixed sizes: SQLite runs many rows in one step (each step gives up the interpreter's lock), and the
    # prepared statements stay few.
    return {
        size: f"INSERT INTO jobs ({_COLUMNS}, state) VALUES " + ", ".join([f"({_PLACES}{state})"] * size)  # noqa: S608
        for size in _CHUNKS
    }


def _postgres(state: str, types: Sequence[str]) -> str:
    arrays = ", ".join(f"%s::{kind}[]" for kind in types)
    return f"INSERT INTO jobs ({_COLUMNS}, state) SELECT *{state} FROM unnest({arrays})"  # noqa: S608


_SQLITE_READY: Final = _sqlite("'ready'")
_SQLITE_ORDERED: Final = _sqlite("?")
_POSTGRES_READY: Final = _postgres(", 'ready'", _TYPES)
_POSTGRES_ORDERED: Final = _postgres("", (*_TYPES, "text"))

_INSERT_UNIQUE: Final = sa.text(
    f"INSERT INTO jobs ({_COLUMNS}, state) VALUES ("  # noqa: S608
    + ", ".join(f":{name}" for name in JobRow._fields)
    + ", 'ready') ON CONFLICT DO NOTHING"
).bindparams(sa.bindparam("payload", type_=sa.LargeBinary))
_HOLDER: Final = sa.text("SELECT id FROM jobs WHERE unique_key = :key AND state IN ('ready', 'running')")


def insert_jobs(connection: Connection, rows: Sequence[JobRow], *, brief: bool = True) -> list[str]:
    """Insert *rows* in the connection's transaction; one id for each, in order.

    The id is another one than the row's when a job with the same unique key waits or runs already. A row whose order
    key has a job that has not ended is inserted blocked; on PostgreSQL, in a transaction that is not *brief*, each row
    with an order key is, because knowing more would hold up all who use that key. Works with the drivers of both
    databases, the asynchronous ones (through ``run_sync``) included.
    """
    plain = [row for row in rows if row.unique_key is None and row.order_key is None]
    if plain:
        _insert_ready(connection, plain)
    if len(plain) == len(rows):
        return [row.id for row in rows]
    ordered = [row for row in rows if row.order_key is not None]
    if any(row.unique_key is not None for row in ordered):
        raise Misuse("a job has either a unique key or an order key")  # the index of unique keys knows no blocked jobs
    if ordered:
        _insert_ordered(connection, ordered, brief=brief)
    return [row.id if row.unique_key is None else _insert_unique(connection, row) for row in rows]


def _insert_ready(connection: Connection, rows: list[JobRow]) -> None:
    driver = connection.dialect.driver
    if driver == "pysqlite":
        _insert_chunks(connection, _SQLITE_READY, rows)
    elif driver == "psycopg":
        connection.exec_driver_sql(_POSTGRES_READY, tuple(map(list, zip(*rows, strict=True))))
    else:
        connection.execute(sa.insert(jobs), [{**row._asdict(), "state": "ready"} for row in rows])


def _insert_ordered(connection: Connection, rows: list[JobRow], *, brief: bool) -> None:
    placed = [(*row, state) for row, state in zip(rows, _states(connection, rows, brief=brief), strict=True)]
    driver = connection.dialect.driver
    if driver == "pysqlite":
        _insert_chunks(connection, _SQLITE_ORDERED, placed)
    elif driver == "psycopg":
        connection.exec_driver_sql(_POSTGRES_ORDERED, tuple(map(list, zip(*placed, strict=True))))
    else:
        names = (*JobRow._fields, "state")
        connection.execute(sa.insert(jobs), [dict(zip(names, one, strict=True)) for one in placed])


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


def _insert_chunks(connection: Connection, statements: dict[int, str], rows: Sequence[tuple[Any, ...]]) -> None:
    start = 0
    for size in _CHUNKS:
        while len(rows) - start >= size:
            part = rows[start : start + size]
            connection.exec_driver_sql(statements[size], tuple(value for row in part for value in row))
            start += size


def _insert_unique(connection: Connection, row: JobRow) -> str:
    for _ in range(3):  # the holder may end between our two statements
        if connection.execute(_INSERT_UNIQUE, row._asdict()).rowcount:
            return row.id
        holder = connection.execute(_HOLDER, {"key": row.unique_key}).scalar()
        if holder is not None:
            return str(holder)
    raise StoreError(f"a job with the unique key {row.unique_key!r} kept ending while another one was enqueued")
