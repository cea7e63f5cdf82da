"""Runs plain functions in threads that never hold up the end of the process.

The standard library's executor waits at exit for whatever still runs; a worker whose grace is over must not.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import queue
import threading
from collections.abc import Callable
from typing import Any

__all__ = ["Threads"]


class Threads:
    """At most *limit* daemon threads, started when needed."""

    def __init__(self, limit: int, *, name: str = "moorline-job") -> None:
        self._limit = limit
        self._name = name
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._started = 0
        self._busy = 0
        self._lock = threading.Lock()

    async def run(self, function: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> Any:
        """The function's result. Cancelling the caller leaves a thread running that has begun: it cannot be stopped."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        context = contextvars.copy_context()

        def work() -> None:
            answer: Any = None
            error: BaseException | None = None
            try:
                if not future.cancelled():  # else nobody waits, and nothing has begun
                    answer = context.run(function, *args, **kwargs)
            except BaseException as raised:  # noqa: BLE001 -- it is raised where the result is awaited
                error = raised
            # Here, not where the result is awaited: who waits may give up long before the thread is free.
            with self._lock:
                self._busy -= 1
            with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits any more
                loop.call_soon_threadsafe(_settle, future, answer, error)

        with self._lock:
            if self._busy >= self._started < self._limit:
                self._started += 1
                threading.Thread(target=self._run, name=f"{self._name}-{self._started}", daemon=True).start()
            self._busy += 1
        self._work.put(work)
        return await future

    def close(self) -> None:
        """Let idle threads end."""
        for _ in range(self._started):
            self._work.put(None)

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            work()


def _settle(future: asyncio.Future[Any], answer: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(answer)
    elif isinstance(error, StopIteration):
        future.set_exception(RuntimeError("the job's function raised StopIteration"))  # a future refuses that one
    else:
        future.set_exception(error)
