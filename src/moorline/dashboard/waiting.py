"""How long jobs have waited, who works, and what came in: read with a few statements that indexes serve."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy as sa

from moorline.jobs.brokers.sql_order import UNFINISHED
from moorline.store.schema import event_counts, jobs, workers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.engine import Connection

__all__ = ["Minute", "at_work", "came_in", "jobs_of_events", "unfinished", "waiting_since"]

# As the index of ready jobs has it.
_READY = sa.text("state = 'ready' AND crashes = 0")
# Each as one of the indexes has it: what is done may be a thousand times as much, and is not looked at.
_UNFINISHED = {
    "ready": (_READY, sa.text("state = 'ready' AND crashes > 0")),
    "running": (sa.text("state = 'running'"),),
    "blocked": (sa.text(f"order_key IS NOT NULL AND {UNFINISHED} AND state = 'blocked'"),),
    "dead": (sa.text("state = 'dead'"),),
    "outbox": (sa.text("state = 'outbox'"),),
}


class Minute(NamedTuple):
    """What came in one minute (since the epoch), from all senders."""

    minute: int
    stored: int
    duplicates: int
    forged: int
    refused: int


def waiting_since(connection: Connection, now: float) -> dict[str, float]:
    """By queue: when the oldest job was due that could begin, seconds since the epoch."""
    oldest = sa.func.min(jobs.c.run_at)
    query = sa.select(jobs.c.queue, oldest).where(_READY, jobs.c.run_at <= now).group_by(jobs.c.queue)
    return {row[0]: row[1] for row in connection.execute(query)}


def unfinished(connection: Connection) -> dict[tuple[str, str], int]:
    """How many jobs of each queue and state are not done or cancelled."""
    found: dict[tuple[str, str], int] = {}
    for state, parts in _UNFINISHED.items():
        for part in parts:
            query = sa.select(jobs.c.queue, sa.func.count()).where(part).group_by(jobs.c.queue)
            for queue, count in connection.execute(query):
                found[queue, state] = found.get((queue, state), 0) + count
    return found


def at_work(connection: Connection, now: float) -> list[dict[str, Any]]:
    """The workers whose lease is good, the newest first."""
    query = sa.select(workers).where(workers.c.lease_until > now).order_by(workers.c.started_at.desc()).limit(100)
    return [
        {"id": row.id, "host": row.host, "pid": row.pid, "queues": row.queues, "started_at": row.started_at}
        for row in connection.execute(query)
    ]


def came_in(connection: Connection, since: int) -> list[Minute]:
    """By minute from *since* on, those without anything left out."""
    counted = [sa.func.sum(event_counts.c[name]) for name in Minute._fields[1:]]
    query = sa.select(event_counts.c.minute, *counted).where(event_counts.c.minute >= since)
    grouped = query.group_by(event_counts.c.minute).order_by(event_counts.c.minute)
    return [Minute(*(int(value) for value in row)) for row in connection.execute(grouped)]


def jobs_of_events(connection: Connection, event_ids: Sequence[str]) -> dict[str, list[dict[str, str]]]:
    """What was made of these events, as far as it is in the database: id, name and state of each job, newest first."""
    columns = (jobs.c.event_id, jobs.c.id, jobs.c.name, jobs.c.state)
    query = sa.select(*columns).where(jobs.c.event_id.in_(event_ids)).order_by(jobs.c.id.desc()).limit(1_000)
    found: dict[str, list[dict[str, str]]] = {}
    for row in connection.execute(query):
        found.setdefault(row.event_id, []).append({"id": row.id, "name": row.name, "state": row.state})
    return found
