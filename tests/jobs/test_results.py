"""What jobs tell of themselves while they run, what they come to, and asking them to stop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from tests.jobs.brokers import opened
from tests.jobs.rabbit import own_url
from tests.servers import RedisServer

from moorline.clock import SYSTEM, ManualClock
from moorline.errors import ConfigurationError, JobFailed, JobNotFound, JobStateError, Misuse
from moorline.jobs import JobHandle, Progress, current, stopping
from moorline.jobs.broker import WorkerInfo
from moorline.jobs.brokers.rabbitmq import RabbitBroker
from moorline.jobs.brokers.redis import RedisBroker
from moorline.jobs.brokers.sql import SqlBroker
from moorline.jobs.execution import LARGEST_RESULT
from moorline.jobs.registry import Jobs
from moorline.jobs.worker import Worker
from moorline.policies.retry import Retry
from moorline.store import Store


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param("postgres", marks=pytest.mark.postgres),
        pytest.param("redis", marks=pytest.mark.redis),
        pytest.param("rabbitmq", marks=pytest.mark.rabbitmq),
    ]
)
def jobs(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Jobs]:
    """Jobs on each broker; on RabbitMQ with a database beside."""
    if request.param == "rabbitmq":
        url = own_url(request.getfixturevalue("rabbit_url"))
        with Store(f"sqlite:///{tmp_path}/m.db", auto_migrate=True) as store, RabbitBroker(url, outbox=store) as broker:
            yield Jobs(broker)
        return
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        with RedisBroker(server.url, prefix=uuid4().hex) as redis:
            yield Jobs(redis)
        return
    url = f"sqlite:///{tmp_path}/m.db"
    if request.param == "postgres":
        url = request.getfixturevalue("migrated_postgres_url")
    with opened(url) as broker:
        yield Jobs(broker)


@asynccontextmanager
async def working(jobs: Jobs) -> AsyncIterator[Worker]:
    """A worker beside the test."""
    worker = Worker(jobs, grace=0.1)
    task = asyncio.create_task(worker.run(signals=False))
    await asyncio.sleep(0)
    try:
        yield worker
    finally:
        worker.stop()
        await task


async def told(handle: JobHandle) -> Progress:
    """The first progress of the job."""
    for _ in range(2000):
        if (progress := await handle.progress()) is not None:
            return progress
        await asyncio.sleep(0.01)
    raise AssertionError("nothing was told")


@dataclass
class Receipt:
    amount: Decimal
    at: datetime
    pages: list[bytes]


async def test_a_result_comes_back_as_the_annotation_says(jobs: Jobs) -> None:
    """Who enqueued a job waits for what its function returned: the same types, in another process too."""
    receipt = Receipt(Decimal("10.50"), datetime(2026, 1, 2, tzinfo=UTC), [b"\xff\x00"])

    async def book(amount: Decimal) -> Receipt:
        return receipt if amount else Receipt(amount, receipt.at, [])

    function = jobs.function(book, keep_result=True)
    handle = await function.enqueue(Decimal(1))
    async with working(jobs):
        assert await handle.result(timeout=20) == receipt
        assert await function.handle(handle.id).result(timeout=20) == receipt


async def test_none_is_a_result(jobs: Jobs) -> None:
    """A function that returns nothing is waited for like others."""

    def nothing() -> None: ...

    handle = await jobs.function(nothing, keep_result=True).enqueue()
    async with working(jobs):
        assert await handle.result(timeout=20) is None


async def test_a_job_that_failed_has_no_result(jobs: Jobs) -> None:
    """Who waits is told why, as soon as it is known."""

    def fails() -> int:
        raise ValueError("no such ledger")

    handle = await jobs.function(fails, keep_result=True, retries=0).enqueue()
    async with working(jobs):
        with pytest.raises(JobFailed, match="ValueError: no such ledger"):
            await handle.result(timeout=20)


async def test_a_result_is_that_of_the_last_run(jobs: Jobs) -> None:
    """Of a job that a person tried again: not of the run before, while it waits, or when it has failed."""
    if isinstance(jobs.broker, RabbitBroker):
        return  # there, nothing is left of a job that is done
    runs: list[int] = []

    def counts() -> int:
        runs.append(1)
        if len(runs) == 2:
            raise ValueError("the second")
        return len(runs)

    handle = await jobs.function(counts, keep_result=True, retries=0).enqueue()
    await Worker(jobs).run_once()
    assert await handle.result() == 1
    await jobs.broker.retry(handle.id)
    with pytest.raises(TimeoutError):
        await handle.result(timeout=0.05)
    await Worker(jobs).run_once()
    with pytest.raises(JobFailed, match="the second"):
        await handle.result()
    await jobs.broker.retry(handle.id)
    await Worker(jobs).run_once()
    assert await handle.result() == 3


async def test_of_a_job_that_kept_none_no_result_is_waited_for(any_jobs: Jobs) -> None:
    """As when its function kept none in the program before."""

    def sends() -> int:
        return 1

    before = await any_jobs.function(sends).enqueue()
    await Worker(any_jobs).run_once()
    with pytest.raises(JobStateError, match="no result of it was kept"):
        await any_jobs.function(sends, keep_result=True).handle(before.id).result()


async def test_waiting_for_a_result_ends(any_jobs: Jobs) -> None:
    """A job that has not ended within the time is a TimeoutError; one that is unknown is not found."""

    def later() -> int:
        return 1

    function = any_jobs.function(later, keep_result=True)
    handle = await function.enqueue()
    with pytest.raises(TimeoutError, match=handle.id):
        await handle.result(timeout=0)
    with pytest.raises(JobNotFound):
        await function.handle("nothing").result(timeout=0)


async def test_results_that_are_not_kept_cannot_be_asked_for(any_jobs: Jobs) -> None:
    """The mistake is told at once, not after a wait."""

    def plain() -> int:
        return 1

    handle = await any_jobs.function(plain).enqueue()
    with pytest.raises(Misuse, match="keep_result=True"):
        await handle.result()
    with pytest.raises(Misuse, match=r"handle\(id\)"):
        await JobHandle("j").result()


async def test_a_result_that_cannot_be_kept_does_not_run_the_job_again(any_jobs: Jobs) -> None:
    """The job did its work; who asks for the result is told that there is none."""

    def odd(large: bool) -> Any:
        return "x" * LARGEST_RESULT if large else object()

    function = any_jobs.function(odd, keep_result=True)
    handles = await function.enqueue_many([(True,), (False,)])
    assert await Worker(any_jobs).drain() == 2
    for handle in handles:
        assert (await handle.job()).state == "done"
        with pytest.raises(JobStateError, match="could not be kept"):
            await handle.result()


async def test_progress_is_seen_while_the_job_runs(jobs: Jobs) -> None:
    """From a coroutine and from a thread; the result comes with the last word."""
    gate, begun = threading.Event(), threading.Event()

    async def on_loop() -> str:
        current().progress(1, of=4, message="one of four")
        await asyncio.to_thread(gate.wait, 30)
        current().progress(4, of=4, message="all")
        return current().id

    def in_thread() -> int:
        current().progress(0.5)
        begun.set()
        gate.wait(30)
        return current().attempt

    first = await jobs.function(on_loop, keep_result=True).enqueue()
    second = await jobs.function(in_thread, keep_result=True).enqueue()
    assert await first.progress() is None
    async with working(jobs):
        early = await told(first)
        await told(second)
        assert (early.done, early.message) == (0.25, "one of four")
        gate.set()
        assert await first.result(timeout=20) == first.id
        assert await second.result(timeout=20) == 1
    last = await first.progress()
    assert last is not None
    assert (last.done, last.message) == (1.0, "all")


async def test_a_running_job_is_stopped(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its function is cancelled, can clean up, and the job is cancelled with the reason; it does not run again."""
    monkeypatch.setattr(stopping, "LOOK", 0.02)
    cleaned = asyncio.Event()
    begun = asyncio.Event()

    async def endless() -> int:
        begun.set()
        try:
            await asyncio.sleep(3600)
        finally:
            cleaned.set()
        return 1

    handle = await jobs.function(endless, keep_result=True).enqueue()
    async with working(jobs):
        await begun.wait()
        assert (await handle.stop("wrong file")).state == "running"
        await asyncio.wait_for(cleaned.wait(), 20)
        begun.clear()
    assert not begun.is_set()
    if not isinstance(jobs.broker, RabbitBroker):  # there, nothing is left of a job that has ended
        job = await handle.job()
        assert (job.state, job.reason) == ("cancelled", "wrong file")
        with pytest.raises(JobFailed, match="wrong file"):
            await handle.result()
        with pytest.raises(JobStateError):
            await handle.stop()


