"""The SQS broker keeps the contract on two emulators, as far as a carrier can."""

from __future__ import annotations

import asyncio
import contextlib
import io
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args
from uuid import uuid4

import botocore.session
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.jobs.carried import CarriedConformance
from tests.jobs.conformance import done, enqueue, worker
from tests.jobs.noting import NotesConformance
from tests.jobs.ordering import OrderConformance
from tests.jobs.sqs import carrier_of, changed, claimed_by, jobs, living, opened_at, recorded
from tests.servers import until
from tests.sqs_servers import MotoServer

from moorline.clock import SYSTEM, ManualClock
from moorline.errors import ConfigurationError, JobStateError, StoreError, StoreUnavailable
from moorline.jobs.broker import Broker, Completion, JobFilter
from moorline.jobs.brokers.carrier import Kind, Lane, Taken
from moorline.jobs.brokers.sqs import SqsBroker, SqsCarrier
from moorline.jobs.brokers.sqs_bodies import LARGEST, Bodies
from moorline.jobs.brokers.sqs_intake import Ear, Grip, Out
from moorline.jobs.brokers.sqs_lanes import lane_name
from moorline.jobs.brokers.sqs_link import Link, Refused, SqsWhere
from moorline.jobs.registry import Jobs
from moorline.jobs.worker import Worker
from moorline.policies.retry import Retry

# ruff: noqa: ASYNC110 -- what a server does can only be looked for

pytestmark = pytest.mark.usefixtures("aws")

LANE = Lane("default")


class TestOnMoto(CarriedConformance, OrderConformance, NotesConformance):
    delay = 1.0

    @pytest.fixture
    def broker(self, moto_url: str, clock: ManualClock, tmp_path: Path, migrated: Path) -> Iterator[SqsBroker]:
        with opened_at(moto_url, tmp_path, clock, migrated) as broker:
            yield broker

    async def test_a_thousand_jobs_go_through(self, broker: Broker, clock: ManualClock) -> None:
        """A tenth of them: moto copies all that it has for each that it gives out."""
        ids = await enqueue(broker, clock, 103)
        claims = (await broker.claim(worker(clock), 500)).jobs
        assert [claim.id for claim in claims] == sorted(ids)
        assert all(await broker.finish([done(claim) for claim in claims]))


@pytest.mark.oracles
class TestOnFauxqs(CarriedConformance, OrderConformance):
    delay = 1.0

    @pytest.fixture
    def broker(self, fauxqs_url: str, clock: ManualClock, tmp_path: Path, migrated: Path) -> Iterator[SqsBroker]:
        with opened_at(fauxqs_url, tmp_path, clock, migrated) as broker:
            yield broker


# --- what is SQS's own


@pytest.fixture
def broker(moto_url: str) -> Iterator[SqsBroker]:
    """On the machine's clock: it is the server that waits."""
    with SqsBroker(moto_url) as broker:
        yield broker


@pytest.fixture
def asked(broker: SqsBroker) -> list[tuple[str, dict[str, Any]]]:
    """The requests of that broker, as they are made."""
    return recorded(carrier_of(broker))


async def in_flight(asked: list[tuple[str, dict[str, Any]]]) -> None:
    """Until somebody long-polls."""
    async with asyncio.timeout(10):
        while not any(one["WaitTimeSeconds"] for name, one in asked if name == "receive_message"):
            await asyncio.sleep(0.005)


async def test_a_worker_that_beats_keeps_its_jobs_and_one_that_does_not_makes_suspects(broker: SqsBroker) -> None:
    """The visibility timeout is the lease: each beat begins it anew, and without one the job comes again, apart."""
    me, other = living(1.0), living(1.0)
    (job_id,) = await broker.enqueue(jobs())
    (claim,) = (await broker.claim(me, 1)).jobs
    taken = broker._held[job_id].taken
    until_ = SYSTEM.monotonic() + 2.2
    while SYSTEM.monotonic() < until_:
        await asyncio.to_thread(broker.heartbeat, me)
        assert broker.carrier.take(other, 10) == []
    assert broker.carrier.holds(taken)
    del broker._held[job_id]  # it dies
    async with asyncio.timeout(10):
        while not (await broker.rescue(other)).suspects:
            assert (await broker.claim(other, 10)).jobs == []
    (again,) = await claimed_by(broker, other, 1, alone=True)
    assert (again.id, again.crashes, again.deliveries) == (claim.id, 1, 2)
    assert await broker.finish([done(again)]) == [True]


async def test_a_result_that_comes_after_its_lease_is_refused_and_counts_when_the_job_comes_back(
    broker: SqsBroker,
) -> None:
    """Nobody can know who has it meanwhile; who is given its own job again need not run it again."""
    me = living(1.0)
    (job_id,) = await broker.enqueue(jobs())
    (claim,) = (await broker.claim(me, 1)).jobs
    taken = broker._held[job_id].taken
    while broker.carrier.holds(taken):
        await asyncio.sleep(0.01)
    assert await broker.finish([done(claim)]) == [False]
    async with asyncio.timeout(10):
        while await broker.counts() != {}:
            assert (await broker.claim(me, 10)).jobs == []
    assert not (await broker.rescue(me)).suspects


