"""Limits: never more than they say, whoever asks and whoever dies; and nobody waits for ever."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moorline import RateLimit
from moorline.clock import ManualClock
from moorline.codec import Codec
from moorline.errors import ConfigurationError, ServiceUnavailable, StoreUnavailable
from moorline.jobs import JobHandle, Limit, limiting
from moorline.jobs.broker import WorkerInfo
from moorline.jobs.brokers.sql import SqlBroker
from moorline.jobs.decision import failed
from moorline.jobs.job import Claim
from moorline.jobs.limit_store import Ask, Denied, Limits
from moorline.jobs.limits import Line, Rule, Standing, admitted, key_of, take
from moorline.jobs.registry import Jobs
from moorline.jobs.worker import Worker
from moorline.policies.quota import Quota
from moorline.policies.retry import Retry
from moorline.settings import Settings
from moorline.store import Store
from moorline.telemetry import logger

HOUR = 3600.0


class TestRules:
    @given(
        limit=st.integers(1, 20), per=st.floats(0.1, 100), burst=st.integers(1, 30),
        waits=st.lists(st.floats(0, 10), max_size=200),
    )  # fmt: skip
    def test_no_window_has_more_than_the_rate_and_the_burst(
        self, limit: int, per: float, burst: int, waits: list[float]
    ) -> None:
        """However they come: in any time t at most burst + t times the rate begin."""
        rule = Rule("r", RateLimit(limit, per, burst), None)
        standing, now, begun = Standing(), 1000.0, []
        for wait in waits:
            now += wait
            if admitted(rule, standing, now):
                take(rule, standing, now)
                begun.append(now)
        for first in range(len(begun)):
            for last in range(first, len(begun)):
                allowed = burst + (begun[last] - begun[first]) * limit / per
                assert last - first + 1 <= allowed + 1e-6

    @given(limit=st.integers(1, 20), per=st.floats(0.1, 100), asks=st.lists(st.floats(0, 1), min_size=50, max_size=200))
    def test_with_a_burst_of_one_no_window_has_more_than_the_limit(
        self, limit: int, per: float, asks: list[float]
    ) -> None:
        """However they come: strict, for jobs and for calls."""
        rule = Rule("r", RateLimit(limit, per, burst=1), None)
        standing, quota, now = Standing(), Quota(RateLimit(limit, per, burst=1), 1000.0), 1000.0
        begun: list[float] = []
        called: list[float] = []
        for ask in asks:
            now += ask * per / limit
            if admitted(rule, standing, now):
                take(rule, standing, now)
                begun.append(now)
            if quota.wait(now, 0.0, 1.0) <= 0:
                quota.spend(1.0)
                called.append(now)
        for times in (begun, called):
            assert all(later - first >= per - 1e-6 for first, later in zip(times, times[limit:], strict=False))

    def test_a_rate_is_used_up(self) -> None:
        """Who asks all the time gets all that there is."""
        rule, standing = Rule("r", RateLimit(10, per=1.0), None), Standing()
        begun = 0
        for step in range(1000):
            now = 1000.0 + step / 100
            if admitted(rule, standing, now):
                take(rule, standing, now)
                begun += 1
        assert begun == 10 + 99

    @given(
        rate=st.one_of(st.none(), st.builds(RateLimit, st.integers(1, 100), st.floats(0.5, 50))),
        concurrency=st.integers(1, 50), again=st.booleans(), lasted=st.lists(st.floats(0, 60), max_size=10),
    )  # fmt: skip
    def test_a_line_is_in_the_future_and_moves(
        self, rate: RateLimit | None, concurrency: int, again: bool, lasted: list[float]
    ) -> None:
        """Each comes again later than now; the first time one behind the other."""
        rule, line, now = Rule("r", rate, concurrency), Line(), 1000.0
        for seconds in lasted:
            line.ran(seconds, now)
        places = [line.place(rule, Standing(now, 5), now, Random(1), again=again) for _ in range(20)]
        assert all(place > now for place in places)
        if again:
            assert max(places) <= now + 61
        else:
            assert places == sorted(places)

    def test_each_value_of_an_argument_has_its_own_key(self) -> None:
        """By what is stored; a left-out one, an odd one and a long one have one as well."""

        def function(account: str = "a", size: int = 1) -> None: ...

        codec, limit = Codec(function), Limit(concurrency=1, by="account")
        stored = [codec.encode((name,), {}) for name in ("x", "y", "x\t", "x" * 500, "\x00")] + [codec.encode((), {})]
        keys = [key_of("send", limit, payload).key for payload in stored]
        assert len(set(keys)) == 6
        assert all(len(key) <= 200 and "\x00" not in key for key in keys)
        assert key_of("send", limit, codec.encode(("x", 2), {})).key == keys[0]
        assert key_of("send", limit, b"\xff").key == key_of("send", limit, b"[]").key

        def measured(account: str, depth: float) -> None: ...

        odd = [Codec(measured).encode((name, float("nan")), {}) for name in ("x", 'y\x01é"')]
        plain = [Codec(measured).encode((name, 1.0), {}) for name in ("x", 'y\x01é"')]
        assert [key_of("send", limit, one).key for one in odd] == [key_of("send", limit, one).key for one in plain]
        assert key_of("send", Limit(concurrency=1), b"\xff").key == key_of("send", Limit(concurrency=1), stored[0]).key


@pytest.mark.parametrize(
    "make",
    [
        Limit,
        lambda: Limit(concurrency=0),
        lambda: Limit(concurrency=True),
        lambda: Limit(rate=5),  # type: ignore[arg-type]
        lambda: Limit(concurrency=1, by=""),
        lambda: Settings(worker={"limits": {"mail": {"limit": 0}}}),  # type: ignore[arg-type]
    ],
)
def test_limits_that_are_none(make: Any) -> None:
    """Told when they are made."""
    with pytest.raises(ValueError, match=r"Limit|limits"):
        make()


def test_limits_need_a_database_and_an_argument(store: Store) -> None:
    """Told when the job is made."""
    limit = Limit(concurrency=1, by="account")

    def send(size: int) -> None: ...

    with pytest.raises(ConfigurationError, match="store="):
        Jobs(SqlBroker(store)).function(send, limit=Limit(concurrency=1))
    jobs = Jobs(SqlBroker(store), store=store)
    with pytest.raises(ConfigurationError, match="no argument 'account'"):
        jobs.function(send, limit=limit)
    with pytest.raises(ConfigurationError, match="by 'account'"):
        jobs.limit_queue("mail", limit)


class TestStore:
    async def test_only_what_all_rules_admit_is_counted(self, database_url: str, clock: ManualClock) -> None:
        """One that a second rule refuses has taken nothing of the first."""
        narrow, wide = Rule("narrow", None, 1), Rule("wide", None, 2)
        until = clock.wall() + 30
        with Store(database_url, clock=clock, auto_migrate=True) as store:
            limits = Limits(store)
            asked = [("a", [wide, narrow]), ("b", [wide, narrow]), ("c", [wide]), ("d", [wide])]
            denied = await limits.ask(Ask("w", until, asked))
            assert {job: one.rule.key for job, one in denied.items()} == {"b": "narrow", "d": "wide"}
            await limits.release("w", {"wide": 1})
            assert await limits.ask(Ask("other", until, [("d", [wide]), ("b", [narrow])])) == {
                "b": denied["b"]._replace(standing=Standing(0.0, 1))
            }

    async def test_what_a_dead_worker_held_is_free_when_its_time_is_over(
        self, database_url: str, clock: ManualClock
    ) -> None:
        """Until then it counts; who keeps it keeps it; a late release of it changes nothing."""
        rule = Rule("r", None, 1)
        with Store(database_url, clock=clock, auto_migrate=True) as store:
            limits = Limits(store)
            assert not await limits.ask(Ask("dead", clock.wall() + 10, [("a", [rule])]))
            clock.advance(9)
            assert await limits.ask(Ask("w", clock.wall() + 10, [("b", [rule])]))
            await limits.keep("dead", clock.wall() + 10)
            clock.advance(9)
            assert await limits.ask(Ask("w", clock.wall() + 10, [("b", [rule])]))
            clock.advance(2)
            assert not await limits.ask(Ask("w", clock.wall() + 10, [("b", [rule])]))
            await limits.release("dead", {"r": 1})
            await limits.release("dead", {"r": 1})
            assert await limits.ask(Ask("w", clock.wall() + 10, [("c", [rule])]))
            await limits.leave("w")
            await limits.prune(clock.wall() - 1, "w")
            assert not await limits.ask(Ask("w", clock.wall() + 10, [("c", [rule])]))

    async def test_many_ask_at_once(self, database_url: str) -> None:
        """From several processes' stores: together they are admitted as often as the limit says."""
        rule = Rule("r", RateLimit(100, per=HOUR), 60)
        with Store(database_url, auto_migrate=True) as one, Store(database_url) as two:
            asks = [
                Limits(store).ask(Ask(f"w{n}", store.clock.wall() + 60, [(f"{n}-{k}", [rule]) for k in range(7)]))
                for n in range(8)
                for store in (one, two)
            ]
            denied = await asyncio.gather(*asks)
        assert sum(7 - len(some) for some in denied) == 60


