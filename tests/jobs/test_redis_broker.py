"""The Redis broker keeps the contract on a real server, and says what that server may lose."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import redis
import sqlalchemy as sa
from sqlalchemy.orm import Session
from tests.calls.tls_server import certify
from tests.jobs.conformance import BrokerConformance, RecordConformance, done, enqueue, row, worker
from tests.jobs.noting import NotesConformance
from tests.jobs.ordering import KnownIds, OrderConformance
from tests.jobs.outbox import OutboxConformance, within
from tests.servers import RedisCluster, RedisServer, Sentinels, free_port

from moorline.clock import ManualClock
from moorline.errors import ConfigurationError, JobNotFound, Misuse, StoreUnavailable
from moorline.events import Relay
from moorline.jobs.broker import Claimed, Completion, JobFilter
from moorline.jobs.brokers.redis import RedisBroker
from moorline.jobs.brokers.redis_link import _host
from moorline.jobs.job import JobFailure, JobRow
from moorline.jobs.registry import Jobs
from moorline.store import Store

pytestmark = pytest.mark.redis

FAILURE = JobFailure(1, 0.0, "ValueError", "no", "trace")


class TestRedisBroker(BrokerConformance, RecordConformance, OrderConformance, KnownIds, NotesConformance):
    @pytest.fixture
    def broker(self, redis_server: RedisServer, clock: ManualClock) -> Iterator[RedisBroker]:
        with RedisBroker(redis_server.url, clock=clock) as broker:
            yield broker


class TestRedisBrokerWithADatabase(OutboxConformance):
    @pytest.fixture
    def broker(self, redis_server: RedisServer, clock: ManualClock, tmp_path: Path) -> Iterator[RedisBroker]:
        with (
            Store(f"sqlite:///{tmp_path}/m.db", clock=clock, auto_migrate=True) as store,
            RedisBroker(redis_server.url, outbox=store, clock=clock) as broker,
        ):
            yield broker


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    with RedisCluster(tmp_path_factory.mktemp("cluster")) as nodes:
        yield nodes


class TestRedisClusterBroker(BrokerConformance, RecordConformance, OrderConformance, KnownIds, NotesConformance):
    """The same over three nodes, each with a third of the slots."""

    @pytest.fixture
    def broker(self, cluster: RedisCluster, clock: ManualClock) -> Iterator[RedisBroker]:
        cluster.empty()
        with RedisBroker(cluster.url, clock=clock) as broker:
            yield broker


async def test_what_was_acknowledged_is_there_after_a_kill(durable_redis: RedisServer, clock: ManualClock) -> None:
    """With a file that is flushed at each write. Meanwhile everything raises StoreUnavailable, and then goes on."""
    with RedisBroker(durable_redis.url, clock=clock) as broker:
        ids = await enqueue(broker, clock, 50)
        me = worker(clock)
        claims = (await broker.claim(me, 20)).jobs
        assert all(await broker.finish([done(claim) for claim in claims[:10]]))
        durable_redis.kill()
        for question in (enqueue(broker, clock), broker.claim(me, 1), broker.get(ids[0]), broker.counts()):
            with pytest.raises(StoreUnavailable):
                await question
        durable_redis.start()
        clock.advance(1)
        while True:
            try:
                counts = await broker.counts()
                break
            except StoreUnavailable:
                await asyncio.sleep(0.02)
        assert counts == {("default", "done"): 10, ("default", "running"): 10, ("default", "ready"): 30}
        assert all(await broker.finish([done(claim) for claim in claims[10:]]))
        assert len((await broker.claim(me, 100)).jobs) == 30


async def test_sentinels_name_the_new_server(tmp_path: Path, clock: ManualClock) -> None:
    """After the first one is killed the broker goes on with its replica, and has what that had got."""
    with Sentinels(tmp_path) as sentinels, RedisBroker(sentinels.url, clock=clock) as broker:
        await enqueue(broker, clock, 20)
        sentinels.wait_for_replica()
        sentinels.kill_server()
        while True:
            try:
                await enqueue(broker, clock)
                break
            except StoreUnavailable:
                clock.advance(1)
                await asyncio.sleep(0.1)
        assert (await broker.counts())["default", "ready"] == 21


async def test_a_cluster_of_which_no_node_answers_is_away(tmp_path: Path, clock: ManualClock) -> None:
    """As one server that is: to who has been there before, and to who has not."""
    with RedisCluster(tmp_path) as nodes, RedisBroker(nodes.url, clock=clock) as broker:
        await enqueue(broker, clock)
        nodes.kill()
        with RedisBroker(nodes.url, clock=clock) as other:
            for one in (broker, other):
                for question in (enqueue(one, clock), one.claim(worker(clock), 1), one.get("x"), one.counts()):
                    with pytest.raises(StoreUnavailable):
                        await question
                with pytest.raises(StoreUnavailable):
                    one.ping()


async def test_concurrent_enqueues_share_round_trips(redis_server: RedisServer) -> None:
    """A thousand at once are a handful of scripts."""

    async def job(number: int) -> None: ...

    with RedisBroker(redis_server.url) as broker, redis.Redis.from_url(redis_server.url) as client:
        function = Jobs(broker).function(job)
        await function.enqueue(0)
        client.config_resetstat()
        await asyncio.gather(*(_awaited(function.enqueue(number)) for number in range(1000)))
        assert client.info("commandstats")["cmdstat_evalsha"]["calls"] < 50
        assert (await broker.counts())["default", "ready"] == 1001


@pytest.mark.parametrize("colour", ["async", "sync"])
async def test_very_many_are_enqueued_some_at_a_time(
    redis_server: RedisServer, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, colour: str
) -> None:
    """Else the server would serve nobody for so long that the answer was given up, and all were there twice."""
    monkeypatch.setattr("moorline.jobs.brokers.redis._AT_A_TIME", 4)
    rows = [row(clock) for _ in range(10)]
    with RedisBroker(redis_server.url, clock=clock) as broker, redis.Redis.from_url(redis_server.url) as client:
        await enqueue(broker, clock)
        client.config_resetstat()
        ids = await (broker.enqueue(rows) if colour == "async" else asyncio.to_thread(broker.enqueue_sync, rows))
        assert ids == [one.id for one in rows]
        assert client.info("commandstats")["cmdstat_evalsha"]["calls"] == 3
        assert (await broker.counts())["default", "ready"] == 11
        assert await broker.enqueue([]) == []


async def test_a_trial_is_cleared_and_nothing_else(redis_server: RedisServer) -> None:
    """What stands in its prefix is no pattern."""

    async def job() -> None: ...

    for name, other in (("a*", "ab"), ("[ab]", "a"), ("a?", "ac"), ("a\\*", "a*")):
        with (
            RedisBroker(redis_server.url, prefix=name) as broker,
            RedisBroker(redis_server.url, prefix=other) as beside,
        ):
            for one in (broker, beside):
                await Jobs(one).function(job).enqueue()
            broker.clear()
            assert (await broker.counts(), await beside.counts()) == ({}, {("default", "ready"): 1})
            beside.clear()


async def _awaited(enqueued):
    return await enqueued


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--appendonly", "no"], "no append-only file"),
        (["--appendonly", "yes", "--appendfsync", "everysec"], "each second"),
        (["--appendonly", "yes", "--appendfsync", "always"], None),
    ],
)
async def test_what_the_server_may_lose_is_said_once(
    options: list[str], words: str | None, clock: ManualClock, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """In the log, when the broker is first used."""
    with RedisServer(options=[*options, "--dir", str(tmp_path)]) as server, RedisBroker(server.url) as broker:
        await enqueue(broker, clock)
        await enqueue(broker, clock)
    told = [one.getMessage() for one in caplog.records if "queue_may_lose" in one.getMessage()]
    assert len(told) == (words is not None)
    assert words is None or words in told[0]


async def test_a_server_that_throws_keys_away_is_refused(clock: ManualClock) -> None:
    """Eviction would take jobs; volatile policies do not, as no job has a time to live."""
    full = ["--maxmemory", "50mb", "--maxmemory-policy"]
    with RedisServer(options=[*full, "allkeys-lru"]) as server, RedisBroker(server.url) as broker:
        with pytest.raises(ConfigurationError, match="noeviction"):
            await enqueue(broker, clock)
        with pytest.raises(ConfigurationError, match="noeviction"):
            broker.ping()
    with RedisServer(options=[*full, "volatile-lru"]) as server, RedisBroker(server.url) as broker:
        await enqueue(broker, clock)


async def test_a_full_server_takes_no_job_and_loses_none(clock: ManualClock) -> None:
    """It says so; what is there is worked off all the same, and when that is pruned there is room again."""
    with (
        RedisServer(options=["--maxmemory", "8mb", "--maxmemory-policy", "noeviction"]) as server,
        RedisBroker(server.url, clock=clock) as broker,
    ):
        taken: list[str] = []
        with pytest.raises(StoreUnavailable, match="full"):
            await _fill(broker, clock, taken)
        assert (await broker.counts()) == {("default", "ready"): len(taken)}
        me = worker(clock)
        claims = (await broker.claim(me, 1000)).jobs
        assert [one.id for one in claims] == taken
        failed = Completion(claims[0].id, claims[0].deliveries, "dead", reason="failed", error=FAILURE)
        assert all(await broker.finish([failed, *(done(one) for one in claims[1:])]))
        await broker.rescue(me)
        await broker.retry(claims[0].id)
        assert await broker.prune(clock.wall() + 1) == len(taken) - 1
        assert await enqueue(broker, clock)


async def test_a_job_that_is_refused_takes_no_result_and_no_claim_along(clock: ManualClock) -> None:
    """Sent together to a server that is full: the result is stored, once, and says so; the claim has its job."""
    with (
        RedisServer(options=["--maxmemory", "8mb", "--maxmemory-policy", "noeviction"]) as server,
        RedisBroker(server.url, clock=clock) as broker,
    ):
        with pytest.raises(StoreUnavailable, match="full"):
            await _fill(broker, clock, [])
        me = worker(clock)
        (claim,) = (await broker.claim(me, 1)).jobs
        finished, refused, claimed = await asyncio.gather(
            broker.finish([done(claim)]),
            enqueue(broker, clock, payload=b"x" * 100_000),
            broker.claim(me, 1),
            return_exceptions=True,
        )
        assert finished == [True]
        assert isinstance(refused, StoreUnavailable)
        assert isinstance(claimed, Claimed)
        assert len(claimed.jobs) == 1


async def _fill(broker: RedisBroker, clock: ManualClock, taken: list[str]) -> None:
    while True:
        taken += await enqueue(broker, clock, payload=b"x" * 100_000)


def test_a_wrong_url_is_named_without_its_password() -> None:
    """So is a prefix that is none."""
    for url in ("amqp://u:hunter22@host/", "redis://", "redis+sentinel://u:hunter22@host/", "redis://u:hunter22@h:x/0"):
        with pytest.raises(ConfigurationError) as caught:
            RedisBroker(url).ping()
        assert "hunter22" not in str(caught.value)
    with pytest.raises(ConfigurationError, match="prefix"):
        RedisBroker("redis://localhost", prefix="a:b")
    assert repr(RedisBroker("redis://u:hunter22@localhost:6379/1?x=1")) == "RedisBroker('redis://localhost:6379/1')"


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://host/name?sentinel_password=hunter@22", "redis://host/0?password=hunter@22",
        "redis://u:22/hunter@host/0", "redis://:22?hunter@host/0", "redis://u:22#hunter@host/0",
        "redis+cluster://u:22/hunter@host", "redis://u:22@[host/0",
    ],
)  # fmt: skip
def test_a_password_that_is_not_escaped_is_refused(url: str) -> None:
    """Before a part of it is taken for the host, and told to the log and to the resolver."""
    with pytest.raises(ConfigurationError, match="escaped") as caught:
        RedisBroker(url)
    assert "22" not in str(caught.value)


def test_a_password_is_escaped_in_every_url(tmp_path: Path) -> None:
    """Also where sentinels are asked first; one that the server refuses is said to be refused."""
    configuration = tmp_path / "sentinel.conf"
    with RedisServer(options=["--requirepass", "p@ss:/word"]) as server:
        configuration.write_text(
            f"sentinel monitor jobs 127.0.0.1 {server.port} 1\nsentinel auth-pass jobs p@ss:/word\nrequirepass s&p\n"
        )
        with RedisServer(configuration=configuration) as sentinel:
            for address in (
                f"127.0.0.1:{server.port}/0",
                f"127.0.0.1:{sentinel.port}/jobs?sentinel_password=s%26p",
            ):
                kind = "redis+sentinel" if "jobs" in address else "redis"
                with RedisBroker(f"{kind}://:p%40ss%3A%2Fword@{address}") as broker:
                    broker.ping()
                with (
                    RedisBroker(f"{kind}://:other@{address}") as broker,
                    pytest.raises(StoreUnavailable, match="refuses user or password"),
                ):
                    broker.ping()


@pytest.mark.parametrize("both", [True, False])
async def test_sentinels_are_asked_with_tls_too(
    tmp_path: Path, clock: ManualClock, both: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a URL with TLS says, and with what it says of certificates; unless only the server has it."""
    monkeypatch.setattr("moorline.jobs.brokers.redis_link._CONNECT", 0.5)
    authority, own = certify(tmp_path, "127.0.0.1")
    configuration = tmp_path / "sentinel.conf"
    trust = ["--tls-ca-cert-file", str(authority), "--tls-cert-file", str(own), "--tls-key-file", str(own)]
    trust += ["--tls-auth-clients", "no", "--tls-replication", "yes"]
    port, asked = free_port(), free_port()
    with RedisServer(port=port, options=["--port", "0", "--tls-port", str(port), *trust]):
        configuration.write_text(f"sentinel monitor jobs 127.0.0.1 {port} 1\n")
        options = [*trust, *(["--port", "0", "--tls-port", str(asked)] if both else [])]
        with RedisServer(configuration=configuration, port=asked, options=options):
            url = f"rediss+sentinel://127.0.0.1:{asked}/jobs?ssl_ca_certs={authority}"
            with RedisBroker(url + ("" if both else "&sentinel_tls=false"), clock=clock) as broker:
                assert len(await enqueue(broker, clock)) == 1
            with (
                RedisBroker(url + ("&sentinel_tls=false" if both else ""), clock=clock) as broker,
                pytest.raises(StoreUnavailable),
            ):
                broker.ping()


