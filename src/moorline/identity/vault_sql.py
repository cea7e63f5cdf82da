"""The statements of the vault. Each change of a row names the version that it was read with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import sqlalchemy as sa

from moorline.identity.connection import Connection
from moorline.store.schema import connections

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy.engine import Connection as Database

__all__ = [
    "APPLICATION",
    "Begin",
    "Change",
    "Gone",
    "Sealed",
    "Which",
    "begin",
    "change",
    "delete",
    "find",
    "give_back",
    "load",
    "put",
]


APPLICATION: Final = "moorline:application"
"""The owner of what the application's own services were given for their credentials: nobody has connected it."""


class Sealed(NamedTuple):
    """A connection as it is to be, and the id of the key that has encrypted its tokens; *also* is done with it, in the
    same transaction.
    """

    row: Connection
    key_id: str
    also: Callable[[Database], object] | None = None


class Change(NamedTuple):
    """What a connection becomes, if it still is of *version*; the values by their columns. *also*: as above."""

    id: str
    version: int
    values: dict[str, Any]
    also: Callable[[Database], object] | None = None


class Gone(NamedTuple):
    """A connection that is to be deleted; with a *version* only if it still is of that. *also*: as above."""

    id: str
    version: int | None = None
    also: Callable[[Database], object] | None = None


class Begin(NamedTuple):
    """A refresh of a connection that is of *version*, begun *now*; *seconds* is how long one may take, *lost* that
    nobody knows what became of it.
    """

    id: str
    version: int
    now: float
    seconds: float
    lost: bool = False


class Which(NamedTuple):
    """Connections of that owner, service and account; None is any."""

    owner: str | None = None
    service: str | None = None
    account: str | None = None
    state: str | None = None
    before: str | None = None
    limit: int = 100


def load(database: Database, id: str) -> Connection | None:
    """The connection of that id."""
    return _one(database.execute(sa.select(connections).where(connections.c.id == id)).first())


def find(database: Database, which: Which) -> list[Connection]:
    """Those that fit, newest first; the application's own where these alone are asked for."""
    query = sa.select(connections).order_by(connections.c.id.desc()).limit(which.limit)
    if which.owner is None:
        query = query.where(connections.c.owner != APPLICATION)
    for name in ("owner", "service", "account", "state"):
        wanted = getattr(which, name)
        if wanted is not None:
            query = query.where(connections.c[name] == wanted)
    if which.before is not None:
        query = query.where(connections.c.id < which.before)
    return [_made(row) for row in database.execute(query)]


def put(database: Database, payloads: Sequence[Sealed]) -> list[str | None]:
    """Insert each; None for one whose owner has connected that account already, which is to be changed then."""
    return [_put(database, one) for one in payloads]


def _put(database: Database, one: Sealed) -> str | None:
    values = _values(one)
    columns = ", ".join(values)
    given = ", ".join(f":{name}" for name in values)
    insert = f"INSERT INTO connections ({columns}) VALUES ({given}) ON CONFLICT DO NOTHING"  # noqa: S608 (our columns)
    done = _with_also(database, bool(database.execute(sa.text(insert), values).rowcount), one.also)
    return one.row.id if done else None


def _with_also(database: Database, done: bool, also: Callable[[Database], object] | None) -> bool:  # noqa: FBT001
    if done and also is not None:
        also(database)
    return done


def _values(one: Sealed) -> dict[str, Any]:
    row = one.row
    return {
        "id": row.id,
        "owner": row.owner,
        "service": row.service,
        "account": row.account,
        "scopes": " ".join(sorted(row.scopes)),
        "state": row.state,
        "sealed": row.sealed,
        "key_id": one.key_id,
        "version": row.version,
        "expires_at": row.expires_at,
        "refreshing_since": row.refreshing_since,
        "lost_at": row.lost_at,
        "reason": row.reason,
        "created_at": row.created_at,
        "updated_at": row.updated_at,
    }


def change(database: Database, payloads: Sequence[Change]) -> list[bool]:
    """Change each, and count its version up; False for one that somebody else has changed."""
    return [_change(database, one) for one in payloads]


def _change(database: Database, one: Change) -> bool:
    same = (connections.c.id == one.id) & (connections.c.version == one.version)
    update = sa.update(connections).where(same).values(**one.values, version=one.version + 1)
    return _with_also(database, bool(database.execute(update).rowcount), one.also)


def begin(database: Database, payloads: Sequence[Begin]) -> list[bool]:
    """Take the right to refresh it, and note when; False where another process has it, or has changed the row.

    The version stays, so that who reads meanwhile goes on. A right that was never given back is a refresh of which
    nobody knows the end.
    """
    return [_begin(database, one) for one in payloads]


def _begin(database: Database, one: Begin) -> bool:
    since = connections.c.refreshing_since
    free = since.is_(None) | (since <= one.now - one.seconds)
    same = (connections.c.id == one.id) & (connections.c.version == one.version)
    values = {"refreshing_since": one.now, "lost_at": sa.func.coalesce(since, connections.c.lost_at)}
    return bool(database.execute(sa.update(connections).where(same & free).values(**values)).rowcount)


def give_back(database: Database, payloads: Sequence[Begin]) -> list[None]:
    """Give that right back, for the next one to try."""
    for one in payloads:
        mine = (connections.c.id == one.id) & (connections.c.refreshing_since == one.now)
        values = {"refreshing_since": None} | ({"lost_at": one.now} if one.lost else {})
        database.execute(sa.update(connections).where(mine).values(**values))
    return [None] * len(payloads)


def delete(database: Database, payloads: Sequence[Gone]) -> list[bool]:
    """Delete each; False for one that is not there, or was changed."""
    return [_delete(database, one) for one in payloads]


def _delete(database: Database, one: Gone) -> bool:
    query = sa.delete(connections).where(connections.c.id == one.id)
    if one.version is not None:
        query = query.where(connections.c.version == one.version)
    return _with_also(database, bool(database.execute(query).rowcount), one.also)


def _one(row: Any) -> Connection | None:
    return None if row is None else _made(row)


def _made(row: Any) -> Connection:
    return Connection(
        id=row.id,
        owner=row.owner,
        service=row.service,
        account=row.account,
        scopes=frozenset(row.scopes.split()),
        state=row.state,
        version=row.version,
        expires_at=row.expires_at,
        refreshing_since=row.refreshing_since,
        lost_at=row.lost_at,
        reason=row.reason,
        created_at=row.created_at,
        updated_at=row.updated_at,
        sealed=bytes(row.sealed),
    )