class TestWorkers:
    @pytest.fixture
    def clock(self) -> ManualClock:
        return ManualClock()

    async def test_a_rate_is_kept_over_workers_and_all_run(self, database_url: str, clock: ManualClock) -> None:
        """Five a second of each account, three at once: no attempt is spent, and all have run when the time is up."""
        begun: dict[str, list[float]] = defaultdict(list)

        async def send(account: str) -> None:
            begun[account].append(clock.wall())

        with Store(database_url, clock=clock, auto_migrate=True) as store:
            jobs = Jobs(SqlBroker(store), clock=clock, store=store)
            limit = Limit(RateLimit(5, per=1.0, burst=3), by="account")
            function = jobs.function(send, limit=limit, retries=0)
            handles = await function.enqueue_many([(account,) for _ in range(20) for account in "ab"])
            workers = [Worker(jobs, clock=clock, seed=seed) for seed in (1, 2)]
            for _ in range(90):
                for worker in workers:
                    await worker.drain()
                clock.advance(0.1)
            states = {(job := await handle.job()).state: job.attempts for handle in handles}
        assert states == {"done": 1}
        for times in begun.values():
            assert len(times) == 20
            for first in range(17):
                assert times[first + 3] - times[first] >= 0.2 - 1e-6
            assert times[-1] - times[0] < 8  # 3.4 s at best

    async def test_no_more_run_at_once_than_a_queue_may(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        """Over two workers, which claim far more than that; all run."""
        running, most, done = 0, 0, 0

        async def work() -> None:
            nonlocal running, most, done
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.02)
            running -= 1
            done += 1
            if done == 40:
                for worker in workers:
                    worker.stop()

        jobs = Jobs(SqlBroker(store), store=store)
        jobs.limit_queue("mail", Limit(concurrency=3))
        await jobs.function(work, queue="mail").enqueue_many([()] * 40)
        workers = [Worker(jobs, queues=["mail"], poll=0.05) for _ in range(2)]
        await asyncio.wait_for(asyncio.gather(*(worker.run(signals=False) for worker in workers)), 30)
        assert (most, done) == (3, 40)

    async def test_an_urgent_job_does_not_wait_behind_the_others(self, store: Store) -> None:
        """What was sent away has no place: who comes later and is more urgent begins when there is room again."""
        order: list[int] = []

        async def send(number: int) -> None:
            order.append(number)

        clock = ManualClock()
        with Store(str(store.url.render_as_string(hide_password=False)), clock=clock) as timed:
            jobs = Jobs(SqlBroker(timed), clock=clock, store=timed)
            function = jobs.function(send, limit=Limit(RateLimit(1, per=10.0)))
            await function.enqueue_many([(number,) for number in range(1, 6)])
            worker = Worker(jobs, clock=clock)
            await worker.drain()
            assert order == [1]
            await function.using(priority=0).enqueue(0)
            clock.advance(10.5)
            await worker.drain()
            for _ in range(10):
                clock.advance(10.5)
                await worker.drain()
        assert order[:2] == [1, 0]
        assert sorted(order) == list(range(6))

    async def test_a_worker_that_is_told_to_stop_leaves_nothing_held(self, store: Store) -> None:
        """The next one may begin at once."""
        begun = asyncio.Event()

        async def endless() -> None:
            begun.set()
            await asyncio.sleep(HOUR)

        jobs = Jobs(SqlBroker(store), store=store)
        await jobs.function(endless, limit=Limit(concurrency=1)).enqueue()
        worker = Worker(jobs, grace=0.0)
        task = asyncio.create_task(worker.run(signals=False))
        await begun.wait()
        rule = Rule("job\tendless\t", None, 1)
        assert await Limits(store).ask(Ask("other", store.clock.wall() + 60, [("x", [rule])]))
        worker.stop()
        await task
        assert not await Limits(store).ask(Ask("other", store.clock.wall() + 60, [("x", [rule])]))


