"""Events: what came in and what became of it, one event whole, what was refused; to handle one again."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from moorline import redaction
from moorline.dashboard.noting import note
from moorline.dashboard.page import Look, Onward, Page
from moorline.dashboard.waiting import jobs_of_events
from moorline.errors import EventNotFound, EventPruned, UnusableEvent
from moorline.events.refusals import refusal_by_id, refusals
from moorline.jobs.broker import JobFilter

if TYPE_CHECKING:
    from moorline.events.event import Event
    from moorline.events.refusals import Refusal

__all__ = ["listed", "refused", "refused_one", "replay", "shown"]

PAGE: Final = 25
MOST: Final = 100
"""Events on a page: they are read with their bodies."""
_REFUSED: Final = 100
_MOST_REFUSED: Final = 1_000
_BODY: Final = 100_000  # characters


async def listed(look: Look) -> Page:
    """``/events?service=&type=&before=&limit=``: events newest first, and the jobs of their handlers."""
    service, kind, before = look.asked("service"), look.asked("type"), look.asked("before")
    limit = look.number("limit", PAGE, MOST)
    found = await look.app.inbox.recent(service=service, type=kind, before=before, limit=limit + 1)
    events, more = found[:limit], len(found) > limit
    made = await look.app.store.read(jobs_of_events, [str(one.inbox_id) for one in events])
    data = {
        "events": [{**_record(one), "handled": made.get(str(one.inbox_id), [])} for one in events],
        "filter": {"service": service, "type": kind, "before": before},
        "limit": limit,
        "next": events[-1].inbox_id if more else None,
        "now": look.now,
    }
    return Page("events.html", "Events", data)


async def shown(look: Look) -> Page:
    """``/events/{id}``: one event with headers and body, secrets masked. Raises EventNotFound, EventPruned."""
    event = await look.app.inbox.get(look.named[0])
    jobs = await look.app.jobs.broker.list(JobFilter(event_id=event.inbox_id, limit=MOST))
    data = {
        "event": _record(event),
        "headers": [list(pair) for pair in redaction.headers(event.headers).items()],
        "body": _body(event),
        "handlers": [one.name for one in look.app.handlers.matching(event.service, event.type, event.action)],
        "jobs": [
            {"id": one.id, "name": one.name, "state": one.state, "reason": one.reason, "last_error": one.last_error}
            for one in jobs
        ],
        "now": look.now,
    }
    return Page("event.html", f"Event {event.name}", data)


async def replay(look: Look) -> Onward:
    """``POST /events/{id}/replay``: its handlers once more, or the one that the form names. Raises EventNotFound,
    EventPruned, ConfigurationError.
    """
    (event_id,), handler = look.named, look.given("handler")
    jobs = await look.app.inbox.replay(event_id, handler=handler)
    await note(look, "events.replay", {"event": event_id, "handler": handler, "jobs": len(jobs)})
    return Onward(f"/events/{event_id}", "replayed", len(jobs))


async def refused(look: Look) -> Page:
    """``/rejected?service=&limit=``: the last requests that were refused, newest first."""
    service, limit = look.asked("service"), look.number("limit", _REFUSED, _MOST_REFUSED)
    found = await look.app.store.read(refusals, service, limit)
    data = {"refused": [_refusal(one) for one in found], "filter": {"service": service}, "limit": limit}
    return Page("rejected.html", "Refused requests", {**data, "now": look.now})


async def refused_one(look: Look) -> Page:
    """``/rejected/{id}``: one of them, with its headers. Raises EventNotFound."""
    (refusal_id,) = look.named
    found = await look.app.store.read(refusal_by_id, refusal_id)
    if found is None:
        raise EventNotFound(f"no refused request {refusal_id!r} is kept")
    headers = [list(pair) for pair in redaction.headers(found.headers).items()]
    return Page("refusal.html", "Refused request", {"request": _refusal(found), "headers": headers, "now": look.now})


def _record(event: Event) -> dict[str, Any]:
    return {
        "id": event.inbox_id,
        "service": event.service,
        "type": event.name,
        "sender_id": event.id,
        "received_at": event.received_at,
        "signed_at": event.timestamp,
        "signed_with": event.secret or None,
        "version": event.secret_index,
        "duplicates": event.duplicates,
        "bytes": None if event.pruned else len(event.body),
        "pruned": event.pruned,
    }


def _refusal(one: Refusal) -> dict[str, Any]:
    return {
        "id": one.id,
        "service": one.service,
        "at": one.at,
        "status": one.status,
        "reason": one.reason,
        "method": one.method,
        "bytes": one.size,
        "digest": one.digest,
    }


def _body(event: Event) -> str:
    """The body as people read it, without secrets."""
    try:
        payload = event.payload
    except (UnusableEvent, EventPruned):
        payload = event.body.decode("utf-8", "replace")
    plain = redaction.data(payload)
    text = plain if isinstance(plain, str) else json.dumps(plain, indent=2, ensure_ascii=False)
    return text if len(text) <= _BODY else f"{text[:_BODY]}… ({len(text):,} characters)"
