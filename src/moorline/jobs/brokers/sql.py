"""The broker on the store's own database, SQLite or PostgreSQL: the default, needing no other server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from operator import attrgetter
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from moorline.errors import JobNotFound, JobStateError
from moorline.jobs.ageing import order
from moorline.jobs.broker import Claimed, Completion, JobFilter, Keyed, Rescued, WorkerInfo
from moorline.jobs.brokers.many import Outcome, to_each
from moorline.jobs.brokers.sql_dialects import dialect_of
from moorline.jobs.brokers.sql_insert import insert_jobs, insert_missing
from moorline.jobs.brokers.sql_notes import SqlNotes
from moorline.jobs.brokers.sql_order import (
    UNFINISHED,
    apart,
    free_headless,
    free_next,
    headless,
    heads,
    held,
    lock,
)
from moorline.jobs.brokers.sql_outbox import COMMIT_SOON
from moorline.jobs.brokers.sql_unique import forget_windows, holder_of
from moorline.jobs.flows import unexpiring
from moorline.jobs.job import Claim, Job, JobFailure, JobRow, State
from moorline.jobs.kick import Claims
from moorline.jobs.notes import Notes
from moorline.jobs.order import freed_by, is_head, original
from moorline.store.schema import job_errors, jobs
from moorline.store.store import Store
from moorline.telemetry import logger

__all__ = ["CHANNEL", "SqlBroker", "insert_jobs"]

CHANNEL: Final = "moorline_jobs"
"""The store's channel of new jobs: ``store.notify(CHANNEL)`` after ``insert_jobs`` was committed."""

KEPT_ERRORS: Final = 10
_FRESH: Final = 0.1  # of a lease: a claim does not extend one that was extended so lately
_BY_TIME: Final = attrgetter("run_at", "id")
_EXPIRED_WORKER: Final = 3600.0  # seconds that a worker that vanished is still shown

_BEAT: Final = sa.text(
    "INSERT INTO workers (id, host, pid, queues, started_at, lease_until)"
    " VALUES (:id, :host, :pid, :queues, :started_at, :lease_until)"
    " ON CONFLICT (id) DO UPDATE SET lease_until = excluded.lease_until"
)
_LEAVE: Final = sa.text("DELETE FROM workers WHERE id = :id")
_FORGET: Final = sa.text("DELETE FROM workers WHERE lease_until < :before")
_TRIM: Final = sa.text(
    "DELETE FROM job_errors WHERE job_id = :job AND id <= "
    "(SELECT id FROM job_errors WHERE job_id = :job ORDER BY id DESC LIMIT 1 OFFSET :kept)"
)
_ENDED: Final = sa.text(
    "SELECT id FROM jobs WHERE state IN ('done', 'cancelled') AND finished_at < :before"
    " ORDER BY finished_at LIMIT :limit"
)


