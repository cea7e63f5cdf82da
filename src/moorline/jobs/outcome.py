"""What a job's function may return instead of a result. An exception is a failure; these are decisions."""

from __future__ import annotations

from dataclasses import dataclass

from moorline.errors import ConfigurationError
from moorline.jobs.job import LONGEST_WAIT

__all__ = ["Cancel", "Discard", "Done", "Each", "Outcome", "Retry", "Snooze"]


@dataclass(frozen=True, slots=True)
class Retry:
    """Failed: try again ``in_`` seconds from now (None: as the job's backoff says). Spends an attempt."""

    in_: float | None = None
    reason: str = ""

    def __post_init__(self) -> None:
        if self.in_ is not None:
            _check_wait(self.in_, "Retry")


@dataclass(frozen=True, slots=True)
class Snooze:
    """Not now: try again ``in_`` seconds from now. Spends no attempt, however often: ``snoozes`` of the job counts.

    It ran and said so: a service that puts it off after that may do so as often as if it never had. At the hundredth,
    the thousandth and so on the worker warns (``job_snoozes_on``), for a job may do it for ever by mistake; enqueue it
    with ``expires`` where it must come to an end.
    """

    in_: float

    def __post_init__(self) -> None:
        _check_wait(self.in_, "Snooze")


@dataclass(frozen=True, slots=True)
class Cancel:
    """Not needed any more: the job ends as cancelled, with the reason."""

    reason: str = ""


@dataclass(frozen=True, slots=True)
class Discard:
    """Hopeless: the job goes to the dead letters now, whatever attempts it has left."""

    reason: str = ""


@dataclass(frozen=True, slots=True)
class Done:
    """Done, and there is something to say about it."""

    reason: str


@dataclass(frozen=True, slots=True)
class Each:
    """What a function that runs several jobs at once came to for each, in their order.

    Anything that a job's function may return; an exception is a failure of that job.
    """

    results: tuple[object, ...]


Outcome = Retry | Snooze | Cancel | Discard | Done


def _check_wait(seconds: float, kind: str) -> None:
    if not 0 <= seconds <= LONGEST_WAIT:
        raise ConfigurationError(f"{kind}: in_ must be seconds from now, up to {LONGEST_WAIT:g}, not {seconds!r}")
