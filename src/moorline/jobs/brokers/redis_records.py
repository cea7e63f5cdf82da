"""What can be looked up and mended of jobs in Redis, and of those that wait in the database to be relayed there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import msgspec

from moorline.clock import Clock
from moorline.errors import JobNotFound, JobStateError, StoreError, StoreUnavailable
from moorline.jobs.broker import JobFilter
from moorline.jobs.brokers.kept import InOutbox, Nowhere
from moorline.jobs.brokers.many import Outcome, newest, to_each
from moorline.jobs.brokers.redis_jobs import jobs, listed, row_again
from moorline.jobs.brokers.redis_link import Link
from moorline.jobs.job import Job, JobFailure, State

__all__ = ["RedisRecords"]

P = TypeVar("P")
R = TypeVar("R")

_FAILURE: Final = msgspec.msgpack.Decoder(JobFailure).decode


class RedisRecords(ABC):
    """The operator's part of ``Broker``; the rest is ``RedisBroker``'s."""

    def __init__(self, kept: InOutbox | Nowhere, clock: Clock) -> None:
        self._kept = kept
        self._clock = clock

    @abstractmethod
    async def _write(self, apply: Callable[[Link, list[P]], Sequence[R | Exception]], payload: P) -> R:
        """With what else changes something."""

    @abstractmethod
    async def _read(self, ask: Callable[[Link], R]) -> R:
        """In a thread."""

    @abstractmethod
    def _wake(self) -> None:
        """There may be something to claim."""

    async def get(self, job_id: str) -> Job:
        """See ``Broker``. One that waits to be relayed is shown too."""
        try:
            return await self._read(lambda link: _get(link, job_id))
        except JobNotFound:
            return await self._kept.get(job_id)

    async def failures(self, job_id: str) -> list[JobFailure]:
        """See ``Broker``."""
        keys = [f"errors:{job_id}"]
        (found,) = await self._read(lambda link: link.read(lambda p: lambda key: p.lrange(key, 0, -1), keys))
        return [_FAILURE(one) for one in reversed(found)]

    async def counts(self) -> dict[tuple[str, State], int]:
        """See ``Broker``."""
        found = await self._read(lambda link: link.do("counts"))
        lanes = zip(found[::2], map(int, found[1::2]), strict=True)
        counts: dict[tuple[str, State], int] = {_lane(lane): count for lane, count in lanes if count}
        for lane, count in (await self._kept.counts()).items():
            counts[lane] = counts.get(lane, 0) + count
        return counts

    async def retry(self, job_id: str) -> Job:
        """See ``Broker``. One that was called off before it was relayed is to be relayed again."""
        row = await self._read(lambda link: row_again(link, job_id))
        asked: tuple[str | bytes, ...] = ("retry", job_id, repr(self._clock.wall()), row)
        what, *who = await self._write(_one_deed, asked)
        if what == b"missing":
            return await self._kept.retry(job_id)
        if what == b"unique":
            raise JobStateError(f"job {job_id} cannot be retried: job {who[0].decode()} has its unique key")
        job = await self._after(job_id, what)
        self._wake()
        return job

    async def retry_many(self, job_ids: Sequence[str]) -> list[Outcome]:
        """See ``Broker``."""
        return await to_each(job_ids, self.retry)

    async def cancel(self, job_id: str, *, reason: str = "") -> Job:
        """See ``Broker``."""
        job = await self._call_off(job_id, reason or "cancelled", ("ready", "blocked"))
        return await self._kept.cancel(job_id, reason=reason) if job is None else job

    async def skip(self, job_id: str) -> Job:
        """See ``Broker``."""
        job = await self._call_off(job_id, "skipped", ("ready", "blocked", "dead"))
        return await self._kept.skip(job_id) if job is None else job

    async def _call_off(self, job_id: str, reason: str, states: tuple[State, ...]) -> Job | None:
        """None if it is not there: it may wait to be relayed. While Redis is away, only that can be called off."""
        asked: tuple[str | bytes, ...] = ("call_off", job_id, repr(self._clock.wall()), reason, *states)
        try:
            (what,) = await self._write(_one_deed, asked)
        except StoreUnavailable:
            if not await self._waits(job_id):
                raise
            return None
        if what == b"missing":
            return None
        job = await self._after(job_id, what)
        if job.order_key is not None:
            self._wake()
        return job

    async def _waits(self, job_id: str) -> bool:
        try:
            return (await self._kept.get(job_id)).state == "outbox"
        except JobNotFound:
            return False

    async def _after(self, job_id: str, what: bytes) -> Job:
        if what != b"ok":
            raise JobStateError(f"job {job_id} is {what.decode()}: that cannot be done to it now")
        return await self.get(job_id)

    async def prune(self, ended_before: float, *, limit: int = 1000) -> int:
        """See ``Broker``."""
        pruned = await self._write(_prune, (ended_before, limit))
        return pruned + await self._kept.prune(ended_before, limit=limit)

    async def list(self, which: JobFilter) -> list[Job]:  # last: below it, ``list`` is this method
        """See ``Broker``. What no index serves (a name) is read through, a page after the other."""
        kept = await self._kept.list(which)
        if which.state == "outbox":
            return kept
        found = await self._read(lambda link: listed(link, which))
        there = {job.id for job in found}  # relayed, and not deleted from the database yet
        return newest([*found, *(job for job in kept if job.id not in there)], which.limit)


def _get(link: Link, job_id: str) -> Job:
    found = jobs(link, [job_id])
    if not found:
        raise JobNotFound(f"no job has the id {job_id!r}")
    return found[0]


def _one_deed(link: Link, payloads: list[tuple[str | bytes, ...]]) -> list[Any]:
    answers: list[Any] = []
    for deed, *arguments in payloads:
        try:
            answers.append(link.do(str(deed), *arguments))
        except StoreUnavailable as error:  # to the others too: each would wait as long to be told so
            return [*answers, *[error] * (len(payloads) - len(answers))]
        except StoreError as error:
            answers.append(error)
    return answers


def _prune(link: Link, payloads: list[tuple[float, int]]) -> list[int]:
    return [link.do("prune", repr(before), limit) for before, limit in payloads]


def _lane(text: bytes) -> Any:
    queue, _, state = text.decode().rpartition("\t")
    return queue, state
