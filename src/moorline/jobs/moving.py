"""Moving what waits in one broker to another, while both are in use: ``moorline jobs drain --to URL``.

::

    claimed here ──> enqueued there, confirmed ──> ended here: cancelled, ``moved``

It claims as a worker does, so nobody runs a job while it is moved, and one whose move is cut short is claimed again by
whoever comes next: at least once, under the same id. Jobs of an order key go one after the other, in their order.

An event and a group are rows of the database, which are not moved. Their jobs are claimed and held until the end where
they would come to workers with another database.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from moorline.clock import SYSTEM, Clock
from moorline.errors import JobNotFound, JobStateError, Misuse
from moorline.jobs.broker import Broker, Completion, JobFilter, Keyed, WorkerInfo
from moorline.jobs.flows import flow_of
from moorline.jobs.job import Claim, Job, JobRow
from moorline.store.ids import new_id

__all__ = ["Moved", "move"]

_BATCH: Final = 500
_LEASE: Final = 60.0  # seconds; each batch extends it
_MOVED: Final = "moved"


@dataclass(frozen=True, slots=True)
class Moved:
    """How many jobs were moved; ``kept`` are those that are in a database of both brokers, and stay there; ``tied``
    those that stay because their event or their group is in a database that the target has not.
    """

    jobs: int
    kept: int = 0
    tied: int = 0


async def move(
    source: Broker,
    target: Broker,
    *,
    queues: Sequence[str] = ("default",),
    same_database: bool = True,
    batch: int = _BATCH,
    clock: Clock = SYSTEM,
    progress: Callable[[int], None] | None = None,
) -> Moved:
    """Move all that waits in those queues, the delayed too; *progress* is told how many so far. *same_database* says
    whether the workers of both have the same one: else the jobs of events and of groups stay.

    What is dead stays, and what waits behind a dead job of its order key. A job keeps its id, the attempts that it has
    left, and its keys; its past errors stay here. What a carrier holds back until later comes when it is due: call
    again until nothing is moved. Raises Misuse when both are the same, StoreUnavailable when one does not answer.
    """
    if source.home() == target.home():
        raise Misuse("source and target are the same")
    mover = _Mover(source, target, tuple(queues), same_database, batch, clock, progress)
    try:
        while await mover.claimed() or await mover.delayed():
            pass
    finally:
        await mover.end()
    return Moved(mover.jobs, mover.stayed, len(mover.tied))


class _Mover:
    def __init__(
        self,
        source: Broker,
        target: Broker,
        queues: tuple[str, ...],
        same_database: bool,  # noqa: FBT001 -- as it was given to move()
        batch: int,
        clock: Clock,
        progress: Callable[[int], None] | None,
    ) -> None:
        now = clock.wall()
        self._source = source
        self._target = target
        self._same_database = same_database
        self._batch = batch
        self._progress = progress
        self._clock = clock
        self._worker = WorkerInfo(new_id(now), socket.gethostname(), os.getpid(), queues, now, _LEASE)
        self.jobs = 0
        self.kept: set[str] = set()
        self.tied: set[str] = set()
        self._keyed: set[str] = set()  # of those that were moved: if they come again, it is from there

    async def claimed(self) -> int:
        """Move what is due; how many."""
        before = self.jobs
        for alone in (False, True):
            while claims := (await self._source.claim(self._worker, 1 if alone else self._batch, alone=alone)).jobs:
                await self._move(claims)
        return self.jobs - before

    async def _move(self, claims: Sequence[Claim]) -> None:
        jobs = [await self._source.get(claim.id) for claim in claims]  # a claim does not tell its unique key
        moved = []
        for claim, job in zip(claims, jobs, strict=True):
            if not self._stays(job):  # what does is held until the end, lest it is claimed over and over
                moved.append((claim, job))
        await self._target.enqueue([_row(job, claim.attempts - 1) for claim, job in moved], again=True)
        await self._source.finish(
            [
                Completion(claim.id, claim.deliveries, "cancelled", reason=_MOVED, order_key=claim.order_key)
                for claim, _ in moved
            ]
        )
        self._keyed |= {job.id for _, job in moved if job.unique_key is not None or job.order_key is not None}
        self._count(len(moved))

    def _stays(self, job: Job) -> bool:
        """Whether it is not to be moved, which is counted."""
        if not self._same_database and _is_tied(job):
            self.tied.add(job.id)
            return True
        if self._is_kept(job):
            self.kept.add(job.id)
            return True
        return False

    def _is_kept(self, job: Job) -> bool:
        """Whether it is in the target already: in a database that both use."""
        keyed: Keyed | None = "unique" if job.unique_key is not None else None if job.order_key is None else "order"
        return self._source.home(job=job.id) == self._target.home(keyed=keyed)

    @property
    def stayed(self) -> int:
        """How many were there already."""
        return len(self.kept - self._keyed)

    def _count(self, moved: int) -> None:
        self.jobs += moved
        if self._progress is not None:
            self._progress(self.jobs)

    async def delayed(self) -> int:
        """Move what is not due yet, as far as the source can show it; how many."""
        before = self.jobs
        for queue in self._worker.queues:
            last: str | None = None
            while page := await self._source.list(
                JobFilter(state="ready", queue=queue, before=last, limit=self._batch)
            ):
                last = page[-1].id
                now = self._clock.wall()
                later = [job for job in page if job.run_at > now and not self._stays(job)]
                if later:
                    await self._target.enqueue([_row(job, job.attempts) for job in later], again=True)
                    self._count(sum([await self._called_off(job.id) for job in later]))
        return self.jobs - before

    async def _called_off(self, job_id: str) -> bool:
        try:
            await self._source.cancel(job_id, reason=_MOVED)
        except (JobStateError, JobNotFound):
            return False  # it became due, and somebody has it: it may run twice
        return True

    async def end(self) -> None:
        """Give back what was held and not moved."""
        await self._source.give_back(self._worker, [])
        await self._source.leave(self._worker)


def _is_tied(job: Job) -> bool:
    """Whether it needs what only its own database has: its event, or its group."""
    flow = flow_of(job.payload)
    return job.event_id is not None or (flow is not None and flow.group is not None)


def _row(job: Job, spent: int) -> JobRow:
    """With the attempts that it has left."""
    return JobRow(
        job.id, job.name, job.payload, job.run_at, job.created_at, job.queue, job.priority,
        max(job.max_attempts - spent, 1), job.event_id, job.unique_key, job.order_key,
        job.unique_until,
    )  # fmt: skip
