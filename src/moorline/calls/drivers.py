"""The two drivers of the pipeline: each performs the effects that it yields, one blocking, one on the event loop."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Awaitable, Generator
from typing import Any, Protocol, TypeVar

from moorline.calls.effects import A, CallContext, Discard, Effect, Renew, Send, Sleep, Wait
from moorline.calls.engine import Pipeline
from moorline.calls.express import begin, ended, unsent
from moorline.clock import Clock

__all__ = ["AsyncWire", "SyncWire", "drive", "drive_async", "perform", "perform_async"]

T = TypeVar("T")


class AsyncWire(Protocol):
    """What sends requests from the event loop."""

    async def send(self, request: Any, timeout: float | None) -> Any:
        """The answer; raises Expired after *timeout* seconds, and a CallError for any other failure."""
        ...

    async def discard(self, answer: Any) -> None:
        """Free the connection of *answer*; raises nothing."""
        ...


class SyncWire(Protocol):
    """What sends requests and blocks."""

    def send(self, request: Any, timeout: float | None) -> Any:
        """As ``AsyncWire.send``."""
        ...

    def discard(self, answer: Any) -> None:
        """As ``AsyncWire.discard``."""
        ...


async def perform_async(context: CallContext[Any, A], wire: AsyncWire) -> A:
    """The answer of a call on the event loop, the usual one without any generator."""
    clock, guard = context.clock, context.guard
    begun = begin(guard, context.policy, clock)
    if begun is None:
        return await drive_async(Pipeline(context).run(), wire, clock)
    try:
        request = context.request()
    except Exception:  # noqa: BLE001 (the pipeline comes upon it again, and says what it means)
        unsent(guard, begun[0])
        return await drive_async(Pipeline(context).run(), wire, clock)
    try:
        answer = await wire.send(request, begun[3])
    except BaseException as error:  # noqa: BLE001 (the pipeline raises it, or what it means)
        return await drive_async(Pipeline(context).resume(begun, request, error), wire, clock)
    result: A | None = ended(context, begun, answer)
    if result is None:
        return await drive_async(Pipeline(context).resume(begun, request, answer), wire, clock)
    return result


def perform(context: CallContext[Any, A], wire: SyncWire) -> A:
    """The same on this thread."""
    clock, guard = context.clock, context.guard
    begun = begin(guard, context.policy, clock)
    if begun is None:
        return drive(Pipeline(context).run(), wire, clock)
    try:
        request = context.request()
    except Exception:  # noqa: BLE001 (the pipeline comes upon it again, and says what it means)
        unsent(guard, begun[0])
        return drive(Pipeline(context).run(), wire, clock)
    try:
        answer = wire.send(request, begun[3])
    except BaseException as error:  # noqa: BLE001 (as above)
        return drive(Pipeline(context).resume(begun, request, error), wire, clock)
    result: A | None = ended(context, begun, answer)
    if result is None:
        return drive(Pipeline(context).resume(begun, request, answer), wire, clock)
    return result


async def drive_async(steps: Generator[Effect, Any, T], wire: AsyncWire, clock: Clock) -> T:
    """Run the pipeline on the event loop. What an effect raises, cancellation included, is raised inside the
    pipeline.
    """
    try:
        effect = steps.send(None)
        while True:
            value: Any = None
            try:
                if type(effect) is Send:
                    value = await wire.send(effect.request, effect.timeout)
                elif type(effect) is Sleep:
                    await clock.asleep(effect.seconds)
                elif type(effect) is Wait:
                    value = await _granted(effect)
                elif type(effect) is Renew:
                    value = await _within(effect.context.renew_async(), effect.timeout)
                else:
                    assert type(effect) is Discard
                    await _within(wire.discard(effect.answer), effect.timeout)
            except BaseException as error:  # noqa: BLE001 (the pipeline raises it again)
                effect = steps.throw(error)
            else:
                effect = steps.send(value)
    except StopIteration as stop:
        result: T = stop.value
        return result


def drive(steps: Generator[Effect, Any, T], wire: SyncWire, clock: Clock) -> T:
    """Run the pipeline on this thread."""
    try:
        effect = steps.send(None)
        while True:
            value: Any = None
            try:
                if type(effect) is Send:
                    value = wire.send(effect.request, effect.timeout)
                elif type(effect) is Sleep:
                    clock.sleep(effect.seconds)
                elif type(effect) is Wait:
                    value = _granted_blocking(effect)
                elif type(effect) is Renew:
                    value = effect.context.renew(effect.timeout)
                else:
                    assert type(effect) is Discard
                    wire.discard(effect.answer)
            except BaseException as error:  # noqa: BLE001 (the pipeline raises it again)
                effect = steps.throw(error)
            else:
                effect = steps.send(value)
    except StopIteration as stop:
        result: T = stop.value
        return result


async def _within(work: Awaitable[T], timeout: float | None) -> T | None:
    try:
        async with asyncio.timeout(None if timeout is None or math.isinf(timeout) else timeout):
            return await work
    except TimeoutError:
        return None


async def _granted(effect: Wait) -> bool:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()

    def arrive() -> None:
        if not future.done():
            future.set_result(None)

    def wake() -> bool:  # the slot may be freed on another thread, by a blocking call
        try:
            loop.call_soon_threadsafe(arrive)
        except RuntimeError:  # the loop was closed, and this call with it
            return False
        return True

    effect.ticket.when_granted(wake)
    try:
        async with asyncio.timeout(effect.timeout):
            await future
    except TimeoutError:
        return effect.ticket.granted
    return True


def _granted_blocking(effect: Wait) -> bool:
    arrived = threading.Event()
    effect.ticket.when_granted(arrived.set)
    arrived.wait(effect.timeout)
    return effect.ticket.granted
