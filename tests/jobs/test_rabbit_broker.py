"""The RabbitMQ broker keeps the contract on a real server, as far as a carrier can."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pika
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.orm import Session
from tests.jobs.carried import CarriedConformance
from tests.jobs.conformance import done, enqueue, row, worker
from tests.jobs.noting import NotesConformance
from tests.jobs.ordering import OrderConformance
from tests.jobs.rabbit import own_url, rabbit_broker
from tests.tcp_proxy import TcpProxy

from moorline.clock import SYSTEM, ManualClock
from moorline.errors import ConfigurationError, StoreError, StoreUnavailable
from moorline.events import Relay
from moorline.jobs.broker import Completion, JobFilter
from moorline.jobs.brokers.carrier import Lane
from moorline.jobs.brokers.rabbit_lanes import LONGEST_DELAY, Lanes
from moorline.jobs.brokers.rabbit_link import Link, RabbitWhere, _translated
from moorline.jobs.brokers.rabbitmq import RabbitBroker, RabbitCarrier
from moorline.jobs.job import Claim, JobFailure
from moorline.jobs.registry import Jobs
from moorline.jobs.worker import Worker
from moorline.policies.retry import Retry
from moorline.store import Store

pytestmark = pytest.mark.rabbitmq


class TestRabbitBroker(CarriedConformance, OrderConformance, NotesConformance):
    @pytest.fixture
    def broker(self, rabbit_url: str, clock: ManualClock, tmp_path: Path) -> Iterator[RabbitBroker]:
        with contextlib.ExitStack() as opened:
            store = opened.enter_context(Store(f"sqlite:///{tmp_path}/m.db", clock=clock, auto_migrate=True))
            yield opened.enter_context(rabbit_broker(rabbit_url, outbox=store, clock=clock))


@pytest.fixture
def broker(rabbit_url: str, clock: ManualClock) -> Iterator[RabbitBroker]:
    with rabbit_broker(rabbit_url, clock=clock) as opened:
        yield opened


async def test_a_cut_connection_is_no_crash(rabbit_url: str, clock: ManualClock) -> None:
    """What a worker ran goes on: the same worker is not given it again, and its results count when it is back."""
    with TcpProxy(urlsplit(rabbit_url).port or 0) as proxy:
        through = rabbit_url.replace(str(urlsplit(rabbit_url).port), str(proxy.port))
        with rabbit_broker(through, clock=clock) as broker:
            me = worker(clock)
            ids = await enqueue(broker, clock, 3)
            claims = (await broker.claim(me, 3)).jobs
            assert len(claims) == 3
            proxy.cut(refuse=True)
            while broker.carrier.holds(broker._held[ids[0]].taken):  # noqa: ASYNC110 -- another thread finds out
                await asyncio.sleep(0.001)
            with pytest.raises(StoreUnavailable):
                await broker.claim(me, 3)
            assert await broker.finish([done(claims[0])]) == [False]  # nobody can know yet who has it
            proxy.allow()
            assert (await broker.claim(me, 3)).jobs == []
            assert await broker.finish([done(claim) for claim in claims[1:]]) == [True, True]
            await broker.leave(me)
            other = worker(clock)
            assert (await broker.claim(other, 10)).jobs == []
            assert not (await broker.rescue(other)).suspects


async def test_a_server_that_says_nothing_is_given_up(rabbit_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With StoreUnavailable, when its time is over."""
    monkeypatch.setattr("moorline.jobs.brokers.rabbitmq._CONFIRM", 0.2)
    with TcpProxy(urlsplit(rabbit_url).port or 0) as proxy:
        through = rabbit_url.replace(str(urlsplit(rabbit_url).port), str(proxy.port))
        with rabbit_broker(through) as broker:
            await enqueue(broker, SYSTEM)
            proxy.stall()
            with pytest.raises(StoreUnavailable, match="did not answer"):
                await enqueue(broker, SYSTEM)
            proxy.flow()


def _from_there(event: asyncio.Event) -> Callable[[], None]:
    """Sets it, from whatever thread."""
    loop = asyncio.get_running_loop()

    def heard() -> None:
        loop.call_soon_threadsafe(event.set)

    return heard


