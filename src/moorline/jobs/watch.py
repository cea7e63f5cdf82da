"""What becomes of a job that was enqueued: its progress, its result, and asking it to stop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from moorline.clock import Clock
from moorline.codec import decode_result
from moorline.errors import JobFailed, JobNotFound, JobStateError, Misuse
from moorline.jobs.broker import Broker
from moorline.jobs.groups import Groups
from moorline.jobs.job import Job
from moorline.jobs.notes import UNKEPT, JobNote

__all__ = ["Progress", "Watch"]

_FIRST_LOOK: Final = 0.02
_LONGEST_PAUSE: Final = 1.0
_GROWTH: Final = 1.5
_LOOK_AT_STATE: Final = 4  # looks at its note, for each one at the job: on a carrier that reads all dead letters


class Progress(NamedTuple):
    """How far a job is: the part that is ``done`` (0 to 1), its last message, and when it was told (epoch seconds)."""

    done: float
    message: str = ""
    at: float | None = None


class Watch:
    """Looks at the jobs of one function. ``keeps`` says whether its results are kept."""

    def __init__(
        self,
        broker: Broker,
        groups: Groups | None,
        clock: Clock,
        name: str,
        function: Callable[..., Any],
        *,
        keeps: bool,
    ) -> None:
        self._broker = broker
        self._groups = groups
        self._clock = clock
        self._name = name
        self._function = function
        self._keeps = keeps

    async def job(self, job_id: str) -> Job:
        """The job as it is stored. Raises JobNotFound."""
        return await self._broker.get(job_id)

    async def progress(self, job_id: str) -> Progress | None:
        """What it told last; None if nothing."""
        note = await self._broker.notes.read(job_id)
        if note is None or note.done is None:
            return None
        return Progress(note.done, note.message or "", note.at)

    async def stop(self, job_id: str, reason: str) -> Job:
        """See ``JobHandle.stop``."""
        job = await stop(self._broker, job_id, reason)
        if self._groups is not None:
            await self._groups.called_off([job])
        return job

    async def result(self, job_id: str, timeout: float) -> Any:
        """See ``JobHandle.result``."""
        if not self._keeps:
            raise Misuse(f"the results of {self._name} are not kept: make it a job with keep_result=True")
        self._broker.notes.check()
        until = self._clock.monotonic() + timeout
        pause, looks = _FIRST_LOOK, 0
        missing: JobNotFound | None = None
        while True:
            note = await self._broker.notes.read(job_id)
            told = note is not None and note.result is not None
            if told or looks % _LOOK_AT_STATE == 0:
                try:
                    job = await self._broker.get(job_id)
                except JobNotFound as error:  # it waits on a carrier, perhaps
                    if told:
                        return self._decoded(job_id, note)
                    missing = error
                else:
                    missing = None
                    self._check(job)
                    if job.state == "done":  # what was told before that may be of an earlier run, before a retry
                        return self._decoded(job_id, await self._broker.notes.read(job_id))
            looks += 1
            left = until - self._clock.monotonic()
            if left <= 0:
                raise missing or TimeoutError(f"job {job_id} has not ended within {timeout:g} s")
            await self._clock.asleep(min(pause, left))
            pause = min(pause * _GROWTH, _LONGEST_PAUSE)

    def _decoded(self, job_id: str, note: JobNote | None) -> Any:
        if note is None or note.result is None:
            raise JobStateError(f"job {job_id} is done, and no result of it was kept")
        if note.result == UNKEPT:
            raise JobStateError(f"job {job_id} is done, and its result could not be kept: see the worker's log")
        return decode_result(self._function, note.result)

    def _check(self, job: Job) -> None:
        if job.state in ("dead", "cancelled"):
            raise JobFailed(f"job {job.id} is {job.state} ({job.reason}): {job.last_error or 'no error is known'}")
        if job.state == "done" and job.reason is not None:
            raise JobFailed(f"job {job.id} ended without a result: {job.reason}")


async def stop(broker: Broker, job_id: str, reason: str) -> Job:
    """Cancel a job that waits; ask one that runs to stop. The job as it was then. Raises JobNotFound, JobStateError."""
    for _ in range(3):  # it may begin, or end, between two looks
        try:
            return await broker.cancel(job_id, reason=reason)
        except JobStateError:
            job = await broker.get(job_id)
            if job.state == "running":
                broker.notes.check()
                await broker.notes.ask_to_stop(job_id, job.deliveries, reason or "stopped")
                return job
            if job.state not in ("ready", "blocked"):
                raise
    raise JobStateError(f"job {job_id} keeps beginning and ending: it was not stopped")
