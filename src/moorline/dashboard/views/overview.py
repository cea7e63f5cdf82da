"""The overview: whether anything is wrong, and where to look."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final

from moorline.dashboard import charts
from moorline.dashboard.page import Look, Page
from moorline.dashboard.views.jobs import queues_of
from moorline.dashboard.views.services import guarded
from moorline.dashboard.waiting import Minute, at_work, came_in
from moorline.events.alerts import Alert
from moorline.identity import vault_sql
from moorline.identity.connection import Connection
from moorline.identity.vault_sql import Which

__all__ = ["overview"]

_HOUR: Final = 60  # minutes
_COLUMN: Final = 2  # minutes of a column of the chart
_ENDING: Final = 30 * 86_400.0  # seconds before its end from which a key is shown
_SOON: Final = 3 * 86_400.0
_LATE: Final = 300.0  # seconds that a job may wait before it is told
_COUNTED: Final = 100
_SHOWN: Final = 10


async def overview(look: Look) -> Page:
    """``/``: problems first, then the queues, the events of the last hour, and what will end."""
    app, store = look.app, look.app.store
    minute = int(look.now // 60)
    ended = Which(state="ended", limit=_COUNTED + 1)
    queues, minutes, workers, gone, alerts, ending = await asyncio.gather(
        queues_of(look),
        store.read(came_in, minute - _HOUR + 1),
        store.read(at_work, look.now),
        store.read(vault_sql.find, ended),
        asyncio.to_thread(app.alerts().firing_sync),
        asyncio.to_thread(_ending, look),
    )
    breakers = [one for one in await guarded(look) if one["breaker"] not in (None, "closed")]
    own = app.settings.queue_url is None
    problems = [
        *_breakers(breakers),
        *_alerts(alerts, {(one["service"], one["name"]) for one in ending if one["ends_at"] - look.now <= _SOON}),
        *_jobs(queues, workers if own else None, look.now),
        *_connections(gone),
        *_endings(ending, look.now),
    ]
    data = {
        "problems": sorted(problems, key=lambda one: one["grade"] != "bad"),
        "queues": queues,
        "jobs": {
            state: sum(one["counts"][state] for one in queues) for state in ("ready", "blocked", "running", "dead")
        },
        "waiting_since": min((one["waiting_since"] for one in queues if one["waiting_since"]), default=None),
        "workers": workers if own else None,
        "events": _events(minutes, minute),
        "alerts": [alert.to_dict() for alert in alerts],
        "breakers": breakers,
        "ended": {"count": min(len(gone), _COUNTED), "more": len(gone) > _COUNTED},
        "ending": ending,
        "now": look.now,
    }
    return Page("overview.html", "Overview", data)


def _problem(grade: str, text: str, at: str) -> dict[str, str]:
    return {"grade": grade, "text": text, "at": at}


def _breakers(breakers: Sequence[dict[str, Any]]) -> Iterator[dict[str, str]]:
    for one in breakers[:_SHOWN]:
        since = f", for {one['open_for']:.0f} s" if one["open_for"] is not None else ""
        why = f": {one['reason']}" if one["reason"] else ""
        yield _problem("bad", f"The breaker of {one['name']} is open in process {one['pid']}{since}{why}", "/services")


_PLACES: Final = {"backlog": "/jobs", "failures": "/rejected", "secret": "/keys"}


def _alerts(alerts: Sequence[Alert], soon: Collection[tuple[str, str]]) -> Iterator[dict[str, str]]:
    """Those that hold, but for what is told anyway as it is now: breakers, dead jobs, and keys that end *soon*."""
    for alert in alerts:
        if alert.rule in ("breaker", "dead", "ended") or (alert.service, alert.label) in soon:
            continue
        place = f"/keys/{alert.service}" if alert.rule == "refused" else _PLACES.get(alert.rule, "/events")
        yield _problem("warn" if alert.rule == "secret" else "bad", f"Alert: {alert.message}", place)


def _jobs(queues: Sequence[dict[str, Any]], workers: Sequence[Any] | None, now: float) -> Iterator[dict[str, str]]:
    dead = sum(one["counts"]["dead"] for one in queues)
    waiting = sum(one["counts"]["ready"] for one in queues)
    if workers is not None and not workers and waiting:
        yield _problem("bad", f"No worker is alive, and {_some(waiting)} waiting", "/jobs?state=ready")
    for one in queues:
        since = one["waiting_since"]
        if since is not None and now - since >= _LATE:
            text = f"The oldest job of queue {one['queue']} has been due for {(now - since) / 60:.0f} minutes"
            yield _problem("warn", text, "/jobs?state=ready")
    if dead:
        yield _problem("warn", f"{_some(dead)} dead: tried to the end, and failed", "/jobs?state=dead")


def _some(jobs: int) -> str:
    return "1 job is" if jobs == 1 else f"{jobs:,} jobs are"


def _connections(gone: Sequence[Connection]) -> Iterator[dict[str, str]]:
    if gone:
        some = "1 connection has" if len(gone) == 1 else f"{min(len(gone), _COUNTED)} connections have"
        if len(gone) > _COUNTED:
            some = f"more than {some}"
        yield _problem("warn", f"{some[0].upper()}{some[1:]} ended: the owners have to connect again", "/connections")


def _endings(ending: Sequence[dict[str, Any]], now: float) -> Iterator[dict[str, str]]:
    for one in ending:
        left = one["ends_at"] - now
        said = f"ends in {left / 86_400:.1f} days" if left > 0 else "has ended"
        grade = "bad" if left <= 0 else "warn"
        if left <= _SOON:
            yield _problem(grade, f"{one['name']} of {one['service']} {said}", "/keys")


def _ending(look: Look) -> list[dict[str, Any]]:
    """The keys and signing secrets whose end is known and near, the next one first; never a value."""
    found = [
        {"service": service, "name": label, "ends_at": ends}
        for service, label, ends in look.ends()
        if ends - look.now <= _ENDING
    ]
    return sorted(found, key=lambda one: one["ends_at"])


def _events(minutes: Sequence[Minute], now: int) -> dict[str, Any]:
    """What came in the last hour: sums, and a chart of columns of two minutes."""
    stored, refused = [0.0] * (_HOUR // _COLUMN), [0.0] * (_HOUR // _COLUMN)
    for one in minutes:
        at = (one.minute - (now - _HOUR + 1)) // _COLUMN
        if 0 <= at < len(stored):
            stored[at] += one.stored + one.duplicates
            refused[at] += one.refused
    sums = {name: sum(getattr(one, name) for one in minutes) for name in ("stored", "duplicates", "forged", "refused")}
    words = f"Events of the last hour: {sums['stored']} stored, {sums['duplicates']} again, {sums['refused']} refused"
    return {**sums, "chart": charts.columns([("stored", stored), ("refused", refused)], words)}
