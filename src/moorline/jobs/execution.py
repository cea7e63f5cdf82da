"""Runs one claimed job and says how it ended."""

from __future__ import annotations

import asyncio
import inspect
from random import Random
from typing import Any

from moorline.clock import Clock
from moorline.jobs.broker import Completion
from moorline.jobs.decision import failed, settled, unknown
from moorline.jobs.job import Claim
from moorline.jobs.registry import Handler, Jobs
from moorline.jobs.threads import Threads

__all__ = ["Execution"]


class Execution:
    """Async functions run on the loop, in the task of the caller; plain ones in *threads*."""

    def __init__(self, jobs: Jobs, threads: Threads, clock: Clock, random: Random) -> None:
        self._jobs = jobs
        self._threads = threads
        self._clock = clock
        self._random = random

    async def run(self, claim: Claim) -> tuple[Completion, BaseException | None]:
        """How the job ended, and what it raised. Raises nothing but CancelledError."""
        handler = self._jobs.find(claim.name)
        if handler is None:
            return unknown(claim, self._clock.wall()), None
        try:
            result = await self._call(handler, claim)
        except (Exception, SystemExit) as error:  # noqa: BLE001 -- it is stored with the job, and decides about it
            return self.failed(claim, error), error
        return settled(claim, result, self._clock.wall(), handler.backoff, self._random), None

    def failed(self, claim: Claim, error: BaseException) -> Completion:
        """How the job ends that raised *error*."""
        handler = self._jobs.find(claim.name)
        assert handler is not None
        return failed(claim, error, self._clock.wall(), handler.backoff, self._random)

    async def _call(self, handler: Handler, claim: Claim) -> Any:
        args, kwargs = ([claim], {}) if handler.codec is None else handler.codec.decode(claim.payload)
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