@pytest.mark.parametrize("count", [1, 80])
async def test_what_was_pushed_is_claimed_without_another_question(rabbit_url: str, count: int) -> None:
    """A job that an idle worker has waited for begins when it comes, and not after an answer of the server."""
    with TcpProxy(urlsplit(rabbit_url).port or 0) as proxy:
        through = rabbit_url.replace(str(urlsplit(rabbit_url).port), str(proxy.port))
        with rabbit_broker(through) as broker, contextlib.ExitStack() as ends:
            me, came = worker(SYSTEM), asyncio.Event()
            ends.callback(broker.listen(_from_there(came)))
            assert (await broker.claim(me, 100)).jobs == []
            await enqueue(broker, SYSTEM, count)
            await asyncio.wait_for(came.wait(), 10)
            assert isinstance(broker.carrier, RabbitCarrier)
            while sum(broker.carrier._intakes[me.id].here().values()) < count:  # noqa: ASYNC110 -- another thread
                await asyncio.sleep(0.001)
            proxy.stall()
            claims = (await asyncio.wait_for(broker.claim(me, 100), 10)).jobs
            proxy.flow()
            assert len(claims) == count
            assert await broker.finish([done(one) for one in claims]) == [True] * count


async def test_a_queue_that_was_deleted_is_made_again(rabbit_url: str, broker: RabbitBroker) -> None:
    """A message that no queue takes comes back (mandatory), and is sent once there is one."""
    await enqueue(broker, SYSTEM)
    assert isinstance(broker.carrier, RabbitCarrier)
    name = broker.carrier._lanes.name(Lane("default"))
    with contextlib.closing(pika.BlockingConnection(pika.URLParameters(rabbit_url + "%2F"))) as connection:
        connection.channel().queue_delete(name)
    (job_id,) = await enqueue(broker, SYSTEM)
    assert [claim.id for claim in (await broker.claim(worker(SYSTEM), 10)).jobs] == [job_id]


@pytest.mark.parametrize("at_once", [True, False])
async def test_a_worker_goes_on_with_a_queue_that_was_deleted(
    rabbit_url: str, broker: RabbitBroker, *, at_once: bool
) -> None:
    """The server ends its consumer there, and whoever enqueues may make it again first. What it runs stays its own."""
    me, ended = worker(SYSTEM), asyncio.Event()
    first = [*(await enqueue(broker, SYSTEM)), *await broker.enqueue([row(SYSTEM, priority=1)])]
    claims = (await broker.claim(me, 10)).jobs
    assert {claim.id for claim in claims} == set(first)
    assert isinstance(broker.carrier, RabbitCarrier)
    name = broker.carrier._lanes.name(Lane("default"))
    with contextlib.closing(pika.BlockingConnection(pika.URLParameters(rabbit_url + "%2F"))) as connection:
        unlisten = broker.listen(_from_there(ended))
        connection.channel().queue_delete(name)
        ids = await enqueue(broker, SYSTEM) if at_once else []
        await asyncio.wait_for(ended.wait(), 10)
        unlisten()
    (job_id,) = ids or await enqueue(broker, SYSTEM)
    again = (await broker.claim(me, 10)).jobs
    assert [claim.id for claim in again] == [job_id]
    assert await broker.finish([done(claim) for claim in (*claims, *again)]) == [True] * 3
    await broker.leave(me)
    assert set((await broker.counts()).values()) <= {0}


async def test_a_queue_that_was_deleted_is_made_again_for_what_is_delayed(rabbit_url: str) -> None:
    """Of that none comes back: what leads from the delay to the queue is made again."""
    with (
        rabbit_broker(rabbit_url) as broker,
        contextlib.closing(pika.BlockingConnection(pika.URLParameters(rabbit_url + "%2F"))) as connection,
    ):
        channel = connection.channel()
        await broker.enqueue([row(SYSTEM, run_at=SYSTEM.wall() + 60)])
        assert isinstance(broker.carrier, RabbitCarrier)
        lanes = broker.carrier._lanes
        channel.queue_delete(lanes.name(Lane("default")))
        await broker.enqueue([row(SYSTEM, run_at=SYSTEM.wall() + 60)])
        channel.exchange_delete(lanes._hold(-1))
        (job_id,) = await broker.enqueue([row(SYSTEM, run_at=SYSTEM.wall() + 0.3)])
        me = worker(SYSTEM)
        came: set[str] = set()
        async with asyncio.timeout(20):
            while job_id not in came:
                came |= {claim.id for claim in (await broker.claim(me, 10)).jobs}
                await asyncio.sleep(0.01)


