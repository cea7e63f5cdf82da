"""The worker runs what it claims, and gives back what it does not."""

from __future__ import annotations

import asyncio
import contextvars
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.jobs.brokers import opened

from moorline.clock import ManualClock
from moorline.errors import CircuitOpen, ConfigurationError, Misuse, StoreUnavailable
from moorline.jobs import Cancel, Discard, Retry, Snooze
from moorline.jobs.broker import JobFilter, WorkerInfo
from moorline.jobs.brokers.sql import SqlBroker
from moorline.jobs.job import Claim, Job
from moorline.jobs.outcome import Done
from moorline.jobs.registry import JobFunction, Jobs
from moorline.jobs.worker import Worker
from moorline.policies.retry import Retry as Waits
from moorline.store import Store


async def only_job(jobs: Jobs) -> Job:
    (job,) = await jobs.broker.list(JobFilter())
    return job


SLOWLY = 1_137_179
"""A seed whose first nine waits are long, 0.77 s or more: with another, a retry may fall due before the drain ends."""


async def ran(jobs: Jobs, function: JobFunction[..., object], *args: object, times: int = 1) -> Job:
    await function.enqueue(*args)
    for _ in range(times):
        await Worker(jobs, seed=SLOWLY).drain()
    return await only_job(jobs)


@pytest.fixture
def jobs(any_jobs: Jobs) -> Jobs:
    return any_jobs


async def test_async_and_plain_functions_run_with_their_arguments(jobs: Jobs) -> None:
    """An async job runs on the loop, a plain one in a thread, and both are done afterwards."""
    seen: dict[str, object] = {}

    async def on_loop(number: int, *, word: str = "x") -> None:
        seen["async"] = (number, word, threading.current_thread() is threading.main_thread())

    def in_thread(number: int) -> None:
        seen["plain"] = (number, threading.current_thread() is threading.main_thread())

    await jobs.function(on_loop).enqueue(1, word="y")
    await jobs.function(in_thread).enqueue(2)
    assert await Worker(jobs).drain() == 2
    assert seen == {"async": (1, "y", True), "plain": (2, False)}
    assert {job.state for job in await jobs.broker.list(JobFilter())} == {"done"}


async def test_jobs_do_not_see_each_others_context(jobs: Jobs) -> None:
    """A context variable set by one job is not set in the next."""
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)
    seen = []

    async def job() -> None:
        seen.append(variable.get())
        variable.set(1)

    await jobs.function(job).enqueue_many([()] * 5)
    await Worker(jobs, concurrency=1).drain()
    assert seen == [0] * 5


async def test_a_failing_job_backs_off_and_dies(broker_url: str, clock: ManualClock) -> None:
    """It is tried once and ``retries`` times more, later each time, and is then dead with its errors kept redacted."""

    async def fails() -> None:
        raise ValueError("the key sk_live_abcdefghijklmnopqrstuvwx was wrong\x00")

    with opened(broker_url, clock=clock) as broker:
        jobs = Jobs(broker, clock=clock)
        await jobs.function(fails, retries=2).enqueue()
        for attempt in range(1, 4):
            assert await Worker(jobs, clock=clock).drain() == 1
            job = await only_job(jobs)
            assert job.attempts == attempt
            clock.advance(60)
        assert (job.state, job.reason) == ("dead", "failed")
        failures = await jobs.broker.failures(job.id)
        assert [one.attempt for one in failures] == [1, 2, 3]
        assert "sk_live" not in repr(failures)
        assert "ValueError" in failures[0].traceback


@pytest.mark.parametrize(
    ("outcome", "state", "attempts", "reason"),
    [
        (Retry(in_=50), "ready", 1, None),
        (Snooze(in_=50), "ready", 0, None),
        (Cancel("not needed"), "cancelled", 1, "not needed"),
        (Discard("hopeless"), "dead", 1, "discarded"),
        ("a result", "done", 1, None),
    ],
)
async def test_a_returned_outcome_decides(jobs: Jobs, outcome: object, state: str, attempts: int, reason: str) -> None:
    """Retry spends an attempt, Snooze none, Cancel and Discard end the job with the reason; anything else is done."""

    async def decides() -> object:
        return outcome

    before = time.time()
    job = await ran(jobs, jobs.function(decides))
    assert (job.state, job.attempts, job.reason) == (state, attempts, reason)
    if state == "ready":
        assert 50 <= job.run_at - before < 60


