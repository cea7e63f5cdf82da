"""State that processes share over Redis. Two registries stand for two processes; some tests use real ones."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import time

import pytest
import redis
from tests.calls.ledger import both
from tests.servers import RedisServer, until
from tests.warm import Warm

from moorline import errors
from moorline.calls.adapters.functions import Resilient
from moorline.calls.guards import Guards
from moorline.calls.shared_store import SharedStore
from moorline.errors import ConfigurationError
from moorline.policies.breaker import Breaker, BreakerState
from moorline.policies.policy import Policy
from moorline.policies.rate import RateLimit
from moorline.policies.retry import Retry

ONCE = Policy(retry=None)
MANY = Policy(retry=Retry(retries=1, base=0.0, jitter="none", budget=0.0), breaker=None)


def good() -> int:
    return 1


def bad() -> None:
    raise ConnectionError("no")


def fail(ledger: Resilient, times: int) -> None:
    for _ in range(times):
        with pytest.raises(ConnectionError):
            ledger.call(bad)


class Pair:
    """Two processes' registries."""

    def __init__(self, url: str) -> None:
        self.stores = [SharedStore(url, patience=2.0) for _ in range(2)]  # a busy machine is no lost server
        self.guards = [Guards(shared=store) for store in self.stores]

    def ledgers(self, policy: Policy, name: str = "ledger") -> list[Resilient]:
        return [Resilient(name, policy, guards=guards) for guards in self.guards]


def local(pair: Pair, number: int) -> BreakerState:
    """The own breaker of one of the processes."""
    ((found,),) = pair.guards[number].breakers().values()
    return found


@pytest.fixture
def pair(redis_server):
    made = Pair(redis_server.url)
    yield made
    for store in made.stores:
        store.close()


def told(server: RedisServer) -> dict[str, dict[str, object]]:
    """What Redis holds, by the end of its keys."""
    with redis.Redis.from_url(server.url) as client:
        return {key.decode().partition("}:")[2]: json.loads(client.get(key)) for key in client.keys("moorline:*")}


def breaker(server: RedisServer) -> dict[str, object]:
    return next((part for name, part in told(server).items() if name.startswith("breaker")), {})


class TestBreaker:
    def test_opens_for_all(self, pair, redis_server):
        ours, theirs = pair.ledgers(Policy(retry=None, breaker=Breaker(failures=3)))
        assert theirs.call(good) == 1
        fail(ours, 3)
        until(lambda: breaker(redis_server).get("state") == "open")
        with pytest.raises(errors.CircuitOpen, match="for all processes: 3 failures in a row") as caught:
            theirs.call(good)
        assert caught.value.retry_at is not None
        assert local(pair, 1).state == "open"  # which saves asking

    def test_failures_of_all_count(self, pair, redis_server):
        ours, theirs = pair.ledgers(Policy(retry=None, breaker=Breaker(failures=4)))
        fail(ours, 2)
        until(lambda: breaker(redis_server).get("row") == 2)
        fail(theirs, 2)
        until(lambda: breaker(redis_server).get("state") == "open")
        for each in (ours, theirs):
            with pytest.raises(errors.CircuitOpen):
                each.call(good)

    def test_closes_for_all(self, pair, redis_server):
        rules = Breaker(failures=2, reset=0.05, successes=2)
        ours, theirs = pair.ledgers(Policy(retry=None, breaker=rules))
        fail(ours, 2)
        until(lambda: breaker(redis_server).get("state") == "open")

        def closed() -> bool:
            for each in (ours, theirs):
                with contextlib.suppress(errors.CircuitOpen):
                    each.call(good)
            return breaker(redis_server)["state"] == "closed"

        until(closed)
        until(lambda: all(local(pair, number).state == "closed" or not closed() for number in (0, 1)))

    def test_an_operator_has_the_last_word(self, pair, redis_server):
        ours, theirs = pair.ledgers(Policy(retry=None, breaker=Breaker(failures=2)))
        fail(ours, 2)
        until(lambda: breaker(redis_server).get("state") == "open")
        local(pair, 1).force("closed")
        assert theirs.call(good) == 1


class TestLimits:
    def test_a_quota_is_one_for_all(self, pair):
        policy = Policy(retry=None, deadline=0.5, rate=RateLimit(4, per=60.0))
        passed = 0
        refusals: list[errors.RateLimited] = []
        for each in pair.ledgers(policy) * 5:
            try:
                passed += each.call(good)
            except errors.RateLimited as error:
                refusals.append(error)
        assert passed == 4
        assert all(error.outcome == "not_sent" and error.retry_at for error in refusals)
        assert any("for all processes" in str(error) for error in refusals)

    def test_a_guard_that_was_there_before_shares_those_of_its_account(self, redis_server):
        """Whoever looked an account's limits up before they were shared, and after it, means the same."""
        guards, policy = Guards(), Policy()
        before = [guards.guard("ledger", policy, account=name) for name in ("", "a", "b")]
        store = SharedStore(redis_server.url)
        guards.share(store)
        after = [guards.guard("ledger", policy, account=name) for name in ("", "a", "b")]
        assert [one.shared for one in before] == [one.shared for one in after]
        assert len({id(one.shared) for one in after}) == 3
        store.close()

    def test_the_retry_budget_is_one_for_all(self, pair):
        """Twenty at once, however many processes want them; one more comes each second."""
        before = time.monotonic()
        tries = 0

        def failing() -> None:
            nonlocal tries
            tries += 1
            raise errors.ConnectionLost("no", outcome="not_sent")

        for each in pair.ledgers(MANY) * 20:
            with pytest.raises(errors.CallError):
                each.call(failing)
        assert 40 + 20 <= tries <= 40 + 20 + time.monotonic() - before + 1


