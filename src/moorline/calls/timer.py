"""The timer of an attempt on the event loop."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

__all__ = ["Timer"]


class Timer:
    """What ``asyncio.timeout`` does, as a plain context manager, which costs each call half as much: cancels this task
    after *seconds*, and turns that cancellation, and no other, into TimeoutError. ``expired`` tells whether it did.
    """

    __slots__ = ("_cancelling", "_handle", "_rang", "_seconds", "_task", "expired")

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._handle: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._rang = False
        self.expired = False

    def __enter__(self) -> Self:
        if self._seconds is not None:
            task = self._task = asyncio.current_task()
            if task is None:
                raise RuntimeError("a Call is awaited inside of a task")
            self._cancelling = task.cancelling()
            self._handle = task.get_loop().call_later(self._seconds, self._ring)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._handle is None or self._task is None:
            return
        self._handle.cancel()
        # Somebody else may have cancelled the task as well: then it stays cancelled.
        if self._rang and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            self.expired = True
            raise TimeoutError from error

    def _ring(self) -> None:
        assert self._task is not None
        self._rang = True
        self._task.cancel()
