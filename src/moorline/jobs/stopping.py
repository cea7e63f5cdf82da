"""Jobs that somebody asks to stop while they run."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from moorline.errors import StoreError
from moorline.jobs.job import Claim
from moorline.jobs.notes import Notes

if TYPE_CHECKING:
    from moorline.telemetry import Log

__all__ = ["Running", "Stops"]

LOOK: Final = 2.0  # seconds between two looks

Running = Mapping[str, tuple[tuple[Claim, ...], asyncio.Task[None]]]
"""What a worker runs, by the first claim's id."""


class Stops(dict[str, str]):
    """By job: why it is asked to stop. Looks only after jobs that have run for a while, as others soon end."""

    def __init__(self, notes: Notes, running: Running, can_cancel: Callable[[str], bool], log: Log) -> None:
        super().__init__()
        self._notes = notes
        self._running = running
        self._can_cancel = can_cancel
        self._log = log

    async def run(self, chance: random.Random) -> None:
        """For ever."""
        before: set[str] = set()
        while True:
            await asyncio.sleep(LOOK * chance.uniform(0.8, 1.2))
            held = {claim.id: claim.deliveries for claims, _ in self._running.values() for claim in claims}
            old = {job_id: held[job_id] for job_id in (before & held.keys()) - self.keys()}
            before = set(held)
            try:
                asked = await self._notes.stops(old) if old else {}
            except StoreError as error:
                self._log.warning("stops_not_read", error=str(error))
                continue
            for job_id, reason in asked.items():
                self._stop(job_id, reason)

    def _stop(self, job_id: str, reason: str) -> None:
        claims, task = self._running.get(job_id, ((), None))
        if task is None or len(claims) != 1:
            return  # it has ended, or runs together with others that nobody asked to stop
        self._log.info("job_stopping", job=job_id, name=claims[0].name, reason=reason)
        self[job_id] = reason
        if self._can_cancel(claims[0].name):
            task.cancel()
