"""Jobs are moved from one broker to another, both in use: none is lost, and each keeps what it is."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.jobs.brokers import opened
from tests.jobs.conformance import enqueue, row, worker
from tests.jobs.rabbit import own_url, rabbit_broker
from tests.servers import RedisServer
from tests.warm import run

from moorline.clock import SYSTEM
from moorline.errors import Misuse, StoreUnavailable
from moorline.jobs.broker import Broker, Completion, JobFilter
from moorline.jobs.brokers.sql import SqlBroker
from moorline.jobs.flows import Flow, Link, wrapped
from moorline.jobs.job import JobRow
from moorline.jobs.moving import move
from moorline.jobs.order import order_key
from moorline.store import Store

Open = Callable[[str], Broker]


@pytest.fixture
def brokers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """By name. Those on a carrier have a database of their own for what is not carried."""
    with contextlib.ExitStack() as stack:

        def opening(name: str) -> Broker:
            if name == "redis":
                server: RedisServer = request.getfixturevalue("redis_server")
                return stack.enter_context(opened(server.url))
            store = stack.enter_context(Store(f"sqlite:///{tmp_path}/{name}.db", auto_migrate=True))
            if name in ("sqlite", "another"):
                return SqlBroker(store)
            return stack.enter_context(rabbit_broker(request.getfixturevalue("rabbit_url"), outbox=store))

        yield opening


REDIS = pytest.mark.redis
RABBIT = pytest.mark.rabbitmq
WAYS = [
    pytest.param("sqlite", "redis", marks=REDIS),
    pytest.param("redis", "sqlite", marks=REDIS),
    pytest.param("sqlite", "rabbitmq", marks=RABBIT),
    pytest.param("rabbitmq", "sqlite", marks=RABBIT),
]


async def taken(broker: Broker, count: int) -> list[tuple[str, int]]:
    """The ids and attempts of so many jobs, each of them ended so that the next of its key comes."""
    me = worker(SYSTEM)
    found: list[tuple[str, int]] = []
    async with asyncio.timeout(20):
        while len(found) < count:
            claims = (await broker.claim(me, 100)).jobs
            found += [(claim.id, claim.max_attempts) for claim in claims]
            await broker.finish([Completion(one.id, one.deliveries, "done", order_key=one.order_key) for one in claims])
            await asyncio.sleep(0)
    return found


@pytest.mark.parametrize(("here", "there"), WAYS)
async def test_all_that_waits_is_moved(brokers: Open, here: str, there: str) -> None:
    """With its id, the attempts it has left, its unique key, and in the order of its key; what is dead stays."""
    source, target = brokers(here), brokers(there)
    plain = await enqueue(source, SYSTEM, 1_200)
    keyed = await enqueue(source, SYSTEM, 3, order_key=order_key("name", "k"))
    (unique,) = await enqueue(source, SYSTEM, unique_key="u")
    (tried, hopeless) = await enqueue(source, SYSTEM, 2, queue="odd", max_attempts=5)
    before = worker(SYSTEM, "odd")
    claims = {claim.id: claim for claim in (await source.claim(before, 10)).jobs}
    await source.finish([Completion(tried, claims[tried].deliveries, "ready")])
    await source.finish([Completion(hopeless, claims[hopeless].deliveries, "dead", reason="failed")])
    await source.leave(before)
    told: list[int] = []
    moved = await move(source, target, queues=("default", "odd"), progress=told.append)
    count = len(plain) + len(keyed) + 2
    assert (moved.jobs, moved.kept, told[-1]) == (count, 0, count)
    assert [job.id for job in await source.list(JobFilter(state="dead"))] == [hopeless]
    assert (await source.claim(worker(SYSTEM, "default", "odd"), 10)).jobs == []
    assert await enqueue(target, SYSTEM, unique_key="u") == [unique]
    found = await taken(target, len(plain) + len(keyed) + 1)
    assert sorted(one for one, _ in found) == sorted([*plain, *keyed, unique])
    assert [one for one, _ in found if one in keyed] == keyed
    me = worker(SYSTEM, "odd")
    async with asyncio.timeout(10):
        while not (odd := (await target.claim(me, 1)).jobs):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert [(one.id, one.attempts, one.max_attempts) for one in odd] == [(tried, 1, 4)]


@pytest.mark.parametrize(("here", "there"), WAYS[:2])
async def test_what_is_due_later_is_moved_too(brokers: Open, here: str, there: str) -> None:
    """For the same time."""
    source, target = brokers(here), brokers(there)
    due = SYSTEM.wall() + 3_600
    ids = await enqueue(source, SYSTEM, 30, run_at=due)
    assert (await move(source, target, batch=7)).jobs == 30
    jobs = await target.list(JobFilter(state="ready"))
    assert [(job.id, job.run_at) for job in jobs] == [(one, due) for one in sorted(ids, reverse=True)]
    assert [job.reason for job in await source.list(JobFilter())] == ["moved"] * 30


@pytest.mark.parametrize(
    "here",
    ["sqlite", pytest.param("redis", marks=REDIS), pytest.param("rabbitmq", marks=RABBIT)],
)
async def test_what_needs_its_database_is_not_moved_to_another(brokers: Open, here: str) -> None:
    """The jobs of an event and of a group stay, due or later, and are counted; a chain carries what follows with it."""
    source, target = brokers(here), brokers("another")
    payload = b'{"v":1,"args":{}}'
    grouped = await enqueue(source, SYSTEM, 2, payload=wrapped(payload, Flow(group="g")))
    handlers = await enqueue(source, SYSTEM, 2, name="event:f", event_id="e", payload=b"e")
    chained = await enqueue(source, SYSTEM, payload=wrapped(payload, Flow(then=(Link("next", "{}"),))))
    plain = await enqueue(source, SYSTEM, 7)
    later = [] if here == "rabbitmq" else await enqueue(source, SYSTEM, event_id="e", run_at=SYSTEM.wall() + 3_600)
    moved = await move(source, target, same_database=False, batch=3)
    assert (moved.jobs, moved.kept, moved.tied) == (8, 0, 4 + len(later))
    assert sorted(one for one, _ in await taken(target, 8)) == sorted(chained + plain)
    assert sorted(one for one, _ in await taken(source, 4)) == sorted(grouped + handlers)
    again = await move(source, target, batch=3)
    assert (again.jobs, again.tied) == (len(later), 0)


async def test_a_move_that_is_cut_short_loses_nothing(brokers: Open) -> None:
    """Whichever step fails, what is not known to be there is still here; the next try moves the rest."""
    source, target = brokers("sqlite"), brokers("redis")
    ids = await enqueue(source, SYSTEM, 50)
    enqueues, finishes = target.enqueue, source.finish
    calls = 0

    async def breaks(rows: list[JobRow], *, again: bool = False) -> list[str]:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise StoreUnavailable("gone")
        return await enqueues(rows, again=again)

    async def forgets(completions: list[Completion]) -> list[bool]:
        raise StoreUnavailable("gone")

    target.enqueue = breaks  # type: ignore[method-assign, assignment]
    with pytest.raises(StoreUnavailable):
        await move(source, target, batch=20)
    target.enqueue = enqueues  # type: ignore[method-assign]
    source.finish = forgets  # type: ignore[method-assign, assignment]
    with pytest.raises(StoreUnavailable):
        await move(source, target, batch=20)
    source.finish = finishes  # type: ignore[method-assign]
    await move(source, target, batch=20)
    assert sorted(one for one, _ in await taken(target, 50)) == sorted(ids)
    assert (await target.claim(worker(SYSTEM), 10)).jobs == []


@RABBIT
async def test_what_both_keep_in_one_database_stays(rabbit_url: str, tmp_path: Path) -> None:
    """Jobs with a key, between a database and a carrier that keeps such jobs there: they are at home already."""
    with Store(f"sqlite:///{tmp_path}/m.db", auto_migrate=True) as store:
        source = SqlBroker(store)
        with rabbit_broker(rabbit_url, outbox=store) as target:
            (plain,) = await enqueue(source, SYSTEM)
            keyed = await enqueue(source, SYSTEM, 2, order_key=order_key("name", "k"))
            moved = await move(source, target)
            assert (moved.jobs, moved.kept) == (1, 1)
            assert {one for one, _ in await taken(target, 3)} == {plain, *keyed}


async def test_a_broker_is_not_moved_into_itself(tmp_path: Path) -> None:
    """It would never end."""
    with Store(f"sqlite:///{tmp_path}/m.db", auto_migrate=True) as store, pytest.raises(Misuse, match="the same"):
        await move(SqlBroker(store), SqlBroker(store))


async def drained(url: str, target: str, *words: str) -> object:
    """What the command says that moves what waits in that database."""
    command = [sys.executable, "-m", "moorline.cli", "jobs", "drain", "--to", target, "--json", *words]
    done = await asyncio.to_thread(run, command, env={"MOORLINE_DATABASE_URL": url}, timeout=60, check=True)
    return json.loads(done.stdout)


async def test_the_command_leaves_events_where_they_are_stored(tmp_path: Path) -> None:
    """From a database into another one."""
    url, other = (f"sqlite:///{tmp_path}/{name}.db" for name in ("m", "other"))
    with Store(url, auto_migrate=True) as store:
        await SqlBroker(store).enqueue([row(SYSTEM), row(SYSTEM, event_id="e")])
    assert await drained(url, other) == {"jobs": 1, "kept": 0, "tied": 1, "left": {"default ready": 1}}


@RABBIT
async def test_the_command_drains_a_database_into_rabbitmq(rabbit_url: str, tmp_path: Path) -> None:
    """A dry run moves nothing; the real one says how many, and what is left. Events stay in the database of both."""
    url = f"sqlite:///{tmp_path}/m.db"
    with Store(url, auto_migrate=True) as store:
        await SqlBroker(store).enqueue([row(SYSTEM, event_id="e") for _ in range(5)])
    target = own_url(rabbit_url)
    nothing = {"jobs": 0, "kept": 0, "tied": 0, "left": {"default ready": 5}}
    assert await drained(url, target, "--dry-run") == nothing
    assert await drained(url, target) == {"jobs": 5, "kept": 0, "tied": 0, "left": {}}
    with rabbit_broker(target) as broker:
        assert len(await taken(broker, 5)) == 5
