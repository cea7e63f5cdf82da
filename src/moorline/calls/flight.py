"""``Flight``: work that several wait for, each no longer than it may, and that goes on though all of them have gone.

On an event loop it is a task of its own, elsewhere a thread. It has no caller's deadline: what it asks for has one.
"""

from __future__ import annotations

import asyncio
import copy
import math
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from moorline.clock import Clock
from moorline.errors import DeadlineExceeded, Misuse, MoorlineError
from moorline.policies.deadline import remaining, unbounded

__all__ = ["Flight", "Start", "Wait"]

T = TypeVar("T")

_PATIENCE: Final = 60.0  # seconds: longer than any request for a token takes, and another process's with it
_tasks: Final[set[asyncio.Task[None]]] = set()  # a loop itself holds its tasks but weakly


class Flight(Generic[T]):
    """Begun once; whoever has it may wait for its end."""

    def __init__(self) -> None:
        self._over: Future[None] = Future()
        self._over.set_running_or_notify_cancel()  # so that no waiter can cancel it for the others
        self._value: list[T] = []
        self._error: Exception | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def begin(self, work: Callable[[], T]) -> None:
        """Do *work* in a thread. Raises Misuse inside a running event loop, which could not be waited on."""

        def fly() -> None:
            try:
                self._value.append(work())
            except Exception as error:  # noqa: BLE001 -- it is raised where it is waited for
                self._error = error
            finally:
                self._land()

        try:
            _check_blocking()
            # No daemon: at its end the interpreter waits for it.
            threading.Thread(target=unbounded().run, args=(fly,), name="moorline-refresh", daemon=False).start()
        except BaseException:
            self._land()
            raise

    def begin_async(self, work: Callable[[], Awaitable[T]]) -> None:
        """Do *work* in a task. It is cut off where its loop ends, which cancels all that is under way there."""

        async def fly() -> None:
            try:
                self._value.append(await work())
            except Exception as error:  # noqa: BLE001 -- as above
                self._error = error
            finally:
                self._land()

        self._loop = asyncio.get_running_loop()
        task = self._loop.create_task(fly(), name="moorline-refresh", context=unbounded())
        _tasks.add(task)
        task.add_done_callback(self._ended)

    def wait(self, clock: Clock) -> bool:
        """Wait for its end, no longer than the caller has time by *clock*; whether it came to one at all, which it does
        not where its event loop was stopped. Raises DeadlineExceeded, and Misuse inside a running event loop.
        """
        _check_blocking()
        left = _left(clock)
        try:
            self._over.result(min(left, _PATIENCE))
        except TimeoutError:
            _check_time(left)
        return self._has_ended

    async def wait_async(self, clock: Clock) -> bool:
        """As ``wait``, on an event loop."""
        left = _left(clock)
        try:
            async with asyncio.timeout(min(left, _PATIENCE)):
                await asyncio.wrap_future(self._over)
        except TimeoutError:
            _check_time(left)
        return self._has_ended

    def linger(self, seconds: float) -> None:
        """Wait for its end, whatever it is: before what it needs is closed. Not where that cannot come meanwhile."""
        loop = self._loop
        if loop is None or (loop.is_running() and loop is not _running_loop()):
            wait([self._over], seconds)

    @property
    def outcome(self) -> T:
        """What it came to. Raises what it failed with, as the caller's own: what one does to it no other sees."""
        if isinstance(self._error, MoorlineError):
            raise copy.copy(self._error) from self._error
        if self._error is not None:
            raise self._error
        return self._value[0]

    @property
    def _has_ended(self) -> bool:
        return bool(self._value) or self._error is not None

    def _ended(self, task: asyncio.Task[None]) -> None:
        _tasks.discard(task)
        self._land()  # one that was cancelled before its first step

    def _land(self) -> None:
        if not self._over.done():
            self._over.set_result(None)


@dataclass(frozen=True, slots=True)
class Start(Generic[T]):
    """Begin a flight, as a step of a generator, by its driver's colour."""

    flight: Flight[T]
    blocking: Callable[[], T]
    suspending: Callable[[], Awaitable[T]]

    def now(self, *_: object) -> None:
        """In a thread."""
        self.flight.begin(self.blocking)

    async def later(self, *_: object) -> None:
        """In a task."""
        self.flight.begin_async(self.suspending)


@dataclass(frozen=True, slots=True)
class Wait:
    """For the end of a flight, as a step; whether it came to one."""

    flight: Flight[Any]
    clock: Clock

    def now(self, *_: object) -> bool:
        """Blocks."""
        return self.flight.wait(self.clock)

    async def later(self, *_: object) -> bool:
        """Suspends."""
        return await self.flight.wait_async(self.clock)


def _left(clock: Clock) -> float:
    left = remaining(clock=clock)
    return math.inf if left is None else left


def _check_time(left: float) -> None:
    if left <= _PATIENCE:
        raise DeadlineExceeded("its token was not there within the deadline", outcome="not_sent")


def _check_blocking() -> None:
    if _running_loop() is not None:
        raise Misuse("a token has to be fetched, which would block the running event loop; use `await` here instead")


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
