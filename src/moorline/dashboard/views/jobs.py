"""Jobs: the queues, what is dead and why, one job with its last errors; to try again, to give up, to stop."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from moorline import redaction
from moorline.dashboard import charts
from moorline.dashboard.noting import note
from moorline.dashboard.page import Confirm, Look, Onward, Page
from moorline.dashboard.waiting import unfinished, waiting_since
from moorline.errors import ConfigurationError
from moorline.jobs.broker import Broker, JobFilter
from moorline.jobs.brokers.many import Outcome, to_each
from moorline.jobs.groups import Groups
from moorline.jobs.job import STATES, Job, State
from moorline.jobs.order import shown as in_words
from moorline.jobs.watch import stop

if TYPE_CHECKING:
    from moorline.jobs.notes import JobNote

__all__ = ["act", "listed", "queues_of", "shown"]

PAGE: Final = 50
MOST: Final = 200
"""Jobs on a page."""
_AT_ONCE: Final = 1_000  # jobs that something is done to by one form
_NAMED: Final = 10  # ids that the audit has of them
_PAYLOAD: Final = 20_000  # characters
_REASON: Final = "by an operator"
_BARS: Final = ("running", "ready", "blocked", "dead")
COUNTED: Final = ("ready", "running", "blocked", "dead", "outbox")
"""The states of what is not over."""

Deed = Callable[[Broker, Sequence[str]], Awaitable[Sequence[Outcome]]]

_DEEDS: Final[dict[str, tuple[str, Deed]]] = {
    "retry": ("Try again", lambda broker, some: broker.retry_many(some)),
    "skip": ("Give up", lambda broker, some: to_each(some, broker.skip)),
    "stop": ("Stop", lambda broker, some: to_each(some, lambda one: stop(broker, one, _REASON))),
}


async def listed(look: Look) -> Page:
    """``/jobs?state=&queue=&name=&before=&limit=``: queues, and jobs newest first; the dead ones unless asked
    otherwise.
    """
    which = _which(look)
    found, queues = await asyncio.gather(
        look.app.jobs.broker.list(replace(which, limit=which.limit + 1)), queues_of(look)
    )
    jobs, more = found[: which.limit], len(found) > which.limit
    data = {
        "queues": queues,
        "states": list(STATES),
        "counted": list(COUNTED),
        "filter": {"state": which.state or "all", "queue": which.queue, "name": which.name, "before": which.before},
        "limit": which.limit,
        "jobs": [_record(job) for job in jobs],
        "next": jobs[-1].id if more else None,
        "now": look.now,
    }
    return Page("jobs.html", "Jobs", data)


async def shown(look: Look) -> Page:
    """``/jobs/{id}``: one job, with what it was given and its last ten errors. Raises JobNotFound."""
    broker, (job_id,) = look.app.jobs.broker, look.named
    job, failures = await asyncio.gather(broker.get(job_id), broker.failures(job_id))
    told: JobNote | None = None
    with contextlib.suppress(ConfigurationError):  # not every broker keeps notes
        told = await broker.notes.read(job_id)
    data = {
        "job": _record(job) | {"payload": _payload(job.payload)} | _progress(told),
        "failures": [
            {"attempt": one.attempt, "at": one.at, "type": one.type, "message": one.message, "trace": one.traceback}
            for one in reversed(failures)
        ],
        "now": look.now,
    }
    return Page("job.html", f"Job {job.name}", data)


async def act(look: Look) -> Confirm | Onward:
    """``POST /jobs/{retry|skip|stop}`` with ids, or with a filter: a filter, and what cannot be undone, asks first.

    Raises ConfigurationError, and JobNotFound or JobStateError where it was one job.
    """
    (deed,), app = look.named, look.app
    words, do = _DEEDS[deed]
    ids = list(dict.fromkeys(look.form.get("id", ())))
    by_filter = not ids
    if by_filter:
        ids = [job.id for job in await app.jobs.broker.list(_chosen(look))]
    if len(ids) > _AT_ONCE or any(len(one) > 100 for one in ids):
        raise ConfigurationError(f"id: at most {_AT_ONCE:,} jobs at once")
    back = f"/jobs/{ids[0]}" if len(ids) == 1 and not by_filter else "/jobs"
    if not ids:
        return Onward("/jobs", deed, 0)
    if not look.confirmed and (by_filter or deed != "retry" or len(ids) > 1):
        return _question(deed, words, ids, back)
    outcomes = await do(app.jobs.broker, ids)
    await Groups(app.store, app.jobs.broker).called_off(outcomes)
    failed = [one for one in outcomes if isinstance(one, Exception)]
    await note(look, f"jobs.{deed}", {"jobs": len(ids) - len(failed), "failed": len(failed), "ids": ids[:_NAMED]})
    if len(ids) == 1 and failed:
        raise failed[0]
    return Onward(back, deed, len(ids) - len(failed), len(failed))


def _question(deed: str, words: str, ids: list[str], back: str) -> Confirm:
    some = "1 job" if len(ids) == 1 else f"{len(ids):,} jobs"
    what = {
        "retry": f"Try {some} again, with all attempts?",
        "skip": f"Give up {some}? What waits behind goes on without; the record is pruned later.",
        "stop": f"Stop {some}? What waits is cancelled, what runs is asked to stop.",
    }
    facts = [("Jobs", ", ".join(ids[:5]) + (f" and {len(ids) - 5:,} more" if len(ids) > 5 else ""))]
    if len(ids) == _AT_ONCE:
        facts.append(("Beware", f"These are the newest {_AT_ONCE:,} of those that fit; do it again for the rest."))
    return Confirm(what[deed], f"/jobs/{deed}", back, words, [("id", one) for one in ids], facts, deed != "retry")


def _which(look: Look) -> JobFilter:
    state = look.asked("state") or "dead"
    limit = look.number("limit", PAGE, MOST)
    return JobFilter(_state(state), look.asked("name"), look.asked("queue"), None, look.asked("before"), limit)


def _chosen(look: Look) -> JobFilter:
    """What a form means that names no job. Raises ConfigurationError where it would mean all."""
    state, name, queue = look.given("state"), look.given("name"), look.given("queue")
    if look.given("all") != "yes" or not (state or name or queue):
        raise ConfigurationError("choose jobs, or say which by state, name or queue")
    return JobFilter(_state(state or "all"), name, queue, limit=_AT_ONCE)


def _state(given: str) -> State | None:
    if given == "all":
        return None
    if given not in STATES:
        raise ConfigurationError(f"state: one of {', '.join(STATES)}, or all")
    return given


async def queues_of(look: Look) -> list[dict[str, Any]]:
    """Each queue: how many of its jobs are in which state, and since when the oldest waits, where that is known."""
    app = look.app
    own = app.settings.queue_url is None  # else the broker counts, and nobody knows since when its jobs wait
    counts: Mapping[Any, int] = await (app.store.read(unfinished) if own else app.jobs.broker.counts())
    since = await app.store.read(waiting_since, look.now) if own else {}
    found = []
    most = max((sum(counts.get((queue, state), 0) for state in _BARS) for queue, _ in counts), default=0)
    for queue in sorted({queue for queue, _ in counts}):
        by_state = {state: counts.get((queue, state), 0) for state in COUNTED}
        words = ", ".join(f"{by_state[state]} {state}" for state in _BARS)
        chart = charts.shares([(state, by_state[state]) for state in _BARS], most, f"{queue}: {words}")
        found.append({"queue": queue, "counts": by_state, "waiting_since": since.get(queue), "chart": chart})
    return found


def _record(job: Job) -> dict[str, Any]:
    return {
        "id": job.id,
        "name": job.name,
        "queue": job.queue,
        "state": job.state,
        "reason": job.reason,
        "priority": job.priority,
        "attempts": job.attempts,
        "max_attempts": job.max_attempts,
        "crashes": job.crashes,
        "snoozes": job.snoozes,
        "run_at": job.run_at,
        "created_at": job.created_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "worker": job.worker,
        "event_id": job.event_id,
        "unique": job.unique_key,
        "order": None if job.order_key is None else in_words(job.order_key),
        "behind": job.blocked_behind,
        "last_error": job.last_error,
    }


def _payload(payload: bytes) -> str:
    """What it was given, as people read it, without secrets."""
    text = payload.decode("utf-8", "replace")
    try:
        text = json.dumps(redaction.data(json.loads(text)), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        text = redaction.text(text)
    return text if len(text) <= _PAYLOAD else f"{text[:_PAYLOAD]}… ({len(text):,} characters)"


def _progress(told: JobNote | None) -> dict[str, Any]:
    if told is None:
        return {"progress": None, "asked_to_stop": None}
    progress = None if told.done is None else f"{told.done:.0%} {told.message or ''}".strip()
    return {"progress": progress, "asked_to_stop": told.stop}
