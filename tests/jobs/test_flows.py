"""Chains and groups: jobs that begin when others are done, on every broker, once, whatever crashes between."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.jobs.rabbit import own_url
from tests.jobs.test_worker import SLOWLY

from moorline.codec import Codec
from moorline.errors import ConfigurationError, GroupNotFound, InvalidArguments, JobFailed, StoreError, StoreUnavailable
from moorline.events.relay import Relay
from moorline.jobs import RESULT, Cancel, Discard
from moorline.jobs.broker import Broker
from moorline.jobs.brokers.rabbitmq import RabbitBroker
from moorline.jobs.brokers.redis import RedisBroker
from moorline.jobs.brokers.sql import SqlBroker
from moorline.jobs.enqueue import EnqueueOptions
from moorline.jobs.flows import Flow, Link, flow_of, following_id, following_row, wrapped
from moorline.jobs.groups import Groups
from moorline.jobs.registry import Jobs
from moorline.jobs.worker import Worker
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
    """Jobs on each broker, with a database for groups."""
    url = f"sqlite:///{tmp_path}/m.db"
    if request.param == "postgres":
        url = request.getfixturevalue("migrated_postgres_url")
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(Store(url, auto_migrate=True))
        broker: Broker = SqlBroker(store)
        if request.param == "redis":
            server = request.getfixturevalue("redis_server")
            broker = stack.enter_context(RedisBroker(server.url, prefix=uuid4().hex, outbox=store))
        elif request.param == "rabbitmq":
            address = own_url(request.getfixturevalue("rabbit_url"))
            broker = stack.enter_context(RabbitBroker(address, outbox=store))
        yield Jobs(broker, store=store)


Worked = Callable[[], Awaitable[None]]


@pytest.fixture
def worked(jobs: Jobs) -> Worked:
    """Work until nothing follows any more; what waits in the outbox is relayed."""
    relay = None if isinstance(jobs.broker, SqlBroker) else Relay(groups_of(jobs)._store, jobs.broker)

    async def work() -> None:
        while True:
            moved = 0 if relay is None else (await relay.run_once()).jobs
            if not await Worker(jobs, seed=SLOWLY).drain() and not moved:
                return

    return work


def groups_of(jobs: Jobs) -> Groups:
    assert jobs.groups is not None
    return jobs.groups


def fetch(name: str) -> dict[str, int]:
    return {"size": len(name)}


def double(picture: dict[str, int], by: int = 2) -> int:
    return picture["size"] * by


async def test_a_chain_runs_one_after_the_other_with_results(jobs: Jobs, worked: Worked) -> None:
    """Each gets what the one before it returned; the handles are known from the start."""
    seen: list[Any] = []

    async def publish(size: int, to: str) -> str:
        seen.append((size, to))
        return f"{to}:{size}"

    first, second = jobs.function(fetch), jobs.function(double, keep_result=True)
    third = jobs.function(publish, keep_result=True)
    handles = await jobs.chain(first.call("abc"), second.call(RESULT, by=10), third.call(RESULT, to="album"))
    await worked()
    assert seen == [(30, "album")]
    assert await handles[1].result() == 30
    assert await handles[2].result() == "album:30"


async def test_a_group_has_one_follower_with_all_results(jobs: Jobs, worked: Worked) -> None:
    """In the order of the calls, whatever the order of their ends; then the follower's own follower."""
    seen: list[Any] = []

    def total(sizes: list[int]) -> int:
        seen.append(sizes)
        return sum(sizes)

    def tell(size: int) -> None:
        seen.append(size)

    one, all_of_them, teller = jobs.function(double), jobs.function(total, keep_result=True), jobs.function(tell)
    calls = [one.call({"size": size}) for size in range(30)]
    group = await jobs.group(calls, then=[all_of_them.call(RESULT), teller.call(RESULT)])
    assert (await group.state()).left == 0
    await worked()
    assert seen == [[2 * size for size in range(30)], 870]
    assert group.then is not None
    assert await group.then.result() == 870
    state = await group.state()
    assert (state.total, state.left, state.follower) == (30, 30, group.then.id)
    assert state.finished_at is not None


