"""Which broker a setting means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from moorline.clock import SYSTEM, Clock
from moorline.errors import ConfigurationError
from moorline.jobs.broker import Broker
from moorline.jobs.brokers.rabbit_link import SCHEMES as RABBIT
from moorline.jobs.brokers.redis_link import SCHEMES as REDIS
from moorline.jobs.brokers.sql import SqlBroker
from moorline.jobs.brokers.sqs_link import SCHEMES as SQS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moorline.store.store import Store

__all__ = ["SCHEMES", "broker_at"]

SCHEMES: Final = (*REDIS, *RABBIT, *SQS)
"""What the URL of a queue may begin with."""


def broker_at(
    queue_url: str | None,
    store: Store | None,
    *,
    queues: Sequence[str] = ("default",),
    clock: Clock = SYSTEM,
    max_waiting: int = 10_000,
) -> Broker:
    """The broker of that URL (setting ``queue_url``), by default the store's own database; *queues* as in
    ``CarriedBroker``. Without a store there must be a URL, and there is no outbox.

    Raises ConfigurationError for a URL that it cannot use.
    """
    if queue_url is None:
        assert store is not None
        return SqlBroker(store)
    scheme = queue_url.partition("://")[0]
    if scheme in RABBIT:
        from moorline.jobs.brokers.rabbitmq import RabbitBroker

        return RabbitBroker(queue_url, outbox=store, queues=queues, max_waiting=max_waiting, clock=clock)
    if scheme in SQS:
        from moorline.jobs.brokers.sqs import SqsBroker

        return SqsBroker(queue_url, outbox=store, queues=queues, max_waiting=max_waiting, clock=clock)
    if scheme in REDIS:
        from moorline.jobs.brokers.redis import RedisBroker

        return RedisBroker(queue_url, outbox=store, max_waiting=max_waiting, clock=clock)
    raise ConfigurationError(f"the URL of the queue must begin with one of {', '.join(SCHEMES)}, then ://")
