"""Answers that are read in parts: the pipeline covers all until the head is there, the deadline and what the attempt
holds (its slot, its permit of the breaker) last until the body is read or closed.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

from moorline.calls.download import Download
from moorline.calls.effects import Lease
from moorline.calls.exchange import Exchange
from moorline.calls.ranges import length_of
from moorline.calls.sending import ServiceContext
from moorline.calls.timer import BodyTimer
from moorline.calls.verdicts import final
from moorline.errors import Attempt, CallError, DeadlineExceeded

if TYPE_CHECKING:
    from moorline.calls.call import Call

__all__ = ["Answer", "Download", "Streaming"]


class _StreamContext(ServiceContext):
    """One sending of a Call whose answer is read in parts."""

    __slots__ = ("_elapsed", "_lease", "deadline")

    streams = True

    def judge(self, answer: Exchange) -> CallError | None:
        """The status alone: a good body is the caller's to read."""
        if answer.open is None:
            return super().judge(answer)
        answer.request_id = self.request_id_of(answer)
        return None

    def succeeded(self, answer: Exchange, lease: Lease, deadline: float, attempts: tuple[Attempt, ...]) -> Exchange:
        """The body keeps the lease."""
        answer.attempts = attempts
        self._lease, self.deadline = lease, deadline
        self._elapsed = attempts[-1].elapsed
        return answer

    def settle(self, *, worked: bool | None) -> None:
        """The body is over. The service took until its head was there: the rest is the reader's pace as well."""
        self._lease.settle(worked=worked, elapsed=self._elapsed)

    def waits(self, left: float | None) -> dict[str, float | None]:
        """httpx2's timeouts for the body, of which *left* seconds remain: each wait is bounded by itself as well."""
        from moorline.calls.wires import patient, timeouts

        waits = patient(self._patience)
        return waits if left is None else timeouts(time.monotonic() + left, waits)

    def blamed(self, error: CallError, answer: Answer) -> CallError:
        """*error* of the body of *answer*, with all that is known, and honest about what may have happened."""
        error.status, error.request_id = answer.status, answer.request_id
        return final(error, self, answer.attempts)

    def failed(self, error: BaseException) -> CallError:
        """What a failure of the wire within the body means."""
        from moorline.calls.wires import raise_translated, unmoved

        try:
            raise_translated(error, in_body=True)
        except CallError as translated:
            unmoved(translated, self._patience)
            return translated


class Answer:
    """An answer whose body is still to be read: ``status``, ``headers`` (names in lower case), ``request_id``,
    ``attempts``, ``length`` in bytes if the service said it. Iterate over it, with ``async for`` or ``for``.

    Reading raises BadAnswer for a body that is truncated or cannot be decoded, AttemptTimeout when nothing comes for as
    long as ``attempt_timeout``, and DeadlineExceeded; instead of the last two OutcomeUnknown where the request may have
    acted.
    """

    def __init__(self, context: _StreamContext, exchange: Exchange) -> None:
        self.status, self.headers = exchange.status, exchange.headers
        self.request_id, self.attempts = exchange.request_id, exchange.attempts
        self.length = length_of(exchange.headers)
        self._context = context
        self._response: Any = exchange.open

    async def __aiter__(self) -> AsyncIterator[bytes]:
        from moorline.calls.wires import WIRE_ERRORS

        timer = BodyTimer(self._left())
        parts = aiter(self._response.aiter_bytes())
        try:
            while True:
                self._check_time()
                try:
                    with timer:
                        part = await anext(parts)
                except StopAsyncIteration:
                    break
                except WIRE_ERRORS as error:
                    raise self._blamed(_late() if timer.expired else self._context.failed(error)) from error
                yield part
        except CallError:
            self._context.settle(worked=False)
            raise
        except asyncio.CancelledError:
            self._context.settle(worked=None)
            raise
        finally:
            timer.close()
        self._context.settle(worked=True)

    def __iter__(self) -> Iterator[bytes]:
        from moorline.calls.wires import WIRE_ERRORS

        # httpcore2 looks at these anew when the body begins.
        self._response.request.extensions["timeout"] = self._context.waits(self._left())
        try:
            try:
                for part in self._response.iter_bytes():
                    self._check_time()
                    yield part
            except WIRE_ERRORS as error:
                left = self._left()
                late = left is not None and left <= 0.002
                raise self._blamed(_late() if late else self._context.failed(error)) from error
        except CallError:
            self._context.settle(worked=False)
            raise
        self._context.settle(worked=True)

    def close(self) -> None:
        """Free the connection and what the attempt held; what was not read is not wanted."""
        try:
            self._response.close()
        finally:
            self._context.settle(worked=True)

    async def aclose(self) -> None:
        """As ``close``, on the event loop."""
        try:
            await self._response.aclose()
        finally:
            self._context.settle(worked=True)

    def _left(self) -> float | None:
        deadline = self._context.deadline
        return None if math.isinf(deadline) else deadline - self._context.clock.monotonic()

    def _check_time(self) -> None:
        left = self._left()
        if left is not None and left <= 0:
            raise self._blamed(_late())

    def _blamed(self, error: CallError) -> CallError:
        return self._context.blamed(error, self)


def _late() -> CallError:
    return DeadlineExceeded("the body was not complete within the deadline", outcome="unknown")


class Streaming:
    """A Call to be sent with its answer read in parts: ``async with`` on the event loop, ``with`` to block."""

    def __init__(self, call: Call[Any]) -> None:
        self._call = call
        self._answer: Answer | None = None

    async def __aenter__(self) -> Answer:
        context = self._context()
        self._answer = Answer(context, await self._call.service.send_context(context))
        return self._answer

    async def __aexit__(self, *_error: object) -> None:
        if self._answer is not None:
            await self._answer.aclose()

    def __enter__(self) -> Answer:
        self._call._check_blocking()  # noqa: SLF001 (the same rule as for ``result``)
        context = self._context()
        self._answer = Answer(context, self._call.service.send_context_blocking(context))
        return self._answer

    def __exit__(self, *_error: object) -> None:
        if self._answer is not None:
            self._answer.close()

    def _context(self) -> _StreamContext:
        context = self._call.service.context_of(self._call, kind=_StreamContext)
        assert isinstance(context, _StreamContext)
        return context
