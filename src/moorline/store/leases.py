"""Leases: what only one process at a time should do, such as looking for alerts. A row of ``meta`` for each.

An optimisation against doing things twice, no lock: a holder that sleeps past its time may overlap with the next one.
The clocks of all machines must agree to a small part of the lease.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import sqlalchemy as sa

from moorline.store.schema import meta

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

__all__ = ["Lease", "compare_and_set", "take_leases"]


_LONGEST: Final = 1.5  # times its length, for clocks that do not quite agree


class Lease(NamedTuple):
    """*holder* wants *name* for that many seconds from *now* (seconds since the epoch)."""

    name: str
    holder: str
    now: float
    seconds: float


def take_leases(connection: Connection, wanted: list[Lease]) -> list[bool]:
    """Take each lease, or extend it; False where another one holds it and its time is not over."""
    return [_take(connection, lease) for lease in wanted]


def _take(connection: Connection, lease: Lease) -> bool:
    key = f"lease:{lease.name}"
    old = connection.execute(sa.select(meta.c.value).where(meta.c.key == key)).scalar()
    if old is not None:
        until, _, holder = old.partition(" ")
        # Who took it for longer than it lasts had a clock that was ahead, and has been set right since.
        if holder != lease.holder and 0 < float(until) - lease.now <= _LONGEST * lease.seconds:
            return False
    return compare_and_set(connection, key, old, f"{lease.now + lease.seconds:.3f} {lease.holder}")


def compare_and_set(connection: Connection, key: str, old: str | None, new: str) -> bool:
    """Set the row of ``meta`` if it is still *old* (None: not there); whether it was."""
    if old is not None:
        changed = sa.update(meta).where(meta.c.key == key, meta.c.value == old).values(value=new)
        return bool(connection.execute(changed).rowcount)
    insert = "INSERT INTO meta (key, value) VALUES (:key, :value) ON CONFLICT (key) DO NOTHING"
    return bool(connection.execute(sa.text(insert), {"key": key, "value": new}).rowcount)
