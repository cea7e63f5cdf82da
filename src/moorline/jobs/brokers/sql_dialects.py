"""The statements whose speed matters, once for each database. What they do is the same for both.

SQLite: one statement with JSON for many rows, and one row with JSON as the answer, because each step of a statement
gives up the interpreter's lock, and waits for it again against a busy event loop.
PostgreSQL: arrays, and SKIP LOCKED so that workers do not wait for each other.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final, Protocol, TypeAlias

import msgspec
from sqlalchemy.engine import Connection

from moorline.errors import ConfigurationError
from moorline.jobs.ageing import due_lanes
from moorline.jobs.broker import MAX_CRASHES, Completion, WorkerInfo
from moorline.jobs.brokers.sql_arrays import numbers, texts
from moorline.jobs.job import LOWEST_PRIORITY, Claim
from moorline.jobs.order import PARKED, YIELDS

__all__ = ["Dialect", "dialect_of"]

_CLAIMED: Final = ", ".join(f"jobs.{name}" for name in Claim._fields)
_TAKE: Final = "state = 'running', attempts = attempts + 1, deliveries = deliveries + 1"
_PRIORITIES: Final = range(LOWEST_PRIORITY + 1)
_RESCUE_BATCH: Final = 1000
_DIED: Final = "its worker died"
# A dead job of a key that lets others go on takes itself out of the order (see moorline.jobs.order).
_PARK: Final = f"""order_key = CASE WHEN {{dies}} AND substr(jobs.order_key, 1, 1) = '{YIELDS}'
    THEN '{PARKED}' || jobs.order_key ELSE jobs.order_key END"""
_PARK_DEAD: Final = _PARK.format(dies="f.state = 'dead'")
_CRASH: Final = f"""
    {_PARK.format(dies=f"crashes + 1 >= {MAX_CRASHES}")},
    crashes = crashes + 1, attempts = attempts - 1, worker = NULL, last_error = '{_DIED}',
    state = CASE WHEN crashes + 1 >= {MAX_CRASHES} THEN 'dead' ELSE 'ready' END,
    reason = CASE WHEN crashes + 1 >= {MAX_CRASHES} THEN 'crashed' END,
"""
_ORPHANED: Final = """
    state = 'running'
    AND NOT EXISTS (SELECT 1 FROM workers WHERE workers.id = jobs.worker AND workers.lease_until > {now})
"""


Taken: TypeAlias = tuple[Sequence[Any], float | None]
"""The columns of ``Claim`` for each job taken, in no order; and where those are fewer than wanted, when the next one is
due (None: none waits)."""


class Dialect(Protocol):
    """Each method is one statement, or a few, in the connection's transaction. Times are seconds since the epoch."""

    def claim(self, connection: Connection, worker: WorkerInfo, limit: int, now: float) -> Taken:
        """Take up to *limit* due jobs whose worker never died, lane by lane."""
        ...

    def claim_suspect(self, connection: Connection, worker: WorkerInfo, limit: int, now: float) -> Taken:
        """As ``claim``, for jobs whose worker died; not told is when the next one is due."""
        ...

    def suspects(self, connection: Connection, queues: Sequence[str], now: float) -> bool:
        """Whether a job whose worker died is due."""
        ...

    def finish_done(self, connection: Connection, done: Sequence[Completion], now: float) -> Sequence[Any]:
        """Store what succeeded; (id, state, order key) of those that were still their holders'."""
        ...

    def finish_other(self, connection: Connection, others: Sequence[Completion], now: float) -> Sequence[Any]:
        """Store every other end, as ``finish_done``."""
        ...

    def give_back(self, connection: Connection, worker: str, held: Sequence[str]) -> int:
        """Make ready, attempts refunded, what *worker* runs on paper and does not hold; how many those were."""
        ...

    def rescue(self, connection: Connection, now: float) -> Sequence[Any]:
        """Take jobs from workers whose lease is over; (id, state, order key) of each."""
        ...


def dialect_of(name: str) -> Dialect:
    """The statements for ``sqlite`` or ``postgresql``."""
    if name == "sqlite":
        return _Sqlite()
    if name == "postgresql":
        return _Postgres()
    raise ConfigurationError(f"jobs cannot be kept in {name!r}: use SQLite or PostgreSQL")