async def test_the_dead_can_be_looked_at_for_ever(rabbit_url: str, broker: RabbitBroker) -> None:
    """The server counts how often they were given back, and RabbitMQ 4 drops what was 20 times."""
    ids = await enqueue(broker, SYSTEM, 3)
    claims = (await broker.claim(worker(SYSTEM), 3)).jobs
    await broker.finish([Completion(claim.id, claim.deliveries, "dead", reason="failed") for claim in claims])
    assert isinstance(broker.carrier, RabbitCarrier)
    for _ in range(21):
        assert [job.id for job in await broker.list(JobFilter(state="dead"))] == ids[::-1]
    await broker.skip(ids[0])
    name = broker.carrier._lanes.name(Lane("default", "dead"))
    seen: list[tuple[str, bool]] = []
    with contextlib.closing(pika.BlockingConnection(pika.URLParameters(rabbit_url + "%2F"))) as connection:
        channel = connection.channel()
        async with asyncio.timeout(20):
            while len(seen) < 2:
                _, about, _ = channel.basic_get(name)
                if about is not None:
                    seen.append((about.message_id, about.headers["x-delivery-count"] < 10))
                await asyncio.sleep(0)
        assert channel.basic_get(name) == (None, None, None)
    assert sorted(seen) == [(one, True) for one in ids[1:]]


async def test_messages_can_be_read_by_people(rabbit_url: str, broker: RabbitBroker) -> None:
    """Durable JSON under the job's id and name, in a quorum queue."""
    (job_id,) = await enqueue(broker, SYSTEM, payload=b'{"user":"Zo\xc3\xab"}')
    assert isinstance(broker.carrier, RabbitCarrier)
    with contextlib.closing(pika.BlockingConnection(pika.URLParameters(rabbit_url + "%2F"))) as connection:
        _, about, body = connection.channel().basic_get(broker.carrier._lanes.name(Lane("default")))
    assert (about.message_id, about.type, about.content_type, about.delivery_mode) == (
        job_id, "name", "application/json", 2,
    )  # fmt: skip
    assert b'"text":"{\\"user\\":\\"Zo\xc3\xab\\"}"' in body


@pytest.mark.parametrize(
    ("code", "said", "kind", "match"),
    [
        (406, "inequivalent arg 'durable' for queue 'a'", ConfigurationError, "it exists with other settings"),
        (403, "access to queue 'a' refused", ConfigurationError, "this user may not"),
        (406, "delivery acknowledgement on channel 1 timed out", StoreUnavailable, "it refused"),
        (406, "unknown delivery tag 7", StoreUnavailable, "it refused"),
    ],
)
def test_why_the_server_closed_a_channel_is_told(code: int, said: str, kind: type[Exception], match: str) -> None:
    """A worker ends for what only a person can mend, and for nothing else."""
    error = _translated(pika.exceptions.ChannelClosedByBroker(code, f"PRECONDITION_FAILED - {said}"), "a", reached=True)
    assert type(error) is kind
    assert match in str(error)
    assert said in str(error)


async def test_a_queue_with_other_settings_is_named(rabbit_url: str, broker: RabbitBroker) -> None:
    """Nobody else's queue is used by mistake."""
    assert isinstance(broker.carrier, RabbitCarrier)
    name = broker.carrier._lanes.name(Lane("default"))
    with contextlib.closing(pika.BlockingConnection(pika.URLParameters(rabbit_url + "%2F"))) as connection:
        channel = connection.channel()
        channel.queue_declare(name, durable=False)
        with pytest.raises(ConfigurationError, match="other settings"):
            await enqueue(broker, SYSTEM)
        channel.queue_delete(name)
    await enqueue(broker, SYSTEM)


async def test_delays_of_any_length_come_in_the_order_of_their_times(rabbit_url: str) -> None:
    """A long one before a short one holds nobody up."""
    with rabbit_broker(rabbit_url) as broker:
        now = SYSTEM.wall()
        dues = [now + delay for delay in (1.0, 0.1, 0.6, 0.3, 0.001)]
        await broker.enqueue([row(SYSTEM, run_at=due) for due in dues])
        me = worker(SYSTEM)
        came: list[float] = []
        while len(came) < len(dues):
            claims = (await broker.claim(me, 10)).jobs
            assert all(claim.run_at <= SYSTEM.wall() + 0.01 for claim in claims)
            came += [claim.run_at for claim in claims]
            await asyncio.sleep(0.005)
    assert came == sorted(dues)


