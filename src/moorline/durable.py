"""Durable Calls: a Call is stored as a job, and a worker sends it, never twice where that is not safe."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from moorline import redaction
from moorline.calls.call import Call
from moorline.errors import CallError, ConfigurationError, Misuse, OutcomeUnknown
from moorline.jobs.enqueue import EnqueueOptions, check_retries
from moorline.jobs.outcome import Discard

if TYPE_CHECKING:
    from moorline.calls.service import Service
    from moorline.jobs.enqueue import Enqueued
    from moorline.jobs.job import Claim, JobHandle
    from moorline.jobs.registry import Jobs

__all__ = ["CALL_JOB", "DurableCalls"]

CALL_JOB: Final = "call"
"""The name under which durable Calls are stored as jobs."""


class DurableCalls:
    """The Calls of one application: *services* by name, and *service_for*, which makes one that is not there yet."""

    def __init__(self, jobs: Jobs, services: Mapping[str, Service], service_for: Callable[[str], Service]) -> None:
        self._jobs = jobs
        self._services = services
        self._service_for = service_for
        jobs.handler(CALL_JOB, self.run)

    def enqueue(self, call: Call[Any], retries: int, options: Mapping[str, Any]) -> Enqueued[JobHandle]:
        """See ``Moorline.enqueue_call``."""
        unknown = sorted(set(options) - set(EnqueueOptions.__slots__))
        if unknown:
            known = ", ".join(("retries", *EnqueueOptions.__slots__))
            raise ConfigurationError(f"enqueue: {unknown[0]!r} is no option of a job; known: {known}")
        check_retries(retries)
        for service in call.services:
            if self._services.get(service.name) is not service:
                raise Misuse(
                    f"{service.name}: this is not the first {type(service).__name__} of the application, and a worker"
                    " would send the Call with the other one's key and options; enqueue a job that makes the Call"
                )
        payload = json.dumps(call.to_payload()).encode()
        return self._jobs.enqueue(CALL_JOB, payload, max_attempts=retries + 1, options=EnqueueOptions(**options))

    async def run(self, claim: Claim) -> Any:
        """Send the Call of that job; what is returned says how the job ended. Raises what is worth another attempt."""
        call: Call[Any] = Call.from_payload(json.loads(claim.payload), self._service_for, attempt=claim.deliveries)
        safe = call.repeatable
        if claim.crashes and not safe:
            return Discard("a worker died while this was being sent: it may have been done, and is not safe to repeat")
        try:
            await call
        except asyncio.CancelledError:
            if safe:
                raise  # it is given back
            # The worker stops, and what it gives back would be sent again: this must not be.
            return Discard("the worker stopped while this was sent: it may have been done, and is not safe to repeat")
        except CallError as error:
            # With a key the service answers a repetition with the first result; without one, repeating acts again.
            if error.outcome == "unknown" and not safe:
                return Discard(redaction.text(str(error)))
            if error.retryable or isinstance(error, OutcomeUnknown):
                raise
            return Discard(redaction.text(str(error)))
        return None