@pytest.mark.parametrize("look", [0.02, HOUR])
async def test_a_job_that_is_stopped_while_it_waits_for_room_never_begins(
    store: Store, monkeypatch: pytest.MonkeyPatch, look: float
) -> None:
    """It is cancelled within seconds, or at the latest when there is room for it."""
    monkeypatch.setattr(limiting, "LOOK", look)
    begun, go_on, first = [], asyncio.Event(), asyncio.Event()

    async def one(number: int) -> None:
        begun.append(number)
        first.set()
        await go_on.wait()

    async def until(handle: JobHandle, *states: str) -> None:
        for _ in range(2000):
            if (await handle.job()).state in states:
                return
            await asyncio.sleep(0.01)
        raise AssertionError(f"the job is never {states}")

    jobs = Jobs(SqlBroker(store), store=store)
    function = jobs.function(one, limit=Limit(concurrency=1))
    worker = Worker(jobs)
    task = asyncio.create_task(worker.run(signals=False))
    await function.enqueue(0)
    await first.wait()
    waits, last = await function.enqueue_many([(1,), (2,)])
    await until(waits, "running")
    await until(last, "running")
    assert (await waits.stop("no need")).state == "running"
    if look < HOUR:
        await until(waits, "cancelled")
    go_on.set()
    await until(last, "done")
    worker.stop()
    await task
    job = await waits.job()
    assert (job.state, job.reason, begun) == ("cancelled", "no need", [0, 2])


