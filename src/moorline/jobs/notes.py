"""What is told of a job beside its state: how far it is, what it came to, and that it is asked to stop.

Kept apart from the job, because it is written while the job runs, read by whoever waits for it, and outlives a job that
a carrier forgets when it is done. A note is believed if it is of the job's last claim.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from moorline.errors import ConfigurationError, StoreError

if TYPE_CHECKING:
    from moorline.telemetry import Log

__all__ = ["UNKEPT", "JobNote", "Note", "Notes", "Nowhere", "Reports"]

UNKEPT: Final = b""
"""In place of a result that could not be kept."""

_GATHER: Final = 0.25  # seconds between two writings of what jobs tell


class Note(NamedTuple):
    """What a worker writes. ``deliveries`` is the claim's; what is None stays as it was."""

    job_id: str
    deliveries: int
    at: float
    done: float | None = None
    message: str | None = None
    result: bytes | None = None


@dataclass(frozen=True, slots=True)
class JobNote:
    """What is known of a job: the part that is ``done`` (0 to 1), a ``message``, its ``result`` (JSON), as of ``at``.

    ``stop`` is the reason for which it was asked to stop, for the claim of ``stop_deliveries``.
    """

    done: float | None = None
    message: str | None = None
    result: bytes | None = None
    at: float | None = None
    stop: str | None = None
    stop_deliveries: int = 0


class Notes(Protocol):
    """Where notes are kept. All methods raise StoreUnavailable when that place does not answer."""

    def check(self) -> None:
        """Raises ConfigurationError if nothing can be kept."""
        ...

    async def write(self, notes: Sequence[Note]) -> None:
        """Store them; those of an older claim than what is there are left out."""
        ...

    async def read(self, job_id: str) -> JobNote | None:
        """What is known of the job; None if nothing was ever told."""
        ...

    async def ask_to_stop(self, job_id: str, deliveries: int, reason: str) -> None:
        """Ask whoever holds that claim of the job to stop it."""
        ...

    async def stops(self, held: Mapping[str, int]) -> dict[str, str]:
        """Of these jobs and the deliveries of their claims, those that are asked to stop, and why."""
        ...

    async def prune(self, before: float, *, limit: int = 1000) -> int:
        """Forget up to *limit* notes that are older than that; how many there were."""
        ...


class Nowhere:
    """There is no place for notes: progress is not kept, and results cannot be asked for."""

    def check(self) -> None:
        """See ``Notes``."""
        raise ConfigurationError("results, progress, stopping: this queue needs a database (outbox=) for them")

    async def write(self, notes: Sequence[Note]) -> None:
        """Nothing."""

    async def read(self, job_id: str) -> JobNote | None:
        """Raises ConfigurationError."""
        del job_id
        self.check()
        return None

    async def ask_to_stop(self, job_id: str, deliveries: int, reason: str) -> None:
        """Raises ConfigurationError."""
        del job_id, deliveries, reason
        self.check()

    async def stops(self, held: Mapping[str, int]) -> dict[str, str]:
        """None is."""
        del held
        return {}

    async def prune(self, before: float, *, limit: int = 1000) -> int:
        """None is there."""
        del before, limit
        return 0


class Reports:
    """Writes how far jobs are, the newest of each, some times a second. ``tell`` may be called in any thread."""

    def __init__(self, notes: Notes, log: Log) -> None:
        self._notes = notes
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[str, Note] = {}
        self._told = asyncio.Event()

    def tell(self, note: Note) -> None:
        """Write it soon, unless a newer one comes before."""
        first = not self._waiting
        self._waiting[note.job_id] = note
        if first:
            self._loop.call_soon_threadsafe(self._told.set)

    def last(self, job_id: str) -> Note | None:
        """What was told of the job and is not written yet; it will not be."""
        return self._waiting.pop(job_id, None) if self._waiting else None

    async def run(self) -> None:
        """For ever. What cannot be written is forgotten: the next one says more."""
        while True:
            await self._told.wait()
            self._told.clear()
            waiting, self._waiting = self._waiting, {}
            try:
                await self._notes.write(list(waiting.values()))
            except StoreError as error:
                self._log.warning("job_progress_not_kept", jobs=len(waiting), error=str(error))
            await asyncio.sleep(_GATHER)