async def test_a_stopped_job_that_fails_before_it_is_told_is_not_tried_again(jobs: Jobs) -> None:
    """Its attempt ends sooner than a worker looks: it is cancelled then, with the reason and its error."""
    runs, go_on = list[int](), asyncio.Event()
    begun = asyncio.Event()

    async def fails() -> None:
        runs.append(1)
        begun.set()
        await go_on.wait()
        raise ValueError("no luck")

    handle = await jobs.function(fails, retries=20, backoff=Retry(base=0.001)).enqueue()
    async with working(jobs):
        await begun.wait()
        await handle.stop("wrong file")
        go_on.set()
        for _ in range(100):
            await asyncio.sleep(0.01)
    assert len(runs) == 1
    if not isinstance(jobs.broker, RabbitBroker):
        job = await handle.job()
        assert (job.state, job.reason) == ("cancelled", "wrong file")
        assert "no luck" in str(job.last_error)
        await jobs.broker.retry(handle.id)  # by a person, who does not mean what was said before
        await Worker(jobs).run_once()
        assert (await handle.job()).state == "ready"
    assert len(runs) == (1 if isinstance(jobs.broker, RabbitBroker) else 2)


async def test_a_stop_outlives_the_worker_that_was_to_heed_it(broker_url: str, clock: ManualClock) -> None:
    """It died before it looked: the job is not begun anew, but for a person who tries it again."""
    runs = []

    async def endless() -> None:
        runs.append(1)

    with opened(broker_url, clock=clock) as broker:
        jobs = Jobs(broker, clock=clock)
        handle = await jobs.function(endless).enqueue()
        for died in (1, 2):
            one = WorkerInfo(f"w{died}", "host", 1, ("default",), clock.wall(), 30.0)
            assert len((await broker.claim(one, 1, alone=died > 1)).jobs) == 1
            if died == 1:
                await handle.stop("wrong file")
            clock.advance(60)
            await broker.rescue(WorkerInfo("other", "host", 1, ("default",), clock.wall(), 30.0))
        await Worker(jobs, clock=clock).drain()
        job = await handle.job()
        assert (job.state, job.reason, job.crashes, runs) == ("cancelled", "wrong file", 2, [])
        await broker.retry(handle.id)
        last = WorkerInfo("last", "host", 1, ("default",), clock.wall(), 30.0)
        assert len((await broker.claim(last, 1)).jobs) == 1
        clock.advance(60)
        await Worker(jobs, clock=clock).drain()
        assert ((await handle.job()).state, runs) == ("done", [1])


