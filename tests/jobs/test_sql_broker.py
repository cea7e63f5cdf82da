"""The SQL broker keeps the contract on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.jobs.conformance import BrokerConformance, RecordConformance, done, row, worker
from tests.jobs.noting import NotesConformance
from tests.jobs.ordering import KnownIds, OrderConformance

from moorline.clock import ManualClock
from moorline.jobs.broker import Completion
from moorline.jobs.brokers.sql import SqlBroker
from moorline.store import Store


class TestSqlBroker(BrokerConformance, RecordConformance, OrderConformance, KnownIds, NotesConformance):
    @pytest.fixture
    def broker(self, database_url: str, clock: ManualClock) -> Iterator[SqlBroker]:
        with Store(database_url, clock=clock, auto_migrate=True) as store:
            yield SqlBroker(store)

    @pytest.mark.parametrize("keyed", [False, True])
    async def test_whatever_a_job_is_made_of_is_claimed_as_it_was(
        self, broker: SqlBroker, clock: ManualClock, keyed: bool
    ) -> None:
        """Rows go to the database, and come from it, in texts that have marks of their own."""
        clock.advance(0.123456789)
        names = ['a "b"', "c\\d", "{e,f}", "NULL", "g'h\nä☃", "plain", " ", "%s"]
        payloads = [b"", bytes(range(256)), b"\\x00", b"x" * 5_000, b"y" * 2_000, b"z" * 2_001, b"{}", b"NULL"]
        key = {"order_key": '={"},\\\t☃'} if keyed else {}
        rows = [
            row(clock, name=name, payload=payload, event_id=f'"{name}"', max_attempts=4, **key)
            for name, payload in zip(names, payloads, strict=True)
        ]
        await broker.enqueue(rows)
        found = []
        while claimed := (await broker.claim(worker(clock), 100)).jobs:
            found += claimed
            assert await broker.finish([done(claim) for claim in claimed]) == [True] * len(claimed)
        own = {one.id: one for one in rows}
        assert sorted(claim.id for claim in found) == sorted(own)
        for claim in found:
            assert (
                own[claim.id]._asdict().items()
                >= {
                    name: getattr(claim, name)
                    for name in ("id", "name", "payload", "run_at", "created_at", "queue", "priority", "max_attempts")
                }.items()
            )
            assert (claim.event_id, claim.order_key) == (own[claim.id].event_id, own[claim.id].order_key)
            assert (claim.attempts, claim.deliveries) == (1, 1)

    async def test_of_those_that_end_together_each_is_judged_alone(self, broker: SqlBroker, clock: ManualClock) -> None:
        """One that is unknown, one with an old delivery, one twice, and those whose end is stored."""
        await broker.enqueue([row(clock) for _ in range(4)])
        first, second, third, fourth = (await broker.claim(worker(clock), 4)).jobs
        late = Completion(second.id, second.deliveries + 1, "done")
        ends = [done(first), late, Completion("unknown", 1, "done"), done(third)]
        assert await broker.finish(ends) == [True, False, False, True]
        assert await broker.finish([done(fourth), done(fourth)]) == [True, True]
        assert (await broker.get(second.id)).state == "running"
        assert await broker.finish([done(first), done(second)]) == [False, True]
