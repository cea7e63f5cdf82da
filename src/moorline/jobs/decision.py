"""What becomes of a job after it ran: pure decisions, no I/O. The worker carries them out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Final, Protocol

from moorline import redaction
from moorline.errors import (
    CallError,
    ConnectionNotFound,
    PayloadFromNewer,
    PayloadMismatch,
    ReauthorizationRequired,
    UnknownJob,
)
from moorline.jobs.broker import Completion
from moorline.jobs.job import LONGEST_WAIT, Claim, JobFailure
from moorline.jobs.outcome import Cancel, Discard, Done, Outcome, Retry, Snooze
from moorline.policies import retry as policy

__all__ = ["Backoff", "expired", "failed", "given_back", "goes_on", "settled", "stopped", "too_early", "too_large"]

MAX_POSTPONED: Final = 100
"""How often in a row a service that names a time may put a job off before that counts as an attempt."""

MAX_WAIT: Final = 86_400.0
"""The longest wait, in seconds, that a service's own word is believed."""

UNKNOWN_PATIENCE: Final = 86_400.0
"""Seconds that a job waits for a newer program (a deployment in progress) since it was first claimed by one that does
not know it, before it is dead.
"""

UNKNOWN_PAUSE: Final = 30.0
_MESSAGE: Final = 2_000
_TRACEBACK: Final = 4_000


class Backoff(Protocol):
    """``moorline.policies.retry.Retry``, as far as jobs know it."""

    def delay(self, number: int, random: Callable[[], float]) -> float:
        """Seconds to wait before retry *number* (1 is the first)."""
        ...


def settled(claim: Claim, result: object, now: float, backoff: Backoff, random: Random) -> Completion:
    """The function returned: a result, which is not kept, or one of ``moorline.jobs.outcome``."""
    if not isinstance(result, Outcome):
        return Completion(claim.id, claim.deliveries, "done")
    match result:
        case Snooze(in_=seconds):
            return _again(claim, now + seconds, refund=True, postponed=0)
        case Cancel(reason=reason):
            return Completion(claim.id, claim.deliveries, "cancelled", reason=_clean(reason, _MESSAGE) or "cancelled")
        case Discard(reason=reason):
            error = _failure(claim, now, "Discard", reason, "")
            return Completion(claim.id, claim.deliveries, "dead", reason="discarded", error=error)
        case Retry(in_=seconds, reason=reason):
            return _retried(claim, _failure(claim, now, "Retry", reason, ""), now, seconds, backoff, random)
        case Done(reason=reason):
            return Completion(claim.id, claim.deliveries, "done", reason=_clean(reason, _MESSAGE) or None)


def failed(claim: Claim, error: BaseException, now: float, backoff: Backoff, random: Random) -> Completion:
    """The function raised. Who says "not before" and did not act costs no attempt; all else does."""
    failure = _failure(claim, now, type(error).__name__, error, redaction.trace(error))
    if isinstance(error, PayloadMismatch):  # the same payload will not fit the next time either
        return Completion(claim.id, claim.deliveries, "dead", reason="mismatch", error=failure)
    if isinstance(error, (ReauthorizationRequired, ConnectionNotFound)):  # only its owner can mend it; then retry it
        return Completion(claim.id, claim.deliveries, "dead", reason="reauthorize", error=failure)
    at = _postponed_to(error, now)
    if at is not None and claim.postponed < MAX_POSTPONED:
        # Spread a little, or all that waited for one breaker or limit come back in the same instant.
        at += random.uniform(0.0, min(1.0, at - now))
        return _again(claim, at, refund=True, error=failure, postponed=claim.postponed + 1)
    return _retried(claim, failure, now, None, backoff, random, not_before=_named_time(error, now))


def too_early(claim: Claim, error: UnknownJob | PayloadFromNewer, now: float, last: JobFailure | None) -> Completion:
    """A newer program enqueued it, perhaps: it waits for that one, for a day from when it was first claimed in vain.

    *last* is its last failure that was kept; since then it has waited, if it says the same. Then it is not said again,
    lest it push out what went before.
    """
    failure = _failure(claim, now, type(error).__name__, error, "")
    waits = claim.postponed > 0 and last is not None and last.type == failure.type
    if waits and last is not None and now - last.at >= UNKNOWN_PATIENCE:
        return Completion(claim.id, claim.deliveries, "dead", reason="unknown", error=failure)
    told = None if waits else failure
    return _again(claim, now + UNKNOWN_PAUSE, refund=True, error=told, postponed=max(claim.postponed, 1))


