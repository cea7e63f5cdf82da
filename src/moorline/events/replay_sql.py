"""The statements of replays. A page's jobs and the position behind them are one transaction.

::

    running --+--> done
       |  ^   |
       v  |   v
     paused --+--> cancelled

A replay whose process was killed stays ``running``; it goes on, as a paused one does, from its position. Two processes
that run the same one do not repeat each other: a page counts only from the position that it was read from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias

import sqlalchemy as sa

from moorline.errors import ReplayNotFound, ReplayStateError
from moorline.events import audit
from moorline.events.inbox_sql import Replay as Again
from moorline.events.inbox_sql import jobs_again, kept_of
from moorline.events.selection import Selection
from moorline.store.schema import replays

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.engine import Connection

    from moorline.events.inbox_sql import Planned

__all__ = ["Change", "Done", "Replay", "State", "change", "insert", "load", "newest", "page_done"]

State: TypeAlias = Literal["running", "paused", "done", "cancelled"]
UNFINISHED: Final[tuple[State, ...]] = ("running", "paused")
_IDS_NOTED: Final = 20


@dataclass(frozen=True, slots=True)
class Replay:
    """Stored events that are handled again, as it stands.

    ``total`` is how many events were selected when it was started, ``events`` how many of them were enqueued so far,
    as ``jobs`` jobs; ``rate`` is in events a second; ``position`` the id of the last event that was looked at;
    ``reason`` why it was cancelled. Times are seconds since the epoch.
    """

    id: str
    created_at: float
    actor: str
    selection: Selection
    handler: str | None
    state: State
    total: int
    events: int = 0
    jobs: int = 0
    rate: float | None = None
    position: str | None = None
    reason: str | None = None
    finished_at: float | None = None


class Done(NamedTuple):
    """A page to be enqueued: what was chosen between two positions; ``final`` if nothing comes after it.

    ``relayed`` as in ``Arrival``.
    """

    replay: str
    before: str | None
    after: str | None
    final: bool
    now: float
    chosen: Sequence[tuple[str, Sequence[Planned]]]
    relayed: bool = False


class Change(NamedTuple):
    """A replay's new state, and by whom."""

    replay: str
    to: State
    now: float
    actor: str
    reason: str | None = None


def insert(connection: Connection, started: list[Replay]) -> list[Replay]:
    """Keep new replays, with a note of who wanted them."""
    for one in started:
        row = {name: getattr(one, name) for name in one.__dataclass_fields__} | {"selection": one.selection.to_json()}
        connection.execute(sa.insert(replays), row)
        detail = {"replay": one.id, "handler": one.handler, "events": one.total, "rate": one.rate}
        detail["selection"] = _noted(one.selection)
        audit.note(connection, at=one.created_at, actor=one.actor, action="replay.start", detail=detail)
    return started


def load(connection: Connection, id: str) -> Replay | None:
    """The replay of that id."""
    row = connection.execute(sa.select(replays).where(replays.c.id == id)).one_or_none()
    return None if row is None else _replay(row)


def newest(connection: Connection, limit: int) -> list[Replay]:
    """The newest first."""
    return [_replay(row) for row in connection.execute(sa.select(replays).order_by(replays.c.id.desc()).limit(limit))]


def page_done(connection: Connection, pages: list[Done]) -> list[Replay | Exception]:
    """Enqueue each page and move its replay's position; the replays as they are then.

    A page of a replay that was cancelled, paused, or moved by somebody else meanwhile, changes nothing.
    """
    return [_page_done(connection, page) for page in pages]


def _page_done(connection: Connection, page: Done) -> Replay | Exception:
    kept = kept_of(connection, [id_ for id_, _ in page.chosen])
    again = [Again(id_, page.now, handlers, page.relayed) for id_, handlers in page.chosen if id_ in kept]
    values: dict[str, Any] = {"position": page.after, "events": replays.c.events + len(again)}
    values["jobs"] = replays.c.jobs + sum(len(one.handlers) for one in again)
    if page.final:
        values |= {"state": "done", "finished_at": page.now}
    moved = connection.execute(
        sa.update(replays)
        .where(replays.c.id == page.replay, replays.c.state == "running")
        .where(replays.c.position.is_not_distinct_from(page.before))
        .values(values)
    ).rowcount
    if moved and again:
        jobs_again(connection, again)
    return load(connection, page.replay) or not_found(page.replay)


def change(connection: Connection, changes: list[Change]) -> list[Replay | Exception]:
    """Cancel, pause or resume replays that are not finished."""
    return [_change(connection, one) for one in changes]


def _change(connection: Connection, one: Change) -> Replay | Exception:
    values: dict[str, Any] = {"state": one.to, "reason": one.reason}
    if one.to == "cancelled":
        values["finished_at"] = one.now
    changed = connection.execute(
        sa.update(replays).where(replays.c.id == one.replay, replays.c.state.in_(UNFINISHED)).values(values)
    ).rowcount
    replay = load(connection, one.replay)
    if replay is None:
        return not_found(one.replay)
    if not changed:
        return ReplayStateError(f"replay {one.replay} is {replay.state}: it cannot be {_PARTICIPLES[one.to]} any more")
    detail = {"replay": one.replay, "events": replay.events, "of": replay.total, "reason": one.reason}
    audit.note(connection, at=one.now, actor=one.actor, action=f"replay.{_VERBS[one.to]}", detail=detail)
    return replay


_VERBS: Final = {"running": "resume", "paused": "pause", "cancelled": "cancel", "done": "finish"}
_PARTICIPLES: Final = {"running": "resumed", "paused": "paused", "cancelled": "cancelled", "done": "finished"}


def not_found(id: str) -> ReplayNotFound:
    """The error for an id that no replay has."""
    return ReplayNotFound(f"no replay has the id {id!r}")


def _noted(selection: Selection) -> str:
    """The selection for the audit: of many ids, the first few."""
    text = selection.to_json()
    if len(selection.ids) <= _IDS_NOTED:
        return text
    return f"{len(selection.ids)} ids, from {selection.ids[0]} to {selection.ids[-1]}"


def _replay(row: sa.Row[Any]) -> Replay:
    values = row._asdict()
    return Replay(**(values | {"selection": Selection.from_json(values["selection"])}))
