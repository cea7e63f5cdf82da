"""The statements of a rotation: decisions name the revision that they were made on; uses are added up."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import sqlalchemy as sa

from moorline.secrets.rotation import Record, Standing, Use
from moorline.store.ids import made_at, new_id
from moorline.store.schema import audit, key_names, key_uses, key_versions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.engine import Connection

__all__ = ["Decision", "Kept", "Told", "decide", "forget", "gone", "load", "load_all", "told", "trail", "uses"]

ACTION: Final = "keys."
"""What the actions of a rotation begin with in the audit."""
_FORGOTTEN: Final = 30 * 86_400.0
"""Seconds after which a process is forgotten."""
_MOST_USES: Final = 2_000


class Kept(NamedTuple):
    """What was decided of a credential, and how often."""

    record: Record
    revision: int


class Decision(NamedTuple):
    """What becomes of a credential, if nothing else was decided since *revision*; and what is said of it."""

    name: str
    revision: int
    record: Record
    at: float
    actor: str
    action: str
    detail: dict[str, Any]


class Told(NamedTuple):
    """What a process tells of a version: a Use whose counts are those since it told last, and where it was found."""

    name: str
    use: Use
    origin: str


def load(connection: Connection, name: str) -> Kept:
    """What was decided of *name*."""
    return load_all(connection, name).get(name, Kept(Record(), 0))


def load_all(connection: Connection, name: str | None = None) -> dict[str, Kept]:
    """The same of all credentials of which anything was."""
    versions, names = sa.select(key_versions), sa.select(key_names)
    if name is not None:
        versions, names = versions.where(key_versions.c.name == name), names.where(key_names.c.name == name)
    standings: dict[str, list[Standing]] = {}
    for row in connection.execute(versions.order_by(key_versions.c.version)):
        standings.setdefault(row.name, []).append(Standing(row.version, row.status, row.since, row.source))
    found = {}
    for row in connection.execute(names):
        before = None if row.before is None else tuple(Standing(*one) for one in json.loads(row.before))
        found[row.name] = Kept(Record(tuple(standings.get(row.name, ())), before), row.revision)
    return found


def decide(connection: Connection, decisions: list[Decision]) -> list[bool]:
    """Keep each with its line of the audit; False where something else was decided meanwhile."""
    return [_decide(connection, one) for one in decisions]


def _decide(connection: Connection, one: Decision) -> bool:
    before = None if one.record.before is None else json.dumps([_plain(each) for each in one.record.before])
    if one.revision == 0:
        insert = "INSERT INTO key_names (name, revision, before) VALUES (:name, 1, :before) ON CONFLICT DO NOTHING"
        done = connection.execute(sa.text(insert), {"name": one.name, "before": before}).rowcount
    else:
        same = (key_names.c.name == one.name) & (key_names.c.revision == one.revision)
        update = sa.update(key_names).where(same).values(revision=one.revision + 1, before=before)
        done = connection.execute(update).rowcount
    if not done:
        return False
    connection.execute(sa.delete(key_versions).where(key_versions.c.name == one.name))
    rows = [{"name": one.name, **asdict(each)} for each in one.record.standings]
    if rows:
        connection.execute(sa.insert(key_versions), rows)
    note(connection, one)
    return True


def note(connection: Connection, one: Decision) -> None:
    """The line of the audit alone."""
    detail = json.dumps({"name": one.name, **one.detail})
    line = {"id": new_id(one.at), "at": one.at, "actor": one.actor, "action": f"{ACTION}{one.action}"}
    connection.execute(sa.insert(audit), {**line, "detail": detail, "about": one.name})


def _plain(one: Standing) -> tuple[str, str, float, str]:
    return one.version, one.status, one.since, one.source


def trail(connection: Connection, name: str, limit: int) -> list[dict[str, Any]]:
    """Who decided what of *name*, and why, newest first."""
    query = sa.select(audit).where(audit.c.about == name).order_by(audit.c.id.desc()).limit(limit)
    return [
        {"at": row.at, "actor": row.actor, "action": row.action.removeprefix(ACTION), **json.loads(row.detail)}
        for row in connection.execute(query)
    ]


def uses(connection: Connection, name: str | None = None) -> list[tuple[str, Use, str]]:
    """What the processes have told of a credential, or of all: name, use, where it was found; the newest first."""
    query = sa.select(key_uses).order_by(key_uses.c.told_at.desc(), key_uses.c.process, key_uses.c.place)
    if name is not None:
        query = query.where(key_uses.c.name == name)
    return [(row.name, _use(row), row.origin) for row in connection.execute(query.limit(_MOST_USES))]


_SAME: Final = ("host", "pid", "role", "place", "told_at", "not_before", "not_after")


def _use(row: Any) -> Use:
    counts = {name: getattr(row, name) for name in ("first_at", "last_at", "accepted", "refused", "refused_at")}
    same = {name: getattr(row, name) for name in _SAME}
    return Use(row.version, row.process, **same, **counts, begun_at=made_at(row.process))


_COLUMNS: Final = (
    "name", "version", "process", "host", "pid", "role", "origin", "place", "not_before", "not_after", "told_at",
    "first_at", "last_at", "accepted", "refused", "refused_at",
)  # fmt: skip
_TELL: Final = sa.text(
    f"INSERT INTO key_uses ({', '.join(_COLUMNS)}) VALUES ({', '.join(f':{one}' for one in _COLUMNS)})"  # noqa: S608
    " ON CONFLICT (name, version, process) DO UPDATE SET place = excluded.place, told_at = excluded.told_at,"
    " origin = excluded.origin, role = excluded.role,"
    " not_before = excluded.not_before, not_after = excluded.not_after,"
    " first_at = COALESCE(key_uses.first_at, excluded.first_at),"
    " last_at = COALESCE(excluded.last_at, key_uses.last_at),"
    " refused_at = COALESCE(excluded.refused_at, key_uses.refused_at),"
    " accepted = key_uses.accepted + excluded.accepted, refused = key_uses.refused + excluded.refused"
)


def told(connection: Connection, payloads: list[Sequence[Told]]) -> list[None]:
    """Add what processes tell."""
    for payload in payloads:
        # In the order of their keys: two processes must not lock rows in a ring.
        rows = sorted(payload, key=lambda one: (one.name, one.use.version, one.use.process))
        if rows:
            connection.execute(_TELL, [_row(one) for one in rows])
    return [None] * len(payloads)


def _row(one: Told) -> dict[str, Any]:
    use = {name: getattr(one.use, name) for name in _COLUMNS if name not in ("name", "origin")}
    return {"name": one.name, "origin": one.origin, **use}


def forget(connection: Connection, payloads: list[float]) -> list[None]:
    """Forget processes of which nothing was heard for a month before each of these times."""
    connection.execute(sa.delete(key_uses).where(key_uses.c.told_at < max(payloads) - _FORGOTTEN))
    return [None] * len(payloads)


def gone(connection: Connection, payloads: list[str]) -> list[None]:
    """A process has ended as it should: it counts as running no longer."""
    for process in payloads:
        mine = key_uses.c.process == process
        connection.execute(sa.update(key_uses).where(mine).values(told_at=sa.func.coalesce(key_uses.c.last_at, 0.0)))
    return [None] * len(payloads)
