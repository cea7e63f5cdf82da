"""Unique keys that hold for some time: against a model, by many at once, within transactions, and as options."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import tempfile
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
import redis
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from tests.jobs.brokers import opened, opened_empty
from tests.jobs.conformance import done, enqueue, row, worker
from tests.servers import RedisServer

from moorline.clock import SYSTEM, ManualClock
from moorline.errors import ConfigurationError, JobStateError
from moorline.events import Relay
from moorline.jobs.broker import Broker, Completion, JobFilter
from moorline.jobs.brokers.redis import RedisBroker
from moorline.jobs.brokers.sql import SqlBroker
from moorline.jobs.brokers.sql_insert import insert_jobs
from moorline.jobs.job import Claim, JobRow
from moorline.jobs.moving import move
from moorline.jobs.registry import Jobs
from moorline.store import Store

KEYS = ("a", "b")


class UniqueStates(RuleBasedStateMachine):
    """One broker, two keys, one clock; what is made, ended, retried and pruned at random."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.closing = contextlib.ExitStack()
        self.broker = self.opened()
        self.loop = asyncio.new_event_loop()
        self.me = worker(self.clock)
        self.alive: dict[str, str] = {}  # by key, here and below
        self.window: dict[str, tuple[str, float]] = {}
        self.running: dict[str, Claim] = {}
        self.ended: dict[str, str] = {}  # by id

    def opened(self) -> Broker:
        folder = self.closing.enter_context(tempfile.TemporaryDirectory())
        return self.closing.enter_context(opened(f"sqlite:///{folder}/jobs.db", clock=self.clock))

    def teardown(self) -> None:
        self.closing.close()
        self.loop.close()

    def holder(self, key: str) -> str | None:
        first, until = self.window.get(key, ("", 0.0))
        return self.alive.get(key) or (first if until > self.clock.wall() else None)

    @rule(keys=st.lists(st.sampled_from(KEYS), min_size=1, max_size=3), window=st.sampled_from([None, 1.0, 10.0]))
    def enqueue(self, keys: list[str], window: float | None) -> None:
        until = None if window is None else self.clock.wall() + window
        rows = [row(self.clock, unique_key=key, unique_until=until) for key in keys]
        ids = self.loop.run_until_complete(self.broker.enqueue(rows))
        for one, found in zip(rows, ids, strict=True):
            key = str(one.unique_key)
            assert found == (self.holder(key) or one.id)
            if found == one.id:
                self.alive[key] = found
                if until is not None:
                    self.window[key] = found, until

    @rule()
    def claim(self) -> None:
        for one in self.loop.run_until_complete(self.broker.claim(self.me, 10)).jobs:
            (key,) = [key for key, job_id in self.alive.items() if job_id == one.id]
            self.running[key] = one

    @precondition(lambda self: self.running)
    @rule(state=st.sampled_from(["done", "dead", "cancelled"]))
    def finish(self, state: Any) -> None:
        key, one = self.running.popitem()
        assert self.loop.run_until_complete(self.broker.finish([Completion(one.id, one.deliveries, state)])) == [True]
        self.ended[one.id] = key
        del self.alive[key]

    @precondition(lambda self: self.ended)
    @rule(pick=st.integers(0, 9))
    def retry(self, pick: int) -> None:
        job_id = sorted(self.ended)[pick % len(self.ended)]
        key = self.ended[job_id]
        holder = self.holder(key)
        if holder not in (None, job_id):
            with pytest.raises(JobStateError, match=holder):
                self.loop.run_until_complete(self.broker.retry(job_id))
        else:
            self.loop.run_until_complete(self.broker.retry(job_id))
            self.alive[key] = job_id
            del self.ended[job_id]

    @rule(ago=st.sampled_from([0.0, 5.0]))
    def prune(self, ago: float) -> None:
        self.loop.run_until_complete(self.broker.prune(self.clock.wall() - ago))
        left = {job.id for job in self.loop.run_until_complete(self.broker.list(JobFilter(limit=500)))}
        self.ended = {job_id: key for job_id, key in self.ended.items() if job_id in left}

    @rule(seconds=st.sampled_from([0.5, 1.0, 9.0]))
    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)


