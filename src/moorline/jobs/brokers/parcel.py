"""A job as a carrier carries it: all that is known of it, in one JSON object."""

from __future__ import annotations

from typing import Final

import msgspec

from moorline.jobs.broker import Completion
from moorline.jobs.brokers.carrier import Kind, Lane, Letter, Taken
from moorline.jobs.flows import unexpiring
from moorline.jobs.job import Claim, Job, JobFailure, JobRow, State

__all__ = ["Parcel", "of_row", "undecodable", "unpacked"]

KEPT_ERRORS: Final = 10
_STRANGE: Final = "undecodable"
_FEW: Final = 200  # characters
_BESIDE: Final = 2_000  # bytes of what a dead letter has beside its payload
_MIDDLE: Final = 5  # the priority of who asks for none


class Parcel(msgspec.Struct, omit_defaults=True, kw_only=True):
    """As ``Job``. The payload is ``text`` where it is UTF-8, so that people can read it, else ``raw`` in base64.

    ``doubts`` is 1 if a worker may have died with it, and nothing else tells.
    """

    id: str
    name: str
    queue: str = "default"
    text: str | None = None
    raw: bytes | None = None
    priority: int = _MIDDLE
    run_at: float = 0.0
    created_at: float = 0.0
    max_attempts: int = 6
    event_id: str | None = None
    order_key: str | None = None
    attempts: int = 0
    deliveries: int = 0
    crashes: int = 0
    snoozes: int = 0
    postponed: int = 0
    doubts: int = 0
    errors: tuple[JobFailure, ...] = ()
    reason: str | None = None
    finished_at: float | None = None

    @property
    def payload(self) -> bytes:
        """What the job's function gets, encoded."""
        return (self.raw or b"") if self.text is None else self.text.encode()

    @property
    def lane(self) -> Lane:
        """Where it belongs while it waits."""
        kind: Kind = "normal"
        if self.crashes:
            kind = "suspects"
        elif self.priority != _MIDDLE:
            kind = "high" if self.priority < _MIDDLE else "low"
        return Lane(self.queue, kind)

    def letter(self, now: float, *, dead: bool = False, follows: Taken | None = None) -> Letter:
        """To be sent to its lane, or among the dead; see ``Letter``."""
        lane = Lane(self.queue, "dead") if dead else self.lane
        delay = 0.0 if dead else max(self.run_at - now, 0.0)
        return Letter(lane, self.id, self.name, _ENCODE(self), delay, self.order_key, follows)

    def claimed(self) -> Claim:
        """Count that it is taken."""
        self.attempts += 1
        self.deliveries += 1
        return Claim(
            self.id, self.name, self.queue, self.priority, self.payload, self.run_at, self.attempts, self.max_attempts,
            self.deliveries, self.crashes, self.snoozes, self.event_id, self.created_at, self.order_key, self.postponed,
        )  # fmt: skip

    def crashed(self, *, sure: bool) -> None:
        """Count that its worker died; the deliveries are of the claim that was cut short. What is not sure counts from
        the second time on.
        """
        self.deliveries += 1
        if sure or self.doubts or self.crashes:
            self.crashes += 1 + self.doubts
            self.doubts = 0
        else:
            self.doubts = 1

    def after(self, end: Completion) -> Parcel:
        """What it is after a claim ended in that way."""
        errors = self.errors if end.error is None else (*self.errors, end.error)[-KEPT_ERRORS:]
        return msgspec.structs.replace(
            self,
            attempts=self.attempts - end.refund,
            snoozes=self.snoozes + end.snoozed,
            postponed=self.postponed if end.postponed is None else end.postponed,
            run_at=self.run_at if end.run_at is None else end.run_at,
            errors=errors,
            reason=end.reason,
        )

    def once_more(self, now: float) -> Parcel:
        """Due now, with all its attempts, whenever it was to expire."""
        text = None if self.text is None else unexpiring(self.text.encode()).decode()
        return msgspec.structs.replace(
            self, text=text, run_at=now, attempts=0, crashes=0, snoozes=0, postponed=0, reason=None, finished_at=None
        )

    def job(self, state: State, worker: str | None = None) -> Job:
        """To be looked at."""
        last = self.errors[-1] if self.errors else None
        return Job(
            id=self.id,
            name=self.name,
            queue=self.queue,
            priority=self.priority,
            payload=self.payload,
            state=state,
            run_at=self.run_at,
            attempts=self.attempts,
            max_attempts=self.max_attempts,
            deliveries=self.deliveries,
            crashes=self.crashes,
            snoozes=self.snoozes,
            worker=worker,
            event_id=self.event_id,
            unique_key=None,
            created_at=self.created_at,
            started_at=None,
            finished_at=self.finished_at,
            last_error=None if last is None else f"{last.type}: {last.message}"[:500],
            # The server itself puts a message among the dead that was delivered too often: then nobody has said why.
            reason=self.reason or ("crashed" if state == "dead" else None),
            order_key=self.order_key,
            postponed=self.postponed,
        )


_ENCODE: Final = msgspec.json.Encoder().encode
_DECODE: Final = msgspec.json.Decoder(Parcel).decode


def of_row(row: JobRow) -> Parcel:
    """A new job. A unique key is not carried."""
    text: str | None = None
    raw: bytes | None = None
    try:
        text = row.payload.decode()
    except UnicodeDecodeError:
        raw = row.payload
    return Parcel(
        id=row.id, name=row.name, queue=row.queue, text=text, raw=raw, priority=row.priority, run_at=row.run_at,
        created_at=row.created_at, max_attempts=row.max_attempts, event_id=row.event_id, order_key=row.order_key,
    )  # fmt: skip


def unpacked(body: bytes) -> Parcel | None:
    """None if it is none of ours."""
    try:
        return _DECODE(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def fitted(body: bytes, largest: int) -> bytes:
    """The same job in so many bytes: of its failures the last one in a few words, and of bytes that are none of ours
    the first ones.
    """
    parcel = _DECODE(body)
    errors = tuple(JobFailure(one.attempt, one.at, one.type, one.message[:_FEW], "") for one in parcel.errors[-1:])
    if parcel.reason != _STRANGE or parcel.raw is None:
        return _ENCODE(msgspec.structs.replace(parcel, errors=errors))
    kept = (largest - _BESIDE) // 4 * 3  # base64
    cut = JobFailure(0, parcel.created_at, "TooLarge", f"{kept:,} of its {len(parcel.raw):,} bytes are kept", "")
    return _ENCODE(msgspec.structs.replace(parcel, raw=parcel.raw[:kept], errors=(cut,)))


def undecodable(body: bytes, queue: str, id_: str, now: float) -> Parcel:
    """A dead one that keeps the bytes."""
    return Parcel(id=id_, name="?", queue=queue, raw=body, run_at=now, created_at=now, finished_at=now, reason=_STRANGE)
