"""The timer of an attempt on the event loop, and of a body that is read for longer."""

from __future__ import annotations

import asyncio
from collections import deque
from types import TracebackType
from typing import Final, Self

__all__ = ["BodyTimer", "Timer"]

_running_loop: Final = asyncio.get_running_loop
_current_task: Final = asyncio.current_task
_MOST_QUEUES: Final = 32
_SLACK: Final = 64


class Timer:
    """What ``asyncio.timeout`` does, as a plain context manager, which costs a call a tenth as much: cancels this task
    after *seconds*, and turns that cancellation, and no other, into TimeoutError. ``expired`` tells whether it did.

    Most attempts have the same timeout, so those that began first end first: they wait in one queue for each length,
    with one timer of the loop at its head, instead of one each in the loop's heap.
    """

    # Beginnings stand on the class: most timers never ring.
    _handle: asyncio.TimerHandle | None = None
    _queue: _Queue | None = None
    _task: asyncio.Task[object] | None = None
    _cancelling = 0
    _rang = False
    expired = False
    when = 0.0

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds

    def __enter__(self) -> Self:
        if self._seconds is not None:
            loop, seconds = _running_loop(), self._seconds
            task = _current_task(loop)
            if task is None:
                raise RuntimeError("a Call is awaited inside of a task")
            self._cancelling = task.cancelling()
            self._task = task
            self.when = loop.time() + seconds
            queues = _loops.get(loop)
            queue = self._queue = queues.get(seconds) if queues is not None else None
            if queue is not None and 0 < len(queue.timers) <= _SLACK:  # what ``add`` does then
                queue.timers.append(self)
                queue.live += 1
            else:
                self._enqueue(loop, seconds)
        return self

    def _enqueue(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        queue = self._queue = _queue_for(loop, seconds)
        if queue is None:
            self._handle = loop.call_at(self.when, self.ring)
        else:
            queue.add(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        if task is None:
            return
        queue = self._queue
        if queue is not None:
            queue.live -= 1
            timers = queue.timers
            if len(timers) > 1 and timers[-1] is self:  # the first stays: the loop's timer is set for it
                timers.pop()
        elif self._handle is not None:
            self._handle.cancel()
        # Somebody else may have cancelled the task as well: then it stays cancelled.
        if self._rang and task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            self.expired = True
            raise TimeoutError from error

    @property
    def over(self) -> bool:
        """Whether nobody waits for it any longer."""
        return self._task is None

    def ring(self) -> None:
        """The time is over."""
        if self._task is not None:
            self._rang = True
            self._task.cancel()


class _Queue:
    """Timers of one length on one loop, in the order of their ends. Those that are over stay until they are first, or
    until they are the most.
    """

    __slots__ = ("_loop", "_owner", "_seconds", "live", "timers")

    def __init__(self, owner: dict[float, _Queue], loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        self._owner = owner
        self._loop = loop
        self._seconds = seconds
        self.timers: deque[Timer] = deque()
        self.live = 0

    def add(self, timer: Timer) -> None:
        timers = self.timers
        if not timers:
            self._loop.call_at(timer.when, self._ring)
        elif len(timers) > _SLACK and len(timers) > 4 * self.live:
            # The first stays: the loop's timer is set for it.
            self.timers = timers = deque(
                [timers[0], *(each for each in timers if not each.over and each is not timers[0])]
            )
        timers.append(timer)
        self.live += 1

    def _ring(self) -> None:
        timers, now = self.timers, self._loop.time()
        while timers and (timers[0].over or timers[0].when <= now):
            timers.popleft().ring()
        if timers:
            self._loop.call_at(timers[0].when, self._ring)
        else:
            self._owner.pop(self._seconds, None)


_loops: Final[dict[asyncio.AbstractEventLoop, dict[float, _Queue]]] = {}


def _queue_for(loop: asyncio.AbstractEventLoop, seconds: float) -> _Queue | None:
    """The queue for timers of that length; None when there are too many lengths for queues to pay."""
    queues = _loops.get(loop)
    if queues is None:
        for closed in [known for known in list(_loops) if known.is_closed()]:
            _loops.pop(closed, None)
        queues = _loops[loop] = {}
    queue = queues.get(seconds)
    if queue is None and len(queues) < _MOST_QUEUES:
        queue = queues[seconds] = _Queue(queues, loop, seconds)
    return queue


class BodyTimer:
    """One timer for a body that is read in many parts: ``with timer:`` around each wait for a part, ``close()`` at the
    end. Between the parts, when the task is the reader's own, it cancels nothing; the next wait then ends at once.
    """

    __slots__ = ("_cancelling", "_handle", "_late", "_rang", "_seconds", "_task", "expired")

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._handle: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[object] | None = None
        self._late = False
        self._rang = False
        self.expired = False

    def __enter__(self) -> Self:
        if self._seconds is None:
            return self
        if self._late:
            self.expired = True
            raise TimeoutError
        task = self._task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a body is read inside of a task")
        self._cancelling = task.cancelling()
        if self._handle is None:
            self._handle = task.get_loop().call_later(max(self._seconds, 0.0), self._ring)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        if task is not None and self._rang and task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            self.expired = True
            raise TimeoutError from error

    def close(self) -> None:
        """The body is over."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _ring(self) -> None:
        self._late = True
        if self._task is not None:
            self._rang = True
            self._task.cancel()
