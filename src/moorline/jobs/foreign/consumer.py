"""A function for the messages of a queue that others own: each message is a job, and this is what the job runs."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from moorline.errors import ConfigurationError, PayloadMismatch
from moorline.jobs.enqueue import EnqueueOptions
from moorline.jobs.foreign.address import Address
from moorline.jobs.foreign.carriers import Delivery
from moorline.jobs.foreign.cloudevents import opened
from moorline.jobs.foreign.message import Message, packed, unpacked
from moorline.jobs.job import Claim, JobRow
from moorline.jobs.outcome import Discard
from moorline.jobs.registry import Jobs
from moorline.reading import hints_of, name_of, reader
from moorline.store.ids import new_id

__all__ = ["JOB_PREFIX", "LARGEST", "Consumer", "job_id", "reading_of", "worked"]

JOB_PREFIX: Final = "message:"
"""Before a consumer's name, in the name of its jobs."""

LARGEST: Final = 16 * 1024 * 1024
"""Bytes of a body; what is larger is never taken from where it is."""

_POSITIONAL: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_OLDEST: Final = 30 * 86_400.0  # seconds; the time of a message is believed that far back,
_NEWEST: Final = 86_400.0  # and that far ahead


@dataclass(frozen=True, slots=True)
class Consumer:
    """``read`` makes the model of a body, None where the function gets the ``Message``; ``both``: it gets that too."""

    name: str
    address: Address = field(repr=False)
    function: Callable[..., Any]
    is_async: bool
    read: Callable[[bytes], Any] | None
    both: bool
    retries: int
    options: EnqueueOptions
    max_body: int

    @property
    def job(self) -> str:
        """The name of its jobs."""
        return JOB_PREFIX + self.name

    def row(self, delivery: Delivery, jobs: Jobs, now: float) -> JobRow:
        """The job of that message; the same one, if it can be told, when the message comes again."""
        payload = packed(delivery.message)
        row = jobs.row(self.job, payload, max_attempts=self.retries + 1, options=self.options, received=True)
        return row._replace(id=job_id(self.name, delivery.message, now, stamped=delivery.stamped))

    def arguments(self, payload: bytes) -> tuple[Any, ...] | Discard:
        """What the function is called with. Raises PayloadMismatch."""
        message, _ = unpacked(payload)
        if len(message.body) > self.max_body:
            return Discard(f"its body of {len(message.body):,} bytes is over max_body, {self.max_body:,}")
        message = opened(message)
        if self.read is None:
            return (message,)
        value = self.read(message.body)
        return (value, message) if self.both else (value,)


def worked(consumer: Consumer) -> Callable[[Claim], Any]:
    """The function of the consumer's jobs."""
    if consumer.is_async:

        async def handle(claim: Claim) -> Any:
            arguments = consumer.arguments(claim.payload)
            return arguments if isinstance(arguments, Discard) else await consumer.function(*arguments)

        return handle

    def handle_in_thread(claim: Claim) -> Any:
        arguments = consumer.arguments(claim.payload)
        return arguments if isinstance(arguments, Discard) else consumer.function(*arguments)

    return handle_in_thread


def reading_of(function: Callable[..., Any], model: Any) -> tuple[Callable[[bytes], Any] | None, bool]:
    """What reads a body for the function's first argument (*model*, or its own annotation), and whether it takes a
    second one, the ``Message``. Raises ConfigurationError.
    """
    parameters = inspect.signature(function).parameters.values()
    wanted = [one for one in parameters if one.kind in _POSITIONAL and one.default is inspect.Parameter.empty]
    if not 1 <= len(wanted) <= 2:
        raise ConfigurationError(
            f"function: {name_of(function)} takes {len(wanted)} arguments; a consumer gets the model, then the Message"
        )
    if model is None and wanted[0].annotation is not inspect.Parameter.empty:
        model = hints_of(function)[wanted[0].name]
    both = len(wanted) == 2
    if model is None or model is Message or model is Any:
        if both:
            raise ConfigurationError(f"model: annotate {wanted[0].name!r} of {name_of(function)}, or give model=")
        return None, False
    return reader(model), both


def job_id(consumer: str, message: Message, now: float, *, stamped: bool = True) -> str:
    """The same for the same message, so that a broker that knows its jobs' ids has one job for it, however often it
    comes. Ids sort by time, so it begins with the message's own; with zeros, where that is not known, not likely, or
    (unless *stamped*) another one when the sender sends it twice.

    Without an id a message cannot be told from another one that says the same: then it is a new id each time.
    """
    try:
        event = opened(message)
    except PayloadMismatch:
        event = message
    if event.id is None:
        return new_id(now)
    facts = (consumer, event.source, event.type, event.id, message.content_type, message.key)
    # The body too: where two messages have one id by mistake, none of them must be lost.
    digest = hashlib.blake2b(repr(facts).encode("utf-8", "backslashreplace") + message.body, digest_size=10)
    at = event.time if stamped or event is not message else None
    ms = int(at * 1000) if at is not None and now - _OLDEST <= at <= now + _NEWEST else 0
    return f"{ms:012x}{digest.hexdigest()}"