async def test_many_jobs_go_ten_at_a_time(broker: SqsBroker, asked: list[tuple[str, dict[str, Any]]]) -> None:
    """Sent, received and deleted in batches, each of one queue."""
    await broker.enqueue([*jobs(23), *jobs(1, priority=0)])
    me = living()
    claims = (await broker.claim(me, 24)).jobs
    assert len(claims) == 24
    assert all(await broker.finish([done(claim) for claim in claims]))
    for operation in ("send_message_batch", "delete_message_batch"):
        sizes = [len(parameters["Entries"]) for name, parameters in asked if name == operation]
        assert sorted(sizes) == [1, 3, 10, 10]
    assert await broker.counts() == {}


async def test_a_batch_has_no_more_bytes_than_sqs_ever_took(
    broker: SqsBroker, asked: list[tuple[str, dict[str, Any]]]
) -> None:
    """256 KiB; a message that is larger goes alone."""
    await broker.enqueue([one for size in (100_000, 100_000, 100_000, 900_000, 5) for one in jobs(payload=b"x" * size)])
    sizes = [len(parameters["Entries"]) for name, parameters in asked if name == "send_message_batch"]
    assert sorted(sizes) == [1, 1, 1, 2]


async def test_what_failed_of_a_batch_is_sent_again(broker: SqsBroker) -> None:
    """Only that, so that nothing is doubled; until it is clear that SQS does not take it."""
    carrier = carrier_of(broker)
    ask, failing, calls = carrier.link.ask, 1, []

    def partly(parameters: dict[str, Any]) -> dict[str, Any]:
        first, *rest = parameters["Entries"]
        calls.append(len(parameters["Entries"]))
        if len(calls) > failing:
            return ask("send_message_batch", **parameters)
        answer = ask("send_message_batch", **(parameters | {"Entries": rest})) if rest else {}
        return answer | {"Failed": [{"Id": first["Id"], "SenderFault": False, "Code": "InternalError"}]}

    changed(carrier, "send_message_batch", partly)
    ids = await broker.enqueue(jobs(5))
    assert calls == [5, 1]
    claims = await claimed_by(broker, living(), 5)
    assert sorted(claim.id for claim in claims) == sorted(ids)
    assert all(await broker.finish([done(claim) for claim in claims]))
    failing = 1000
    with pytest.raises(StoreUnavailable, match="did not take 1 of 2"):
        await broker.enqueue(jobs(2))
    assert len(await claimed_by(broker, living(), 1)) == 1


async def test_what_sqs_finds_wrong_is_not_sent_again(broker: SqsBroker) -> None:
    """It would be found wrong again; and what it stored must be what was sent."""
    carrier = carrier_of(broker)
    ask = carrier.link.ask
    calls: list[int] = []

    def refuse(parameters: dict[str, Any]) -> dict[str, Any]:
        calls.append(1)
        return {"Failed": [{"Id": "0", "SenderFault": True, "Code": "InvalidMessageContents", "Message": "x"}]}

    changed(carrier, "send_message_batch", refuse)
    with pytest.raises(StoreError, match="InvalidMessageContents") as refused:
        await broker.enqueue(jobs())
    assert not isinstance(refused.value, StoreUnavailable)
    assert len(calls) == 1
    carrier.link.ask = ask  # type: ignore[method-assign]
    changed(carrier, "send_message_batch", lambda _: {"Successful": [{"Id": "0", "MD5OfMessageBody": "0" * 32}]})
    with pytest.raises(StoreError, match="something else"):
        await broker.enqueue(jobs())


async def test_what_is_not_deleted_is_not_said_to_be(broker: SqsBroker) -> None:
    """A receipt that is good for nothing means that it is gone; anything else is tried again, then raised."""
    carrier = carrier_of(broker)
    ask, faults = carrier.link.ask, [False, None]

    def fail(parameters: dict[str, Any]) -> dict[str, Any]:
        fault = faults.pop(0)
        if fault is None:
            return ask("delete_message_batch", **parameters)
        return {"Failed": [{"Id": "0", "SenderFault": fault, "Code": "InternalError"}]}

    await broker.enqueue(jobs())
    (claim,) = (await broker.claim(living(), 1)).jobs
    changed(carrier, "delete_message_batch", fail)
    assert await broker.finish([done(claim)]) == [True]
    await broker.enqueue(jobs())
    (claim,) = (await broker.claim(living(), 1)).jobs
    taken = broker._held[claim.id].taken
    for answers in ([False] * 3, [True]):
        faults[:] = answers
        with pytest.raises(StoreUnavailable, match="did not delete"):
            await broker.finish([done(claim)])
    faults[:] = [None]
    assert await broker.finish([done(claim)]) == [True]
    faults[:] = [None]
    carrier.settle([taken])


async def test_a_queue_that_was_deleted_is_made_again(moto: MotoServer, broker: SqsBroker) -> None:
    """When something is sent; until then it is as good as empty."""
    broker.carrier = carrier = SqsCarrier(f"{moto.url}&prefix=t{uuid4().hex[:12]}", clock=ManualClock())
    me = living()
    await broker.enqueue(jobs(2))
    (claim,) = (await broker.claim(me, 1)).jobs
    moto.client().delete_queue(QueueUrl=carrier.lanes.url(LANE))
    assert await broker.finish([done(claim)]) == [True]
    carrier.keep([])
    assert await broker.counts() == {}
    (job_id,) = await broker.enqueue(jobs())
    assert [one.id for one in await claimed_by(broker, me, 1)] == [job_id]
    carrier.close()


