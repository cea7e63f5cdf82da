"""Stores how jobs ended, many at a time, and keeps what could not be stored until it can.

What a job came to (its result) is stored before its end is: after a crash between the two it runs again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from moorline.clock import Clock
from moorline.errors import ConfigurationError, Misuse, StoreError, StoreOverloaded, StoreUnavailable
from moorline.jobs.broker import Broker, Completion
from moorline.jobs.job import Claim, JobRow
from moorline.jobs.notes import Note
from moorline.telemetry import Log

if TYPE_CHECKING:
    from moorline.jobs.execution import Ended
    from moorline.jobs.groups import Groups, Left

__all__ = ["Aftermath", "Completions"]

BATCH: Final = 1_000
_GATHER: Final = 0.005  # seconds in which a small batch may grow: a commit costs about as much
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 2.0


class Aftermath(NamedTuple):
    """What is to be stored before a job's end is: its result, the jobs that follow it, that it has left its group."""

    note: Note | None = None
    rows: tuple[JobRow, ...] = ()
    left: Left | None = None


class Completions:
    """What a worker's jobs came to. ``add`` never waits, so a slot is free again before the commit; ``fewer`` is called
    whenever some were stored. ``stopped`` says how a job ends that a person stopped.
    """

    def __init__(
        self,
        broker: Broker,
        clock: Clock,
        log: Log,
        groups: Groups | None = None,
        fewer: Callable[[], None] = lambda: None,
        stopped: Callable[[Claim, str], Ended] | None = None,
    ) -> None:
        self._fewer = fewer
        self._stopped = stopped
        self._broker = broker
        self._groups = groups
        self._clock = clock
        self._log = log
        self._waiting: list[Completion] = []
        self._writing: list[Completion] = []
        self._aftermaths: dict[str, Aftermath] = {}  # by job; few have one
        self._again: dict[str, Claim] = {}  # by job: those that are to run again
        self._added = asyncio.Event()
        self._all_stored = asyncio.Event()
        self._all_stored.set()

    def add(self, completion: Completion, aftermath: Aftermath | None = None, *, again: Claim | None = None) -> None:
        """Store it soon; *again* is the claim of a job that is to run again, unless it was asked to stop meanwhile."""
        if aftermath is not None:
            self._aftermaths[completion.id] = aftermath
        if again is not None:
            self._again[completion.id] = again
        self._waiting.append(completion)
        if len(self._waiting) == 1:
            self._added.set()
            self._all_stored.clear()

    @property
    def unsaved(self) -> int:
        """How many are not known to be stored."""
        return len(self._waiting) + len(self._writing)

    def ids(self) -> list[str]:
        """The jobs of those."""
        return [one.id for one in self._waiting] + [one.id for one in self._writing]

    async def stored(self) -> None:
        """Wait until all are stored."""
        await self._all_stored.wait()

    async def run(self) -> None:
        """Store them, for ever; cancel it when ``stored``."""
        while True:
            await self._added.wait()
            if len(self._waiting) < BATCH:
                await asyncio.sleep(_GATHER)
            self._added.clear()
            self._writing, self._waiting = self._waiting, []
            while self._writing:
                await self._store(self._writing[:BATCH])
                del self._writing[:BATCH]
                self._fewer()
            if not self._waiting:
                self._all_stored.set()

    async def _store(self, batch: list[Completion]) -> None:
        pause = _FIRST_PAUSE
        while True:
            try:
                if self._again:
                    batch = await self._called_off(batch)
                if self._aftermaths:
                    await self._before(batch)
                stored = await self._broker.finish(batch)
            except (StoreUnavailable, StoreOverloaded) as error:
                # Kept until the database is back: what ran must not run again for want of a note.
                self._log.warning("job_results_wait", jobs=len(batch), error=str(error), again_in=pause)
                await self._clock.asleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
            except (StoreError, ConfigurationError, Misuse) as error:
                await self._store_apart(batch, error)
                return
            else:
                for completion, kept in zip(batch, stored, strict=True):
                    self._aftermaths.pop(completion.id, None)
                    self._again.pop(completion.id, None)
                    if not kept:
                        # Its lease was over and somebody else has it now; that one's result counts.
                        self._log.warning("job_result_too_late", job=completion.id, state=completion.state)
                return

    async def _called_off(self, batch: list[Completion]) -> list[Completion]:
        """Who was asked to stop and ended before it was told must not run again: its next claim is another one."""
        held = {one.id: one.deliveries for one in batch if one.id in self._again}
        asked = await self._broker.notes.stops(held) if held else {}
        if not asked or self._stopped is None:
            return batch
        ends = []
        for one in batch:
            if one.id not in asked:
                ends.append(one)
                continue
            end = self._stopped(self._again[one.id], asked[one.id])
            ends.append(end.completion._replace(error=one.error, order_key=one.order_key))
            if end.aftermath is not None:
                self._aftermaths[one.id] = end.aftermath
        return ends

    async def _before(self, batch: list[Completion]) -> None:
        """May be done again, whatever of it was done before."""
        found = [self._aftermaths[one.id] for one in batch if one.id in self._aftermaths]
        notes = [one.note for one in found if one.note is not None]
        rows = [row for one in found for row in one.rows]
        left = [one.left for one in found if one.left is not None]
        if notes:
            await self._broker.notes.write(notes)
        if rows:
            await self._broker.enqueue(rows, again=True)
        if left:
            if self._groups is None:
                raise ConfigurationError("a job of a group has ended, and this worker has no database for groups")
            await self._groups.leave(left)

    async def _store_apart(self, batch: list[Completion], error: Exception) -> None:
        """The database refuses something in the batch: only that one goes without its error text, or fails.

        What follows a job is never left out: rather the job is dead, and a person may try it again.
        """
        if len(batch) > 1:
            for completion in batch:
                await self._store([completion])
        elif (aftermath := self._aftermaths.pop(batch[0].id, None)) is not None:
            if aftermath.note is not None:
                self._log.error("job_result_not_kept", job=batch[0].id, error=str(error))
                self._aftermaths[batch[0].id] = aftermath._replace(note=None)
                await self._store(batch)
            else:
                self._log.error("job_followers_refused", job=batch[0].id, error=str(error))
                await self._store([batch[0]._replace(state="dead", reason="followers refused")])
        elif batch[0].error is not None:
            self._log.error("job_error_not_kept", job=batch[0].id, error=str(error))
            await self._store([batch[0]._replace(error=None)])
        else:
            self._log.error("job_result_refused", job=batch[0].id, error=str(error))