class SqlBroker:
    """Keeps the contract of ``Broker`` on a ``Store``, which the caller opens and closes."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.notes: Notes = SqlNotes(store)
        self._dialect = dialect_of(store.dialect)
        self._clock = store.clock
        self._claims = Claims()
        self._beaten: dict[str, float] = {}  # by worker of this process: when its lease was last extended
        self._swept = ""  # the order key that the last look for headless ones ended with
        self._log = logger("jobs")

    def _announce(self, *, delay: float = 0.0) -> None:
        """Wake who listens: there may be something to claim."""
        self.store.notify(CHANNEL, delay=delay)

    def home(self, *, keyed: Keyed | None = None, job: str | None = None) -> str | None:
        """See ``Broker``."""
        del keyed, job  # all in one place
        url = self.store.url
        return f"{url.get_backend_name()} {url.host}:{url.port} {url.database}"

    # --- enqueue

    async def enqueue(self, rows: Sequence[JobRow], *, again: bool = False) -> list[str]:
        """See ``Broker``."""
        insert = _insert_missing if again else _insert
        stored = self.store.begin_write(*apart(insert, rows, [row.order_key for row in rows]))
        # An idle worker that is woken now claims in the same commit; one commit less until the job begins.
        before = self._claims.last
        listeners = self.store.notify_here(CHANNEL)
        ids = await stored
        if listeners == 1 and self._claims.since(before):
            self.store.notify_elsewhere(CHANNEL)
        else:
            self._announce()
        return ids

    def enqueue_sync(self, rows: Sequence[JobRow]) -> list[str]:
        """See ``Broker``."""
        ids = self.store.write_sync(*apart(_insert, rows, [row.order_key for row in rows]))
        self._announce()
        return ids

    def enqueue_within(self, connection: object, rows: Sequence[JobRow]) -> list[str]:
        """See ``Broker``. The connection's database must be the one that jobs are kept in."""
        ids = insert_jobs(self.store.shared_with(connection), rows, brief=False)
        self._announce(delay=COMMIT_SOON)
        return ids

    # --- the worker's part

    async def claim(self, worker: WorkerInfo, limit: int, *, alone: bool = False) -> Claimed:
        """See ``Broker``. The lease is extended, unless it was a moment ago. One that finds nothing writes nothing
        then: else the workers of a SQLite file would wake each other with it, and themselves, for ever.
        """
        self._claims.begun(alone=alone)
        claimed, beaten = await self.store.write(self._claim, (worker, limit, alone))
        if beaten is not None:
            self._beaten[worker.id] = beaten
        return claimed

    def _claim(
        self, connection: Connection, payloads: list[tuple[WorkerInfo, int, bool]]
    ) -> list[tuple[Claimed, float | None]]:
        """Each with when the worker's lease was extended, if it was: known only after the commit."""
        answers = []
        for worker, limit, alone in payloads:
            now = self._clock.wall()
            take = self._dialect.claim_suspect if alone else self._dialect.claim
            rows, next_at = take(connection, worker, limit, now)
            found = list(map(Claim._make, rows))
            if len({claim.priority for claim in found}) > 1:
                found.sort(key=partial(order, worker.ageing))
            else:  # neither RETURNING nor an aggregate keeps an order
                found.sort(key=_BY_TIME)
            extended = None
            if not 0 <= now - self._beaten.get(worker.id, 0.0) < worker.lease * _FRESH:
                self._beat(connection, worker, now)
                extended = now
            answers.append((Claimed(found, next_at), extended))
        return answers

    async def finish(self, completions: Sequence[Completion]) -> list[bool]:
        """See ``Broker``."""
        stored, freed = await self.store.write(
            *apart(self._finish, completions, [one.order_key for one in completions])
        )
        if freed:
            self._announce()
        return stored

    def _finish(self, connection: Connection, payloads: list[Sequence[Completion]]) -> list[tuple[list[bool], bool]]:
        now = self._clock.wall()
        done: list[Completion] = []
        others: list[Completion] = []
        for part in payloads:
            for one in part:
                plain = one.state == "done" and one.error is None and one.reason is None
                (done if plain else others).append(one)
        rows: list[Any] = []
        if done:
            rows += self._dialect.finish_done(connection, done, now)
        if others:
            accepted = self._dialect.finish_other(connection, others, now)
            ids = {row[0] for row in accepted}
            self._keep_errors(connection, [one for one in others if one.error is not None and one.id in ids])
            rows += accepted
        stored = {row[0] for row in rows}
        freed = freed_by(rows)
        more = bool(freed) and self._go_on(connection, freed)
        return [([one.id in stored for one in part], more) for part in payloads]

    def _go_on(self, connection: Connection, keys: set[str]) -> bool:
        """The heads of those keys have ended; whether others took their places."""
        lock(connection, keys)
        return free_next(connection, keys)

    def _keep_errors(self, connection: Connection, failed: list[Completion]) -> None:
        rows = [
            {
                "job_id": one.id, "attempt": one.error.attempt, "at": one.error.at, "type": one.error.type,
                "message": one.error.message, "traceback": one.error.traceback,
            }
            for one in failed if one.error is not None
        ]  # fmt: skip
        if rows:
            connection.execute(sa.insert(job_errors), rows)
        for one in failed:
            if one.error is not None and one.deliveries > KEPT_ERRORS:
                connection.execute(_TRIM, {"job": one.id, "kept": KEPT_ERRORS})

    async def give_back(self, worker: WorkerInfo, held: Sequence[str]) -> int:
        """See ``Broker``."""
        return await self.store.write(self._give_back, (worker.id, held))

    def _give_back(self, connection: Connection, payloads: list[tuple[str, Sequence[str]]]) -> list[int]:
        return [self._dialect.give_back(connection, worker, held) for worker, held in payloads]

    def heartbeat(self, worker: WorkerInfo) -> None:
        """See ``Broker``."""
        self._beaten[worker.id] = self.store.write_sync(self._heartbeat, worker)

    def _heartbeat(self, connection: Connection, payloads: list[WorkerInfo]) -> list[float]:
        now = self._clock.wall()
        for worker in payloads:
            self._beat(connection, worker, now)
        return [now] * len(payloads)

    def _beat(self, connection: Connection, worker: WorkerInfo, now: float) -> None:
        connection.execute(
            _BEAT,
            {
                "id": worker.id, "host": worker.host, "pid": worker.pid, "queues": ",".join(worker.queues),
                "started_at": worker.started_at, "lease_until": now + worker.lease,
            },
        )  # fmt: skip

    async def leave(self, worker: WorkerInfo) -> None:
        """See ``Broker``."""
        self._beaten.pop(worker.id, None)
        await self.store.write(_leave, worker.id)

    async def rescue(self, worker: WorkerInfo) -> Rescued:
        """See ``Broker``."""
        rescued = await self.store.write(self._rescue, worker)
        freed = await self._free_headless()
        if rescued.ready or rescued.dead or freed:
            self._announce()
        return rescued

    async def _free_headless(self) -> int:
        """A net below the rule that who ends frees the next: for what was added in a caller's own transaction.

        Some keys at a time, so that it costs the same however many there are.
        """
        keys, self._swept = await self.store.read(headless, self._swept)
        if not keys:
            return 0
        return await self.store.write(*apart(free_headless, keys, keys))

    def _rescue(self, connection: Connection, payloads: list[WorkerInfo]) -> list[Rescued]:
        answers = []
        for worker in payloads:
            now = self._clock.wall()
            self._beat(connection, worker, now)  # first, lest a worker that slept takes its own jobs for orphans
            rows = self._dialect.rescue(connection, now)
            freed = freed_by(rows)
            if freed:
                self._go_on(connection, freed)
            connection.execute(_FORGET, {"before": now - _EXPIRED_WORKER})
            answers.append(
                Rescued(
                    ready=tuple(row[0] for row in rows if row[1] == "ready"),
                    dead=tuple(row[0] for row in rows if row[1] == "dead"),
                    suspects=self._dialect.suspects(connection, worker.queues, now),
                )
            )
        return answers

    # --- the operator's part

    async def get(self, job_id: str) -> Job:
        """See ``Broker``."""
        return _found(await self.store.read(_get, job_id), job_id)

    async def failures(self, job_id: str) -> list[JobFailure]:
        """See ``Broker``."""
        return await self.store.read(_failures, job_id)

    async def counts(self) -> dict[tuple[str, State], int]:
        """See ``Broker``."""
        return await self.store.read(_counts)

    async def retry(self, job_id: str) -> Job:
        """See ``Broker``."""
        job: Job = await self.store.write(self._retry, job_id)
        self._announce()
        return job

    def _retry(self, connection: Connection, payloads: list[str]) -> list[Job | Exception]:
        return [self._retry_one(connection, job_id) for job_id in payloads]

    def _retry_one(self, connection: Connection, job_id: str) -> Job | Exception:
        job = self._alone(connection, job_id)
        if job is None:
            return _not_found(job_id)
        if job.state == "running":
            return JobStateError(f"job {job_id} is running: it cannot be retried now")
        if job.state == "outbox":
            return JobStateError(f"job {job_id} waits to be relayed to another broker: it can be retried there")
        if job.unique_key is not None and job.state != "ready":
            holder = holder_of(connection, job.unique_key, self._clock.wall(), but=job_id)
            if holder is not None:
                return JobStateError(f"job {job_id} cannot be retried: job {holder} has its unique key")
        changed = connection.execute(
            sa.update(jobs)
            .where(jobs.c.id == job_id, jobs.c.state == job.state)
            .values(
                state=self._state_again(connection, job), run_at=self._clock.wall(), attempts=0, crashes=0, snoozes=0
            )
            .values(postponed=0, reason=None, worker=None, finished_at=None, payload=unexpiring(job.payload))
            .values(order_key=None if job.order_key is None else original(job.order_key))
        ).rowcount
        return self._changed(connection, job_id, changed)

    def _state_again(self, connection: Connection, job: Job) -> State:
        """What a job becomes that is to run again: a head stays one, another one queues up."""
        if job.order_key is None or is_head(job.state, job.order_key):
            return "ready"
        if job.state == "blocked":
            return "blocked"
        return "blocked" if held(connection, [original(job.order_key)]) else "ready"

    def _alone(self, connection: Connection, job_id: str) -> Job | None:
        """The job, with its order key locked if it has one, so that nothing else becomes or ceases to be its head."""
        job = _get(connection, job_id)
        if job is None or job.order_key is None:
            return job
        lock(connection, [original(job.order_key)])
        return _get(connection, job_id)

    async def retry_many(self, job_ids: Sequence[str]) -> list[Outcome]:
        """See ``Broker``."""
        return await to_each(job_ids, self.retry)

    async def cancel(self, job_id: str, *, reason: str = "") -> Job:
        """See ``Broker``."""
        return await self._call_off(job_id, reason or "cancelled", ("ready", "blocked", "outbox"))

    async def skip(self, job_id: str) -> Job:
        """See ``Broker``."""
        return await self._call_off(job_id, "skipped", ("ready", "blocked", "dead", "outbox"))

    async def _call_off(self, job_id: str, reason: str, states: tuple[State, ...]) -> Job:
        job: Job = await self.store.write(self._cancel, (job_id, reason, states))
        if job.order_key is not None:
            self._announce()
        return job

    def _cancel(
        self, connection: Connection, payloads: list[tuple[str, str, tuple[State, ...]]]
    ) -> list[Job | Exception]:
        return [self._cancel_one(connection, job_id, reason, states) for job_id, reason, states in payloads]

    def _cancel_one(
        self, connection: Connection, job_id: str, reason: str, states: tuple[State, ...]
    ) -> Job | Exception:
        job = self._alone(connection, job_id)
        if job is None:
            return _not_found(job_id)
        changed = 0
        if job.state in states:
            changed = connection.execute(
                sa.update(jobs)
                .where(jobs.c.id == job_id, jobs.c.state == job.state)
                .values(state="cancelled", reason=reason, finished_at=self._clock.wall())
            ).rowcount
        if changed and job.order_key is not None and is_head(job.state, job.order_key):
            free_next(connection, [job.order_key])
        return self._changed(connection, job_id, changed)

    def _changed(self, connection: Connection, job_id: str, changed: int) -> Job | Exception:
        job = _get(connection, job_id)
        if job is None:
            return _not_found(job_id)
        return job if changed else JobStateError(f"job {job_id} is {job.state}: that cannot be done to it now")

    async def prune(self, ended_before: float, *, limit: int = 1000) -> int:
        """See ``Broker``."""
        return await self.store.write(_prune, (ended_before, limit))

    def close(self) -> None:
        """See ``Broker``: the store is its caller's."""

    def listen(self, callback: Callable[[], None]) -> Callable[[], None]:
        """See ``Broker``."""
        return self.store.listen(CHANNEL, callback)

    async def list(self, which: JobFilter) -> list[Job]:  # last: below it, ``list`` is this method
        """See ``Broker``."""
        return await self.store.read(_list, which)


