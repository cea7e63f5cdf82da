"""A job as it is stored, in the three shapes that it takes: to be inserted, claimed by a worker, and shown.

::

                 claim                       finish
    enqueue -> ready -----> running --+--> done
                 ^                    |--> dead       (attempts used up, discarded, or its worker died three times)
                 |                    |--> cancelled
                 +--------------------+
                   retry, snooze, give back, rescue

    enqueue -> blocked    an earlier job of the same order key has not ended; -> ready when its turn comes
    ready, blocked -> cancelled (cancel)        ready, blocked, dead -> cancelled (skip)
    dead, cancelled, done -> ready, or blocked if its key has a head (retry, by a person)
    outbox                waits to be relayed to another broker, then deleted here; nothing else is done to it
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import msgspec

from moorline.errors import Misuse

if TYPE_CHECKING:
    from moorline.jobs.watch import Progress, Watch

__all__ = [
    "END_OF_DATES",
    "LONGEST_WAIT",
    "LOWEST_PRIORITY",
    "STATES",
    "Claim",
    "Job",
    "JobFailure",
    "JobHandle",
    "JobRow",
    "State",
]

State = Literal["ready", "running", "blocked", "done", "dead", "cancelled", "outbox"]
STATES: Final[tuple[State, ...]] = ("ready", "running", "blocked", "done", "dead", "cancelled", "outbox")
LOWEST_PRIORITY: Final = 9
END_OF_DATES: Final = 253_402_300_800.0
"""Seconds from 1970 to the year 10000, for which there is no date any more: no job is due as late as that."""
LONGEST_WAIT: Final = END_OF_DATES / 2
"""Seconds from now for which a job may be put off."""


# A named tuple, not a dataclass: thousands a second go to the driver as they are.
class JobRow(NamedTuple):
    """What is inserted. Times are seconds since the epoch; priority 0 goes first, 9 last.

    Jobs of one ``order_key`` (made by ``moorline.jobs.order``) run one after the other, in the order of their ids. No
    other job of a ``unique_key`` is made while one waits or runs, nor before its ``unique_until``.
    """

    id: str
    name: str
    payload: bytes
    run_at: float
    created_at: float
    queue: str = "default"
    priority: int = 5
    max_attempts: int = 6
    event_id: str | None = None
    unique_key: str | None = None
    order_key: str | None = None
    unique_until: float | None = None


# As above: thousands a second come from the driver.
class Claim(NamedTuple):
    """What a worker gets. ``deliveries`` is the fencing token: only the last claim's holder may finish the job.

    ``postponed``: how often in a row it was put off by others than its own function; see ``Job``.
    """

    id: str
    name: str
    queue: str
    priority: int
    payload: bytes
    run_at: float
    attempts: int
    max_attempts: int
    deliveries: int
    crashes: int
    snoozes: int
    event_id: str | None
    created_at: float
    order_key: str | None = None
    postponed: int = 0


@dataclass(frozen=True, slots=True)
class Job:
    """A stored job, to be looked at.

    ``attempts`` counts claims that were neither given back nor cut short by a crash, ``deliveries`` all claims,
    ``crashes`` the workers that died with it, ``snoozes`` the times that it was put off without spending an attempt
    (by a limit, however often: once). ``postponed`` are those in a row of which a service was the cause (and once for a
    program that did not know the job): after a hundred, each spends an attempt.
    ``reason`` says why it is dead (``failed``, ``crashed``, ``discarded``, ``mismatch``, ``too large``, ``unknown``,
    ``followers refused``, ``undecodable``), cancelled, or done without having been run (``filtered``).
    ``blocked_behind`` is, for a blocked job, the id of the head of its key. Times are seconds since the epoch.
    """

    id: str
    name: str
    queue: str
    priority: int
    payload: bytes
    state: State
    run_at: float
    attempts: int
    max_attempts: int
    deliveries: int
    crashes: int
    snoozes: int
    worker: str | None
    event_id: str | None
    unique_key: str | None
    created_at: float
    started_at: float | None
    finished_at: float | None
    last_error: str | None
    reason: str | None
    order_key: str | None = None
    blocked_behind: str | None = None
    unique_until: float | None = None
    postponed: int = 0


@dataclass(frozen=True, slots=True)
class JobFailure:
    """One failed attempt, redacted. ``at`` is seconds since the epoch."""

    attempt: int
    at: float
    type: str
    message: str
    traceback: str


# No dataclass either: a frozen one takes six times as long to make, and every ``enqueue`` makes one.
class JobHandle(msgspec.Struct, frozen=True, eq=False):
    """What enqueueing gives: the job's ``id``; ``duplicate`` if a job of the same unique key was there already."""

    id: str
    duplicate: bool = False
    watch: Any = None
    """What looks at the job: a ``Watch``. Two handles of one job are equal whatever they look with."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, JobHandle) and (self.id, self.duplicate) == (other.id, other.duplicate)

    def __hash__(self) -> int:
        return hash((self.id, self.duplicate))

    def __repr__(self) -> str:
        return f"JobHandle(id={self.id!r}, duplicate={self.duplicate!r})"

    async def result(self, timeout: float = 60.0) -> Any:
        """What the function returned, as its annotation says: waits up to *timeout* seconds for it.

        Of functions with ``keep_result=True``; Misuse for others. Raises JobFailed when the job is dead or cancelled,
        JobStateError when it is done and its result was not kept, TimeoutError when it has not ended, JobNotFound when
        it is not there (any more).
        """
        return await self._watched.result(self.id, timeout)

    async def progress(self) -> Progress | None:
        """How far the job says it is; None if it has said nothing."""
        return await self._watched.progress(self.id)

    async def job(self) -> Job:
        """The job as it is stored now. Raises JobNotFound."""
        return await self._watched.job(self.id)

    async def stop(self, reason: str = "") -> Job:
        """Cancel the job if it waits, and ask it to stop if it runs; the job as it was.

        An async function is cancelled and a process killed within some seconds; a plain function may look at
        ``current().stopping``. Raises JobNotFound, JobStateError (it has ended).
        """
        return await self._watched.stop(self.id, reason)

    @property
    def _watched(self) -> Watch:
        if self.watch is None:
            raise Misuse("this handle was made by hand: ask the job's function for one, with handle(id)")
        watch: Watch = self.watch
        return watch