async def test_a_breaker_that_names_a_time_costs_no_attempt(jobs: Jobs) -> None:
    """A Call that was not sent, and may not be before a time, puts the job off until then."""
    at = time.time() + 30

    async def calls() -> None:
        raise CircuitOpen("open", service="stripe", retry_at=at)

    job = await ran(jobs, jobs.function(calls, retries=0))
    assert (job.state, job.attempts, job.snoozes) == ("ready", 0, 1)
    assert at <= job.run_at <= at + 1
    assert "CircuitOpen" in str(job.last_error)


async def test_a_time_that_is_none_is_no_time(jobs: Jobs) -> None:
    """Who raises an error of a Call may have put anything there; the job fails as by any other."""

    async def calls() -> None:
        raise CircuitOpen("open", service="stripe", retry_at="in a while")  # type: ignore[arg-type]

    async with asyncio.timeout(5):
        job = await ran(jobs, jobs.function(calls))
    assert (job.state, job.attempts, job.snoozes) == ("ready", 1, 0)


async def test_a_timeout_fails_the_attempt(jobs: Jobs) -> None:
    """A job that takes longer than its timeout is cancelled and retried."""

    async def slow() -> None:
        await asyncio.Event().wait()

    job = await ran(jobs, jobs.function(slow, timeout=0.01))
    assert (job.state, job.attempts) == ("ready", 1)
    assert "timeout of 0.01" in str(job.last_error)


class Panic(BaseException):
    """As of libraries that are written in other languages: no Exception."""


async def test_a_job_cannot_end_its_worker(jobs: Jobs) -> None:
    """Exiting, cancelling itself, or raising what is no Exception is a failure of the job like any other."""
    errors = [SystemExit(3), asyncio.CancelledError("self"), Panic("overflow"), GeneratorExit()]

    def leaves(place: int) -> None:
        raise errors[place]

    async def leaves_the_loop(place: int) -> None:
        leaves(place)

    async def stays() -> None: ...

    await jobs.function(stays).enqueue()
    later = Waits(base=60.0)
    for function in (jobs.function(leaves, backoff=later), jobs.function(leaves_the_loop, backoff=later)):
        await function.enqueue_many([(place,) for place in range(len(errors))])
    async with asyncio.timeout(5):
        assert await Worker(jobs, concurrency=1, seed=SLOWLY).drain() == 9
    *left, stayed = await jobs.broker.list(JobFilter())
    assert [(job.state, job.attempts) for job in left] == [("ready", 1)] * 8
    kinds = [str(job.last_error).partition(":")[0] for job in left[::-1]]
    assert kinds == ["SystemExit", "CancelledError", "Panic", "GeneratorExit"] * 2
    assert stayed.state == "done"


class Wordless(Exception):
    """Its text cannot be had."""

    def __str__(self) -> str:
        raise Panic


NO_WORDS = "a Wordless without words: its __str__ raised Panic"


class Backoff:
    """Of a user: says that, or fails."""

    def __init__(self, says: object) -> None:
        self._says = says

    def delay(self, number: int, random: Callable[[], float]) -> Any:
        if isinstance(self._says, BaseException):
            raise self._says
        return self._says


async def test_a_backoff_that_fails_is_told_of_and_the_default_waits(jobs: Jobs) -> None:
    """The job is tried again by the default back-off; the failure of its own one stands beside what it raised."""

    async def fails() -> None:
        raise ValueError("broken")

    before = time.time()
    wrong = [ZeroDivisionError("by 0"), Panic("by 0"), None, "soon", -1, float("nan"), 1e300]
    for place, says in enumerate(wrong):
        await jobs.function(fails, name=f"fails{place}", backoff=Backoff(says)).enqueue()
    async with asyncio.timeout(5):
        await Worker(jobs, seed=SLOWLY).drain()
    found = await jobs.broker.list(JobFilter())
    assert [(job.state, job.attempts) for job in found] == [("ready", 1)] * len(wrong)
    assert all(before <= job.run_at < before + 10 for job in found)
    assert all(str(job.last_error).startswith("ValueError: broken (and its backoff: ") for job in found)
    assert str(found[-1].last_error).endswith("ZeroDivisionError: by 0)")


