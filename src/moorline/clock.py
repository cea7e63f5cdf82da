"""Time and sleep, as a value that is passed in, so that no test sleeps.

``wall()`` is seconds since the epoch (for what is stored or shown), ``monotonic()`` seconds since an arbitrary point
(for what is measured).
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import threading
import time
from typing import Protocol

__all__ = ["SYSTEM", "Clock", "ManualClock", "SystemClock"]


class Clock(Protocol):
    """What the rest of moorline knows of time."""

    def wall(self) -> float:
        """Seconds since the epoch."""
        ...

    def monotonic(self) -> float:
        """Seconds since an arbitrary point; never runs backwards."""
        ...

    def sleep(self, seconds: float) -> None:
        """Block this thread."""
        ...

    async def asleep(self, seconds: float) -> None:
        """Suspend this task; cancellation passes through."""
        ...


class SystemClock:
    """The machine's clock."""

    __slots__ = ()

    wall = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)
    sleep = staticmethod(time.sleep)

    async def asleep(self, seconds: float) -> None:
        """Suspend this task."""
        await asyncio.sleep(seconds)


class ManualClock:
    """A clock that moves when told: ``advance(5)`` wakes all who sleep until then, in the order of their times.

    With ``auto=True`` a sleep returns at once and moves the clock itself, which is what most tests of waiting want.
    """

    def __init__(self, start: float = 1_800_000_000.0, *, auto: bool = True) -> None:
        self._now = start
        self._start = start
        self._auto = auto
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._moved = threading.Condition()
        self.slept: list[float] = []

    def wall(self) -> float:
        """Seconds since the epoch, as set."""
        return self._now

    def monotonic(self) -> float:
        """Seconds since this clock was made."""
        return self._now - self._start

    def sleep(self, seconds: float) -> None:
        """Move the clock (``auto``), or block until another thread advances it."""
        self.slept.append(seconds)
        if self._auto:
            self._now += max(seconds, 0.0)
            return
        until = self._now + seconds
        with self._moved:
            self._moved.wait_for(lambda: self._now >= until)

    async def asleep(self, seconds: float) -> None:
        """Move the clock (``auto``), or suspend until it is advanced."""
        self.slept.append(seconds)
        if self._auto:
            self._now += max(seconds, 0.0)
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now + seconds, next(self._order), future))
        await future

    def advance(self, seconds: float) -> None:
        """Move on and wake who is due."""
        with self._moved:
            self._now += seconds
            self._moved.notify_all()
        while self._sleepers and self._sleepers[0][0] <= self._now:
            future = heapq.heappop(self._sleepers)[2]
            if not future.done():
                future.set_result(None)


SYSTEM: Clock = SystemClock()
