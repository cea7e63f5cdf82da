"""Messages on their way into SQS: ten of a queue in a request, several requests at once."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from moorline.clock import Clock
from moorline.errors import StoreError, StoreUnavailable
from moorline.jobs.brokers.carrier import Lane, Letter
from moorline.jobs.brokers.sqs_bodies import Bodies, size
from moorline.jobs.brokers.sqs_groups import attributes, group_of, lane_of, once, place_kept
from moorline.jobs.brokers.sqs_intake import Place, grip_of
from moorline.jobs.brokers.sqs_lanes import Lanes, is_fifo
from moorline.jobs.brokers.sqs_link import MISSING, MOST, Link, Refused

__all__ = ["LONGEST_DELAY", "Message", "Sender"]

LONGEST_DELAY: Final = 900.0  # seconds, by the service model
_SOON: Final = 0.005  # seconds that a message may come too early
_BATCH_BYTES: Final = 262_144  # of one request; the model has four times that, but it was this until 2025
_TRIES: Final = 3
_SETTLING: Final = 1.0  # seconds until a queue that was just made can be used, by the model


class Message(NamedTuple):
    """What is sent; ``delay`` in whole seconds. In a FIFO queue it is one of a ``group``, and not sent again if there
    was one with the same ``once``. ``place``: see ``sqs_groups``.
    """

    lane: Lane
    text: str
    delay: int = 0
    group: str | None = None
    once: str | None = None
    place: Place | None = None

    def entry(self, key: str) -> dict[str, Any]:
        """As one of a batch."""
        entry: dict[str, Any] = {"Id": key, "MessageBody": self.text}
        if self.group is None:
            entry["DelaySeconds"] = self.delay
        else:
            entry |= {"MessageGroupId": self.group, "MessageDeduplicationId": self.once}
        if self.place is not None:
            entry["MessageAttributes"] = attributes(self.place)
        return entry


class Sender:
    """Sends. Its methods may be called from any thread."""

    def __init__(self, link: Link, lanes: Lanes, bodies: Bodies, clock: Clock) -> None:
        self._link = link
        self._lanes = lanes
        self._bodies = bodies
        self._clock = clock

    def post(self, letters: Sequence[Letter]) -> None:
        """Returns when SQS has them. Raises StoreError if one is too large, and has sent nothing then."""
        fifo = self._link.where.fifo
        now = self._clock.monotonic(), self._clock.wall()
        places = [place_kept(one, *now) if fifo else None for one in letters]
        texts = self._bodies.texts([one.body for one in letters], [_bytes(place) for place in places])
        self.send([self._message(*one) for one in zip(letters, texts, places, strict=True)])
        _passed_on(letters, places)

    def again(self, letter: Letter, text: str) -> None:
        """As ``post``, of one whose body is written already."""
        place = place_kept(letter, self._clock.monotonic(), self._clock.wall()) if self._link.where.fifo else None
        self.send([self._message(letter, text, place)])
        _passed_on([letter], [place])

    def _message(self, letter: Letter, text: str, place: Place | None) -> Message:
        where, delay = self._link.where, _seconds(letter.delay)
        if not where.fifo:
            return Message(letter.lane, text, delay)
        lane = lane_of(letter, place, delay)
        if not is_fifo(where, lane):
            return Message(lane, text, delay, place=place)
        return Message(lane, text, 0, group_of(letter, lane), once(letter), place)

    def send(self, messages: Sequence[Message]) -> None:
        """Returns when SQS has them; raises when all were tried. Of one group none is sent before the one ahead of it
        is there, so that they are there in their order, or the last ones not at all.
        """
        for part in _in_order(messages):
            self._link.each(self._send_batch, list(_batches(part)))

    def _send_batch(self, batch: Sequence[Message]) -> None:
        lane = batch[0].lane
        left = {str(place): one for place, one in enumerate(batch)}
        for _ in range(_TRIES):
            entries = [one.entry(key) for key, one in left.items()]
            try:
                answer = self._link.ask("send_message_batch", QueueUrl=self._lanes.url(lane), Entries=entries)
            except Refused as refused:
                if refused.code != MISSING:
                    raise
                self._lanes.forget(lane)  # somebody deleted it, or it was made a moment ago
                self._clock.sleep(_SETTLING)
                continue
            for sent in answer.get("Successful", ()):
                _check(left.pop(sent["Id"]), sent["MD5OfMessageBody"])
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


def _in_order(messages: Sequence[Message]) -> Iterator[list[Message]]:
    """One of each group at a time."""
    parts: list[list[Message]] = []
    ahead: dict[tuple[Lane, str], int] = {}
    for one in messages:
        part = 0
        if one.group is not None:
            part = ahead.get((one.lane, one.group), 0)
            ahead[one.lane, one.group] = part + 1
        if part == len(parts):
            parts.append([])
        parts[part].append(one)
    yield from parts


def _passed_on(letters: Sequence[Letter], places: Sequence[Place | None]) -> None:
    """The places of these jobs are with what was sent."""
    for letter, place in zip(letters, places, strict=True):
        if letter.follows is not None and place is not None:
            grip_of(letter.follows).kept = place


def _bytes(place: Place | None) -> int:
    """That it takes in a message: the name, the type and the value of its attribute."""
    return (
        0
        if place is None
        else sum(len(name) + sum(map(len, said.values())) for name, said in attributes(place).items())
    )


def _check(message: Message, digest: str) -> None:
    if message.once is not None:  # of a repetition SQS may tell what the first one was, which may have another time
        return
    if hashlib.md5(message.text.encode(), usedforsecurity=False).hexdigest() != digest:
        raise StoreError("SQS has stored something else than what was sent")
