"""The script that Redis runs has the rules of ``moorline.policies``: both get the same life, and decide the same."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.servers import RedisServer, until

from moorline import errors
from moorline.calls.adapters.functions import Resilient
from moorline.calls.guards import Guards
from moorline.calls.shared_guard import SharedGuard
from moorline.calls.shared_store import Message, SharedStore
from moorline.calls.transport import Transport
from moorline.clock import ManualClock
from moorline.policies.allowance import Reading
from moorline.policies.breaker import Breaker, BreakerState, Permit, Terms
from moorline.policies.policy import Policy
from moorline.policies.rate import RateLimit

FOREVER = 1e6  # seconds: a window that never moves on, as the two divide it at other moments
TERMS = (Terms(10.0, 2.0), Terms(3.0, 0.5))
ONCE = Policy(retry=None, breaker=None, deadline=5.0)

CONFIGS = st.builds(
    Breaker,
    failures=st.integers(1, 5),
    reset=st.sampled_from([1.0, 30.0]),
    probes=st.integers(1, 2),
    rate=st.sampled_from([None, 0.5]),
    slow_rate=st.sampled_from([None, 0.5]),
    minimum=st.integers(1, 6),
    window=st.just(FOREVER),
    successes=st.integers(1, 2),
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), st.sampled_from([0.25, 1.0, 5.0, 29.0])),
        st.tuples(st.just("admit"), st.integers(0, 1)),
        st.tuples(st.just("settle"), st.tuples(st.integers(0, 5), st.sampled_from([True, False, None]), st.booleans())),
    ),
    max_size=40,
)


def asked(store: SharedStore, message: Message) -> Message | None:
    return store._sent([message])[0]


@pytest.fixture
def store(redis_server: RedisServer) -> SharedStore:
    return SharedStore(redis_server.url, patience=2.0, clock=ManualClock())


@given(config=CONFIGS, steps=STEPS)
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_breaker(store: SharedStore, config: Breaker, steps: list[tuple[str, Any]]) -> None:
    clock = ManualClock()
    store._clock = clock
    ours, name = BreakerState(config, clock.monotonic), f"life {next(LIVES)}"
    both = [SharedGuard(store, name, config, terms, (), None) for terms in TERMS]
    out: list[tuple[Permit, Message, SharedGuard]] = []
    for step, value in steps:
        if step == "wait":
            clock.advance(value)
        elif step == "admit":
            permit, shared = ours.admit(TERMS[value]), both[value]
            said = asked(store, shared.admit("", 1.0, 5.0, first=True, ruled=True).message)
            assert said is not None
            assert ("no" in said) == (permit is None), (said, ours.snapshot())
            if permit is not None:
                out.append((permit, said, shared))
            else:
                assert said["wait"] == pytest.approx(ours.wait(), abs=1e-3)
                assert said["state"] == "half_open" or ours.reason.startswith(said["why"])
        elif out:
            number, worked, slow = value
            permit, said, shared = out.pop(number % len(out))
            elapsed = 3.0 if slow else 1.0
            permit.settle(worked=worked, elapsed=elapsed)
            facts = {"probe": said.get("probe"), "worked": worked, "elapsed": elapsed, **shared._terms}
            keys = {part: shared._keys[part] for part in ("service", "breaker")}
            generation = said["generation"]
            asked(store, {"do": "settle", "keys": keys, "rules": shared._rules, "generation": generation, **facts})


LIVES: Iterator[int] = iter(range(1_000_000))


class Pair:
    """Two processes before one service, which answers what it is told to."""

    def __init__(self, url: str) -> None:
        self.headers: dict[str, str] = {}
        self.status = 200
        self.sent = 0
        self.stores = [SharedStore(url, patience=2.0) for _ in range(2)]
        self.transports = [
            Transport(ONCE, name="limited", wire=httpx2.MockTransport(self.answer), guards=Guards(shared=store))
            for store in self.stores
        ]

    def answer(self, _request: httpx2.Request) -> httpx2.Response:
        self.sent += 1
        return httpx2.Response(self.status, headers=self.headers, json={})

    def send(self, number: int) -> int:
        with httpx2.Client(transport=self.transports[number]) as client:
            return client.get("https://limited.example/").status_code

    def heard(self) -> None:
        """All that was told has arrived: what is told goes before what is asked."""
        store = self.stores[0]
        store.close()


class TestLimitsOfTheService:
    @pytest.fixture
    def pair(self, redis_server):
        made = Pair(redis_server.url)
        yield made
        for store in made.stores:
            store.close()

    def test_what_one_was_told_holds_for_the_other(self, pair):
        """The second process has heard nothing of the limit, and sends nothing all the same."""
        pair.headers = {"RateLimit-Policy": '"default";q=100;w=60', "RateLimit": '"default";r=0;t=60'}
        assert pair.send(0) == 200
        pair.heard()
        with pytest.raises(errors.RateLimited) as caught:
            pair.send(1)
        assert (caught.value.outcome, pair.sent) == ("not_sent", 1)
        assert caught.value.retry_at is not None

    def test_what_remains_is_shared(self, pair):
        """Three remain after the first: three more are sent, whoever sends them."""
        pair.headers = {"RateLimit-Policy": '"default";q=100;w=60', "RateLimit": '"default";r=3;t=60'}
        assert pair.send(0) == 200
        pair.heard()
        pair.headers = {}
        passed = 0
        for number in (1, 1, 1, 1, 1):
            try:
                passed += pair.send(number) == 200
            except errors.RateLimited:
                continue
        assert passed == 3

    def test_an_asked_wait_holds_for_all(self, pair):
        pair.status, pair.headers = 429, {"Retry-After": "60"}
        with pytest.raises(errors.RateLimited):
            pair.send(0)
        pair.heard()
        with pytest.raises(errors.RateLimited) as caught:
            pair.send(1)
        assert caught.value.outcome == "not_sent"
        assert pair.sent == 1


class TestWindows:
    """A limit of 100 in 2 s whose window is not named, in the words of what is told and asked."""

    @pytest.fixture
    def clock(self, store):
        return store._clock

    @pytest.fixture
    def shared(self, store):
        return SharedGuard(store, "limited", None, Terms(), (), None)

    def heard(self, shared: SharedGuard, remaining: float, resets_in: float) -> None:
        reading = Reading(remaining, 100.0, resets_in)._asdict()
        known = {**reading, "lane": "", "refill": 0.0, "slides": False}
        asked(shared.store, {"do": "heard", "keys": shared._gate, "readings": [known], "close": 0.0, "lane": ""})

    def passed(self, shared: SharedGuard, count: int) -> int:
        message = shared.admit("", 1.0, 5.0, first=True, ruled=False).message
        return sum("no" not in (asked(shared.store, message) or {}) for _ in range(count))

    def test_a_window_whose_end_is_all_that_was_seen(self, shared, clock):
        """With 0.1 s of it left at the first answer, it is not taken for one of 0.1 s."""
        self.heard(shared, 99, 0.1)
        clock.advance(0.11)
        assert self.passed(shared, 60) == 60
        clock.advance(0.2)
        assert self.passed(shared, 60) == 40

    def test_accounts_are_counted_apart(self, shared):
        """What one account at a service has used up is nothing of another's, nor of the service's own key."""
        one, other = (SharedGuard(shared.store, "limited", None, Terms(), (), None, account=name) for name in "ab")
        self.heard(one, 0, 1.5)
        assert [self.passed(each, 5) for each in (one, other, shared)] == [0, 5, 5]

    @pytest.mark.parametrize("new_first", [True, False])
    def test_an_answer_of_the_window_before(self, shared, clock, new_first):
        """One that comes after the reset, be it after an answer of the new window, does not bring a second reset."""
        self.heard(shared, 10, 1.5)
        clock.advance(1.51)
        assert self.passed(shared, 60) == 60
        clock.advance(0.05)
        if new_first:
            self.heard(shared, 50, 1.95)
        self.heard(shared, 5, 0.0)
        clock.advance(0.05)
        assert self.passed(shared, 60) == 40


async def test_a_cancelled_wait_gives_its_turn_back(redis_server):
    """Two places: one is used, and one taken by a call that is cancelled while it waits its turn."""
    policy = Policy(retry=None, breaker=None, deadline=500.0, rate=RateLimit(1, per=100.0))
    stores = [SharedStore(redis_server.url, patience=2.0) for _ in range(2)]
    first, second = (Resilient("turns", policy, guards=Guards(shared=store)) for store in stores)

    async def answer() -> int:
        return 1

    assert await first.call(answer) == 1
    waits = asyncio.create_task(second.call(answer))  # its own gate lets it pass, the shared one in 100 s
    gate = SharedGuard(stores[0], "turns", None, Terms(), policy.rates, None)._keys["gate"]

    def left() -> float:
        with redis.Redis.from_url(redis_server.url) as client:
            return float(json.loads(client.get(gate))["quotas"][0][0])

    await asyncio.to_thread(until, lambda: left() < -0.5)
    waits.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waits
    await asyncio.to_thread(until, lambda: left() > -0.5)
    for store in stores:
        await asyncio.to_thread(store.close)
