"""What every broker elsewhere must do with jobs that wait in the database to be relayed to it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import sqlalchemy as sa
from tests.jobs.conformance import claimed, done, row, worker

from moorline.clock import ManualClock
from moorline.errors import JobNotFound, JobStateError
from moorline.events import Relay
from moorline.jobs.broker import Broker, JobFilter
from moorline.jobs.brokers.carried import CarriedBroker
from moorline.jobs.brokers.redis import RedisBroker
from moorline.jobs.brokers.sql import SqlBroker
from moorline.jobs.job import JobRow
from moorline.jobs.watch import stop
from moorline.store import Store

__all__ = ["OutboxConformance"]


class OutboxConformance:
    """Its fixture ``broker`` has a database."""

    @pytest.fixture
    def outbox(self, broker: Broker) -> Store:
        """Where they wait."""
        assert isinstance(broker, RedisBroker | CarriedBroker)
        assert isinstance(broker._kept, SqlBroker)
        return broker._kept.store

    async def test_what_waits_to_be_relayed_is_listed(self, broker: Broker, outbox: Store, clock: ManualClock) -> None:
        """With the others, a page after the other, and by its state, name and queue."""
        waiting = [row(clock, name=name, queue=queue) for name, queue in (("a", "q"), ("b", "q"), ("a", "default"))]
        within(broker, outbox, waiting)
        ids = [one.id for one in reversed(waiting)]
        assert await _ids(broker, JobFilter()) == ids
        assert await _ids(broker, JobFilter(limit=1)) == ids[:1]
        assert await _ids(broker, JobFilter(before=ids[0])) == ids[1:]
        assert await _ids(broker, JobFilter(state="outbox", name="a")) == [ids[0], ids[2]]
        assert await _ids(broker, JobFilter(queue="q")) == ids[1:]
        assert await _ids(broker, JobFilter(state="ready")) == []

    @pytest.mark.parametrize("how", ["cancel", "skip", "stop"])
    async def test_what_waits_to_be_relayed_is_called_off(
        self, broker: Broker, outbox: Store, clock: ManualClock, how: str
    ) -> None:
        """It is not relayed, and shows as cancelled until it is pruned."""
        deeds: dict[str, Callable[[str], Awaitable[Any]]] = {
            "cancel": broker.cancel, "skip": broker.skip, "stop": lambda id_: stop(broker, id_, "why"),
        }  # fmt: skip
        one, other = row(clock), row(clock)
        within(broker, outbox, [one, other])
        await deeds[how](one.id)
        assert (await broker.get(one.id)).state == "cancelled"
        assert await _ids(broker, JobFilter(state="cancelled")) == [one.id]
        assert await broker.counts() == {("default", "cancelled"): 1, ("default", "outbox"): 1}
        with pytest.raises(JobStateError, match="cancelled"):
            await broker.cancel(one.id)
        await Relay(outbox, broker).run_once()
        assert [claim.id for claim in await claimed(broker, worker(clock), 1)] == [other.id]
        clock.advance(1)
        assert await broker.prune(clock.wall()) == 1
        with pytest.raises(JobNotFound):
            await broker.get(one.id)

    async def test_what_was_called_off_before_it_was_relayed_can_be_retried(
        self, broker: Broker, outbox: Store, clock: ManualClock
    ) -> None:
        """It runs after all. While it waits to be relayed there is nothing to retry, and the error says why."""
        one = row(clock)
        within(broker, outbox, [one])
        with pytest.raises(JobStateError, match="relayed"):
            await broker.retry(one.id)
        await broker.cancel(one.id)
        await broker.retry(one.id)
        await Relay(outbox, broker).run_once()
        me = worker(clock)
        (claim,) = await claimed(broker, me, 1)
        assert (claim.id, claim.attempts) == (one.id, 1)
        assert await broker.finish([done(claim)]) == [True]
        await Relay(outbox, broker).run_once()
        assert (await broker.claim(me, 10)).jobs == []


async def _ids(broker: Broker, which: JobFilter) -> list[str]:
    return [job.id for job in await broker.list(which)]


def within(broker: Broker, store: Store, rows: list[JobRow]) -> None:
    """Enqueue *rows* in a transaction of that database."""
    engine = sa.create_engine(store.url)
    with engine.begin() as connection:
        broker.enqueue_within(connection, rows)
    engine.dispose()