class _Sqlite:
    def __init__(self) -> None:
        self._claims: dict[int, str] = {}  # by the number of lanes, below by that of queues
        self._heads: dict[int, str] = {}

    def claim(self, connection: Connection, worker: WorkerInfo, limit: int, now: float) -> Taken:
        found = self._claim(connection, worker, limit, now)
        return found, self._next_at(connection, worker.queues) if len(found) < limit else None

    def _claim(self, connection: Connection, worker: WorkerInfo, limit: int, now: float) -> Sequence[Any]:
        lanes = due_lanes(self._lanes(connection, worker.queues), now, worker.ageing)
        if not lanes:
            return []
        statement = self._claims.get(len(lanes)) or self._claims.setdefault(len(lanes), _sqlite_claim(len(lanes)))
        values: list[Any] = []
        for queue, priority in lanes:
            values += (queue, priority, now, limit)
        values.append(limit)
        found = _FOUND(connection.exec_driver_sql(statement, tuple(values)).scalar_one())
        rowids = _json([row[0] for row in found])
        connection.exec_driver_sql(_SQLITE_TAKE, (worker.id, now, rowids))
        large: dict[int, bytes] = {}
        if any(row[5] is None for row in found):
            rows = connection.exec_driver_sql(_SQLITE_PAYLOADS, (rowids,))
            large = {rowid: payload for rowid, payload in rows if len(payload) > _SMALL}
        return [
            (
                id_, name, queue, priority, large[rowid] if payload is None else bytes.fromhex(payload), float(run_at),
                *counts, event_id, float(created_at), order_key, postponed,
            )
            for (
                rowid, id_, name, queue, priority, payload, run_at, *counts, event_id, created_at, order_key, postponed
            ) in found
        ]  # fmt: skip

    def claim_suspect(self, connection: Connection, worker: WorkerInfo, limit: int, now: float) -> Taken:
        statement = f"""
            UPDATE jobs SET worker = ?, started_at = ?, {_TAKE} WHERE rowid IN (
                SELECT rowid FROM jobs WHERE state = 'ready' AND crashes > 0 AND run_at <= ?
                AND queue IN (SELECT value FROM json_each(?)) ORDER BY crashes, run_at LIMIT ?
            ) RETURNING {_CLAIMED}"""  # noqa: S608 -- constants only
        values = (worker.id, now, now, json.dumps(worker.queues), limit)
        return connection.exec_driver_sql(statement, values).fetchall(), None

    def _next_at(self, connection: Connection, queues: Sequence[str]) -> float | None:
        return min((at for *_, at in self._lanes(connection, queues) if at is not None), default=None)

    def _lanes(self, connection: Connection, queues: Sequence[str]) -> list[tuple[str, int, float | None]]:
        """Each lane with when its head is due."""
        statement = self._heads.get(len(queues)) or self._heads.setdefault(len(queues), _sqlite_heads(len(queues)))
        lanes = [(queue, priority) for priority in _PRIORITIES for queue in queues]
        heads = connection.exec_driver_sql(statement, tuple(value for lane in lanes for value in lane)).one()
        return [(*lane, at) for lane, at in zip(lanes, heads, strict=True)]

    def suspects(self, connection: Connection, queues: Sequence[str], now: float) -> bool:
        statement = """
            SELECT EXISTS (SELECT 1 FROM jobs WHERE state = 'ready' AND crashes > 0 AND run_at <= ?
            AND queue IN (SELECT value FROM json_each(?)))"""
        return bool(connection.exec_driver_sql(statement, (now, json.dumps(queues))).scalar())

    def finish_done(self, connection: Connection, done: Sequence[Completion], now: float) -> Sequence[Any]:
        held = {one.id: one.deliveries for one in done}
        count, keyed, rowids = connection.exec_driver_sql(_SQLITE_HELD, (_json(held),)).one()
        if count == len(done) and not keyed:  # as nearly always
            connection.exec_driver_sql(_SQLITE_DONE, (now, rowids))
            return [(one.id, "done", None) for one in done]
        # +state: else SQLite may walk the index of all running jobs instead of looking each one up.
        statement = """
            UPDATE jobs SET state = 'done', finished_at = ?
            FROM (SELECT json_extract(value, '$[0]') AS id, json_extract(value, '$[1]') AS held FROM json_each(?)) AS f
            WHERE jobs.id = f.id AND jobs.deliveries = f.held AND +jobs.state = 'running'
            RETURNING jobs.id, jobs.state, jobs.order_key"""
        values = (now, json.dumps([one[:2] for one in done]))
        return connection.exec_driver_sql(statement, values).fetchall()

    def finish_other(self, connection: Connection, others: Sequence[Completion], now: float) -> Sequence[Any]:
        statement = f"""
            UPDATE jobs SET state = f.state, {_PARK_DEAD}, run_at = coalesce(f.run_at, jobs.run_at),
                attempts = jobs.attempts - f.refund, snoozes = jobs.snoozes + f.snoozed,
                postponed = coalesce(f.postponed, jobs.postponed),
                worker = CASE WHEN f.state = 'ready' THEN NULL ELSE worker END,
                finished_at = CASE WHEN f.state = 'ready' THEN NULL ELSE ? END,
                reason = f.reason, last_error = coalesce(f.error, last_error)
            FROM (SELECT json_extract(value, '$[0]') AS id, json_extract(value, '$[1]') AS held,
                    json_extract(value, '$[2]') AS state, json_extract(value, '$[3]') AS run_at,
                    json_extract(value, '$[4]') AS refund, json_extract(value, '$[5]') AS snoozed,
                    json_extract(value, '$[6]') AS reason, json_extract(value, '$[7]') AS error,
                    json_extract(value, '$[8]') AS postponed
                FROM json_each(?)) AS f
            WHERE jobs.id = f.id AND jobs.deliveries = f.held AND +jobs.state = 'running'
            RETURNING jobs.id, jobs.state, jobs.order_key"""  # noqa: S608 -- constants only
        values = (now, json.dumps([_flat(one) for one in others]))
        return connection.exec_driver_sql(statement, values).fetchall()

    def give_back(self, connection: Connection, worker: str, held: Sequence[str]) -> int:
        statement = """
            UPDATE jobs SET state = 'ready', attempts = attempts - 1, worker = NULL
            WHERE state = 'running' AND worker = ? AND id NOT IN (SELECT value FROM json_each(?))"""
        return connection.exec_driver_sql(statement, (worker, json.dumps(held))).rowcount

    def rescue(self, connection: Connection, now: float) -> Sequence[Any]:
        statement = f"""
            UPDATE jobs SET {_CRASH} finished_at = CASE WHEN crashes + 1 >= {MAX_CRASHES} THEN ? END
            WHERE rowid IN (SELECT rowid FROM jobs WHERE {_ORPHANED.format(now="?")} LIMIT {_RESCUE_BATCH})
            RETURNING id, state, order_key"""  # noqa: S608 -- constants only
        return connection.exec_driver_sql(statement, (now, now)).fetchall()