async def test_a_queue_that_was_deleted_between_two_jobs_is_made_again(moto: MotoServer, broker: SqsBroker) -> None:
    """What looks and what takes meanwhile finds nothing, and does not fail."""
    carrier = carrier_of(broker)
    carrier._sender._clock = ManualClock()  # its pause is for Amazon, which makes queues slowly
    client, me = moto.client(), living()

    async def delete() -> None:
        (job_id,) = await broker.enqueue(jobs())
        assert broker._held == {}
        client.delete_queue(QueueUrl=carrier.lanes.url(LANE))
        assert job_id

    await delete()
    assert await broker.counts() == {}
    await delete()
    (job_id,) = await broker.enqueue(jobs())
    await delete()
    assert carrier.take(me, 1) == []
    (job_id,) = await broker.enqueue(jobs())
    assert [claim.id for claim in (await broker.claim(me, 5)).jobs] == [job_id]


async def test_all_queues_that_were_deleted_are_made_again(moto: MotoServer, broker: SqsBroker) -> None:
    """With that of the dead letters, whose name the others need: what is sent and taken goes on."""
    broker.carrier = carrier = SqsCarrier(f"{moto.url}&prefix=t{uuid4().hex[:12]}", clock=ManualClock())
    client, me = moto.client(), living()
    await broker.enqueue(jobs())
    for kind in ("normal", "dead"):
        client.delete_queue(QueueUrl=carrier.lanes.url(Lane("default", kind)))
    assert carrier.take(me, 1) == []
    (job_id,) = await broker.enqueue(jobs())
    assert [one.id for one in await claimed_by(broker, me, 1)] == [job_id]
    dead = carrier.lanes.url(Lane("default", "dead"))
    assert client.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]
    carrier.close()


async def test_what_others_deleted_is_no_longer_held(moto: MotoServer, broker: SqsBroker) -> None:
    """The next beat finds out."""
    me = living()
    (job_id,) = await broker.enqueue(jobs())
    await broker.claim(me, 1)
    taken = broker._held[job_id].taken
    moto.client().purge_queue(QueueUrl=carrier_of(broker).lanes.url(LANE))
    await asyncio.to_thread(broker.heartbeat, me)
    assert not broker.carrier.holds(taken)


async def test_a_claim_that_is_cut_short_gives_what_it_has(broker: SqsBroker) -> None:
    """It is with us already; what went wrong is told to who asks next."""
    carrier = carrier_of(broker)
    ask = carrier.link.ask
    (urgent, _) = await broker.enqueue([*jobs(priority=0), *jobs()])
    high = carrier.lanes.url(Lane("default", "high"))

    def cut(parameters: dict[str, Any]) -> dict[str, Any]:
        if parameters["QueueUrl"] != high:
            raise StoreUnavailable("cut")
        return ask("receive_message", **parameters)

    changed(carrier, "receive_message", cut)
    me = living()
    assert [one.lane.kind for one in carrier.take(me, 5)] == ["high"]
    with pytest.raises(StoreUnavailable, match="cut"):
        await broker.claim(me, 5)
    assert urgent


async def test_a_dead_letter_is_found_where_a_short_poll_finds_nothing(broker: SqsBroker) -> None:
    """A short poll asks some of Amazon's machines only: where SQS counts a message, all are asked."""
    carrier = carrier_of(broker)
    ask = carrier.link.ask
    me = living()
    (job_id,) = await broker.enqueue(jobs())
    (claim,) = (await broker.claim(me, 1)).jobs
    await broker.finish([Completion(claim.id, claim.deliveries, "dead", reason="failed")])

    def sampled(parameters: dict[str, Any]) -> dict[str, Any]:
        return ask("receive_message", **parameters) if parameters["WaitTimeSeconds"] else {}

    changed(carrier, "receive_message", sampled)
    assert (await broker.get(job_id)).state == "dead"
    assert (await broker.retry(job_id)).state == "ready"


async def test_a_queue_of_an_administrator_is_used_as_it_is(moto: MotoServer, broker: SqsBroker) -> None:
    """Whatever its settings, and though we may make none; one that is not there is asked for by the error."""
    carrier = carrier_of(broker)

    def deny(_: dict[str, Any]) -> dict[str, Any]:
        raise ConfigurationError("SQS refused create_queue: AccessDenied")

    moto.client().create_queue(QueueName=carrier.lanes.name(LANE), Attributes={"VisibilityTimeout": "7"})
    changed(carrier, "create_queue", deny)
    (job_id,) = await broker.enqueue(jobs())
    assert [claim.id for claim in (await broker.claim(living(), 10)).jobs] == [job_id]
    with pytest.raises(ConfigurationError, match="AccessDenied"):
        await broker.enqueue(jobs(queue="another"))


