"""What a carrier that has groups must do with order keys: as ``ordering``, seen by what can be claimed."""

from __future__ import annotations

import pytest
from tests.jobs.conformance import done, enqueue, row, worker
from tests.jobs.ordering import KEY, YIELDING, ended

from moorline.clock import ManualClock
from moorline.jobs.broker import MAX_CRASHES, JobFilter, WorkerInfo
from moorline.jobs.brokers.carried import CarriedBroker
from moorline.jobs.job import Claim, JobFailure, State
from moorline.jobs.order import order_key

__all__ = ["GroupConformance"]


async def every(broker: CarriedBroker, me: WorkerInfo) -> list[Claim]:
    """All that can be claimed now."""
    return (await broker.claim(me, 10)).jobs


async def only(broker: CarriedBroker, me: WorkerInfo) -> Claim:
    """The one job that can be."""
    (claim,) = await every(broker, me)
    return claim


def lost(broker: CarriedBroker, gone: WorkerInfo) -> None:
    """It died: nobody knows here any more what it had."""
    broker.carrier.dismiss(gone)
    for held in [id_ for id_, one in broker._held.items() if one.worker == gone.id]:
        del broker._held[held]


class GroupConformance:
    """Of the jobs of a key one can be claimed; the others wait for it. Each test is that of ``OrderConformance``."""

    async def test_one_job_of_a_key_is_ready_and_the_others_are_blocked_behind_it(
        self, broker: CarriedBroker, clock: ManualClock
    ) -> None:
        """Whether they came together or later; other keys and jobs without one are not touched."""
        first = await enqueue(broker, clock, 2, order_key=KEY)
        await enqueue(broker, clock, order_key=KEY, priority=0)
        (other,) = await enqueue(broker, clock, order_key=order_key("name", "b"))
        (free,) = await enqueue(broker, clock)
        claims = await every(broker, worker(clock))
        assert {claim.id: claim.order_key for claim in claims} == {
            first[0]: KEY, other: order_key("name", "b"), free: None,
        }  # fmt: skip
        assert (await broker.get(first[0])).order_key == KEY
        assert await every(broker, worker(clock)) == []

    @pytest.mark.parametrize("state", ["done", "cancelled"])
    async def test_the_next_one_is_ready_when_the_head_ends(
        self, broker: CarriedBroker, clock: ManualClock, state: State
    ) -> None:
        """In the same step, in the order of their coming, one after the other, until none is left."""
        ids = await enqueue(broker, clock, 3, order_key=KEY)
        me = worker(clock)
        for job_id in ids:
            claim = await only(broker, me)
            assert claim.id == job_id
            assert await broker.finish([ended(claim, state, reason="why")]) == [True]
        (later,) = await enqueue(broker, clock, order_key=KEY)
        assert (await only(broker, me)).id == later

    async def test_a_head_that_is_tried_again_keeps_its_place(self, broker: CarriedBroker, clock: ManualClock) -> None:
        """Retries, snoozes and given-back claims let nobody pass."""
        ids = await enqueue(broker, clock, 2, order_key=KEY)
        me = worker(clock)
        claim = await only(broker, me)
        error = JobFailure(1, clock.wall(), "ValueError", "no", "")
        await broker.finish([ended(claim, "ready", run_at=clock.wall(), error=error)])
        claim = await only(broker, me)
        assert (claim.id, claim.attempts, claim.deliveries) == (ids[0], 2, 2)
        assert await broker.failures(ids[0]) == [error]
        assert await broker.give_back(me, []) == 1
        claim = await only(broker, worker(clock))
        assert (claim.id, claim.attempts, claim.deliveries) == (ids[0], 2, 3)
        await broker.finish([ended(claim, "ready", snoozed=True, refund=True)])
        claim = await only(broker, me)
        assert (claim.id, claim.snoozes) == (ids[0], 1)
        assert await broker.finish([done(claim)]) == [True]
        assert (await only(broker, me)).id == ids[1]

    async def test_a_dead_head_blocks_its_key_until_it_is_retried_or_skipped(
        self, broker: CarriedBroker, clock: ManualClock
    ) -> None:
        """Nobody passes it; retried it is the head again; skipped it is cancelled and the next one is ready."""
        ids = await enqueue(broker, clock, 2, order_key=KEY)
        me = worker(clock)
        await broker.finish([ended(await only(broker, me), "dead", reason="failed")])
        (late,) = await enqueue(broker, clock, order_key=KEY)
        assert await every(broker, me) == []
        assert (await broker.retry(ids[0])).state == "ready"
        claim = await only(broker, me)
        assert (claim.id, claim.attempts) == (ids[0], 1)
        await broker.finish([ended(claim, "dead", reason="failed")])
        assert await every(broker, me) == []
        skipped = await broker.skip(ids[0])
        assert (skipped.state, skipped.reason) == ("cancelled", "skipped")
        for job_id in (ids[1], late):
            claim = await only(broker, me)
            assert claim.id == job_id
            await broker.finish([done(claim)])

    async def test_a_key_may_go_on_without_its_dead(self, broker: CarriedBroker, clock: ManualClock) -> None:
        """With ``on_dead="skip"``: the next one is ready at once, and the dead one, retried, queues up again."""
        ids = await enqueue(broker, clock, 2, order_key=YIELDING)
        me = worker(clock)
        await broker.finish([ended(await only(broker, me), "dead", reason="failed")])
        claim = await only(broker, me)
        assert claim.id == ids[1]
        await broker.retry(ids[0])
        assert await every(broker, me) == []
        await broker.finish([done(claim)])
        claim = await only(broker, me)
        assert (claim.id, claim.order_key) == (ids[0], YIELDING)

    async def test_skipping_the_dead_of_such_a_key_frees_nobody_twice(
        self, broker: CarriedBroker, clock: ManualClock
    ) -> None:
        """It is in no one's way any more, so that the head stays the only one."""
        ids = await enqueue(broker, clock, 3, order_key=YIELDING)
        me = worker(clock)
        await broker.finish([ended(await only(broker, me), "dead", reason="failed")])
        assert (await only(broker, me)).id == ids[1]
        await broker.skip(ids[0])
        assert await every(broker, me) == []

    @pytest.mark.parametrize("key", [KEY, YIELDING])
    async def test_a_head_that_kills_workers_is_as_any_dead_one(
        self, broker: CarriedBroker, clock: ManualClock, key: str
    ) -> None:
        """Crashes keep its place; the last one makes it dead, and its key does as it was told."""
        ids = await enqueue(broker, clock, 2, order_key=key)
        gone, finder = worker(clock), worker(clock)
        assert (await only(broker, gone)).crashes == 0
        for crashes in range(1, MAX_CRASHES):
            lost(broker, gone)
            assert await every(broker, finder) == []
            gone = worker(clock)
            (claim,) = (await broker.claim(gone, 1, alone=True)).jobs
            assert (claim.id, claim.crashes) == (ids[0], crashes)
        lost(broker, gone)
        assert (await broker.claim(finder, 1, alone=True)).jobs == []
        (dead,) = await broker.list(JobFilter(state="dead"))
        assert (dead.id, dead.reason) == (ids[0], "crashed")
        assert [claim.id for claim in await every(broker, finder)] == ([] if key == KEY else [ids[1]])

    async def test_a_late_result_frees_nobody(self, broker: CarriedBroker, clock: ManualClock) -> None:
        """Who lost its lease is not heard, in a batch with the one that has it now neither."""
        (first, _) = await enqueue(broker, clock, 2, order_key=KEY)
        gone, finder = worker(clock), worker(clock)
        late = await only(broker, gone)
        lost(broker, gone)
        assert await every(broker, finder) == []
        (claim,) = (await broker.claim(finder, 1, alone=True)).jobs
        assert await broker.finish([ended(late, "cancelled"), ended(claim, "ready")]) == [False, True]
        assert await every(broker, finder) == []
        assert [one.id for one in (await broker.claim(finder, 1, alone=True)).jobs] == [first]

    async def test_a_thousand_jobs_of_a_hundred_keys_come_in_order(
        self, broker: CarriedBroker, clock: ManualClock
    ) -> None:
        """However they are batched, each key's jobs are claimed in the order of their coming; fewer of both here."""
        keys = [order_key("name", number % 3) for number in range(12)]
        ids = [(await enqueue(broker, clock, order_key=key))[0] for key in keys[:4]]
        ids += await broker.enqueue([row(clock, order_key=key) for key in keys[4:]])
        claimed: list[Claim] = []
        me = worker(clock)
        while claims := (await broker.claim(me, 64)).jobs:
            assert len({claim.order_key for claim in claims}) == len(claims)
            await broker.finish([done(claim)._replace(order_key=claim.order_key) for claim in claims])
            claimed += claims
        for key in set(keys):
            own = [job_id for job_id, its in zip(ids, keys, strict=True) if its == key]
            assert [one.id for one in claimed if one.order_key == key] == own
        assert len(claimed) == len(keys)
