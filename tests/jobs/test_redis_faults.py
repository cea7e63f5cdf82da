"""The Redis broker on a server that refuses for a while, and among jobs that somebody deleted by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence

import pytest
import redis
from redis.exceptions import ResponseError
from tests.jobs.conformance import LEASE, done, enqueue, row, worker
from tests.jobs.ordering import KEY
from tests.servers import RedisServer

from moorline.clock import ManualClock
from moorline.errors import JobNotFound, StoreError, StoreUnavailable
from moorline.jobs.broker import Completion, JobFilter
from moorline.jobs.brokers.redis import RedisBroker
from moorline.jobs.brokers.redis_link import translated
from moorline.jobs.job import State
from moorline.jobs.registry import Jobs
from moorline.jobs.worker import Worker

pytestmark = pytest.mark.redis


@pytest.fixture
def broker(redis_server: RedisServer, clock: ManualClock) -> Iterator[RedisBroker]:
    with RedisBroker(redis_server.url, clock=clock) as opened:
        yield opened


@pytest.fixture
def delete(redis_server: RedisServer) -> Iterator[Callable[[str], None]]:
    """Deletes the hash of a job, as by hand."""
    with redis.Redis.from_url(redis_server.url) as client:
        yield (
            lambda job_id: None if client.delete(f"{{moorline:jobs}}:job:{job_id}") else pytest.fail("it is not there")
        )


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


@pytest.mark.parametrize("state", ["done", "ready"])
async def test_who_claimed_in_a_second_that_was_lost_is_not_heard(
    broker: RedisBroker, redis_server: RedisServer, clock: ManualClock, state: State
) -> None:
    """After a failover, or from a file that was not flushed: the job is another one's, by as many deliveries."""
    me, other = worker(clock), worker(clock)
    one = row(clock)
    await broker.enqueue([one])
    (lost,) = (await broker.claim(me, 1)).jobs
    redis_server.ask("FLUSHALL")
    await broker.enqueue([one])
    with RedisBroker(redis_server.url, clock=clock) as there:
        (claim,) = (await there.claim(other, 1)).jobs
        assert claim.deliveries == lost.deliveries
        assert await broker.finish([Completion(lost.id, lost.deliveries, state)]) == [False]
        assert (await broker.get(one.id)).worker == other.id
        assert await there.finish([done(claim)]) == [True]


async def test_a_deleted_job_is_not_claimed(
    broker: RedisBroker, clock: ManualClock, delete: Callable[[str], None]
) -> None:
    """Those beside it are, and the numbers are right."""
    first, second, third = await enqueue(broker, clock, 3)
    delete(second)
    claimed = await broker.claim(worker(clock), 10)
    assert [one.id for one in claimed.jobs] == [first, third]
    assert await broker.counts() == {("default", "running"): 2}
    with pytest.raises(JobNotFound):
        await broker.get(second)


@pytest.mark.parametrize("dies", [False, True])
async def test_a_job_that_is_deleted_while_it_runs_is_in_nobodys_way(
    broker: RedisBroker, clock: ManualClock, delete: Callable[[str], None], dies: bool
) -> None:
    """Its worker's other jobs are given back, or rescued when it died, and as suspects run again."""
    gone, left, later = await enqueue(broker, clock, 3)
    me, other = worker(clock), worker(clock)
    await broker.claim(me, 3)
    delete(gone)
    if not dies:
        assert await broker.give_back(me, [later]) == 1
        assert [one.id for one in (await broker.claim(other, 10)).jobs] == [left]
        return
    clock.advance(LEASE + 1)
    assert set((await broker.rescue(other)).ready) == {left, later}
    delete(left)
    assert [one.id for one in (await broker.claim(other, 10, alone=True)).jobs] == [later]
    assert not (await broker.rescue(other)).suspects


async def test_a_deleted_head_lets_its_key_go_on(
    broker: RedisBroker, clock: ManualClock, delete: Callable[[str], None]
) -> None:
    """With the next that is enqueued, or retried by hand; what is behind it goes before that."""
    head, second, third = await enqueue(broker, clock, 3, order_key=KEY)
    delete(head)
    delete(second)
    (fourth,) = await enqueue(broker, clock, order_key=KEY)
    (claim,) = (await broker.claim(worker(clock), 10)).jobs
    assert claim.id == third
    delete(third)
    await broker.retry(fourth)
    (claim,) = (await broker.claim(worker(clock), 10)).jobs
    assert claim.id == fourth


async def test_a_deleted_job_holds_no_unique_key(
    broker: RedisBroker, clock: ManualClock, delete: Callable[[str], None]
) -> None:
    """Else nothing with that key would ever run again."""
    (gone,) = await enqueue(broker, clock, unique_key="u")
    delete(gone)
    (job_id,) = await enqueue(broker, clock, unique_key="u")
    assert [one.id for one in (await broker.claim(worker(clock), 10)).jobs] == [job_id]


async def test_a_deleted_job_does_not_keep_others_from_being_pruned(
    broker: RedisBroker, clock: ManualClock, delete: Callable[[str], None]
) -> None:
    """It is forgotten with them."""
    gone, other = await enqueue(broker, clock, 2)
    claims = (await broker.claim(worker(clock), 2)).jobs
    assert await broker.finish([Completion(one.id, one.deliveries, "done") for one in claims]) == [True, True]
    delete(gone)
    clock.advance(1)
    await broker.prune(clock.wall())
    with pytest.raises(JobNotFound):
        await broker.get(other)
    assert await broker.prune(clock.wall()) == 0
