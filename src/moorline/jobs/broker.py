"""The contract of every broker, and the records that pass through it.

At least once: a job that was enqueued is claimed until a result of it is stored. Of the jobs of one order key at most
one is ready, running, or dead and in the way; the others are blocked, and the oldest of them becomes ready in the same
transaction in which the one before it ends (see ``moorline.jobs.order``). One conformance suite
(``tests/jobs/conformance.py``) holds every broker to this page.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, Protocol

from moorline.errors import JobNotFound, JobStateError
from moorline.jobs.ageing import AGEING
from moorline.jobs.job import Claim, Job, JobFailure, JobRow, State
from moorline.jobs.notes import Notes

__all__ = [
    "MAX_CRASHES", "Broker", "Claimed", "Completion", "JobFilter", "Keyed", "Rescued", "WorkerInfo",
]  # fmt: skip

MAX_CRASHES: Final = 3
"""A job whose worker died this many times is dead: it is the job that kills."""

Keyed = Literal["unique", "order"]
"""Which key a job has; of both, the first."""

_SHOWN_ERROR: Final = 500  # characters


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """One run of a worker: ``id`` is new at each start, so that what an earlier run held can be told apart.

    ``ageing``: the seconds of waiting that make up for a step of priority (0: none do); see ``moorline.jobs.ageing``.
    """

    id: str
    host: str
    pid: int
    queues: tuple[str, ...]
    started_at: float
    lease: float
    ageing: float = AGEING


@dataclass(frozen=True, slots=True)
class Claimed:
    """Jobs to run; ``next_at`` is when the next one is due, if fewer than asked for were there (None: not known)."""

    jobs: list[Claim]
    next_at: float | None = None


# A named tuple, not a dataclass: thousands a second are made and written.
class Completion(NamedTuple):
    """How a claim ended. Only the holder of the job's last claim (``deliveries``) is heard.

    ``refund`` gives the attempt back; ``snoozed`` counts a postponement; ``run_at`` is when it is due again;
    ``postponed`` is what the next claim says of that (None: as this one).
    ``order_key`` repeats the claim's, so that a broker knows before it begins which keys may be freed.
    """

    id: str
    deliveries: int
    state: State
    run_at: float | None = None
    refund: bool = False
    snoozed: bool = False
    reason: str | None = None
    error: JobFailure | None = None
    order_key: str | None = None
    postponed: int | None = None

    @property
    def last_error(self) -> str | None:
        """The failure in a line, as the job shows it."""
        return None if self.error is None else f"{self.error.type}: {self.error.message}"[:_SHOWN_ERROR]


@dataclass(frozen=True, slots=True)
class Rescued:
    """What was taken from workers that died; ``suspects`` says whether jobs wait that must run alone."""

    ready: tuple[str, ...] = ()
    dead: tuple[str, ...] = ()
    suspects: bool = False


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Which jobs to list, newest first; ``before`` is the id that the page before ended with."""

    state: State | None = None
    name: str | None = None
    queue: str | None = None
    event_id: str | None = None
    before: str | None = None
    limit: int = 50

    def fits(self, job: Job) -> bool:
        """Whether it is one of those, of whatever page."""
        wanted = (
            (self.name, job.name),
            (self.queue, job.queue),
            (self.state, job.state),
            (self.event_id, job.event_id),
        )
        return all(value is None or value == own for value, own in wanted)


class Broker(Protocol):
    """All methods raise StoreUnavailable when the broker does not answer: nothing is lost, and all may be repeated."""

    notes: Notes
    """What is told of jobs beside their state."""

    def home(self, *, keyed: Keyed | None = None, job: str | None = None) -> str | None:
        """Where it keeps jobs, those with a key of that kind, or the one of that id, which was claimed here or listed.

        Brokers of one home have the same ones.
        """
        ...

    async def enqueue(self, rows: Sequence[JobRow], *, again: bool = False) -> list[str]:
        """Store *rows*; returns after they are durable, with one id each (another's, if the unique key is taken).

        ``again`` says that some may have been stored before: a broker that knows their ids leaves those as they are,
        another one may deliver them twice.
        """
        ...

    def enqueue_sync(self, rows: Sequence[JobRow]) -> list[str]:
        """As ``enqueue``, blocking."""
        ...

    def enqueue_within(self, connection: object, rows: Sequence[JobRow]) -> list[str]:
        """Insert *rows* in the transaction of a synchronous SQLAlchemy connection. ConfigurationError if it cannot.

        Those with an order key may be blocked until a worker looks after the keys (see ``rescue``).
        """
        ...

    async def claim(self, worker: WorkerInfo, limit: int, *, alone: bool = False) -> Claimed:
        """Take up to *limit* due jobs, by priority and age, then time. Extends the worker's lease.

        ``alone`` takes suspects (jobs whose worker died), and only those; they are never taken otherwise.
        """
        ...

    async def finish(self, completions: Sequence[Completion]) -> list[bool]:
        """Store results; False for a completion that came too late: the job was taken from its holder meanwhile."""
        ...

    async def give_back(self, worker: WorkerInfo, held: Sequence[str]) -> int:
        """Return what *worker* claimed and does not hold (ids *held*), attempts refunded: for lost answers."""
        ...

    def heartbeat(self, worker: WorkerInfo) -> None:
        """Extend the worker's lease; blocking, called from the worker's heartbeat thread."""
        ...

    async def leave(self, worker: WorkerInfo) -> None:
        """End the worker's lease now."""
        ...

    async def rescue(self, worker: WorkerInfo) -> Rescued:
        """Take running jobs from workers whose lease is over; those that did it ``MAX_CRASHES`` times are dead.

        Also makes the oldest job of each order key ready that has blocked jobs and no head.
        """
        ...

    async def get(self, job_id: str) -> Job:
        """Raises JobNotFound."""
        ...

    async def failures(self, job_id: str) -> list[JobFailure]:
        """The last ten failed attempts, oldest first."""
        ...

    async def counts(self) -> dict[tuple[str, State], int]:
        """How many jobs are in each queue and state."""
        ...

    async def retry(self, job_id: str) -> Job:
        """Make a job that does not run due now, with all its attempts. Raises JobNotFound, JobStateError.

        If its order key has another head, it is blocked until its turn comes.
        """
        ...

    async def retry_many(self, job_ids: Sequence[str]) -> list[Job | JobNotFound | JobStateError]:
        """As ``retry``, for each of them; the job, or why not."""
        ...

    async def cancel(self, job_id: str, *, reason: str = "") -> Job:
        """Cancel a job that waits or is blocked. Raises JobNotFound, JobStateError (it runs, or has ended)."""
        ...

    async def skip(self, job_id: str) -> Job:
        """Cancel a job that waits, is blocked or is dead, with the reason ``skipped``: its key goes on without it.

        Raises JobNotFound, JobStateError (it runs, or has ended).
        """
        ...

    async def prune(self, ended_before: float, *, limit: int = 1000) -> int:
        """Delete up to *limit* jobs that were done or cancelled before then. Dead letters stay."""
        ...

    def close(self) -> None:
        """Send what waits, and end what it has opened itself."""
        ...

    def listen(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call *callback* (on some thread) when jobs may have come; returns the function that ends it."""
        ...

    async def list(self, which: JobFilter) -> list[Job]:
        """Jobs, newest first."""
        ...
