"""A store on each database, and jobs on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.jobs.brokers import opened
from tests.servers import RedisServer

from moorline.clock import ManualClock
from moorline.jobs.brokers.sql import SqlBroker
from moorline.jobs.registry import Jobs
from moorline.store import Store


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/moorline.db"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param("postgres", marks=pytest.mark.postgres),
        pytest.param("redis", marks=pytest.mark.redis),
    ]
)
def broker_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of every broker; on Redis with a file that is flushed at each write."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/moorline.db"
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("durable_redis")
        return server.url
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture
def durable_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that has what it acknowledged after a ``kill -9``."""
    with RedisServer(folder=tmp_path) as server:
        yield server


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    """On the machine's clock."""
    with Store(database_url, auto_migrate=True) as opened:
        yield opened


@pytest.fixture
def jobs(store: Store) -> Jobs:
    return Jobs(SqlBroker(store))


@pytest.fixture
def any_jobs(broker_url: str) -> Iterator[Jobs]:
    """Jobs on each broker."""
    with opened(broker_url) as broker:
        yield Jobs(broker)