@given(st.floats(0.0, LONGEST_DELAY))
def test_the_way_of_a_delay_takes_that_long(delay: float) -> None:
    """The queues that its bits lead through add up to the delay, and at most one unit more."""
    lanes = Lanes("p", "quorum")
    exchange, key = lanes.way(Lane("q"), delay)
    bits, _, name = key.rpartition(".p.q")[0], "", "p.q"
    waited = sum(0.064 * 2 ** (13 - place) for place, bit in enumerate(bits.split(".")) if bit == "1") if bits else 0.0
    assert delay - 1e-6 <= waited < delay + 0.064 + 1e-6
    assert exchange == ("" if not waited else f"p:hold.{13 - bits.split('.').index('1'):02}")
    assert key.endswith(name)


async def test_a_classic_queue_is_believed_the_second_time(rabbit_url: str, clock: ManualClock) -> None:
    """After the server died it marks all messages as redelivered: so the first time makes no suspect, and counts if
    there is a second.
    """
    with rabbit_broker(own_url(rabbit_url, "&queues=classic"), clock=clock) as broker:
        (job_id,) = await enqueue(broker, clock)
        before = worker(clock)
        await broker.claim(before, 1)
        seen = []
        for _ in range(2):
            broker.carrier.dismiss(before)
            broker._held.clear()  # it died: nobody knows here any more
            before = worker(clock)
            claims = (await broker.claim(before, 1)).jobs or (await broker.claim(before, 1, alone=True)).jobs
            seen += [(claim.id, claim.crashes, claim.deliveries) for claim in claims]
        assert seen == [(job_id, 0, 2), (job_id, 2, 3)]
        broker.carrier.dismiss(before)
        broker._held.clear()
        assert (await broker.claim(worker(clock), 1, alone=True)).jobs == []
        assert [(job.reason, job.crashes) for job in await broker.list(JobFilter(state="dead"))] == [("crashed", 3)]


async def test_a_job_that_is_too_large_fails_alone(broker: RabbitBroker) -> None:
    """For who enqueues it, with the limit; those that are enqueued at the same moment are sent."""
    large = broker.enqueue([row(SYSTEM, payload=b"x" * 17_000_000)])
    refused, ids = await asyncio.gather(large, enqueue(broker, SYSTEM), return_exceptions=True)
    assert isinstance(refused, StoreError)
    assert "16,777,216" in str(refused)
    assert [claim.id for claim in (await broker.claim(worker(SYSTEM), 10)).jobs] == ids