async def test_numbers_that_are_no_json_for_all_stop_no_flow(store: Store) -> None:
    """Infinite ones and NaN, as arguments and as results, before and after a RESULT; and long ones keep their digits."""
    seen: list[Any] = []

    async def measure(depth: float) -> float:
        return depth

    async def add(found: Any, most: float, number: int = 0) -> float:
        seen.append((found, most, number))
        return most

    jobs = Jobs(SqlBroker(store), store=store)
    first, then = jobs.function(measure, retries=0), jobs.function(add, retries=0)
    await jobs.chain(first.call(math.inf), then.call(RESULT, -math.inf, number=2**60 + 1), then.call(RESULT, 1.0))
    group = await jobs.group([first.call(math.inf), first.call(2.0)], then=[then.call(RESULT, math.inf)])
    late = await first.using(expires=1e-9).enqueue(math.inf)
    await asyncio.wait_for(Worker(jobs, seed=SLOWLY).drain(), 30)
    expected: list[Any] = [(math.inf, -math.inf, 2**60 + 1), (-math.inf, 1.0, 0), ([math.inf, 2.0], math.inf, 0)]
    assert sorted(seen, key=repr) == sorted(expected, key=repr)
    assert (await group.state()).finished_at is not None
    assert (await jobs.broker.get(late.id)).reason == "expired"


async def test_a_dead_job_holds_its_group_until_it_is_retried(jobs: Jobs, worked: Worked) -> None:
    """Or skipped; then there is no result of it."""
    seen: list[Any] = []
    broken = True

    def flaky(number: int) -> int | Discard:
        return Discard("no such picture") if number == 1 and broken else number

    def total(numbers: list[int | None]) -> None:
        seen.append(numbers)

    one, last = jobs.function(flaky), jobs.function(total)
    group = await jobs.group([one.call(n) for n in range(3)], then=last.call(RESULT))
    await worked()
    assert (seen, (await group.state()).left) == ([], 2)
    broken = False
    await jobs.broker.retry(group.jobs[1].id)
    await worked()
    assert seen == [[0, 1, 2]]
    broken = True
    group = await jobs.group([one.call(n) for n in range(3)], then=last.call(RESULT))
    await worked()
    skipped = await jobs.broker.skip(group.jobs[1].id)
    await groups_of(jobs).called_off([skipped])
    await groups_of(jobs).called_off([skipped])  # twice is once
    await worked()
    assert seen[1:] == [[0, None, 2]]


async def test_a_cancelled_job_ends_its_chain_and_leaves_its_group(store: Store) -> None:
    """By its own word, or by a person's while it waits."""
    jobs = Jobs(SqlBroker(store), store=store)
    seen: list[str] = []

    def unneeded() -> Cancel:
        return Cancel("not needed")

    def follows() -> None:
        seen.append("followed")

    first, second = jobs.function(unneeded), jobs.function(follows)
    handles = await jobs.chain(first.call(), second.call())
    await Worker(jobs).drain()
    assert (await handles[0].job()).state == "cancelled"
    assert seen == []
    group = await jobs.group([first.call(), first.using(delay=3600).call()], then=second.call())
    await Worker(jobs).drain()
    assert seen == []
    await group.jobs[1].stop("by hand")
    await Worker(jobs).drain()
    assert seen == ["followed"]


async def test_the_rest_of_a_chain_waits_for_a_dead_job(any_jobs: Jobs) -> None:
    """It goes on where it was when that one is retried."""
    seen: list[int] = []
    broken = [True]

    def second(number: int) -> int | Discard:
        return Discard("not yet") if broken else number

    def third(number: int) -> None:
        seen.append(number)

    handles = await any_jobs.chain(any_jobs.function(second).call(7), any_jobs.function(third).call(RESULT))
    await Worker(any_jobs).drain()
    with pytest.raises(JobFailed, match="not yet"):
        await any_jobs.function(second, keep_result=True).handle(handles[0].id).result()
    broken.clear()
    await any_jobs.broker.retry(handles[0].id)
    await Worker(any_jobs).drain()
    assert seen == [7]


