"""Jobs that are put off: by themselves, by a service that names a time, by a program that does not know them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.jobs.brokers import opened

from moorline.clock import ManualClock
from moorline.errors import CircuitOpen
from moorline.jobs import Snooze, decision
from moorline.jobs.broker import Broker, JobFilter
from moorline.jobs.job import Job
from moorline.jobs.registry import Jobs
from moorline.jobs.worker import Worker

DAY = 86_400.0
SLOWLY = 0
"""A seed whose waits let nothing that is put off fall due before the drain ends."""


@pytest.fixture
def broker(broker_url: str, clock: ManualClock) -> Iterator[Broker]:
    with opened(broker_url, clock=clock) as one:
        yield one


async def after(jobs: Jobs, clock: ManualClock, seconds: float, times: int = 1) -> Job:
    """The only job after a worker has looked so often, each time so much later."""
    for _ in range(times):
        clock.advance(seconds)
        await Worker(jobs, clock=clock, seed=SLOWLY).drain()
    (job,) = await jobs.broker.list(JobFilter())
    return job


async def test_who_snoozes_may_still_be_put_off_by_a_service(
    broker: Broker, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that looks every hour, for weeks: an open breaker costs it no attempt then, nor those of the weeks before.

    One that is put off by a service alone, again and again, spends its attempts and is dead in the end.
    """
    monkeypatch.setattr(decision, "MAX_POSTPONED", 3)
    jobs = Jobs(broker, clock=clock)
    open_now = False

    async def looks() -> Snooze:
        if open_now:
            raise CircuitOpen("open", service="stripe", retry_at=clock.wall() + 1800)
        return Snooze(1800)

    await jobs.function(looks, retries=0).enqueue()
    for _ in range(3):  # more often by a service than is free, but not in a row
        open_now = False
        job = await after(jobs, clock, 3600, times=2)
        open_now = True
        job = await after(jobs, clock, 3600, times=2)
    assert (job.state, job.attempts, job.snoozes, job.postponed) == ("ready", 0, 12, 2)
    job = await after(jobs, clock, 3600, times=2)
    assert (job.state, job.reason, job.snoozes) == ("dead", "failed", 13)
    await broker.retry(job.id)
    job = await after(jobs, clock, 1.0)
    assert (job.state, job.attempts, job.postponed) == ("ready", 0, 1)


async def test_a_job_that_snoozes_for_ever_is_told_of(
    broker: Broker, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Not at each time, but at the hundredth, the thousandth, and so on; here from the tenth on."""
    monkeypatch.setattr(decision, "MAX_POSTPONED", 10)
    jobs = Jobs(broker, clock=clock)

    async def snoozes() -> Snooze:
        return Snooze(60)

    await jobs.function(snoozes).enqueue()
    for times, told in ((9, 0), (1, 1), (5, 1)):
        await after(jobs, clock, 61, times)
        assert caplog.text.count("job_snoozes_on") == told


async def test_a_name_that_nobody_knows_is_waited_for_since_the_first_look(broker: Broker, clock: ManualClock) -> None:
    """A job that was enqueued days ago is not dead because a worker of an older release is the first to start."""
    newer, older = Jobs(broker, clock=clock), Jobs(broker, clock=clock)
    done = []

    async def known() -> None:
        done.append(1)

    await newer.function(known).enqueue()
    job = await after(older, clock, 3 * DAY)
    assert (job.state, job.attempts) == ("ready", 0)
    job = await after(older, clock, DAY / 4, times=3)
    assert (job.state, job.attempts) == ("ready", 0)
    assert [one.type for one in await broker.failures(job.id)] == ["UnknownJob"]  # said once, and not each time
    assert (await after(newer, clock, 60)).state == "done"


async def test_what_nobody_knows_for_a_day_is_dead_until_it_is_tried_again(broker: Broker, clock: ManualClock) -> None:
    """Then it waits for as long once more; it is the same with arguments of a newer version."""
    newer, older = Jobs(broker, clock=clock), Jobs(broker, clock=clock)

    async def known() -> None: ...

    older.function(known)
    await newer.function(known, version=2, upgrades={1: dict}).enqueue()
    for worker, kind in ((Jobs(broker, clock=clock), "UnknownJob"), (older, "PayloadFromNewer")):
        assert (await after(worker, clock, 2 * DAY)).state == "ready"
        assert (await after(worker, clock, DAY - 1)).state == "ready"
        job = await after(worker, clock, 60)
        assert (job.state, job.reason) == ("dead", "unknown")
        assert str(job.last_error).startswith(kind)
        clock.advance(2 * DAY)
        await broker.retry(job.id)
        assert (await after(worker, clock, 1.0)).state == "ready"
