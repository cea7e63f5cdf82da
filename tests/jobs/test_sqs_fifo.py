"""The SQS broker on FIFO queues keeps the contract too, and the order of a key in message groups."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.jobs.carried import CarriedConformance
from tests.jobs.conformance import done, enqueue, row, worker
from tests.jobs.grouping import GroupConformance
from tests.jobs.noting import NotesConformance
from tests.jobs.ordering import KEY, ended
from tests.jobs.sqs import carrier_of, changed, claimed_by, jobs, living, opened_at, recorded
from tests.sqs_servers import MotoServer

from moorline.clock import SYSTEM, ManualClock
from moorline.errors import ConfigurationError, StoreError, StoreUnavailable
from moorline.jobs.broker import Broker, JobFilter
from moorline.jobs.brokers.carried import CarriedBroker
from moorline.jobs.brokers.carrier import Lane, Letter
from moorline.jobs.brokers.kept import InDatabase
from moorline.jobs.brokers.sql import SqlBroker
from moorline.jobs.brokers.sqs import SqsBroker, SqsCarrier
from moorline.jobs.brokers.sqs_bodies import LARGEST, Bodies
from moorline.jobs.brokers.sqs_groups import ATTRIBUTE, place_in
from moorline.jobs.brokers.sqs_intake import Grip, grip_of
from moorline.jobs.brokers.sqs_link import Link, SqsWhere
from moorline.jobs.moving import Moved, move
from moorline.jobs.order import order_key
from moorline.jobs.registry import Jobs
from moorline.jobs.worker import Worker
from moorline.policies.retry import Retry

OTHER = order_key("name", "b")

# ruff: noqa: ASYNC110 -- what a server does can only be looked for

pytestmark = pytest.mark.usefixtures("aws")


@pytest.fixture
def fifo_url(moto_url: str) -> str:
    return moto_url + "&queues=fifo"


class TestFifoOnMoto(CarriedConformance, GroupConformance, NotesConformance):
    delay = 1.0
    in_database = ({"unique_key": "u"},)

    @pytest.fixture
    def broker(self, fifo_url: str, clock: ManualClock, tmp_path: Path, migrated: Path) -> Iterator[SqsBroker]:
        with opened_at(fifo_url, tmp_path, clock, migrated) as broker:
            yield broker

    async def test_the_outbox_gives_up_what_stays_in_the_database(
        self, broker: CarriedBroker, clock: ManualClock
    ) -> None:
        """Those with an order key do not: they are relayed as the others are, in their order."""
        assert isinstance(broker._kept, InDatabase)
        await super().test_the_outbox_gives_up_what_stays_in_the_database(broker, clock)
        assert await broker._kept.counts() == {}

    async def test_a_thousand_jobs_go_through(self, broker: Broker, clock: ManualClock) -> None:
        """Fewer: moto copies all that it has for each that it gives out."""
        ids = await enqueue(broker, clock, 33)
        claims = (await broker.claim(worker(clock), 500)).jobs
        assert [claim.id for claim in claims] == sorted(ids)
        assert all(await broker.finish([done(claim) for claim in claims]))


@pytest.mark.oracles
class TestOnFauxqs:
    """It remembers for five minutes what was sent, also when that is deleted: moto does not."""

    @pytest.fixture
    def broker(self, fauxqs_url: str) -> Iterator[SqsBroker]:
        with SqsBroker(fauxqs_url + "&queues=fifo") as broker:
            yield broker

    async def test_what_is_sent_again_is_not_doubled(self, broker: SqsBroker) -> None:
        """As a relay sends it whose deletion was lost; however far the job has come."""
        (one,) = rows = jobs()
        me = living()
        for _ in range(2):
            assert await broker.enqueue(rows, again=True) == [one.id]
        (claim,) = (await broker.claim(me, 10)).jobs
        await broker.finish([done(claim)])
        await broker.enqueue(rows, again=True)
        assert (await broker.claim(me, 10)).jobs == []

    @pytest.mark.parametrize("key", [None, KEY])
    async def test_what_follows_is_no_repetition(self, broker: SqsBroker, key: str | None) -> None:
        """Retries, jobs given back, dead letters and those that are retried: all within five minutes."""
        me = living()
        (job_id,) = await broker.enqueue(jobs(order_key=key))
        for attempt in (1, 2, 3):
            (claim,) = await claimed_by(broker, me, 1)
            assert (claim.id, claim.attempts) == (job_id, attempt)
            await broker.finish([ended(claim, "ready")])
        for _ in range(2):
            (claim,) = await claimed_by(broker, me, 1)
            assert await broker.give_back(me, []) == 1
        for _ in range(2):
            (claim,) = await claimed_by(broker, me, 1)
            await broker.finish([ended(claim, "dead", reason="failed")])
            await broker.retry(job_id)
        (claim,) = await claimed_by(broker, me, 1)
        assert (claim.id, claim.attempts) == (job_id, 1)

    async def test_of_one_key_one_goes_at_a_time(self, broker: SqsBroker) -> None:
        """Through a retry, a death and what comes after it."""
        me = living()
        ids = await broker.enqueue([*jobs(3, order_key=KEY), *jobs()])
        (first, free) = await claimed_by(broker, me, 2)
        assert {first.id, free.id} == {ids[0], ids[3]}
        claim = first if first.id == ids[0] else free
        await broker.finish([ended(claim, "ready")])
        (claim,) = await claimed_by(broker, me, 1)
        assert claim.id == ids[0]
        await broker.finish([ended(claim, "dead", reason="failed")])
        assert (await broker.claim(me, 10)).jobs == []
        await broker.skip(ids[0])
        for job_id in ids[1:3]:
            (claim,) = await claimed_by(broker, me, 1)
            assert claim.id == job_id
            await broker.finish([done(claim)])


# --- what is of FIFO queues alone


@pytest.fixture
def broker(fifo_url: str) -> Iterator[SqsBroker]:
    """On the machine's clock: it is the server that waits."""
    with SqsBroker(fifo_url) as broker:
        yield broker


