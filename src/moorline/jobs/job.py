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
from typing import Final, Literal, NamedTuple

__all__ = ["LOWEST_PRIORITY", "STATES", "Claim", "Job", "JobFailure", "JobHandle", "JobRow", "State"]

State = Literal["ready", "running", "blocked", "done", "dead", "cancelled", "outbox"]
STATES: Final[tuple[State, ...]] = ("ready", "running", "blocked", "done", "dead", "cancelled", "outbox")
LOWEST_PRIORITY: Final = 9


# A named tuple, not a dataclass: thousands a second go to the driver as they are.
class JobRow(NamedTuple):
    """What is inserted. Times are seconds since the epoch; priority 0 goes first, 9 last.

    Jobs of one ``order_key`` (made by ``moorline.jobs.order``) run one after the other, in the order of their ids.
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


# As above: thousands a second come from the driver.
class Claim(NamedTuple):
    """What a worker gets. ``deliveries`` is the fencing token: only the last claim's holder may finish the job."""

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


@dataclass(frozen=True, slots=True)
class Job:
    """A stored job, to be looked at.

    ``attempts`` counts claims that were neither given back nor cut short by a crash, ``deliveries`` all claims,
    ``crashes`` the workers that died with it, ``snoozes`` the times that it was put off without spending an attempt.
    ``reason`` says why it is dead (``failed``, ``crashed``, ``discarded``, ``mismatch``, ``unknown``), cancelled, or
    done without having been run (``filtered``). ``blocked_behind`` is, for a blocked job, the id of the head of its
    key. Times are seconds since the epoch.
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


@dataclass(frozen=True, slots=True)
class JobFailure:
    """One failed attempt, redacted. ``at`` is seconds since the epoch."""

    attempt: int
    at: float
    type: str
    message: str
    traceback: str


@dataclass(frozen=True, slots=True)
class JobHandle:
    """What enqueueing gives: the job's ``id``; ``duplicate`` if a job of the same unique key was there already."""

    id: str
    duplicate: bool = False