class TestRoundTrips:
    def test_one_for_a_good_call(self, pair, redis_server):
        ours, _ = pair.ledgers(ONCE)
        ours.call(good)
        with redis.Redis.from_url(redis_server.url) as client:
            client.config_resetstat()
            began = time.monotonic()
            for _ in range(100):
                ours.call(good)
            took = time.monotonic() - began
            stats = client.info("commandstats")
        scripts = sum(stats.get(name, {}).get("calls", 0) for name in ("cmdstat_evalsha", "cmdstat_eval"))
        assert 100 <= scripts <= 101 + took / 0.2  # what lingers for a quarter of a second is told by itself

    async def test_calls_at_the_same_time_share_one(self, pair, redis_server):
        ours, _ = pair.ledgers(ONCE)

        async def answer() -> int:
            return 1

        await ours.call(answer)
        with redis.Redis.from_url(redis_server.url) as client:
            client.config_resetstat()
            assert sum(await asyncio.gather(*(ours.call(answer) for _ in range(50)))) == 50
            stats = client.info("commandstats")
        assert stats["cmdstat_evalsha"]["calls"] <= 10

    def test_none_where_there_is_no_store(self, redis_server):
        with redis.Redis.from_url(redis_server.url) as client:
            client.config_resetstat()
            Resilient("ledger", ONCE, guards=Guards()).call(good)
            assert "cmdstat_evalsha" not in client.info("commandstats")


class TestGone:
    @both
    def test_frozen(self, redis_server, colour):
        """One call waits for the patience of the store, 50 ms, the next ones not at all; and it is found again."""
        store = SharedStore(redis_server.url)
        ledger = Resilient("ledger", ONCE, guards=Guards(shared=store))

        async def answer() -> int:
            return 1

        async def call_async() -> float:
            began = time.perf_counter()
            assert await ledger.call(answer) == 1
            return time.perf_counter() - began

        def call() -> float:
            began = time.perf_counter()
            assert ledger.call(good) == 1
            return time.perf_counter() - began

        with asyncio.Runner() as runner:
            took = call if colour == "sync" else lambda: runner.run(call_async())
            took()
            until(lambda: store.up)  # where the machine was too busy for the first
            redis_server.signal(signal.SIGSTOP)
            try:
                first = took()
                assert not store.up
                later = sorted(took() for _ in range(20))
            finally:
                redis_server.signal(signal.SIGCONT)
        assert 0.04 <= first < 0.25
        assert later[10] < 0.005
        assert later[-1] < 0.04
        until(lambda: store.up)
        store.close()

    def test_killed_and_started_again(self, pair, redis_server):
        """The server has forgotten the script, and all state."""
        ours, theirs = pair.ledgers(Policy(retry=None, breaker=Breaker(failures=2)))
        ours.call(good)
        redis_server.kill()
        assert (ours.call(good), theirs.call(good)) == (1, 1)
        redis_server.start()
        until(lambda: all(store.up for store in pair.stores), seconds=20)
        fail(ours, 2)
        until(lambda: breaker(redis_server).get("state") == "open")
        with pytest.raises(errors.CircuitOpen, match="for all processes"):
            theirs.call(good)

    def test_local_state_goes_on_alone(self, redis_server):
        redis_server.kill()
        store = SharedStore(redis_server.url)
        ledger = Resilient("ledger", Policy(retry=None, breaker=Breaker(failures=2)), guards=Guards(shared=store))
        fail(ledger, 2)
        with pytest.raises(errors.CircuitOpen):
            ledger.call(good)
        store.close()


PROCESS = """
import sys, time
from moorline.calls.adapters.functions import Resilient
from moorline.calls.guards import Guards
from moorline.calls.shared_store import SharedStore
from moorline.policies.policy import Policy
from moorline.policies.rate import RateLimit
guards = Guards(shared=SharedStore(sys.argv[1], patience=2.0))
policy = Policy(retry=None, deadline=1.0, rate=RateLimit(30, per=600.0))
passed = 0
for _ in range(30):
    try:
        passed += Resilient("limited", policy, guards=guards).call(lambda: 1)
    except Exception:
        pass
print(passed)
"""


class TestProcesses:
    def test_four_of_them_keep_one_limit(self, redis_server):
        command = [sys.executable, "-c", PROCESS, redis_server.url]
        workers = [Warm(command, stdout=subprocess.PIPE) for _ in range(4)]
        passed = [int(worker.communicate(timeout=60)[0]) for worker in workers]
        assert sum(passed) == 30


class TestConfiguration:
    @pytest.mark.parametrize("url", ["", "redis", "http://host", "redis://"])
    def test_refused(self, url):
        with pytest.raises(ConfigurationError, match="shared state"):
            SharedStore(url)

    def test_the_password_is_not_shown(self):
        store = SharedStore("redis://user:hunter2-hunter2@127.0.0.1:1/0?password=hunter2-hunter2")
        assert "hunter2" not in repr(store) + store.where
        with pytest.raises(ConfigurationError) as caught:
            SharedStore("redis://user:hunter2-hunter2@127.0.0.1:port/0")
        assert "hunter2" not in str(caught.value)

    def test_one_for_a_registry(self, redis_server):
        guards = Guards(shared=redis_server.url)
        guards.share(redis_server.url)
        with pytest.raises(ConfigurationError, match="already"):
            guards.share("redis://127.0.0.1:1/1")

    def test_a_guard_that_was_made_before(self, redis_server):
        guards = Guards()
        ledger = Resilient("ledger", ONCE, guards=guards)
        ledger.call(good)
        guards.share(redis_server.url)
        ledger.call(good)
        until(lambda: bool(breaker(redis_server)))