async def test_a_silent_sentinel_is_asked_once(
    tmp_path: Path, clock: ManualClock, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And then the next one: a machine that hangs does not cost minutes."""
    monkeypatch.setattr("moorline.jobs.brokers.redis_link._CONNECT", 0.2)
    configuration = tmp_path / "sentinel.conf"
    configuration.write_text(f"sentinel monitor jobs 127.0.0.1 {redis_server.port} 1\n")
    asked = 0
    with RedisServer(configuration=configuration) as sentinel, socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]},127.0.0.1:{sentinel.port}"
        with RedisBroker(f"redis+sentinel://{address}/jobs", clock=clock) as broker:
            assert len(await enqueue(broker, clock)) == 1
        silent.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                silent.accept()[0].close()
                asked += 1
    assert asked == 1


@pytest.mark.parametrize("option", ["protocol=3", "decode_responses=true", "sentinel_tls=perhaps", "other=hunter"])
@pytest.mark.parametrize("url", ["redis://127.0.0.1:1/0", "redis+sentinel://127.0.0.1:1/jobs"])
def test_an_option_that_would_change_the_answers_is_refused(url: str, option: str) -> None:
    """And one that the driver does not know, before anything is sent: nobody listens there."""
    with pytest.raises(ConfigurationError) as caught:
        RedisBroker(f"{url}?{option}").ping()
    name, _, value = option.partition("=")
    assert (name in str(caught.value)) == (name in ("protocol", "decode_responses"))
    assert value not in str(caught.value)


def test_sentinels_have_addresses_of_both_kinds() -> None:
    """With a port and without."""
    hosts = [_host(text) for text in ("h", "h:1", "10.0.0.1", "[::1]", "[::1]:1")]
    assert hosts == [("h", 26379), ("h", 1), ("10.0.0.1", 26379), ("::1", 26379), ("::1", 1)]


async def test_prefixes_share_a_server(redis_server: RedisServer, clock: ManualClock) -> None:
    """Applications with names of their own see nothing of each other."""
    with RedisBroker(redis_server.url, prefix="a") as first, RedisBroker(redis_server.url, prefix="b") as second:
        (job_id,) = await enqueue(first, clock)
        with pytest.raises(JobNotFound):
            await second.get(job_id)
        assert await second.counts() == {}


async def test_a_key_is_unique_or_ordered(redis_server: RedisServer, clock: ManualClock) -> None:
    """Not both, as on the other brokers."""
    with RedisBroker(redis_server.url) as broker, pytest.raises(Misuse):
        await broker.enqueue([row(clock, unique_key="u", order_key="=n\tk")])


async def test_a_callers_transaction_enqueues_through_the_outbox(redis_server: RedisServer, tmp_path: Path) -> None:
    """What it rolls back is no job; what it commits waits in its database until it is relayed."""

    async def job(number: int) -> None: ...

    with (
        Store(f"sqlite:///{tmp_path}/a.db") as store,
        Store(f"sqlite:///{tmp_path}/b.db") as other,
        RedisBroker(redis_server.url, outbox=store) as broker,
    ):
        function = Jobs(broker).function(job)
        with Session(sa.create_engine(store.url)) as session:
            await function.using(within=session).enqueue(1)
            session.rollback()
            kept = await function.using(within=session).enqueue(2)
            session.commit()
        assert await broker.counts() == {("default", "outbox"): 1}
        assert [one.id for one in await broker.list(JobFilter(state="outbox"))] == [kept.id]
        assert (await broker.get(kept.id)).state == "outbox"
        with Session(sa.create_engine(other.url)) as session, pytest.raises(ConfigurationError, match="within"):
            await function.using(within=session).enqueue(3)
        assert (await Relay(store, broker).run_once()).jobs == 1
        assert await broker.counts() == {("default", "ready"): 1}
        assert (await broker.get(kept.id)).state == "ready"
    with RedisBroker(redis_server.url) as alone, pytest.raises(ConfigurationError, match="Redis"):
        alone.enqueue_within(object(), [])


async def test_while_redis_is_away_what_waits_to_be_relayed_is_called_off(
    redis_server: RedisServer, tmp_path: Path, clock: ManualClock
) -> None:
    """That is when most waits there. Of other jobs nothing is known then."""
    with (
        Store(f"sqlite:///{tmp_path}/m.db", clock=clock, auto_migrate=True) as store,
        RedisBroker(redis_server.url, outbox=store, clock=clock) as broker,
    ):
        (there,) = await enqueue(broker, clock)
        waits = row(clock)
        within(broker, store, [waits])
        redis_server.kill()
        assert [one.id for one in await broker.list(JobFilter(state="outbox"))] == [waits.id]
        assert (await broker.cancel(waits.id)).state == "cancelled"
        with pytest.raises(StoreUnavailable):
            await broker.cancel(there)


@pytest.mark.parametrize("answered", [True, False])
async def test_what_is_called_off_while_it_is_relayed_does_not_run(
    redis_server: RedisServer, tmp_path: Path, clock: ManualClock, answered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis has it already, and its answer came, or was lost: the relay calls it off there."""
    with (
        Store(f"sqlite:///{tmp_path}/m.db", clock=clock, auto_migrate=True) as store,
        RedisBroker(redis_server.url, outbox=store, clock=clock) as broker,
    ):
        one = row(clock)
        within(broker, store, [one])
        relay, enqueued = Relay(store, broker), broker.enqueue

        async def enqueue_slowly(rows: Sequence[JobRow], *, again: bool = False) -> list[str]:
            ids = await enqueued(rows, again=again)
            await broker._kept.cancel(one.id)  # as by who looked in Redis before
            if not answered:
                raise StoreUnavailable("the answer is lost")
            return ids

        monkeypatch.setattr(broker, "enqueue", enqueue_slowly)
        with contextlib.suppress(StoreUnavailable):
            await relay.run_once()
        await relay.run_once()
        assert (await broker.claim(worker(clock), 1)).jobs == []
        assert [job.state for job in await broker.list(JobFilter())] == ["cancelled"]
