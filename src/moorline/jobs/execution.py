"""Runs claimed jobs and says how they ended."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Mapping, Sequence
from random import Random
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from moorline.clock import Clock
from moorline.codec import encode_result
from moorline.errors import InvalidArguments, PayloadFromNewer, StoreError, UnknownJob
from moorline.jobs.broker import Completion
from moorline.jobs.completions import Aftermath
from moorline.jobs.context import JobContext, entered
from moorline.jobs.decision import expired, failed, settled, stopped, too_early, too_large
from moorline.jobs.flows import Flow, flow_of, following_row
from moorline.jobs.groups import Left
from moorline.jobs.job import Claim
from moorline.jobs.notes import UNKEPT, Note, Reports
from moorline.jobs.outcome import Each
from moorline.jobs.processes import Processes
from moorline.jobs.registry import Handler, Jobs
from moorline.jobs.threads import Threads

if TYPE_CHECKING:
    from moorline.telemetry import Log

__all__ = ["LARGEST_RESULT", "Ended", "Execution"]

LARGEST_RESULT: Final = 262_144
"""Bytes of JSON; what is larger belongs into a storage, and its address into the result."""


class Ended(NamedTuple):
    """How a job ended, what it raised, and what is to be stored before."""

    completion: Completion
    error: BaseException | None = None
    aftermath: Aftermath | None = None


class Execution:
    """Async functions run on the loop, in the task of the caller; plain ones in *threads*, some in *processes*.

    *reports* takes what they tell of themselves; *stops* says which jobs are asked to stop, and why.
    """

    def __init__(
        self,
        jobs: Jobs,
        threads: Threads,
        processes: Processes,
        clock: Clock,
        random: Random,
        reports: Reports,
        stops: Mapping[str, str],
        log: Log,
    ) -> None:
        self._reports = reports
        self._stops = stops
        self._log = log
        self._jobs = jobs
        self._threads = threads
        self._processes = processes
        self._clock = clock
        self._random = random

    async def run(self, claims: Sequence[Claim]) -> list[Ended]:
        """How each of these jobs of one name ended; several only for a handler that batches.

        Raises what the function raises, and whatever else keeps them from having ended: all of them have failed then.
        """
        claim = claims[0]
        handler = self._jobs.find(claim.name)
        if handler is None:
            error = UnknownJob(f"no job is registered under the name {claim.name!r}")
            return [await self._too_early(claim, error) for claim in claims]
        if handler.codec is None:
            return await self._run_raw(handler, claims)
        limit = self._jobs.max_payload
        if len(claim.payload) > limit:
            return [Ended(too_large(claim, self._clock.wall(), limit))]
        flow = flow_of(claim.payload)
        if flow is not None and self._too_late(claim, flow):
            return [self._left(claim, expired(claim))]
        try:
            args, kwargs = handler.codec.decode(claim.payload)
        except PayloadFromNewer as error:
            return [await self._too_early(claim, error)]
        context = self._enter(claim)
        if handler.process:
            result = await self._processes.run(handler.function, args, kwargs, context, timeout=handler.timeout)
        elif handler.is_async and handler.timeout is None:
            result = await handler.function(*args, **kwargs)
        else:
            result = await self._call(handler, args, kwargs)
        end = settled(claim, result, self._clock.wall(), handler.backoff, self._random)
        if flow is None and not handler.keep_result:
            return [Ended(end)]
        return [Ended(end, None, self._aftermath(handler, claim, end, result, flow))]

    async def _too_early(self, claim: Claim, error: UnknownJob | PayloadFromNewer) -> Ended:
        """For a newer program than this one."""
        try:
            failures = await self._jobs.broker.failures(claim.id) if claim.postponed else []
        except StoreError as failed:
            self._log.warning("job_failures_not_read", job=claim.id, error=str(failed))
            failures = []
        end = too_early(claim, error, self._clock.wall(), failures[-1] if failures else None)
        return Ended(end, None if end.error is None else error)

    async def _run_raw(self, handler: Handler, claims: Sequence[Claim]) -> list[Ended]:
        """For a function that gets the claim, or the batch of them, itself."""
        result = await self._call(handler, [claims[0] if handler.batch is None else list(claims)], {})
        if handler.batch is not None and isinstance(result, Each):
            return [self._ended(handler, *one) for one in zip(claims, result.results, strict=True)]
        now = self._clock.wall()
        return [Ended(settled(claim, result, now, handler.backoff, self._random)) for claim in claims]

    def _ended(self, handler: Handler, claim: Claim, result: object) -> Ended:
        if isinstance(result, BaseException):
            return Ended(self.failed(claim, result), result)
        return Ended(settled(claim, result, self._clock.wall(), handler.backoff, self._random))

    def failed(self, claim: Claim, error: BaseException) -> Completion:
        """How the job ends that raised *error*. Raises nothing, whatever the error and the back-off are like."""
        handler = self._jobs.find(claim.name)
        assert handler is not None
        return failed(claim, error, self._clock.wall(), handler.backoff, self._random)

    def stopped(self, claim: Claim, reason: str) -> Ended:
        """How a job ends that a person stopped."""
        return self._left(claim, stopped(claim, reason))

    def _left(self, claim: Claim, end: Completion) -> Ended:
        """Cancelled, so it leaves its group if it has one."""
        flow = flow_of(claim.payload)
        group = None if flow is None else flow.group
        left = None if group is None else Left(group, claim.id, None)
        return Ended(end, None, None if left is None else Aftermath(left=left))

    def _too_late(self, claim: Claim, flow: Flow) -> bool:
        return flow.expires is not None and self._clock.wall() >= claim.created_at + flow.expires

    def _aftermath(
        self, handler: Handler, claim: Claim, end: Completion, result: object, flow: Flow | None
    ) -> Aftermath | None:
        """Raises InvalidArguments when what follows needs a result that cannot be had."""
        if end.state not in ("done", "cancelled"):
            return None
        now = self._clock.wall()
        done = end.state == "done"
        kept = self._encoded(claim, result) if done else UNKEPT
        note = self._noted(claim, kept, now) if handler.keep_result and done else None
        if flow is None:
            return Aftermath(note)
        if flow.group is not None:
            return Aftermath(note, left=Left(flow.group, claim.id, kept or None))
        if not done or not flow.then:
            return Aftermath(note)
        if flow.then[0].slots and kept == UNKEPT:
            raise InvalidArguments(f"what follows needs the result, which is no JSON of up to {LARGEST_RESULT:,} bytes")
        return Aftermath(note, (following_row(claim.id, flow.then, kept, now),))

    def _encoded(self, claim: Claim, result: object) -> bytes:
        try:
            kept = encode_result(result)
        except InvalidArguments as error:
            self._log.warning("job_result_not_kept", job=claim.id, name=claim.name, error=str(error))
            return UNKEPT
        if len(kept) > LARGEST_RESULT:
            self._log.warning("job_result_not_kept", job=claim.id, name=claim.name, bytes=len(kept))
            return UNKEPT
        return kept

    def _noted(self, claim: Claim, kept: bytes, now: float) -> Note:
        """The result, with the last word of progress: after it there must come none."""
        last = self._reports.last(claim.id)
        message = None if last is None else last.message
        return Note(claim.id, claim.deliveries, now, 1.0, message, kept)

    def _enter(self, claim: Claim) -> JobContext:
        tell = functools.partial(self._tell, claim.id, claim.deliveries)
        context = JobContext(
            claim.id, claim.name, claim.queue, claim.attempts, claim.max_attempts, claim.deliveries, tell, self._stops
        )
        entered(context)
        return context

    def _tell(self, job_id: str, deliveries: int, done: float, message: str) -> None:
        self._reports.tell(Note(job_id, deliveries, self._clock.wall(), done, message or None))

    async def _call(self, handler: Handler, args: list[Any], kwargs: dict[str, Any]) -> Any:
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
