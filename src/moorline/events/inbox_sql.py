"""The inbox's statements, for SQLite and PostgreSQL: storing a group of events at once, and reading them back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import sqlalchemy as sa

from moorline.errors import EventPruned
from moorline.events.compression import PRUNED, compressed, opened
from moorline.events.event import Event
from moorline.events.places import ONCE
from moorline.jobs.brokers.sql import insert_jobs
from moorline.jobs.brokers.sql_outbox import insert_outbox
from moorline.jobs.job import JobRow
from moorline.jobs.order import lock_number
from moorline.store.ids import new_id
from moorline.store.schema import events

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy.engine import Connection

    from moorline.events.handlers import Handler

__all__ = [
    "Arrival",
    "Planned",
    "Replay",
    "Stored",
    "enqueue_again",
    "event_by_id",
    "events_by_ids",
    "jobs_again",
    "kept_of",
    "known_services",
    "of_type",
    "several_events",
    "store_arrivals",
    "store_deliveries",
]


Planned: TypeAlias = "tuple[Handler, str | None]"
"""A handler, with the order key of its job for this event."""


class Stored(NamedTuple):
    """``event_id`` is the id in the inbox, of the first delivery if this one was a ``duplicate``."""

    event_id: str
    duplicate: bool


class Arrival(NamedTuple):
    """What is to be stored: thousands a second, so the cheapest thing that has names. Times as in Event.

    ``encoding`` is how the body is to be stored, if that makes it smaller; here it is as it came. The jobs of one that
    is ``relayed`` are for another broker.
    """

    service: str
    delivery_key: str
    type: str
    action: str | None
    received_at: float
    signed_at: float | None
    secret_index: int
    headers: str
    body: bytes
    encoding: str | None
    sender_id: str | None
    secret: str | None
    handlers: Sequence[Planned]
    once_for: float
    relayed: bool = False


class Replay(NamedTuple):
    """Jobs to be made again for a stored event; ``relayed`` as in ``Arrival``."""

    event_id: str
    now: float
    handlers: Sequence[Planned]
    relayed: bool = False


COLUMNS: Final = (
    "id",
    "service",
    "delivery_key",
    "type",
    "action",
    "received_at",
    "signed_at",
    "secret_index",
    "headers",
    "body",
    "encoding",
    "sender_id",
    "secret",
    "duplicates",
)
_NAMES: Final = ", ".join(COLUMNS)
_PLAIN: Final = Arrival._fields.index("handlers")
BODY: Final = COLUMNS.index("body")
# PostgreSQL: one statement says of each row whether it is new (it has the id that we gave it) or came before, and
# counts those; excluded.duplicates counts the repetitions within this group.
_CONFLICT: Final = (
    " ON CONFLICT (service, delivery_key) DO UPDATE SET duplicates = events.duplicates + excluded.duplicates + 1"
    " RETURNING id, service, delivery_key"
)
# SQLite: each row that a statement returns gives the interpreter's lock up and waits for it again, against a busy
# event loop. So the usual group, all new, is one statement that returns nothing; which were old is asked if some were.
_LARGEST: Final = 64
_PLACES: Final = "(" + ", ".join("?" * len(COLUMNS)) + ")"
_KEPT: Final = sa.text("SELECT id FROM events WHERE service = :service AND delivery_key = :key")
_KNOWN: Final = sa.text(
    "SELECT delivery_key FROM events WHERE sender_id = :id AND service = :service AND delivery_key LIKE 'once:%'"
    " AND received_at > :after LIMIT 1"
)
_LOCK: Final = sa.text("SELECT pg_advisory_xact_lock(:number)")
_COUNT: Final = sa.text("UPDATE events SET duplicates = duplicates + :more WHERE id = :id")
_TYPES: Final = (*("text",) * 5, "float8", "float8", "int4", "text", "bytea", "text", "text", "text", "int4")
_POSTGRES: Final = (
    f"INSERT INTO events ({_NAMES}) SELECT * FROM unnest("  # noqa: S608
    + ", ".join(f"%b::{kind}[]" for kind in _TYPES)
    + ")"
    + _CONFLICT
)

# From each service to the next one along the index, however many events lie between.
_SERVICES: Final = sa.text(
    "WITH RECURSIVE known(service) AS (SELECT min(service) FROM events UNION ALL"
    " SELECT (SELECT min(service) FROM events WHERE service > known.service) FROM known WHERE service IS NOT NULL)"
    " SELECT service FROM known WHERE service IS NOT NULL"
)


def store_arrivals(connection: Connection, arrivals: list[Arrival]) -> list[Stored]:
    """Store each arrival once, with one job for each of its handlers, in the connection's transaction."""
    if any(one.delivery_key.startswith(ONCE) for one in arrivals):
        arrivals = _known_by_ids(connection, arrivals)
    rows = rows_of(arrivals)
    shrink((row, BODY) for row in rows.values())
    # In the order of their keys: two receivers with the same events at once must not lock them in a ring.
    ordered = sorted(rows.values(), key=_key)
    insert = _insert_postgres if connection.dialect.name == "postgresql" else _insert_sqlite
    kept = {(service, key): id_ for id_, service, key in insert(connection, ordered)}
    jobs: list[JobRow] = []
    outbox: list[JobRow] = []
    answers: list[Stored] = []
    for arrival in arrivals:
        row = rows[arrival[:2]]
        event_id = kept[arrival[:2]]
        # The first of a group that was new; those after it in the same group find its mark gone.
        new = row[0] == event_id
        if new:
            row[0] = None
            made = outbox if arrival.relayed else jobs
            made.extend(jobs_of(event_id, arrival.received_at, arrival.handlers))
        answers.append(Stored(event_id, not new))
    if jobs:
        insert_jobs(connection, jobs)
    if outbox:
        insert_outbox(connection, outbox)
    return answers


