"""Clocks that jump, retries that all come at once, and ten thousand jobs that are due at the same second.

What a worker makes of them: no job is lost, and none runs twice but where a clock is wrong that others rely on.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.jobs.brokers import opened
from tests.jobs.test_chaos import Counted, all_done, all_jobs, working
from tests.processes import PATIENCE, so

from moorline.clock import SYSTEM, SystemClock
from moorline.jobs.appetite import MAX_AHEAD
from moorline.jobs.broker import Broker, Completion, Rescued, WorkerInfo
from moorline.jobs.registry import JobFunction, Jobs
from moorline.jobs.worker import Worker
from moorline.policies.retry import Retry

HOUR = 3600.0
LEASE = 0.6
STORM = 2_000
HERD = 10_000


class Stepped(SystemClock):
    """The machine's clock, whose hands somebody moves; what is measured goes on."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def wall(self) -> float:
        return SYSTEM.wall() + self.ahead


class Frozen(SystemClock):
    """The hands stand until they are set; what is measured goes on."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def wall(self) -> float:
        return self.now


def noted(broker: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """The calls of a method, with their arguments, as they come."""
    calls: list[tuple[Any, ...]] = []
    method: Callable[..., Any] = getattr(broker, name)

    def noting(*arguments: Any, **named: Any) -> Any:
        calls.append(arguments)
        return method(*arguments, **named)

    monkeypatch.setattr(broker, name, noting)
    return calls


@contextlib.asynccontextmanager
async def two_brokers(url: str, clock: SystemClock, other: SystemClock) -> AsyncIterator[tuple[Broker, Broker]]:
    """As two processes have them."""
    with opened(url, clock=clock) as first, opened(url, clock=other, migrate=False) as second:
        yield first, second


# --- clocks


async def test_a_step_of_a_machines_clock_makes_no_dead_of_its_workers(
    broker_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Forward, as after a suspended machine wakes: every lease is over by the clock at once, until its worker beats.
    Whoever looks for dead workers first waits for a lease. Back: leases last too long, and no job is taken either.
    """
    clock = Stepped()
    async with two_brokers(broker_url, clock, clock) as (near, beside):
        jobs, others = Jobs(near, clock=clock), Jobs(beside, clock=clock)
        runs = Counted(others).runs
        await Counted(jobs).function.enqueue(1)
        busy = WorkerInfo("b" * 32, "host", 1, ("default",), clock.wall(), 30.0)
        (claim,) = (await near.claim(busy, 1)).jobs
        rescue = beside.rescue
        looks: list[Rescued] = []  # those that are over: a step in the middle of one is another matter

        async def looking(worker: WorkerInfo) -> Rescued:
            looks.append(await rescue(worker))
            return looks[-1]

        monkeypatch.setattr(beside, "rescue", looking)

        async def beats(*, until: Callable[[], object]) -> None:
            while not until():
                await asyncio.to_thread(near.heartbeat, busy)
                await asyncio.sleep(0.02)

        async with working(Worker(others, lease=LEASE, poll=0.05, clock=clock)):
            for step in (HOUR, -HOUR):
                await beats(until=lambda: looks)
                looks.clear()
                caplog.clear()
                clock.ahead += step
                await so(lambda: looks or "clock_stepped" in caplog.text)  # before the busy one beats again
            await beats(until=lambda: looks)
            assert not runs
            assert await near.finish([Completion(claim.id, claim.deliveries, "done")]) == [True]
        (job,) = await all_jobs(near)
    assert (job.state, job.crashes, job.deliveries) == ("done", 0, 1)


async def test_a_clock_that_is_wrong_takes_living_workers_for_dead(database_url: str) -> None:
    """As documented: who is an hour ahead sees every lease as over. The job runs again, alone, and one result counts."""
    wrong = Stepped()
    wrong.ahead = HOUR
    async with two_brokers(database_url, Stepped(), wrong) as (right, ahead):
        jobs, others = Jobs(right), Jobs(ahead, clock=wrong)
        release, started = asyncio.Event(), asyncio.Event()
        runs: list[str] = []

        async def long() -> None:
            runs.append("right")
            started.set()
            await release.wait()

        async def again() -> None:
            runs.append("ahead")

        others.function(again, name="long")
        await jobs.function(long, name="long").enqueue()
        async with working(Worker(jobs, poll=0.05)):
            await asyncio.wait_for(started.wait(), 30)
            assert await Worker(others, clock=wrong).drain() == 1
            (job,) = await all_jobs(right)
            assert (job.state, job.crashes) == ("done", 1)
            release.set()
        (job,) = await all_jobs(right)
    assert runs == ["right", "ahead"]
    assert (job.state, job.crashes, job.deliveries) == ("done", 1, 2)


