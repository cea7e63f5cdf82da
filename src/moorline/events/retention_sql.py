"""The statements of retention: what is found on a reading connection, in stretches of ids, is changed in small batches.

Ids sort by time, so what is old needs no index of its own. A change asks again what was found: the event may have been
pruned by somebody else since, or have a new job.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import sqlalchemy as sa

from moorline.events.compression import PRUNED, ZSTD, compressed
from moorline.events.selection_sql import stretch
from moorline.store.schema import event_counts, events, jobs, meta, rejected

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

__all__ = ["Batch", "Found", "compress", "delete", "empty", "find", "find_large", "keep_cursor", "load_cursor", "trim"]

CURSOR: Final = "retention"
_BYTES: Final = 8 * 1024 * 1024  # of bodies that are compressed in one go

_unfinished = sa.exists().where(jobs.c.event_id == events.c.id, jobs.c.state.not_in(("done", "cancelled")))
"""Whether the event is still needed: a job of it waits, runs, is blocked or dead."""


class Found(NamedTuple):
    """What is to be changed (ids, or ids with bodies); all up to ``position`` was looked at."""

    rows: list[Any]
    position: str
    final: bool


class Batch(NamedTuple):
    """What is to be changed, in one transaction."""

    rows: Sequence[Any]


Apply: TypeAlias = Callable[["Connection", list[Batch]], list[int]]


def find(connection: Connection, after: str, before: str, limit: int, *, kept: bool) -> Found:
    """Events older than the id *before* that nobody needs; with ``kept`` those only whose body is still there."""
    end, final = stretch(connection, events.c.id > after, events.c.id < before)
    if end is None:
        return Found([], after, final=True)
    query = sa.select(events.c.id).where(events.c.id > after, events.c.id <= end, ~_unfinished)
    if kept:
        query = query.where(events.c.encoding.is_distinct_from(PRUNED))
    ids = list(connection.execute(query.order_by(events.c.id).limit(limit)).scalars())
    return Found(ids, end, final) if len(ids) < limit else Found(ids, ids[-1], final and ids[-1] == end)


def find_large(connection: Connection, after: str, before: str, limit: int, *, over: int) -> Found:
    """Bodies of more than *over* bytes that are as they came, older than the id *before*: (id, the body compressed)."""
    end, final = stretch(connection, events.c.id > after, events.c.id < before)
    if end is None:
        return Found([], after, final=True)
    size = sa.func.length(events.c.body)
    large = (events.c.id > after, events.c.id <= end, events.c.encoding.is_(None), size > over)
    heads = connection.execute(sa.select(events.c.id, size).where(*large).order_by(events.c.id).limit(limit)).all()
    ids: list[str] = []
    total = 0
    for id_, length in heads:
        if ids and total + length > _BYTES:
            break
        ids.append(id_)
        total += length
    bodies = connection.execute(sa.select(events.c.id, events.c.body).where(events.c.id.in_(ids))).all()
    made = compressed([bytes(body) for _, body in bodies])
    rows = [(id_, smaller) for (id_, _), smaller in zip(bodies, made, strict=True) if smaller is not None]
    if len(ids) < len(heads) or len(heads) == limit:
        return Found(rows, ids[-1], final and ids[-1] == end)
    return Found(rows, end, final)


def empty(connection: Connection, batches: list[Batch]) -> list[int]:
    """Keep of each event what deduplication needs, and no more; how many were emptied."""
    statement = sa.text(_EMPTY + _moved(connection) + _EMPTY_IF)
    return [
        _each(connection, statement, [{"which": id_, "body": b""} for id_ in _locked(connection, batch)])
        for batch in batches
    ]


def delete(connection: Connection, batches: list[Batch]) -> list[int]:
    """Forget events; how many."""
    return [
        connection.execute(sa.delete(events).where(events.c.id.in_(_locked(connection, batch)), ~_unfinished)).rowcount
        for batch in batches
    ]


def compress(connection: Connection, batches: list[Batch]) -> list[int]:
    """Store compressed bodies in the place of the plain ones; how many."""
    statement = sa.text(_COMPRESS + _moved(connection) + _COMPRESS_IF)
    return [
        _each(connection, statement, [{"which": id_, "body": smaller} for id_, smaller in batch.rows])
        for batch in batches
    ]


_EMPTY: Final = f"UPDATE events SET headers = '{{}}', body = :body, encoding = '{PRUNED}'"  # noqa: S608 -- constants only
_EMPTY_IF: Final = (
    f" WHERE id = :which AND coalesce(encoding, '') <> '{PRUNED}' AND NOT EXISTS"  # noqa: S608 -- constants only
    " (SELECT 1 FROM jobs WHERE jobs.event_id = events.id AND jobs.state NOT IN ('done', 'cancelled'))"
)
_COMPRESS: Final = f"UPDATE events SET body = :body, encoding = '{ZSTD}'"  # noqa: S608 -- constants only
_COMPRESS_IF: Final = " WHERE id = :which AND encoding IS NULL"


def _moved(connection: Connection) -> str:
    """SQLite: write the row anew at the end of the table, where small rows lie close together.

    Changed in its place it would leave most of its page empty, and nothing else is ever put there.
    """
    return ", rowid = (SELECT max(rowid) FROM events) + 1" if connection.dialect.name == "sqlite" else ""


def _each(connection: Connection, statement: sa.TextClause, rows: list[dict[str, Any]]) -> int:
    bound = statement.bindparams(sa.bindparam("body", type_=sa.LargeBinary))
    return connection.execute(bound, rows).rowcount if rows else 0


def _locked(connection: Connection, batch: Batch) -> list[str]:
    """Those that nobody else is changing, held until the end of the transaction (SQLite has one writer anyway).

    A statement of its own: whether jobs were added is to be asked once no replay can add any.
    """
    query = sa.select(events.c.id).where(events.c.id.in_(batch.rows)).order_by(events.c.id)
    return list(connection.execute(query.with_for_update(skip_locked=True)).scalars())


# --- what is small


def trim(connection: Connection, limits: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Keep the newest refusals of each service, and the counts since a minute; how many rows of both went.

    Of a service that has been silent for longer its last count stays: that is how long the silence is known.
    """
    return [(_trim_rejected(connection, kept), _trim_counts(connection, since)) for kept, since in limits]


