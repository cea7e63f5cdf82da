"""A cursor moves with the jobs it leads to, or not at all."""

from __future__ import annotations

import asyncio

import pytest

from moorline.errors import ConfigurationError
from moorline.jobs.brokers.sql import SqlBroker
from moorline.jobs.cursor import Cursor
from moorline.jobs.registry import Jobs
from moorline.jobs.worker import Worker
from moorline.store import Store


async def test_it_moves_with_its_jobs(store: Store) -> None:
    """From nowhere, and on; the jobs run."""
    jobs, seen = Jobs(SqlBroker(store)), []

    def copy(number: int) -> None:
        seen.append(number)

    function = jobs.function(copy)
    cursor = Cursor("payments", store, jobs.broker)
    assert await cursor.read() is None
    assert await cursor.move(None, "2", [function.call(1), function.call(2)])
    assert await cursor.move("2", "3", [function.call(3)])
    assert await cursor.read() == "3"
    assert await Cursor("others", store, jobs.broker).read() is None
    await Worker(jobs).drain()
    assert sorted(seen) == [1, 2, 3]


async def test_of_two_readers_one_moves_it(store: Store) -> None:
    """What the other one has read is enqueued by nobody twice."""
    jobs = Jobs(SqlBroker(store))

    def copy(number: int) -> None: ...

    function = jobs.function(copy)
    cursor = Cursor("payments", store, jobs.broker)
    for before, after in [(None, "1"), ("1", "2")]:
        moved = await asyncio.gather(*(cursor.move(before, after, [function.call(n)]) for n in range(5)))
        assert moved.count(True) == 1
    assert not await cursor.move("1", "9", [function.call(9)])
    assert await cursor.read() == "2"
    assert await Worker(jobs).drain() == 2


async def test_a_mistake_moves_nothing(store: Store) -> None:
    """The name, the place, the jobs."""
    broker = SqlBroker(store)
    for name in ("", "a\nb", "x" * 201):
        with pytest.raises(ConfigurationError, match="not a name"):
            Cursor(name, store, broker)
    cursor = Cursor("payments", store, broker)
    with pytest.raises(ConfigurationError, match="up to 65,536 characters"):
        await cursor.move(None, "x" * 65_537)
    assert await cursor.read() is None