async def test_a_job_whose_worker_died_waits_for_its_limit_too(store: Store) -> None:
    """It runs alone in its worker, and another worker may run one of the same key."""
    begun = []

    async def one(number: int) -> None:
        begun.append(number)

    jobs, limits = Jobs(SqlBroker(store), store=store), Limits(store)
    handle = await jobs.function(one, limit=Limit(concurrency=1)).enqueue(7)
    now = store.clock.wall()
    await jobs.broker.claim(WorkerInfo("dead", "h", 1, ("default",), now, -1.0), 1)
    rule = Rule("job\tone\t", None, 1)
    assert not await limits.ask(Ask("other", now + 60, [("x", [rule])]))
    await Worker(jobs).drain()
    job = await handle.job()
    assert (begun, job.state, job.attempts, job.crashes) == ([], "ready", 0, 1)
    await limits.leave("other")
    for _ in range(200):
        await asyncio.sleep(0.02)
        if await Worker(jobs).drain():
            break
    assert (begun, (await handle.job()).state) == ([7], "done")
    assert not await limits.ask(Ask("other", store.clock.wall() + 60, [("x", [rule])]))


@pytest.mark.parametrize("word", ["ask", "release"])
async def test_a_word_that_got_no_answer_takes_no_place_for_ever(
    store: Store, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    """It was heard, and its connection broke: what runs is counted anew, neither too high nor too low."""
    running, done = 0, list[int]()

    async def one(number: int) -> None:
        nonlocal running
        running += 1
        assert running == 1
        await asyncio.sleep(0.01)
        running -= 1
        done.append(number)

    jobs = Jobs(SqlBroker(store), store=store)
    limits = jobs.limits
    assert limits is not None
    real, broken = getattr(limits, word), [True, False, True]

    async def unheard(*args: Any) -> Any:
        answer = await real(*args)
        if broken and broken.pop():
            raise StoreUnavailable("the connection is gone")
        return answer

    monkeypatch.setattr(limits, word, unheard)
    await jobs.function(one, retries=0, limit=Limit(concurrency=1)).enqueue_many([(n,) for n in range(6)])
    worker = Worker(jobs)
    task = asyncio.create_task(worker.run(signals=False))
    for _ in range(1000):
        if len(done) == 6:
            break
        await asyncio.sleep(0.01)
    worker.stop()
    await task
    assert (sorted(done), broken) == ([*range(6)], [])


async def test_what_is_given_back_while_it_is_asked_for_is_not_counted() -> None:
    """As when the worker sheds its load in that instant: else the place would be taken for as long as it lives."""
    rule, told = Rule("r", None, 1), list[dict[str, int]]()

    class Told(Limits):
        def __init__(self) -> None:
            self.asked = 0

        async def ask(self, ask: Ask) -> dict[str, Any]:
            self.asked += 1
            if self.asked == 1:
                return {job: Denied(rule, Standing(0.0, 1)) for job, _ in ask.jobs}
            assert [claim.id for claim in worker.clear()] == ["1"]
            return {}

        async def release(self, worker: str, counts: Any) -> None:
            told.append(dict(counts))

    worker = limiting.Limiting(Told(), lambda _: [rule], print, "w", 30.0, ManualClock(), Random(1), logger("test"))
    begin, back = await worker.admit([Claim("1", "n", "q", 5, b"", 0.0, 1, 6, 1, 0, 0, None, 0.0)])
    assert (begin, back, list(worker.parked)) == ([], [], ["1"])
    task = asyncio.create_task(worker.run())
    for _ in range(200):
        if told:
            break
        await asyncio.sleep(0.01)
    task.cancel()
    assert told == [{"r": 1}]


async def test_who_waited_long_for_a_limit_has_all_its_patience_with_a_service() -> None:
    """A service that is down puts it off, and no attempt is spent, though it was sent away hundreds of times before."""
    rule, clock = Rule("r", RateLimit(1, per=1.0), None), ManualClock()

    class Full(Limits):
        def __init__(self) -> None: ...

        async def ask(self, ask: Ask) -> dict[str, Any]:
            return {job: Denied(rule, Standing(clock.wall() + 600.0)) for job, _ in ask.jobs}

    worker = limiting.Limiting(Full(), lambda _: [rule], print, "w", 30.0, clock, Random(1), logger("test"))
    claim = Claim("1", "n", "q", 5, b"", 0.0, 1, 6, 1, 0, 0, None, 0.0)
    for _ in range(300):
        begin, (back,) = await worker.admit([claim])
        assert (begin, back.refund) == ([], True)
        claim = claim._replace(snoozes=claim.snoozes + back.snoozed, deliveries=claim.deliveries + 1)
    assert claim.snoozes == 1
    down = ServiceUnavailable("down", outcome="not_sent", retry_at=clock.wall() + 60)
    end = failed(claim, down, clock.wall(), Retry(), Random(1))
    assert (end.state, end.refund) == ("ready", True)


@settings(max_examples=30)
@given(ends=st.lists(st.integers(0, 5), max_size=30))
def test_a_worker_counts_what_ends(ends: list[int]) -> None:
    """Each job once, however often it is said to have ended."""
    told: list[dict[str, int]] = []

    class Told(Limits):
        def __init__(self) -> None: ...

        async def ask(self, ask: Ask) -> dict[str, Any]:
            return {}

        async def release(self, worker: str, counts: Any) -> None:
            told.append(dict(counts))

    async def main() -> None:
        clock = ManualClock()
        rule = Rule("r", None, 100)
        worker = limiting.Limiting(Told(), lambda _: [rule], print, "w", 30.0, clock, Random(1), logger("test"))
        claims = [Claim(str(n), "n", "q", 5, b"", 0.0, 1, 6, 1, 0, 0, None, 0.0) for n in range(6)]
        await worker.admit(claims)
        for job in ends:
            worker.ended(str(job), 1.0)
        await worker.admit(claims[:1])
        assert sum(one.get("r", 0) for one in told) == len(set(ends))

    asyncio.run(main())