def _trim_rejected(connection: Connection, kept: int) -> int:
    gone = 0
    for service in connection.execute(sa.select(rejected.c.service).distinct()).scalars().all():
        theirs = rejected.c.service == service
        last = sa.select(rejected.c.id).where(theirs).order_by(rejected.c.id.desc()).limit(1).offset(kept)
        gone += connection.execute(sa.delete(rejected).where(theirs, rejected.c.id <= last.scalar_subquery())).rowcount
    return gone


def _trim_counts(connection: Connection, since: int) -> int:
    later = event_counts.alias()
    newer = sa.exists().where(
        later.c.service == event_counts.c.service,
        later.c.minute > event_counts.c.minute,
        later.c.stored + later.c.duplicates > 0,
    )
    return connection.execute(sa.delete(event_counts).where(event_counts.c.minute < since, newer)).rowcount


# --- where each part got to


def load_cursor(connection: Connection) -> dict[str, Any]:
    """What ``keep_cursor`` kept; empty at first."""
    kept = connection.execute(sa.select(meta.c.value).where(meta.c.key == CURSOR)).scalar()
    cursor: dict[str, Any] = {} if kept is None else json.loads(kept)
    return cursor


_KEEP: Final = sa.text(
    "INSERT INTO meta (key, value) VALUES (:key, :value) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
)


def keep_cursor(connection: Connection, cursors: list[dict[str, Any]]) -> list[None]:
    """Keep how far it got; a hint that saves looking again, not a promise."""
    for cursor in cursors:
        connection.execute(_KEEP, {"key": CURSOR, "value": json.dumps(cursor)})
    return [None] * len(cursors)
