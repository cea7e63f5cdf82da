"""Runs claimed jobs and says how they ended."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Sequence
from random import Random
from typing import Any

from moorline.clock import Clock
from moorline.jobs.broker import Completion
from moorline.jobs.decision import failed, settled, unknown
from moorline.jobs.job import Claim
from moorline.jobs.outcome import Each
from moorline.jobs.registry import Handler, Jobs
from moorline.jobs.threads import Threads

__all__ = ["Execution"]


Ended = tuple[Completion, BaseException | None]
"""How a job ended, and what it raised."""


class Execution:
    """Async functions run on the loop, in the task of the caller; plain ones in *threads*."""

    def __init__(self, jobs: Jobs, threads: Threads, clock: Clock, random: Random) -> None:
        self._jobs = jobs
        self._threads = threads
        self._clock = clock
        self._random = random

    async def run(self, claims: Sequence[Claim]) -> list[Ended]:
        """How each of these jobs of one name ended; several only for a handler that batches.

        Raises nothing but CancelledError.
        """
        handler = self._jobs.find(claims[0].name)
        if handler is None:
            return [(unknown(claim, self._clock.wall()), None) for claim in claims]
        try:
            result = await self._call(handler, claims)
        except (Exception, SystemExit) as error:  # noqa: BLE001 -- it is stored with the job, and decides about it
            return [(self.failed(claim, error), error) for claim in claims]
        now = self._clock.wall()
        if handler.batch is None:
            return [(settled(claims[0], result, now, handler.backoff, self._random), None)]
        if isinstance(result, Each):
            return [self._ended(handler, *one) for one in zip(claims, result.results, strict=True)]
        return [(settled(claim, result, now, handler.backoff, self._random), None) for claim in claims]

    def _ended(self, handler: Handler, claim: Claim, result: object) -> Ended:
        if isinstance(result, BaseException):
            return self.failed(claim, result), result
        return settled(claim, result, self._clock.wall(), handler.backoff, self._random), None

    def failed(self, claim: Claim, error: BaseException) -> Completion:
        """How the job ends that raised *error*."""
        handler = self._jobs.find(claim.name)
        assert handler is not None
        return failed(claim, error, self._clock.wall(), handler.backoff, self._random)

    async def _call(self, handler: Handler, claims: Sequence[Claim]) -> Any:
        args: list[Any] = [list(claims)] if handler.batch is not None else [claims[0]]
        kwargs: dict[str, Any] = {}
        if handler.codec is not None:
            args, kwargs = handler.codec.decode(claims[0].payload)
        if not handler.is_async:
            result = await self._threads.run(handler.function, args, kwargs)
            return await result if inspect.iscoroutine(result) else result
        if handler.timeout is None:
            return await handler.function(*args, **kwargs)
        try:
            async with asyncio.timeout(handler.timeout) as limit:
                return await handler.function(*args, **kwargs)
        except TimeoutError as error:
            if limit.expired():
                raise TimeoutError(f"the job took longer than its timeout of {handler.timeout} s") from error
            raise
