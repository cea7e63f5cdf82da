"""Durable Calls: a Call is stored as a job, and a worker sends it, never twice where that is not safe."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from moorline import redaction
from moorline.calls.call import Call
from moorline.errors import CallError, ConfigurationError, Misuse, OutcomeUnknown, ReauthorizationRequired
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
_WHOSE: Final = "connected"


class DurableCalls:
    """The Calls of one application: *services* by name, and *service_for*, which makes one that is not there yet;
    *connected* gives that of a connected account.
    """

    def __init__(
        self,
        jobs: Jobs,
        services: Mapping[str, Service],
        service_for: Callable[[str], Service],
        connected: Callable[[str, Mapping[str, Any]], Service] | None = None,
    ) -> None:
        self._jobs = jobs
        self._services = services
        self._service_for = service_for
        self._connected = connected
        jobs.handler(CALL_JOB, self.run)

    def enqueue(self, call: Call[Any], retries: int, options: Mapping[str, Any]) -> Enqueued[JobHandle]:
        """See ``Moorline.enqueue_call``."""
        unknown = sorted(set(options) - set(EnqueueOptions.__slots__))
        if unknown:
            known = ", ".join(("retries", *EnqueueOptions.__slots__))
            raise ConfigurationError(f"enqueue: {unknown[0]!r} is no option of a job; known: {known}")
        check_retries(retries)
        whose = _whose(call)
        for service in call.services if whose is None else ():
            if self._services.get(service.name) is not service:
                raise Misuse(
                    f"{service.name}: this is not the first {type(service).__name__} of the application, and a worker"
                    " would send the Call with the other one's key and options; enqueue a job that makes the Call"
                )
        told = call.to_payload() if whose is None else {**call.to_payload(), _WHOSE: dict(whose)}
        payload = json.dumps(told).encode()
        return self._jobs.enqueue(CALL_JOB, payload, max_attempts=retries + 1, options=EnqueueOptions(**options))

    async def run(self, claim: Claim) -> Any:
        """Send the Call of that job; what is returned says how the job ended. Raises what is worth another attempt."""
        payload = json.loads(claim.payload)
        whose = payload.pop(_WHOSE, None)
        call: Call[Any] = Call.from_payload(payload, self._resolving(whose), attempt=claim.deliveries)
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
            if error.retryable or isinstance(error, (OutcomeUnknown, ReauthorizationRequired)):
                raise
            return Discard(redaction.text(str(error)))
        return None

    def _resolving(self, whose: Mapping[str, Any] | None) -> Callable[[str], Service]:
        """What gives the service of a name: the application's own, or that of the connected account."""
        connected = self._connected
        if whose is None:
            return self._service_for
        if connected is None:
            raise Misuse("the Call is one of a connected account, and this application has none")
        return lambda name: connected(name, whose)


def _whose(call: Call[Any]) -> Mapping[str, Any] | None:
    """Whose account the Call is sent with, where that is a connected one."""
    services = call.services
    found: Mapping[str, Any] | None = getattr(services[0].fetched, "whose", None) if len(services) == 1 else None
    return found
