"""Enqueueing: within the caller's own transaction, with options, and with arguments that fit or do not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from moorline.errors import ConfigurationError, InvalidArguments, Misuse, UnknownJob
from moorline.jobs import Retry, Snooze
from moorline.jobs.broker import JobFilter
from moorline.jobs.job import LONGEST_WAIT, Job
from moorline.jobs.registry import JobFunction, Jobs
from moorline.jobs.worker import Worker
from moorline.store import Store


async def every(jobs: Jobs) -> list[Job]:
    return await jobs.broker.list(JobFilter())


@pytest.fixture
def function(jobs: Jobs) -> JobFunction[[int], None]:
    def numbered(number: int) -> None: ...

    return jobs.function(numbered)


@pytest.fixture
def engine(store: Store) -> Any:
    engine = sa.create_engine(store.url)
    yield engine
    engine.dispose()


@pytest.fixture
async def async_engine(store: Store) -> AsyncIterator[AsyncEngine]:
    driver = "sqlite+aiosqlite" if store.dialect == "sqlite" else "postgresql+asyncpg"
    engine = create_async_engine(store.url.set(drivername=driver))
    yield engine
    await engine.dispose()


@pytest.mark.parametrize("kind", ["session", "connection"])
@pytest.mark.parametrize("ask", ["await", "result"])
async def test_a_job_lives_and_dies_with_the_callers_transaction(
    jobs: Jobs, function: JobFunction[[int], None], engine: Engine, kind: str, ask: str
) -> None:
    """Unseen before the commit, run after it, never there after a rollback: Session and Connection."""
    for number, keep in ((1, False), (2, True)):
        with Session(engine) if kind == "session" else engine.connect() as within:
            enqueued = function.using(within=within).enqueue(number)
            handle = enqueued.result() if ask == "result" else await enqueued
            assert await every(jobs) == []
            within.commit() if keep else within.rollback()
    assert [job.id for job in await every(jobs)] == [handle.id]
    assert await Worker(jobs).drain() == 1
    assert [job.state for job in await every(jobs)] == ["done"]


@pytest.mark.parametrize("kind", ["session", "connection"])
async def test_a_job_lives_and_dies_with_the_callers_asynchronous_transaction(
    jobs: Jobs, function: JobFunction[[int], None], async_engine: AsyncEngine, kind: str
) -> None:
    """The same with AsyncSession and AsyncConnection, on aiosqlite and asyncpg."""
    for number, keep in ((1, False), (2, True)):
        async with AsyncSession(async_engine) if kind == "session" else async_engine.connect() as within:
            handle = await function.using(within=within).enqueue(number)
            assert await every(jobs) == []
            await (within.commit() if keep else within.rollback())
    assert [job.id for job in await every(jobs)] == [handle.id]
    assert await Worker(jobs).drain() == 1
    assert [job.state for job in await every(jobs)] == ["done"]


async def test_every_kind_of_row_goes_through_the_asynchronous_drivers(
    jobs: Jobs, function: JobFunction[[int], None], async_engine: AsyncEngine
) -> None:
    """Unique and many jobs are inserted by aiosqlite and asyncpg too, and a duplicate is told."""
    async with async_engine.begin() as within:
        first = await function.using(within=within, unique="k", delay=60).enqueue(1)
        second = await function.using(within=within, unique="k").enqueue(2)
        many = await function.using(within=within, queue="other").enqueue_many([(3,), (4,)])
    assert (first.duplicate, second.duplicate, second.id) == (False, True, first.id)
    assert {job.id for job in await every(jobs)} == {first.id, *(one.id for one in many)}


async def test_an_asynchronous_connection_must_be_awaited(
    function: JobFunction[[int], None], async_engine: AsyncEngine
) -> None:
    """``.result()`` with an AsyncConnection is Misuse that says to await."""
    async with async_engine.connect() as within:
        enqueued = function.using(within=within).enqueue(1)
        with pytest.raises(Misuse, match="await"):
            enqueued.result()
        await enqueued


async def test_within_refuses_what_shares_no_transaction(function: JobFunction[[int], None], tmp_path: Path) -> None:
    """Another database, and what is no connection, are errors that name ``within``."""
    elsewhere = sa.create_engine(f"sqlite:///{tmp_path}/elsewhere.db")
    with elsewhere.connect() as connection, pytest.raises(ConfigurationError, match="within"):
        await function.using(within=connection).enqueue(1)
    elsewhere.dispose()
    with pytest.raises(ConfigurationError, match="within"):
        await function.using(within="a string").enqueue(1)


async def test_delay_and_time_say_when(jobs: Jobs, function: JobFunction[[int], None]) -> None:
    """``delay`` counts from now in seconds or as a timedelta; ``at`` is a moment, whatever its time zone."""
    moment = datetime(2100, 1, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    wanted = {
        (await function.using(at=moment).enqueue(1)).id: datetime(2100, 1, 1, 10, tzinfo=UTC).timestamp(),
        (await function.using(at=4e9).enqueue(1)).id: 4e9,
        (await function.using(at=4e9).using(delay=3600).enqueue(1)).id: time.time() + 3600,
        (await function.using(delay=timedelta(hours=1)).enqueue(1)).id: time.time() + 3600,
        (await function.using(delay=1.0).using(at=4e9).enqueue(1)).id: 4e9,
    }
    assert {job.id: job.run_at for job in await every(jobs)} == pytest.approx(wanted, abs=30)
    assert await Worker(jobs).drain() == 0


async def test_queue_and_priority_are_kept(jobs: Jobs, function: JobFunction[[int], None]) -> None:
    """The option goes before the function's own setting."""
    await function.using(queue="mail", priority=0).enqueue(1)
    assert [(job.queue, job.priority) for job in await every(jobs)] == [("mail", 0)]


