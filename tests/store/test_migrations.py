"""The migrations and the schema are one."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from tests.databases import migrated_sqlite

from moorline.clock import ManualClock
from moorline.errors import StoreNotMigrated
from moorline.identity.rotation import sql
from moorline.store import Store, engines
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


def config() -> Config:
    """As ``Store.migrate`` has it."""
    made = Config()
    made.set_main_option("script_location", "moorline.store:migrations")
    made.set_main_option("path_separator", "os")
    return made


def test_the_revision_is_the_newest_migration() -> None:
    """``REVISION`` is the head of the scripts, of which there is one."""
    assert ScriptDirectory.from_config(config()).get_heads() == [REVISION]


def test_earlier_decisions_on_a_credential_are_found_by_its_name(database_url: str) -> None:
    """Those that were made before the audit had a column for it; other lines stay as they were."""
    store, earlier = Store(database_url), config()
    engine = sa.create_engine(store.url)
    lines = [("1", "keys.add", {"name": "A", "why": "yearly"}), ("2", "keys.add", {"name": "B"}),
             ("3", "replay.start", {"name": "A"}), ("4", "keys.promote", {"name": "A"})]  # fmt: skip
    with engine.begin() as connection:
        earlier.attributes["connection"] = connection
        command.upgrade(earlier, "0008")
        insert = "INSERT INTO audit (id, at, actor, action, detail) VALUES (:id, 1, 'ada', :action, :detail)"
        rows = [{"id": one, "action": action, "detail": json.dumps(detail)} for one, action, detail in lines]
        connection.execute(sa.text(insert), rows)
    store.migrate()
    with engine.connect() as connection:
        found = sql.trail(connection, "A", 20)
        assert [(one["action"], one.get("why")) for one in found] == [("promote", None), ("add", "yearly")]
        assert len(sql.trail(connection, "A", 1)) == 1
        assert connection.execute(sa.text("SELECT about FROM audit WHERE id = '3'")).scalar() is None
    engine.dispose()


@pytest.mark.parametrize(
    ("query", "index"),
    [
        ("SELECT service, count(*) FROM connections WHERE state = 'ended' AND updated_at >= 1 GROUP BY service",
         "connections_state (state=? AND updated_at>?)"),
        ("SELECT * FROM audit WHERE about = 'A' ORDER BY id DESC LIMIT 20", "audit_about (about=?)"),
    ],
    ids=["connections that have ended", "decisions on a credential"],
)  # fmt: skip
def test_what_is_looked_for_often_is_found_by_an_index(tmp_path: Path, query: str, index: str) -> None:
    """And comes in its order, where there is one."""
    store = Store(migrated_sqlite(tmp_path / "m.db"))
    engine = sa.create_engine(store.url)
    with engine.connect() as connection:
        plan = [row.detail for row in connection.execute(sa.text(f"EXPLAIN QUERY PLAN {query}"))]
    engine.dispose()
    assert index in plan[0]
    assert not [line for line in plan if "ORDER BY" in line]


def test_a_database_that_was_not_migrated_is_refused(database_url: str) -> None:
    """Opening it raises StoreNotMigrated, and so does a schema of another version; migrating mends the first."""
    store = Store(database_url, auto_migrate=False)
    with pytest.raises(StoreNotMigrated, match="no moorline tables"):
        store.open()
    store.migrate()
    with store:
        store.write_sync(_from_the_future, None)
    for refused in (store.open, store.migrate, Store(database_url, auto_migrate=True).open):
        with pytest.raises(StoreNotMigrated, match=r"schema 9999.*a newer version of moorline.*[Uu]pdate moorline"):
            refused()


def _from_the_future(connection: sa.Connection, payloads: list[None]) -> list[None]:
    connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    return payloads


def test_a_file_that_another_process_is_making_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two workers that began at once the second ended: SQLite refuses to change a file's journal without a wait."""
    path = tmp_path / "moorline.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("CREATE TABLE theirs (a)")
        other.execute("BEGIN")
        other.execute("SELECT * FROM theirs").fetchall()
        waits: list[float] = []

        class Clock(ManualClock):
            def sleep(self, seconds: float) -> None:
                waits.append(seconds)
                if other.in_transaction:
                    other.execute("COMMIT")

        monkeypatch.setattr(engines, "SYSTEM", Clock())
        with Store(f"sqlite:///{path}") as store:
            assert store.revision() == REVISION
    assert waits
