"""Calls that read first: what a write has to know is asked of the service before it, within one deadline.

The read is retried as any read is. Whatever goes wrong with it, or is found wrong by it, the write was not sent. A Call
with an idempotency key remembers what was decided: sent again, it sends the same write. One without reads again, and so
finds what became of the first. Where the write's error says that another was quicker, the read is made once more: if it
finds nothing left to do, that is the result.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from moorline.calls.exchange import Exchange, Plan
from moorline.errors import CallError
from moorline.policies.deadline import deadline

if TYPE_CHECKING:
    from moorline.calls.call import Call
    from moorline.calls.service import Service

__all__ = ["send", "send_async"]


# A Call to send, and whether it is the read, which no cache and no other Call may answer.
_Step = tuple["Call[Any]", bool]


async def send_async(service: Service, call: Call[Any]) -> Exchange:
    """The answer of *call*, by way of the read that its plan names."""
    steps = _steps(service, call)
    with _bounded(service, call):
        try:
            one, reads = next(steps)
            while True:
                try:
                    sent = service.send_context(service.context_of(one)) if reads else service.send_call(one)
                    answer = await sent
                except CallError as error:
                    one, reads = steps.throw(error)
                else:
                    one, reads = steps.send(answer)
        except StopIteration as done:
            return cast("Exchange", done.value)
        finally:
            steps.close()


def send(service: Service, call: Call[Any]) -> Exchange:
    """As ``send_async``, blocking."""
    steps = _steps(service, call)
    with _bounded(service, call):
        try:
            one, reads = next(steps)
            while True:
                try:
                    if reads:
                        answer = service.send_context_blocking(service.context_of(one))
                    else:
                        answer = service.send_call_blocking(one)
                except CallError as error:
                    one, reads = steps.throw(error)
                else:
                    one, reads = steps.send(answer)
        except StopIteration as done:
            return cast("Exchange", done.value)
        finally:
            steps.close()


def _steps(service: Service, call: Call[Any]) -> Generator[_Step, Exchange, Exchange]:
    """What to send, one after another, each resumed with its answer or its error. Returns the answer of it all."""
    plan = call.decided
    if plan is None:
        with _unsent(call):
            found, plan = yield from _look(service, call)
        if plan is None:
            return found
        call.decide(plan)
    with _continued(call):
        try:
            answer = yield replace(call, plan=plan), False
        except CallError as error:
            if error.code not in call.plan.overtaken:
                raise
            overtaken = error
        else:
            answer.parse = plan.parse
            return answer
    with _continued(call), suppress(CallError):
        found, plan = yield from _look(service, call)
        if plan is None:
            return found
    raise overtaken


def _look(service: Service, call: Call[Any]) -> Generator[_Step, Exchange, tuple[Exchange, Plan[Any] | None]]:
    """What the read finds, and the write that it leads to."""
    read = _reading(call)
    found = yield read, True
    return found, service.parsed(read, found)


def _reading(call: Call[Any]) -> Call[Plan[Any] | None]:
    """The read, whose steps are the beginning of the Call's story."""
    return replace(call, plan=call.plan.after, idempotency_key=None)  # type: ignore[arg-type]


def _bounded(service: Service, call: Call[Any]) -> AbstractContextManager[None]:
    seconds = call.options.applied(service.policy).deadline
    return nullcontext() if seconds is None else deadline(seconds, clock=service.clock)


@contextmanager
def _unsent(call: Call[Any]) -> Iterator[None]:
    try:
        yield
    except CallError as error:
        error.outcome, error.idempotency_key = "not_sent", call.idempotency_key
        raise


@contextmanager
def _continued(call: Call[Any]) -> Iterator[None]:
    """The write goes on with the story that the read began."""
    before = call.told
    try:
        yield
    finally:
        if call.told is not before:
            call.told[:0] = before
