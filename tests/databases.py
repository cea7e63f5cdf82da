"""Databases that were migrated already, for tests that are not about migrating: a copy takes a tenth of the time."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

from tests.servers import RunningPostgres

from moorline.store import Store

__all__ = ["migrated", "migrated_postgres", "migrated_sqlite"]


@cache
def migrated() -> Path:
    """An empty database file of SQLite, to be copied."""
    file = Path(tempfile.mkdtemp(prefix="moorline-migrated-")) / "empty.db"
    atexit.register(shutil.rmtree, file.parent, ignore_errors=True)
    with Store(f"sqlite:///{file}", auto_migrate=True):
        pass
    return file


def migrated_sqlite(file: Path) -> str:
    """The URL of a copy at *file*."""
    shutil.copy(migrated(), file)
    return f"sqlite:///{file}"


def migrated_postgres(server: RunningPostgres) -> str:
    """The URL of a copy on that server, to be dropped by the caller."""
    server.make_template("migrated", lambda url: Store(url, auto_migrate=True).open().close())
    return server.create_database("migrated")
