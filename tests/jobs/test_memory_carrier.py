"""The broker on a carrier in memory: what its random walk, or reading beside it, has found."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence

import pytest
from tests.events.stored import fresh_store
from tests.jobs.conformance import LEASE, done, enqueue, row, worker
from tests.jobs.memory_carrier import MemoryCarrier, MemoryServer

from moorline.clock import ManualClock
from moorline.errors import StoreUnavailable
from moorline.jobs.broker import Completion
from moorline.jobs.brokers.carried import CarriedBroker
from moorline.jobs.brokers.carrier import Letter
from moorline.jobs.job import Claim
from moorline.store import Store


@pytest.fixture
def store(clock: ManualClock) -> Iterator[Store]:
    with fresh_store(clock) as opened:
        yield opened


@pytest.fixture
def server(clock: ManualClock) -> MemoryServer:
    return MemoryServer("connection", clock, LEASE)


@pytest.fixture
def carrier(server: MemoryServer) -> MemoryCarrier:
    return MemoryCarrier(server, "here")


@pytest.fixture
def broker(carrier: MemoryCarrier, store: Store, clock: ManualClock) -> Iterator[CarriedBroker]:
    with CarriedBroker(carrier, outbox=store, clock=clock) as opened:
        yield opened


def again(claim: Claim) -> Completion:
    return Completion(claim.id, claim.deliveries, "ready")


async def test_what_is_done_stands_behind_nothing_that_is_sent(
    broker: CarriedBroker, carrier: MemoryCarrier, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that is short of memory takes nothing more, until what is done has been settled."""
    me = worker(clock)
    await enqueue(broker, clock, 2)
    one, other = (await broker.claim(me, 2)).jobs
    post, asked, room = carrier.post, threading.Event(), threading.Event()

    def blocked(letters: Sequence[Letter]) -> None:
        asked.set()
        assert room.wait(30)
        post(letters)

    monkeypatch.setattr(carrier, "post", blocked)
    more = asyncio.ensure_future(enqueue(broker, clock))
    try:
        assert await asyncio.to_thread(asked.wait, 10)
        assert await asyncio.wait_for(broker.finish([done(one)]), 10) == [True]
        mixed = asyncio.ensure_future(broker.finish([again(other), done(one)]))
    finally:
        room.set()
    assert await mixed == [True, False]
    assert len((await broker.claim(me, 10)).jobs) == len([*await more, other])


async def test_what_is_done_counts_though_the_rest_has_to_be_said_again(
    broker: CarriedBroker, carrier: MemoryCarrier, clock: ManualClock
) -> None:
    """A result is not too late because another one of its batch could not be sent."""
    me = worker(clock)
    await enqueue(broker, clock, 2)
    one, other = (await broker.claim(me, 2)).jobs
    ends = [again(other), done(one)]
    carrier.fault, carrier.countdown = "before", 1
    with pytest.raises(StoreUnavailable):
        await broker.finish(ends)
    assert await broker.finish(ends) == [True, True]
    assert await broker.finish(ends) == [False, False]


async def test_a_copy_that_became_a_suspect_is_not_run_beside_the_other(
    broker: CarriedBroker, server: MemoryServer, clock: ManualClock
) -> None:
    """Sent twice, and one of the two came again: what runs here is not begun once more, and its end counts."""
    me, gone = worker(clock), worker(clock)
    one = row(clock)
    await broker.enqueue([one, one], again=True)
    with CarriedBroker(MemoryCarrier(server, "there"), clock=clock) as there:
        assert len((await there.claim(gone, 1)).jobs) == 1
    (claim,) = (await broker.claim(me, 10)).jobs
    assert (await broker.rescue(me)).suspects
    assert (await broker.claim(me, 1, alone=True)).jobs == []
    assert await broker.finish([done(claim)]) == [True]
    assert server.messages == []


async def test_a_suspect_that_was_made_of_what_runs_here_is_kept_until_it_ends(
    store: Store, clock: ManualClock
) -> None:
    """Delivered twice, as SQS may do: the other one has deleted what we hold, and the suspect is all that there is."""
    server = MemoryServer("visibility", clock, LEASE)
    me, other = worker(clock), worker(clock)
    here, there = (CarriedBroker(MemoryCarrier(server, name), outbox=store, clock=clock) for name in ("here", "there"))
    with here, there:
        await enqueue(here, clock)
        (claim,) = (await here.claim(me, 1)).jobs
        server.twice = True
        assert (await there.claim(other, 1)).jobs == []
        assert (await here.claim(me, 1, alone=True)).jobs == []
        assert len(server.messages) == 1
        assert await here.finish([done(claim)]) == [True]
        assert server.messages == []


async def test_a_carrier_that_is_away_costs_no_lease_in_the_database(
    broker: CarriedBroker, carrier: MemoryCarrier, clock: ManualClock
) -> None:
    """The heart beats there all the same: what is kept there is not taken from who runs it."""
    me, other = worker(clock), worker(clock)
    await enqueue(broker, clock, unique_key="u")
    (claim,) = (await broker.claim(me, 1)).jobs
    for _ in range(3):
        clock.advance(LEASE * 0.9)
        carrier.countdown, carrier.fault = 0, "before"
        with pytest.raises(StoreUnavailable):
            await asyncio.to_thread(broker.heartbeat, me)
    assert (await broker.rescue(other)).ready == ()
    assert await broker.finish([done(claim)]) == [True]


async def test_what_came_too_early_and_could_not_be_sent_on_is_claimed_within_the_limit(
    broker: CarriedBroker, carrier: MemoryCarrier, clock: ManualClock
) -> None:
    """By the time that it is due; what is left waits for the next claim, before what comes after it."""
    me = worker(clock)
    ids = await enqueue(broker, clock, 3, run_at=clock.wall() + 10)
    clock.advance(carrier.longest_delay)
    carrier.countdown, carrier.fault = 1, "before"
    with pytest.raises(StoreUnavailable):
        await broker.claim(me, 3)
    clock.advance(10)
    (late,) = await enqueue(broker, clock)
    claimed = [[one.id for one in (await broker.claim(me, limit)).jobs] for limit in (1, 1, 5)]
    assert [len(some) for some in claimed] == [1, 1, 2]
    assert sorted(claimed[0] + claimed[1] + claimed[2]) == sorted([*ids, late])


async def test_who_cannot_send_on_what_it_had_leaves_it_to_others(
    broker: CarriedBroker, carrier: MemoryCarrier, server: MemoryServer, clock: ManualClock
) -> None:
    """It is told so; nothing stays with a worker that is gone, and one that leaves at that moment is not held up."""
    first, second = worker(clock), worker(clock)
    for me in (first, second):
        await enqueue(broker, clock, 2)
        await broker.claim(me, 1)
        carrier.push(me, 1)
    carrier.countdown, carrier.fault = 1, "before"  # asked what it has to spare, it sends that on
    answers = await asyncio.gather(broker.leave(first), broker.leave(second), return_exceptions=True)
    assert [type(answer) for answer in answers] == [StoreUnavailable, type(None)]
    assert len(server.messages) == 4
    assert all(server.free(message) for message in server.messages)