def _insert(connection: Connection, payloads: list[Sequence[JobRow]]) -> list[list[str]]:
    ids = iter(insert_jobs(connection, [row for rows in payloads for row in rows]))
    return [list(islice(ids, len(rows))) for rows in payloads]


def _insert_missing(connection: Connection, payloads: list[Sequence[JobRow]]) -> list[list[str]]:
    return [insert_missing(connection, rows) for rows in payloads]


def _leave(connection: Connection, payloads: list[str]) -> list[None]:
    for worker in payloads:
        connection.execute(_LEAVE, {"id": worker})
    return [None] * len(payloads)


def _prune(connection: Connection, payloads: list[tuple[float, int]]) -> list[int]:
    answers = []
    for before, limit in payloads:
        ids = list(connection.execute(_ENDED, {"before": before, "limit": limit}).scalars())
        for start in range(0, len(ids), 500):
            part = ids[start : start + 500]
            connection.execute(sa.delete(job_errors).where(job_errors.c.job_id.in_(part)))
            # The state again: a person may have made it ready since it was found.
            connection.execute(sa.delete(jobs).where(jobs.c.id.in_(part), jobs.c.state.in_(("done", "cancelled"))))
        forget_windows(connection, before, limit)
        answers.append(len(ids))
    return answers


def _get(connection: Connection, job_id: str) -> Job | None:
    found = connection.execute(sa.select(jobs).where(jobs.c.id == job_id)).one_or_none()
    return None if found is None else _shown(connection, [_job(found)])[0]