async def test_a_queue_that_somebody_makes_at_the_same_moment_is_used(moto: MotoServer, broker: SqsBroker) -> None:
    """In another way than we would."""
    carrier = carrier_of(broker)
    ask = carrier.link.ask

    def race(parameters: dict[str, Any]) -> dict[str, Any]:
        with contextlib.suppress(Refused):
            ask("create_queue", QueueName=parameters["QueueName"], Attributes={"VisibilityTimeout": "7"})
        raise Refused("SQS refused create_queue: QueueNameExists", "QueueNameExists")

    changed(carrier, "create_queue", race)
    await broker.enqueue(jobs())
    assert len((await broker.claim(living(), 10)).jobs) == 1


async def test_messages_can_be_read_by_people(moto: MotoServer, broker: SqsBroker) -> None:
    """The body is JSON; the queue keeps it for two weeks, and passes what nobody can take to the dead."""
    (job_id,) = await broker.enqueue(jobs(payload=b'{"user":"Zo\xc3\xab"}'))
    client, url = moto.client(), carrier_of(broker).lanes.url(LANE)
    (message,) = client.receive_message(QueueUrl=url)["Messages"]
    assert job_id in message["Body"]
    assert '"text":"{\\"user\\":\\"Zoë\\"}"' in message["Body"]
    settings = client.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    assert settings["MessageRetentionPeriod"] == str(14 * 86_400)
    assert carrier_of(broker).lanes.name(Lane("default", "dead")) in settings["RedrivePolicy"]


def test_a_message_that_is_delivered_twice_at_once_is_one() -> None:
    """SQS may do that; the newest receipt is the one that counts. After its time it is another's, or ours anew."""
    clock = ManualClock()
    out = Out(clock)
    first, second, third = (Grip(LANE, "u", "m", receipt, "w", 10, clock.monotonic() + 10, None) for receipt in "abc")
    assert out.admit(first)
    assert not out.admit(second)
    assert (first.receipt, out.of("w"), out.of("other")) == ("b", [first], [])
    clock.advance(11)
    assert out.of("w") == []
    third.until = clock.monotonic() + 10
    assert out.admit(third)
    out.release([first])
    assert out.of("w") == [third]
    clock.advance(11)
    out.purge()
    assert out._grips == {}


