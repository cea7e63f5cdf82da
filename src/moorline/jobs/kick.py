"""How an idle worker is woken in time to claim in the very commit that stores the job, if that is enqueued in its loop.

A writer queues what is submitted in one turn of the loop, and in the next, together, and in that order. So who has
submitted an insertion wakes the worker before it is stored; and need not do so again if a claim was submitted after it.
"""

from __future__ import annotations

import asyncio
import contextlib

__all__ = ["Claims", "Kick"]


class Claims:
    """Remembers the last claim that was begun, and in which loop."""

    __slots__ = ("last",)

    def __init__(self) -> None:
        self.last: tuple[asyncio.AbstractEventLoop | None] = (None,)

    def begun(self, *, alone: bool) -> None:
        """A claim is submitted in this loop; one of suspects *alone* finds nothing else."""
        if not alone:
            self.last = (asyncio.get_running_loop(),)

    def since(self, before: tuple[asyncio.AbstractEventLoop | None]) -> bool:
        """Whether one was submitted in this loop after *before* was the ``last``; those of others may overtake."""
        return self.last is not before and self.last[0] is asyncio.get_running_loop()


class Kick:
    """What the worker waits at between two claims: an event with a time limit, for one waiter, who runs on in the turn
    after ``set``. ``asyncio.wait_for(event.wait(), …)`` would take a task, and three turns.

    All but ``from_anywhere`` is for the thread of the loop in which it was made.
    """

    __slots__ = ("_loop", "_set", "_waiter")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._set = False
        self._waiter: asyncio.Future[None] | None = None

    def set(self) -> None:
        """Let the waiter go on, or not begin to wait."""
        self._set = True
        self._go_on()

    def clear(self) -> None:
        """From here on one waits again."""
        self._set = False

    async def wait(self, seconds: float) -> None:
        """Until it is set, or for so many seconds."""
        if self._set:
            return
        self._waiter = self._loop.create_future()
        timer = self._loop.call_later(seconds, self._go_on)
        try:
            await self._waiter
        finally:
            timer.cancel()
            self._waiter = None

    def from_anywhere(self) -> None:
        """Set it, from whatever thread."""
        if self._set:
            return
        if _running_here() is self._loop:
            self.set()
            return
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody sleeps there any more
            self._loop.call_soon_threadsafe(self.set)

    def _go_on(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _running_here() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
