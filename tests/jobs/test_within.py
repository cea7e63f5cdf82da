"""Jobs in the transactions of drivers' own connections: they live and die with those, and nothing of theirs is touched."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import pytest
import sqlalchemy as sa
from psycopg.rows import dict_row

from moorline.errors import ConfigurationError, Misuse
from moorline.jobs.broker import JobFilter
from moorline.jobs.brokers.sql import SqlBroker
from moorline.jobs.job import Job
from moorline.jobs.registry import JobFunction, Jobs
from moorline.jobs.worker import Worker
from moorline.store import Store


@dataclass
class Theirs:
    """A connection, and how its owner ends a transaction and asks whether one is open."""

    within: Any
    end: Callable[[bool], Awaitable[None]]
    is_async: bool = False


async def _end_sync(connection: Any, keep: bool) -> None:
    connection.commit() if keep else connection.rollback()


@contextlib.asynccontextmanager
async def _sqlite(url: sa.URL) -> AsyncIterator[Theirs]:
    with contextlib.closing(sqlite3.connect(str(url.database))) as connection:
        connection.row_factory = lambda cursor, row: dict(zip([one[0] for one in cursor.description], row, strict=True))
        yield Theirs(connection, lambda keep: _end_sync(connection, keep))


@contextlib.asynccontextmanager
async def _psycopg(url: sa.URL) -> AsyncIterator[Theirs]:
    address = url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(address, row_factory=dict_row) as connection:
        yield Theirs(connection, lambda keep: _end_sync(connection, keep))


@contextlib.asynccontextmanager
async def _psycopg_async(url: sa.URL) -> AsyncIterator[Theirs]:
    address = url.set(drivername="postgresql").render_as_string(hide_password=False)
    async with await psycopg.AsyncConnection.connect(address, row_factory=dict_row) as connection:

        async def end(keep: bool) -> None:
            await (connection.commit() if keep else connection.rollback())

        yield Theirs(connection, end, is_async=True)


@contextlib.asynccontextmanager
async def _asyncpg(url: sa.URL, *, pooled: bool = False) -> AsyncIterator[Theirs]:
    address = url.set(drivername="postgresql").render_as_string(hide_password=False)
    async with contextlib.AsyncExitStack() as stack:
        if pooled:
            pool = await stack.enter_async_context(asyncpg.create_pool(address, min_size=1))
            connection = await stack.enter_async_context(pool.acquire())
        else:
            connection = await asyncpg.connect(address)
            stack.push_async_callback(connection.close)
        transactions = [connection.transaction()]
        await transactions[0].start()

        async def end(keep: bool) -> None:
            transaction = transactions.pop()
            await (transaction.commit() if keep else transaction.rollback())
            transactions.append(connection.transaction())
            await transactions[0].start()

        yield Theirs(connection, end, is_async=True)
        await transactions[0].rollback()


@contextlib.asynccontextmanager
async def _asyncpg_pool(url: sa.URL) -> AsyncIterator[Theirs]:
    async with _asyncpg(url, pooled=True) as theirs:
        yield theirs


KINDS = [
    pytest.param(("sqlite", _sqlite), id="sqlite3"),
    pytest.param(("postgres", _psycopg), id="psycopg", marks=pytest.mark.postgres),
    pytest.param(("postgres", _psycopg_async), id="psycopg async", marks=pytest.mark.postgres),
    pytest.param(("postgres", _asyncpg), id="asyncpg", marks=pytest.mark.postgres),
    pytest.param(("postgres", _asyncpg_pool), id="asyncpg pool", marks=pytest.mark.postgres),
]


Opened = Callable[[], contextlib.AbstractAsyncContextManager[tuple[Jobs, Theirs]]]


@pytest.fixture(params=KINDS)
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opened]:
    """Opens a connection of one kind, to the database that the jobs are kept in."""
    database, connect = request.param
    url = f"sqlite:///{tmp_path}/m.db" if database == "sqlite" else request.getfixturevalue("migrated_postgres_url")
    with Store(url, auto_migrate=True) as store:

        @contextlib.asynccontextmanager
        async def begin() -> AsyncIterator[tuple[Jobs, Theirs]]:
            async with connect(store.url) as theirs:
                yield Jobs(SqlBroker(store), store=store), theirs

        yield begin


async def every(jobs: Jobs) -> list[Job]:
    return await jobs.broker.list(JobFilter())


def numbered(jobs: Jobs) -> JobFunction[[int], None]:
    def job(number: int) -> None: ...

    return jobs.function(job)


async def test_a_job_lives_and_dies_with_it(opened: Opened) -> None:
    """Unseen before the commit, run after it, never there after a rollback."""
    async with opened() as (jobs, theirs):
        function = numbered(jobs).using(within=theirs.within)
        for number, keep in ((1, False), (2, True), (3, False)):
            handle = await function.enqueue(number)
            assert len(await every(jobs)) == (number > 2)
            await theirs.end(keep)
            kept = handle if keep else None
            assert len(await every(jobs)) == (number >= 2)
            if kept is not None:
                assert [job.id for job in await every(jobs)] == [kept.id]
        assert await Worker(jobs).drain() == 1


async def test_every_kind_of_row_goes_through_it(opened: Opened) -> None:
    """Unique ones, ordered ones, many, and a group; rows are read as tuples, whatever its owner likes."""
    async with opened() as (jobs, theirs):
        function = numbered(jobs)
        unique = function.using(within=theirs.within, unique="k", unique_for=60)
        first, second = await unique.enqueue(1), await unique.enqueue(2)
        await function.using(within=theirs.within, key="a").enqueue_many([(3,), (4,)])
        group = await jobs.group([function.call(5), function.call(6)], then=function.call(7), within=theirs.within)
        await theirs.end(True)
        assert (second.duplicate, second.id) == (True, first.id)
        assert len(await every(jobs)) == 5
        await jobs.broker.rescue(_worker_info())  # ordered ones of a long transaction may wait for it
        await Worker(jobs).drain()
        assert (await group.state()).left == 2


def _worker_info() -> Any:
    from tests.jobs.conformance import worker

    from moorline.clock import SYSTEM

    return worker(SYSTEM)


async def test_asynchronous_ones_must_be_awaited(opened: Opened) -> None:
    """The others may be asked for their result."""
    async with opened() as (jobs, theirs):
        enqueued = numbered(jobs).using(within=theirs.within).enqueue(1)
        if theirs.is_async:
            with pytest.raises(Misuse, match="await"):
                enqueued.result()
            await enqueued
        else:
            assert enqueued.result().id
        await theirs.end(False)
        assert await every(jobs) == []


async def test_another_database_is_refused(opened: Opened, tmp_path: Path) -> None:
    """It could not share the transaction."""
    async with opened() as (_, theirs):
        with Store(f"sqlite:///{tmp_path}/other.db", auto_migrate=True) as store:
            function = numbered(Jobs(SqlBroker(store)))
            with pytest.raises(ConfigurationError, match="within"):
                await function.using(within=theirs.within).enqueue(1)
        await theirs.end(False)


_DJANGO = """
import sys
import django
from django.conf import settings

settings.configure(DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": sys.argv[1]}})
django.setup()
from django.db import connection, transaction
from moorline.jobs.brokers.sql import SqlBroker
from moorline.jobs.registry import Jobs
from moorline.store import Store

def numbered(number: int) -> None: ...

def count() -> int:
    return store.read_sync(lambda c: c.exec_driver_sql("SELECT count(*) FROM jobs").scalar())

with Store(f"sqlite:///{sys.argv[1]}", auto_migrate=True) as store:
    function = Jobs(SqlBroker(store)).function(numbered).using(within=connection)
    try:
        with transaction.atomic():
            function.enqueue(1).result()
            assert count() == 0
            raise ZeroDivisionError
    except ZeroDivisionError:
        print(count())
    with transaction.atomic():
        function.enqueue(2).result()
        with transaction.atomic():  # a savepoint
            function.enqueue(3).result()
        assert count() == 0
    print(count())
"""


def test_with_djangos_connection(tmp_path: Path) -> None:
    """In ``transaction.atomic``, and in one within: what is raised there takes the job along."""
    command = [sys.executable, "-c", _DJANGO, str(tmp_path / "m.db")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout.split(), done.stderr) == (["0", "2"], "")
