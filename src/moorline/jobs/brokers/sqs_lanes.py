"""The queues of an SQS carrier: their names, and how they come to be.

Each lane is a queue: ``PREFIX-QUEUE`` for what waits, and ``-high``, ``-low``, ``-suspects``, ``-dead``. The names of
FIFO queues end in ``.fifo``, and with them there are ``--ordered.fifo`` for what has an order key, and ``--later``, a
standard queue, for what is delayed, as FIFO queues delay no single message. No queue of jobs is called so. A queue is
looked up before it is made, so that one that an administrator made, with whatever settings, is used as it is.
Messages are kept for 14 days, which is the longest that SQS offers: a job that waits for longer is gone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Final

from moorline.clock import Clock
from moorline.errors import ConfigurationError, StoreUnavailable
from moorline.jobs.brokers.carrier import Kind, Lane
from moorline.jobs.brokers.sqs_link import MISSING, Link, Refused, SqsWhere

__all__ = ["Lanes", "is_fifo", "lane_name"]

_LONGEST_NAME: Final = 80  # characters, by the service model
_LONGEST_KIND: Final = len("-suspects")  # or "--ordered"
_DELIVERIES: Final = 20  # of one message, before the server itself puts it among the dead
_SETTINGS: Final = {
    "MessageRetentionPeriod": "1209600",
    "ReceiveMessageWaitTimeSeconds": "20",
    "VisibilityTimeout": "30",
}  # for who reads them besides us: we say what we want with each request
_HIGH_THROUGHPUT: Final = {
    "FifoQueue": "true",
    "DeduplicationScope": "messageGroup",
    "FifoThroughputLimit": "perMessageGroupId",
}
_FIFO: Final = ".fifo"
_BESIDE: Final[dict[Kind, str]] = {"ordered": "--ordered" + _FIFO, "later": "--later"}
_LOOK_AGAIN: Final = 60.0  # seconds after which a queue that was not there is looked for again
_ODD: Final = re.compile(r"[^A-Za-z0-9_-]|-(?![A-Za-z0-9_])|-(?=(?:high|low|suspects|dead)\Z)")


def is_fifo(where: SqsWhere, lane: Lane) -> bool:
    """Whether its queue is one."""
    return where.fifo and lane.kind != "later"


def lane_name(prefix: str, lane: Lane, *, fifo: bool = False) -> str:
    """Different for different lanes: what SQS does not allow, or what looks like a kind, is ``--`` and two hex digits.

    Raises ConfigurationError for a name that is too long.
    """
    try:
        name = _ODD.sub(lambda odd: "".join(f"--{byte:02X}" for byte in odd[0].encode()), lane.queue)
    except UnicodeEncodeError:
        name = ""
    base = f"{prefix}-{name}"
    if not name or len(base) + _LONGEST_KIND + (len(_FIFO) if fifo else 0) > _LONGEST_NAME:
        raise ConfigurationError(f"queue: {lane.queue!r} cannot be the name of a queue in SQS: it is empty or too long")
    if lane.kind in _BESIDE:
        return base + _BESIDE[lane.kind]
    return (base if lane.kind == "normal" else f"{base}-{lane.kind}") + (_FIFO if fifo else "")


class Lanes:
    """Where the server says that each of them is. Its methods may be called from any thread."""

    def __init__(self, link: Link, clock: Clock) -> None:
        self._link = link
        self._clock = clock
        self._urls: dict[Lane, str] = {}
        self._missed: dict[Lane, float] = {}

    def name(self, lane: Lane) -> str:
        """See ``lane_name``."""
        return lane_name(self._link.where.prefix, lane, fifo=self._link.where.fifo)

    def forget(self, lane: Lane) -> None:
        """It is not there any more."""
        self._urls.pop(lane, None)
        self._missed.pop(lane, None)

    def find(self, lane: Lane) -> str | None:
        """Its URL; None if there was no such queue within the last minute."""
        url = self._urls.get(lane)
        if url is None:
            missed = self._missed.get(lane)
            now = self._clock.monotonic()
            if missed is None or now - missed >= _LOOK_AGAIN:
                url = self._looked_up(lane)
                if url is None:
                    self._missed[lane] = now
        return url

    def found(self, lanes: Sequence[Lane]) -> list[tuple[Lane, str]]:
        """Those that there are, each with its URL."""
        return [(lane, url) for lane in lanes if (url := self.find(lane)) is not None]

    def url(self, lane: Lane) -> str:
        """Its URL; it is made if there is no such queue. Raises ConfigurationError if we may not."""
        return self._urls.get(lane) or self._looked_up(lane) or self._made(lane)

    def delete(self, lane: Lane) -> None:
        """With all that is in it, if there is such a queue. Raises ConfigurationError if we may not."""
        url = self._urls.get(lane) or self._looked_up(lane)
        self.forget(lane)
        if url is not None:
            try:
                self._link.ask("delete_queue", QueueUrl=url)
            except Refused as refused:
                if refused.code != MISSING:
                    raise

    def _name_of_dead(self, lane: Lane) -> str:
        """What Amazon calls the queue of the dead letters, everywhere."""
        dead = Lane(lane.queue, "dead")
        try:
            answer = self._link.ask("get_queue_attributes", QueueUrl=self.url(dead), AttributeNames=["QueueArn"])
        except Refused as refused:
            if refused.code != MISSING:
                raise
            self.forget(dead)  # whoever deleted the one has deleted the other
            answer = self._link.ask("get_queue_attributes", QueueUrl=self.url(dead), AttributeNames=["QueueArn"])
        name: str = answer["Attributes"]["QueueArn"]
        return name

    def _looked_up(self, lane: Lane) -> str | None:
        try:
            return self._known(lane, self._link.ask("get_queue_url", QueueName=self.name(lane)))
        except Refused as refused:
            if refused.code != MISSING:
                raise
            return None

    def _known(self, lane: Lane, answer: dict[str, Any]) -> str:
        url: str = answer["QueueUrl"]
        self._urls[lane] = url
        self._missed.pop(lane, None)
        return url

    def _made(self, lane: Lane) -> str:
        settings: dict[str, str] = dict(_SETTINGS)
        fifo = is_fifo(self._link.where, lane)
        if fifo:
            settings |= _HIGH_THROUGHPUT
        if lane.kind != "dead" and fifo == self._link.where.fifo:  # the dead letters of FIFO queues are in one, too
            redrive = {"deadLetterTargetArn": self._name_of_dead(lane), "maxReceiveCount": _DELIVERIES}
            settings["RedrivePolicy"] = json.dumps(redrive)
        try:
            return self._known(lane, self._link.ask("create_queue", QueueName=self.name(lane), Attributes=settings))
        except Refused as refused:
            if refused.code != "QueueNameExists":
                raise
        url = self._looked_up(lane)  # somebody made it at the same moment, in another way
        if url is None:
            raise StoreUnavailable(f"SQS at {self._link.where.shown} has the queue {self.name(lane)}, and has it not")
        return url