def _job(row: sa.Row[Any]) -> Job:
    values = row._asdict()
    return Job(**(values | {"payload": bytes(values["payload"])}))


def _shown(connection: Connection, found: list[Job]) -> list[Job]:
    """The same, the blocked ones with what they are blocked behind."""
    keys = {job.order_key for job in found if job.state == "blocked" and job.order_key is not None}
    if not keys:
        return found
    behind = heads(connection, keys)
    return [
        replace(job, blocked_behind=behind.get(str(job.order_key))) if job.state == "blocked" else job for job in found
    ]


def _found(job: Job | None, job_id: str) -> Job:
    if job is None:
        raise _not_found(job_id)
    return job


def _not_found(job_id: str) -> JobNotFound:
    return JobNotFound(f"no job has the id {job_id!r}")


def _failures(connection: Connection, job_id: str) -> list[JobFailure]:
    columns = (job_errors.c.attempt, job_errors.c.at, job_errors.c.type, job_errors.c.message, job_errors.c.traceback)
    query = sa.select(*columns).where(job_errors.c.job_id == job_id).order_by(job_errors.c.id.desc()).limit(KEPT_ERRORS)
    return [JobFailure(*row) for row in connection.execute(query)][::-1]


def _list(connection: Connection, which: JobFilter) -> list[Job]:
    query = sa.select(jobs).order_by(jobs.c.id.desc()).limit(which.limit)
    for column in ("name", "queue", "event_id"):
        value = getattr(which, column)
        if value is not None:
            query = query.where(jobs.c[column] == value)
    if which.state is not None:
        # Written out, because a partial index serves only a state that the planner can read.
        query = query.where(jobs.c.state == sa.literal(which.state, literal_execute=True))
    if which.state == "blocked":
        query = query.where(jobs.c.order_key.is_not(None), sa.text(UNFINISHED))  # so that the index of keys serves it
    if which.before is not None:
        query = query.where(jobs.c.id < which.before)
    return _shown(connection, [_job(row) for row in connection.execute(query)])


def _counts(connection: Connection) -> dict[tuple[str, State], int]:
    query = sa.select(jobs.c.queue, jobs.c.state, sa.func.count()).group_by(jobs.c.queue, jobs.c.state)
    return {(queue, state): count for queue, state, count in connection.execute(query)}
