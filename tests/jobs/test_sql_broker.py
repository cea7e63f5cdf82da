"""The SQL broker keeps the contract on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from tests.jobs.conformance import BrokerConformance, RecordConformance, done, row, worker
from tests.jobs.noting import NotesConformance
from tests.jobs.ordering import KnownIds, OrderConformance

from moorline.clock import ManualClock
from moorline.errors import StoreUnavailable
from moorline.jobs.broker import Claimed, Completion
from moorline.jobs.brokers.sql import SqlBroker
from moorline.store import Store


class TestSqlBroker(BrokerConformance, RecordConformance, OrderConformance, KnownIds, NotesConformance):
    @pytest.fixture
    def broker(self, database_url: str, clock: ManualClock) -> Iterator[SqlBroker]:
        with Store(database_url, clock=clock, auto_migrate=True) as store:
            yield SqlBroker(store)

    @pytest.mark.parametrize("together", [False, True])
    @pytest.mark.parametrize("keyed", [False, True])
    async def test_whatever_a_job_is_made_of_is_claimed_as_it_was(
        self, broker: SqlBroker, clock: ManualClock, keyed: bool, together: bool
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
        for part in [rows] if together else [[one] for one in rows]:
            await broker.enqueue(part)
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

    async def test_a_lease_that_was_not_stored_is_extended_by_the_next_claim(
        self, broker: SqlBroker, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Else what a worker claims soon after would be taken for an orphan's."""
        await broker.enqueue([row(clock)])
        taken, claims = worker(clock), broker._claim

        def undone(*arguments: Any) -> None:
            claims(*arguments)
            raise StoreUnavailable("it could not be committed")

        monkeypatch.setattr(broker, "_claim", undone)
        with pytest.raises(StoreUnavailable):
            await broker.claim(taken, 1)
        monkeypatch.setattr(broker, "_claim", claims)
        assert len((await broker.claim(taken, 1)).jobs) == 1
        assert (await broker.rescue(worker(clock))).ready == ()

    async def test_a_lease_is_kept_by_claims_alone(self, broker: SqlBroker, clock: ManualClock) -> None:
        taken = worker(clock)
        await broker.enqueue([row(clock)])
        assert len((await broker.claim(taken, 1)).jobs) == 1
        for _ in range(20):
            clock.advance(taken.lease * 0.09)
            await broker.enqueue([row(clock)])
            assert len((await broker.claim(taken, 1)).jobs) == 1
            assert (await broker.rescue(worker(clock))).ready == ()


@pytest.mark.postgres
async def test_what_another_worker_is_taking_is_not_due_again(migrated_postgres_url: str, clock: ManualClock) -> None:
    """Who is told so would ask again and again until the other has committed."""
    with Store(migrated_postgres_url, clock=clock) as store:
        broker = SqlBroker(store)
        due, later = row(clock), row(clock, run_at=clock.wall() + 5)
        await broker.enqueue([due, later])
        with psycopg.connect(migrated_postgres_url.replace("+psycopg", "")) as other:
            other.execute("SELECT 1 FROM jobs WHERE id = %s FOR UPDATE", [due.id])
            assert await broker.claim(worker(clock), 10) == Claimed([], later.run_at)
        assert [claim.id for claim in (await broker.claim(worker(clock), 10)).jobs] == [due.id]
