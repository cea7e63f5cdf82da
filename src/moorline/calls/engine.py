"""The pipeline, as a generator: it decides, and yields what is to be done to a driver, which resumes it with the
result.

From the outside in: total deadline > retry with budget > for each attempt: breaker > rate gate > bulkhead > the
attempt, with fresh credentials and its own timeout. It does no I/O and knows no HTTP library, so that one text
serves both colours.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Generator
from dataclasses import replace
from typing import Any, Final, Generic

from moorline import telemetry
from moorline.calls.effects import POOL, A, CallContext, Discard, Effect, Expired, Lease, R, Send, Sleep, Wait
from moorline.errors import (
    Attempt,
    AttemptTimeout,
    BadAnswer,
    BulkheadFull,
    CallerFault,
    CallError,
    CircuitOpen,
    ConnectFailed,
    CredentialFault,
    DeadlineExceeded,
    DeadlineOutcomeUnknown,
    LimitFault,
    NetworkFault,
    Outcome,
    OutcomeUnknown,
    RateLimited,
    ServiceUnavailable,
)
from moorline.policies.deadline import Deadline

__all__ = ["Pipeline"]

_log: Final = telemetry.logger("calls")
_RETRIED: Final = frozenset({408, 425, 500, 502, 503, 504})
_GATEWAY: Final = frozenset({502, 504})  # not the service's own answer: it may have acted
_UNAVAILABLE: Final = 503


class Pipeline(Generic[R, A]):
    """One call under way; ``run()`` is the generator for a driver. Returns an answer or raises a CallError."""

    __slots__ = ("_answer", "_asked", "_attempts", "_context", "_deadline", "_guard", "_replayable", "_unknown")

    def __init__(self, context: CallContext[R, A]) -> None:
        self._context = context
        self._guard = context.guard
        self._attempts: list[Attempt] = []
        self._deadline = Deadline(math.inf)
        self._answer: A | None = None  # the last failed answer, whose connection we still hold
        self._asked: float | None = None  # the wait that it asked for
        self._replayable = True
        self._unknown = False  # whether an earlier attempt may have acted

    def run(self) -> Generator[Effect, Any, A]:
        """Yield effects until there is an answer to return or an error to raise."""
        clock = self._context.clock
        started = clock.monotonic()
        self._deadline = Deadline.after(started, self._context.policy.deadline)
        if self._guard.budget is not None:
            self._guard.budget.call()
        try:
            while True:
                lease = yield from self._admission()
                try:
                    answer = yield from self._attempt(lease)
                except CallError as error:
                    wait = self._pause(error)
                    if wait is None:
                        answer = yield from self._give_up(error)
                        self._report(started, error)
                        return answer
                    yield from self._rest(error, wait)
                else:
                    self._report(started, None)
                    return answer
        except CallError as error:
            final = self._final(error)
            self._report(started, final)
            if final is error:
                raise
            raise final from (error.__cause__ if type(final).__mro__[1] is type(error) else error)

    # Before an attempt -----------------------------------------------------------------------------------------------

    def _admission(self) -> Generator[Effect, Any, Lease]:
        """Pass the breaker, the rate gate and the bulkhead, in this order. Refusals are final: nothing was sent."""
        breaker = self._guard.breaker
        permit = None
        if breaker is not None:
            permit = breaker.admit()
            if permit is None:
                wait = breaker.wait()
                when = self._context.clock.wall() + wait if math.isfinite(wait) else None
                raise CircuitOpen("not sent: the circuit is open", retry_at=when)
        lease = Lease(permit)
        try:
            if self._guard.quota is not None or self._guard.gate.wait():
                yield from self._pass_gate()
            if self._guard.bulkhead is not None:
                yield from self._enter_bulkhead(lease)
        except BaseException:
            lease.settle(worked=None)
            raise
        return lease

    def _pass_gate(self) -> Generator[Effect, Any, None]:
        """Wait as long as the service asked, and for our own quota; refuse at once what would pass the deadline."""
        clock, quota = self._context.clock, self._guard.quota
        while wait := self._guard.gate.wait():
            self._check_wait(wait, "the service asked to wait")
            yield Sleep(wait)
        if quota is None:
            return
        ours, wait = quota.take(self._deadline.remaining(clock.monotonic()))
        if not ours:
            self._check_wait(math.inf, "our own rate limit", seconds=wait)
        if wait:
            try:
                yield Sleep(wait)
            except BaseException:
                quota.give_back()
                raise

    def _check_wait(self, wait: float, why: str, *, seconds: float | None = None) -> None:
        clock = self._context.clock
        if wait >= self._deadline.remaining(clock.monotonic()):
            when = clock.wall() + (wait if seconds is None else seconds)
            raise RateLimited(f"not sent: {why}, beyond the deadline", outcome="not_sent", retry_at=when)

    def _enter_bulkhead(self, lease: Lease) -> Generator[Effect, Any, None]:
        bulkhead = self._guard.bulkhead
        assert bulkhead is not None
        ticket = lease.ticket = bulkhead.enter()
        if ticket is None:
            raise BulkheadFull(f"not sent: {bulkhead.config.limit} calls are in flight")
        if not ticket.granted:
            remaining = self._deadline.remaining(self._context.clock.monotonic())
            granted = yield Wait(ticket, None if math.isinf(remaining) else remaining)
            if not granted:
                raise DeadlineExceeded("not sent: no free slot within the deadline", outcome="not_sent")

    # One attempt -----------------------------------------------------------------------------------------------------

    def _attempt(self, lease: Lease) -> Generator[Effect, Any, A]:
        """Send, follow redirects, judge the answer, and settle what the attempt held."""
        context, clock = self._context, self._context.clock
        self._asked = None
        wall, begun = clock.wall(), clock.monotonic()
        answer: A | None = None
        try:
            answer = yield from self._exchange(begun)
            error = context.judge(answer)
            self._heed(answer, error, clock.wall())
            if error is not None:
                raise error  # noqa: TRY301 (one place settles the lease)
            self._note(wall, begun, answer.status, "answered")
            return context.succeeded(answer, lease, self._deadline.at, tuple(self._attempts))
        except CallError as error:
            self._answer = answer
            self._note(wall, begun, error.status, error.message)
            lease.settle(worked=_worked(error))
            raise
        except BaseException:
            lease.settle(worked=None)
            raise

    def _exchange(self, begun: float) -> Generator[Effect, Any, A]:
        context, policy = self._context, self._context.policy
        end = math.inf if policy.attempt_timeout is None else begun + policy.attempt_timeout
        until = min(end, self._deadline.at)
        request = context.request()
        hops = 0
        while True:
            left = until - context.clock.monotonic()
            if left <= 0:
                raise self._late(Expired(sent=hops > 0), by_deadline=self._deadline.at <= end)
            try:
                answer = yield Send(request, None if math.isinf(left) else left)
            except Expired as expired:
                raise self._late(expired, by_deadline=self._deadline.at <= end) from expired.__cause__
            finally:
                self._replayable = request.replayable
            onward = context.redirected(request, answer, hops)
            if onward is None:
                return answer  # type: ignore[no-any-return]
            request = onward
            hops += 1

    def _late(self, expired: Expired, *, by_deadline: bool) -> CallError:
        what = "no free connection in the pool" if expired.in_pool else "no complete answer"
        code = POOL if expired.in_pool else None
        if by_deadline:
            seconds = self._context.policy.deadline
            outcome: Outcome = "unknown" if expired.sent else "not_sent"
            return DeadlineExceeded(f"{what} within the deadline of {seconds:g} s", outcome=outcome, code=code)
        seconds = self._context.policy.attempt_timeout
        if not expired.sent:
            return ConnectFailed(f"{what if code else 'no connection'} within {seconds:g} s", code=code)
        return AttemptTimeout(f"no complete answer within {seconds:g} s")

    def _heed(self, answer: A, error: CallError | None, wall: float) -> None:
        """Take from the answer what it says of limits: for this call, and at the gate for all others."""
        limits = self._context.limits
        if error is None or error.fault in ("caller", "credentials"):
            exhausted = limits.exhausted(answer, wall)
            if exhausted:
                self._guard.gate.close(exhausted)
            return
        self._asked = limits.asked_wait(answer, wall)
        if self._asked is None:
            return
        error.retry_at = wall + self._asked
        if isinstance(error, RateLimited):
            self._guard.gate.close(self._asked)

    def _note(self, wall: float, begun: float, status: int | None, reason: str) -> None:
        elapsed = self._context.clock.monotonic() - begun
        self._attempts.append(Attempt(len(self._attempts) + 1, wall, elapsed, status, reason))
        if _log.is_enabled_for(logging.DEBUG):
            _log.debug(
                "attempt",
                service=self._context.service,
                operation=self._context.operation,
                attempt=len(self._attempts),
                status=status,
                ms=round(elapsed * 1000, 1),
                reason=reason,
            )

    # After a failed attempt ------------------------------------------------------------------------------------------

    def _pause(self, error: CallError) -> float | None:
        """Seconds to wait before the next attempt, or None: give up."""
        retry, guard = self._context.policy.retry, self._guard
        if error.outcome == "unknown":
            self._unknown = True
        if retry is None or len(self._attempts) > retry.retries or not self._may_repeat(error):
            return None
        asked = self._asked or 0.0
        wait = max(retry.delay(len(self._attempts), self._context.random), asked)
        if guard.breaker is not None:
            wait = max(wait, guard.breaker.wait())
        if asked > retry.cap or wait >= self._deadline.remaining(self._context.clock.monotonic()):
            return None
        # A limit says itself when to come back, which is no storm; all other repeats are charged.
        if guard.budget is not None and not isinstance(error, RateLimited) and not guard.budget.take():
            return None
        return wait

    def _may_repeat(self, error: CallError) -> bool:
        """Whether another attempt is sensible, and safe: the request is repeatable or was certainly not processed."""
        if not self._replayable or isinstance(error, (DeadlineExceeded, OutcomeUnknown)):
            return False
        told = None if self._answer is None else self._context.limits.told_to_retry(self._answer)
        if told is False:
            return False
        if self._refused(error) or error.outcome == "not_sent":
            return True
        return self._safe and (told is True or self._transient(error))

    def _refused(self, error: CallError) -> bool:
        """Whether the service turned the request away unread, and said when to come back."""
        return isinstance(error, RateLimited) or (error.status == _UNAVAILABLE and self._asked is not None)

    @property
    def _safe(self) -> bool:
        return self._context.idempotent or self._context.key is not None

    def _transient(self, error: CallError) -> bool:
        """Whether the same request may well get another answer."""
        if isinstance(error, BadAnswer):
            return error.retryable
        if isinstance(error, NetworkFault) or error.status in self._context.retried:
            return True
        return isinstance(error, ServiceUnavailable) and error.status in _RETRIED

    def _rest(self, error: CallError, wait: float) -> Generator[Effect, Any, None]:
        self._attempts[-1] = replace(self._attempts[-1], wait=wait)
        try:
            yield from self._drop_answer()
            yield Sleep(wait)
        except BaseException:
            if self._guard.budget is not None and not isinstance(error, RateLimited):
                self._guard.budget.give_back()
            raise

    def _drop_answer(self) -> Generator[Effect, Any, None]:
        answer, self._answer = self._answer, None
        if answer is not None:
            remaining = self._deadline.remaining(self._context.clock.monotonic())
            yield Discard(answer, min(remaining, self._context.policy.attempt_timeout or remaining))

    # The end ---------------------------------------------------------------------------------------------------------

    def _give_up(self, error: CallError) -> Generator[Effect, Any, A]:
        """Return the answer to who wants statuses as answers; raise the error to all others."""
        if self._answer is not None:
            answer = self._context.unsuccessful(self._answer, error, self._deadline.at)
            if answer is not None:
                return answer
            yield from self._drop_answer()
        raise error

    def _final(self, error: CallError) -> CallError:
        """The error with all that is known of the call, and honest about what may have happened."""
        context = self._context
        error = self._honest(error)
        error.service, error.operation = context.service, context.operation
        error.idempotency_key = context.key
        error.attempts = tuple(self._attempts)
        error.retryable = self._worth_later(error)
        return context.raised(error)

    def _honest(self, error: CallError) -> CallError:
        """An unrepeatable request that may have reached the service is not "failed"; nobody knows."""
        if self._context.idempotent or isinstance(error, OutcomeUnknown):
            return error
        if error.status in _GATEWAY:
            error.outcome = "unknown"
        if not self._unknown and error.outcome != "unknown":
            return error
        if not isinstance(error, NetworkFault):
            if not isinstance(error, (CallerFault, CredentialFault)) and self._unknown:
                error.outcome = "unknown"  # an earlier attempt may have acted
            return error
        kind = DeadlineOutcomeUnknown if isinstance(error, DeadlineExceeded) else OutcomeUnknown
        honest = kind(f"sent, but {error.message}")
        honest.__cause__ = error
        return honest

    def _worth_later(self, error: CallError) -> bool:
        if isinstance(error, (LimitFault, CircuitOpen)) or error.outcome == "not_sent" or self._refused(error):
            return self._safe or not self._unknown
        if isinstance(error, OutcomeUnknown):
            return self._context.key is not None
        return self._safe and (isinstance(error, DeadlineExceeded) or self._transient(error))

    def _report(self, started: float, error: CallError | None) -> None:
        if not _log.is_enabled_for(logging.INFO):
            return
        last = self._attempts[-1] if self._attempts else None
        _log.info(
            "call",
            service=self._context.service,
            operation=self._context.operation,
            status=last.status if last else None,
            attempts=len(self._attempts),
            ms=round((self._context.clock.monotonic() - started) * 1000, 1),
            outcome="done" if error is None else error.outcome,
            error=None if error is None else type(error).__name__,
        )


def _worked(error: CallError) -> bool | None:
    """What the breaker learns: a caller's fault is a success, a limit or a full pool of ours is nothing."""
    if isinstance(error, LimitFault) or error.code == POOL:
        return None
    return isinstance(error, (CallerFault, CredentialFault))