@pytest.fixture
def asked(broker: SqsBroker) -> list[tuple[str, dict[str, Any]]]:
    """The requests of that broker, as they are made."""
    return recorded(carrier_of(broker))


def sent(asked: list[tuple[str, dict[str, Any]]]) -> list[tuple[str, dict[str, Any]]]:
    """Each message, after the name of its queue."""
    return [
        (one["QueueUrl"].rpartition("/")[2].partition("-")[2], entry)
        for name, one in asked
        if name == "send_message_batch"
        for entry in one["Entries"]
    ]


async def test_queues_are_made_for_many_groups(moto: MotoServer, broker: SqsBroker) -> None:
    """With the high throughput, and with dead letters in a FIFO queue; what is delayed is in a standard one."""
    await broker.enqueue([*jobs(), *jobs(order_key=KEY), *jobs(run_at=SYSTEM.wall() + 60)])
    client, lanes = moto.client(), carrier_of(broker).lanes
    prefix = carrier_of(broker).where.prefix
    names = {url.rpartition("/")[2] for url in client.list_queues(QueueNamePrefix=prefix)["QueueUrls"]}
    suffixes = (".fifo", "--ordered.fifo", "-dead.fifo", "--later")
    assert names == {f"{prefix}-default{suffix}" for suffix in suffixes}
    for kind in ("normal", "ordered", "dead"):
        url = lanes.url(Lane("default", kind))
        told = client.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
        wanted = {"FifoQueue": "true", "DeduplicationScope": "messageGroup", "FifoThroughputLimit": "perMessageGroupId"}
        assert {name: told[name] for name in wanted} == wanted
        assert ("-dead.fifo" in told.get("RedrivePolicy", "")) == (kind != "dead")
    told = client.get_queue_attributes(QueueUrl=lanes.url(Lane("default", "later")), AttributeNames=["All"])[
        "Attributes"
    ]
    assert "FifoQueue" not in told
    assert "RedrivePolicy" not in told
    assert broker.carrier.about()["queues"] == "FIFO"
    assert await broker.counts() == {("default", "ready"): 3}
    broker.carrier.remove("default")
    assert "QueueUrls" not in client.list_queues(QueueNamePrefix=prefix)


