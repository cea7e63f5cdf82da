"""Order keys, walked at random: adding, claiming, ending, dying, retrying, skipping and crashing in any order."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections import Counter
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.jobs.brokers import opened, opened_empty
from tests.servers import RedisServer

from moorline.clock import ManualClock
from moorline.errors import JobStateError
from moorline.jobs.broker import Broker, Completion, JobFilter, WorkerInfo
from moorline.jobs.brokers.sql import SqlBroker
from moorline.jobs.job import Claim, Job, JobRow, State
from moorline.jobs.order import YIELDS, is_head, order_key
from moorline.store.ids import new_id

LEASE = 10.0
KEYS = [None, order_key("n", "a"), order_key("n", "b"), order_key("n", "c", "skip")]
QUEUES = ("default", "other")
FILTERS = [
    JobFilter(limit=1), JobFilter(queue="other", limit=2), JobFilter(event_id="e", limit=2),
    JobFilter(queue="other", event_id="e", limit=3),
]  # fmt: skip


class OrderedJobs(RuleBasedStateMachine):
    """One worker, new after each crash; what it holds may come back late."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.closing = contextlib.ExitStack()
        self.broker = self.opened()
        self.loop = asyncio.new_event_loop()
        self.me = self.worker()
        self.held: list[Claim] = []
        self.late: list[Claim] = []
        self.touched: set[str] = set()  # by a person: a retried job runs after what it once preceded
        self.ran: dict[str, list[str]] = {}
        self.looked = 0

    def opened(self) -> Broker:
        folder = self.closing.enter_context(tempfile.TemporaryDirectory())
        return self.closing.enter_context(opened(f"sqlite:///{folder}/jobs.db", clock=self.clock))

    def teardown(self) -> None:
        self.end_all()
        self.closing.close()
        self.loop.close()

    def worker(self) -> WorkerInfo:
        now = self.clock.wall()
        return WorkerInfo(new_id(now), "host", 1, QUEUES, now, LEASE)

    def run(self, awaitable: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(awaitable)

    def jobs(self) -> list[Job]:
        newest_first: list[Job] = self.run(self.broker.list(JobFilter(limit=1000)))
        return newest_first[::-1]

    @rule(
        keys=st.lists(st.sampled_from(KEYS), min_size=1, max_size=4),
        delay=st.sampled_from([0.0, 0.0, 3.0]),
        queue=st.sampled_from(QUEUES),
        event_id=st.sampled_from([None, "e"]),
    )
    def enqueue(self, keys: list[str | None], delay: float, queue: str, event_id: str | None) -> None:
        now = self.clock.wall()
        rows = [
            JobRow(new_id(now), "n", b"", now + delay, now, queue=queue, event_id=event_id, order_key=key)
            for key in keys
        ]
        self.run(self.broker.enqueue(rows))

    @rule(limit=st.integers(1, 4), alone=st.booleans())
    def claim(self, limit: int, alone: bool) -> None:
        for one in self.run(self.broker.claim(self.me, limit, alone=alone)).jobs:
            assert one.order_key is None or one.order_key not in {other.order_key for other in self.held}
            self.held.append(one)

    @precondition(lambda self: self.held)
    @rule(
        pick=st.integers(0, 9),
        state=st.sampled_from(["done", "done", "ready", "dead", "cancelled"]),
        told=st.booleans(),
    )
    def finish(self, pick: int, state: State, told: bool) -> None:
        one = self.held.pop(pick % len(self.held))
        self.late.append(one)
        run_at = self.clock.wall() + 1 if state == "ready" else None
        completion = Completion(one.id, one.deliveries, state, run_at=run_at, reason="why" if state != "done" else None)
        (kept,) = self.run(self.broker.finish([completion._replace(order_key=one.order_key if told else None)]))
        if kept and state == "done" and one.order_key is not None:
            self.ran.setdefault(one.order_key, []).append(one.id)

    @precondition(lambda self: self.late)
    @rule(pick=st.integers(0, 99), state=st.sampled_from(["done", "dead", "cancelled"]))
    def finish_late(self, pick: int, state: State) -> None:
        one = self.late[pick % len(self.late)]
        if (one.id, one.deliveries) in {(job.id, job.deliveries) for job in self.jobs() if job.state == "running"}:
            return  # crashed and not rescued yet: it is still the holder
        assert self.run(self.broker.finish([Completion(one.id, one.deliveries, state)])) == [False]

    @rule()
    def crash(self) -> None:
        self.late += self.held
        self.held = []
        self.me = self.worker()
        self.clock.advance(LEASE + 1)

    @rule()
    def rescue(self) -> None:
        self.run(self.broker.rescue(self.me))

    @rule()
    def give_back(self) -> None:
        self.run(self.broker.give_back(self.me, []))
        self.late += self.held
        self.held = []

    @precondition(lambda self: self.jobs())
    @rule(pick=st.integers(0, 999), what=st.sampled_from(["retry", "cancel", "skip"]))
    def operate(self, pick: int, what: str) -> None:
        jobs = self.jobs()
        job = jobs[pick % len(jobs)]
        try:
            self.run(getattr(self.broker, what)(job.id))
        except JobStateError:
            fits = {"retry": ("running",), "cancel": ("running", "dead", "done", "cancelled")}
            assert job.state in fits.get(what, ("running", "done", "cancelled"))
        else:
            self.touched.add(job.id)

    @rule(ago=st.sampled_from([0.0, 2.0]))
    def prune(self, ago: float) -> None:
        before = self.clock.wall() - ago
        jobs = self.jobs()
        gone = [job for job in jobs if job.state in ("done", "cancelled") and (job.finished_at or 0.0) < before]
        assert self.run(self.broker.prune(before)) == len(gone)
        assert self.jobs() == [job for job in jobs if job not in gone]

    @rule(seconds=st.sampled_from([1.0, 4.0]))
    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.broker.heartbeat(self.me)

    @invariant()
    def a_key_has_one_head(self) -> None:
        """Never two of a key that are not blocked; what is blocked says behind whom."""
        heads: dict[str, str] = {}
        jobs = self.jobs()
        for job in jobs:
            if job.order_key is not None and is_head(job.state, job.order_key):
                assert job.order_key not in heads
                assert job.state != "dead" or not job.order_key.startswith(YIELDS)  # it is in nobody's way
                heads[job.order_key] = job.id
        for job in jobs:
            assert job.state != "blocked" or job.blocked_behind == heads.get(str(job.order_key))
            assert job.state != "blocked" or job.order_key is not None

    @invariant()
    def the_counts_are_right(self) -> None:
        """They are those of the jobs that are there, blocked ones included."""
        assert self.run(self.broker.counts()) == Counter((job.queue, job.state) for job in self.jobs())

    @invariant()
    def the_pages_are_right(self) -> None:
        """One filter after the other, for each state that there is and for all, shows page after page the jobs that it
        fits; and each alone looks the same.
        """
        self.looked += 1
        jobs = self.jobs()[::-1]
        for state in (None, *sorted({job.state for job in jobs})):
            which = replace(FILTERS[self.looked % len(FILTERS)], state=state)
            found: list[Job] = []
            while page := self.run(self.broker.list(replace(which, before=found[-1].id if found else None))):
                assert len(page) <= which.limit
                found += page
            assert found == [job for job in jobs if which.fits(job)]
        if jobs:
            job = jobs[self.looked % len(jobs)]
            assert self.run(self.broker.get(job.id)) == job

    @invariant()
    def a_key_runs_in_order(self) -> None:
        """What nobody retried was done in the order of its coming."""
        for ids in self.ran.values():
            own = [one for one in ids if one not in self.touched]
            assert own == sorted(own)

    def end_all(self) -> None:
        """Whatever happened, every job can be brought to its end: no key is blocked for ever."""
        self.crash()
        for job in self.jobs():
            if job.state == "dead":
                self.run(self.broker.skip(job.id))
        for _ in range(1000):
            self.run(self.broker.rescue(self.me))
            claims = [
                *self.run(self.broker.claim(self.me, 100)).jobs,
                *self.run(self.broker.claim(self.me, 100, alone=True)).jobs,
            ]
            self.run(self.broker.finish([Completion(one.id, one.deliveries, "done") for one in claims]))
            for one in claims:
                if one.order_key is not None:
                    self.ran.setdefault(one.order_key, []).append(one.id)
            left = [job for job in self.jobs() if job.state in ("ready", "running", "blocked")]
            if not left:
                self.a_key_runs_in_order()
                return
            for job in self.jobs():
                if job.state == "dead":
                    self.run(self.broker.skip(job.id))
            self.clock.advance(5)
        raise AssertionError(left)


class SqlOrderedJobs(OrderedJobs):
    """With what a caller's own transaction may add."""

    broker: SqlBroker

    @rule(key=st.sampled_from(KEYS[1:]), limit=st.integers(1, 3))
    def enqueue_elsewhere(self, key: str, limit: int) -> None:
        """In a transaction that knows nothing of the heads, as a caller's own on PostgreSQL."""
        now = self.clock.wall()

        def insert(connection, payloads):
            for _ in range(limit):
                connection.exec_driver_sql(
                    "INSERT INTO jobs (id, name, queue, priority, payload, state, run_at, max_attempts, created_at,"
                    " order_key) VALUES (?, 'n', 'default', 5, x'', 'blocked', ?, 6, ?, ?)",
                    (new_id(now), now, now, key),
                )
            return payloads

        self.broker.store.write_sync(insert, None)


class RedisOrderedJobs(OrderedJobs):
    """The same on Redis."""

    server: ClassVar[RedisServer]

    def opened(self) -> Broker:
        return self.closing.enter_context(opened_empty(self.server, self.clock))


TestOrderedJobs = SqlOrderedJobs.TestCase
TestOrderedJobs.settings = settings(
    max_examples=30, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestOrderedJobs.__doc__ = "One head a key, in order, and none blocked for ever, whatever the order of things."


@pytest.mark.redis
class TestRedisOrderedJobs(RedisOrderedJobs.TestCase):  # type: ignore[misc,valid-type]
    """As above, by the script's rules."""

    settings = TestOrderedJobs.settings

    @classmethod
    def setUpClass(cls) -> None:
        RedisOrderedJobs.server = cls.enterClassContext(RedisServer())