async def test_an_error_or_a_reason_may_be_without_words_or_no_text(jobs: Jobs) -> None:
    """What is stored is the text that it has, or that it has none; the job ends as it should."""
    said: list[Any] = [404, ValueError("404"), None, Wordless()]
    kinds: list[Callable[..., object]] = [Cancel, Discard, Done, Retry]

    async def decides(kind: int, place: int) -> object:
        return kinds[kind](reason=said[place])

    async def fails() -> None:
        raise Wordless

    await jobs.function(decides).enqueue_many([(kind, place) for kind in range(4) for place in range(4)])
    await jobs.function(fails).enqueue()
    async with asyncio.timeout(5):
        assert await Worker(jobs, seed=SLOWLY).drain() == 17
    *decided, failed = (await jobs.broker.list(JobFilter()))[::-1]
    assert [(job.state, job.reason, job.last_error) for job in decided] == [
        *[("cancelled", words, None) for words in ("404", "404", "cancelled", NO_WORDS)],
        *[("dead", "discarded", f"Discard: {words}") for words in ("404", "404", "", NO_WORDS)],
        *[("done", words, None) for words in ("404", "404", None, NO_WORDS)],
        *[("ready", None, f"Retry: {words}") for words in ("404", "404", "", NO_WORDS)],
    ]
    assert (failed.state, failed.attempts, failed.last_error) == ("ready", 1, f"Wordless: {NO_WORDS}")


async def test_an_unknown_name_waits_for_a_newer_program(jobs: Jobs) -> None:
    """A job that this program does not know is put off without spending an attempt."""

    async def known() -> None: ...

    await jobs.function(known).enqueue()
    await Worker(Jobs(jobs.broker)).drain()
    job = await only_job(jobs)
    assert (job.state, job.attempts, job.snoozes) == ("ready", 0, 1)
    assert "UnknownJob" in str(job.last_error)


async def test_stop_lets_running_jobs_finish(jobs: Jobs) -> None:
    """After stop() nothing new is claimed, what runs finishes, and its result is stored."""
    started, finish = asyncio.Event(), asyncio.Event()

    async def works() -> None:
        started.set()
        await finish.wait()

    function = jobs.function(works)
    await function.enqueue()
    worker = Worker(jobs, concurrency=1)
    running = asyncio.create_task(worker.run(signals=False))
    await asyncio.wait_for(started.wait(), 5)
    second = await function.enqueue()
    worker.stop()
    finish.set()
    await asyncio.wait_for(running, 5)
    assert {job.state for job in await jobs.broker.list(JobFilter()) if job.id != second.id} == {"done"}
    assert (await jobs.broker.get(second.id)).state == "ready"
    assert (await jobs.broker.get(second.id)).attempts == 0


async def test_what_outlasts_the_grace_is_given_back_unspent(jobs: Jobs) -> None:
    """Async jobs are cancelled, threads left behind; both are ready again with all their attempts."""
    started, unblock = asyncio.Event(), threading.Event()

    async def waits() -> None:
        started.set()
        await asyncio.Event().wait()

    def blocks() -> None:
        unblock.wait(10)

    await jobs.function(blocks).enqueue()
    await jobs.function(waits).enqueue()
    worker = Worker(jobs, grace=0.05)
    running = asyncio.create_task(worker.run(signals=False))
    await asyncio.wait_for(started.wait(), 5)
    worker.stop()
    await asyncio.wait_for(running, 5)
    unblock.set()
    for job in await jobs.broker.list(JobFilter()):
        assert (job.state, job.attempts, job.crashes) == ("ready", 0, 0)