async def test_a_message_has_its_group_and_its_name(broker: SqsBroker, asked: list[tuple[str, dict[str, Any]]]) -> None:
    """A job without a key is alone in its group; a delay is for the standard queue, and for the whole key."""
    ids = await broker.enqueue([*jobs(2), *jobs(order_key=order_key("ship", "customer-7"), run_at=SYSTEM.wall() + 60)])
    (late,) = await broker.enqueue(jobs(run_at=SYSTEM.wall() + 3600))
    messages = sent(asked)
    assert [(name, one["MessageGroupId"], one["MessageDeduplicationId"]) for name, one in messages[:3]] == [
        ("default.fifo", ids[0], ids[0]),
        ("default.fifo", ids[1], ids[1]),
        ("default--ordered.fifo", "=ship|customer-7", ids[2]),
    ]
    assert not any("DelaySeconds" in one for name, one in messages if name.endswith(".fifo"))
    assert [(name, one["DelaySeconds"]) for name, one in messages[3:]] == [("default--later", 900)]
    assert late


async def test_each_message_that_follows_is_known_by_the_one_before(
    broker: SqsBroker, asked: list[tuple[str, dict[str, Any]]]
) -> None:
    """So an attempt is no repetition of another one, and sent twice it is one."""
    me = living()
    (job_id,) = await broker.enqueue(jobs())
    for _ in range(3):
        (claim,) = await claimed_by(broker, me, 1)
        await broker.finish([ended(claim, "ready")])
    (claim,) = await claimed_by(broker, me, 1)
    taken = broker._held[job_id].taken
    letter = Letter(Lane("default"), job_id, "name", taken.body, follows=taken)
    for _ in range(2):
        broker.carrier.post([letter])
    await broker.finish([done(claim)])
    names = [one["MessageDeduplicationId"] for _, one in sent(asked)]
    assert len(set(names)) == 5
    assert names[4] == names[5]
    assert all(name.startswith(job_id) for name in names)
    assert len((await broker.claim(me, 10)).jobs) == 1


async def test_a_key_that_cannot_be_a_group_is_one_by_its_hash(
    broker: SqsBroker, asked: list[tuple[str, dict[str, Any]]]
) -> None:
    """Whatever is in it; and an id that somebody else made is sent as SQS takes it."""
    keys = [order_key("ship", key) for key in ("zo\u00eb", "a b", "x" * 130, "a|b")]
    await broker.enqueue([one for key in keys for one in jobs(order_key=key)])
    await broker.enqueue(jobs(id="not one of ours" * 9))
    groups = [one["MessageGroupId"] for _, one in sent(asked)]
    assert len(set(groups)) == 5
    assert all(group.startswith("sha256:") for group in groups[:4])
    assert len(await claimed_by(broker, living(), 5)) == 5


async def test_those_of_a_key_are_sent_one_after_the_other(
    broker: SqsBroker, asked: list[tuple[str, dict[str, Any]]]
) -> None:
    """Each when the one ahead of it is there, so that a failure in between does not change their order."""
    carrier = carrier_of(broker)
    ask, failing, calls = carrier.link.ask, 1, []

    def partly(parameters: dict[str, Any]) -> dict[str, Any]:
        first, *rest = parameters["Entries"]
        calls.append([one["MessageDeduplicationId"] for one in parameters["Entries"]])
        if len(calls) > failing:
            return ask("send_message_batch", **parameters)
        answer = ask("send_message_batch", **(parameters | {"Entries": rest})) if rest else {}
        return answer | {"Failed": [{"Id": first["Id"], "SenderFault": False, "Code": "InternalError"}]}

    changed(carrier, "send_message_batch", partly)
    a, b, c, d = ids = await broker.enqueue([*jobs(3, order_key=KEY), *jobs(order_key=OTHER)])
    assert calls == [[a, d], [a], [b], [c]]
    me = living()
    came = []
    while claims := (await broker.claim(me, 10)).jobs:
        came += [claim.id for claim in claims]
        await broker.finish([done(claim) for claim in claims])
    assert sorted(came) == sorted(ids)
    assert [one for one in came if one != d] == [a, b, c]
    failing = 1000
    calls.clear()
    with pytest.raises(StoreUnavailable, match="did not take 1 of 1"):
        await broker.enqueue(jobs(2, order_key=KEY))
    assert len({one for call in calls for one in call}) == 1
    assert asked


