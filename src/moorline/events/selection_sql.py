"""Reading selected events page by page, in the order of their ids, on a reading connection.

Every statement looks at a bounded stretch of ids: none runs long, whatever the size of the table and however few events
are found in it.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import sqlalchemy as sa

from moorline.errors import UnusableEvent
from moorline.events.body import fields
from moorline.events.compression import PRUNED, opened
from moorline.events.inbox_sql import known_services, of_type
from moorline.events.selection import Selection, fits
from moorline.store.schema import events, jobs

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sqlalchemy.engine import Connection

    from moorline.events.handlers import Handler, Handlers

__all__ = ["Chosen", "Head", "Page", "id_at", "newest_id", "read_page", "resolve_ids", "stretch"]

STRETCH: Final = 2_000
"""Ids that one statement looks at."""

_NAMED: Final = 200  # ids in one statement that names them
_BODIES: Final = 20  # read at once: each may be large


class Head(NamedTuple):
    """An event without headers and body; ``key`` is its sender's id."""

    id: str
    service: str
    key: str
    type: str
    action: str | None
    received_at: float


class Chosen(NamedTuple):
    """An event and those of its handlers that are meant."""

    head: Head
    handlers: Sequence[Handler]


class Page(NamedTuple):
    """Selected events, oldest first. All up to ``position`` were looked at; ``final`` if none comes after it."""

    chosen: list[Chosen]
    position: str | None
    final: bool


def id_at(seconds: float) -> str:
    """What every id that was made at that time or later is greater than or equal to."""
    return f"{max(int(seconds * 1000), 0):012x}"


def newest_id(connection: Connection) -> str | None:
    """The id of the newest event, None if there is none."""
    return connection.execute(sa.select(sa.func.max(events.c.id))).scalar()


def resolve_ids(connection: Connection, given: Sequence[str]) -> dict[str, list[str]]:
    """For each of the ids, the inbox's or a sender's, the events in the inbox that have it."""
    found: dict[str, list[str]] = {one: [] for one in given}
    # The index begins with the service; naming them all is far cheaper than reading the table.
    services = known_services(connection)
    for part in _parts([one for one in found if one.isprintable()], _NAMED):
        by_key = events.c.delivery_key.in_(part) & events.c.service.in_(services)
        for column, which in (
            (events.c.id, events.c.id.in_(part)),
            (events.c.delivery_key, by_key),
            (events.c.sender_id, events.c.sender_id.is_not(None) & events.c.sender_id.in_(part)),
        ):
            for id_, name in connection.execute(sa.select(events.c.id, column.label("name")).where(which)):
                if id_ not in found[name]:
                    found[name].append(id_)
    return found


def read_page(
    connection: Connection, selection: Selection, handlers: Handlers, handler: str | None, after: str | None, limit: int
) -> Page:
    """Up to *limit* selected events after that id; only the handler of that name, if one is given.

    ``selection.ids`` are ids in the inbox here, in their order.
    """
    heads, position, final = _heads(connection, selection, after, limit)
    chosen = []
    for head in heads:
        matching = handlers.matching(head.service, head.type, head.action)
        wanted = matching if handler is None else [one for one in matching if one.name == handler]
        if wanted:
            chosen.append(Chosen(head, wanted))
    if selection.ended is not None:
        chosen = _ended(connection, chosen, selection)
    if selection.where:
        chosen = _fitting(connection, chosen, selection)
    return Page(chosen, position, final)


def stretch(connection: Connection, *bounds: sa.ColumnElement[bool]) -> tuple[str | None, bool]:
    """Where the next stretch of ids within *bounds* ends (None: there is none), and whether it is the last."""
    ids = sa.select(events.c.id).where(*bounds).order_by(events.c.id).limit(STRETCH).subquery()
    end, size = connection.execute(sa.select(sa.func.max(ids.c.id), sa.func.count()).select_from(ids)).one()
    return end, size < STRETCH


