"""What is kept encrypted, table by table: which key has encrypted how many rows, and encrypting them anew.

Whatever keeps something encrypted describes its table with an ``Encrypted``, and its module is one of those below; the
rest is the same for all. A row tells in ``key_id`` which key of the ring has encrypted its ``sealed``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import sqlalchemy as sa

from moorline.errors import DecryptionFailed
from moorline.store.schema import meta
from moorline.store.steps import Read, Steps, Write

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy.engine import Connection

    from moorline.secrets.keyring import KeyRing

__all__ = ["Encrypted", "Resealed", "all_encrypted", "counts", "mark", "marked", "reseal", "reseal_batch", "unreadable"]

_ROOMS: Final = ("moorline.identity.vault", "moorline.identity.own_secrets")
"""The modules that keep something encrypted: ``ENCRYPTED`` of each describes it."""
_BATCH: Final = 100
_MARK: Final = "encryption:new"


@dataclass(frozen=True, slots=True)
class Encrypted:
    """A *table* in which ``sealed`` was encrypted for that *purpose* and for the *place* that a row gives. *id* is a
    column that tells rows apart, and *name* what people call what it holds.
    """

    name: str
    table: sa.Table
    purpose: str
    place: Callable[[Any], str]
    id: str = "id"


@dataclass(frozen=True, slots=True)
class Resealed:
    """How many rows were encrypted anew, and the ids of those that no key of the ring decrypts."""

    changed: int = 0
    unreadable: tuple[str, ...] = ()


class _Renewed(NamedTuple):
    id: str
    before: bytes
    after: bytes
    key_id: str


Told: TypeAlias = Callable[[Resealed], None] | None


def all_encrypted() -> tuple[Encrypted, ...]:
    """Everything that is kept encrypted here."""
    return tuple(importlib.import_module(name).ENCRYPTED for name in _ROOMS)


def counts(database: Connection, kept: Encrypted) -> dict[str, int]:
    """How many rows each key has encrypted, by its id."""
    key = kept.table.c.key_id
    return {row[0]: row[1] for row in database.execute(sa.select(key, sa.func.count()).group_by(key).order_by(key))}


def reseal(kept: Encrypted, ring: KeyRing, told: Told = None) -> Steps[Resealed]:
    """Encrypt with the newest key whatever another one has encrypted, batch by batch, while all goes on. Stopped at
    any point and begun again it goes on with what is left.
    """
    done, after = Resealed(), ""
    while True:
        batch, after = yield from reseal_batch(kept, (ring,), after)
        if not after:
            return done
        done = Resealed(done.changed + batch.changed, (*done.unreadable, *batch.unreadable))
        if told is not None:
            told(done)


def reseal_batch(kept: Encrypted, rings: Sequence[KeyRing], after: str) -> Steps[tuple[Resealed, str]]:
    """One batch of it, of those behind the id *after*; and the id behind which to go on, empty at the end. With several
    *rings* each row stays with the first one that decrypts it.
    """
    newest = [ring.current_id for ring in rings]
    rows: Sequence[Any] = yield Read(_rows, kept, after, newest)
    if not rows:
        return Resealed(), ""
    renewed, bad = [], []
    for row in rows:
        row_id, sealed, place = getattr(row, kept.id), bytes(row.sealed), kept.place(row)
        for ring in rings:
            try:
                plain = ring.decrypt(sealed, purpose=kept.purpose, place=place)
            except DecryptionFailed:
                continue
            anew = ring.encrypt(plain, purpose=kept.purpose, place=place)
            renewed.append(_Renewed(row_id, sealed, anew, ring.current_id))
            break
        else:
            bad.append(row_id)
    # One that was changed meanwhile stays as it is: whoever changed it has encrypted it.
    changed: int = (yield Write(_replace, (kept, renewed))) if renewed else 0
    return Resealed(changed, tuple(bad)), getattr(rows[-1], kept.id)


def unreadable(kept: Encrypted, ring: KeyRing) -> Steps[tuple[str, ...]]:
    """The ids of all rows that no key of the ring decrypts: each is tried."""
    bad: list[str] = []
    after = ""
    while True:
        rows: Sequence[Any] = yield Read(_rows, kept, after, ())
        if not rows:
            return tuple(bad)
        for row in rows:
            try:
                ring.decrypt(bytes(row.sealed), purpose=kept.purpose, place=kept.place(row))
            except DecryptionFailed:
                bad.append(getattr(row, kept.id))
        after = getattr(rows[-1], kept.id)


def marked(database: Connection) -> str | None:
    """The id of the key that a rotation has made, until that has ended."""
    return database.execute(sa.select(meta.c.value).where(meta.c.key == _MARK)).scalar()


def mark(database: Connection, payloads: Sequence[str | None]) -> list[None]:
    """Keep the id of the key that a rotation has made; None: it has ended."""
    for key_id in payloads:
        database.execute(sa.delete(meta).where(meta.c.key == _MARK))
        if key_id is not None:
            database.execute(sa.insert(meta).values(key=_MARK, value=key_id))
    return [None] * len(payloads)


def _rows(database: Connection, kept: Encrypted, after: str, but: Sequence[str]) -> Sequence[Any]:
    """Those after *after*, in the order of their ids, and not of the keys *but*."""
    column, key = kept.table.c[kept.id], kept.table.c.key_id
    query = sa.select(kept.table).where(column > after, *(key != one for one in but)).order_by(column).limit(_BATCH)
    return database.execute(query).all()


def _replace(database: Connection, payloads: Sequence[tuple[Encrypted, list[_Renewed]]]) -> list[int]:
    """Put what was encrypted anew in the place of the old, where that is still there; how many of each were changed."""
    done = []
    for kept, renewed in payloads:
        table, changed = kept.table, 0
        for one in renewed:
            same = (table.c[kept.id] == one.id) & (table.c.sealed == one.before)
            values: Mapping[str, Any] = {"sealed": one.after, "key_id": one.key_id}
            changed += database.execute(sa.update(table).where(same).values(values)).rowcount
        done.append(changed)
    return done
