"""Calls that read first: what a write has to know is asked of the service before it, within one deadline.

The read is retried as any read is. Whatever goes wrong with it, or is found wrong by it, the write was not sent. A Call
with an idempotency key remembers what was decided: sent again, it sends the same write. One without reads again, and so
finds what became of the first.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from moorline.calls.exchange import Exchange, Plan
from moorline.errors import CallError
from moorline.policies.deadline import deadline

if TYPE_CHECKING:
    from moorline.calls.call import Call
    from moorline.calls.service import Service

__all__ = ["send", "send_async"]


async def send_async(service: Service, call: Call[Any]) -> Exchange:
    """The answer of *call*, by way of the read that its plan names."""
    with _bounded(service, call):
        plan = call.decided
        if plan is None:
            read = _reading(call)
            with _unsent(call):
                found = await service.send_context(service.context_of(read))
                plan = call.decide(service.parsed(read, found))
            if plan is None:
                return found
        with _continued(call):
            answer = await service.send_call(replace(call, plan=plan))
    answer.parse = plan.parse
    return answer


def send(service: Service, call: Call[Any]) -> Exchange:
    """As ``send_async``, blocking."""
    with _bounded(service, call):
        plan = call.decided
        if plan is None:
            read = _reading(call)
            with _unsent(call):
                found = service.send_context_blocking(service.context_of(read))
                plan = call.decide(service.parsed(read, found))
            if plan is None:
                return found
        with _continued(call):
            answer = service.send_call_blocking(replace(call, plan=plan))
    answer.parse = plan.parse
    return answer


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
