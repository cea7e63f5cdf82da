"""What can be looked up and mended of jobs on a carrier: those that run here, the dead, and what is in the database."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from moorline.clock import Clock
from moorline.errors import JobNotFound, JobStateError
from moorline.jobs.broker import JobFilter
from moorline.jobs.brokers.carrier import Carrier, Letter, Taken
from moorline.jobs.brokers.dead_letters import Dead, DeadLetters
from moorline.jobs.brokers.kept import Keeper
from moorline.jobs.brokers.many import Outcome, newest, to_each
from moorline.jobs.brokers.parcel import Parcel, fitted
from moorline.jobs.job import Job, JobFailure, State
from moorline.jobs.notes import Notes

__all__ = ["Held", "Records"]


class Held(NamedTuple):
    """A job that a worker of ours runs."""

    parcel: Parcel
    taken: Taken
    worker: str


class Records:
    """The operator's part of ``Broker``; the rest is ``CarriedBroker``'s."""

    def __init__(self, carrier: Carrier, kept: Keeper, queues: set[str], clock: Clock) -> None:
        self.carrier = carrier
        self._kept = kept
        self.notes: Notes = kept.notes
        self._queues = queues
        self._clock = clock
        self._held: dict[str, Held] = {}
        self._dead = DeadLetters(carrier, queues)

    def _send(self, letters: Sequence[Letter]) -> None:
        """Those that are to wait for longer than the carrier can are sent on by who takes them too early. What follows
        is made to fit: it cannot be refused, or who took it would be stuck with it.
        """
        if not letters:
            return
        longest, largest = self.carrier.longest_delay, self.carrier.largest
        sent = [one if one.delay <= longest else one._replace(delay=longest) for one in letters]
        self.carrier.post(
            [
                one if one.follows is None or len(one.body) <= largest else one._replace(body=fitted(one.body, largest))
                for one in sent
            ]
        )

    async def get(self, job_id: str) -> Job:
        """See ``Broker``: one that runs here, is dead, or is kept in the database. Raises JobNotFound for others."""
        held = self._held.get(job_id)
        if held is not None:
            return held.parcel.job("running", held.worker)
        parcel = await self._dead.one(job_id)
        if parcel is not None:
            return parcel.job("dead")
        try:
            return await self._kept.get(job_id)
        except JobNotFound:
            raise self._unseen(job_id) from None

    def _unseen(self, job_id: str) -> JobNotFound:
        return JobNotFound(
            f"no job with the id {job_id!r} is dead, runs here, or is in the database;"
            " one that waits elsewhere or is done cannot be seen there"
        )

    async def failures(self, job_id: str) -> list[JobFailure]:
        """See ``Broker``; of a job that ``get`` can see."""
        held = self._held.get(job_id)
        parcel = await self._dead.one(job_id) if held is None else held.parcel
        return await self._kept.failures(job_id) if parcel is None else list(parcel.errors)

    async def counts(self) -> dict[tuple[str, State], int]:
        """See ``Broker``; of the queues that this process has heard of, running only what runs here."""
        counts: dict[tuple[str, State], int] = dict(await self._kept.counts())
        waiting = await asyncio.to_thread(self.carrier.waiting, tuple(self._queues))
        found: list[tuple[tuple[str, State], int]] = [
            ((lane.queue, "dead" if lane.kind == "dead" else "ready"), count) for lane, count in waiting.items()
        ]
        found += [((one.parcel.queue, "running"), 1) for one in list(self._held.values())]
        for key, count in found:
            if count:
                counts[key] = counts.get(key, 0) + count
        return counts

    async def retry(self, job_id: str) -> Job:
        """See ``Broker``: a dead one, or one that is kept in the database."""
        (outcome,) = await self.retry_many([job_id])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def retry_many(self, job_ids: Sequence[str]) -> list[Outcome]:
        """See ``Broker``; the dead letters are looked through once."""
        asked = [one for one in job_ids if one not in self._held]
        dead = await self._dead.some(asked, self._again)
        return await to_each(job_ids, lambda job_id: self._retried(job_id, dead.get(job_id)))

    def _again(self, dead: Sequence[Dead]) -> Sequence[Dead]:
        now = self._clock.wall()
        ours = [(one, parcel) for one, parcel in dead if parcel.reason != "undecodable"]
        self._send([parcel.once_more(now).letter(now, follows=one) for one, parcel in ours])
        return ours

    async def _retried(self, job_id: str, dead: Parcel | None) -> Job:
        if dead is None:
            self._refuse_running(job_id)
            try:
                return await self._kept.retry(job_id)
            except JobNotFound:
                raise self._unseen(job_id) from None
        if dead.reason == "undecodable":
            raise JobStateError(f"job {job_id} cannot be retried: its bytes are none of ours")
        return dead.once_more(self._clock.wall()).job("ready")

    async def cancel(self, job_id: str, *, reason: str = "") -> Job:
        """See ``Broker``; only what is kept in the database can be found, where it may wait to be relayed."""
        self._refuse_running(job_id)
        try:
            return await self._kept.cancel(job_id, reason=reason)
        except JobNotFound:
            if await self._dead.one(job_id) is None:
                raise self._unseen(job_id) from None
        raise JobStateError(f"job {job_id} is dead: that cannot be done to it now")

    async def skip(self, job_id: str) -> Job:
        """See ``Broker``: a dead one is deleted, and what waits for it goes on."""
        self._refuse_running(job_id)
        try:
            return await self._kept.skip(job_id)
        except JobNotFound:
            found = (await self._dead.some([job_id], lambda dead: dead)).get(job_id)
            if found is None:
                raise self._unseen(job_id) from None
        found.reason = "skipped"
        return found.job("cancelled")

    def _refuse_running(self, job_id: str) -> None:
        if job_id in self._held:
            raise JobStateError(f"job {job_id} is running: that cannot be done to it now")

    async def list(self, which: JobFilter) -> list[Job]:  # last: below it, ``list`` is this method
        """See ``Broker``: what runs here, the dead, and what is kept in the database."""
        jobs = [one.parcel.job("running", one.worker) for one in list(self._held.values())]
        if which.state in (None, "dead"):
            jobs += [parcel.job("dead") for parcel in await self._dead.all(which.queue)]
        jobs = [job for job in jobs if which.fits(job) and (which.before is None or job.id < which.before)]
        return newest([*jobs, *await self._kept.list(which)], which.limit)
