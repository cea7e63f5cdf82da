"""Jobs in FIFO queues of SQS: in which group a message is, what makes it a repetition, and how a job keeps its place.

::

    ordered   A1 ─ A2 ─ A3      A1 is taken: SQS gives nobody A2 while A1 is hidden
              └─ tried again:   A1' is sent, alone in its group, with the receipt of A1; A1 stays hidden: the *place*
                 └─ done, skipped, or dead without blocking its key: A1' is deleted and A1 too, so that A2 can be taken

A FIFO queue takes messages at its end only, and what is in a message cannot be changed. So a job that is tried again,
put off or suspected is a new message, as in a standard queue, and what it came from keeps its key's others back. SQS
hides a message for 12 hours at most. A job that is to wait for longer gives up its place before; the place of a job
that is dead and blocks its key comes again by then, and the job is tried again, alone.

By the service model: ``MessageGroupId``, ``MessageDeduplicationId``, ``ChangeMessageVisibility``.
"""

from __future__ import annotations

import hashlib
import math
import re
from typing import Any, Final

from moorline.jobs.brokers.carrier import Lane, Letter
from moorline.jobs.brokers.sqs_intake import Grip, Place, grip_of
from moorline.jobs.order import YIELDS, original
from moorline.telemetry import logger

__all__ = ["ATTRIBUTE", "attributes", "group_of", "lane_of", "once", "place_in", "place_kept"]

ATTRIBUTE: Final = "moorline.place"
"""Of a message: the place of its job."""

_HIDDEN: Final = 43_200.0  # seconds that a message may be hidden after it was received, by the service model
_MARGIN: Final = 60.0  # seconds that a place is given up before
_ID: Final = re.compile("[!-~]{1,64}")
_PLAIN: Final = re.compile("[!-~]{1,128}")
_BETWEEN: Final = "|"

log = logger("jobs")


def place_kept(letter: Letter, mono: float, wall: float) -> Place | None:
    """The place that the job of a letter keeps; None if it has none, or gives it up. *mono* and *wall*: now."""
    if letter.follows is None or (letter.lane.kind == "dead" and not _blocks(letter.group)):
        return None
    place = _place_of(grip_of(letter.follows), mono, wall)
    if place is not None and letter.lane.kind != "dead" and place.until < wall + letter.delay + _MARGIN:
        log.warning("job_out_of_order", job=letter.id, name=letter.name, reason="SQS hides no message for 12 hours")
        return None
    return place


def _place_of(grip: Grip, mono: float, wall: float) -> Place | None:
    if grip.lane.kind == "ordered":
        return Place(grip.receipt, math.floor(wall + _HIDDEN - _MARGIN - (mono - grip.since)))
    return grip.place


def _blocks(group: str | None) -> bool:
    """Whether a dead job holds up those of its key."""
    return group is not None and not original(group).startswith(YIELDS)


def lane_of(letter: Letter, place: Place | None, delay: int) -> Lane:
    """Where it goes: with its key's others, unless it has its place among them; a delay is for a standard queue."""
    queue, kind = letter.lane
    if kind == "dead":
        return letter.lane
    if letter.group is not None and letter.follows is None:
        return Lane(queue, "ordered")
    if letter.group is not None and place is None and _was_dead(letter):
        return Lane(queue, "ordered")
    if delay:
        return Lane(queue, "later")
    return Lane(queue, "normal") if kind in {"ordered", "later"} else letter.lane


def _was_dead(letter: Letter) -> bool:
    return letter.follows is not None and letter.follows.lane.kind == "dead"


def group_of(letter: Letter, lane: Lane) -> str:
    """Its order key where that counts; elsewhere a group of its own, so that it waits for no other."""
    if lane.kind != "ordered" or letter.group is None:
        return _safe(letter.id) if letter.id else once(letter)
    text = original(letter.group)
    plain = text.replace("\t", _BETWEEN)
    if _BETWEEN not in text and _PLAIN.fullmatch(plain):
        return plain
    return f"sha256:{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()}"


def once(letter: Letter) -> str:
    """By what SQS knows for five minutes that it has the message: a new job's id; what follows another message goes by
    that one, so that a retry is no repetition of what came before, and its repetition is one.
    """
    if letter.follows is None:
        return _safe(letter.id)
    message = grip_of(letter.follows).message
    return f"{_safe(letter.id)}:{message}" if letter.id else message


def _safe(id_: str) -> str:
    """As SQS takes it, whoever made it."""
    return id_ if _ID.fullmatch(id_) else hashlib.sha256(id_.encode("utf-8", "surrogatepass")).hexdigest()


def attributes(place: Place | None) -> dict[str, Any]:
    """Of a message whose job has that place."""
    if place is None:
        return {}
    return {ATTRIBUTE: {"DataType": "String", "StringValue": f"{place.until:.0f} {place.receipt}"}}


def place_in(message: dict[str, Any]) -> Place | None:
    """What a received message says; None if nothing, or not in our words."""
    said = message.get("MessageAttributes", {}).get(ATTRIBUTE, {}).get("StringValue", "")
    until, _, receipt = str(said).partition(" ")
    return Place(receipt, float(until)) if re.fullmatch("[0-9]{1,12}", until) and receipt else None
