"""The statements of the credentials that an application keeps itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import sqlalchemy as sa

from moorline.store.schema import secrets

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.engine import Connection as Database

    from moorline.secrets.versions import Stage

__all__ = ["MOST", "Mark", "Row", "delete", "every", "mark", "names", "of", "put"]

MOST = 20
"""Versions of one name that are kept."""


class Row(NamedTuple):
    """A version as it lies there: *sealed* by the key *key_id*."""

    id: str
    name: str
    stage: Stage
    sealed: bytes
    key_id: str
    not_before: float | None
    not_after: float | None
    created_at: float


class Mark(NamedTuple):
    """The version *id* of *name* becomes of another stage."""

    name: str
    id: str
    stage: Stage


def of(database: Database, name: str) -> list[Row]:
    """All versions of a name, newest first."""
    query = sa.select(secrets).where(secrets.c.name == name).order_by(secrets.c.id.desc())
    return [Row(**row._mapping) for row in database.execute(query)]  # noqa: SLF001 (SQLAlchemy's own name for it)


def every(database: Database) -> list[Row]:
    """All versions of all names, newest first."""
    query = sa.select(secrets).order_by(secrets.c.id.desc())
    return [Row(**row._mapping) for row in database.execute(query)]  # noqa: SLF001 (likewise)


def names(database: Database) -> list[str]:
    """The names that there are, sorted."""
    return sorted(database.execute(sa.select(secrets.c.name).distinct()).scalars())


def put(database: Database, payloads: Sequence[Row]) -> list[bool]:
    """Insert each; False for one whose name has as many as may be kept."""
    return [_put(database, one) for one in payloads]


def _put(database: Database, one: Row) -> bool:
    count = sa.select(sa.func.count()).select_from(secrets).where(secrets.c.name == one.name)
    if database.execute(count).scalar_one() >= MOST:
        return False
    if one.stage == "current":
        _replaced(database, one.name)
    database.execute(sa.insert(secrets).values(**one._asdict()))
    return True


def _replaced(database: Database, name: str) -> None:
    same = (secrets.c.name == name) & (secrets.c.stage == "current")
    database.execute(sa.update(secrets).where(same).values(stage="previous"))


def mark(database: Database, payloads: Sequence[Mark]) -> list[bool]:
    """Give each its stage; False for one that is not there."""
    return [_mark(database, one) for one in payloads]


def _mark(database: Database, one: Mark) -> bool:
    same = (secrets.c.name == one.name) & (secrets.c.id == one.id)
    if database.execute(sa.select(secrets.c.id).where(same)).first() is None:
        return False
    if one.stage == "current":
        _replaced(database, one.name)
    database.execute(sa.update(secrets).where(same).values(stage=one.stage))
    return True


def delete(database: Database, payloads: Sequence[tuple[str, str]]) -> list[bool]:
    """Delete each, by name and id; False for one that is not there."""
    found = []
    for name, version in payloads:
        same = (secrets.c.name == name) & (secrets.c.id == version)
        found.append(bool(database.execute(sa.delete(secrets).where(same)).rowcount))
    return found