def store_deliveries(connection: Connection, deliveries: list[list[Arrival]]) -> list[list[Stored]]:
    """As ``store_arrivals``, for deliveries that hold several events each."""
    stored = iter(store_arrivals(connection, [arrival for arrivals in deliveries for arrival in arrivals]))
    return [list(islice(stored, len(arrivals))) for arrivals in deliveries]


def enqueue_again(connection: Connection, replays: list[Replay]) -> list[list[str] | Exception]:
    """Make the jobs of those events anew; the ids of the jobs, or EventPruned, for each event."""
    there = kept_of(connection, [replay.event_id for replay in replays])
    made = iter(jobs_again(connection, [replay for replay in replays if replay.event_id in there]))
    return [
        next(made) if replay.event_id in there else EventPruned(f"event {replay.event_id}: it was pruned just now")
        for replay in replays
    ]


def jobs_again(connection: Connection, replays: list[Replay]) -> list[list[str]]:
    """Make the jobs of those events anew, all of which are known to be there; the ids of the jobs, for each event."""
    made = [list(jobs_of(replay.event_id, replay.now, replay.handlers)) for replay in replays]
    for insert, relayed in ((insert_jobs, False), (insert_outbox, True)):
        rows = [job for jobs, one in zip(made, replays, strict=True) if one.relayed == relayed for job in jobs]
        if rows:
            insert(connection, rows)
    return [[job.id for job in jobs] for jobs in made]


def kept_of(connection: Connection, ids: list[str]) -> set[str]:
    """Those whose body is still there, and stays until the transaction ends (PostgreSQL: pruning waits)."""
    if not ids:
        return set()
    there = events.c.id.in_(ids) & events.c.encoding.is_distinct_from(PRUNED)
    query = sa.select(events.c.id).where(there).order_by(events.c.id).with_for_update(read=True)
    return set(connection.execute(query).scalars())


def event_by_id(connection: Connection, id: str) -> Event | None:
    """The event with that id in the inbox, else with that id of its sender's (the newest if several use it)."""
    if not id.isprintable():  # no id is, and PostgreSQL refuses some
        return None
    row = connection.execute(sa.select(events).where(events.c.id == id)).first()
    if row is None:
        shown = sa.select(events).where(events.c.sender_id == id).order_by(events.c.id.desc()).limit(1)
        row = connection.execute(shown).first()
    if row is None:
        # The index begins with the service; naming them all is far cheaper than reading the table.
        by_sender = (events.c.delivery_key == id) & events.c.service.in_(known_services(connection))
        row = connection.execute(sa.select(events).where(by_sender).order_by(events.c.id.desc())).first()
    return None if row is None else _event(row)


def events_by_ids(connection: Connection, ids: Sequence[str]) -> dict[str, Event]:
    """The events with these ids in the inbox; those that are not stored are left out."""
    query = sa.select(events).where(events.c.id.in_(ids))
    return {row.id: _event(row) for row in connection.execute(query)}


def several_events(
    connection: Connection, service: str | None, type: str | None, before: str | None, limit: int
) -> list[Event]:
    """The newest first. ``type`` as in ``Handlers.on``."""
    query = sa.select(events).order_by(events.c.id.desc()).limit(limit)
    if service is not None:
        query = query.where(events.c.service == service)
    if type is not None:
        query = query.where(of_type(type))
    if before is not None:
        query = query.where(events.c.id < before)
    return [_event(row) for row in connection.execute(query)]


def of_type(type: str) -> sa.ColumnElement[bool]:
    """Whether an event is of that type, as in ``Handlers.on``."""
    base, _, action = type.rpartition(".")
    return (events.c.type == type) | ((events.c.type == base) & (events.c.action == action))


def known_services(connection: Connection) -> Sequence[str]:
    """The services of which events are stored."""
    return connection.execute(_SERVICES).scalars().all()


