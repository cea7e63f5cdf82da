"""The state machine of jobs, walked at random beside a model small enough to be believed."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.jobs.brokers import opened, opened_empty
from tests.servers import RedisServer

from moorline.clock import ManualClock
from moorline.errors import JobStateError
from moorline.jobs.broker import MAX_CRASHES, Broker, Completion, JobFilter, WorkerInfo
from moorline.jobs.job import Claim, JobRow, State
from moorline.store.ids import new_id

LEASE = 10.0
MAX_ATTEMPTS = 3


@dataclass
class Model:
    """What a job should be."""

    state: State = "ready"
    run_at: float = 0.0
    attempts: int = 0
    deliveries: int = 0
    crashes: int = 0
    snoozes: int = 0
    holder: str | None = None


@dataclass
class Hand:
    """A worker: what it believes to hold, and until when its lease runs."""

    info: WorkerInfo
    lease_until: float = 0.0
    held: dict[str, Claim] = field(default_factory=dict)


class JobStates(RuleBasedStateMachine):
    """Two workers (each new after a crash), one broker, one clock."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.closing = contextlib.ExitStack()
        self.broker = self.opened()
        self.loop = asyncio.new_event_loop()
        self.models: dict[str, Model] = {}
        self.hands = [self.worker(), self.worker()]
        self.leases: dict[str, float] = {}
        self.late: list[Claim] = []

    def opened(self) -> Broker:
        folder = self.closing.enter_context(tempfile.TemporaryDirectory())
        return self.closing.enter_context(opened(f"sqlite:///{folder}/jobs.db", clock=self.clock))

    def teardown(self) -> None:
        self.closing.close()
        self.loop.close()

    def worker(self) -> Hand:
        now = self.clock.wall()
        return Hand(WorkerInfo(new_id(now), "host", 1, ("default",), now, LEASE))

    @rule(delay=st.sampled_from([0.0, 0.0, 5.0]), count=st.integers(1, 3))
    def enqueue(self, delay: float, count: int) -> None:
        now = self.clock.wall()
        rows = [JobRow(new_id(now), "n", b"", now + delay, now, max_attempts=MAX_ATTEMPTS) for _ in range(count)]
        for job_id in self.loop.run_until_complete(self.broker.enqueue(rows)):
            self.models[job_id] = Model(run_at=now + delay)

    @rule(who=st.integers(0, 1), limit=st.integers(1, 3), alone=st.booleans())
    def claim(self, who: int, limit: int, alone: bool) -> None:
        hand, now = self.hands[who], self.clock.wall()
        due = {
            job_id
            for job_id, model in self.models.items()
            if model.state == "ready" and model.run_at <= now and (model.crashes > 0) == alone
        }
        claimed = self.loop.run_until_complete(self.broker.claim(hand.info, limit, alone=alone)).jobs
        self.leases[hand.info.id] = now + LEASE
        assert {one.id for one in claimed} <= due  # never what another one holds
        assert len(claimed) == min(limit, len(due))  # nothing that is due is passed over
        for one in claimed:
            model = self.models[one.id]
            model.state, model.holder = "running", hand.info.id
            model.attempts += 1
            model.deliveries += 1
            assert (one.attempts, one.deliveries, one.crashes) == (model.attempts, model.deliveries, model.crashes)
            assert one.attempts <= MAX_ATTEMPTS
            hand.held[one.id] = one

    def _finish(self, who: int, pick: int, state: State, *, delay: float | None = None, refund: bool = False) -> None:
        hand = self.hands[who]
        job_id = sorted(hand.held)[pick % len(hand.held)]
        one = hand.held.pop(job_id)
        self.late.append(one)
        model, now = self.models[job_id], self.clock.wall()
        ours = model.state == "running" and model.deliveries == one.deliveries
        run_at = None if delay is None else now + delay
        completion = Completion(job_id, one.deliveries, state, run_at=run_at, refund=refund, snoozed=refund)
        assert self.loop.run_until_complete(self.broker.finish([completion])) == [ours]
        if ours:
            model.state, model.holder = state, (None if state == "ready" else model.holder)
            model.attempts -= refund
            model.snoozes += refund
            model.run_at = model.run_at if run_at is None else run_at

    @precondition(lambda self: any(hand.held for hand in self.hands))
    @rule(who=st.integers(0, 1), pick=st.integers(0, 9), state=st.sampled_from(["done", "dead", "cancelled"]))
    def finish(self, who: int, pick: int, state: State) -> None:
        self._finish(who if self.hands[who].held else 1 - who, pick, state)

    @precondition(lambda self: self.hands[0].held)
    @rule(pick=st.integers(0, 9))
    def fail(self, pick: int) -> None:
        one = self.hands[0].held[sorted(self.hands[0].held)[pick % len(self.hands[0].held)]]
        if one.attempts >= MAX_ATTEMPTS:
            self._finish(0, pick, "dead")
        else:
            self._finish(0, pick, "ready", delay=1.0)

    @precondition(lambda self: self.hands[1].held)
    @rule(pick=st.integers(0, 9), delay=st.sampled_from([0.0, 3.0]))
    def snooze(self, pick: int, delay: float) -> None:
        self._finish(1, pick, "ready", delay=delay, refund=True)

    @precondition(lambda self: self.late)
    @rule(pick=st.integers(0, 99), state=st.sampled_from(["done", "ready", "dead"]))
    def finish_again(self, pick: int, state: State) -> None:
        """Who finished, or lost its claim, is not heard again."""
        one = self.late[pick % len(self.late)]
        model = self.models[one.id]
        if model.state == "running" and model.deliveries == one.deliveries:
            return  # crashed and not rescued yet: still the holder
        assert self.loop.run_until_complete(self.broker.finish([Completion(one.id, one.deliveries, state)])) == [False]

    @rule(who=st.integers(0, 1))
    def crash(self, who: int) -> None:
        """The worker is gone, and what it held with it; a new one starts. What it was doing may still report, late."""
        self.late.extend(self.hands[who].held.values())
        self.hands[who] = self.worker()

    @rule(who=st.integers(0, 1))
    def beat(self, who: int) -> None:
        self.broker.heartbeat(self.hands[who].info)
        self.leases[self.hands[who].info.id] = self.clock.wall() + LEASE

    @rule(who=st.integers(0, 1))
    def rescue(self, who: int) -> None:
        hand, now = self.hands[who], self.clock.wall()
        rescued = self.loop.run_until_complete(self.broker.rescue(hand.info))
        self.leases[hand.info.id] = now + LEASE
        ready: set[str] = set()
        dead: set[str] = set()
        for job_id, model in self.models.items():
            if model.state == "running" and self.leases[str(model.holder)] <= now:
                model.crashes += 1
                model.attempts -= 1
                model.holder = None
                model.state = "dead" if model.crashes >= MAX_CRASHES else "ready"
                (dead if model.state == "dead" else ready).add(job_id)
        assert (set(rescued.ready), set(rescued.dead)) == (ready, dead)

    @rule(who=st.integers(0, 1), keep=st.booleans())
    def give_back(self, who: int, keep: bool) -> None:
        hand = self.hands[who]
        held = list(hand.held) if keep else []
        self.loop.run_until_complete(self.broker.give_back(hand.info, held))
        for job_id, model in self.models.items():
            if model.state == "running" and model.holder == hand.info.id and job_id not in held:
                model.state, model.holder = "ready", None
                model.attempts -= 1
        if not keep:
            self.late.extend(hand.held.values())
            hand.held.clear()

    @precondition(lambda self: self.models)
    @rule(pick=st.integers(0, 99))
    def cancel(self, pick: int) -> None:
        job_id = sorted(self.models)[pick % len(self.models)]
        try:
            self.loop.run_until_complete(self.broker.cancel(job_id))
        except JobStateError:
            assert self.models[job_id].state != "ready"
        else:
            assert self.models[job_id].state == "ready"
            self.models[job_id].state = "cancelled"

    @precondition(lambda self: self.models)
    @rule(pick=st.integers(0, 99))
    def retry(self, pick: int) -> None:
        job_id = sorted(self.models)[pick % len(self.models)]
        model = self.models[job_id]
        try:
            self.loop.run_until_complete(self.broker.retry(job_id))
        except JobStateError:
            assert model.state == "running"
        else:
            assert model.state != "running"
            self.models[job_id] = Model(run_at=self.clock.wall(), deliveries=model.deliveries)

    @rule(seconds=st.sampled_from([1.0, 4.0, LEASE + 1]))
    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @invariant()
    def the_broker_agrees(self) -> None:
        """Every job is there, in the model's state, with the model's counters."""
        jobs = self.loop.run_until_complete(self.broker.list(JobFilter(limit=500)))
        assert {job.id: (job.state, job.attempts, job.deliveries, job.crashes) for job in jobs} == {
            job_id: (model.state, model.attempts, model.deliveries, model.crashes)
            for job_id, model in self.models.items()
        }
        assert all(0 <= job.attempts <= MAX_ATTEMPTS for job in jobs)
        counts = Counter(("default", model.state) for model in self.models.values())
        assert self.loop.run_until_complete(self.broker.counts()) == counts


class RedisJobStates(JobStates):
    """The same on Redis."""

    server: ClassVar[RedisServer]

    def opened(self) -> Broker:
        return self.closing.enter_context(opened_empty(self.server, self.clock))


TestJobStates = JobStates.TestCase
TestJobStates.settings = settings(
    max_examples=25, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestJobStates.__doc__ = (
    "No job is lost or claimed by two at once, a late finisher changes nothing, and three crashes are dead, "
    "whatever the order of things."
)


@pytest.mark.redis
class TestRedisJobStates(RedisJobStates.TestCase):  # type: ignore[misc,valid-type]
    """As above, by the script's rules."""

    settings = TestJobStates.settings

    @classmethod
    def setUpClass(cls) -> None:
        RedisJobStates.server = cls.enterClassContext(RedisServer())
