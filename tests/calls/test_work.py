from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from moorline import errors
from moorline.calls.work import Home, Work, on_shared_loop
from moorline.policies.deadline import deadline, remaining


def work(begin: Callable[[Home], Any]) -> Work[Any]:
    return Work("depot", "fetch", begin)


def test_both_colours_do_the_same():
    """Awaited or waited for, the same coroutine runs, anew each time."""

    async def begin(home: Home) -> tuple[int, int]:
        return await home.run(int, "7"), await home.tell(int, "8")

    one = work(begin)

    async def awaited() -> Any:
        return await one

    assert one.result() == one.result() == asyncio.run(awaited()) == (7, 8)
    assert repr(one) == "<Work depot.fetch>"


def test_what_is_the_callers_stays_in_its_thread():
    """Of a blocking caller, what may block and what is told both run in the thread that waits, as a database's cursor
    wants it.
    """

    def numbers() -> Iterator[int]:
        yield threading.get_ident()
        yield threading.get_ident()

    source = numbers()

    async def begin(home: Home) -> list[int]:
        return [await home.run(next, source), await home.tell(next, source), threading.get_ident()]

    mine = threading.get_ident()
    first, second, loops = work(begin).result()
    assert first == second == mine != loops


def test_what_it_raises_is_raised():
    """An error of the work, or of the caller's own code, comes out as it is."""

    def fails() -> None:
        raise KeyError("mine")

    async def own(home: Home) -> None:
        await home.run(fails)

    async def service(_home: Home) -> None:
        raise errors.NotFound("gone")

    for begin, kind in ((own, KeyError), (service, errors.NotFound)):
        with pytest.raises(kind):
            work(begin).result()


def test_who_gives_up_waiting_ends_it():
    """An interrupt of the waiting thread cancels the work on its loop."""
    cancelled = threading.Event()

    def interrupt() -> None:
        raise KeyboardInterrupt

    async def begin(home: Home) -> None:
        try:
            await home.run(interrupt)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    with pytest.raises(KeyboardInterrupt):
        work(begin).result()
    assert cancelled.wait(5)


def test_the_callers_deadline_comes_along():
    """What surrounds the waiting thread bounds the work on the other one."""

    async def begin(_home: Home) -> float | None:
        return remaining()

    with deadline(5.0):
        left = work(begin).result()
    assert left is not None
    assert 0 < left <= 5.0


async def test_waiting_inside_of_a_loop_is_misuse():
    """It would stop the loop."""

    async def begin(_home: Home) -> None:
        return None

    with pytest.raises(errors.Misuse, match=r"depot.fetch.result\(\)"):
        work(begin).result()


def test_a_fork_has_a_loop_of_its_own():
    """The thread does not come along into a forked process, which starts another."""

    async def begin(_home: Home) -> int:
        return os.getpid()

    assert work(begin).result() == os.getpid()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, str(work(begin).result()).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert int(os.read(reading, 20)) == child
    os.close(reading)
    os.close(writing)


def test_many_threads_share_one_loop():
    """Results that are waited for at the same time run side by side on one loop."""

    async def loop_of() -> int:
        return id(asyncio.get_running_loop())

    assert len({on_shared_loop(loop_of()).result() for _ in range(5)}) == 1