async def test_a_crash_before_the_end_was_stored_makes_no_second_follower(
    any_jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job runs again, and what follows it is the same job."""
    seen: list[int] = []

    def follows(number: int) -> None:
        seen.append(number)

    def begins() -> int:
        return 5

    handles = await any_jobs.chain(any_jobs.function(begins).call(), any_jobs.function(follows).call(RESULT))
    finish = any_jobs.broker.finish
    failures = [StoreUnavailable("away"), StoreUnavailable("away")]

    async def flaky(completions: Any) -> Any:
        if failures:
            raise failures.pop()
        return await finish(completions)

    monkeypatch.setattr(any_jobs.broker, "finish", flaky)
    await Worker(any_jobs).drain()
    await any_jobs.broker.retry(handles[0].id)  # as after a crash: it runs once more
    await Worker(any_jobs).drain()
    assert seen == [5]


async def test_what_follows_is_never_left_out(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The database takes the end of the job and not what comes after it: the job is dead, and a retry does both."""
    jobs, seen = Jobs(SqlBroker(store)), []

    def begins() -> int:
        return 5

    def follows(number: int) -> None:
        seen.append(number)

    first = jobs.function(begins, keep_result=True)
    handles = await jobs.chain(first.call(), jobs.function(follows).call(RESULT))

    async def refuse(*_: Any, **__: Any) -> list[str]:
        raise StoreError("refused")

    with monkeypatch.context() as patch:
        patch.setattr(jobs.broker, "enqueue", refuse)
        await Worker(jobs).drain()
    job = await handles[0].job()
    assert (job.state, job.reason, seen) == ("dead", "followers refused", [])
    await jobs.broker.retry(handles[0].id)
    await Worker(jobs).drain()
    assert seen == [5]


async def test_a_worker_without_a_database_for_groups_does_not_lose_one(store: Store) -> None:
    """Its jobs are dead until a worker that has one takes them."""
    jobs, seen = Jobs(SqlBroker(store), store=store), []

    def total(sizes: list[int]) -> None:
        seen.append(sizes)

    one = jobs.function(double)
    group = await jobs.group([one.call({"size": 1})], then=jobs.function(total).call(RESULT))
    bare = Jobs(SqlBroker(store))
    bare.function(double)
    await Worker(bare).drain()
    assert (await group.jobs[0].job()).reason == "followers refused"
    await jobs.broker.retry(group.jobs[0].id)
    await Worker(jobs).drain()
    assert seen == [[2]]


async def test_a_group_in_my_transaction(store: Store) -> None:
    """It exists if and only if that commits; one without jobs ends at once."""
    import sqlalchemy as sa

    jobs = Jobs(SqlBroker(store), store=store)
    seen: list[Any] = []

    def total(numbers: list[int]) -> None:
        seen.append(numbers)

    last = jobs.function(total)
    one = jobs.function(double)
    engine = sa.create_engine(store.url)
    with engine.connect() as connection:
        undone = jobs.group([one.call({"size": 1})], then=last.call(RESULT), within=connection).result()
        chained = jobs.chain(one.call({"size": 1}), within=connection).result()
        connection.rollback()
        kept = jobs.group([one.call({"size": 2})], then=last.call(RESULT), within=connection).result()
        connection.commit()
    engine.dispose()
    with pytest.raises(GroupNotFound):
        await undone.state()
    assert len(chained) == 1
    empty = await jobs.group([], then=last.call(RESULT))
    await Worker(jobs).drain()
    assert sorted(seen) == [[], [4]]
    assert (await kept.state()).left == 1
    assert await groups_of(jobs).prune(store.clock.wall() + 1) == 2
    with pytest.raises(GroupNotFound):
        await empty.state()


async def test_a_follower_needs_a_result_that_can_be_had(store: Store) -> None:
    """The job before it has failed then: nothing is lost silently."""
    jobs = Jobs(SqlBroker(store))

    def odd() -> Any:
        return object()

    handles = await jobs.chain(jobs.function(odd, retries=0).call(), jobs.function(double).call(RESULT))
    await Worker(jobs).drain()
    job = await handles[0].job()
    assert (job.state, job.reason) == ("dead", "failed")
    assert "what follows needs the result" in str(job.last_error)


async def test_a_run_that_would_begin_too_late_is_left_out(any_jobs: Jobs) -> None:
    """The job is cancelled, no attempt is spent; one in time runs. Unique by arguments is not of the time."""
    seen: list[str] = []

    def send(code: str) -> None:
        seen.append(code)

    function = any_jobs.function(send)
    soon = function.using(expires=3600)
    late = await function.using(at=any_jobs.clock.wall() - 60, expires=30).enqueue("late")
    timely = await soon.using(at=any_jobs.clock.wall() - 60).enqueue("timely")
    first = await soon.using(unique=True, delay=60).enqueue("same")
    assert (await soon.using(unique=True).enqueue("same")).id == first.id
    await Worker(any_jobs).drain()
    job = await late.job()
    assert (job.state, job.reason, job.attempts) == ("cancelled", "expired", 0)
    assert (await timely.job()).state == "done"
    assert seen == ["timely"]
    await any_jobs.broker.retry(late.id)  # a person means it
    await Worker(any_jobs).drain()
    assert seen == ["timely", "late"]


async def test_what_expires_leaves_its_group(store: Store) -> None:
    """The others are not held up by it."""
    jobs, seen = Jobs(SqlBroker(store), store=store), []

    def total(sizes: list[int | None]) -> None:
        seen.append(sizes)

    one = jobs.function(double)
    late = one.using(at=jobs.clock.wall() - 60, expires=30)
    await jobs.group([late.call({"size": 1}), one.call({"size": 2})], then=jobs.function(total).call(RESULT))
    await Worker(jobs).drain()
    assert seen == [[None, 4]]


def test_mistakes_are_told_when_they_are_made(store: Store) -> None:
    """By name."""
    jobs = Jobs(SqlBroker(store))
    one, two = jobs.function(fetch), jobs.function(double)
    with pytest.raises(ConfigurationError, match="no job in it"):
        jobs.chain()
    with pytest.raises(ConfigurationError, match=r"such as resize.call\(300\)"):
        jobs.chain(one)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="follows no other job here"):
        jobs.chain(one.call(RESULT), two.call(RESULT))
    with pytest.raises(InvalidArguments, match="by"):
        jobs.chain(one.call("a"), two.call(RESULT, by="many"))  # type: ignore[arg-type]
    with pytest.raises(InvalidArguments, match="colour"):
        jobs.chain(one.call("a"), two.call(RESULT, colour=RESULT))  # type: ignore[call-arg]
    with pytest.raises(InvalidArguments, match="picture"):
        jobs.chain(one.call("a"), two.call(by=2))  # type: ignore[call-arg]
    with pytest.raises(ConfigurationError, match="a queue, a priority and a delay"):
        jobs.chain(one.call("a"), two.using(unique=True).call(RESULT))
    with pytest.raises(ConfigurationError, match="a queue, a priority and a delay"):
        jobs.chain(one.call("a"), two.using(expires=5).call(RESULT))
    for wrong in (0, -1, float("inf"), True):
        with pytest.raises(ConfigurationError, match="expires"):
            one.using(expires=wrong)
    with pytest.raises(ConfigurationError, match="no place for it"):
        jobs.enqueue("fetch", b"", options=EnqueueOptions(expires=5))
    with pytest.raises(ConfigurationError, match="unique or within"):
        jobs.chain(one.using(unique=True).call("a"))
    with pytest.raises(ConfigurationError, match="store="):
        jobs.group([one.call("a")])