_SMALL: Final = 2_000  # bytes of a payload that comes in the one row, in hex: JSON knows no bytes
# The row as a claim of it, but for the payload: with all digits of its times, which JSON would cut.
_SQLITE_CLAIMED: Final = f"""rowid, id, name, queue, priority,
    CASE WHEN length(payload) <= {_SMALL} THEN hex(payload) END, printf('%!.17g', run_at), attempts + 1, max_attempts,
    deliveries + 1, crashes, snoozes, event_id, printf('%!.17g', created_at), order_key, postponed"""
_SQLITE_TAKE: Final = f"""
    UPDATE jobs SET worker = ?, started_at = ?, {_TAKE} WHERE rowid IN (SELECT value FROM json_each(?))"""  # noqa: S608
_SQLITE_PAYLOADS: Final = "SELECT rowid, payload FROM jobs WHERE rowid IN (SELECT value FROM json_each(?))"
_SQLITE_HELD: Final = """
    SELECT count(*), count(jobs.order_key), json_group_array(jobs.rowid) FROM json_each(?) AS f JOIN jobs
    ON jobs.id = f.key AND jobs.deliveries = f.value AND +jobs.state = 'running'"""
_SQLITE_DONE: Final = """
    UPDATE jobs SET state = 'done', finished_at = ? WHERE rowid IN (SELECT value FROM json_each(?))"""
