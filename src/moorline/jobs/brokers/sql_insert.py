"""Inserting jobs, with whatever connection is at hand: the store's writer, or the caller's own transaction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from moorline.errors import StoreError
from moorline.jobs.job import JobRow
from moorline.store.schema import jobs

__all__ = ["insert_jobs"]

_COLUMNS: Final = ", ".join(JobRow._fields)
_CHUNKS: Final = (64, 32, 16, 8, 4, 2, 1)
_PLACES: Final = "(" + "?, " * len(JobRow._fields) + "'ready')"

# Chunks of fixed sizes: SQLite runs many rows in one step (each step gives up the interpreter's lock), and the
# prepared statements stay few.
_SQLITE_INSERT: Final = {
    size: f"INSERT INTO jobs ({_COLUMNS}, state) VALUES " + ", ".join([_PLACES] * size)  # noqa: S608
    for size in _CHUNKS
}

_TYPES: Final = ("text", "text", "bytea", "float8", "float8", "text", "int2", "int4", "text", "text")
_POSTGRES_INSERT: Final = (
    f"INSERT INTO jobs ({_COLUMNS}, state) SELECT *, 'ready' FROM unnest("  # noqa: S608
    + ", ".join(f"%s::{kind}[]" for kind in _TYPES)
    + ")"
)

_INSERT_UNIQUE: Final = sa.text(
    f"INSERT INTO jobs ({_COLUMNS}, state) VALUES ("  # noqa: S608
    + ", ".join(f":{name}" for name in JobRow._fields)
    + ", 'ready') ON CONFLICT DO NOTHING"
).bindparams(sa.bindparam("payload", type_=sa.LargeBinary))
_HOLDER: Final = sa.text("SELECT id FROM jobs WHERE unique_key = :key AND state IN ('ready', 'running')")


def insert_jobs(connection: Connection, rows: Sequence[JobRow]) -> list[str]:
    """Insert *rows* in the connection's transaction; one id for each, in order.

    The id is another one than the row's when a job with the same unique key waits or runs already. Works with the
    drivers of both databases, the asynchronous ones (through ``run_sync``) included.
    """
    plain = [row for row in rows if row.unique_key is None]
    if plain:
        _insert_plain(connection, plain)
    if len(plain) == len(rows):
        return [row.id for row in rows]
    return [row.id if row.unique_key is None else _insert_unique(connection, row) for row in rows]


def _insert_plain(connection: Connection, rows: list[JobRow]) -> None:
    driver = connection.dialect.driver
    if driver == "pysqlite":
        for part in _chunks(rows):
            values = tuple(value for row in part for value in row)
            connection.exec_driver_sql(_SQLITE_INSERT[len(part)], values)
    elif driver == "psycopg":
        connection.exec_driver_sql(_POSTGRES_INSERT, tuple(map(list, zip(*rows, strict=True))))
    else:
        connection.execute(sa.insert(jobs), [{**row._asdict(), "state": "ready"} for row in rows])


def _chunks(rows: list[JobRow]) -> Iterator[list[JobRow]]:
    start = 0
    for size in _CHUNKS:
        while len(rows) - start >= size:
            yield rows[start : start + size]
            start += size


def _insert_unique(connection: Connection, row: JobRow) -> str:
    for _ in range(3):  # the holder may end between our two statements
        if connection.execute(_INSERT_UNIQUE, row._asdict()).rowcount:
            return row.id
        holder = connection.execute(_HOLDER, {"key": row.unique_key}).scalar()
        if holder is not None:
            return str(holder)
    raise StoreError(f"a job with the unique key {row.unique_key!r} kept ending while another one was enqueued")