async def test_what_becomes_too_large_holds_nobody_up(
    rabbit_url: str, broker: RabbitBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is none of ours is larger in our words, and a job grows by its failures: it is cut, and the others go on."""
    monkeypatch.setattr("moorline.jobs.brokers.rabbitmq._FOLLOWS", 1_000)
    carrier, me = broker.carrier, worker(SYSTEM)
    assert isinstance(carrier, RabbitCarrier)
    carrier.largest = 100_000
    await broker.claim(me, 1)  # so that all lanes are there
    with contextlib.closing(pika.BlockingConnection(pika.URLParameters(rabbit_url + "%2F"))) as connection:
        connection.channel().basic_publish("", carrier._lanes.name(Lane("default")), b"\xff" * 90_000)
    (large,) = await enqueue(broker, SYSTEM, payload=b"x" * 98_500)
    (small,) = await enqueue(broker, SYSTEM)
    claims: dict[str, Claim] = {}
    async with asyncio.timeout(20):
        while len(claims) < 2:
            claims |= {claim.id: claim for claim in (await broker.claim(me, 10)).jobs}
    failure = JobFailure(1, 0.0, "ValueError", "no", "trace" * 800)
    failed = Completion(large, claims[large].deliveries, "dead", reason="failed", error=failure)
    assert await broker.finish([failed, done(claims[small])]) == [True, True]
    dead = {job.id: job for job in await broker.list(JobFilter(state="dead"))}
    assert (dead[large].payload, dead[large].last_error) == (b"x" * 98_500, "ValueError: no")
    (strange,) = dead.keys() - {large}
    kept = dead[strange].payload
    assert kept == b"\xff" * len(kept)
    assert len(kept) > 70_000
    assert [one.message for one in await broker.failures(strange)] == [f"{len(kept):,} of its 90,000 bytes are kept"]


async def test_what_the_server_gave_up_says_so(rabbit_url: str, broker: RabbitBroker) -> None:
    """A message beyond its delivery limit is put among the dead by RabbitMQ itself, as it was: it killed workers."""
    (job_id,) = await enqueue(broker, SYSTEM)
    assert isinstance(broker.carrier, RabbitCarrier)
    name = broker.carrier._lanes.name(Lane("default"))
    await broker.claim(worker(SYSTEM), 1)  # so that all lanes are there
    broker.close()
    with contextlib.closing(pika.BlockingConnection(pika.URLParameters(rabbit_url + "%2F"))) as connection:
        channel = connection.channel()
        async with asyncio.timeout(20):
            while not channel.queue_declare(f"{name}.dead", passive=True).method.message_count:
                method, _, _ = channel.basic_get(name)
                if method is not None:
                    channel.basic_nack(method.delivery_tag, requeue=True)
                await asyncio.sleep(0)
    assert [(job.id, job.state, job.reason) for job in await broker.list(JobFilter(state="dead"))] == [
        (job_id, "dead", "crashed")
    ]


async def test_two_workers_share_what_waits(rabbit_url: str) -> None:
    """Nobody holds back what others could run: each has at most what it asked for, and its high and low lanes' share."""
    with rabbit_broker(rabbit_url) as broker:
        await enqueue(broker, SYSTEM, 40)
        one, other = worker(SYSTEM), worker(SYSTEM)
        first = (await broker.claim(one, 10)).jobs
        assert len(first) == 10
        assert len((await broker.claim(other, 30)).jobs) == 30


async def test_what_waits_with_a_busy_worker_is_given_to_others(rabbit_url: str, clock: ManualClock) -> None:
    """When nothing is left for them in the queue: it was pushed here for a worker that was quick until now."""
    with rabbit_broker(rabbit_url, clock=clock) as broker:
        one, other = worker(clock), worker(clock)
        await broker.claim(one, 50)
        await enqueue(broker, clock, 50)
        while len((await broker.claim(one, 5)).jobs) == 0:
            pass
        clock.advance(2)
        assert (await broker.claim(other, 50)).jobs == []
        await asyncio.to_thread(broker.heartbeat, one)
        got = 0
        while got < 30:
            got += len((await broker.claim(other, 50)).jobs)
        assert not (await broker.rescue(other)).suspects


class TestWhere:
    @pytest.mark.parametrize(
        ("url", "shown", "vhost", "kind"),
        [
            ("amqp://h", "amqp://h", "/", "quorum"),
            ("amqp://u:p%40ss@h:1234/", "amqp://h:1234/", "/", "quorum"),
            ("amqps://u:secret@h1,h2:7/my%2Fhost?queues=classic", "amqps://h1,h2:7/my%2Fhost", "my/host", "classic"),
        ],
    )
    def test_a_url_is_read(self, url: str, shown: str, vhost: str, kind: str) -> None:
        """With all hosts, and without showing a password."""
        where = RabbitWhere(url)
        assert (where.shown, where.kind) == (shown, kind)
        assert "secret" not in repr(where)
        parameters = where.parameters()
        assert [one.virtual_host for one in parameters] == [vhost] * (shown.count(",") + 1)
        assert all((one.ssl_options is not None) == url.startswith("amqps") for one in parameters)

    @pytest.mark.parametrize(
        "url",
        [
            "amqp:/h", "http://h", "amqp://u:secret@h:port/", "amqp://", "amqp://u:secret@h/?queues=fast",
            "amqp://u:secret@h/?prefix=a*", "amqp://u:secret@h/?heartbeat=soon", "amqp://u:secret@h/?surprise=1",
            "amqp://u:secret/x@h/", "amqp://u:12/secret@h/", "amqp://u:1?secret@h", "amqp://u:1#secret@h/",
            "amqp://u:secret@h/?secret", "amqp://u:secret@h/?heartbeat=0", "amqp://u:secret@[h/", "amqp://u:secret@h:99999/",
        ],
    )  # fmt: skip
    def test_a_url_that_cannot_be_used_is_refused(self, url: str) -> None:
        """Without showing a password."""
        with pytest.raises(ConfigurationError) as refused:
            RabbitBroker(url)
        assert "secret" not in str(refused.value)

    def test_certificates_that_are_not_there_are_named(self) -> None:
        """It is no server that does not answer."""
        with pytest.raises(ConfigurationError, match="cafile cannot be read: No such file"):
            RabbitWhere("amqps://u:secret@h/?cafile=/nowhere/ca.pem").parameters()

    @pytest.mark.parametrize("queue", ["a*b", "#", "x" * 151, "new\nline", "mail.low", "mail.dead"])
    async def test_a_name_that_it_cannot_have_is_refused(self, broker: RabbitBroker, queue: str) -> None:
        """Before anything is sent."""
        with pytest.raises(ConfigurationError, match="cannot be the name"):
            await broker.enqueue([row(SYSTEM, queue=queue)])
        with pytest.raises(ConfigurationError, match="cannot be the name"):
            await broker.claim(replace(worker(SYSTEM), queues=("default", queue)), 1)
        assert await broker.counts() == {}  # nor is it remembered: others are counted, and looked at, as before
        assert await broker.list(JobFilter(state="dead")) == []

    async def test_such_a_name_is_refused_within_a_transaction(self, rabbit_url: str, tmp_path: Path) -> None:
        """Or the relay would come upon it, and send nothing of what is behind."""
        with (
            Store(f"sqlite:///{tmp_path}/m.db", auto_migrate=True) as store,
            rabbit_broker(rabbit_url, outbox=store) as broker,
            Session(sa.create_engine(store.url)) as session,
        ):
            with pytest.raises(ConfigurationError, match="cannot be the name"):
                broker.enqueue_within(session.connection(), [row(SYSTEM, queue="a*b")])
            broker.enqueue_within(session.connection(), [row(SYSTEM)])
            session.commit()
            assert (await Relay(store, broker).run_once()).jobs == 1

    def test_a_server_that_starts_is_waited_for(self, rabbit_url: str) -> None:
        """It says that it has no such virtual host until that is there. To who has been there before it is away; to
        who has not, the URL is wrong.
        """
        address, mark, options = rabbit_url.partition("?")
        where = RabbitWhere(f"{address.rstrip('/')}/nowhere{mark}{options}")
        with pytest.raises(ConfigurationError, match="virtual host"):
            Link(where, lambda: None)
        where.reached = True
        with pytest.raises(StoreUnavailable, match="virtual host"):
            Link(where, lambda: None)
        known = RabbitWhere(rabbit_url)
        link = Link(known, lambda: None)
        assert known.reached
        link.close()

    async def test_a_wrong_password_is_said(self, rabbit_url: str) -> None:
        """As something to be mended, not to be waited for."""
        with (
            RabbitBroker(rabbit_url.replace("guest:guest", "guest:wrong")) as broker,
            pytest.raises(ConfigurationError, match="user or password") as refused,
        ):
            await broker.counts()
        assert "wrong" not in str(refused.value)


async def test_a_worker_works_it_off(rabbit_url: str) -> None:
    """Through the worker: retries, priorities, and what its handlers return."""
    ran: list[tuple[str, int]] = []
    with rabbit_broker(rabbit_url) as broker:
        jobs = Jobs(broker)

        async def flaky(number: int) -> None:
            ran.append(("flaky", number))
            if sum(one == ("flaky", number) for one in ran) < 2:
                raise ValueError(number)

        async def hopeless(number: int) -> None:
            raise ValueError(number)

        good = jobs.function(flaky, backoff=Retry(base=0.01))
        bad = jobs.function(hopeless, retries=1, backoff=Retry(base=0.01))
        await good.enqueue_many([(number,) for number in range(100)])
        await bad.enqueue(1)
        worker_ = Worker(jobs, concurrency=10)
        running = asyncio.create_task(worker_.run(signals=False))
        async with asyncio.timeout(30):
            while len(ran) < 200 or not (await broker.counts()).get(("default", "dead")):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        worker_.stop()
        await running
        assert sorted(ran) == sorted([("flaky", number) for number in range(100)] * 2)
        (dead,) = await broker.list(JobFilter(state="dead"))
        assert (dead.reason, dead.attempts, len(await broker.failures(dead.id))) == ("failed", 2, 2)
        async with asyncio.timeout(30):  # RabbitMQ counts what was looked at again a moment after it is back
            while await broker.counts() != {("default", "dead"): 1}:  # noqa: ASYNC110
                await asyncio.sleep(0.02)


def test_what_was_looked_at_a_moment_ago_is_counted(rabbit_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server needs a moment to put messages back; whoever looked and then counts waits for that, once."""
    carrier, dead = RabbitCarrier(rabbit_url), Lane("default", "dead")
    asked: list[Sequence[Lane]] = []

    def counted(lanes: Sequence[Lane]) -> dict[Lane, int]:
        asked.append(lanes)
        return {lane: 2 if lane == dead and len(asked) > 2 else 0 for lane in lanes}

    monkeypatch.setattr(carrier, "_counted", counted)
    carrier._looked[dead] = 2, time.monotonic()
    assert [carrier.waiting(["default"])[dead] for _ in range(2)] == [2, 2]
    assert [len(lanes) == 1 for lanes in asked] == [True, True, True, False, False]