async def test_of_a_key_one_message_is_asked_for_at_a_time(
    broker: SqsBroker, asked: list[tuple[str, dict[str, Any]]]
) -> None:
    """SQS would give all that it has of a group at once, and to whoever dies they would all be suspects."""
    ids = await broker.enqueue([one for key in (KEY, OTHER, None) for one in jobs(2, order_key=key)])
    claims = await claimed_by(broker, living(), 4)
    assert {claim.id for claim in claims} == {ids[0], ids[2], *ids[4:]}
    ordered = carrier_of(broker).lanes.url(Lane("default", "ordered"))
    counts = [one["MaxNumberOfMessages"] for name, one in asked if "receive" in name and one["QueueUrl"] == ordered]
    assert set(counts) == {1}


async def test_a_retry_that_waits_holds_up_its_key(broker: SqsBroker) -> None:
    """And so does a job that was to run later from the beginning. No other key, and no job without one."""
    me = living()
    due = SYSTEM.wall() + 1.0
    waits = jobs(2, order_key=OTHER)
    (first, second) = await broker.enqueue(jobs(2, order_key=KEY))
    (third, fourth) = await broker.enqueue([waits[0]._replace(run_at=due), waits[1]])
    (claim,) = await claimed_by(broker, me, 1)
    assert claim.id == first
    await broker.finish([ended(claim, "ready", run_at=due)])
    claims = await claimed_by(broker, me, 2)
    assert SYSTEM.wall() >= due - 0.01
    assert {claim.id: claim.attempts for claim in claims} == {first: 2, third: 1}
    assert (await broker.claim(me, 10)).jobs == []
    await broker.finish([done(claim) for claim in claims])
    assert {claim.id for claim in await claimed_by(broker, me, 2)} == {second, fourth}


