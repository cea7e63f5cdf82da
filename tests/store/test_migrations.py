"""The migrations and the schema are one."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from moorline.errors import StoreNotMigrated
from moorline.store import Store
from moorline.store.schema import REVISION, metadata


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/moorline.db"
    url: str = request.getfixturevalue("postgres_url")
    return url


def test_the_migrations_make_the_schema(database_url: str) -> None:
    """A migrated database differs in nothing from the metadata."""
    store = Store(database_url)
    store.migrate()
    store.check()
    engine = sa.create_engine(store.url)
    with engine.connect() as connection:
        differences = compare_metadata(MigrationContext.configure(connection), metadata)
    engine.dispose()
    assert differences == []


def test_the_revision_is_the_newest_migration() -> None:
    """``REVISION`` is the head of the scripts, of which there is one."""
    config = Config()
    config.set_main_option("script_location", "moorline.store:migrations")
    config.set_main_option("path_separator", "os")
    assert ScriptDirectory.from_config(config).get_heads() == [REVISION]


def test_a_database_that_was_not_migrated_is_refused(database_url: str) -> None:
    """Opening it raises StoreNotMigrated, and so does a schema of another version; migrating mends the first."""
    store = Store(database_url, auto_migrate=False)
    with pytest.raises(StoreNotMigrated, match="no moorline tables"):
        store.open()
    store.migrate()
    with store:
        store.write_sync(_from_the_future, None)
    with pytest.raises(StoreNotMigrated, match="9999"):
        store.open()
    with pytest.raises(StoreNotMigrated):
        store.migrate()


def _from_the_future(connection: sa.Connection, payloads: list[None]) -> list[None]:
    connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    return payloads
