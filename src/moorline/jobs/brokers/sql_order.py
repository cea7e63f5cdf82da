"""Jobs of one order key, one after the other, on SQLite and PostgreSQL: see ``moorline.jobs.order`` for the rule.

SQLite has one writer at a time, so whoever looks at a key and then writes is alone. On PostgreSQL whoever adds to a key
or ends its head holds the key's advisory lock until the transaction ends, and looks in a statement after it: what it
sees then includes all that was committed under the lock before.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import sqlalchemy as sa

from moorline.jobs.order import lock_number

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from moorline.store.writer import Apply

__all__ = [
    "UNFINISHED", "Keyed", "apart", "free_headless", "free_next", "headless", "heads", "held", "lock", "with_keys",
]  # fmt: skip

P = TypeVar("P")
R = TypeVar("R")

UNFINISHED: Final = "state IN ('ready', 'running', 'blocked', 'dead')"
"""With ``order_key``, the condition of the index ``jobs_ordered``, word for word."""

_SWEEP: Final = 1_000  # keys that one look for headless ones passes

_KEYS: Final = {
    "sqlite": "(SELECT value AS key FROM json_each(:keys)) AS k",
    "postgresql": "unnest(CAST(:keys AS text[])) AS k (key)",
}
_HEAD: Final = f"SELECT h.id FROM jobs AS h WHERE h.order_key = k.key AND h.{UNFINISHED} AND h.state <> 'blocked'"  # noqa: S608
_NEXT: Final = f"""SELECT b.id FROM jobs AS b WHERE b.order_key = k.key AND b.{UNFINISHED} AND b.state = 'blocked'
    ORDER BY b.id LIMIT 1"""  # noqa: S608 -- constants only, here and below


def _on_both(statement: str) -> dict[str, sa.TextClause]:
    return {dialect: sa.text(statement.format(keys=source)) for dialect, source in _KEYS.items()}


_LOCK: Final = sa.text("SELECT pg_advisory_xact_lock(n) FROM unnest(CAST(:numbers AS bigint[])) AS n")
_HELD: Final = _on_both(
    f"SELECT k.key FROM {{keys}} WHERE EXISTS (SELECT 1 FROM jobs AS j WHERE j.order_key = k.key AND j.{UNFINISHED})"  # noqa: S608
)
_FREE_NEXT: Final = _on_both(f"UPDATE jobs SET state = 'ready' WHERE id IN (SELECT ({_NEXT}) FROM {{keys}})")  # noqa: S608
_FREE_HEADLESS: Final = _on_both(
    f"UPDATE jobs SET state = 'ready' WHERE id IN (SELECT ({_NEXT}) FROM {{keys}} WHERE NOT EXISTS ({_HEAD}))"  # noqa: S608
)
_HEADS: Final = _on_both(f"SELECT k.key, ({_HEAD} ORDER BY h.id LIMIT 1) FROM {{keys}}")  # noqa: S608
# From each key to the next one along the index, however many jobs lie between.
_HEADLESS: Final = sa.text(
    f"""WITH RECURSIVE k (key, n) AS (
        SELECT min(order_key), 1 FROM jobs WHERE order_key > :after AND {UNFINISHED}
        UNION ALL
        SELECT (SELECT min(order_key) FROM jobs WHERE order_key > k.key AND {UNFINISHED}), k.n + 1
        FROM k WHERE k.key IS NOT NULL AND k.n < {_SWEEP}
    ) SELECT k.key, NOT EXISTS ({_HEAD}) FROM k WHERE k.key IS NOT NULL"""  # noqa: S608
)


class Keyed(NamedTuple):
    """A payload for ``apply`` that needs these order keys for itself; what ``with_keys`` is given."""

    keys: Collection[str]
    apply: Apply[Any, Any]
    payload: Any


def apart(apply: Apply[P, R], payload: P, keys: Iterable[str | None]) -> tuple[Apply[Any, R], Any]:
    """What to give the store's writer: *apply* as it is, or through ``with_keys`` if there are keys."""
    needed = [key for key in keys if key is not None]
    return (with_keys, Keyed(needed, apply, payload)) if needed else (apply, payload)


def with_keys(connection: Connection, payloads: list[Keyed]) -> list[Any]:
    """Lock the keys of all, in one order, then write them.

    All writes with keys go through this one: two processes that locked in several steps (jobs that end, jobs that
    come) would lock each other in a ring.
    """
    lock(connection, {key for one in payloads for key in one.keys})
    by_apply: dict[Any, list[int]] = {}
    for place, one in enumerate(payloads):
        by_apply.setdefault(one.apply, []).append(place)
    answers: list[Any] = [None] * len(payloads)
    for apply, places in by_apply.items():
        results = apply(connection, [payloads[place].payload for place in places])
        for place, result in zip(places, results, strict=True):
            answers[place] = result
    return answers


def lock(connection: Connection, keys: Iterable[str]) -> None:
    """Hold these keys until the transaction ends; nothing to do where there is one writer."""
    if connection.dialect.name == "postgresql":
        connection.execute(_LOCK, {"numbers": sorted(map(lock_number, keys))})


def held(connection: Connection, keys: Collection[str]) -> set[str]:
    """Those of the keys that have a job which has not ended."""
    return set(_execute(connection, _HELD, keys).scalars())


def free_next(connection: Connection, keys: Collection[str]) -> bool:
    """Make the oldest blocked job of each key ready, their heads having just ended; whether there was any."""
    return bool(_execute(connection, _FREE_NEXT, keys).rowcount)


def free_headless(connection: Connection, payloads: list[list[str]]) -> list[int | Exception]:
    """As ``free_next``, for those of the keys that have no head; how many there were, for each payload."""
    return [_execute(connection, _FREE_HEADLESS, keys).rowcount for keys in payloads]


def headless(connection: Connection, after: str) -> tuple[list[str], str]:
    """Keys without a head among the next thousand after that one, and where to go on (empty: from the beginning)."""
    found = connection.execute(_HEADLESS, {"after": after}).all()
    return [key for key, bare in found if bare], found[-1][0] if len(found) == _SWEEP else ""


def heads(connection: Connection, keys: Collection[str]) -> dict[str, str]:
    """The id of each key's head; a key without one is left out."""
    return {key: head for key, head in _execute(connection, _HEADS, keys) if head is not None}


def _execute(connection: Connection, statements: dict[str, sa.TextClause], keys: Collection[str]) -> Any:
    dialect = connection.dialect.name
    values: Any = list(keys) if dialect == "postgresql" else json.dumps(list(keys))
    return connection.execute(statements[dialect], {"keys": values})
