"""What every broker must do. A broker gets the whole suite by naming itself: subclass and give the fixture ``broker``."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace

import pytest

from moorline.clock import Clock, ManualClock
from moorline.errors import JobNotFound, JobStateError
from moorline.jobs.ageing import rank
from moorline.jobs.broker import MAX_CRASHES, Broker, Completion, JobFilter, Rescued, WorkerInfo
from moorline.jobs.flows import Flow, wrapped
from moorline.jobs.job import Claim, Job, JobFailure, JobRow, State
from moorline.store.ids import new_id

LEASE = 10.0


def worker(clock: Clock, *queues: str) -> WorkerInfo:
    now = clock.wall()
    return WorkerInfo(new_id(now), "host", 1, queues or ("default",), now, LEASE)


def row(clock: Clock, **changes) -> JobRow:
    now = clock.wall()
    return JobRow(new_id(now), "name", b'{"a":1}', now, now)._replace(**changes)


def done(claim: Claim) -> Completion:
    return Completion(claim.id, claim.deliveries, "done")


async def enqueue(broker: Broker, clock: Clock, count: int = 1, **changes) -> list[str]:
    return await broker.enqueue([row(clock, **changes) for _ in range(count)])


async def claimed(broker: Broker, me: WorkerInfo, count: int) -> list[Claim]:
    """So many, asked for until they are there."""
    claims: list[Claim] = []
    while len(claims) < count:
        claims += (await broker.claim(me, count)).jobs
    return claims


class BrokerConformance:
    """The contract of ``moorline.jobs.broker.Broker``, as far as every broker keeps it."""

    async def crash(self, broker: Broker, clock: ManualClock, gone: WorkerInfo, finder: WorkerInfo) -> Rescued:
        """What *finder* is told after *gone* has died with all that it had."""
        clock.advance(LEASE + 1)
        return await broker.rescue(finder)

    async def test_a_job_is_claimed_with_what_was_enqueued(self, broker: Broker, clock: ManualClock) -> None:
        """A claim carries the name, payload and counters, and the job shows as running."""
        (job_id,) = await enqueue(broker, clock, payload=b"\x00\xff", event_id="e1", max_attempts=3)
        (claim,) = (await broker.claim(worker(clock), 10)).jobs
        assert (claim.id, claim.name, bytes(claim.payload), claim.event_id) == (job_id, "name", b"\x00\xff", "e1")
        assert (claim.attempts, claim.max_attempts, claim.deliveries, claim.crashes) == (1, 3, 1, 0)
        assert (await broker.get(job_id)).state == "running"

    async def test_what_is_enqueued_again_is_not_lost(self, broker: Broker, clock: ManualClock) -> None:
        """Rows of which some came before, as a relay sends them after a crash: each is there to be claimed."""
        rows = [row(clock) for _ in range(3)]
        assert await broker.enqueue(rows[:2], again=True) == [one.id for one in rows[:2]]
        assert await broker.enqueue(rows, again=True) == [one.id for one in rows]
        assert {claim.id for claim in (await broker.claim(worker(clock), 10)).jobs} == {one.id for one in rows}

    async def test_claims_go_by_priority_then_time(self, broker: Broker, clock: ManualClock) -> None:
        """The lowest number goes first, then the earliest."""
        now = clock.wall()
        rows = [
            row(clock, name=name, priority=priority, run_at=now - age)
            for name, priority, age in [("c", 5, 1), ("b", 5, 2), ("a", 0, 0), ("d", 9, 99)]
        ]
        await broker.enqueue(rows)
        me = worker(clock)
        first = (await broker.claim(me, 3)).jobs
        second = (await broker.claim(me, 3)).jobs
        assert [claim.name for claim in [*first, *second]] == ["a", "b", "c", "d"]

    async def test_a_low_priority_is_not_starved(self, broker: Broker, clock: ManualClock) -> None:
        """However steady the stream of urgent jobs is, one that is not urgent has its turn."""
        await enqueue(broker, clock, 2, priority=0)
        (low,) = await enqueue(broker, clock, priority=9)
        me = worker(clock)
        claimed: list[str] = []
        while low not in claimed:
            assert len(claimed) < 12
            clock.advance(60)
            await enqueue(broker, clock, priority=0)
            (claim,) = (await broker.claim(me, 1)).jobs
            claimed.append(claim.id)
            await broker.finish([done(claim)])

    async def test_only_the_workers_queues_are_claimed(self, broker: Broker, clock: ManualClock) -> None:
        """A queue that a worker does not serve stays."""
        await enqueue(broker, clock, queue="mail")
        assert (await broker.claim(worker(clock), 10)).jobs == []
        assert len((await broker.claim(worker(clock, "default", "mail"), 10)).jobs) == 1

    async def test_a_heartbeat_keeps_the_jobs(self, broker: Broker, clock: ManualClock) -> None:
        """A worker that beats loses nothing, however long its jobs run."""
        await enqueue(broker, clock)
        me = worker(clock)
        await broker.claim(me, 1)
        for _ in range(5):
            clock.advance(LEASE * 0.9)
            await asyncio.to_thread(broker.heartbeat, me)
            assert (await broker.rescue(worker(clock))).ready == ()

    async def test_a_worker_that_slept_does_not_rescue_its_own_jobs(self, broker: Broker, clock: ManualClock) -> None:
        """After a suspended machine wakes, its own claims are still its own."""
        await enqueue(broker, clock)
        me = worker(clock)
        await broker.claim(me, 1)
        clock.advance(LEASE * 100)
        assert (await broker.rescue(me)).ready == ()

    async def test_a_claim_whose_answer_was_lost_is_given_back(self, broker: Broker, clock: ManualClock) -> None:
        """A worker returns what the broker believes it holds and it does not; others' jobs stay."""
        await enqueue(broker, clock, 3)
        me, other = worker(clock), worker(clock)
        (held,) = (await broker.claim(me, 1)).jobs
        await broker.claim(me, 1)
        await broker.claim(other, 1)
        assert await broker.give_back(me, [held.id]) == 1
        expected = {("default", "running"): 2, ("default", "ready"): 1}
        for _ in range(200):
            if (counts := await broker.counts()) == expected:
                break
            await asyncio.sleep(0.01)  # a carrier's are right soon, not at once
        assert counts == expected, counts

    async def test_a_unique_key_has_one_waiting_job(self, broker: Broker, clock: ManualClock) -> None:
        """A second one gets the first one's id, until that has ended."""
        (first,) = await enqueue(broker, clock, unique_key="k")
        assert await enqueue(broker, clock, 2, unique_key="k") == [first, first]
        (claim,) = (await broker.claim(worker(clock), 1)).jobs
        assert await enqueue(broker, clock, unique_key="k") == [first]
        await broker.finish([done(claim)])
        (second,) = await enqueue(broker, clock, unique_key="k")
        assert second != first

    @pytest.mark.parametrize("state", ["done", "dead", "cancelled"])
    async def test_a_unique_key_may_hold_for_some_time_whatever_becomes_of_the_job(
        self, broker: Broker, clock: ManualClock, state: State
    ) -> None:
        """Who enqueues another one meanwhile, with such a time or without, gets its id; pruning changes nothing."""
        until = clock.wall() + 60
        first, *others = await enqueue(broker, clock, 3, unique_key="k", unique_until=until)
        assert others == [first, first]
        (claim,) = (await broker.claim(worker(clock), 10)).jobs
        await broker.finish([Completion(claim.id, claim.deliveries, state, reason="why")])
        clock.advance(59.5)
        await broker.prune(clock.wall())
        assert await enqueue(broker, clock, 2, unique_key="k", unique_until=clock.wall() + 60) == [first, first]
        assert await enqueue(broker, clock, unique_key="k") == [first]
        (other,) = await enqueue(broker, clock, unique_key="another")
        assert other != first
        late = clock.wall()
        clock.advance(1)
        (second,) = await enqueue(broker, clock, unique_key="k", unique_until=clock.wall() + 60)
        assert second != first
        assert await enqueue(broker, clock, unique_key="k", created_at=late) == [second]

    async def test_a_unique_key_holds_beyond_its_time_while_the_job_waits_or_runs(
        self, broker: Broker, clock: ManualClock
    ) -> None:
        """And who came meanwhile has no time of its own: when the job ends, the next one is made."""
        (first,) = await enqueue(broker, clock, unique_key="k", unique_until=clock.wall() + 60)
        clock.advance(61)
        me = worker(clock)
        assert await enqueue(broker, clock, unique_key="k", unique_until=clock.wall() + 60) == [first]
        (claim,) = (await broker.claim(me, 1)).jobs
        assert await enqueue(broker, clock, unique_key="k", unique_until=clock.wall() + 60) == [first]
        await broker.finish([done(claim)])
        (second,) = await enqueue(broker, clock, unique_key="k")
        assert second != first

    async def test_a_job_may_be_retried_within_its_own_time(self, broker: Broker, clock: ManualClock) -> None:
        """Not within another one's of its key, though that has ended."""
        (first,) = await enqueue(broker, clock, unique_key="k", unique_until=clock.wall() + 60)
        me = worker(clock)
        (claim,) = (await broker.claim(me, 1)).jobs
        await broker.finish([Completion(claim.id, claim.deliveries, "dead", reason="failed")])
        assert (await broker.retry(first)).state == "ready"
        assert await enqueue(broker, clock, unique_key="k") == [first]
        (claim,) = (await broker.claim(me, 1)).jobs
        await broker.finish([Completion(claim.id, claim.deliveries, "dead", reason="failed")])
        clock.advance(61)
        (second,) = await enqueue(broker, clock, unique_key="k", unique_until=clock.wall() + 60)
        (claim,) = (await broker.claim(me, 1)).jobs
        await broker.finish([done(claim)])
        with pytest.raises(JobStateError, match=second):
            await broker.retry(first)
        clock.advance(61)
        assert (await broker.retry(first)).state == "ready"

    async def test_retry_gives_a_dead_job_all_its_attempts(self, broker: Broker, clock: ManualClock) -> None:
        """It is due now, innocent, and has its attempts again."""
        (job_id,) = await enqueue(broker, clock)
        me = worker(clock)
        (claim,) = (await broker.claim(me, 1)).jobs
        await broker.finish([Completion(claim.id, claim.deliveries, "dead", reason="failed")])
        clock.advance(5)
        job = await broker.retry(job_id)
        assert (job.state, job.attempts, job.crashes, job.run_at, job.reason) == ("ready", 0, 0, clock.wall(), None)
        (claim,) = (await broker.claim(me, 1)).jobs
        assert claim.deliveries == 2
        with pytest.raises(JobStateError, match="running"):
            await broker.retry(job_id)
        with pytest.raises(JobNotFound):
            await broker.retry("nothing")

    async def test_retry_lifts_the_time_in_which_a_job_was_to_run(self, broker: Broker, clock: ManualClock) -> None:
        """A person who tries it again means it, however late that is; all else that it carries stays."""
        plain, flow = b'{"v":1,"args":{"to":"\xc3\xa9"}}', Flow(group="g", expires=5.0)
        ids = await enqueue(broker, clock, payload=wrapped(plain, flow))
        ids += await enqueue(broker, clock, payload=wrapped(plain, Flow(expires=5.0)))
        me = worker(clock)
        claims = await claimed(broker, me, 2)
        await broker.finish([Completion(one.id, one.deliveries, "dead", reason="failed") for one in claims])
        for one in ids:
            await broker.retry(one)
        payloads = {claim.id: bytes(claim.payload) for claim in await claimed(broker, me, 2)}
        assert payloads == {ids[0]: wrapped(plain, Flow(group="g")), ids[1]: plain}

    async def test_many_dead_are_retried_at_once(self, broker: Broker, clock: ManualClock) -> None:
        """Each is told of; one that cannot be retried keeps nobody else from it."""
        ids = await enqueue(broker, clock, 40)
        me = worker(clock)
        claims: list[Claim] = []
        while len(claims) < len(ids):
            claims += (await broker.claim(me, 40)).jobs
        running, *others = claims
        await broker.finish([Completion(one.id, one.deliveries, "dead", reason="failed") for one in others])
        dead = [one.id for one in others]
        outcomes = await broker.retry_many([*dead[:30], running.id, "nothing"])
        assert [(job.id, job.state) for job in outcomes[:30] if isinstance(job, Job)] == [
            (one, "ready") for one in dead[:30]
        ]
        assert [type(one) for one in outcomes[30:]] == [JobStateError, JobNotFound]
        assert {job.id for job in await broker.list(JobFilter(state="dead"))} == set(dead[30:])
        again: list[str] = []
        while len(again) < 30:
            again += [claim.id for claim in (await broker.claim(me, 40)).jobs]
        assert sorted(again) == sorted(dead[:30])

    async def test_retry_respects_a_unique_key(self, broker: Broker, clock: ManualClock) -> None:
        """A dead job does not come back beside a living one of its key."""
        (first,) = await enqueue(broker, clock, unique_key="k")
        await broker.cancel(first)
        (second,) = await enqueue(broker, clock, unique_key="k")
        with pytest.raises(JobStateError, match=second):
            await broker.retry(first)

    async def test_an_unknown_job_is_named(self, broker: Broker, clock: ManualClock) -> None:
        """Looking at nothing raises JobNotFound."""
        with pytest.raises(JobNotFound, match="nothing"):
            await broker.get("nothing")

    async def test_a_thousand_jobs_go_through(self, broker: Broker, clock: ManualClock) -> None:
        """Batches larger than any chunk are stored and claimed whole."""
        ids = await enqueue(broker, clock, 1003)
        claims = (await broker.claim(worker(clock), 5000)).jobs
        assert [claim.id for claim in claims] == sorted(ids)
        assert all(await broker.finish([done(claim) for claim in claims]))

    async def test_a_claimed_job_is_not_claimed_again(self, broker: Broker, clock: ManualClock) -> None:
        """Two workers never hold the same job."""
        ids = await enqueue(broker, clock, 20)
        workers = [worker(clock) for _ in range(4)]
        got: list[str] = []
        while len(got) < len(ids):
            claims = await asyncio.gather(*(broker.claim(one, 7) for one in workers))
            got += [claim.id for claimed in claims for claim in claimed.jobs]
        assert sorted(got) == sorted(ids)
        assert [claimed.jobs for claimed in await asyncio.gather(*(broker.claim(one, 7) for one in workers))] == [
            []
        ] * 4

    async def test_what_is_done_never_comes_again(self, broker: Broker, clock: ManualClock) -> None:
        """Its result is taken once, and nobody is given the job."""
        (job_id,) = await enqueue(broker, clock)
        me = worker(clock)
        (claim,) = (await broker.claim(me, 1)).jobs
        assert claim.id == job_id
        assert await broker.finish([done(claim)]) == [True]
        assert await broker.finish([done(claim)]) == [False]
        await broker.leave(me)
        other = worker(clock)
        assert (await broker.rescue(other)).suspects is False
        assert (await broker.claim(other, 10)).jobs == []

    async def test_a_retry_keeps_its_error(self, broker: Broker, clock: ManualClock) -> None:
        """A failed attempt makes the job ready again, with the attempt counted and the error to be read."""
        (job_id,) = await enqueue(broker, clock)
        me = worker(clock)
        (claim,) = (await broker.claim(me, 1)).jobs
        failure = JobFailure(1, clock.wall(), "ValueError", "no", "trace")
        await broker.finish([Completion(claim.id, claim.deliveries, "ready", error=failure)])
        (claim,) = (await broker.claim(me, 1)).jobs
        assert (claim.id, claim.attempts, claim.deliveries) == (job_id, 2, 2)
        assert await broker.failures(job_id) == [failure]
        assert (await broker.get(job_id)).last_error == "ValueError: no"

    async def test_the_last_ten_errors_are_kept(self, broker: Broker, clock: ManualClock) -> None:
        """Older ones go, so that a job that fails for ever does not fill the disk."""
        (job_id,) = await enqueue(broker, clock, max_attempts=100)
        me = worker(clock)
        for number in range(1, 14):
            (claim,) = (await broker.claim(me, 1)).jobs
            failure = JobFailure(number, clock.wall(), "E", str(number), "")
            await broker.finish([Completion(claim.id, claim.deliveries, "ready", error=failure)])
        await broker.claim(me, 1)
        assert [one.attempt for one in await broker.failures(job_id)] == list(range(4, 14))

    async def test_a_refund_spends_no_attempt(self, broker: Broker, clock: ManualClock) -> None:
        """What is given back counts as a delivery, not as an attempt."""
        await enqueue(broker, clock)
        me = worker(clock)
        (claim,) = (await broker.claim(me, 1)).jobs
        await broker.finish([Completion(claim.id, claim.deliveries, "ready", refund=True, snoozed=True, postponed=7)])
        (claim,) = (await broker.claim(me, 1)).jobs
        assert (claim.attempts, claim.deliveries, claim.snoozes, claim.postponed) == (1, 2, 1, 7)
        await broker.finish([Completion(claim.id, claim.deliveries, "ready", refund=True)])
        (claim,) = (await broker.claim(me, 1)).jobs
        assert (claim.attempts, claim.deliveries, claim.postponed) == (1, 3, 7)

    async def test_the_dead_keep_their_reason(self, broker: Broker, clock: ManualClock) -> None:
        """A dead letter says why, and when; it is listed."""
        (job_id,) = await enqueue(broker, clock)
        (claim,) = (await broker.claim(worker(clock), 1)).jobs
        failure = JobFailure(1, clock.wall(), "ValueError", "no", "trace")
        await broker.finish([Completion(claim.id, claim.deliveries, "dead", reason="failed", error=failure)])
        job = await broker.get(job_id)
        assert (job.state, job.reason, job.finished_at) == ("dead", "failed", clock.wall())
        assert await broker.failures(job_id) == [failure]
        assert await broker.list(JobFilter(state="dead")) == [job]
        assert await broker.list(JobFilter(name="another")) == []
        assert (await broker.counts())[("default", "dead")] == 1

    async def test_a_late_result_is_refused(self, broker: Broker, clock: ManualClock) -> None:
        """The fencing token stops who lost the job, whether it waits or runs elsewhere."""
        await enqueue(broker, clock)
        first = worker(clock)
        (late,) = (await broker.claim(first, 1)).jobs
        other = worker(clock)
        await self.crash(broker, clock, first, other)
        assert await broker.finish([done(late)]) == [False]
        (claim,) = (await broker.claim(other, 1, alone=True)).jobs
        assert await broker.finish([done(late)]) == [False]
        assert await broker.finish([done(claim)]) == [True]
        assert await broker.finish([done(claim)]) == [False]

    async def test_a_suspect_is_claimed_only_alone(self, broker: Broker, clock: ManualClock) -> None:
        """A job whose worker died is not handed out among others."""
        (job_id,) = await enqueue(broker, clock)
        first, me = worker(clock), worker(clock)
        await broker.claim(first, 1)
        assert (await self.crash(broker, clock, first, me)).suspects
        assert (await broker.claim(me, 10)).jobs == []
        (claim,) = (await broker.claim(me, 1, alone=True)).jobs
        assert (claim.id, claim.attempts, claim.crashes, claim.deliveries) == (job_id, 1, 1, 2)

    async def test_a_job_that_kills_three_workers_is_dead(self, broker: Broker, clock: ManualClock) -> None:
        """Crashes are counted, and the third one ends it with the reason ``crashed``."""
        (job_id,) = await enqueue(broker, clock)
        before = worker(clock)
        await broker.claim(before, 1)
        for crash in range(1, MAX_CRASHES + 1):
            after = worker(clock)
            await self.crash(broker, clock, before, after)
            claims = (await broker.claim(after, 1, alone=True)).jobs
            assert len(claims) == (crash < MAX_CRASHES)
            before = after
        job = await broker.get(job_id)
        assert (job.state, job.reason, job.crashes, job.finished_at) == ("dead", "crashed", 3, clock.wall())

    async def test_who_leaves_gives_up_what_it_had(self, broker: Broker, clock: ManualClock) -> None:
        """What a worker that left still ran is an orphan at once."""
        (job_id,) = await enqueue(broker, clock)
        me, other = worker(clock), worker(clock)
        await broker.claim(me, 1)
        await broker.leave(me)
        await broker.rescue(other)
        await broker.claim(other, 1)
        assert [claim.id for claim in (await broker.claim(other, 1, alone=True)).jobs] == [job_id]

    async def test_enqueueing_wakes_who_listens(self, broker: Broker, clock: ManualClock) -> None:
        """A new job is announced to who has claimed, until the listener ends."""
        loop, woken = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            loop.call_soon_threadsafe(woken.set)

        await broker.claim(worker(clock), 1)
        stop = broker.listen(wake)
        await enqueue(broker, clock)
        await asyncio.wait_for(woken.wait(), 5)
        stop()