def expired(claim: Claim) -> Completion:
    """It is too late for it."""
    return Completion(claim.id, claim.deliveries, "cancelled", refund=True, reason="expired")


def too_large(claim: Claim, now: float, limit: int) -> Completion:
    """Somebody stored what ``enqueue`` would have refused; its bytes stay with the dead letter."""
    message = f"its arguments take {len(claim.payload):,} bytes, and {limit:,} are allowed (max_payload)"
    error = _failure(claim, now, "PayloadTooLarge", message, "")
    return Completion(claim.id, claim.deliveries, "dead", reason="too large", error=error)


def stopped(claim: Claim, reason: str) -> Completion:
    """A person stopped it."""
    return Completion(claim.id, claim.deliveries, "cancelled", reason=_clean(reason, _MESSAGE) or "stopped")


def goes_on(snoozes: int) -> bool:
    """Whether so many are worth a word: the hundredth, the thousandth, and so on."""
    return snoozes >= MAX_POSTPONED and str(snoozes).strip("0") == "1"


def given_back(claim: Claim) -> Completion:
    """It did not run, or was stopped by us: as if it had not been claimed."""
    return Completion(claim.id, claim.deliveries, "ready", refund=True)


def _retried(
    claim: Claim,
    failure: JobFailure,
    now: float,
    seconds: float | None,
    backoff: Backoff,
    random: Random,
    not_before: float = 0.0,
) -> Completion:
    if claim.attempts >= claim.max_attempts:
        return Completion(claim.id, claim.deliveries, "dead", reason="failed", error=failure)
    if seconds is None:
        seconds, failure = _waits(claim, failure, backoff, random)
    return _again(claim, max(now + seconds, not_before), refund=False, error=failure)


def _waits(claim: Claim, failure: JobFailure, backoff: Backoff, random: Random) -> tuple[float, JobFailure]:
    """How long by the back-off; by the default one, with a word in the failure, when that one gives no such number."""
    try:
        seconds = float(backoff.delay(claim.attempts, random.random))
        if not 0 <= seconds <= LONGEST_WAIT:
            raise ValueError(f"{seconds!r} is no number of seconds to wait")  # noqa: TRY301 -- as if it had raised
    except BaseException as error:  # noqa: BLE001 -- it is a user's, and the job has failed all the same
        told = f"{failure.message} (and its backoff: {type(error).__name__}: {_clean(error, _MESSAGE)})"
        return policy.Retry().delay(claim.attempts, random.random), replace(failure, message=told[:_MESSAGE])
    return seconds, failure


def _again(
    claim: Claim, at: float, *, refund: bool, error: JobFailure | None = None, postponed: int | None = None
) -> Completion:
    return Completion(
        claim.id, claim.deliveries, "ready", run_at=at, refund=refund, snoozed=refund, error=error, postponed=postponed
    )


def _postponed_to(error: BaseException, now: float) -> float | None:
    at = _named_time(error, now)
    if at > now and isinstance(error, CallError) and (error.outcome == "not_sent" or error.fault == "limit"):
        return at
    return None


def _named_time(error: BaseException, now: float) -> float:
    """When the service asked to come back, in seconds since the epoch; 0 if it did not."""
    at: object = error.retry_at if isinstance(error, CallError) else None
    return min(at, now + MAX_WAIT) if isinstance(at, (int, float)) else 0.0  # who raises it may have put anything there


def _failure(claim: Claim, now: float, kind: str, message: object, trace: str) -> JobFailure:
    return JobFailure(claim.attempts, now, kind, _clean(message, _MESSAGE), _clean(trace, _TRACEBACK, tail=True))


def _clean(said: object, limit: int, *, tail: bool = False) -> str:
    """What the user's function said, mostly a text; an exception or a number is a reason too."""
    try:
        words = redaction.text("" if said is None else str(said))
    except BaseException as error:  # noqa: BLE001 -- of a user's __str__, which must not keep the end from being stored
        words = f"a {type(said).__name__} without words: its __str__ raised {type(error).__name__}"
    # Redacted whole, then cut: a secret cut in half would pass. PostgreSQL's text has no place for NUL.
    clean = words.replace("\x00", "").encode("utf-8", "replace").decode()
    return clean[-limit:] if tail else clean[:limit]
