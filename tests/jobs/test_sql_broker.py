"""The SQL broker keeps the contract on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.jobs.conformance import BrokerConformance, RecordConformance
from tests.jobs.noting import NotesConformance
from tests.jobs.ordering import KnownIds, OrderConformance

from moorline.clock import ManualClock
from moorline.jobs.brokers.sql import SqlBroker
from moorline.store import Store


class TestSqlBroker(BrokerConformance, RecordConformance, OrderConformance, KnownIds, NotesConformance):
    @pytest.fixture
    def broker(self, database_url: str, clock: ManualClock) -> Iterator[SqlBroker]:
        with Store(database_url, clock=clock, auto_migrate=True) as store:
            yield SqlBroker(store)