class RecordConformance:
    """Of the brokers that keep a record of each job, which can be looked up and changed."""

    async def test_done_is_stored(self, broker: Broker, clock: ManualClock) -> None:
        """A finished job is done, with the time."""
        (job_id,) = await enqueue(broker, clock)
        (claim,) = (await broker.claim(worker(clock), 1)).jobs
        assert await broker.finish([done(claim)]) == [True]
        job = await broker.get(job_id)
        assert (job.state, job.finished_at) == ("done", clock.wall())

    async def test_a_delayed_job_waits_for_its_time(self, broker: Broker, clock: ManualClock) -> None:
        """It is not claimed before, and the claim says when the next one is due."""
        await enqueue(broker, clock, run_at=clock.wall() + 60)
        me = worker(clock)
        claimed = await broker.claim(me, 10)
        assert (claimed.jobs, claimed.next_at) == ([], clock.wall() + 60)
        clock.advance(60)
        assert len((await broker.claim(me, 10)).jobs) == 1

    @pytest.mark.parametrize("ageing", [60.0, 7.5, 0.0])
    async def test_a_step_of_priority_is_a_head_start(self, broker: Broker, clock: ManualClock, ageing: float) -> None:
        """Of so many seconds (``worker.ageing``), across queues; with 0 the lower number always goes first."""
        chance, now = random.Random(ageing), clock.wall()
        rows = [
            row(clock, queue=queue, priority=chance.randrange(10), run_at=now - chance.uniform(0, 900))
            for queue in ("a", "b") for _ in range(20)
        ]  # fmt: skip
        await broker.enqueue([*rows, row(clock, queue="a", priority=0, run_at=now + 5)])
        me = replace(worker(clock, "a", "b"), ageing=ageing)
        found: list[Claim] = []
        for limit in [1] * 30 + [50]:
            claimed = await broker.claim(me, limit)
            found += claimed.jobs
        expected = sorted(rows, key=lambda one: rank(one.priority, one.run_at, ageing))
        assert [claim.id for claim in found[:30]] == [one.id for one in expected[:30]]
        assert {claim.id for claim in found} == {one.id for one in rows}
        assert claimed.next_at == now + 5

    async def test_cancel_takes_only_what_waits(self, broker: Broker, clock: ManualClock) -> None:
        """A waiting job is cancelled with a reason; a running one refuses; an unknown one is named."""
        (job_id,) = await enqueue(broker, clock)
        assert (await broker.cancel(job_id, reason="mistake")).reason == "mistake"
        assert (await broker.claim(worker(clock), 1)).jobs == []
        (running,) = await enqueue(broker, clock)
        await broker.claim(worker(clock), 1)
        with pytest.raises(JobStateError, match="running"):
            await broker.cancel(running)
        with pytest.raises(JobNotFound, match="nothing"):
            await broker.cancel("nothing")

    async def test_prune_deletes_what_ended_long_ago_and_no_dead_letter(
        self, broker: Broker, clock: ManualClock
    ) -> None:
        """Done and cancelled jobs go after their time, in batches; the dead stay."""
        ids = await enqueue(broker, clock, 4)
        claims = (await broker.claim(worker(clock), 3)).jobs
        await broker.finish(
            [done(claims[0]), done(claims[1]), Completion(claims[2].id, claims[2].deliveries, "dead", reason="failed")]
        )
        assert await broker.prune(clock.wall()) == 0
        assert await broker.prune(clock.wall() + 1, limit=1) == 1
        assert await broker.prune(clock.wall() + 1) == 1
        left = {job.id for job in await broker.list(JobFilter())}
        assert left == {claims[2].id, ids[3]}

    async def test_list_filters_and_pages(self, broker: Broker, clock: ManualClock) -> None:
        """Newest first, by state, name, queue and event, page after page."""
        ids = await enqueue(broker, clock, 5)
        (other,) = await enqueue(broker, clock, name="other", queue="mail", event_id="e")
        page = await broker.list(JobFilter(name="name", limit=2))
        assert [job.id for job in page] == [ids[4], ids[3]]
        assert [job.id for job in await broker.list(JobFilter(name="name", before=page[-1].id))] == ids[2::-1]
        for which in (JobFilter(queue="mail"), JobFilter(event_id="e"), JobFilter(name="other", state="ready")):
            assert [job.id for job in await broker.list(which)] == [other]
        assert await broker.list(JobFilter(state="dead")) == []

    @pytest.mark.parametrize("state", ["dead", "cancelled"])
    async def test_an_end_keeps_its_reason(self, broker: Broker, clock: ManualClock, state: State) -> None:
        """A dead or cancelled job says why."""
        (job_id,) = await enqueue(broker, clock)
        (claim,) = (await broker.claim(worker(clock), 1)).jobs
        await broker.finish([Completion(claim.id, claim.deliveries, state, reason="why")])
        job = await broker.get(job_id)
        assert (job.state, job.reason, job.finished_at) == (state, "why", clock.wall())

    async def test_rescued_jobs_are_named(self, broker: Broker, clock: ManualClock) -> None:
        """By the id, so that the log says what came back."""
        (job_id,) = await enqueue(broker, clock)
        await broker.claim(worker(clock), 1)
        clock.advance(LEASE + 1)
        assert (await broker.rescue(worker(clock))).ready == (job_id,)
