"""The RabbitMQ broker keeps the contract on a real server, as far as a carrier can."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.jobs.carried import CarriedConformance
from tests.jobs.rabbit import rabbit_broker

from moorline.clock import ManualClock
from moorline.jobs.brokers.rabbitmq import RabbitBroker
from moorline.store import Store

pytestmark = pytest.mark.rabbitmq


class TestRabbitBroker(CarriedConformance):
    @pytest.fixture
    def broker(self, rabbit_url: str, clock: ManualClock, tmp_path: Path) -> Iterator[RabbitBroker]:
        with contextlib.ExitStack() as opened:
            store = opened.enter_context(Store(f"sqlite:///{tmp_path}/m.db", clock=clock, auto_migrate=True))
            yield opened.enter_context(rabbit_broker(rabbit_url, outbox=store, clock=clock))
