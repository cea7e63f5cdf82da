"""A coroutine whose first step is made by hand ends as it would have when awaited."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any

import pytest

from moorline.events.stepping import first_step


async def _through(awaitable: Any) -> Any:
    found, waiting = first_step(awaitable)
    return found if waiting is None else await waiting


async def test_what_is_there_needs_no_wait():
    """Its value is given at once; what it raises is raised at once."""

    async def at_once() -> int:
        return 7

    async def bad() -> int:
        raise KeyError("x")

    assert first_step(at_once()) == (7, None)
    with pytest.raises(KeyError):
        first_step(bad())


async def test_what_waits_is_awaited_from_where_it_stands():
    """Several waits, a value and an error all come through; nothing runs twice."""
    steps = []

    async def slow(end: Any) -> Any:
        for number in range(3):
            steps.append(number)
            await asyncio.sleep(0)
        if isinstance(end, Exception):
            raise end
        return end

    assert await _through(slow("x")) == "x"
    assert steps == [0, 1, 2]
    with pytest.raises(KeyError):
        await _through(slow(KeyError("y")))


async def test_what_is_no_coroutine_is_awaited_as_usual():
    """Futures and objects with ``__await__`` need not be coroutines."""

    class Own:
        def __await__(self) -> Generator[Any, None, int]:
            yield
            return 9

    future = asyncio.get_running_loop().create_future()
    future.set_result(8)
    assert (await _through(future), await _through(Own())) == (8, 9)


async def test_a_timeout_and_a_cancellation_reach_it():
    """It is told, may clean up, and the caller learns the usual way."""
    told = []

    async def stuck() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            told.append("told")

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await _through(stuck())
    task = asyncio.ensure_future(_through(stuck()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert told == ["told", "told"]