class TestIdle:
    async def test_an_idle_worker_makes_one_request_for_each_long_poll(
        self, broker: SqsBroker, asked: list[tuple[str, dict[str, Any]]]
    ) -> None:
        """However often it claims; the lanes that are not there are not asked."""
        running, runner = await self.started(broker, poll=0.02)

        def long_polls() -> int:
            return sum(name == "receive_message" and parameters["WaitTimeSeconds"] > 0 for name, parameters in asked)

        async with asyncio.timeout(20):
            while long_polls() < 2:
                await asyncio.sleep(0.01)
            before = len(asked)
            while long_polls() < 4:
                await asyncio.sleep(0.01)
        assert [name for name, _ in asked[before:]] == ["receive_message"] * 2
        running.stop()
        await runner

    async def started(self, broker: SqsBroker, **how: Any) -> tuple[Worker, asyncio.Task[int]]:
        running = Worker(self.registry(broker), lease=600, **how)
        return running, asyncio.create_task(running.run(signals=False))

    def registry(self, broker: SqsBroker) -> Jobs:
        registered = Jobs(broker)
        self.ran: list[int] = []

        async def note(number: int) -> None:
            self.ran.append(number)

        self.note = registered.function(note)
        return registered

    async def test_a_job_is_picked_up_as_soon_as_it_comes(
        self, broker: SqsBroker, asked: list[tuple[str, dict[str, Any]]]
    ) -> None:
        """Though the worker would look for itself only much later."""
        running, runner = await self.started(broker, poll=60.0)
        async with asyncio.timeout(20):
            for number in range(3):
                await in_flight(asked)
                asked.clear()
                await self.note.enqueue(number)
                while len(self.ran) <= number:
                    await asyncio.sleep(0.005)
        assert self.ran == [0, 1, 2]
        running.stop()
        await runner

    async def test_what_comes_to_who_leaves_is_no_suspect(
        self, broker: SqsBroker, asked: list[tuple[str, dict[str, Any]]]
    ) -> None:
        """A poll in flight is waited for, and what it brings is sent anew."""
        me, other = living(), living()
        assert (await broker.claim(me, 10)).jobs == []
        stop = broker.listen(lambda: None)
        await in_flight(asked)
        ids = await broker.enqueue(jobs(3))
        await broker.leave(me)
        stop()
        assert sorted(claim.id for claim in await claimed_by(broker, other, 3)) == sorted(ids)
        assert not (await broker.rescue(other)).suspects

    async def test_what_comes_after_that_is_no_suspect_either(
        self, broker: SqsBroker, asked: list[tuple[str, dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Who hears it sends it anew, as long as there is the process."""
        monkeypatch.setattr("moorline.jobs.brokers.sqs._LEAVING", 0.0)
        me, other = living(), living()
        assert (await broker.claim(me, 10)).jobs == []
        stop = broker.listen(lambda: None)
        await in_flight(asked)
        await broker.leave(me)
        ids = await broker.enqueue(jobs(3))
        stop()
        assert sorted(claim.id for claim in await claimed_by(broker, other, 3)) == sorted(ids)
        assert not (await broker.rescue(other)).suspects

    async def test_what_waits_with_a_busy_worker_is_given_to_others(self, moto_url: str, clock: ManualClock) -> None:
        """It was heard for a worker that was idle until now; after a second it is sent anew, at the next beat."""
        with SqsBroker(moto_url, clock=clock) as broker:
            me, other = worker(clock), worker(clock)
            assert (await broker.claim(me, 50)).jobs == []
            heard = threading.Event()
            stop = broker.listen(heard.set)
            ids = await enqueue(broker, clock, 5)
            assert await asyncio.to_thread(heard.wait, 10)
            assert await broker.counts() == {("default", "ready"): 5}
            await asyncio.to_thread(broker.heartbeat, me)
            clock.advance(2)
            await asyncio.to_thread(broker.heartbeat, me)
            stop()
            assert sorted(claim.id for claim in await claimed_by(broker, other, 5)) == sorted(ids)
            assert not (await broker.rescue(other)).suspects

    async def test_what_waits_here_when_it_is_closed_is_sent_anew(self, broker: SqsBroker) -> None:
        """It was with no worker yet."""
        me, other = living(), living()
        assert (await broker.claim(me, 50)).jobs == []
        heard = threading.Event()
        stop = broker.listen(heard.set)
        ids = await broker.enqueue(jobs(2))
        assert await asyncio.to_thread(heard.wait, 10)
        stop()
        carrier_of(broker).close()
        assert sorted(claim.id for claim in await claimed_by(broker, other, 2)) == sorted(ids)
        assert not (await broker.rescue(other)).suspects

    def test_a_server_that_does_not_wait_is_not_asked_without_end(self) -> None:
        """At most once a second, if nothing comes."""
        times: list[float] = []

        def hear(_: int) -> list[Taken]:
            times.append(SYSTEM.monotonic())
            return []

        ear = Ear(hear, lambda *_: None)
        ear.listen(1)
        until(lambda: len(times) >= 2)
        ear.close()
        ear.join(SYSTEM.monotonic() + 5)
        assert times[1] - times[0] >= 0.95

    def test_an_ear_survives_whatever_happens(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """It says so, waits, and listens again; meanwhile who takes asks for itself."""
        monkeypatch.setattr("moorline.jobs.brokers.sqs_intake._PAUSE", 0.01)
        heard = threading.Event()
        answers: list[Any] = [StoreUnavailable("away"), KeyError("strange"), ["message"]]

        def hear(_: int) -> list[Any]:
            answer = answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer  # type: ignore[no-any-return]

        ear = Ear(hear, lambda *_: heard.set())
        ear.listen(1)
        assert heard.wait(5)
        assert not ear.failed
        ear.close()


class Broken(io.BytesIO):
    """A download whose connection is lost."""

    def read(self, size: int | None = -1, /) -> bytes:
        raise OSError("lost")


class TestLarge:
    """Jobs of more than a message holds."""

    async def test_without_a_bucket_only_its_own_submitter_is_told(self, broker: SqsBroker) -> None:
        """With the limit, and what to do; what was enqueued at the same moment is stored."""
        large, small = await asyncio.gather(
            broker.enqueue(jobs(payload=b"x" * LARGEST)), broker.enqueue(jobs()), return_exceptions=True
        )
        assert isinstance(large, StoreError)
        assert "1,048,576" in str(large)
        assert "bucket" in str(large)
        assert isinstance(small, list)
        assert [claim.id for claim in (await broker.claim(living(), 10)).jobs] == small

    @pytest.fixture
    def stored(self, moto: MotoServer, moto_url: str) -> Iterator[tuple[SqsBroker, Callable[[], list[str]]]]:
        """A broker with a bucket, and the names in it."""
        bucket = f"b{uuid4().hex[:12]}"
        client = moto.client("s3")
        client.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})

        def names() -> list[str]:
            return [one["Key"] for one in client.list_objects_v2(Bucket=bucket).get("Contents", ())]

        with SqsBroker(f"{moto_url}&bucket={bucket}") as broker:
            yield broker, names

    async def test_it_is_kept_in_the_bucket_until_it_is_done(
        self, stored: tuple[SqsBroker, Callable[[], list[str]]]
    ) -> None:
        """Through a retry and death, each with an object of its own; none is left."""
        broker, names = stored
        payload = b"x" * (LARGEST + 1)
        me = living()
        (job_id,) = await broker.enqueue(jobs(payload=payload))
        (name,) = names()
        assert name.startswith(carrier_of(broker).where.prefix + "/")
        (claim,) = (await broker.claim(me, 1)).jobs
        assert claim.payload == payload
        await broker.finish([Completion(claim.id, claim.deliveries, "dead", reason="failed")])
        assert len(names()) == 1
        assert names() != [name]
        assert (await broker.get(job_id)).payload == payload
        await broker.retry(job_id)
        (claim,) = (await broker.claim(me, 1)).jobs
        assert claim.payload == payload
        assert await broker.finish([done(claim)]) == [True]
        assert names() == []

    async def test_an_object_that_is_gone_makes_a_dead_letter(
        self, moto: MotoServer, stored: tuple[SqsBroker, Callable[[], list[str]]]
    ) -> None:
        """That names it; nothing can be run."""
        broker, names = stored
        await broker.enqueue(jobs(payload=b"x" * (LARGEST + 1)))
        (name,) = names()
        moto.client("s3").delete_object(Bucket=carrier_of(broker).where.bucket, Key=name)
        assert (await broker.claim(living(), 1)).jobs == []
        (dead,) = await broker.list(JobFilter(state="dead"))
        assert dead.payload.decode() == f"moorline:s3:{name.rpartition('/')[2]}"
        with pytest.raises(JobStateError):
            await broker.retry(dead.id)

    async def test_one_that_cannot_be_fetched_now_waits(
        self, stored: tuple[SqsBroker, Callable[[], list[str]]]
    ) -> None:
        """It is no suspect, and what came with it is run."""
        broker, names = stored
        carrier = carrier_of(broker)
        ask = carrier.link.ask

        def away(_: dict[str, Any]) -> dict[str, Any]:
            raise StoreUnavailable("S3 is away")

        changed(carrier, "get_object", away)
        (small,) = await broker.enqueue(jobs())
        (large,) = await broker.enqueue(jobs(payload=b"x" * (LARGEST + 1)))
        me = living()
        assert [claim.id for claim in (await broker.claim(me, 5)).jobs] == [small]
        carrier.link.ask = ask  # type: ignore[method-assign]
        assert (len(names()), await broker.counts()) == (1, {("default", "ready"): 1, ("default", "running"): 1})
        assert large

    async def test_there_is_a_limit_to_it(self, stored: tuple[SqsBroker, Callable[[], list[str]]]) -> None:
        """64 MiB; nothing is stored of a batch that has one."""
        broker, names = stored
        with pytest.raises(StoreError, match="67,108,864"):
            await broker.enqueue([*jobs(payload=b"x" * (LARGEST + 1)), *jobs(payload=b"x" * (64 * LARGEST + 1))])
        assert names() == []

    def test_a_body_that_we_may_not_fetch_is_not_lost(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nor one in a bucket that nobody named, or that is too large; what only looks like ours is left as it is."""
        text = "moorline:s3:" + "a" * 32
        with pytest.raises(StoreUnavailable, match="names no bucket"):
            Bodies(Link(SqsWhere("sqs://eu-central-1"))).read(text)
        link = Link(SqsWhere("sqs://eu-central-1?bucket=abc"))
        bodies = Bodies(link)
        for error in (ConfigurationError("AccessDenied"), Refused("Odd", "Odd")):

            def refuse(*_: Any, error: Exception = error, **__: Any) -> dict[str, Any]:
                raise error

            link.ask = refuse  # type: ignore[method-assign]
            with pytest.raises(StoreUnavailable, match=str(error)):
                bodies.read(text)
        assert bodies.read("moorline:base64:no") == (b"moorline:base64:no", None)
        bodies.drop(["a" * 32])  # it stays, and that is logged
        monkeypatch.setattr("moorline.jobs.brokers.sqs_bodies._LARGEST_OBJECT", 3)
        link.ask = lambda *_, **__: {"Body": io.BytesIO(b"four")}  # type: ignore[method-assign]
        with pytest.raises(StoreUnavailable, match="more than 3 bytes"):
            bodies.read(text)
        link.ask = lambda *_, **__: {"Body": Broken()}  # type: ignore[method-assign]
        with pytest.raises(StoreUnavailable, match="broke off: OSError"):
            bodies.read(text)

    def test_only_our_own_objects_are_read_or_deleted(self) -> None:
        """Whatever a message says: who may send messages may not reach for other files of the bucket."""
        bodies = Bodies(Link(SqsWhere("sqs://eu-central-1?bucket=abc")))
        for text in ("moorline:s3:../../secret", "moorline:s3:" + "A" * 32, "moorline:s3:", "moorline:s3:" + "a" * 33):
            assert bodies.read(text) == (text.encode(), None)


@given(
    st.one_of(
        st.binary(), st.text().map(str.encode), st.text("\t\n \uffff\ud7ff\U0010ffffmoorline:base64s3").map(str.encode)
    )
)
def test_any_body_is_text_that_sqs_takes(body: bytes) -> None:
    """And the same bytes again."""
    bodies = Bodies(Link(SqsWhere("sqs://eu-central-1")))
    (text,) = bodies.texts([body])
    assert bodies.read(text) == (body, None)
    assert text
    assert all(
        one in "\t\n\r" or " " <= one <= "\ud7ff" or "\ue000" <= one <= "\ufffd" or one >= "\U00010000" for one in text
    )


_NAMES = st.one_of(st.text(min_size=1, max_size=12), st.text("ab-_", min_size=1, max_size=12))
_LANES = st.builds(
    Lane,
    st.builds("".join, st.tuples(_NAMES, st.sampled_from(["", "-", "-high", "-dead", "-low-suspects", "--2D"]))),
    st.sampled_from(get_args(Kind)),
)


@given(_LANES, st.booleans(), _LANES, st.booleans())
def test_each_lane_has_a_name_of_its_own(one: Lane, fifo: bool, other: Lane, others: bool) -> None:
    """That SQS allows, or none; and in FIFO queues another one than in standard ones."""
    names = []
    lanes = [(one, fifo or one.kind == "ordered"), (other, others or other.kind == "ordered")]
    for lane, in_fifo in lanes:
        with contextlib.suppress(ConfigurationError):
            names.append(lane_name("moorline", lane, fifo=in_fifo))
            assert names[-1].endswith(".fifo") == (in_fifo and lane.kind != "later")
    bare = [name.removesuffix(".fifo") for name in names]
    assert all(name.replace("-", "a").replace("_", "a").isalnum() and name.isascii() for name in bare)
    assert all(len(name) <= 80 for name in names)
    if len(names) == 2:
        same = one == other and (one.kind == "later" or lanes[0][1] == lanes[1][1])
        assert (names[0] == names[1]) == same


class TestWhere:
    @pytest.mark.parametrize(
        ("lane", "name"),
        [
            (Lane("default"), "moorline-default"),
            (Lane("send_mail", "high"), "moorline-send_mail-high"),
            (Lane("eu-west"), "moorline-eu-west"),
            (Lane("eu-high"), "moorline-eu--2Dhigh"),
            (Lane("zoë"), "moorline-zo--C3--AB"),
        ],
    )
    def test_names_are_those_of_the_queues_where_that_can_be(self, lane: Lane, name: str) -> None:
        """So that they can be recognised, and named in a policy."""
        assert lane_name("moorline", lane) == name

    @pytest.mark.parametrize("queue", ["", "x" * 63])
    async def test_a_name_that_it_cannot_have_is_refused(self, broker: SqsBroker, queue: str) -> None:
        """Before anything is sent."""
        with pytest.raises(ConfigurationError, match="cannot be the name"):
            await broker.enqueue(jobs(queue=queue))
        with pytest.raises(ConfigurationError, match="cannot be the name"):
            lane_name("moorline", Lane("\ud800"))

    def test_a_url_is_read(self) -> None:
        """With all that it may say."""
        where = SqsWhere("sqs://")
        assert (where.region, where.prefix, where.bucket, where.endpoint, where.wait) == (
            None,
            "moorline",
            None,
            None,
            20,
        )
        where = SqsWhere("sqs://us-gov-west-1?prefix=my_app&wait=5&bucket=my.bucket&endpoint=http://127.0.0.1:5000/")
        assert (where.region, where.prefix, where.bucket, where.wait) == ("us-gov-west-1", "my_app", "my.bucket", 5)
        assert (where.endpoint, where.emulated) == ("http://127.0.0.1:5000", True)
        assert repr(where) == "<SqsWhere sqs://us-gov-west-1?endpoint=http://127.0.0.1:5000>"
        assert not SqsWhere("sqs://?endpoint=https://vpce-1.sqs.eu-central-1.vpce.amazonaws.com").emulated
        assert SqsWhere("sqs://?endpoint=http://[::1]:5000").endpoint == "http://[::1]:5000"

    @pytest.mark.parametrize(
        "url",
        [
            "sqs:/secret", "http://secret", "sqs://key:secret@eu-central-1", "sqs://eu-central-1:80", "sqs://eu/secret",
            "sqs://[secret", "sqs://?prefix=secret-a", "sqs://?prefix=", "sqs://?wait=0", "sqs://?wait=21",
            "sqs://?wait=secret", "sqs://?bucket=SECRET/..", "sqs://?surprise=secret", "sqs://?endpoint=http://secret",
            "sqs://?endpoint=https://key:secret@host", "sqs://?endpoint=https://host/secret", "sqs://?endpoint=https://h:secret",
            "sqs://?endpoint=ftp://127.0.0.1", "sqs://?endpoint=", "sqs://EU#secret",
        ],
    )  # fmt: skip
    def test_a_url_that_cannot_be_used_is_refused(self, url: str) -> None:
        """Without showing it."""
        with pytest.raises(ConfigurationError) as refused:
            SqsBroker(url)
        assert "secret" not in str(refused.value).lower()


class TestErrors:
    @pytest.mark.parametrize(
        ("code", "status", "kind"),
        [
            ("AccessDenied", 403, ConfigurationError), ("InvalidClientTokenId", 403, ConfigurationError),
            ("NewWordForNo", 403, ConfigurationError), ("RequestThrottled", 400, StoreUnavailable),
            ("ThrottlingException", 400, StoreUnavailable), ("OverLimit", 403, StoreUnavailable),
            ("NewTrouble", 503, StoreUnavailable), ("AWS.SimpleQueueService.QueueDeletedRecently", 400, StoreUnavailable),
            ("AWS.SimpleQueueService.NonExistentQueue", 400, Refused), ("InvalidParameterValue", 400, Refused),
        ],
    )  # fmt: skip
    def test_what_aws_says_is_told_by_its_word_only(self, code: str, status: int, kind: type[Exception]) -> None:
        """Its sentences may hold what was sent."""
        from botocore.exceptions import ClientError

        said = {"Error": {"Code": code, "Message": "secret"}, "ResponseMetadata": {"HTTPStatusCode": status}}
        error = Link(SqsWhere("sqs://eu-central-1"))._translated(ClientError(said, "SendMessage"), "send_message")
        assert type(error) is kind
        assert "secret" not in str(error)
        assert not isinstance(error, Refused) or error.code in {"QueueDoesNotExist", "InvalidParameterValue"}

    def test_credentials_that_have_expired_are_looked_for_again(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """Where AWS's own tools look: a worker that waits goes on with those that have come since."""
        import botocore.session
        from botocore.client import BaseClient
        from botocore.exceptions import ClientError

        def write(key: str) -> None:
            (tmp_path / "keys").write_text(f"[default]\naws_access_key_id={key}\naws_secret_access_key=s\n")

        def answer(client: Any, operation: str, _: Any) -> dict[str, str]:
            if client._request_signer._credentials.access_key == "OLD":
                said = {"Code": "ExpiredTokenException", "Message": "secret"}
                raise ClientError({"Error": said, "ResponseMetadata": {"HTTPStatusCode": 403}}, operation)
            return {"QueueUrl": "here"}

        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "keys"))
        monkeypatch.setattr(botocore.session, "get_session", botocore.session.Session)
        monkeypatch.setattr(BaseClient, "_make_api_call", answer)
        write("OLD")
        link = Link(SqsWhere("sqs://eu-central-1"))
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match="refused get_queue_url: ExpiredTokenException"):
                link.ask("get_queue_url", QueueName="q")
        write("NEW")
        assert link.ask("get_queue_url", QueueName="q") == {"QueueUrl": "here"}
        link.close()

    def test_what_the_network_says_is_told_apart(self) -> None:
        """From what is wrong here; and a region that nobody knows is no network."""
        from botocore import exceptions

        link = Link(SqsWhere("sqs://eu-central-1"))
        expected: list[tuple[Exception, type[Exception]]] = [
            (exceptions.EndpointConnectionError(endpoint_url="https://secret"), StoreUnavailable),
            (exceptions.ReadTimeoutError(endpoint_url="https://secret"), StoreUnavailable),
            (exceptions.ConnectionClosedError(endpoint_url="https://secret"), StoreUnavailable),
            (OSError("secret"), StoreUnavailable),
            (exceptions.NoCredentialsError(), ConfigurationError),
            (exceptions.PartialCredentialsError(provider="env", cred_var="secret"), ConfigurationError),
            (exceptions.ParamValidationError(report="secret"), StoreError),
        ]
        for error, kind in expected:
            translated = link._translated(error, "ask")
            assert type(translated) is kind, error
            assert "secret" not in str(translated)
        nowhere = Link(SqsWhere("sqs://eu-nowhere-9"))
        lost = nowhere._translated(exceptions.EndpointConnectionError(endpoint_url="https://x"), "ask")
        assert isinstance(lost, ConfigurationError)

    async def test_nobody_answers(self) -> None:
        """With StoreUnavailable, at once."""
        with SqsBroker("sqs://eu-central-1?endpoint=http://127.0.0.1:9") as broker:
            for ask in (broker.enqueue(jobs()), broker.claim(living(), 1)):
                with pytest.raises(StoreUnavailable, match="did not answer"):
                    await ask
            assert await broker.finish([Completion("x", 1, "done")]) == [False]

    def test_a_region_is_found_or_asked_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """In the URL, or where AWS's tools look."""
        with pytest.raises(ConfigurationError, match="no region"):
            Link(SqsWhere("sqs://")).client("ask")
        monkeypatch.setenv("AWS_REGION", "eu-west-1")
        assert Link(SqsWhere("sqs://")).client("hear").meta.region_name == "eu-west-1"

    async def test_without_credentials_it_is_said(self, moto_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """As something to be mended, not to be waited for."""
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.setattr("botocore.session.get_session", botocore.session.Session)
        with SqsBroker(moto_url) as broker, pytest.raises(ConfigurationError, match="Credentials"):
            await broker.enqueue(jobs())

    def test_without_botocore_it_is_said_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """It is an extra."""
        monkeypatch.setitem(__import__("sys").modules, "botocore.session", None)
        with pytest.raises(ConfigurationError, match=r"moorline\[aws\]"):
            Link(SqsWhere("sqs://eu-central-1")).client("ask")


async def test_a_worker_works_it_off(broker: SqsBroker) -> None:
    """Through the worker: retries, and what its handlers return."""
    ran: list[int] = []
    registered = Jobs(broker)

    async def flaky(number: int) -> None:
        ran.append(number)
        if ran.count(number) < 2:
            raise ValueError(number)

    async def hopeless(number: int) -> None:
        raise ValueError(number)

    good = registered.function(flaky, backoff=Retry(base=0.01))
    bad = registered.function(hopeless, retries=0)
    await good.enqueue_many([(number,) for number in range(15)])
    await bad.enqueue(1)
    running = Worker(registered, concurrency=10, poll=0.1)
    runner = asyncio.create_task(running.run(signals=False))
    async with asyncio.timeout(40):
        while len(ran) < 30 or not (await broker.counts()).get(("default", "dead")):
            await asyncio.sleep(0.05)
    running.stop()
    await runner
    assert sorted(ran) == sorted([*range(15)] * 2)
    (dead,) = await broker.list(JobFilter(state="dead"))
    assert (dead.reason, dead.attempts) == ("failed", 1)
    assert await broker.counts() == {("default", "dead"): 1}
