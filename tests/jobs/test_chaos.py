"""What goes wrong below a worker that runs: a full disk, no connection, locks of others, a line that stands still.

No job is lost, and none runs twice but where the broker's page says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.jobs.brokers import opened
from tests.processes import PATIENCE, so
from tests.servers import RedisServer
from tests.tcp_proxy import TcpProxy

from moorline.errors import StoreError, StoreUnavailable
from moorline.jobs.broker import Broker, JobFilter
from moorline.jobs.brokers.sql import SqlBroker
from moorline.jobs.job import Job
from moorline.jobs.registry import Jobs
from moorline.jobs.worker import Worker
from moorline.store import Store

TOTAL = 200


async def all_jobs(broker: Broker) -> list[Job]:
    return await broker.list(JobFilter(limit=10_000))


async def all_done(broker: Broker) -> None:
    """Until no job waits or runs, as the broker sees it."""
    async with asyncio.timeout(PATIENCE):
        while {state for _, state in await broker.counts()} != {"done"}:  # noqa: ASYNC110 -- other connections' doing
            await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def working(worker: Worker) -> AsyncIterator[None]:
    """A worker that runs beside the block."""
    running = asyncio.create_task(worker.run(signals=False))
    try:
        yield
    finally:
        worker.stop()
        await asyncio.wait_for(running, 30)


class Counted:
    """A job that counts its runs by number; ``reached`` is called in the job that brings them to *at*."""

    def __init__(self, jobs: Jobs, *, at: int = 0, reached: Callable[[], None] = lambda: None) -> None:
        self.jobs = jobs
        self.runs: Counter[int] = Counter()
        self.function = jobs.function(self.count)
        self._at = at
        self._reached = reached

    async def count(self, number: int) -> None:
        self.runs[number] += 1
        if self.runs.total() == self._at:
            self._reached()
        await asyncio.sleep(0)

    def all_ran(self, total: int = TOTAL) -> bool:
        return len(self.runs) == total


class Noted:
    """Which calls of a broker's method failed, and with what."""

    def __init__(self, broker: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.errors: list[StoreError] = []
        method = getattr(broker, name)

        async def noting(*arguments: Any, **named: Any) -> Any:
            try:
                return await method(*arguments, **named)
            except StoreError as error:
                self.errors.append(error)
                raise

        monkeypatch.setattr(broker, name, noting)


# --- the disk is full


class FullDisk:
    """The writer's own WAL file stands for ``/dev/full``, so that its next commit fails as on a full disk (ENOSPC)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._saved: list[tuple[int, int]] = []

    def fill(self) -> None:
        """All is in the database's file before, as nothing can be read from the WAL meanwhile."""
        with contextlib.closing(sqlite3.connect(self._path)) as connection:
            assert connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
        full = os.open("/dev/full", os.O_RDWR)
        for link in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                if str(link.readlink()) == f"{self._path}-wal":
                    number = int(link.name)
                    self._saved.append((number, os.dup(number)))
                    os.dup2(full, number)
        os.close(full)
        assert self._saved

    def free(self) -> None:
        while self._saved:
            number, saved = self._saved.pop()
            os.dup2(saved, number)
            os.close(saved)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[FullDisk]:
    full = FullDisk(tmp_path / "moorline.db")
    yield full
    full.free()


@pytest.fixture
def sqlite(tmp_path: Path, disk: FullDisk) -> Iterator[Store]:
    with Store(f"sqlite:///{tmp_path}/moorline.db") as store:
        yield store
        disk.free()


async def test_a_commit_on_a_full_disk_says_so_and_keeps_nothing(sqlite: Store, disk: FullDisk) -> None:
    """Each submitter of the group is told, no row of it is there, and what comes when there is room again is kept."""
    jobs = Jobs(SqlBroker(sqlite))
    counted = Counted(jobs)
    await counted.function.enqueue(0)
    disk.fill()
    enqueues = [counted.function.enqueue(number) for number in range(1, 5)]
    failed = await asyncio.gather(*enqueues, counted.function.enqueue_many([(5,), (6,)]), return_exceptions=True)
    assert {type(one) for one in failed} == {StoreUnavailable}
    assert {str(one) for one in failed} == {"the disk of the database is full"}
    assert len(await all_jobs(jobs.broker)) == 1
    disk.free()
    await counted.function.enqueue(7)
    assert await Worker(jobs).drain() == 2
    assert counted.runs == Counter([0, 7])
    assert _sound(sqlite)


async def test_a_statement_that_finds_no_page_says_so_and_keeps_nothing(sqlite: Store) -> None:
    """A large body that does not fit any more leaves no part of itself, nor of the group it came with."""
    jobs = Jobs(SqlBroker(sqlite))

    async def large(text: str) -> None: ...

    function = jobs.function(large)
    before = await function.enqueue("small")
    pages = sqlite.write_sync(_limited, 1)  # SQLite takes the present size for less than that
    with pytest.raises(StoreUnavailable, match="disk of the database is full"):
        await function.enqueue_many([("x",), ("x" * 1_000_000,)])
    assert [job.id for job in await all_jobs(jobs.broker)] == [before.id]
    sqlite.write_sync(_limited, pages + 10_000)
    await function.enqueue_many([("x",), ("x" * 1_000_000,)])
    assert await Worker(jobs).drain() == 3
    assert _sound(sqlite)


def _limited(connection: Any, payloads: list[int]) -> list[int]:
    return [int(connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}").scalar()) for pages in payloads]


def _sound(store: Store) -> bool:
    return store.read_sync(lambda connection: connection.exec_driver_sql("PRAGMA integrity_check").scalar()) == "ok"


async def test_a_worker_keeps_its_results_until_there_is_room(
    sqlite: Store, disk: FullDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk fills up while jobs run: their results wait in the worker, which claims no more; none runs twice."""
    jobs = Jobs(SqlBroker(sqlite))
    counted = Counted(jobs, at=20, reached=disk.fill)
    await counted.function.enqueue_many([(number,) for number in range(TOTAL)])
    results = Noted(jobs.broker, "finish", monkeypatch)
    async with working(Worker(jobs, concurrency=10, poll=0.05)):
        await so(lambda: len(results.errors) >= 3)
        with pytest.raises(StoreUnavailable):
            await counted.function.enqueue(TOTAL)
        assert {job.state for job in await all_jobs(jobs.broker)} <= {"ready", "running", "done"}
        disk.free()
        await so(counted.all_ran)
    assert counted.runs == Counter(range(TOTAL))
    assert {(job.state, job.crashes) for job in await all_jobs(jobs.broker)} == {("done", 0)}
    assert _sound(sqlite)


# --- no connection


@pytest.fixture
def limited(migrated_postgres_url: str) -> Iterator[tuple[psycopg.Connection[Any], str]]:
    """A superuser's connection, and the URL of a role whose connections it may limit, in a database with tables."""
    with Store(migrated_postgres_url, auto_migrate=True):
        pass
    plain = migrated_postgres_url.replace("+psycopg", "")
    role = f"limited_{os.getpid()}"
    with psycopg.connect(plain, autocommit=True) as owner:
        owner.execute(f"CREATE ROLE {role} LOGIN")
        owner.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}")
        owner.execute(f"GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {role}")
        try:
            yield owner, migrated_postgres_url.replace("moorline@", f"{role}@")
        finally:
            owner.execute(f"DROP OWNED BY {role}")
            owner.execute(f"DROP ROLE {role}")


@pytest.mark.postgres
async def test_a_server_without_a_free_connection_says_so_and_the_worker_goes_on(
    limited: tuple[psycopg.Connection[Any], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every connection is ended and none is to be had: enqueueing names the reason; with one again all jobs are run."""
    owner, url = limited
    role = url.partition("//")[2].partition("@")[0]

    def none_left() -> None:
        owner.execute(f"ALTER ROLE {role} CONNECTION LIMIT 0")
        owner.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", [role])

    with Store(url, auto_migrate=False) as store:
        jobs = Jobs(SqlBroker(store))
        counted = Counted(jobs, at=50, reached=none_left)
        await counted.function.enqueue_many([(number,) for number in range(TOTAL)])
        results = Noted(jobs.broker, "finish", monkeypatch)
        async with working(Worker(jobs, concurrency=10, poll=0.05)):
            await so(lambda: len(results.errors) >= 2)
            with pytest.raises(StoreUnavailable):  # "did not answer a moment ago", so as not to knock all the time
                await counted.function.enqueue(TOTAL)
            with pytest.raises(StoreUnavailable, match="too many connections"):
                await store.read(lambda connection: connection.exec_driver_sql("SELECT 1").scalar())
            owner.execute(f"ALTER ROLE {role} CONNECTION LIMIT -1")
            await so(counted.all_ran)
        assert counted.runs == Counter(range(TOTAL))
        assert {(job.state, job.crashes) for job in await all_jobs(jobs.broker)} == {("done", 0)}


async def test_readers_that_are_all_taken_keep_no_job_from_running(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long reads hold every reading connection: another read says so in time; enqueueing, claiming, finishing go on."""
    jobs = Jobs(SqlBroker(store))
    counted = Counted(jobs)
    engines = store._engines
    assert engines is not None
    monkeypatch.setattr(engines.read.pool, "_timeout", 0.05)  # of 30 seconds
    release = threading.Event()
    taken = threading.Semaphore(0)

    def long(connection: Any) -> None:
        connection.exec_driver_sql("SELECT 1").scalar()
        taken.release()
        release.wait(30)

    threads = [threading.Thread(target=store.read_sync, args=(long,)) for _ in range(6)]
    for thread in threads:
        thread.start()
    try:
        for _ in threads:
            assert taken.acquire(timeout=30)
        with pytest.raises(StoreUnavailable, match="no free database connection"):
            store.read_sync(lambda connection: connection.exec_driver_sql("SELECT 1").scalar())
        async with working(Worker(jobs)):
            await counted.function.enqueue_many([(number,) for number in range(TOTAL)])
            await so(counted.all_ran)
    finally:
        release.set()
        for thread in threads:
            thread.join()
    assert {job.state for job in await all_jobs(jobs.broker)} == {"done"}
    assert counted.runs == Counter(range(TOTAL))


# --- somebody else's locks


@pytest.mark.postgres
async def test_jobs_that_somebody_has_locked_hold_up_no_others(migrated_postgres_url: str) -> None:
    """A client that is idle in its transaction has rows locked: they are passed by, and run when it is over."""
    with Store(migrated_postgres_url, auto_migrate=True) as store:
        jobs = Jobs(SqlBroker(store))
        counted = Counted(jobs)
        handles = await counted.function.enqueue_many([(number,) for number in range(TOTAL)])
        locked = [handle.id for handle in handles[:20]]
        with psycopg.connect(migrated_postgres_url.replace("+psycopg", "")) as idle:
            idle.execute("SELECT 1 FROM jobs WHERE id = ANY(%s) FOR UPDATE", [locked])
            assert await Worker(jobs).drain() == TOTAL - 20
            assert counted.runs == Counter(range(20, TOTAL))
            assert {job.id for job in await all_jobs(jobs.broker) if job.state == "ready"} == set(locked)
            idle.rollback()
        assert await Worker(jobs).drain() == 20
        assert counted.runs == Counter(range(TOTAL))


# --- a line that stands still


@pytest.fixture
def far(request: pytest.FixtureRequest, kind: str) -> Iterator[tuple[str, str, TcpProxy]]:
    """A server's URL, the same through a proxy, and that proxy."""
    if kind == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        url, port = server.url, server.port
    else:
        url = request.getfixturevalue("migrated_postgres_url")
        port = int(url.rpartition(":")[2].partition("/")[0])
    with TcpProxy(port) as proxy:
        yield url, url.replace(f":{port}", f":{proxy.port}"), proxy


@pytest.mark.parametrize(
    ("kind", "cut"),
    [
        pytest.param("postgres", False, marks=pytest.mark.postgres),
        pytest.param("postgres", True, marks=pytest.mark.postgres),
        pytest.param("redis", True, marks=pytest.mark.redis),
    ],
)
async def test_a_line_that_stands_still_loses_nothing(far: tuple[str, str, TcpProxy], *, cut: bool) -> None:
    """A worker is cut off in the middle: another one takes its jobs over when its lease is out, each of which ran
    twice at most and one of whose results counts; then the line flows again, or is cut, and the first goes on.
    """
    url, through, proxy = far
    with opened(url) as near, opened(through, migrate=False) as distant:
        here, there = Jobs(near), Jobs(distant)
        second, first = Counted(here), Counted(there, at=50, reached=proxy.stall)
        handles = await second.function.enqueue_many([(number,) for number in range(TOTAL)])
        async with working(Worker(there, concurrency=10, lease=0.3, poll=0.1, quarantine=0.05)):
            await so(lambda: first.runs.total() >= 50)
            async with working(Worker(here, lease=0.3, poll=0.1, quarantine=0.05)):
                await second.function.enqueue(TOTAL)
                await all_done(near)
                if cut:
                    proxy.cut()
                proxy.flow()
        jobs = await all_jobs(near)
    assert Counter(job.state for job in jobs) == Counter({"done": TOTAL + 1})
    runs = first.runs + second.runs
    taken_over = {job.id for job in jobs if job.crashes}
    assert taken_over
    assert max(runs.values()) <= 2
    assert {handle.id for number, handle in enumerate(handles) if runs[number] > 1} <= taken_over
