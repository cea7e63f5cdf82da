"""What runs for as long as a worker does, beside its jobs: begun again whenever it ends, and ended with the worker."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from moorline.clock import Clock
from moorline.errors import ConfigurationError, StoreError
from moorline.telemetry import Log

__all__ = ["Companion", "accompanied"]

_PAUSE: Final = 0.5  # seconds before it is begun again, doubled each time
_LONGEST_PAUSE: Final = 30.0
_WELL: Final = 60.0  # seconds that it must have run for, so that the pauses are short again
_TAKE_LEAVE: Final = 2.0  # seconds that they have to end, together


@dataclass(frozen=True, slots=True)
class Companion:
    """``run(worker's id)`` until it is cancelled. What it raises is logged, and harms neither jobs nor worker."""

    name: str
    run: Callable[[str], Awaitable[object]]


@contextlib.asynccontextmanager
async def accompanied(
    companions: Sequence[Companion], worker: str, stop: asyncio.Event, clock: Clock, log: Log, chance: random.Random
) -> AsyncIterator[None]:
    """They run for the length of the block, or until *stop*, whatever is first; they have ended when it is left."""
    tasks = [asyncio.create_task(_until(stop, _again_and_again(one, worker, clock, log, chance))) for one in companions]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=_TAKE_LEAVE)
            if late:
                log.warning("companions_late", count=len(late))


async def _until(stop: asyncio.Event, what: Awaitable[None]) -> None:
    task, stopped = asyncio.ensure_future(what), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopped.cancel()
        task.cancel()
        while not task.done():  # however often we are: it is cancelled once, and may take its time to end well
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait({task})


async def _again_and_again(companion: Companion, worker: str, clock: Clock, log: Log, chance: random.Random) -> None:
    pause = _PAUSE
    while True:
        began = clock.monotonic()
        try:
            await companion.run(worker)
            log.warning("companion_ended", companion=companion.name)
        except (StoreError, ConfigurationError) as error:
            log.warning("companion_failed", companion=companion.name, error=str(error))
        except Exception:
            log.exception("companion_failed", companion=companion.name)
        if clock.monotonic() - began >= _WELL:
            pause = _PAUSE
        await clock.asleep(pause * chance.uniform(0.5, 1.0))
        pause = min(pause * 2, _LONGEST_PAUSE)
