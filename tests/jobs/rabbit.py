"""A RabbitMQ broker of a test's own on a server that others use too."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from uuid import uuid4

import pika

from moorline.clock import SYSTEM, Clock
from moorline.jobs.brokers.rabbitmq import RabbitBroker, RabbitCarrier
from moorline.store import Store

__all__ = ["own_url", "rabbit_broker"]


def own_url(url: str, options: str = "") -> str:
    """That server's, with a prefix that nobody else uses."""
    return f"{url}?prefix=t{uuid4().hex[:12]}{options}"


@contextlib.contextmanager
def rabbit_broker(url: str, *, outbox: Store | None = None, clock: Clock = SYSTEM) -> Iterator[RabbitBroker]:
    """With names that nobody else uses; what it has declared is deleted afterwards."""
    with RabbitBroker(url if "prefix=" in url else own_url(url), outbox=outbox, clock=clock) as broker:
        try:
            yield broker
        finally:
            broker.close()
            assert isinstance(broker.carrier, RabbitCarrier)
            lanes = broker.carrier._lanes
            parameters = pika.URLParameters(url.partition("?")[0].rstrip("/") + "/%2F")
            with contextlib.closing(pika.BlockingConnection(parameters)) as connection:
                channel = connection.channel()
                for lane in lanes.known:
                    channel.queue_delete(lanes.name(lane))
                for name in lanes.holds():
                    channel.queue_delete(name)
                    channel.exchange_delete(name)
