"""A store on each database, and jobs on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import botocore.session
import pytest
from tests.databases import migrated_sqlite
from tests.jobs.brokers import opened
from tests.servers import RedisServer
from tests.sqs_servers import FauxqsServer, MotoServer, aws_environment

from moorline.clock import ManualClock
from moorline.jobs.brokers.sql import SqlBroker
from moorline.jobs.registry import Jobs
from moorline.store import Store


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of an empty database of each kind, migrated."""
    if request.param == "sqlite":
        return migrated_sqlite(tmp_path / "moorline.db")
    url: str = request.getfixturevalue("migrated_postgres_url")
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
        return migrated_sqlite(tmp_path / "moorline.db")
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("durable_redis")
        return server.url
    url: str = request.getfixturevalue("migrated_postgres_url")
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


@pytest.fixture(scope="module")
def aws() -> Iterator[None]:
    """Credentials that open nothing, and one session for all: reading its models is a third of what a test takes."""
    with aws_environment(), pytest.MonkeyPatch.context() as patch:
        session = botocore.session.get_session()
        patch.setattr("botocore.session.get_session", lambda: session)
        yield


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with moorline's tables, to be copied: making them takes longer than most tests."""
    file = tmp_path_factory.mktemp("migrated") / "m.db"
    with Store(f"sqlite:///{file}", auto_migrate=True):
        pass
    return file


@pytest.fixture(scope="session")
def moto() -> Iterator[MotoServer]:
    with MotoServer() as server:
        yield server


@pytest.fixture(scope="session")
def fauxqs() -> Iterator[FauxqsServer]:
    with FauxqsServer() as server:
        yield server


@pytest.fixture
def moto_url(moto: MotoServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """Names that nobody else uses. moto gives a message to two who ask at the same moment, and of two deletions
    forgets one, so the requests that would go at once go one after the other; fauxqs can do it.
    """
    monkeypatch.setattr("moorline.jobs.brokers.sqs_link._PARALLEL", 1)
    return f"{moto.url}&wait=1&prefix=t{uuid4().hex[:12]}"


@pytest.fixture
def fauxqs_url(fauxqs: FauxqsServer) -> str:
    return f"{fauxqs.url}&wait=1&prefix=t{uuid4().hex[:12]}"
