"""``Group``: several Calls with one result, for services that take one at a time what users have many of."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, Generic, TypeVar

from moorline.calls.call import Call
from moorline.errors import CallError
from moorline.policies.checks import check_count

__all__ = ["Group"]

R = TypeVar("R")
_WIDTH = 50


class Group(Generic[R]):
    """*calls*, *width* of them at a time, and *join*, which makes one result of theirs.

    *join* is given for each Call what it returned, or the CallError that it raised, in their order: the failure of one
    never hides what became of the others. Each Call has the retries, breaker and limits of its service. A Group cannot
    be enqueued as a whole; its ``calls`` can, each as a job.
    """

    def __init__(
        self, calls: Sequence[Call[Any]], join: Callable[[list[Any | CallError]], R], *, width: int = _WIDTH
    ) -> None:
        check_count("Group", "width", width)
        self.calls = tuple(calls)
        self._join = join
        self._width = width

    def __repr__(self) -> str:
        return f"<Group of {len(self.calls)} calls>"

    def __len__(self) -> int:
        return len(self.calls)

    def __await__(self) -> Generator[Any, Any, R]:
        return self._all().__await__()

    async def _all(self) -> R:
        found: list[Any] = [None] * len(self.calls)
        numbers = iter(range(len(self.calls)))

        async def work() -> None:
            for number in numbers:
                try:
                    found[number] = await self.calls[number]
                except CallError as error:
                    found[number] = error

        async with asyncio.TaskGroup() as tasks:
            for _ in range(min(self._width, len(self.calls))):
                tasks.create_task(work())
        return self._join(found)

    def result(self) -> R:
        """Send all and block until all have ended."""
        if len(self.calls) <= 1:
            return self._join([_ended(call) for call in self.calls])
        with ThreadPoolExecutor(min(self._width, len(self.calls)), thread_name_prefix="moorline-group") as pool:
            futures = [pool.submit(copy_context().run, _ended, call) for call in self.calls]
            return self._join([future.result() for future in futures])


def _ended(call: Call[Any]) -> Any:
    try:
        return call.result()
    except CallError as error:
        return error