def _known_by_ids(connection: Connection, arrivals: list[Arrival]) -> list[Arrival]:
    """As ``_known_by_id`` for those of senders of tokens, two of one id in this group, or in two transactions, too."""
    once = {(one.service, one.sender_id or "") for one in arrivals if one.delivery_key.startswith(ONCE)}
    if connection.dialect.name == "postgresql":
        # One after the other in each process: two that hold an id each and want the other's would wait for ever.
        for number in sorted(lock_number(f"once\x1f{service}\x1f{id_}") for service, id_ in once):
            connection.execute(_LOCK, {"number": number})
    keys: dict[tuple[str, str], str] = {}
    used: set[tuple[str, str]] = set()
    found: list[Arrival] = []
    for one in arrivals:
        if one.delivery_key.startswith(ONCE) and one.sender_id is not None:
            token = one[:2]
            spent = (
                token in used or connection.execute(_KEPT, {"service": one.service, "key": one[1]}).first() is not None
            )
            used.add(token)
            if not spent:  # one whose token was used says nothing of its id: it may be anybody's
                known = _known_by_id(connection, one)
                key = keys.setdefault((one.service, one.sender_id), known.delivery_key)
                one = known._replace(delivery_key=key)  # noqa: PLW2901
        found.append(one)
    return found


def _known_by_id(connection: Connection, arrival: Arrival) -> Arrival:
    """With the key of what is stored already under its id: a sender that tries again may sign a new token.

    Only of late: there are senders that promise no more than ids which are unique in a day.
    """
    sought = {"id": arrival.sender_id, "service": arrival.service, "after": arrival.received_at - arrival.once_for}
    known: str | None = connection.execute(_KNOWN, sought).scalar()
    return arrival if known is None else arrival._replace(delivery_key=known)


def rows_of(arrivals: list[Arrival]) -> dict[tuple[str, str], list[Any]]:
    """The values of ``COLUMNS`` by what makes an event another one; those that come twice are counted at the end."""
    rows: dict[tuple[str, str], list[Any]] = {}
    for arrival in arrivals:
        row = rows.get(arrival[:2])
        if row is None:
            rows[arrival[:2]] = _row(arrival)
        else:
            row[-1] += 1
    return rows


def _row(arrival: Arrival) -> list[Any]:
    return [new_id(arrival.received_at), *sent(arrival), 0]


def sent(arrival: Arrival) -> tuple[Any, ...]:
    """What it holds of ``COLUMNS``: all but the first and the last."""
    return arrival[:_PLAIN]


def shrink(places: Iterable[tuple[list[Any], int]]) -> None:
    """Compress bodies, where that is asked for and worth it: each a list, and where in it the body stands; its encoding
    is what follows.
    """
    large = [(values, at) for values, at in places if values[at + 1] is not None]
    for (values, at), smaller in zip(large, compressed([values[at] for values, at in large]), strict=True):
        if smaller is None:
            values[at + 1] = None
        else:
            values[at] = smaller


def _key(row: list[Any]) -> tuple[str, str]:
    return row[1], row[2]


def jobs_of(event_id: str, now: float, handlers: Iterable[Planned]) -> Iterable[JobRow]:
    for handler, order_key in handlers:
        yield JobRow(
            id=new_id(now),
            name=handler.job,
            payload=event_id.encode(),
            run_at=now,
            created_at=now,
            max_attempts=handler.attempts,
            event_id=event_id,
            order_key=order_key,
        )


def _insert_sqlite(connection: Connection, rows: list[list[Any]]) -> Sequence[Any]:
    kept: list[Any] = []
    for start in range(0, len(rows), _LARGEST):
        part = rows[start : start + _LARGEST]
        values = tuple([value for row in part for value in row])
        inserted = connection.exec_driver_sql(_sqlite_insert(len(part)), values).rowcount
        kept += part if inserted == len(part) else [old_or_new(connection, row) for row in part]
    return [row[:3] for row in kept]


def old_or_new(connection: Connection, row: list[Any]) -> list[Any]:
    """The row with the id under which its event is kept; counted if that is another one's."""
    kept: str = connection.execute(_KEPT, {"service": row[1], "key": row[2]}).scalar_one()
    if kept != row[0]:
        connection.execute(_COUNT, {"more": row[-1] + 1, "id": kept})
    return [kept, *row[1:]]


@cache
def _sqlite_insert(rows: int) -> str:
    places = ", ".join([_PLACES] * rows)
    return f"INSERT INTO events ({_NAMES}) VALUES {places} ON CONFLICT (service, delivery_key) DO NOTHING"  # noqa: S608


def _insert_postgres(connection: Connection, rows: list[list[Any]]) -> Sequence[Any]:
    return connection.exec_driver_sql(_POSTGRES, tuple(map(list, zip(*rows, strict=True)))).fetchall()


def _event(row: Any) -> Event:
    return Event(
        service=row.service,
        id=row.sender_id or row.delivery_key,
        type=row.type,
        body=opened(row.body, row.encoding),
        headers=json.loads(row.headers),
        action=row.action,
        received_at=row.received_at,
        timestamp=row.signed_at,
        secret_index=row.secret_index,
        inbox_id=row.id,
        duplicates=row.duplicates,
        secret=row.secret or "",
        dedup_key=row.delivery_key,
        pruned=row.encoding == PRUNED,
    )
