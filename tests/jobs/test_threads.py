"""Threads for plain functions: how many there are, and what one that hangs takes from the others."""

from __future__ import annotations

import asyncio
import threading

import pytest

from moorline.jobs.threads import Threads

PATIENCE = 10.0


async def test_a_function_that_hangs_takes_one_thread():
    """Who waited for it gives up: the next function gets a thread of its own, up to the limit."""
    threads, hang, begun = Threads(2), threading.Event(), threading.Event()

    def hangs() -> None:
        begun.set()
        hang.wait(PATIENCE * 2)

    try:
        waiting = asyncio.ensure_future(threads.run(hangs, [], {}))
        await asyncio.to_thread(begun.wait, PATIENCE)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        async with asyncio.timeout(PATIENCE):
            assert [await threads.run(lambda n=n: n, [], {}) for n in range(5)] == [0, 1, 2, 3, 4]
    finally:
        hang.set()
        threads.close()


async def test_what_nobody_waits_for_any_more_is_not_begun():
    """A function that was cancelled while it waited for a thread never runs."""
    threads, hang, begun = Threads(1), threading.Event(), threading.Event()
    ran: list[str] = []

    def hangs() -> None:
        begun.set()
        hang.wait(PATIENCE * 2)

    first = asyncio.ensure_future(threads.run(hangs, [], {}))
    await asyncio.to_thread(begun.wait, PATIENCE)
    second = asyncio.ensure_future(threads.run(ran.append, ["cancelled"], {}))
    await asyncio.sleep(0)
    second.cancel()
    hang.set()
    await first
    await threads.run(ran.append, ["after"], {})
    threads.close()
    assert ran == ["after"]