_FOUND: Final = msgspec.json.Decoder(list[list[Any]]).decode


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _sqlite_claim(lanes: int) -> str:
    # One look for each lane: with one index range over all priorities, the jobs that wait for a later time would be
    # passed at every claim. SQLite stops at the outer limit, so full first looks cost no others.
    look = """SELECT * FROM (SELECT rowid FROM jobs WHERE state = 'ready' AND crashes = 0
        AND queue = ? AND priority = ? AND run_at <= ? ORDER BY run_at, id LIMIT ?)"""
    looks = " UNION ALL ".join([look] * lanes)
    return f"""SELECT json_group_array(json_array({_SQLITE_CLAIMED}))
        FROM jobs WHERE rowid IN ({looks} LIMIT ?)"""  # noqa: S608 -- constants only


def _sqlite_heads(queues: int) -> str:
    # One row, because each one gives up the interpreter's lock.
    look = "(SELECT min(run_at) FROM jobs WHERE state = 'ready' AND crashes = 0 AND queue = ? AND priority = ?)"
    return f"SELECT {', '.join([look] * (queues * len(_PRIORITIES)))}"


class _Postgres:
    # Looks at each lane in turn, for the reason given at SQLite, in the order of ``rank``; the outer limit stops the
    # looking, so that no more rows are locked than are taken. From the head on: before it are the entries of jobs that
    # were claimed, until a vacuum, and to pass them once is enough. What is due and was not taken, another worker is
    # taking: the next one is due later.
    _CLAIM: Final = f"""
        WITH due AS (
            SELECT found.id FROM (
                SELECT p, q, head.at FROM generate_series(0, {LOWEST_PRIORITY}) AS p,
                    unnest(%s::text[]) WITH ORDINALITY AS u (q, n),
                    LATERAL (SELECT min(run_at) AS at FROM jobs
                        WHERE state = 'ready' AND crashes = 0 AND queue = q AND priority = p) AS head
                WHERE head.at <= %s
                ORDER BY CASE WHEN %s::float8 > 0 THEN head.at + p * %s::float8 ELSE p END, head.at, n
            ) AS looks CROSS JOIN LATERAL (
                SELECT id FROM jobs WHERE state = 'ready' AND crashes = 0 AND queue = looks.q AND priority = looks.p
                AND run_at >= looks.at AND run_at <= %s ORDER BY run_at, id LIMIT %s FOR UPDATE SKIP LOCKED
            ) AS found LIMIT %s
        ), taken AS (
            UPDATE jobs SET worker = %s, started_at = %s, {_TAKE} FROM due WHERE jobs.id = due.id RETURNING {_CLAIMED}
        )
        SELECT taken.*, CASE WHEN (SELECT count(*) FROM taken) < %s THEN (
            SELECT min(found.at) FROM generate_series(0, {LOWEST_PRIORITY}) AS p, unnest(%s::text[]) AS q,
            LATERAL (SELECT min(run_at) AS at FROM jobs
                WHERE state = 'ready' AND crashes = 0 AND queue = q AND priority = p AND run_at > %s) AS found
        ) END FROM (VALUES (1)) AS one LEFT JOIN taken ON true
    """  # noqa: S608 -- constants only

    _CLAIM_SUSPECT: Final = f"""
        UPDATE jobs SET worker = %s, started_at = %s, {_TAKE} WHERE id IN (
            SELECT id FROM jobs WHERE state = 'ready' AND crashes > 0 AND run_at <= %s AND queue = ANY(%s::text[])
            ORDER BY crashes, run_at LIMIT %s FOR UPDATE SKIP LOCKED
        ) RETURNING {_CLAIMED}
    """  # noqa: S608 -- constants only

    def claim(self, connection: Connection, worker: WorkerInfo, limit: int, now: float) -> Taken:
        queues, ageing = list(worker.queues), worker.ageing
        values = (queues, now, ageing, ageing, now, limit, limit, worker.id, now, limit, queues, now)
        rows = connection.exec_driver_sql(self._CLAIM, values).fetchall()
        return [row[:-1] for row in rows if row[0] is not None], rows[0][-1]

    def claim_suspect(self, connection: Connection, worker: WorkerInfo, limit: int, now: float) -> Taken:
        values = (worker.id, now, now, list(worker.queues), limit)
        return connection.exec_driver_sql(self._CLAIM_SUSPECT, values).fetchall(), None

    def suspects(self, connection: Connection, queues: Sequence[str], now: float) -> bool:
        statement = """
            SELECT EXISTS (SELECT 1 FROM jobs WHERE state = 'ready' AND crashes > 0 AND run_at <= %s
            AND queue = ANY(%s::text[]))"""
        return bool(connection.exec_driver_sql(statement, (now, list(queues))).scalar())

    def finish_done(self, connection: Connection, done: Sequence[Completion], now: float) -> Sequence[Any]:
        # state || '': else PostgreSQL may walk the index of all running jobs for each one.
        statement = """
            UPDATE jobs SET state = 'done', finished_at = %s
            FROM unnest(%s::text[], %s::int4[]) AS f (id, held)
            WHERE jobs.id = f.id AND jobs.deliveries = f.held AND jobs.state || '' = 'running'
            RETURNING jobs.id, jobs.state, jobs.order_key"""
        values = (now, texts([one.id for one in done]), numbers([one.deliveries for one in done]))
        return connection.exec_driver_sql(statement, values).fetchall()

    def finish_other(self, connection: Connection, others: Sequence[Completion], now: float) -> Sequence[Any]:
        statement = f"""
            UPDATE jobs SET state = f.state, {_PARK_DEAD}, run_at = coalesce(f.run_at, jobs.run_at),
                attempts = jobs.attempts - f.refund, snoozes = jobs.snoozes + f.snoozed,
                postponed = coalesce(f.postponed, jobs.postponed),
                worker = CASE WHEN f.state = 'ready' THEN NULL ELSE worker END,
                finished_at = CASE WHEN f.state = 'ready' THEN NULL ELSE %s END,
                reason = f.reason, last_error = coalesce(f.error, last_error)
            FROM unnest(
                    %s::text[], %s::int4[], %s::text[], %s::float8[], %s::int4[], %s::int4[], %s::text[], %s::text[],
                    %s::int4[])
                AS f (id, held, state, run_at, refund, snoozed, reason, error, postponed)
            WHERE jobs.id = f.id AND jobs.deliveries = f.held AND jobs.state || '' = 'running'
            RETURNING jobs.id, jobs.state, jobs.order_key"""  # noqa: S608 -- constants only
        columns = [list(column) for column in zip(*map(_flat, others), strict=True)]
        return connection.exec_driver_sql(statement, (now, *columns)).fetchall()

    def give_back(self, connection: Connection, worker: str, held: Sequence[str]) -> int:
        statement = """
            UPDATE jobs SET state = 'ready', attempts = attempts - 1, worker = NULL
            WHERE state = 'running' AND worker = %s AND id <> ALL(%s::text[])"""
        return connection.exec_driver_sql(statement, (worker, list(held))).rowcount

    def rescue(self, connection: Connection, now: float) -> Sequence[Any]:
        statement = f"""
            UPDATE jobs SET {_CRASH} finished_at = CASE WHEN crashes + 1 >= {MAX_CRASHES} THEN %s::float8 END
            WHERE id IN (SELECT id FROM jobs WHERE {_ORPHANED.format(now="%s")}
                LIMIT {_RESCUE_BATCH} FOR UPDATE SKIP LOCKED)
            RETURNING id, state, order_key"""  # noqa: S608 -- constants only
        return connection.exec_driver_sql(statement, (now, now)).fetchall()


def _flat(one: Completion) -> tuple[Any, ...]:
    refund, snoozed = int(one.refund), int(one.snoozed)
    return one.id, one.deliveries, one.state, one.run_at, refund, snoozed, one.reason, one.last_error, one.postponed
