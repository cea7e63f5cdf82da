"""What every broker on a carrier must do: the contract, and what a carrier does in its own way."""

from __future__ import annotations

import asyncio

import pytest
from tests.jobs.conformance import BrokerConformance, done, enqueue, row, worker
from tests.jobs.ordering import OrderConformance

from moorline.clock import ManualClock
from moorline.errors import JobNotFound, JobStateError
from moorline.jobs.broker import Broker, Completion, Rescued, WorkerInfo
from moorline.jobs.brokers.carried import CarriedBroker
from moorline.jobs.brokers.carrier import Lane, Letter


class CarriedConformance(BrokerConformance, OrderConformance):
    """A worker dies when its connection does, not by the clock."""

    async def crash(self, broker: Broker, clock: ManualClock, gone: WorkerInfo, finder: WorkerInfo) -> Rescued:
        assert isinstance(broker, CarriedBroker)
        broker.carrier.dismiss(gone)
        for held in [id_ for id_, one in broker._held.items() if one.worker == gone.id]:
            del broker._held[held]  # it died: nobody knows here any more
        rescued = await broker.rescue(finder)
        assert (await broker.claim(finder, 10)).jobs == []  # what comes again is put apart
        return rescued if rescued.suspects else await broker.rescue(finder)