def _heads(
    connection: Connection, selection: Selection, after: str | None, limit: int
) -> tuple[list[Head], str | None, bool]:
    columns = (events.c.id, events.c.service, events.c.delivery_key, events.c.type, events.c.action)
    query = sa.select(*columns, events.c.received_at).where(*_conditions(selection)).order_by(events.c.id)
    if selection.ids:
        start = bisect_right(selection.ids, after) if after else 0
        part = selection.ids[start : start + min(limit, _NAMED)]
        end, final = (part[-1] if part else after), start + len(part) >= len(selection.ids)
        query = query.where(events.c.id.in_(part))
    else:
        begin = _begin(selection, after)
        end, final = stretch(connection, begin, events.c.id <= selection.last if selection.last else sa.true())
        if end is None:
            return [], after, True
        query = query.where(begin, events.c.id <= end)
    heads = [Head._make(row) for row in connection.execute(query.limit(limit))]
    if len(heads) < limit:
        return heads, end, final
    return heads, heads[-1].id, final and heads[-1].id == end


def _begin(selection: Selection, after: str | None) -> sa.ColumnElement[bool]:
    least = max(selection.first or "", "" if selection.since is None else id_at(selection.since))
    return events.c.id >= least if after is None or after < least else events.c.id > after


def _conditions(selection: Selection) -> list[sa.ColumnElement[bool]]:
    wanted: list[sa.ColumnElement[bool]] = [events.c.encoding.is_distinct_from(PRUNED)]
    if selection.service is not None:
        wanted.append(events.c.service == selection.service)
    if selection.type is not None:
        wanted.append(of_type(selection.type))
    if selection.first is not None:
        wanted.append(events.c.id >= selection.first)
    if selection.last is not None:
        wanted.append(events.c.id <= selection.last)
    if selection.since is not None:
        wanted.append(events.c.received_at >= selection.since)
    if selection.until is not None:
        wanted.append(events.c.received_at < selection.until)
    if selection.ended is not None:
        dead = jobs.c.state == "dead"
        bad = dead if selection.ended == "dead" else dead | jobs.c.last_error.is_not(None)
        wanted.append(sa.exists().where(jobs.c.event_id == events.c.id, bad))
    return wanted


def _ended(connection: Connection, chosen: list[Chosen], selection: Selection) -> list[Chosen]:
    """Those handlers whose last job for the event ended badly: one that was mended since is left alone."""
    last: dict[tuple[str, str], bool] = {}
    columns = (jobs.c.event_id, jobs.c.name, jobs.c.state, jobs.c.last_error)
    for part in _parts([one.head.id for one in chosen], _NAMED):
        query = sa.select(*columns).where(jobs.c.event_id.in_(part)).order_by(jobs.c.id)
        for event_id, name, state, error in connection.execute(query):
            failing = selection.ended == "failed" and error is not None and state not in ("done", "cancelled")
            last[event_id, name] = state == "dead" or failing
    kept = [(one.head, [h for h in one.handlers if last.get((one.head.id, h.job))]) for one in chosen]
    return [Chosen(head, handlers) for head, handlers in kept if handlers]


def _fitting(connection: Connection, chosen: list[Chosen], selection: Selection) -> list[Chosen]:
    """Those whose payload has the wanted values; what is not a JSON object has none."""
    found: set[str] = set()
    names = tuple({place.partition(".")[0] for place in selection.where})
    for part in _parts([one.head.id for one in chosen], _BODIES):
        query = sa.select(events.c.id, events.c.body, events.c.encoding).where(events.c.id.in_(part))
        for id_, body, encoding in connection.execute(query):
            try:
                payload = fields(opened(body, encoding), names)
            except UnusableEvent:
                continue
            if fits(payload, selection.where):
                found.add(id_)
    return [one for one in chosen if one.head.id in found]


def _parts(ids: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(ids), size):
        yield ids[start : start + size]