class RedisUniqueStates(UniqueStates):
    """The same on Redis."""

    server: ClassVar[RedisServer]

    def opened(self) -> Broker:
        return self.closing.enter_context(opened_empty(self.server, self.clock))


TestUniqueStates = UniqueStates.TestCase
TestUniqueStates.settings = settings(
    max_examples=20, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
TestUniqueStates.__doc__ = "A key has the one job that the rules say, whatever became of it, pruned or not."


@pytest.mark.redis
class TestRedisUniqueStates(RedisUniqueStates.TestCase):  # type: ignore[misc,valid-type]
    """As above, by the script's rules."""

    settings = TestUniqueStates.settings

    @classmethod
    def setUpClass(cls) -> None:
        RedisUniqueStates.server = cls.enterClassContext(RedisServer())


async def test_of_many_at_once_one_is_made(broker_url: str) -> None:
    """By two processes' brokers, while a worker ends each at once: of each key one job is ever there."""
    keys = [f"k{number}" for number in range(5)]
    made: set[str] = set()
    with opened(broker_url) as here, opened(broker_url) as there:
        over = asyncio.Event()

        async def work() -> None:
            me = worker(SYSTEM)
            while not over.is_set():
                claims = (await there.claim(me, 10)).jobs
                await here.finish([done(claim) for claim in claims])

        async def ask(broker: Broker, number: int) -> None:
            # Each key in another order; some without a time of their own, once somebody may have opened the window.
            until = None if number >= 20 else SYSTEM.wall() + 3600
            rows = [row(SYSTEM, unique_key=key, unique_until=until) for key in keys[number % 5 :] + keys[: number % 5]]
            made.update(await broker.enqueue(rows))

        working = asyncio.create_task(work())
        await asyncio.gather(*[ask(broker, number) for number in range(10) for broker in (here, there)])
        await asyncio.gather(*[ask(broker, number) for number in range(10, 30) for broker in (here, there)])
        over.set()
        await working
        assert len(made) == len(keys)
        assert {job.id for job in await here.list(JobFilter(limit=500))} == made


@pytest.mark.postgres
@pytest.mark.parametrize("commits", [True, False])
@pytest.mark.parametrize("windows", [(60.0, 60.0), (60.0, None), (None, 60.0)])
async def test_two_transactions_do_not_make_two(
    migrated_postgres_url: str, clock: ManualClock, windows: tuple[float | None, float | None], commits: bool
) -> None:
    """The second one waits for the first, and has its job if that committed, though it has ended meanwhile."""
    first, second = (
        row(clock, unique_key="k", unique_until=None if window is None else clock.wall() + window) for window in windows
    )
    with Store(migrated_postgres_url, clock=clock, auto_migrate=True) as store:
        engine = sa.create_engine(store.url)
        found: list[str] = []

        def other() -> None:
            with engine.begin() as connection:
                found.extend(insert_jobs(connection, [second]))

        with engine.connect() as connection:
            assert insert_jobs(connection, [first]) == [first.id]
            thread = threading.Thread(target=other)
            thread.start()
            await _until_it_waits(engine, thread)
            if windows[0] is not None:
                connection.execute(sa.text("UPDATE jobs SET state = 'done', finished_at = run_at"))
            connection.commit() if commits else connection.rollback()
            await asyncio.to_thread(thread.join, 10)
        engine.dispose()
        assert found == [first.id if commits else second.id]


async def _until_it_waits(engine: sa.Engine, thread: threading.Thread) -> None:
    waiting = sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted")
    with engine.connect() as connection:
        while thread.is_alive() and not connection.execute(waiting).scalar():  # noqa: ASYNC110 -- as one must
            await asyncio.sleep(0.005)


async def test_it_lives_and_dies_with_the_callers_transaction(store: Store, jobs: Jobs) -> None:
    """A rollback leaves no window behind; after a commit the window is there, and the job may have gone."""
    engine = sa.create_engine(store.url)
    function = jobs.function(numbered).using(unique="k", unique_for=timedelta(hours=1))
    with engine.connect() as connection:
        function.using(within=connection).enqueue(1).result()
        connection.rollback()
        first = function.using(within=connection).enqueue(1).result()
        again = function.using(within=connection).enqueue(1).result()
        connection.commit()
    engine.dispose()
    assert (first.duplicate, again.duplicate, again.id) == (False, True, first.id)
    await jobs.broker.cancel(first.id)
    assert await jobs.broker.prune(SYSTEM.wall() + 1) == 1
    later = await function.enqueue(2)
    assert (later.duplicate, later.id) == (True, first.id)


async def test_windows_that_are_over_are_forgotten(store: Store, jobs: Jobs) -> None:
    """With the jobs that ended before then, and not sooner."""
    now = SYSTEM.wall()
    await enqueue(jobs.broker, SYSTEM, unique_key="over", unique_until=now + 10)
    await enqueue(jobs.broker, SYSTEM, unique_key="open", unique_until=now + 30)

    def keys(connection: sa.Connection) -> list[str]:
        return list(connection.execute(sa.text("SELECT unique_key FROM job_windows ORDER BY until")).scalars())

    await jobs.broker.prune(now + 5)
    assert await store.read(keys) == ["over", "open"]
    await jobs.broker.prune(now + 20)
    assert await store.read(keys) == ["open"]


@pytest.mark.redis
async def test_in_redis_a_window_expires_by_itself(redis_server: RedisServer) -> None:
    """A day after it is over."""
    with opened(redis_server.url) as broker, redis.Redis.from_url(redis_server.url) as client:
        await enqueue(broker, SYSTEM, unique_key="k", unique_until=SYSTEM.wall() + 3600)
        (key,) = client.keys("*window:*")
        assert 86_400 < client.ttl(key) <= 3601 + 86_400


@pytest.mark.redis
async def test_rows_of_the_version_before_are_read(redis_server: RedisServer, clock: ManualClock) -> None:
    """What is stored without a window has the form that it had before there were any."""
    (field,) = set(JobRow._fields[11:])
    assert field == "unique_until"
    with RedisBroker(redis_server.url, clock=clock) as broker, redis.Redis.from_url(redis_server.url) as client:
        one = row(clock, unique_key="k")
        await broker.enqueue([one])
        (key,) = client.keys(f"*job:{one.id}")
        assert client.hget(key, "d") == msgspec.msgpack.encode(tuple(one)[:11])
        assert (await broker.get(one.id)).unique_until is None
        (second,) = await enqueue(broker, clock, unique_key="l", unique_until=clock.wall() + 5)
        assert (await broker.get(second)).unique_until == clock.wall() + 5
        assert {claim.id for claim in (await broker.claim(worker(clock), 5)).jobs} == {one.id, second}


@pytest.mark.redis
async def test_an_outbox_that_is_late_decides_as_if_it_were_not(
    redis_server: RedisServer, clock: ManualClock, tmp_path: Path
) -> None:
    """What was enqueued within the window of an earlier job is a duplicate, however late both are relayed."""
    with (
        Store(f"sqlite:///{tmp_path}/m.db", clock=clock, auto_migrate=True) as store,
        RedisBroker(redis_server.url, outbox=store, clock=clock) as broker,
    ):
        engine = sa.create_engine(store.url)
        rows = []
        for wait in (30, 40, 0):
            rows.append(row(clock, unique_key="k", unique_until=clock.wall() + 60))
            clock.advance(wait)
        with engine.begin() as connection:
            broker.enqueue_within(connection, rows)
        engine.dispose()
        clock.advance(7200)
        relay = Relay(store, broker, batch=1)
        me = worker(clock)
        claimed: list[str] = []
        for _ in rows:
            await relay.run_once()
            claims = (await broker.claim(me, 5)).jobs
            claimed += [claim.id for claim in claims]
            await broker.finish([done(claim) for claim in claims])
        assert claimed == [rows[0].id, rows[2].id]


@pytest.mark.redis
async def test_what_is_moved_keeps_its_time(redis_server: RedisServer, tmp_path: Path) -> None:
    """There its key is taken for as long as it would have been here."""
    with opened(f"sqlite:///{tmp_path}/m.db") as source, opened(redis_server.url) as target:
        until = SYSTEM.wall() + 60
        (first,) = await enqueue(source, SYSTEM, unique_key="k", unique_until=until)
        assert (await move(source, target)).jobs == 1
        assert (await target.get(first)).unique_until == until
        (claim,) = (await target.claim(worker(SYSTEM), 1)).jobs
        await target.finish([done(claim)])
        assert await enqueue(target, SYSTEM, unique_key="k") == [first]


def numbered(number: int) -> None: ...


@pytest.fixture
def function(tmp_path: Path) -> Iterator[Any]:
    with Store(f"sqlite:///{tmp_path}/m.db", auto_migrate=True) as opened_store:
        yield Jobs(SqlBroker(opened_store)).function(numbered)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"unique_for": 60}, "unique_for: needs unique"),
        ({"unique_for": 60, "key": "k"}, "unique_for: needs unique"),
        ({"unique": True, "unique_for": 0}, "unique_for: 0 is not"),
        ({"unique": True, "unique_for": -1.5}, "unique_for: -1.5 is not"),
        ({"unique": True, "unique_for": True}, "unique_for: True is not"),
        ({"unique": True, "unique_for": "1h"}, "unique_for: '1h' is not"),
        ({"unique": True, "unique_for": float("nan")}, "unique_for: nan is not"),
        ({"unique": True, "unique_for": timedelta(days=367)}, "up to a year"),
    ],
)
def test_nonsense_is_named(function: Any, options: dict[str, Any], words: str) -> None:
    """When it is asked for, not when it is stored."""
    with pytest.raises(ConfigurationError, match=words):
        function.using(**options)