async def test_who_waits_for_longer_than_sqs_can_hide_it_gives_up_its_place(
    broker: SqsBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before SQS does, which would make it come a second time; its key goes on."""
    me = living()
    (first, second) = await broker.enqueue(jobs(2, order_key=KEY))
    (claim,) = await claimed_by(broker, me, 1)
    monkeypatch.setattr("moorline.jobs.brokers.sqs_groups._HIDDEN", 600.0)
    await broker.finish([ended(claim, "ready", run_at=SYSTEM.wall() + 86_400)])
    (claim,) = await claimed_by(broker, me, 1)
    assert (first, claim.id) == (first, second)


async def test_a_dead_head_whose_place_comes_again_is_tried_again_alone(
    broker: SqsBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQS hides nothing for longer than twelve hours. Nobody passes; and both dead letters are one job."""
    me = living()
    (first, second) = await broker.enqueue(jobs(2, order_key=KEY))
    (claim,) = await claimed_by(broker, me, 1)
    with monkeypatch.context() as shorter:
        shorter.setattr("moorline.jobs.brokers.sqs_groups._HIDDEN", 61.5)
        await broker.finish([ended(claim, "dead", reason="failed")])
    async with asyncio.timeout(20):
        while not (claims := (await broker.claim(me, 1, alone=True)).jobs):
            assert (await broker.claim(me, 10)).jobs == []
    (claim,) = claims
    assert (claim.id, claim.crashes) == (first, 1)
    await broker.finish([ended(claim, "dead", reason="failed")])
    assert len(await broker.list(JobFilter(state="dead"))) == 2
    assert (await broker.retry(first)).state == "ready"
    assert await broker.list(JobFilter(state="dead")) == []
    (claim,) = await claimed_by(broker, me, 1)
    assert claim.id == first
    await broker.finish([done(claim)])
    assert [claim.id for claim in await claimed_by(broker, me, 1)] == [second]


async def test_a_place_that_cannot_be_kept_is_told_of(broker: SqsBroker, caplog: pytest.LogCaptureFixture) -> None:
    """The job is not lost: what was in its place comes again after the lease."""
    me = living()
    (first, _) = await broker.enqueue(jobs(2, order_key=KEY))
    (claim,) = await claimed_by(broker, me, 1)
    fault = {"Id": "0", "SenderFault": False, "Code": "InternalError"}
    calls: list[int] = []

    def fail(_: dict[str, Any]) -> dict[str, Any]:
        calls.append(1)
        return {"Failed": [fault]}

    changed(carrier_of(broker), "change_message_visibility_batch", fail)
    assert await broker.finish([ended(claim, "ready")]) == [True]
    assert len(calls) == 3
    assert "places_not_kept" in caplog.text
    assert [claim.id for claim in await claimed_by(broker, me, 1)] == [first]


async def test_of_a_job_that_is_here_twice_the_end_of_one_frees_nobody(broker: SqsBroker) -> None:
    """As when what followed was sent twice: the place is that of the job that runs."""
    me = living()
    (first, second) = await broker.enqueue(jobs(2, order_key=KEY))
    (claim,) = await claimed_by(broker, me, 1)
    taken = broker._held[first].taken
    await broker.finish([ended(claim, "ready")])
    (claim,) = await claimed_by(broker, me, 1)
    twice = grip_of(broker._held[first].taken)
    copy = Grip(twice.lane, twice.url, "other", "none", me.id, 30, twice.until, None, twice.place)
    carrier_of(broker)._holding._out.admit(copy)
    carrier_of(broker).settle([taken._replace(handle=copy)])
    assert (await broker.claim(me, 10)).jobs == []
    await broker.finish([done(claim)])
    assert [claim.id for claim in await claimed_by(broker, me, 1)] == [second]


async def test_what_is_heard_for_who_leaves_keeps_its_place(broker: SqsBroker) -> None:
    """It is sent anew, and is no suspect."""
    me, other = living(), living()
    (first, second) = await broker.enqueue(jobs(2, order_key=KEY))
    carrier = carrier_of(broker)
    carrier._intake(other)
    carrier._send_on(carrier.take(me, 10))
    (claim,) = await claimed_by(broker, other, 1)
    assert (claim.id, claim.deliveries, claim.crashes) == (first, 1, 0)
    await broker.finish([done(claim)])
    assert [claim.id for claim in await claimed_by(broker, other, 1)] == [second]


async def test_an_answer_that_was_lost_is_asked_for_again(broker: SqsBroker) -> None:
    """Under the same name, so that SQS gives the same messages; what is in a standard queue is asked for once."""
    carrier = carrier_of(broker)
    ask = carrier.link.ask
    await broker.enqueue(jobs())
    asked: dict[str, list[str]] = {}
    losing = False

    def lose(parameters: dict[str, Any]) -> dict[str, Any]:
        names = asked.setdefault(parameters["QueueUrl"].rpartition("-")[2], [])
        names.append(parameters.get("ReceiveRequestAttemptId", "none"))
        if len(names) == 1 and (losing or ".fifo" in parameters["QueueUrl"]):
            raise StoreUnavailable("cut")
        return ask("receive_message", **parameters)

    changed(carrier, "receive_message", lose)
    (claim,) = (await broker.claim(living(), 1)).jobs
    first, second, *_ = asked["default.fifo"]
    assert first == second
    asked.clear()
    losing = True
    with pytest.raises(StoreUnavailable, match="cut"):
        carrier._receive(Lane("default", "later"), carrier.lanes.url(Lane("default", "later")), 1, span=1)
    assert asked["later"] == ["none"]
    assert claim


def test_what_goes_beside_a_body_counts_too() -> None:
    """A message has a megabyte, with the place in it."""
    bodies = Bodies(Link(SqsWhere("sqs://eu-central-1")))
    assert bodies.texts([b"x" * LARGEST], [0]) == ["x" * LARGEST]
    with pytest.raises(StoreError, match="bucket"):
        bodies.texts([b"x" * LARGEST], [1])


@pytest.mark.parametrize("said", ["", "soon receipt", "12", "12 ", None])
def test_a_place_that_is_not_in_our_words_is_none(said: str | None) -> None:
    """Whoever sent it."""
    message = {"MessageAttributes": {ATTRIBUTE: {"StringValue": said}}} if said is not None else {}
    assert place_in(message) is None


async def test_a_job_that_is_unique_has_no_key(
    fifo_url: str, clock: ManualClock, tmp_path: Path, migrated: Path
) -> None:
    """What is unique is in the database, what has a key is not: nobody could keep the order of both."""
    with opened_at(fifo_url, tmp_path, clock, migrated) as broker:
        with pytest.raises(ConfigurationError, match="unique, key"):
            await broker.enqueue([row(clock, unique_key="u", order_key=KEY)])
        assert await broker.counts() == {}


async def test_ordered_jobs_are_moved_there_and_back(
    fifo_url: str, clock: ManualClock, tmp_path: Path, migrated: Path
) -> None:
    """Those that are unique stay in the database."""
    with opened_at(fifo_url, tmp_path, clock, migrated) as broker:
        assert isinstance(broker._kept, InDatabase)
        database = SqlBroker(broker._kept.store)
        ids = await enqueue(database, clock, 3, order_key=KEY)
        (unique,) = await enqueue(database, clock, unique_key="u")
        assert await move(database, broker, clock=clock) == Moved(3, 1)
        carried = CarriedBroker(broker.carrier, clock=clock)
        me = worker(clock)
        for job_id in ids:
            (claim,) = (await carried.claim(me, 10)).jobs
            assert claim.id == job_id
            await carried.finish([done(claim)])
        (last,) = await enqueue(broker, clock, order_key=KEY)
        (there,) = await enqueue(database, clock)  # before there was a queue
        assert await move(broker, database, clock=clock) == Moved(1, 2)
        assert {claim.id for claim in (await database.claim(me, 10)).jobs} == {last, unique, there}


async def test_a_worker_keeps_the_order_of_a_key(broker: SqsBroker) -> None:
    """Though one fails at first: those behind it wait until it is done."""
    ran: list[int] = []
    registered = Jobs(broker)

    async def note(number: int) -> None:
        ran.append(number)
        if number == 1 and ran.count(1) < 2:
            raise ValueError(number)

    function = registered.function(note, backoff=Retry(base=0.01))
    for number in range(4):
        await function.using(key="a").enqueue(number)
    running = Worker(registered, concurrency=10, poll=0.05)
    runner = asyncio.create_task(running.run(signals=False))
    async with asyncio.timeout(40):
        while len(ran) < 5:
            await asyncio.sleep(0.02)
    running.stop()
    await runner
    assert ran == [0, 1, 1, 2, 3]
    assert await broker.counts() == {}


def test_a_url_says_which_queues() -> None:
    """They are standard ones by default; another home than those."""
    assert SqsWhere("sqs://").kind == SqsWhere("sqs://?queues=standard").kind == "standard"
    assert SqsWhere("sqs://?queues=fifo").fifo
    with pytest.raises(ConfigurationError, match="queues is one of standard, fifo"):
        SqsWhere("sqs://?queues=secret")
    homes = {SqsCarrier(f"sqs://eu-central-1?queues={kind}").home for kind in ("standard", "fifo")}
    assert len(homes) == 2


async def test_a_body_that_cannot_be_had_now_keeps_its_place(
    broker: SqsBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is sent on for later, and its key waits for it."""
    carrier = carrier_of(broker)
    me = living()
    (first, second) = await broker.enqueue(jobs(2, order_key=KEY))

    def away(_: str) -> tuple[bytes, str | None]:
        raise StoreUnavailable("S3 is away")

    with monkeypatch.context() as broken:
        broken.setattr(carrier._bodies, "read", away)
        assert (await broker.claim(me, 10)).jobs == []
    assert (await broker.claim(me, 10)).jobs == []
    later = carrier.lanes.url(Lane("default", "later"))
    assert carrier._counted(Lane("default", "later"), later) == (0, 1)
    assert first != second
