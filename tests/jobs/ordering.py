"""What every broker must do with order keys; inherited like ``conformance``."""

from __future__ import annotations

import asyncio

import pytest
from tests.jobs.conformance import LEASE, done, enqueue, row, worker

from moorline.clock import ManualClock
from moorline.errors import JobStateError
from moorline.jobs.broker import MAX_CRASHES, Broker, Completion, JobFilter
from moorline.jobs.job import Claim, State
from moorline.jobs.order import order_key

KEY = order_key("name", "a")
YIELDING = order_key("name", "a", "skip")


def ended(claim: Claim, state: State, **changes) -> Completion:
    return Completion(claim.id, claim.deliveries, state, **changes)


async def states(broker: Broker, ids: list[str]) -> list[str]:
    return [(await broker.get(one)).state for one in ids]


class OrderConformance:
    """Of the jobs of a key one is the head; the others wait for it."""

    async def test_one_job_of_a_key_is_ready_and_the_others_are_blocked_behind_it(
        self, broker: Broker, clock: ManualClock
    ) -> None:
        """Whether they came together or later; other keys and jobs without one are not touched."""
        first = await enqueue(broker, clock, 2, order_key=KEY)
        (third,) = await enqueue(broker, clock, order_key=KEY)
        (other,) = await enqueue(broker, clock, order_key=order_key("name", "b"))
        (free,) = await enqueue(broker, clock)
        assert await states(broker, [*first, third, other]) == ["ready", "blocked", "blocked", "ready"]
        assert {(await broker.get(one)).blocked_behind for one in (first[1], third)} == {first[0]}
        listed = await broker.list(JobFilter(state="blocked"))
        assert [(job.id, job.blocked_behind) for job in listed] == [(third, first[0]), (first[1], first[0])]
        claims = (await broker.claim(worker(clock), 10)).jobs
        assert {claim.id: claim.order_key for claim in claims} == {
            first[0]: KEY, other: order_key("name", "b"), free: None,
        }  # fmt: skip
        assert (await broker.counts())["default", "blocked"] == 2

    @pytest.mark.parametrize("state", ["done", "cancelled"])
    async def test_the_next_one_is_ready_when_the_head_ends(
        self, broker: Broker, clock: ManualClock, state: State
    ) -> None:
        """In the same step, in the order of their coming, one after the other, until none is left."""
        ids = await enqueue(broker, clock, 3, order_key=KEY)
        me = worker(clock)
        for place, job_id in enumerate(ids):
            (claim,) = (await broker.claim(me, 10)).jobs
            assert claim.id == job_id
            assert await broker.finish([ended(claim, state, reason="why")]) == [True]
            assert (await states(broker, ids))[place + 1 : place + 2] == ["ready"] * (place < 2)
        (later,) = await enqueue(broker, clock, order_key=KEY)
        assert await states(broker, [later]) == ["ready"]

    async def test_a_head_that_is_tried_again_keeps_its_place(self, broker: Broker, clock: ManualClock) -> None:
        """Retries, snoozes and given-back claims let nobody pass."""
        ids = await enqueue(broker, clock, 2, order_key=KEY)
        me = worker(clock)
        (claim,) = (await broker.claim(me, 10)).jobs
        await broker.finish([ended(claim, "ready", run_at=clock.wall() + 60)])
        assert (await broker.claim(me, 10)).jobs == []
        clock.advance(60)
        await broker.claim(me, 10)
        assert await broker.give_back(me, []) == 1
        assert await states(broker, ids) == ["ready", "blocked"]

    async def test_a_dead_head_blocks_its_key_until_it_is_retried_or_skipped(
        self, broker: Broker, clock: ManualClock
    ) -> None:
        """Nobody passes it; retried it is the head again; skipped it is cancelled and the next one is ready."""
        ids = await enqueue(broker, clock, 2, order_key=KEY)
        (claim,) = (await broker.claim(worker(clock), 10)).jobs
        await broker.finish([ended(claim, "dead", reason="failed")])
        await broker.rescue(worker(clock))
        (late,) = await enqueue(broker, clock, order_key=KEY)
        assert await states(broker, [*ids, late]) == ["dead", "blocked", "blocked"]
        assert (await broker.get(ids[1])).blocked_behind == ids[0]
        assert (await broker.retry(ids[0])).state == "ready"
        assert await states(broker, [*ids, late]) == ["ready", "blocked", "blocked"]
        (claim,) = (await broker.claim(worker(clock), 10)).jobs
        await broker.finish([ended(claim, "dead", reason="failed")])
        skipped = await broker.skip(ids[0])
        assert (skipped.state, skipped.reason, skipped.finished_at) == ("cancelled", "skipped", clock.wall())
        assert await states(broker, [*ids, late]) == ["cancelled", "ready", "blocked"]

    async def test_a_key_may_go_on_without_its_dead(self, broker: Broker, clock: ManualClock) -> None:
        """With ``on_dead="skip"``: the next one is ready at once, and the dead one, retried, queues up again."""
        ids = await enqueue(broker, clock, 2, order_key=YIELDING)
        (claim,) = (await broker.claim(worker(clock), 10)).jobs
        await broker.finish([ended(claim, "dead", reason="failed")])
        assert await states(broker, ids) == ["dead", "ready"]
        assert (await broker.retry(ids[0])).state == "blocked"
        (claim,) = (await broker.claim(worker(clock), 10)).jobs
        assert claim.id == ids[1]
        await broker.finish([done(claim)])
        (claim,) = (await broker.claim(worker(clock), 10)).jobs
        assert (claim.id, claim.order_key) == (ids[0], YIELDING)

    async def test_skipping_the_dead_of_such_a_key_frees_nobody_twice(self, broker: Broker, clock: ManualClock) -> None:
        """It is in no one's way any more, so that the head stays the only one."""
        ids = await enqueue(broker, clock, 3, order_key=YIELDING)
        (claim,) = (await broker.claim(worker(clock), 10)).jobs
        await broker.finish([ended(claim, "dead", reason="failed")])
        await broker.skip(ids[0])
        assert await states(broker, ids) == ["cancelled", "ready", "blocked"]

    @pytest.mark.parametrize(("key", "after"), [(KEY, "blocked"), (YIELDING, "ready")])
    async def test_a_head_that_kills_workers_is_as_any_dead_one(
        self, broker: Broker, clock: ManualClock, key: str, after: str
    ) -> None:
        """Crashes keep its place; the last one makes it dead, and its key does as it was told."""
        ids = await enqueue(broker, clock, 2, order_key=key)
        await broker.claim(worker(clock), 1)
        for _ in range(MAX_CRASHES):
            assert await states(broker, ids) == ["running", "blocked"]
            clock.advance(LEASE + 1)
            await broker.rescue(worker(clock))
            await broker.claim(worker(clock), 1, alone=True)
        assert await states(broker, ids) == ["dead", after]

    async def test_cancelling_a_waiting_head_frees_the_next_and_a_blocked_one_nobody(
        self, broker: Broker, clock: ManualClock
    ) -> None:
        """A blocked job can be called off; only a head hands its place on; a running one refuses both."""
        ids = await enqueue(broker, clock, 4, order_key=KEY)
        await broker.cancel(ids[1])
        assert await states(broker, ids) == ["ready", "cancelled", "blocked", "blocked"]
        await broker.cancel(ids[0])
        assert await states(broker, ids) == ["cancelled", "cancelled", "ready", "blocked"]
        await broker.claim(worker(clock), 1)
        for call_off in (broker.cancel, broker.skip):
            with pytest.raises(JobStateError, match="running"):
                await call_off(ids[2])
        assert (await broker.skip(ids[3])).reason == "skipped"
        with pytest.raises(JobStateError, match="cancelled"):
            await broker.skip(ids[3])

    async def test_what_is_retried_behind_a_head_queues_up(self, broker: Broker, clock: ManualClock) -> None:
        """An ended job of a key comes back before those that came later, and never beside the head."""
        ids = await enqueue(broker, clock, 3, order_key=KEY)
        me = worker(clock)
        (claim,) = (await broker.claim(me, 1)).jobs
        await broker.finish([done(claim)])
        assert (await broker.retry(ids[0])).state == "blocked"
        assert (await broker.retry(ids[2])).state == "blocked"
        (claim,) = (await broker.claim(me, 10)).jobs
        assert claim.id == ids[1]
        await broker.finish([done(claim)])
        assert await states(broker, ids) == ["ready", "done", "blocked"]

    async def test_a_late_result_frees_nobody(self, broker: Broker, clock: ManualClock) -> None:
        """Who lost its lease is not heard, in a batch with the one that has it now neither."""
        ids = await enqueue(broker, clock, 2, order_key=KEY)
        (late,) = (await broker.claim(worker(clock), 1)).jobs
        clock.advance(LEASE + 1)
        await broker.rescue(worker(clock))
        (claim,) = (await broker.claim(worker(clock), 1, alone=True)).jobs
        await broker.finish([ended(late, "cancelled"), ended(claim, "ready")])
        assert await states(broker, ids) == ["ready", "blocked"]

    async def test_a_thousand_jobs_of_a_hundred_keys_come_in_order(self, broker: Broker, clock: ManualClock) -> None:
        """However they are batched, each key's jobs are claimed in the order of their coming."""
        keys = [order_key("name", number % 100) for number in range(1000)]
        ids = [(await enqueue(broker, clock, order_key=key))[0] for key in keys[:50]]
        rows = await asyncio.gather(*(enqueue(broker, clock, order_key=key) for key in keys[50:]))
        ids += [one for (one,) in rows]
        claimed: list[Claim] = []
        me = worker(clock)
        while claims := (await broker.claim(me, 64)).jobs:
            assert len({claim.order_key for claim in claims}) == len(claims)
            await broker.finish([done(claim)._replace(order_key=claim.order_key) for claim in claims])
            claimed += claims
        for key in set(keys):
            assert [one.id for one in claimed if one.order_key == key] == sorted(
                job_id for job_id, own in zip(ids, keys, strict=True) if own == key
            )
        assert len(claimed) == 1000


class KnownIds:
    """For brokers that know the ids of what they have: nothing is enqueued twice."""

    async def test_what_is_enqueued_again_is_left_as_it_is(self, broker: Broker, clock: ManualClock) -> None:
        """Whatever became of a job, its row changes nothing; a new one of its key does not wait for it."""
        rows = [row(clock), row(clock, order_key=KEY), row(clock, order_key=KEY), row(clock, order_key=KEY)]
        ids = [one.id for one in rows]
        await broker.enqueue(rows[:2])
        claims = (await broker.claim(worker(clock), 10)).jobs
        await broker.finish([done(claim)._replace(order_key=claim.order_key) for claim in claims])
        assert await broker.enqueue(rows, again=True) == ids
        assert await states(broker, ids) == ["done", "done", "ready", "blocked"]
        assert await broker.enqueue(rows, again=True) == ids
        assert await states(broker, ids) == ["done", "done", "ready", "blocked"]
