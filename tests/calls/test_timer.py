from __future__ import annotations

import asyncio

import pytest

from moorline.calls.timer import Timer


async def test_it_rings():
    """A wait beyond the time is ended with TimeoutError, and the task is not left cancelled."""
    timer = Timer(0.01)
    with pytest.raises(TimeoutError), timer:
        await asyncio.Event().wait()
    task = asyncio.current_task()
    assert task
    assert (timer.expired, task.cancelling()) == (True, 0)


async def test_a_cancellation_from_outside_stays_one():
    """Who cancels the task gets CancelledError, even when the timer rings as well."""
    begun = asyncio.Event()

    async def work():
        with Timer(0.0):
            begun.set()
            await asyncio.Event().wait()

    for both_at_once in (True, False):
        begun.clear()
        task = asyncio.ensure_future(work())
        await begun.wait()
        task.cancel()
        if both_at_once:
            asyncio.get_running_loop().call_soon(task.cancel)
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_in_time_it_says_nothing():
    """What is done in time, or has no limit, is left alone."""
    for seconds in (10, None):
        with Timer(seconds) as timer:
            await asyncio.sleep(0)
        assert not timer.expired
