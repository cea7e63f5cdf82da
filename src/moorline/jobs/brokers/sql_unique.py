"""Jobs with unique keys, on SQLite and PostgreSQL.

A key belongs to the job of it that waits or runs, which the index ``jobs_unique`` holds, and to the one whose window is
open, whatever has become of that: a row of ``job_windows``, which outlives the job's. Whether a window is open is asked
for the time at which the new job was enqueued, so that a relay that comes late decides as if it had come at once.

Whoever asks for a window takes it first and inserts after that, so that of two transactions the second one waits at the
window for the first; what it did is undone if a job of the key is there after all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from moorline.errors import StoreError
from moorline.jobs.job import JobRow

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

__all__ = ["forget_windows", "holder_of", "insert_unique"]

_INSERT: Final = sa.text(
    f"INSERT INTO jobs ({', '.join(JobRow._fields)}, state) VALUES ("  # noqa: S608 -- constants only
    + ", ".join(f":{name}" for name in JobRow._fields)
    + ", 'ready') ON CONFLICT DO NOTHING"
).bindparams(sa.bindparam("payload", type_=sa.LargeBinary))
_REMOVE: Final = sa.text("DELETE FROM jobs WHERE id = :id")
_OPEN: Final = sa.text(
    "INSERT INTO job_windows (unique_key, job_id, until) VALUES (:unique_key, :id, :unique_until)"
    " ON CONFLICT (unique_key) DO UPDATE SET job_id = excluded.job_id, until = excluded.until"
    " WHERE job_windows.until <= :created_at OR job_windows.job_id = excluded.job_id"
)
_SHUT: Final = sa.text("DELETE FROM job_windows WHERE unique_key = :unique_key AND job_id = :id")
_ALIVE: Final = sa.text("SELECT id FROM jobs WHERE unique_key = :key AND state IN ('ready', 'running')")
_IN_WINDOW: Final = sa.text(
    "SELECT job_id FROM job_windows WHERE unique_key = :key AND until > :now AND job_id <> :but"
)
_FORGET: Final = sa.text(
    "DELETE FROM job_windows WHERE unique_key IN"
    " (SELECT unique_key FROM job_windows WHERE until < :before ORDER BY until LIMIT :limit)"
)


def insert_unique(connection: Connection, row: JobRow) -> str:
    """Insert it, unless its key belongs to another job; the id of the one that has it now."""
    key, now, values = str(row.unique_key), row.created_at, row._asdict()
    opens = row.unique_until is not None
    for _ in range(3):  # the holder may end between our statements
        if not opens or connection.execute(_OPEN, values).rowcount:
            if connection.execute(_INSERT, values).rowcount:
                # Asked after it was inserted: who opened a window while we waited for that has committed by now.
                first = None if opens else _in_window(connection, key, now, but=row.id)
                if first is not None:
                    connection.execute(_REMOVE, {"id": row.id})
                return first or row.id
            if opens:
                connection.execute(_SHUT, values)
        holder = holder_of(connection, key, now, but=row.id)
        if holder is not None:
            return holder
    raise StoreError(f"a job with the unique key {key!r} kept ending while another one was enqueued")


def holder_of(connection: Connection, key: str, now: float, *, but: str) -> str | None:
    """The id of the job, another one than *but*, that the key belongs to; *now* is in seconds since the epoch."""
    alive = connection.execute(_ALIVE, {"key": key}).scalar()
    return _in_window(connection, key, now, but=but) if alive is None else str(alive)


def _in_window(connection: Connection, key: str, now: float, *, but: str) -> str | None:
    first = connection.execute(_IN_WINDOW, {"key": key, "now": now, "but": but}).scalar()
    return None if first is None else str(first)


def forget_windows(connection: Connection, before: float, limit: int) -> None:
    """Those that were over before then, up to so many; times are seconds since the epoch."""
    connection.execute(_FORGET, {"before": before, "limit": limit})
