"""Many jobs: a page of them, and the same deed to each: one that cannot be done does not keep the others from it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence

from moorline.errors import JobNotFound, JobStateError
from moorline.jobs.job import Job

__all__ = ["Outcome", "newest", "to_each"]

Outcome = Job | JobNotFound | JobStateError


async def to_each(job_ids: Sequence[str], deed: Callable[[str], Awaitable[Job]]) -> list[Outcome]:
    """Side by side, so that they share a commit; the job, or why not. Other failures are raised when all have ended."""
    outcomes = await asyncio.gather(*map(deed, job_ids), return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException) and not isinstance(outcome, JobNotFound | JobStateError):
            raise outcome
    return [outcome for outcome in outcomes if isinstance(outcome, Job | JobNotFound | JobStateError)]


def newest(jobs: Iterable[Job], limit: int) -> list[Job]:
    """The page of what several places have listed."""
    return sorted(jobs, key=lambda job: job.id, reverse=True)[:limit]
