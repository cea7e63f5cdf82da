"""A block of code as one attempt: ``with app.guard("ledger").block():``, sync and async.

A block cannot be begun again, so nothing is repeated; breaker, limits, bulkhead and time are as for a function.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from moorline.calls.drivers import _granted, _granted_blocking
from moorline.calls.effects import Effect, Expired, Send, Sleep, Wait
from moorline.calls.engine import Pipeline
from moorline.calls.timer import Timer
from moorline.errors import CallError
from moorline.policies.deadline import _ambient

if TYPE_CHECKING:
    from moorline.calls.adapters.functions import Invocation

__all__ = ["Block"]


class Block:
    """One attempt, from the entry of the block to its end; for one use. Made by ``Resilient.block``.

    On the loop the block is cancelled at the end of its time, and TimeoutError (AttemptTimeout, DeadlineExceeded)
    follows. A plain block cannot be interrupted; what it calls learns of its end from ``moorline.deadline``.

    Raises CircuitOpen, BulkheadFull, RateLimited on entry, and what the block raises.
    """

    __slots__ = ("_invocation", "_steps", "_timer", "_token")

    def __init__(self, invocation: Invocation) -> None:
        invocation.policy = replace(invocation.policy, retry=None)
        self._invocation = invocation
        self._steps: Generator[Effect, Any, Any] = Pipeline(invocation).run()
        self._timer = Timer(None)
        self._token: Any = None

    def __enter__(self) -> Self:
        effect = self._steps.send(None)
        while not isinstance(effect, Send):
            try:
                value = self._perform(effect)
            except BaseException as error:  # noqa: BLE001 (the pipeline raises it again)
                effect = self._steps.throw(error)
            else:
                effect = self._steps.send(value)
        self._invocation.begin()
        if effect.timeout is not None:
            self._token = _ambient.set(min(_ambient.get(), self._invocation.clock.monotonic() + effect.timeout))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._token is not None:
            _ambient.reset(self._token)
        self._end(error)

    async def __aenter__(self) -> Self:
        effect = self._steps.send(None)
        while not isinstance(effect, Send):
            try:
                value = await self._perform_async(effect)
            except BaseException as error:  # noqa: BLE001 (the pipeline raises it again)
                effect = self._steps.throw(error)
            else:
                effect = self._steps.send(value)
        self._invocation.begin()
        self._timer = Timer(effect.timeout)
        self._timer.__enter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._timer.__exit__(kind, error, trace)
        except TimeoutError:
            error = Expired(sent=True)
        self._end(error)

    def _perform(self, effect: Effect) -> Any:
        if isinstance(effect, Sleep):
            self._invocation.clock.sleep(effect.seconds)
        return _granted_blocking(effect) if isinstance(effect, Wait) else None

    async def _perform_async(self, effect: Effect) -> Any:
        if isinstance(effect, Sleep):
            await self._invocation.clock.asleep(effect.seconds)
        return await _granted(effect) if isinstance(effect, Wait) else None

    def _end(self, error: BaseException | None) -> None:
        """Tell the pipeline how the block ended. Raises what takes the place of *error*; else that goes on."""
        steps, invocation = self._steps, self._invocation
        other: BaseException
        try:
            if isinstance(error, Expired) or not isinstance(error, (Exception, type(None))):
                steps.throw(error)
            else:
                steps.send(invocation if error is None else invocation.ended(error))
            while True:
                steps.send(None)  # nothing to discard
        except StopIteration:
            return
        except CallError as ours:
            other = invocation.own_of(ours)
        except BaseException as same:  # noqa: BLE001 (the block's own, which goes on as it is)
            other = same
        if other is not error:
            raise other from other.__cause__
