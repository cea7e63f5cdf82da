"""How far something has been read: a text in the database, which moves in the same transaction as the jobs it leads to.

For copying from a system that says what has changed since a place (a time, an id, a token): read from the cursor, make
a job of each change, and move the cursor with them. A crash before that reads the same again, one after it nothing
twice; of two that read at the same time, only one moves it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import sqlalchemy as sa

from moorline.errors import ConfigurationError
from moorline.jobs.flows import Flow
from moorline.jobs.following import JobCall
from moorline.jobs.job import JobRow
from moorline.store.leases import compare_and_set
from moorline.store.schema import meta

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from moorline.jobs.broker import Broker
    from moorline.store.store import Store

__all__ = ["Cursor", "places"]

_PREFIX: Final = "cursor:"
_LONGEST: Final = 200
_LONGEST_PLACE: Final = 65_536


class _Move(NamedTuple):
    before: str | None
    after: str
    rows: Sequence[JobRow]


class Cursor:
    """The cursor of that *name*. Raises ConfigurationError for a name that is none."""

    def __init__(self, name: str, store: Store, broker: Broker) -> None:
        if not (name and name.isprintable() and len(name) <= _LONGEST):
            raise ConfigurationError(f"cursor: {name!r} is not a name of up to {_LONGEST} characters")
        self.name = name
        self._key = _PREFIX + name
        self._store = store
        self._broker = broker

    def __repr__(self) -> str:
        return f"<cursor {self.name}>"

    async def read(self) -> str | None:
        """The place; None if it was never moved. Raises StoreUnavailable."""
        return await self._store.read(_read, self._key)

    async def move(self, before: str | None, after: str, jobs: Iterable[JobCall] = ()) -> bool:
        """Move it from the place *before*, as it was read, to *after*, and enqueue the jobs: both or neither.

        False, and nothing is done, if it is somewhere else by now. Raises InvalidArguments, StoreError.
        """
        if len(after) > _LONGEST_PLACE:
            raise ConfigurationError(f"cursor: a place has up to {_LONGEST_PLACE:,} characters")
        rows = [call.row(Flow()) for call in jobs]
        return await self._store.write(self._move, _Move(before, after, rows))

    def _move(self, connection: Connection, payloads: list[_Move]) -> list[bool]:
        return [self._move_one(connection, one) for one in payloads]

    def _move_one(self, connection: Connection, move: _Move) -> bool:
        if not compare_and_set(connection, self._key, move.before, move.after):
            return False
        if move.rows:
            self._broker.enqueue_within(connection, move.rows)
        return True


def _read(connection: Connection, key: str) -> str | None:
    return connection.execute(sa.select(meta.c.value).where(meta.c.key == key)).scalar()


def places(store: Store, prefix: str) -> dict[str, str]:
    """The places of all cursors whose names begin so, by the rest of their names; blocking. Raises StoreUnavailable."""
    start = _PREFIX + prefix
    return {key.removeprefix(start): value for key, value in store.read_sync(_all, start)}


def _all(connection: Connection, start: str) -> list[tuple[str, str]]:
    wanted = sa.select(meta.c.key, meta.c.value).where(meta.c.key.startswith(start, autoescape=True))
    return [(key, value) for key, value in connection.execute(wanted.order_by(meta.c.key))]