async def test_unique_is_by_key_or_by_arguments(function: JobFunction[[int], None]) -> None:
    """One job of a key waits, and with True one of the same arguments; the second call gets the first one's id."""
    by_key, by_arguments = function.using(unique="k"), function.using(unique=True)
    first = await by_key.enqueue(1)
    assert await by_key.enqueue(2) == type(first)(first.id, duplicate=True)
    one, two, again = [await by_arguments.enqueue(number) for number in (1, 2, 1)]
    assert (one.id != two.id, again.id, again.duplicate) == (True, one.id, True)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"delay": -1}, "delay"),
        ({"delay": float("nan")}, "delay"),
        ({"delay": float("inf")}, "delay"),
        ({"delay": "soon"}, "delay"),
        ({"delay": 1e12}, "delay"),
        ({"delay": timedelta.max}, "delay"),
        ({"delay": 1, "at": 1}, "delay, at"),
        ({"at": datetime(2100, 1, 1)}, "time zone"),  # noqa: DTZ001 -- the mistake
        ({"at": "tomorrow"}, "at"),
        ({"at": float("nan")}, "at"),
        ({"at": 1_790_000_000_000.0}, "at: .* from 1970 to 9999"),  # milliseconds
        ({"at": 1_790_000_000_000}, "at: .* from 1970 to 9999"),
        ({"at": -1.0}, "at: .* from 1970 to 9999"),
        ({"at": datetime(1969, 12, 31, tzinfo=UTC)}, "at: .* from 1970 to 9999"),
        ({"priority": 10}, "priority"),
        ({"priority": -1}, "priority"),
        ({"priority": 1.5}, "priority"),
        ({"queue": ""}, "queue"),
        ({"queue": "\ud800"}, "queue"),
        ({"queue": 5}, "queue"),
        ({"unique": ""}, "unique"),
        ({"unique": 5}, "unique"),
    ],
)
def test_a_wrong_option_is_named(wrong: dict[str, Any], named: str, sqlite_function: JobFunction[[int], None]) -> None:
    """The error says which option it is, when it is given."""
    with pytest.raises(ConfigurationError, match=named):
        sqlite_function.using(**wrong)


@pytest.mark.parametrize("outcome", [Retry, Snooze])
@pytest.mark.parametrize("seconds", [-1, float("inf"), float("nan"), 1e300, 253_402_300_800])
def test_a_wait_that_leads_beyond_all_dates_is_refused(outcome: Callable[[float], object], seconds: float) -> None:
    """Where the outcome is made, naming the argument."""
    with pytest.raises(ConfigurationError, match=r"(Retry|Snooze): in_ "):
        outcome(seconds)


async def test_the_last_moment_that_is_taken_is_one_that_every_broker_keeps(any_jobs: Jobs) -> None:
    """It is kept as it is, and nothing is due."""
    last = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)

    def late(word: str) -> None: ...

    function = any_jobs.function(late)
    handle = await function.using(at=last).enqueue("x")
    far = await function.using(delay=LONGEST_WAIT).enqueue("x")
    assert await Worker(any_jobs).drain() == 0
    assert (await any_jobs.broker.get(handle.id)).run_at == last.timestamp()
    assert (await any_jobs.broker.get(far.id)).run_at == pytest.approx(time.time() + LONGEST_WAIT, abs=30)


@pytest.fixture
def sqlite_function(tmp_path: Path) -> JobFunction[[int], None]:
    from moorline.jobs.brokers.sql import SqlBroker

    def numbered(number: int) -> None: ...

    return Jobs(SqlBroker(Store(f"sqlite:///{tmp_path}/never-opened.db"))).function(numbered)


def test_wrong_arguments_are_refused_at_once(sqlite_function: JobFunction[..., None]) -> None:
    """The wrong type, too many, too few and an unknown name: InvalidArguments that names the argument."""
    for args, kwargs, named in (
        (("x",), {}, "number"),
        ((1, 2), {}, "too many"),
        ((), {}, "number"),
        ((1,), {"colour": "red"}, "colour"),
    ):
        with pytest.raises(InvalidArguments, match=named):
            sqlite_function.enqueue(*args, **kwargs)
    with pytest.raises(InvalidArguments, match="number"):
        sqlite_function.enqueue_many([(1,), ("x",)])


def test_an_unregistered_name_is_refused(sqlite_function: JobFunction[..., None]) -> None:
    """UnknownJob names it."""
    with pytest.raises(UnknownJob, match="nobody"):
        sqlite_function.jobs.enqueue("nobody", b"")


def test_result_stores_where_no_loop_runs(jobs: Jobs, function: JobFunction[[int], None]) -> None:
    """Blocking code enqueues with ``.result()``; asked again, it is the same job."""
    enqueued = function.enqueue(1)
    handle = enqueued.result()
    assert enqueued.result() is handle
    assert [job.id for job in asyncio.run(every(jobs))] == [handle.id]


async def test_result_in_a_running_loop_is_misuse(function: JobFunction[[int], None]) -> None:
    """It would block the loop, so it says to await; awaited twice, it is one job."""
    enqueued = function.enqueue(1)
    with pytest.raises(Misuse, match="await"):
        enqueued.result()
    assert await enqueued is await enqueued


def test_a_forgotten_await_warns(sqlite_function: JobFunction[[int], None]) -> None:
    """A job that was made and never enqueued is told of."""
    with pytest.warns(UserWarning, match="never enqueued"):
        sqlite_function.enqueue(1)  # its last reference goes at once
