"""What a worker does beside its jobs, every so often: looking after things that nobody waits for."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from moorline.errors import StoreError
from moorline.telemetry import Log

__all__ = ["Chore", "look_after"]


@dataclass(frozen=True, slots=True)
class Chore:
    """``run(worker's id)`` about every so many seconds. What it raises is logged, and harms neither jobs nor worker."""

    name: str
    every: float
    run: Callable[[str], Awaitable[object]]


async def look_after(chore: Chore, worker: str, log: Log, chance: random.Random) -> None:
    """Run it again and again until cancelled; not all workers at the same moments."""
    pause = chance.uniform(0.0, chore.every)
    while True:
        await asyncio.sleep(pause)
        pause = chore.every * chance.uniform(0.8, 1.2)
        try:
            await chore.run(worker)
        except StoreError as error:
            log.warning("chore_failed", chore=chore.name, error=str(error))
        except Exception:
            log.exception("chore_failed", chore=chore.name)
