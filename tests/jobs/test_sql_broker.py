"""The SQL broker keeps the contract on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.jobs.conformance import BrokerConformance, done, row, worker
from tests.jobs.ordering import KEY, OrderConformance, states

from moorline.clock import ManualClock
from moorline.jobs.brokers.sql import SqlBroker
from moorline.store import Store


class TestSqlBroker(BrokerConformance, OrderConformance):
    @pytest.fixture
    def broker(self, database_url: str, clock: ManualClock) -> Iterator[SqlBroker]:
        with Store(database_url, clock=clock, auto_migrate=True) as store:
            yield SqlBroker(store)

    async def test_what_is_enqueued_again_is_left_as_it_is(self, broker: SqlBroker, clock: ManualClock) -> None:
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
