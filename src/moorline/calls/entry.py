"""What a call passes before each attempt: breaker, rate gate and bulkhead; and how it tells of what happens to it."""

from __future__ import annotations

import logging
import math
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Final, Generic

from moorline import telemetry
from moorline.calls import story
from moorline.calls.effects import A, CallContext, Effect, Lease, R, Sleep, SlotLease, Wait
from moorline.clock import SYSTEM
from moorline.errors import BulkheadFull, CallError, CircuitOpen, DeadlineExceeded, RateLimited
from moorline.policies.allowance import Reading
from moorline.policies.gate import Pass

if TYPE_CHECKING:
    from moorline.calls.shared_guard import Agreed, SharedGuard
    from moorline.calls.shared_store import Message, Question

__all__ = ["Entry", "watched"]

_log: Final = telemetry.logger("calls")
_LOOK_AGAIN: Final = 1.0  # seconds after which to ask again what others have left of a limit


class Entry(Generic[R, A]):
    """The part of the pipeline in front of an attempt. Refusals are final: nothing was sent."""

    # Beginnings stand on the class: a call to which nothing happens changes few of them.
    _deadline = math.inf
    _asked_before = False  # whether the other processes know of this call
    _held: Pass | None = None  # what the attempt took from the rate gate, where that counts
    _agreed: Agreed | None = None  # and what of that all processes know
    _loud = False  # whether somebody watches
    _number = 0  # given when somebody wants to know

    def __init__(self, context: CallContext[R, A]) -> None:
        self._context = context
        self._guard = context.guard

    def _left(self) -> float:
        """Seconds until the deadline, never negative."""
        left = self._deadline - self._context.clock.monotonic()
        return left if left > 0 else 0.0

    def _at_once(self) -> Lease | None:
        """The usual case: nothing to wait for. None where it is not, and ``_admission`` finds out why."""
        guard = self._guard
        if guard.bulkhead is not None or not guard.gate.free or guard.shared is not None:
            return None
        if guard.breaker is None:
            return SlotLease(None)
        permit: Lease | None = guard.breaker.admit(guard.terms)
        return permit

    def _admission(self) -> Generator[Effect, Any, Lease]:
        """Pass the breaker, the rate gate and the bulkhead, in this order. Refusals are final: nothing was sent."""
        breaker = self._guard.breaker
        permit = None
        if breaker is not None:
            permit = breaker.admit(self._guard.terms)
            if permit is None:
                wait = breaker.wait()
                when = self._context.clock.wall() + wait if math.isfinite(wait) else None
                message = f"not sent: the circuit is open ({breaker.reason})"
                raise self._refusal("breaker", CircuitOpen(message, retry_at=when))
        lease = SlotLease(permit)
        try:
            if not self._guard.gate.free:
                yield from self._pass_gate()
            if self._guard.shared is not None and self._guard.shared.store.up:
                yield from self._agree(lease, self._guard.shared)
            if self._guard.bulkhead is not None:
                yield from self._enter_bulkhead(lease)
        except BaseException:
            self._unsent()
            lease.settle(worked=None)
            raise
        return lease

    def _pass_gate(self) -> Generator[Effect, Any, None]:
        """Wait until the service's limits and our own let one more call through; refuse at once what would pass the
        deadline.
        """
        context, gate = self._context, self._guard.gate
        held = self._held = gate.take(self._left(), context.cost, context.lane)
        while held.wait:
            if not held.ok:
                self._held = None
                message = f"not sent: {held.why}, beyond the deadline"
                when = context.clock.wall() + held.wait
                raise self._refusal("rate gate", RateLimited(message, outcome="not_sent", retry_at=when))
            wait = min(held.wait, self._left())
            self._tell(story.Waiting, held.why, part="rate gate", seconds=wait)
            # A place may come earlier than was thought; a clock of a test's own moves by sleeping only.
            yield Wait(held, wait) if context.clock is SYSTEM else Sleep(wait)
            held = self._held = gate.again(held, self._left())

    def _unsent(self) -> None:
        """What was taken from the rate gate was not used."""
        held, self._held = self._held, None
        if held is not None:
            self._guard.gate.give_back(held)
        agreed, self._agreed = self._agreed, None
        if agreed is not None:
            agreed.unsent()

    # With all processes ----------------------------------------------------------------------------------------------

    def _agree(self, lease: SlotLease, shared: SharedGuard) -> Generator[Effect, Any, None]:
        """Ask whether all processes together let the attempt pass. Where nobody answers in time, the local state, which
        has let it pass, is all there is.
        """
        context, guard = self._context, self._guard
        breaker, gate = guard.breaker, guard.gate
        while shared.store.up:
            lane = gate.lane_of(context.lane) if self._held is None else self._held.lane.name
            ruled = breaker is not None and not breaker.forced
            question = shared.admit(lane, context.cost, self._left(), first=not self._asked_before, ruled=ruled)
            self._asked_before = True
            said = yield from self._answer_to(question, shared)
            if said is None:
                return
            if "no" not in said:
                self._agreed = lease.agreed = shared.agreed(said, lane, context.cost)
                if said["wait"] > 0:
                    self._tell(story.Waiting, said["why"], part="rate gate", seconds=said["wait"])
                    yield Sleep(said["wait"])
                return
            if said["no"] == "breaker":
                self._kept_off(said)
            if said["no"] == "quota" or said["wait"] >= self._left():
                when = context.clock.wall() + said["wait"]
                late = RateLimited(f"not sent: {said['why']}, beyond the deadline", outcome="not_sent", retry_at=when)
                raise self._refusal("rate gate", late)
            yield from self._stand_back(said)

    def _answer_to(self, question: Question, shared: SharedGuard) -> Generator[Effect, Any, Message | None]:
        """The answer; None where there is none within the patience of the store."""
        store = shared.store
        try:
            store.ask(question)
            heard = yield Wait(question, min(store.patience, self._left()))
        except BaseException:
            store.given_up(question)
            raise
        if not heard:
            store.unheard(question)
            return None
        return question.answer

    def _kept_off(self, said: Message) -> None:
        """The breaker of all processes is open: so is ours from now on, which saves asking. Raises CircuitOpen."""
        why = f"for all processes: {said['why']}"
        if said["state"] == "open" and self._guard.breaker is not None:
            self._guard.breaker.follow(said["wait"], why)
        when = self._context.clock.wall() + said["wait"]
        raise self._refusal("breaker", CircuitOpen(f"not sent: the circuit is open ({why})", retry_at=when))

    def _stand_back(self, said: Message) -> Generator[Effect, Any, None]:
        """Other processes know of a limit: let our gate know it as well, and pass that again, in its order."""
        gate, clock, wait = self._guard.gate, self._context.clock, said["wait"]
        if said["no"] == "closed":
            gate.close(wait, said["lane"] or self._context.lane)
        else:
            reading = Reading(0.0, said["limit"], wait, said["window"] or None, said["lane"], said["policy"])
            gate.heed((reading,), None, self._context.lane)
        self._unsent()
        before = clock.monotonic()
        if not gate.free:
            yield from self._pass_gate()
        if clock.monotonic() - before < min(wait, _LOOK_AGAIN) / 2:
            pause = min(wait, _LOOK_AGAIN)
            self._tell(story.Waiting, said["why"], part="rate gate", seconds=pause)
            yield Sleep(pause)

    def _let_know(self, readings: tuple[Reading, ...], close: float) -> None:
        """Tell the other processes what an answer said of limits."""
        if self._guard.shared is not None and (readings or close > 0):
            self._guard.shared.heard(self._guard.gate, self._context.lane, readings, close)

    def _enter_bulkhead(self, lease: SlotLease) -> Generator[Effect, Any, None]:
        bulkhead = self._guard.bulkhead
        assert bulkhead is not None
        ticket = lease.ticket = bulkhead.enter()
        if ticket is None:
            raise self._refusal("bulkhead", BulkheadFull(f"not sent: {bulkhead.config.limit} calls are in flight"))
        if not ticket.granted:
            left = self._left()
            most = None if math.isinf(left) else left
            self._tell(story.Waiting, f"{bulkhead.config.limit} calls are in flight", part="bulkhead", seconds=most)
            granted = yield Wait(ticket, most)
            if not granted:
                late = DeadlineExceeded("not sent: no free slot within the deadline", outcome="not_sent")
                raise self._refusal("bulkhead", late)

    def _refusal(self, part: story.Part, error: CallError) -> CallError:
        self._tell(story.Refused, error.message, part=part)
        return error

    # Saying so -------------------------------------------------------------------------------------------------------

    def _tell(self, kind: type[story.Step], reason: str, **facts: Any) -> None:
        """Tell a step to all who want to know: the Call's own story, the log, and those who watch the process."""
        context = self._context
        if not self._loud and context.story is None:
            return
        self._number = self._number or story.new_number()
        step = kind(
            at=context.clock.wall(),
            service=context.service,
            operation=context.operation,
            call=self._number,
            reason=reason,
            **facts,
        )
        if context.story is not None:
            context.story.append(step)
        if not self._loud:
            return
        story.tell(step)
        if kind is not story.Finished and _log.is_enabled_for(logging.DEBUG):
            named = {"service": context.service, "operation": context.operation, "call": self._number}
            _log.debug(step.kind, **named, reason=reason, **facts)


def watched() -> bool:
    """Whether anybody wants to know of more than the end."""
    return bool(story.watchers) or _log.is_enabled_for(logging.INFO)
