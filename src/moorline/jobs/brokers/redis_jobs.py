"""Jobs as Redis keeps and gives them: the facts of a claim, of a completion, and of a job to be looked at."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from moorline.jobs.broker import Completion, JobFilter
from moorline.jobs.brokers.redis_link import Link
from moorline.jobs.flows import unexpiring
from moorline.jobs.job import Claim, Job, JobRow

__all__ = [
    "FACTS", "asked", "claim", "jobs", "listed", "row_again", "told",
]  # fmt: skip

FACTS: Final = 5
"""Of each job that is claimed: the arguments of ``claim``."""

_PAGE: Final = 500  # jobs that one look at a list reads
_ROW: Final = msgspec.msgpack.Decoder(JobRow).decode

encoded = msgspec.msgpack.Encoder().encode
"""A row or a failure as it is stored, and what the script is told."""


def _wanted(row: JobRow) -> str:
    """What the script is told of a unique key besides its name: when it was asked for, and until when it is wanted."""
    return f"{row.created_at!r} {'' if row.unique_until is None else repr(row.unique_until)}"


def _stored(row: JobRow) -> bytes:
    # Without the window that most have not, so that older workers can read it too.
    return encoded(row[:-1] if row.unique_until is None else row)


def row_again(link: Link, job_id: str) -> bytes:
    """The row of a job that a person tries again; empty where it stays as it came."""
    (found,) = link.read(lambda p: lambda key: p.hget(key, "d"), [f"job:{job_id}"])
    if found is None:
        return b""
    row = _ROW(found)
    payload = unexpiring(row.payload)
    return b"" if payload == row.payload else _stored(row._replace(payload=payload))


def claim(row: bytes, attempts: bytes, deliveries: bytes, run_at: bytes, rare: bytes) -> Claim:
    """What a worker gets, from what the script answers for each job."""
    id_, name, payload, _, created_at, queue, priority, max_attempts, event_id, *_ = _ROW(row)
    crashes, snoozes, postponed, order_key = rare.decode().split("\t", 3) if rare else (0, 0, 0, "")
    return Claim(
        id_, name, queue, priority, payload, float(run_at), int(attempts), max_attempts, int(deliveries), int(crashes),
        int(snoozes), event_id, created_at, order_key or None, int(postponed),
    )  # fmt: skip


def asked(rows: Iterable[JobRow]) -> tuple[bytes, bytes]:
    """Rows to be enqueued, as the script wants them: what it looks at, and the rows themselves."""
    told: list[str | int] = []
    bodies: list[bytes] = []
    for row in rows:
        id_, _, _, run_at, _, queue, priority, _, event_id, unique_key, order_key, _ = row
        body = _stored(row)
        told += (
            id_, queue, str(priority), repr(run_at), unique_key or "", order_key or "", event_id or "",
            _wanted(row) if unique_key else "", len(body),
        )  # fmt: skip
        bodies.append(body)
    return encoded(told), b"".join(bodies)


def told(completions: Iterable[Completion]) -> tuple[bytes, bytes, bytes]:
    """Completions as the script wants them: those that ended well, as nearly all, the others, and their failures."""
    well: list[str | int] = []
    others: list[str | int] = []
    failures: list[bytes] = []
    for one in completions:
        id_, deliveries, state, run_at, refund, snoozed, reason, error, _, postponed = one
        if state == "done" and error is None and reason is None:
            well += (id_, deliveries)
            continue
        failure = b"" if error is None else encoded(error)
        others += (
            id_, deliveries, state, "" if run_at is None else repr(run_at), int(refund), int(snoozed),
            "" if postponed is None else postponed, reason or "", len(failure), one.last_error or "",
        )  # fmt: skip
        failures.append(failure)
    return encoded(well), encoded(others), b"".join(failures)


def jobs(link: Link, ids: Sequence[str]) -> list[Job]:
    """Those that are there, in their order, the blocked ones with what they are blocked behind."""
    hashes = link.read(lambda pipeline: pipeline.hgetall, [f"job:{id_}" for id_ in ids])
    found = [{name.decode(): value for name, value in one.items()} for one in hashes if one]
    keys = list({one["o"].decode() for one in found if one["s"] == b"blocked"})
    heads = dict(zip(keys, link.read(lambda pipeline: pipeline.get, [f"head:{key}" for key in keys]), strict=True))
    return [_job(one, heads) for one in found]


def _job(facts: dict[str, bytes], heads: dict[str, bytes | None]) -> Job:
    row = _ROW(facts["d"])
    state: Any = facts["s"].decode()
    order_key = _text(facts, "o")
    head = heads.get(order_key or "") if state == "blocked" else None
    return Job(
        id=row.id,
        name=row.name,
        queue=row.queue,
        priority=row.priority,
        payload=row.payload,
        state=state,
        run_at=float(facts["t"]),
        attempts=int(facts.get("a", 0)),
        max_attempts=row.max_attempts,
        deliveries=int(facts.get("v", 0)),
        crashes=int(facts.get("c", 0)),
        snoozes=int(facts.get("z", 0)),
        worker=_text(facts, "w"),
        event_id=row.event_id,
        unique_key=row.unique_key,
        created_at=row.created_at,
        started_at=_moment(facts, "b"),
        finished_at=_moment(facts, "f"),
        last_error=_text(facts, "e"),
        reason=_text(facts, "r"),
        order_key=order_key,
        blocked_behind=None if head is None else head.decode(),
        unique_until=row.unique_until,
        postponed=int(facts.get("l", 0)),
    )


def _text(facts: dict[str, bytes], name: str) -> str | None:
    return facts.get(name, b"").decode() or None


def _moment(facts: dict[str, bytes], name: str) -> float | None:
    value = facts.get(name)
    return float(value) if value else None


def listed(link: Link, which: JobFilter) -> list[Job]:
    """See ``Broker.list``."""
    found: list[Job] = []
    before = which.before or ""
    while len(found) < which.limit:
        size = min(_PAGE, which.limit) if which.name is None and which.event_id is None else _PAGE
        more, *ids = link.do("page", which.state or "", which.queue or "", which.event_id or "", before, size)
        found += [job for job in jobs(link, [one.decode() for one in ids]) if which.fits(job)]
        before = more.decode()
        if not before:
            break
    return found[: which.limit]
