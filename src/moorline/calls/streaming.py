"""Answers that are read in parts: the pipeline covers all until the head is there, the deadline and what the attempt
holds (its slot, its permit of the breaker) last until the body is read or closed.
"""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

from moorline.calls.download import Download
from moorline.calls.effects import Lease
from moorline.calls.exchange import Exchange
from moorline.calls.ranges import length_of
from moorline.calls.sending import ServiceContext
from moorline.calls.watching import Watch
from moorline.errors import Attempt, CallError

if TYPE_CHECKING:
    from moorline.calls.call import Call

__all__ = ["Answer", "Download", "Streaming"]


class _StreamContext(ServiceContext):
    """One sending of a Call whose answer is read in parts."""

    __slots__ = ("_open", "watch")

    streams = True

    def judge(self, answer: Exchange) -> CallError | None:
        """The status alone: a good body is the caller's to read."""
        if answer.open is None:
            return super().judge(answer)
        answer.request_id = self.request_id_of(answer)
        return None

    def succeeded(self, answer: Exchange, lease: Lease, deadline: float, attempts: tuple[Attempt, ...]) -> Exchange:
        """The body keeps the lease."""
        self.accepted(attempts[-1].at)
        answer.attempts = attempts
        self._open = answer.open
        self.watch = Watch(self, answer, lease, deadline, attempts)
        return answer

    def clamp_body(self, deadline: float) -> None:
        """Let no read of the body last beyond *deadline*, nor longer than one attempt may; httpcore2 looks at the
        timeouts anew when the body begins.
        """
        from moorline.calls.wires import patient, timeouts

        waits = patient(self._patience)
        if not math.isinf(deadline):
            waits = timeouts(time.monotonic() + deadline - self.clock.monotonic(), waits)
        self._open.request.extensions["timeout"] = waits

    def translated(self, error: Exception, *, in_body: bool = False) -> CallError:
        """What a failure of the wire means."""
        from moorline.calls.wires import raise_translated, unmoved

        try:
            raise_translated(error, in_body=in_body)
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
        self._watch = context.watch
        self._response: Any = exchange.open

    def __aiter__(self) -> AsyncIterator[bytes]:
        from moorline.calls.bodies import AsyncBody

        return aiter(AsyncBody(self._response.aiter_bytes(), self._watch))

    def __iter__(self) -> Iterator[bytes]:
        from moorline.calls.bodies import SyncBody

        return iter(SyncBody(self._response.iter_bytes(), self._watch))

    def close(self) -> None:
        """Free the connection and what the attempt held; what was not read is not wanted."""
        try:
            self._response.close()
        finally:
            self._watch.settle(worked=True)

    async def aclose(self) -> None:
        """As ``close``, on the event loop."""
        try:
            await self._response.aclose()
        finally:
            self._watch.settle(worked=True)


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
