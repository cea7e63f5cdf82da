"""The usual case of a call: nothing restricts, nobody watches, and the service answers well. Then all that the pipeline
has to do stands here, without a generator, and in few functions: calling functions is most of what it costs.

Whatever goes otherwise, before the sending or after, is the engine's (``Pipeline.resume``), which decides anew or from
what came of the sending.
"""

from __future__ import annotations

import logging
from math import inf
from typing import Any, Final

from moorline import telemetry
from moorline.calls.effects import A, CallContext
from moorline.calls.guards import Guard
from moorline.calls.story import watchers
from moorline.clock import Clock
from moorline.errors import Attempt
from moorline.policies.breaker import Permit
from moorline.policies.deadline import ambient
from moorline.policies.policy import Policy

__all__ = ["Begun", "begin", "ended", "unsent"]

_logs: Final = telemetry.logger("calls").is_enabled_for


Begun = tuple[Permit, float, float, float | None]
"""A first attempt that nothing holds up: its permit of the breaker; when it started and the deadline of the call, on
the monotonic clock; and how many seconds it may take (None: no bound).
"""


def begin(guard: Guard, policy: Policy, clock: Clock) -> Begun | None:
    """What a call holds that may be sent at once; None, holding nothing, where it has to wait or is refused."""
    breaker, admission, shared = guard.breaker, guard.admission, guard.shared
    if breaker is None or guard.bulkhead is not None or not guard.gate.free or watchers or _logs(logging.INFO):
        return None
    if shared is not None and shared.store.up:
        return None
    if admission is not None:
        calls = admission.calls
        if len(calls) >= admission.limit:
            return None
        calls.append(None)
    generation = breaker.free
    permit = Permit(breaker, generation, guard.terms.slow) if generation else breaker.admit(guard.terms)
    if permit is not None:
        started = clock.monotonic()
        seconds, most, given = policy.deadline, policy.attempt_timeout, ambient()
        deadline = given if seconds is None or started + seconds > given else started + seconds
        left = deadline - started
        if most is not None and most < left:
            left = most
        if left > 0:
            budget = guard.budget
            if budget is not None and not budget.full:
                budget.call()
            return permit, started, deadline, left if left != inf else None
        permit.ignore()
    if admission is not None:
        admission.leave()
    return None


def unsent(guard: Guard, permit: Permit) -> None:
    """It was not sent after all."""
    permit.ignore()
    if guard.admission is not None:
        guard.admission.leave()


def ended(context: CallContext[Any, A], begun: Begun, answer: A) -> A | None:
    """The result of a good *answer*; None where there is more to it, and then all is held that was."""
    status = answer.status
    if 300 <= status <= 399:
        return None
    permit, started, deadline, _seconds = begun
    try:
        wall = context.clock.wall()
        if context.judge(answer) is not None or context.limits.readings(answer, wall):
            return None
        elapsed = context.clock.monotonic() - started
        if context.tries is not None:
            context.reached(wall - elapsed)
        attempt = Attempt(1, wall - elapsed, elapsed, status, "answered")
        if context.story is not None:
            context.story.append(attempt)
        result = context.succeeded(answer, permit, deadline, (attempt,))
    except BaseException:
        unsent(context.guard, permit)
        raise
    admission = context.guard.admission
    if admission is not None:
        admission.calls.pop()
    return result
