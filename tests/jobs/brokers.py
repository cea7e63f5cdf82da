"""A broker by its URL, for tests that hold for all of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import redis
from tests.servers import RedisServer

from moorline.clock import SYSTEM, Clock
from moorline.jobs.broker import Broker
from moorline.jobs.brokers.rabbitmq import RabbitBroker
from moorline.jobs.brokers.redis import RedisBroker
from moorline.jobs.brokers.sql import SqlBroker
from moorline.jobs.brokers.sqs import SqsBroker
from moorline.store import Store


@contextlib.contextmanager
def opened(url: str, *, clock: Clock = SYSTEM, migrate: bool = True) -> Iterator[Broker]:
    """The broker on SQLite, PostgreSQL, RabbitMQ or Redis."""
    if url.startswith("amqp"):
        with RabbitBroker(url, clock=clock) as rabbit:
            yield rabbit
        return
    if url.startswith("sqs"):
        with SqsBroker(url, clock=clock) as sqs:
            yield sqs
        return
    if url.startswith("redis"):
        with RedisBroker(url, clock=clock) as broker:
            yield broker
        return
    with Store(url, clock=clock, auto_migrate=migrate) as store:
        yield SqlBroker(store)


@contextlib.contextmanager
def opened_empty(server: RedisServer, clock: Clock) -> Iterator[Broker]:
    """A Redis broker that nobody has used before."""
    with redis.Redis.from_url(server.url) as client:
        client.flushall()
    with opened(server.url, clock=clock) as broker:
        yield broker