def test_it_may_be_asked_for_step_by_step(function: Any) -> None:
    """The time counts from the enqueueing; without ``unique`` there is none."""
    unique = function.using(unique=True)
    one = unique.using(unique_for=timedelta(minutes=1), delay=3600).row(1)
    assert one.unique_until == one.created_at + 60
    assert unique.row(1).unique_until is None
    plain = unique.using(unique_for=60).using(unique=False).row(1)
    assert (plain.unique_key, plain.unique_until) == (None, None)


async def test_a_key_may_be_any_text(any_jobs: Jobs) -> None:
    """However long, and with characters that a database refuses: it is as unique as others, on each of them."""
    function = any_jobs.function(numbered)
    long = "".join(hashlib.sha256(str(n).encode()).hexdigest() for n in range(150))  # no index compresses it
    for key in (long, long[:-1], "a\x00b", "ab", "\ud800", "é" * 400):
        first = await function.using(unique=key).enqueue(1)
        second = await function.using(unique=key).enqueue(2)
        assert (first.duplicate, second.id, second.duplicate) == (False, first.id, True)
    assert function.using(unique="ship-43").row(1).unique_key == "numbered:ship-43"


async def test_a_name_with_a_colon_shares_no_key_with_another(any_jobs: Jobs) -> None:
    """Job ``a:b`` with the key ``c`` is not job ``a`` with the key ``b:c``, which would be lost."""
    names = ("reports", "reports:daily", "reports:daily:eu")
    keys = ("daily:eu:1", "eu:1", "1")
    functions = [any_jobs.function(numbered, name=name) for name in names]
    made = [await one.using(unique=key).enqueue(1) for one, key in zip(functions, keys, strict=True)]
    assert [one.duplicate for one in made] == [False] * 3
    assert (await functions[1].using(unique="eu:1").enqueue(2)).id == made[1].id
