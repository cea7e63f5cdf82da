"""A store on each database, and jobs on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

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
