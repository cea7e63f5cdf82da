"""The Redis broker on a server that refuses for a while."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

import pytest
from redis.exceptions import ResponseError
from tests.jobs.conformance import done, enqueue, worker
from tests.servers import RedisServer

from moorline.clock import ManualClock
from moorline.errors import StoreError, StoreUnavailable
from moorline.jobs.broker import Completion, JobFilter
from moorline.jobs.brokers.redis import RedisBroker
from moorline.jobs.brokers.redis_link import translated
from moorline.jobs.registry import Jobs
from moorline.jobs.worker import Worker

pytestmark = pytest.mark.redis


@pytest.fixture
def broker(redis_server: RedisServer, clock: ManualClock) -> Iterator[RedisBroker]:
    with RedisBroker(redis_server.url, clock=clock) as opened:
        yield opened


async def test_without_enough_replicas_it_is_away(
    broker: RedisBroker, redis_server: RedisServer, clock: ManualClock
) -> None:
    """What would change something waits; what is there can be looked at."""
    await enqueue(broker, clock)
    (claim,) = (await broker.claim(worker(clock), 1)).jobs
    redis_server.ask("CONFIG", "SET", "min-replicas-to-write", "1")
    for question in (enqueue(broker, clock), broker.claim(worker(clock), 1), broker.finish([done(claim)])):
        with pytest.raises(StoreUnavailable, match="NOREPLICAS"):
            await question
    assert await broker.counts() == {("default", "running"): 1}
    assert [one.id for one in await broker.list(JobFilter(state="running"))] == [claim.id]
    redis_server.ask("CONFIG", "SET", "min-replicas-to-write", "0")
    assert await broker.finish([done(claim)]) == [True]


async def test_a_result_waits_until_there_are_enough_replicas(
    broker: RedisBroker, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker keeps it, and stores it then: the job does not run again."""
    runs: list[int] = []
    jobs = Jobs(broker)
    working, finish = Worker(jobs), broker.finish

    def job(number: int) -> None:
        redis_server.ask("CONFIG", "SET", "min-replicas-to-write", "1")
        runs.append(number)

    async def finish_then(completions: Sequence[Completion]) -> list[bool]:
        try:
            stored = await finish(completions)
        except StoreUnavailable:
            redis_server.ask("CONFIG", "SET", "min-replicas-to-write", "0")
            raise
        working.stop()
        return stored

    monkeypatch.setattr(broker, "finish", finish_then)
    handle = await jobs.function(job).enqueue(1)
    async with asyncio.timeout(20):
        await working.run(signals=False)
    assert (runs, (await broker.get(handle.id)).state) == ([1], "done")


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("BUSY Redis is busy running a script.", StoreUnavailable),
        ("UNKILLABLE Sorry the script already executed write commands", StoreUnavailable),
        ("TRYAGAIN Multiple keys request during rehashing of slot", StoreUnavailable),
        ("NOPERM this user has no permissions to run the 'evalsha' command", StoreUnavailable),
        ("BUSYGROUP Consumer Group name already exists", StoreError),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", StoreError),
    ],
)
def test_what_passes_is_told_from_what_stays(words: str, kind: type[Exception]) -> None:
    """A result that is refused for good is given up; for a while, it waits."""
    assert type(translated(ResponseError(words))) is kind
