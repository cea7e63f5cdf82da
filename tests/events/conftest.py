"""A store of each kind, and what stands on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.databases import migrated_sqlite

from moorline.events import Inbox
from moorline.store.store import Store


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind, migrated."""
    if request.param == "sqlite":
        return migrated_sqlite(tmp_path / "moorline.db")
    return str(request.getfixturevalue("migrated_postgres_url"))


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    """An open store of each kind."""
    with Store(database_url, auto_migrate=True) as store:
        yield store


@pytest.fixture
def inbox(store: Store) -> Inbox:
    """An inbox without handlers."""
    return Inbox(store)


@pytest.fixture
def rows(store: Store) -> Any:
    """``rows("SELECT …")`` reads from the store."""

    def read(query: str) -> list[Any]:
        return [tuple(row) for row in store.read_sync(lambda connection: connection.exec_driver_sql(query).fetchall())]

    return read
