"""Jobs that wait in the database to be relayed to a broker elsewhere: state ``outbox``, claimed by nobody.

They are inserted in the transaction of what they belong to, and deleted once the other broker has them. Until then they
can be called off here. Order keys are not looked at: the broker that gets the rows in the order of their ids keeps it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import sqlalchemy as sa

from moorline.jobs.brokers.sql_insert import insert_rows, insertion
from moorline.jobs.job import JobRow
from moorline.store.schema import jobs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.engine import Connection

    from moorline.store.store import Store

__all__ = [
    "COMMIT_SOON", "OUTBOX", "Backlog", "backlog", "insert_outbox", "oldest", "oldest_since", "outbox_within", "remove",
]  # fmt: skip

OUTBOX: Final = "moorline_outbox"
"""The store's channel of jobs to be relayed: ``store.notify(OUTBOX)`` after ``insert_outbox`` was committed."""
COMMIT_SOON: Final = 0.02
"""Seconds after which a caller's own transaction is likely committed."""

_WAITING: Final = insertion("outbox")
# Written out, because a partial index serves only a state that the planner can read.
_IN_OUTBOX: Final = jobs.c.state == sa.literal("outbox", literal_execute=True)
_ROW: Final = [jobs.c[name] for name in JobRow._fields]
_BATCH: Final = 500  # ids in one statement


class Backlog(NamedTuple):
    """How many jobs wait to be relayed; when the oldest was due, in seconds since the epoch (None: none waits)."""

    jobs: int
    since: float | None


def insert_outbox(connection: Connection, rows: Sequence[JobRow]) -> None:
    """Insert *rows*, to be relayed."""
    insert_rows(connection, _WAITING, rows)


def outbox_within(store: Store, connection: object, rows: Sequence[JobRow]) -> None:
    """Insert *rows* in a caller's own transaction, to be relayed. ConfigurationError unless it is of that database."""
    insert_outbox(store.shared_with(connection), rows)
    store.notify(OUTBOX, delay=COMMIT_SOON)


def oldest(connection: Connection, limit: int) -> list[JobRow]:
    """The first rows that wait, in the order of their ids."""
    query = sa.select(*_ROW).where(_IN_OUTBOX).order_by(jobs.c.id).limit(limit)
    return [JobRow(*row)._replace(payload=bytes(row.payload)) for row in connection.execute(query)]


def remove(connection: Connection, payloads: list[list[str]]) -> list[int]:
    """Delete what another broker has; nothing but what waits to be relayed. How many those were, of each list."""
    return [sum(_removed(connection, ids[at : at + _BATCH]) for at in range(0, len(ids), _BATCH)) for ids in payloads]


def _removed(connection: Connection, ids: list[str]) -> int:
    return connection.execute(sa.delete(jobs).where(jobs.c.id.in_(ids), _IN_OUTBOX)).rowcount


def backlog(connection: Connection) -> Backlog:
    """What waits now."""
    count = connection.execute(sa.select(sa.func.count()).select_from(jobs).where(_IN_OUTBOX)).scalar_one()
    return Backlog(count, oldest_since(connection))


def oldest_since(connection: Connection) -> float | None:
    """When the first of those that wait was due."""
    first = sa.select(jobs.c.run_at).where(_IN_OUTBOX).order_by(jobs.c.id).limit(1)
    due: float | None = connection.execute(first).scalar()
    return due
