"""Messages on their way into SQS: ten of a queue in a request, several requests at once."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from moorline.clock import Clock
from moorline.errors import StoreError, StoreUnavailable
from moorline.jobs.brokers.carrier import Lane, Letter
from moorline.jobs.brokers.sqs_bodies import Bodies, size
from moorline.jobs.brokers.sqs_lanes import Lanes
from moorline.jobs.brokers.sqs_link import MISSING, MOST, Link, Refused

__all__ = ["LONGEST_DELAY", "Message", "Sender"]

LONGEST_DELAY: Final = 900.0  # seconds, by the service model
_SOON: Final = 0.005  # seconds that a message may come too early
_BATCH_BYTES: Final = 262_144  # of one request; the model has four times that, but it was this until 2025
_TRIES: Final = 3
_SETTLING: Final = 1.0  # seconds until a queue that was just made can be used, by the model


class Message(NamedTuple):
    """What is sent; ``delay`` in whole seconds."""

    lane: Lane
    text: str
    delay: int = 0


class Sender:
    """Sends. Its methods may be called from any thread."""

    def __init__(self, link: Link, lanes: Lanes, bodies: Bodies, clock: Clock) -> None:
        self._link = link
        self._lanes = lanes
        self._bodies = bodies
        self._clock = clock

    def post(self, letters: Sequence[Letter]) -> None:
        """Returns when SQS has them. Raises StoreError if one is too large, and has sent nothing then."""
        texts = self._bodies.texts([one.body for one in letters])
        self.send([Message(one.lane, text, _seconds(one.delay)) for one, text in zip(letters, texts, strict=True)])

    def send(self, messages: Sequence[Message]) -> None:
        """Returns when SQS has them; raises when all were tried."""
        self._link.each(self._send_batch, list(_batches(messages)))

    def _send_batch(self, batch: Sequence[Message]) -> None:
        lane = batch[0].lane
        left = {str(place): one for place, one in enumerate(batch)}
        for _ in range(_TRIES):
            entries = [{"Id": key, "MessageBody": one.text, "DelaySeconds": one.delay} for key, one in left.items()]
            try:
                answer = self._link.ask("send_message_batch", QueueUrl=self._lanes.url(lane), Entries=entries)
            except Refused as refused:
                if refused.code != MISSING:
                    raise
                self._lanes.forget(lane)  # somebody deleted it, or it was made a moment ago
                self._clock.sleep(_SETTLING)
                continue
            for sent in answer.get("Successful", ()):
                _check(left.pop(sent["Id"]).text, sent["MD5OfMessageBody"])
            at_fault = [one["Code"] for one in answer.get("Failed", ()) if one["SenderFault"]]
            if at_fault:
                raise StoreError(f"SQS refused {len(at_fault)} of {len(batch)} jobs: {at_fault[0]}")
            if not left:
                return
        raise StoreUnavailable(f"SQS did not take {len(left)} of {len(batch)} jobs")


def _seconds(delay: float) -> int:
    return min(math.ceil(max(delay - _SOON, 0.0)), int(LONGEST_DELAY))


def _batches(messages: Iterable[Message]) -> Iterator[list[Message]]:
    """Of one lane each, as many as go in a request."""
    begun: dict[Lane, tuple[list[Message], int]] = {}
    for one in messages:
        batch, length = begun.get(one.lane, ([], 0))
        if batch and (len(batch) >= MOST or length + size(one.text) > _BATCH_BYTES):
            yield batch
            batch, length = [], 0
        batch.append(one)
        begun[one.lane] = batch, length + size(one.text)
    yield from (batch for batch, _ in begun.values())


def _check(text: str, digest: str) -> None:
    if hashlib.md5(text.encode(), usedforsecurity=False).hexdigest() != digest:
        raise StoreError("SQS has stored something else than what was sent")
