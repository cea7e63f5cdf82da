"""An application, and a queue of another program at each carrier."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import botocore.session
import pytest
from tests.jobs.foreign.places import AmqpPlace, Place, SqsPlace, StreamPlace, closing
from tests.servers import RedisServer
from tests.sqs_servers import MotoServer, aws_environment

from moorline import Moorline
from moorline.jobs.foreign.address import SqsAddress
from moorline.jobs.foreign.sqs import SqsSource
from moorline.store import Store


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("MOORLINE_") and not name.startswith("MOORLINE_TEST"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="package")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database that was brought up to date, once for all."""
    path = tmp_path_factory.mktemp("empty") / "app.db"
    with Store(f"sqlite:///{path}", auto_migrate=True):
        pass
    return path


@pytest.fixture
def app(tmp_path: Path, empty: Path) -> Moorline:
    """On SQLite, not opened."""
    shutil.copy(empty, tmp_path / "app.db")
    return Moorline(f"sqlite:///{tmp_path}/app.db")


@pytest.fixture(scope="package")
def redis_url() -> Iterator[str]:
    with RedisServer() as server:
        yield server.url


@pytest.fixture(scope="package")
def moto() -> Iterator[MotoServer]:
    """With credentials that open nothing, and one session for all: reading its models takes long."""
    with aws_environment(), MotoServer() as server, pytest.MonkeyPatch.context() as patch:
        session = botocore.session.get_session()
        patch.setattr("botocore.session.get_session", lambda: session)
        yield server


@pytest.fixture
def amqp(rabbit_url: str) -> Iterator[AmqpPlace]:
    with closing(AmqpPlace(rabbit_url)) as place:
        yield place


@pytest.fixture
def stream(redis_url: str) -> Iterator[StreamPlace]:
    with closing(StreamPlace(redis_url)) as place:
        yield place


@pytest.fixture
def sqs(moto: MotoServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[SqsPlace]:
    """Without long polls, whose ends all who stop would wait for."""
    make = SqsSource.__init__

    def made(source: SqsSource, address: SqsAddress) -> None:
        make(source, address)
        source._wait = 0

    monkeypatch.setattr(SqsSource, "__init__", made)
    with closing(SqsPlace(moto)) as place:
        yield place


@pytest.fixture(
    params=[
        pytest.param("amqp", marks=pytest.mark.rabbitmq),
        pytest.param("stream", marks=pytest.mark.redis),
        "sqs",
    ]
)
def place(request: pytest.FixtureRequest) -> Place:
    """Each of them."""
    found: Place = request.getfixturevalue(request.param)
    return found
