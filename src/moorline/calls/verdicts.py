"""What an error means for its call: whether another attempt is safe and sensible, what the breaker learns, and what
may truthfully be said of the outcome. Pure functions over the error tree.
"""

from __future__ import annotations

from typing import Any, Final

from moorline.calls.effects import POOL, CallContext
from moorline.errors import (
    Attempt,
    BadAnswer,
    CallerFault,
    CallError,
    CircuitOpen,
    CredentialFault,
    DeadlineExceeded,
    DeadlineOutcomeUnknown,
    IdempotencyConflict,
    LimitFault,
    NetworkFault,
    OutcomeUnknown,
    RateLimited,
    ServiceUnavailable,
)

__all__ = ["GATEWAY", "RETRIED", "GiveUp", "final", "honest", "may_repeat", "worked", "worth_later"]

RETRIED: Final = frozenset({408, 425, 500, 502, 503, 504})
GATEWAY: Final = frozenset({502, 504})  # not the service's own answer: it may have acted
_UNAVAILABLE: Final = 503


class GiveUp(Exception):
    """No other attempt; the message says why not."""


def may_repeat(
    error: CallError, context: CallContext[Any, Any], *, told: bool | None, named: float | None, replayable: bool
) -> None:
    """Raise GiveUp unless another attempt is sensible, and safe: repeatable, or certainly not processed.

    *told* is what the service's own should-retry header says, *named* the wait in its ``Retry-After``, *replayable*
    whether the body can be sent again.
    """
    if not replayable:
        raise GiveUp("the body cannot be sent a second time")
    if isinstance(error, DeadlineExceeded):
        raise GiveUp("the deadline is over")
    if isinstance(error, OutcomeUnknown):
        raise GiveUp("nobody knows what the first one did")
    if isinstance(error, CallerFault) and error.outcome == "not_sent":
        raise GiveUp("it cannot be sent as it is")
    if told is False:
        raise GiveUp("the service says not to try again")
    if refused(error, named) or error.outcome == "not_sent" or error.code in context.undone:
        return
    if not _safe(context):
        raise GiveUp(f"it may have acted: {context.operation} carries no idempotency key")
    if told is not True and not _transient(error, context):
        raise GiveUp("the same request would get the same answer")


def refused(error: CallError, named: float | None) -> bool:
    """Whether the service turned the request away unread: a limit, or a 503 whose ``Retry-After`` *named* a wait.

    A quota that is spent says nothing of the kind: the last request that it allowed may have failed half-way.
    """
    return isinstance(error, RateLimited) or (error.status == _UNAVAILABLE and named is not None)


def _safe(context: CallContext[Any, Any]) -> bool:
    return context.idempotent or context.key is not None


def _transient(error: CallError, context: CallContext[Any, Any]) -> bool:
    """Whether the same request may well get another answer."""
    if isinstance(error, BadAnswer):
        return error.retryable
    if isinstance(error, IdempotencyConflict):  # some services answer 409 to it, and 409 also to a key still at work
        return False
    if isinstance(error, NetworkFault) or error.status in context.retried or error.code in context.retried:
        return True
    return isinstance(error, ServiceUnavailable) and error.status in RETRIED


def worked(error: CallError) -> bool | None:
    """What the breaker learns: a caller's fault is a success, a limit or a full pool of ours is nothing."""
    if isinstance(error, LimitFault) or error.code == POOL:
        return None
    if isinstance(error, (CallerFault, CredentialFault)):
        return True if error.outcome == "done" else None  # refused on this side, the service knows nothing of it
    return False


def honest(error: CallError, *, idempotent: bool, unknown: bool) -> CallError:
    """*error*, or OutcomeUnknown: an unrepeatable request that may have reached the service is not "failed".

    *unknown* tells whether an earlier attempt may have acted.
    """
    if idempotent or isinstance(error, OutcomeUnknown):
        return error
    if error.status in GATEWAY:
        error.outcome = "unknown"
    if not unknown and error.outcome != "unknown":
        return error
    if not isinstance(error, NetworkFault):
        if not isinstance(error, (CallerFault, CredentialFault)) and unknown:
            error.outcome = "unknown"  # an earlier attempt may have acted
        return error
    kind = DeadlineOutcomeUnknown if isinstance(error, DeadlineExceeded) else OutcomeUnknown
    told = kind(f"sent, but {error.message}", status=error.status, request_id=error.request_id)
    told.__cause__ = error
    return told


def worth_later(error: CallError, context: CallContext[Any, Any], *, unknown: bool, named: float | None) -> bool:
    """Whether the same Call, sent again later, is safe and sensible."""
    if isinstance(error, CallerFault) and error.outcome == "not_sent":
        return False
    safe = _safe(context)
    turned_away = error.outcome == "not_sent" or refused(error, named) or error.code in context.undone
    if isinstance(error, (LimitFault, CircuitOpen)) or turned_away:
        return safe or not unknown
    if isinstance(error, OutcomeUnknown):
        return context.key is not None
    return safe and (isinstance(error, DeadlineExceeded) or _transient(error, context))


def final(
    error: CallError,
    context: CallContext[Any, Any],
    attempts: tuple[Attempt, ...] = (),
    *,
    unknown: bool = False,
    named: float | None = None,
) -> CallError:
    """*error* with all that is known of its call, honest about what may have happened, in the class that this kind of
    caller expects.

    *unknown* tells whether an earlier attempt may have acted, *named* the wait in the answer's ``Retry-After``.
    """
    error = honest(error, idempotent=context.idempotent, unknown=unknown)
    error.service, error.operation = context.service, context.operation
    error.idempotency_key = context.key
    error.attempts = attempts
    error.retryable = worth_later(error, context, unknown=unknown, named=named)
    return context.raised(error)
