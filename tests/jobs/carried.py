"""What every broker on a carrier must do: the contract, and what a carrier does in its own way."""

from __future__ import annotations

import asyncio

import pytest
import sqlalchemy as sa
from tests.jobs.conformance import BrokerConformance, done, enqueue, row, worker
from tests.jobs.outbox import OutboxConformance

from moorline.clock import SYSTEM, ManualClock
from moorline.errors import ConfigurationError, JobNotFound, JobStateError
from moorline.events import Relay
from moorline.jobs.broker import Broker, Completion, JobFilter, Rescued, WorkerInfo
from moorline.jobs.brokers.carried import CarriedBroker
from moorline.jobs.brokers.carrier import Lane, Letter
from moorline.jobs.brokers.kept import InDatabase
from moorline.jobs.brokers.sql_outbox import insert_outbox
from moorline.jobs.job import Claim, JobRow
from moorline.jobs.order import order_key


class CarriedConformance(BrokerConformance, OutboxConformance):
    """A worker dies when its connection does, not by the clock."""

    async def crash(self, broker: Broker, clock: ManualClock, gone: WorkerInfo, finder: WorkerInfo) -> Rescued:
        assert isinstance(broker, CarriedBroker)
        broker.carrier.dismiss(gone)
        for held in [id_ for id_, one in broker._held.items() if one.worker == gone.id]:
            del broker._held[held]  # it died: nobody knows here any more
        rescued = await broker.rescue(finder)
        assert (await broker.claim(finder, 10)).jobs == []  # what comes again is put apart
        return rescued if rescued.suspects else await broker.rescue(finder)

    @pytest.fixture
    def timed(self, broker: CarriedBroker) -> CarriedBroker:
        """On the machine's clock: it is the server that waits."""
        broker._clock = SYSTEM
        return broker

    async def test_a_delayed_job_comes_when_it_is_due(self, timed: CarriedBroker) -> None:
        """The server holds it, and pushes it to who waits: neither before its time, nor much later."""
        me = worker(SYSTEM)
        due = SYSTEM.wall() + self.delay
        await enqueue(timed, SYSTEM, run_at=due)
        while not (claims := (await timed.claim(me, 10)).jobs):
            assert SYSTEM.wall() < due + 10
            await asyncio.sleep(0.005)
        assert [claim.run_at for claim in claims] == [due]
        assert SYSTEM.wall() >= due - 0.01

    delay = 0.3
    """Seconds: as short as the server can."""

    async def test_what_comes_too_early_is_sent_on(
        self, broker: CarriedBroker, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A delay that is longer than the server can hold is made of several."""
        (job_id,) = await enqueue(broker, clock)
        parcel_of_it: list[Letter] = []
        me = worker(clock)
        (claim,) = (await broker.claim(me, 1)).jobs
        sent = broker.carrier.post
        monkeypatch.setattr(broker.carrier, "post", parcel_of_it.extend)
        year = 365 * 86_400.0
        await broker.finish([Completion(claim.id, claim.deliveries, "ready", run_at=clock.wall() + year)])
        (letter,) = parcel_of_it
        assert letter.delay == broker.carrier.longest_delay
        sent([letter._replace(delay=0.0)])  # as when that time is over
        parcel_of_it.clear()
        assert (await broker.claim(me, 1)).jobs == []
        (letter,) = parcel_of_it
        assert (letter.id, letter.delay) == (job_id, broker.carrier.longest_delay)
        clock.advance(year)
        sent([letter._replace(delay=0.0)])
        assert [claim.id for claim in (await broker.claim(me, 1)).jobs] == [job_id]

    strange = (b"", b"\x00\xff", b"{}", b'{"id": 3, "name": "x"}', b"<html>", b"[" * 5000)
    """Messages that the server takes, and that are no jobs of ours."""

    async def test_what_is_none_of_ours_is_dead_with_its_bytes(self, broker: CarriedBroker, clock: ManualClock) -> None:
        """It harms nobody, and is kept to be looked at; it cannot be retried."""
        (job_id,) = await enqueue(broker, clock)
        letters = [Letter(Lane("default"), f"strange{place}", "?", body) for place, body in enumerate(self.strange)]
        await asyncio.to_thread(broker.carrier.post, letters)
        me = worker(clock)
        claimed: list[str] = []
        async with asyncio.timeout(20):
            while len(await broker.list(JobFilter(state="dead"))) < len(self.strange):
                claimed += [claim.id for claim in (await broker.claim(me, 10)).jobs]
        assert claimed == [job_id]
        dead = await broker.list(JobFilter(state="dead"))
        assert sorted(job.payload for job in dead) == sorted(self.strange)
        assert {job.reason for job in dead} == {"undecodable"}
        with pytest.raises(JobStateError, match="none of ours"):
            await broker.retry(dead[0].id)

    async def test_a_job_that_is_sent_twice_is_not_run_twice_at_once(
        self, broker: CarriedBroker, clock: ManualClock
    ) -> None:
        """As a relay sends it that was cut off: what comes while it runs here is dropped."""
        one = row(clock)
        me = worker(clock)
        await broker.enqueue([one, one], again=True)
        (claim,) = (await broker.claim(me, 10)).jobs
        assert await broker.finish([done(claim)]) == [True]
        assert (await broker.claim(me, 10)).jobs == []

    async def test_who_leaves_makes_no_suspects_of_what_it_had_not_begun(
        self, broker: CarriedBroker, clock: ManualClock
    ) -> None:
        """What was pushed to it and not asked for is sent anew."""
        ids = await enqueue(broker, clock, 20)
        first, second = worker(clock), worker(clock)
        claims = (await broker.claim(first, 15)).jobs
        assert await broker.finish([Completion(one.id, one.deliveries, "ready", refund=True) for one in claims]) == [
            True
        ] * len(claims)
        await broker.leave(first)
        assert sorted(claim.id for claim in await self.claimed(broker, second, 20)) == sorted(ids)
        assert not (await broker.rescue(second)).suspects

    async def claimed(self, broker: Broker, me: WorkerInfo, count: int) -> list[Claim]:
        """So many, in as many claims as it takes."""
        claims: list[Claim] = []
        while len(claims) < count:
            claims += (await broker.claim(me, count - len(claims))).jobs
        return claims

    async def test_what_waits_elsewhere_cannot_be_seen(self, broker: CarriedBroker, clock: ManualClock) -> None:
        """Nor called off; and the error says why. A dead one can be retried, or deleted with ``skip``."""
        (job_id,) = await enqueue(broker, clock)
        for ask in (broker.get, broker.cancel, broker.skip, broker.retry):
            with pytest.raises(JobNotFound, match="waits elsewhere"):
                await ask(job_id)
        (claim,) = (await broker.claim(worker(clock), 1)).jobs
        for ask in (broker.cancel, broker.skip, broker.retry):
            with pytest.raises(JobStateError, match="running"):
                await ask(job_id)
        await broker.finish([Completion(claim.id, claim.deliveries, "dead", reason="failed")])
        with pytest.raises(JobStateError, match="dead"):
            await broker.cancel(job_id)
        assert (await broker.skip(job_id)).state == "cancelled"
        assert await broker.list(JobFilter(state="dead")) == []

    async def test_the_outbox_gives_up_what_stays_in_the_database(
        self, broker: CarriedBroker, clock: ManualClock
    ) -> None:
        """A relay moves plain jobs to the server; those with an order key become jobs of the database itself."""
        assert isinstance(broker._kept, InDatabase)
        store = broker._kept.store
        rows = [row(clock), row(clock, order_key=order_key("name", "a")), row(clock, order_key=order_key("name", "a"))]
        await store.write(_into_outbox, rows)
        relay = Relay(store, broker)
        assert (await relay.run_once()).jobs == 3
        assert (await relay.backlog()).jobs == 0
        me = worker(clock)
        claims = await self.claimed(broker, me, 2)
        assert {claim.id for claim in claims} == {rows[0].id, rows[1].id}
        assert await broker.finish([done(claim) for claim in claims]) == [True, True]
        assert [claim.id for claim in await self.claimed(broker, me, 1)] == [rows[2].id]

    async def test_within_a_transaction_both_kinds_are_enqueued(
        self, broker: CarriedBroker, clock: ManualClock
    ) -> None:
        """What is carried waits in the outbox, what stays is ready, and neither exists before the commit."""
        assert isinstance(broker._kept, InDatabase)
        store = broker._kept.store
        rows = [row(clock), row(clock, unique_key="u")]
        engine = sa.create_engine(store.url)
        with engine.connect() as connection:
            broker.enqueue_within(connection, rows)
            connection.rollback()
            assert await broker.counts() == {}
            broker.enqueue_within(connection, rows)
            connection.commit()
        engine.dispose()
        assert await broker.counts() == {("default", "outbox"): 1, ("default", "ready"): 1}

    in_database: tuple[dict[str, str], ...] = ({"unique_key": "u"}, {"order_key": order_key("name", "a")})
    """What the carrier cannot hold."""

    async def test_without_a_database_there_are_no_keys(self, broker: CarriedBroker, clock: ManualClock) -> None:
        """The error says what is missing."""
        bare = CarriedBroker(broker.carrier, clock=clock)
        for changes in self.in_database:
            with pytest.raises(ConfigurationError, match="needs a database"):
                await bare.enqueue([row(clock, **changes)])
        with pytest.raises(ConfigurationError, match="needs a database"):
            bare.enqueue_within(None, [row(clock)])


def _into_outbox(connection: sa.Connection, payloads: list[list[JobRow]]) -> list[None]:
    for rows in payloads:
        insert_outbox(connection, rows)
    return [None] * len(payloads)
