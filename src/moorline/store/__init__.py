"""The database: schema, migrations, and one writer that commits in groups. SQLite and PostgreSQL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moorline.store.store import Store

__all__ = ["Store"]


def __getattr__(name: str) -> Any:
    if name == "Store":
        from moorline.store.store import Store  # SQLAlchemy is loaded by who needs a database, not by who imports

        return Store
    raise AttributeError(f"module 'moorline.store' has no attribute {name!r}")
