"""Where limits of jobs are counted: in the database, one transaction for all jobs that a worker has claimed at once.

What runs is counted by worker, until a time that the worker keeps moving: what a worker held that died is free then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import sqlalchemy as sa

from moorline.jobs.brokers.sql_order import lock
from moorline.jobs.limits import Rule, Standing, admitted, take
from moorline.store.schema import job_limits, job_permits

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from moorline.store.store import Store

__all__ = ["Ask", "Denied", "Limits"]

_STAND: Final = sa.text(
    "INSERT INTO job_limits (id, next_at) VALUES (:id, :next_at)"
    " ON CONFLICT (id) DO UPDATE SET next_at = excluded.next_at"
)
_HOLD: Final = sa.text(
    "INSERT INTO job_permits (limit_id, worker, held, until) VALUES (:limit_id, :worker, :held, :until)"
    " ON CONFLICT (limit_id, worker) DO UPDATE SET held = job_permits.held + excluded.held, until = excluded.until"
)
_RELEASE: Final = sa.text(
    "UPDATE job_permits SET held = held - :count WHERE limit_id = :limit_id AND worker = :worker AND held >= :count"
)
_FORGET: Final = sa.text("UPDATE job_permits SET held = 0 WHERE worker = :worker")
_KEEP: Final = sa.text("UPDATE job_permits SET until = :until WHERE worker = :worker")
_PRUNE: Final = (
    sa.text("DELETE FROM job_permits WHERE until < :before OR (worker = :worker AND held = 0)"),
    sa.text("DELETE FROM job_limits WHERE next_at < :before"),
)
_IN_ONE: Final = 500


class Ask(NamedTuple):
    """*worker* asks whether these jobs may begin, each under all its rules; it answers for them *until* then."""

    worker: str
    until: float
    jobs: Sequence[tuple[str, Sequence[Rule]]]


class Denied(NamedTuple):
    """The rule that did not admit a job, and how it stands."""

    rule: Rule
    standing: Standing


class Limits:
    """See above. All methods raise StoreError."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def ask(self, ask: Ask) -> dict[str, Denied]:
        """The jobs that may not begin; all others count as running from now on."""
        return await self._store.write(self._ask, ask)

    def _ask(self, connection: Connection, payloads: list[Ask]) -> list[dict[str, Denied]]:
        return [self._answer(connection, ask) for ask in payloads]

    def _answer(self, connection: Connection, ask: Ask) -> dict[str, Denied]:
        now = self._store.clock.wall()
        keys = {rule.key for _, rules in ask.jobs for rule in rules}
        lock(connection, keys)
        standings = _standings(connection, keys, now)
        denied: dict[str, Denied] = {}
        taken: dict[str, int] = {}
        paced: dict[str, Standing] = {}
        for job, rules in ask.jobs:
            refusing = next((rule for rule in rules if not admitted(rule, standings[rule.key], now)), None)
            if refusing is not None:
                denied[job] = Denied(refusing, standings[refusing.key])
                continue
            for rule in rules:
                take(rule, standings[rule.key], now)
                if rule.concurrency is not None:
                    taken[rule.key] = taken.get(rule.key, 0) + 1
                if rule.rate is not None:
                    paced[rule.key] = standings[rule.key]
        if paced:
            connection.execute(_STAND, [{"id": key, "next_at": one.next_at} for key, one in sorted(paced.items())])
        if taken:
            holds = [
                {"limit_id": key, "worker": ask.worker, "held": held, "until": ask.until}
                for key, held in sorted(taken.items())
            ]
            connection.execute(_HOLD, holds)
        return denied

    async def release(self, worker: str, counts: Mapping[str, int]) -> None:
        """So many jobs of *worker* have ended, by the key of the rule."""
        rows = [{"limit_id": key, "worker": worker, "count": count} for key, count in sorted(counts.items())]
        await self._store.write(_release, rows)

    async def settle(self, worker: str, until: float, counts: Mapping[str, int]) -> None:
        """*worker* runs so many jobs, by the key of the rule, and no others, whatever was counted before."""
        rows = [
            {"limit_id": key, "worker": worker, "held": count, "until": until} for key, count in sorted(counts.items())
        ]
        await self._store.write(_settle, (worker, rows))

    async def keep(self, worker: str, until: float) -> None:
        """*worker* answers for what it runs until then."""
        await self._store.write(_keep, {"worker": worker, "until": until})

    async def leave(self, worker: str) -> None:
        """*worker* runs nothing any more."""
        await self._store.write(_keep, {"worker": worker, "until": 0.0})

    async def prune(self, before: float, worker: str) -> None:
        """Forget what was not used since then."""
        await self._store.write(_prune, {"before": before, "worker": worker})


def _standings(connection: Connection, keys: set[str], now: float) -> dict[str, Standing]:
    standings = {key: Standing() for key in keys}
    ordered = sorted(keys)
    for start in range(0, len(ordered), _IN_ONE):
        part = ordered[start : start + _IN_ONE]
        paced = sa.select(job_limits.c.id, job_limits.c.next_at).where(job_limits.c.id.in_(part))
        for key, next_at in connection.execute(paced):
            standings[key].next_at = next_at
        held = (
            sa.select(job_permits.c.limit_id, sa.func.sum(job_permits.c.held))
            .where(job_permits.c.limit_id.in_(part), job_permits.c.until > now)
            .group_by(job_permits.c.limit_id)
        )
        for key, running in connection.execute(held):
            standings[key].running = int(running)
    return standings


def _release(connection: Connection, payloads: list[list[dict[str, object]]]) -> list[None]:
    for rows in payloads:
        if rows:
            connection.execute(_RELEASE, rows)
    return [None] * len(payloads)


def _settle(connection: Connection, payloads: list[tuple[str, list[dict[str, object]]]]) -> list[None]:
    for worker, rows in payloads:
        connection.execute(_FORGET, {"worker": worker})
        if rows:
            connection.execute(_HOLD, rows)
    return [None] * len(payloads)


def _keep(connection: Connection, payloads: list[dict[str, object]]) -> list[None]:
    for kept in payloads:
        connection.execute(_KEEP, kept)
    return [None] * len(payloads)


def _prune(connection: Connection, payloads: list[dict[str, object]]) -> list[None]:
    for which in payloads:
        for statement in _PRUNE:
            connection.execute(statement, {name: which[name] for name in statement.compile().params})
    return [None] * len(payloads)