async def test_a_stop_outlives_the_grace_of_a_job_that_does_not_heed_it(
    any_jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is left behind when its worker ends, and the job is not given back to run once more."""
    monkeypatch.setattr("moorline.jobs.worker._UNWIND", 0.05)
    begun, over = asyncio.Event(), asyncio.Event()

    async def deaf() -> None:
        begun.set()
        while not over.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await over.wait()

    handle = await any_jobs.function(deaf).enqueue()
    async with working(any_jobs):
        await begun.wait()
        await handle.stop("wrong file")
    over.set()
    job = await handle.job()
    assert (job.state, job.reason) == ("cancelled", "wrong file")


async def test_a_plain_function_can_look_whether_it_is_to_stop(any_jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread cannot be stopped from outside: what it raises then is no failure."""
    monkeypatch.setattr(stopping, "LOOK", 0.02)
    begun = threading.Event()

    def patient() -> None:
        begun.set()
        while not current().stopping:
            SYSTEM.sleep(0.005)
        raise RuntimeError("stopped half-way")

    handle = await any_jobs.function(patient).enqueue()
    async with working(any_jobs):
        await asyncio.to_thread(begun.wait)
        await handle.stop()
        job = await handle.job()
        for _ in range(2000):
            if job.state != "running":
                break
            await asyncio.sleep(0.01)
            job = await handle.job()
    assert (job.state, job.reason) == ("cancelled", "stopped")


async def test_stopping_a_job_that_waits_cancels_it(any_jobs: Jobs) -> None:
    """It never begins."""

    def waits() -> None: ...

    handle = await any_jobs.function(waits).using(delay=60).enqueue()
    assert (await handle.stop("no need")).state == "cancelled"
    with pytest.raises(JobNotFound):
        await any_jobs.function(waits).handle("nothing").stop()


async def test_notes_are_forgotten_with_their_jobs(store: Store) -> None:
    """After the time for which done jobs are kept."""
    jobs = Jobs(SqlBroker(store))

    def kept() -> int:
        return 1

    handle = await jobs.function(kept, keep_result=True).enqueue()
    await Worker(jobs).drain()
    assert await jobs.broker.notes.prune(SYSTEM.wall() - 60) == 0
    assert await handle.result() == 1
    assert await jobs.broker.notes.prune(SYSTEM.wall() + 60) == 1
    assert await handle.progress() is None


def test_current_is_for_jobs_only() -> None:
    """Outside of one there is nothing to tell of."""
    with pytest.raises(Misuse, match="functions of jobs"):
        current()


async def test_progress_is_a_part_of_a_whole(store: Store) -> None:
    """Anything else is a mistake of the function's, told to it."""
    raised: list[Exception] = []
    jobs = Jobs(SqlBroker(store))

    async def odd() -> None:
        for done, of in [(-1.0, 1.0), (2.0, 1.0), (float("nan"), 1.0), (1.0, float("inf")), (0.0, 0.0)]:
            with pytest.raises(ConfigurationError, match="progress") as error:
                current().progress(done, of)
            raised.append(error.value)

    await jobs.function(odd).enqueue()
    await Worker(jobs).drain()
    assert len(raised) == 5


async def test_without_a_database_a_carrier_keeps_no_results(rabbit_url: str) -> None:
    """It says so when somebody asks."""
    with RabbitBroker(own_url(rabbit_url)) as broker:
        jobs = Jobs(broker)

        def kept() -> int:
            return 1

        handle = await jobs.function(kept, keep_result=True).enqueue()
        await Worker(jobs).drain()
        with pytest.raises(ConfigurationError, match="needs a database"):
            await handle.result()
