"""The pipeline, as a generator: it decides, and yields what is to be done to a driver, which resumes it with the
result.

From the outside in: total deadline (the caller's own included) > admission cap > retry with budget > for each attempt:
breaker > rate gate > bulkhead > the attempt, with fresh credentials and its own timeout. It does no I/O and knows no
HTTP library, so that one text serves both colours and every client.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Final

from moorline import telemetry
from moorline.calls import story
from moorline.calls.effects import POOL, A, Discard, Effect, Expired, Lease, R, Renew, Send, Sleep
from moorline.calls.entry import Entry, watched
from moorline.calls.express import Begun
from moorline.calls.story import CANCELLED
from moorline.calls.verdicts import GiveUp, final, may_repeat, worked
from moorline.errors import (
    Attempt,
    AttemptTimeout,
    AuthenticationFailed,
    BulkheadFull,
    CallError,
    ConnectFailed,
    DeadlineExceeded,
    Outcome,
    PermissionDenied,
    RateLimited,
)
from moorline.policies.allowance import Reading
from moorline.policies.deadline import ambient

if TYPE_CHECKING:
    from moorline.calls.shared_guard import SharedGuard

__all__ = ["Pipeline"]

_log: Final = telemetry.logger("calls")
_DENIED: Final = 401
_STOPS: Final = (asyncio.CancelledError, GeneratorExit)  # the second where a blocking hedge has lost
_NOTHING: Final = object()


class Pipeline(Entry[R, A]):
    """One call under way; ``run()`` is the generator for a driver. Returns an answer or raises a CallError."""

    # Beginnings, as in Entry.
    _attempts: tuple[Attempt, ...] = ()
    _answer: A | None = None  # the last failed answer, whose connection we still hold
    _asked: float | None = None  # the wait that it asked for
    _named: float | None = None  # the one that its Retry-After named
    _lease: Lease | None = None  # of an attempt that was sent by the express way
    _request: R | None = None  # and what it sent
    _renewed = False
    _replayable = True
    _retries = 0
    _unknown = False  # whether an earlier attempt may have acted

    def _begin(self) -> None:
        """The clock starts."""
        started = self._started = self._context.clock.monotonic()
        seconds = self._context.policy.deadline
        at, given = math.inf if seconds is None else started + seconds, ambient()
        self._deadline = at if at < given else given  # noqa: FURB136 (a third of the cost of min)
        if self._guard.budget is not None:
            self._guard.budget.call()

    def resume(self, begun: Begun, request: R, first: A | BaseException) -> Generator[Effect, Any, A]:
        """As ``run``, after the first attempt was sent by the express way: *first* is what came of *request*."""
        self._lease, self._started, self._deadline, _seconds = begun
        clock = self._context.clock
        self._wall = clock.wall() - (clock.monotonic() - self._started)
        self._request = request
        return self.run(first)

    def run(self, first: Any = _NOTHING) -> Generator[Effect, Any, A]:
        """Yield effects until there is an answer to return or an error to raise. For a *first*, see ``resume``."""
        self._loud = watched()
        admission = self._guard.admission
        if first is _NOTHING:
            self._begin()
        try:
            if first is _NOTHING and admission is not None and not admission.enter():
                most, admission = admission.limit, None
                full = BulkheadFull(f"not sent: {most} calls are under way")
                raise self._refusal("admission", full)  # noqa: TRY301 (one place tells the end)
            while True:
                lease, self._lease = self._lease, None
                lease = lease or self._at_once() or (yield from self._admission())
                try:
                    answer = yield from self._attempt(lease, first)
                except CallError as error:
                    first = _NOTHING
                    if not (yield from self._again(error)):
                        answer = yield from self._give_up(error)
                        self._report(error)
                        return answer
                else:
                    if self._loud:
                        self._report(None)
                    return answer
        except CallError as error:
            told = final(error, self._context, self._attempts, unknown=self._unknown, named=self._named)
            self._report(told)
            if told is error:
                raise
            raise told from (error.__cause__ if type(told).__mro__[1] is type(error) else error)
        except BaseException as error:
            self._report(error)
            raise
        finally:
            if admission is not None:
                admission.leave()

    # One attempt -----------------------------------------------------------------------------------------------------

    def _attempt(self, lease: Lease, first: Any) -> Generator[Effect, Any, A]:
        """Send, follow redirects, judge the answer, and settle what the attempt held. *first* is what came of the
        sending, where that is over.
        """
        context, clock = self._context, self._context.clock
        sent = first is not _NOTHING
        wall, begun = (self._wall, self._started) if sent else (clock.wall(), clock.monotonic())
        most = context.policy.attempt_timeout
        end = math.inf if most is None else begun + most
        by_deadline = self._deadline <= end
        left = self._deadline - begun if by_deadline else most
        answer: A | None = None
        request: R | None = self._request if sent else None
        try:
            request = request or context.request()
            try:
                if isinstance(first, BaseException):
                    raise first
                if not sent and left is not None and left <= 0:
                    raise Expired(sent=False)  # noqa: TRY301 (as if the timer rang at once)
                answer = first if sent else (yield Send(request, left if left != math.inf else None))
                if 300 <= answer.status <= 399:
                    answer, request = yield from self._redirected(
                        request, answer, self._deadline if by_deadline else end
                    )
            except Expired as expired:
                answer = None
                raise self._late(expired, by_deadline=by_deadline) from expired.__cause__
            error = context.judge(answer)
            readings = context.limits.readings(answer, wall)
            if error is not None or readings or self._held is not None:
                self._heed(answer, error, readings)
            if error is not None:
                raise error  # noqa: TRY301 (one place settles the lease)
            if context.tries is not None:
                context.reached(wall)
            attempts = self._note(wall, begun, answer.status, "answered")
            return context.succeeded(answer, lease, self._deadline, attempts)
        except CallError as error:
            self._answer = answer
            self._replayable = request is None or request.replayable
            self._lost(wall, sent=request is not None and error.outcome != "not_sent")
            self._note(wall, begun, error.status, error.message)
            lease.settle(worked=worked(error), elapsed=self._attempts[-1].elapsed)
            raise
        except BaseException as error:
            self._lost(wall, sent=request is not None)
            if request is not None:
                self._unknown = True
                self._note(wall, begun, None, _why(error))
            lease.settle(worked=None)
            raise

    def _redirected(self, request: R, answer: A, until: float) -> Generator[Effect, Any, tuple[A, R]]:
        """The answer at the end of the redirects, and the request that it answers."""
        context = self._context
        hops = 0
        while (onward := context.redirected(request, answer, hops)) is not None:
            hops += 1
            request = onward
            left = until - context.clock.monotonic()
            if left <= 0:
                raise Expired(sent=True)
            answer = yield Send(request, left if left != math.inf else None)
            if not 300 <= answer.status <= 399:
                break
        return answer, request

    def _late(self, expired: Expired, *, by_deadline: bool) -> CallError:
        what = "no free connection in the pool" if expired.in_pool else "no complete answer"
        code = POOL if expired.in_pool else None
        if by_deadline:
            outcome: Outcome = "unknown" if expired.sent else "not_sent"
            return DeadlineExceeded(f"{what} within {self._bound()}", outcome=outcome, code=code)
        seconds = self._context.policy.attempt_timeout
        if not expired.sent:
            return ConnectFailed(f"{what if code else 'no connection'} within {seconds:g} s", code=code)
        return AttemptTimeout(f"no complete answer within {seconds:g} s")

    def _bound(self) -> str:
        seconds = self._context.policy.deadline
        if seconds is not None and self._deadline >= self._started + seconds:
            return f"the deadline of {seconds:g} s"
        return f"the caller's deadline, which left {max(self._deadline - self._started, 0.0):.3g} s"

    def _heed(self, answer: A, error: CallError | None, readings: tuple[Reading, ...]) -> None:
        """Take from the answer what it says of limits: for this call, and at the gate for all others."""
        context, gate = self._context, self._guard.gate
        if error is not None and readings:
            gate.place(readings, context.lane)
        self._asked = self._named = self._agreed = None
        if error is not None and error.fault not in ("caller", "credentials"):
            wall = context.clock.wall()
            self._asked = context.limits.asked_wait(answer, wall, context.lane)
            if self._asked is None and error.retry_at is not None:  # the body says it
                self._asked = max(error.retry_at - wall, 0.0)
            self._named = context.limits.named_wait(answer, wall, context.lane)
            if self._asked is not None:
                error.retry_at = wall + self._asked
            if isinstance(error, RateLimited):
                gate.close(self._asked or 0.0, context.lane)
                gate.limited(self._held, known=bool(readings))
                if self._asked is not None:  # Retry-After takes precedence (draft-ietf-httpapi-ratelimit-headers-11)
                    readings = tuple(reading for reading in readings if reading.closed or reading.remaining >= 1)
        held, self._held = self._held, None
        if readings or held is not None:
            gate.heed(readings, held, context.lane)
        if self._guard.shared is not None:
            limited = isinstance(error, RateLimited)
            self._let_know(readings, (self._asked or 0.0) if limited else 0.0)

    def _lost(self, at: float, *, sent: bool) -> None:
        """No good answer came to an attempt that began then: if it was sent, the service may know its key, and what was
        taken from the rate gate may be used up.
        """
        if sent and self._context.tries is not None:
            self._context.reached(at)
        if self._answer is None:
            self._asked = self._named = None
        held = self._held
        if sent:
            self._agreed = None
        if held is not None and sent:
            self._held = None
            self._guard.gate.heed((), held)
        else:
            self._unsent()

    def _note(self, wall: float, begun: float, status: int | None, reason: str) -> tuple[Attempt, ...]:
        elapsed = self._context.clock.monotonic() - begun
        attempt = Attempt(len(self._attempts) + 1, wall, elapsed, status, reason)
        self._attempts = (*self._attempts, attempt)
        if self._loud:
            self._tell(story.Tried, reason, number=attempt.number, status=status, elapsed=elapsed)
        elif self._context.story is not None:
            self._context.story.append(attempt)
        return self._attempts

    # After a failed attempt ------------------------------------------------------------------------------------------

    def _again(self, error: CallError) -> Generator[Effect, Any, bool]:
        """Whether another attempt follows; if so, after what must be done before it: a wait, or another credential."""
        if isinstance(error, PermissionDenied) and not self._renewed and self._replayable and self._context.another():
            self._renewed = True
            self._tell(story.Renewed, "the service denies it to the credential; another version is tried", worked=True)
            yield from self._drop_answer()
            return True
        denied = error.status == _DENIED or isinstance(error, AuthenticationFailed)
        if denied and self._context.renewable and not self._renewed and self._replayable:
            self._renewed = True
            left = self._left()
            newer = yield Renew(self._context, None if math.isinf(left) else left)
            why = "there is a newer one" if newer else "there is no newer one"
            self._tell(story.Renewed, f"the service refused the credential; {why}", worked=newer)
            if newer:  # free: a stale credential is no failure of the service
                yield from self._drop_answer()
                return True
        try:
            wait = self._pause(error)
        except GiveUp as why:
            self._tell(story.GaveUp, str(why))
            return False
        charged = self._guard.budget is not None and not isinstance(error, RateLimited)
        if charged and self._guard.shared is not None and not (yield from self._afforded(self._guard.shared)):
            return False
        self._retries += 1
        *before, last = self._attempts
        self._attempts = (*before, last._replace(wait=wait))
        self._tell(story.Retrying, error.message, number=self._retries, seconds=wait)
        try:
            yield from self._drop_answer()
            yield Sleep(wait)
        except BaseException:
            if charged:
                self._give_back_retry()
            raise
        return True

    def _afforded(self, shared: SharedGuard) -> Generator[Effect, Any, bool]:
        """Whether the budget of all processes has a retry left as well; ours has paid already."""
        if not shared.store.up:
            return True
        try:
            said = yield from self._answer_to(shared.retry(), shared)
        except BaseException:
            self._give_back_retry(ours_only=True)
            raise
        if said is None or "no" not in said:
            return True
        self._give_back_retry(ours_only=True)
        self._tell(story.GaveUp, "the retry budget of the service is spent, by all processes together")
        return False

    def _give_back_retry(self, *, ours_only: bool = False) -> None:
        """A retry that was paid for is not made."""
        budget, shared = self._guard.budget, self._guard.shared
        if budget is not None:
            budget.give_back()
        if shared is not None and not ours_only:
            shared.store.tell(shared.unretried())

    def _pause(self, error: CallError) -> float:
        """Seconds to wait before the next attempt. Raises GiveUp with the reason when there is none."""
        context, retry, guard = self._context, self._context.policy.retry, self._guard
        if error.outcome == "unknown":
            self._unknown = True
        if retry is None:
            raise GiveUp("retries are switched off")
        told = None if self._answer is None else context.limits.told_to_retry(self._answer)
        may_repeat(error, context, told=told, named=self._named, replayable=self._replayable)
        if self._retries >= retry.retries:
            raise GiveUp(f"all {retry.retries} retries are used up")
        asked = self._asked or 0.0
        if asked > retry.cap:
            raise GiveUp(f"the service asked to wait {asked:.0f} s, longer than Retry.cap allows")
        wait = max(retry.delay(self._retries + 1, context.random), asked)
        closed = 0.0 if guard.breaker is None else guard.breaker.wait()
        if closed > wait:
            wait = closed
            if wait >= self._left():
                raise GiveUp(f"the breaker is open for another {wait:.3g} s, beyond the deadline")
        if wait >= self._left():
            raise GiveUp(f"the next attempt would be in {wait:.3g} s, beyond the deadline")
        # A limit says itself when to come back, which is no storm; all other repeats are charged.
        if guard.budget is not None and not isinstance(error, RateLimited) and not guard.budget.take():
            raise GiveUp("the retry budget of the service is spent")
        return wait

    def _drop_answer(self) -> Generator[Effect, Any, None]:
        answer, self._answer = self._answer, None
        if answer is not None:
            left = self._left()
            yield Discard(answer, min(left, self._context.policy.attempt_timeout or left))

    # The end ---------------------------------------------------------------------------------------------------------

    def _give_up(self, error: CallError) -> Generator[Effect, Any, A]:
        """Return the answer to who wants statuses as answers; raise the error to all others."""
        if self._answer is not None:
            error.attempts = self._attempts
            answer = self._context.unsuccessful(self._answer, error, self._deadline)
            if answer is not None:
                return answer
            yield from self._drop_answer()
        raise error

    def _report(self, error: BaseException | None) -> None:
        if not self._loud and self._context.story is None:
            return
        last = self._attempts[-1] if self._attempts else None
        facts: dict[str, Any] = {
            "status": last.status if last else None,
            "attempts": len(self._attempts),
            "outcome": self._outcome(error),
            "error": None if error is None else type(error).__name__,
        }
        elapsed = self._context.clock.monotonic() - self._started
        self._tell(story.Finished, "answered" if error is None else _why(error), elapsed=elapsed, **facts)
        if _log.is_enabled_for(logging.INFO):
            context = self._context
            ms = round(elapsed * 1000, 1)
            _log.info("call", service=context.service, operation=context.operation, ms=ms, **facts)

    def _outcome(self, error: BaseException | None) -> Outcome:
        if error is None or isinstance(error, CallError):
            return "done" if error is None else error.outcome
        if self._unknown:
            return "unknown"
        return "done" if any(attempt.status for attempt in self._attempts) else "not_sent"


def _why(error: BaseException) -> str:
    """How a call ended, in one line without secrets. What is no failure of a service is the caller's."""
    if isinstance(error, CallError):
        return error.message
    return CANCELLED if isinstance(error, _STOPS) else f"{type(error).__name__} was raised on the way"