_text = st.text(max_size=20)
_links = st.lists(
    st.builds(
        Link, name=_text, payload=st.just('{"v":1,"args":{"a":1}}'), queue=_text,
        priority=st.integers(0, 9), max_attempts=st.integers(1, 9), delay=st.floats(0, 1e6),
    ), max_size=4,
)  # fmt: skip


@given(links=_links, words=st.dictionaries(_text, _text, max_size=3))
def test_a_flow_is_read_as_it_was_written(links: list[Link], words: dict[str, str]) -> None:
    """And the payload below it is what it was."""

    def function(**words: str) -> None: ...

    codec = Codec(function)
    payload = codec.encode((), words)
    carried = wrapped(payload, Flow(tuple(links)))
    assert codec.decode(carried) == codec.decode(payload)
    flow = flow_of(carried)
    assert (flow.then if flow else ()) == tuple(links)
    if links:
        row = following_row("0" * 32, links, b"[1]", 5.0)
        assert (row.name, row.run_at) == (links[0].name, 5.0 + links[0].delay)
        after = flow_of(row.payload)
        assert (after.then if after else ()) == tuple(links[1:])


@given(data=st.binary(max_size=200))
def test_any_bytes_may_claim_to_have_a_flow(data: bytes) -> None:
    """They have none, and nothing is raised."""
    assert flow_of(data) is None
    assert flow_of(b'{"v":1,"flow":' + data) is None or data.startswith((b"{", b" ", b"\t", b"\n", b"\r"))


def test_ids_of_followers_sort_beside_what_was_before() -> None:
    """Each has one of its own, always the same."""
    ids = ["0123456789abcdef" + "f" * 16]
    for _ in range(50):
        ids.append(following_id(ids[-1]))
    assert len(set(ids)) == 51
    assert all(one.startswith("0123456789abcdef") and len(one) == 32 for one in ids)
    assert following_id(ids[0]) == ids[1]
