"""Which broker a setting means."""

from __future__ import annotations

from moorline.clock import SYSTEM, Clock
from moorline.jobs.broker import Broker
from moorline.jobs.brokers.sql import SqlBroker
from moorline.store.store import Store

__all__ = ["broker_at"]


def broker_at(queue_url: str | None, store: Store, *, clock: Clock = SYSTEM, max_waiting: int = 10_000) -> Broker:
    """The broker of that URL (setting ``queue_url``), by default the store's own database.

    Raises ConfigurationError for a URL that it cannot use.
    """
    if queue_url is None:
        return SqlBroker(store)
    from moorline.jobs.brokers.redis import RedisBroker

    return RedisBroker(queue_url, outbox=store, max_waiting=max_waiting, clock=clock)