async def test_what_was_enqueued_across_steps_keeps_its_order_and_runs_once(database_url: str) -> None:
    """What was added while the clock was ahead is due when the clock says so again; ids and keys keep their order."""
    clock = Stepped()
    with opened(database_url, clock=clock) as broker:
        jobs = Jobs(broker, clock=clock)
        ran: list[int] = []

        async def one(number: int) -> None:
            ran.append(number)

        keyed: JobFunction[[int], Any] = jobs.function(one).using(key="k")
        delayed = jobs.function(one).using(delay=HOUR / 2)
        async with working(Worker(jobs, poll=0.02, lease=1.0, clock=clock)):
            ids = [(await keyed.enqueue(1)).id, (await delayed.enqueue(10)).id]
            await so(lambda: ran == [1])
            clock.ahead = HOUR
            await so(lambda: ran == [1, 10])
            clock.ahead = HOUR * 2
            late = jobs.function(one).using(key="k", delay=1)
            ids += [(await late.enqueue(2)).id]
            clock.ahead = 0.0
            ids += [(await keyed.enqueue(number)).id for number in (3, 4)]
            ids += [(await jobs.function(one).enqueue(20)).id]
            await so(lambda: ran == [1, 10, 20])
            clock.ahead = HOUR * 2 + 2
            await so(lambda: len(ran) == 6)
        found = await all_jobs(broker)
    assert ran == [1, 10, 20, 2, 3, 4]
    assert ids == sorted(ids)
    assert {(job.state, job.crashes, job.deliveries) for job in found} == {("done", 0, 1)}


# --- many at once


async def test_a_storm_of_retries_is_spread_and_lets_urgent_jobs_pass(tmp_path: Path) -> None:
    """Two thousand jobs fail in the same moment: their retries are spread over the whole of the wait. When all are due
    at once nevertheless, a job of a higher priority waits for no more of them than a worker holds.
    """
    clock = Frozen()
    with opened(f"sqlite:///{tmp_path}/moorline.db", clock=clock) as broker:
        jobs = Jobs(broker, clock=clock)
        order: list[int] = []

        async def urgent() -> None:
            order.append(-1)

        first = jobs.function(urgent, name="urgent", priority=0)

        async def fails(number: int) -> None:
            order.append(number)
            if len(order) <= STORM:
                raise ConnectionError("the service is down")
            if len(order) == STORM + 100:
                await first.enqueue()

        function = jobs.function(fails, retries=2, backoff=Retry(base=10.0))
        await function.enqueue_many([(number,) for number in range(STORM)])
        async with working(Worker(jobs, poll=0.05, seed=1, clock=clock)):
            await so(lambda: len(order) == STORM)
            await _spread(broker, 10.0, clock)
            clock.now += 10.0
            await all_done(broker)
        found = await all_jobs(broker)
    assert Counter(order) == Counter(dict.fromkeys(range(STORM), 2) | {-1: 1})
    assert {(job.name, job.state, job.attempts) for job in found} == {("fails", "done", 2), ("urgent", "done", 1)}
    assert order.index(-1) - (STORM + 100) <= MAX_AHEAD + 50


async def _spread(broker: Broker, wait: float, clock: Frozen) -> None:
    """When all failures are stored, roughly a tenth of the retries is in each tenth of the wait."""
    waits: list[float] = []
    async with asyncio.timeout(PATIENCE):
        while len(waits) < STORM:
            await asyncio.sleep(0.05)
            waits = [job.run_at - clock.now for job in await all_jobs(broker) if job.run_at > clock.now]
    tenths = Counter(int(one / wait * 10) for one in waits)
    assert set(tenths) == set(range(10))
    assert min(tenths.values()) > 0.05 * STORM
    assert max(tenths.values()) < 0.15 * STORM


async def test_ten_thousand_of_the_same_second_run_once_each(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None before; two workers share them; no claim takes more than its worker may hold."""
    clock = Frozen()
    async with two_brokers(database_url, clock, clock) as brokers:
        counted = [Counted(Jobs(broker, clock=clock)) for broker in brokers]
        claims = [noted(broker, "claim", monkeypatch) for broker in brokers]
        at = clock.now + HOUR
        for start in range(0, HERD, 1_000):
            await counted[0].function.using(at=at).enqueue_many([(n,) for n in range(start, start + 1_000)])
        clock.now = at - 0.001
        assert await Worker(Jobs(brokers[0], clock=clock), clock=clock).drain() == 0
        async with contextlib.AsyncExitStack() as stack:
            for one in counted:
                await stack.enter_async_context(working(Worker(one.jobs, poll=0.05, clock=clock)))
            clock.now = at
            await so(lambda: sum(one.runs.total() for one in counted) >= HERD)
        assert await brokers[0].counts() == {("default", "done"): HERD}
    assert counted[0].runs + counted[1].runs == Counter(range(HERD))
    limits = [limit for calls in claims for _, limit, *_ in calls]
    assert max(limits) <= MAX_AHEAD + 50