async def test_a_signal_stops_and_a_second_one_stops_at_once(jobs: Jobs) -> None:
    """SIGTERM waits for running jobs; another one gives them back."""
    started = asyncio.Event()

    async def waits() -> None:
        started.set()
        await asyncio.Event().wait()

    await jobs.function(waits).enqueue()
    running = asyncio.create_task(Worker(jobs, grace=60).run())
    await asyncio.wait_for(started.wait(), 5)
    os.kill(os.getpid(), signal.SIGTERM)
    done, _ = await asyncio.wait({running}, timeout=0.1)
    assert not done
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(running, 5)
    assert (await only_job(jobs)).attempts == 0


async def test_cancelling_run_gives_jobs_back_and_is_not_swallowed(jobs: Jobs) -> None:
    """The worker's own cancellation passes through after it has wound up."""
    started = asyncio.Event()

    async def waits() -> None:
        started.set()
        await asyncio.Event().wait()

    await jobs.function(waits).enqueue()
    running = asyncio.create_task(Worker(jobs).run(signals=False))
    await asyncio.wait_for(started.wait(), 5)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    job = await only_job(jobs)
    assert (job.state, job.attempts) == ("ready", 0)


async def test_a_slot_is_free_before_the_result_is_stored(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one slot and a database that stores no result yet, the next job runs all the same."""
    both, release = asyncio.Event(), asyncio.Event()
    count = 0

    async def counts() -> None:
        nonlocal count
        count += 1
        if count == 2:
            both.set()

    finish = jobs.broker.finish

    async def slow_finish(completions):
        await release.wait()
        return await finish(completions)

    monkeypatch.setattr(jobs.broker, "finish", slow_finish)
    await jobs.function(counts).enqueue_many([(), ()])
    draining = asyncio.create_task(Worker(jobs, concurrency=1).drain())
    await asyncio.wait_for(both.wait(), 5)
    release.set()
    assert await draining == 2


async def test_a_worker_with_many_results_to_store_goes_on_when_they_are(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It claims no more while too many wait to be stored, and again at once when they are, not at its next poll."""
    monkeypatch.setattr("moorline.jobs.worker._MAX_UNSAVED", 2)
    over = asyncio.Event()
    ran: list[int] = []

    async def job(number: int) -> None:
        ran.append(number)
        if len(ran) == 60:
            over.set()

    await jobs.function(job).enqueue_many([(number,) for number in range(60)])
    worker = Worker(jobs, concurrency=5, poll=600.0)
    working = asyncio.create_task(worker.run(signals=False))
    await asyncio.wait_for(over.wait(), 20)
    worker.stop()
    assert await working == 60


async def test_results_survive_a_database_that_is_away(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results that cannot be stored are kept and stored later; the job does not run twice."""
    runs, failures = 0, 3

    async def job() -> None:
        nonlocal runs
        runs += 1

    finish = jobs.broker.finish

    async def flaky(completions):
        nonlocal failures
        if failures:
            failures -= 1
            raise StoreUnavailable("away")
        return await finish(completions)

    monkeypatch.setattr(jobs.broker, "finish", flaky)
    job_now = await ran(jobs, jobs.function(job))
    assert (job_now.state, runs) == ("done", 1)


async def test_a_claim_whose_answer_was_lost_runs_after_all(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commit of a claim that the worker never heard of does not keep the job from running."""
    finished = asyncio.Event()

    async def job() -> None:
        finished.set()

    claim = jobs.broker.claim
    lost: list[Claim] = []

    async def losing(worker: WorkerInfo, limit: int, *, alone: bool = False):
        claimed = await claim(worker, limit, alone=alone)
        if claimed.jobs and not lost:
            lost.extend(claimed.jobs)
            raise StoreUnavailable("the answer was lost")
        return claimed

    monkeypatch.setattr(jobs.broker, "claim", losing)
    await jobs.function(job).enqueue()
    worker = Worker(jobs)
    running = asyncio.create_task(worker.run(signals=False))
    await asyncio.wait_for(finished.wait(), 10)
    worker.stop()
    await running
    assert lost
    assert (await only_job(jobs)).attempts == 1


async def test_a_claim_that_was_carried_out_late_runs_after_all(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that was frozen may do a claim after the worker had asked what it holds."""
    finished = asyncio.Event()

    async def job() -> None:
        finished.set()

    claim, give_back = jobs.broker.claim, jobs.broker.give_back
    late: list[tuple[WorkerInfo, int]] = []

    async def frozen(worker: WorkerInfo, limit: int, *, alone: bool = False):
        if not late and not alone:
            late.append((worker, limit))
            raise StoreUnavailable("no answer")
        return await claim(worker, limit, alone=alone)

    async def thawed(worker: WorkerInfo, held: Sequence[str]) -> int:
        given = await give_back(worker, held)
        if len(late) == 1:
            late.append(late[0])
            assert (await claim(*late[0])).jobs
        return given

    monkeypatch.setattr(jobs.broker, "claim", frozen)
    monkeypatch.setattr(jobs.broker, "give_back", thawed)
    await jobs.function(job).enqueue()
    worker = Worker(jobs, lease=1.0)
    running = asyncio.create_task(worker.run(signals=False))
    await asyncio.wait_for(finished.wait(), 10)
    worker.stop()
    await running
    assert (await only_job(jobs)).attempts == 1


async def test_orphans_are_taken_over_within_the_lease_and_run_alone(jobs: Jobs) -> None:
    """The jobs of a worker that vanished are run by another one, one at a time, within the lease."""
    beside: list[int] = []
    running = 0
    finished = asyncio.Event()

    async def job(number: int) -> None:
        nonlocal running
        running += 1
        beside.append(running)
        await asyncio.sleep(0)
        running -= 1
        if len(beside) == 3:
            finished.set()

    await jobs.function(job).enqueue_many([(number,) for number in range(3)])
    now = time.time()
    await jobs.broker.claim(WorkerInfo("gone", "host", 1, ("default",), now, 0.8), 10)
    worker = Worker(jobs, lease=1.0)
    task = asyncio.create_task(worker.run(signals=False))
    await asyncio.wait_for(finished.wait(), 10)
    assert time.time() - now < 1.5
    worker.stop()
    await task
    assert beside == [1, 1, 1]
    assert {one.crashes for one in await jobs.broker.list(JobFilter())} == {1}


async def test_a_job_that_blocks_the_loop_is_not_taken_for_a_crash(jobs: Jobs) -> None:
    """The lease is kept alive from a thread, however long a job blocks the event loop."""

    async def blocks() -> None:
        threading.Event().wait(1.2)

    await jobs.function(blocks).enqueue()
    worker = Worker(jobs, lease=0.5)
    running = asyncio.create_task(asyncio.to_thread(asyncio.run, Worker(jobs, lease=0.5).drain()))
    rescued = 0
    while not running.done():
        rescued += len((await jobs.broker.rescue(WorkerInfo("other", "h", 1, ("default",), time.time(), 9.0))).ready)
        await asyncio.sleep(0.1)
    assert (rescued, (await only_job(jobs)).state) == (0, "done")
    assert worker._active is False


async def test_a_worker_runs_once_at_a_time(jobs: Jobs) -> None:
    """A second run() of the same worker is misuse."""
    worker = Worker(jobs)
    running = asyncio.create_task(worker.run(signals=False))
    await asyncio.sleep(0)
    with pytest.raises(Misuse):
        await worker.run(signals=False)
    worker.stop()
    await running


@pytest.mark.parametrize(
    "wrong",
    [{"concurrency": 0}, {"lease": 0}, {"grace": -1}, {"queues": "default"}, {"queues": ()}, {"poll": float("inf")}],
)
def test_a_wrong_setting_is_named(wrong: dict[str, Any], tmp_path: Path) -> None:
    """The error says which setting it is."""
    jobs = Jobs(SqlBroker(Store(f"sqlite:///{tmp_path}/x.db")))
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        Worker(jobs, **wrong)
