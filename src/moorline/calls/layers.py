"""What stands between a Call and its pipeline, where it was asked for: shared requests > cache > hedge.

Calls that ask for none of it do not come here.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from moorline.calls import story
from moorline.calls.cache import Validating, through
from moorline.calls.coalesce import Waiter, flights_of
from moorline.calls.hedge import hedged, hedged_async
from moorline.calls.identity import identity
from moorline.calls.sending import ServiceContext
from moorline.errors import CallError

if TYPE_CHECKING:
    from moorline.calls.call import Call
    from moorline.calls.exchange import Exchange
    from moorline.calls.hedge import Hedge
    from moorline.calls.service import Service

__all__ = ["send", "send_async"]


class _Layers:
    """One sending: what was asked for, and the contexts of its requests, which all tell the same story."""

    def __init__(self, service: Service, call: Call[Any]) -> None:
        options, reads = call.options, call.plan.reads
        wanted = service.coalesce if options.coalesce is None else options.coalesce
        self.service = service
        call.started(service.clock.wall())  # here, so that a refusal is a step of its own story
        self.call = call.aside()
        self.story = call.sending()
        self.policy = options.applied(service.policy)
        self.shares = bool(wanted and reads)
        self.hedge: Hedge | None = options.hedge if reads else None
        self.context = service.context_of(self.call, policy=self.policy)
        self.waiter = Waiter(service.name, call.operation, self.policy.deadline, service.clock)

    def key(self) -> Any:
        """What must be equal for Calls to share a request: the request itself, and how it is retried."""
        return (
            identity(self.context.request(), self.call.options.tenant),
            self.policy.retry,
            self.policy.attempt_timeout,
        )

    def steps(self) -> Generator[ServiceContext, Exchange, Exchange]:
        """What to send, one after another; the conversation with the cache, if there is one."""
        if self.service.cache is not None:
            return through(self.service.cache, self.service, self.call, self.context)
        return _plain(self.context)

    def may(self, context: ServiceContext) -> bool:
        """Whether a hedge may be sent; True has paid for it, as for a retry."""
        budget = context.guard.budget
        if budget is not None and not budget.take():
            return False
        hedge = story.Hedging(
            at=context.clock.wall(),
            service=context.service,
            operation=context.operation,
            reason=f"no answer within {self.hedge.after:g} s" if self.hedge else "",
        )
        story.record(hedge, self.story)
        return True

    def twin(self, context: ServiceContext) -> ServiceContext:
        """The context of a hedge: the same request, tried once."""
        once = replace(self.policy, retry=None)
        twin = self.service.context_of(self.call, policy=once, kind=type(context))
        if isinstance(context, Validating) and isinstance(twin, Validating):
            twin.conditions = context.conditions
        twin.story = self.story
        return twin

    @contextmanager
    def told(self) -> Iterator[list[Exchange]]:
        """Ends the story of a Call that sent nothing itself: the cache or another's request answered it."""
        begun = self.service.clock.monotonic()
        answers: list[Exchange] = []
        try:
            yield answers
        except CallError as error:
            self._tell(begun, error.status, error)
            raise
        for answer in answers:
            self._tell(begun, answer.status, None)

    def _tell(self, begun: float, status: int | None, error: CallError | None) -> None:
        if self.story:
            return
        end = story.Finished(
            at=self.service.clock.wall(),
            service=self.service.name,
            operation=self.call.operation,
            call=story.new_number(),
            reason="without a request of its own" if error is None else error.message,
            status=status,
            attempts=0,
            elapsed=self.service.clock.monotonic() - begun,
            outcome="done" if error is None else error.outcome,
            error=None if error is None else type(error).__name__,
        )
        story.record(end, self.story)


def _plain(context: ServiceContext) -> Generator[ServiceContext, Exchange, Exchange]:
    return (yield context)


async def send_async(service: Service, call: Call[Any]) -> Exchange:
    """The answer of *call*, by way of what it and its *service* ask for."""
    layers = _Layers(service, call)

    async def again(context: ServiceContext) -> Exchange:
        with layers.waiter.rest():
            return await service.send_context(layers.twin(context))

    async def one(context: ServiceContext) -> Exchange:
        context.story = layers.story
        if layers.hedge is None:
            return await service.send_context(context)
        return await hedged_async(
            layers.hedge,
            partial(service.send_context, context),
            partial(again, context),
            partial(layers.may, context),
        )

    whole = partial(_walk_async, layers, one)
    with layers.told() as answers:
        if layers.shares:
            answer = await flights_of(service.guards).share_async(layers.key(), whole, layers.waiter)
        else:
            answer = await whole()
        answers.append(answer)
    return answer


def send(service: Service, call: Call[Any]) -> Exchange:
    """As ``send_async``, blocking."""
    layers = _Layers(service, call)

    def again(context: ServiceContext, unwanted: threading.Event) -> Exchange:
        with layers.waiter.rest():
            return service.send_context_blocking(layers.twin(context), unwanted)

    def one(context: ServiceContext) -> Exchange:
        context.story = layers.story
        if layers.hedge is None:
            return service.send_context_blocking(context)
        return hedged(
            layers.hedge,
            partial(service.send_context_blocking, context),
            partial(again, context),
            partial(layers.may, context),
        )

    whole = partial(_walk, layers, one)
    with layers.told() as answers:
        answer = flights_of(service.guards).share(layers.key(), whole, layers.waiter) if layers.shares else whole()
        answers.append(answer)
    return answer


async def _walk_async(layers: _Layers, one: Callable[[ServiceContext], Awaitable[Exchange]]) -> Exchange:
    steps = layers.steps()
    try:
        context = next(steps)
        while True:
            try:
                answer = await one(context)
            except BaseException as error:  # noqa: BLE001 (the steps raise it again)
                context = steps.throw(error)
            else:
                context = steps.send(answer)
    except StopIteration as stop:
        result: Exchange = stop.value
        return result


def _walk(layers: _Layers, one: Callable[[ServiceContext], Exchange]) -> Exchange:
    steps = layers.steps()
    try:
        context = next(steps)
        while True:
            try:
                answer = one(context)
            except BaseException as error:  # noqa: BLE001 (the steps raise it again)
                context = steps.throw(error)
            else:
                context = steps.send(answer)
    except StopIteration as stop:
        result: Exchange = stop.value
        return result
