"""Jobs that follow others: what is written into a job's payload so that its end begins the next one. Pure, no I/O.

::

    {"v":1,"flow":{"then":[link, …]},"args":{…}}      a chain: the first link is the next job
    {"v":1,"flow":{"group":"id"},"args":{…}}          one of a group; what follows is kept with the group
    {"v":1,"flow":{"expires":60.0},"args":{…}}        not to be run later than that

It travels with the job, so it is as durable, on whatever broker. The id of what follows is made of the id of what was
before it: made twice, after a crash, it is the same job.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from moorline.jobs.job import JobRow

__all__ = [
    "RESULT", "Flow", "Link", "Slot", "expiring", "flow_of", "following_id", "following_row", "unexpiring", "wrapped",
]  # fmt: skip

_MARK: Final = b'{"v":1,"flow":'
_PLAIN: Final = b'{"v":1,'
_END: Final = b"}}"
_OWN: Final = 16  # digits of an id that say when it was made


class Slot:
    """Stands for a value that is not there yet."""

    def __repr__(self) -> str:
        return "RESULT"


RESULT: Final[Any] = Slot()
"""As an argument of a job that follows others: what the one before it returned, or a list of what those of its group
did, in their order.
"""


class Link(msgspec.Struct, omit_defaults=True, frozen=True):
    """A job to be made: its arguments encoded, without those named in ``slots``; ``delay`` in seconds."""

    name: str
    payload: str
    queue: str = "default"
    priority: int = 5
    max_attempts: int = 6
    delay: float = 0.0
    slots: tuple[str, ...] = ()


class Flow(msgspec.Struct, omit_defaults=True, frozen=True):
    """What is to happen when the job is done: the next of a chain, or word to its group. ``expires``: seconds after its
    creation in which a run may begin.
    """

    then: tuple[Link, ...] = ()
    group: str | None = None
    expires: float | None = None


_FIRST: Final = json.JSONDecoder().raw_decode
_encode: Final = msgspec.json.Encoder().encode


def wrapped(payload: bytes, flow: Flow) -> bytes:
    """The payload with the flow in it, if there is any."""
    if not flow.then and flow.group is None and flow.expires is None:
        return payload
    assert payload.startswith(_PLAIN)
    return _MARK + _encode(flow) + b"," + payload[len(_PLAIN) :]


def flow_of(payload: bytes) -> Flow | None:
    """What follows the job of that payload; None for nearly all."""
    found = _split(payload)
    return None if found is None else found[0]


def _split(payload: bytes) -> tuple[Flow, bytes] | None:
    """The flow, and what comes after it; that is not read, for arguments may be NaN, which is no JSON for all."""
    if not payload.startswith(_MARK):
        return None
    try:
        text = payload[len(_MARK) :].decode()
        flow, end = _FIRST(text)
        return msgspec.convert(flow, Flow), text[end + 1 :].encode()
    except (ValueError, RecursionError, msgspec.ValidationError):
        return None  # it will not fit its function either


def expiring(payload: bytes, change: Callable[[float], float | None]) -> bytes:
    """The payload with what *change* makes of its ``expires``, if it has one; None for no end."""
    found = _split(payload)
    if found is None or found[0].expires is None:
        return payload
    flow, rest = found
    return wrapped(_PLAIN + rest, msgspec.structs.replace(flow, expires=change(found[0].expires)))


def unexpiring(payload: bytes) -> bytes:
    """The payload of a job that a person tries again: it is meant to run, however late that is."""
    return expiring(payload, lambda _: None)


def _filled(payload: bytes, slots: Sequence[str], value: bytes) -> bytes:
    """The payload with those arguments added; its own stay to the letter, NaN and the longest number."""
    own = payload.removesuffix(_END)
    added = b",".join([_encode(name) + b":" + value for name in slots])
    return own + (b"" if own.endswith(b"{") else b",") + added + _END


def following_id(id_: str) -> str:
    """The id of what follows the job, or the group, of that id; it sorts beside it."""
    return id_[:_OWN] + hashlib.sha256(f"{id_}:then".encode()).hexdigest()[:_OWN]


def following_row(after: str, links: Sequence[Link], result: bytes | None, now: float) -> JobRow:
    """The first of the links, with the others behind it. *result* is JSON: of the job, or the list of the group's."""
    link, *rest = links
    payload = link.payload.encode()
    if link.slots:
        payload = _filled(payload, link.slots, result or b"null")
    return JobRow(
        id=following_id(after),
        name=link.name,
        payload=wrapped(payload, Flow(tuple(rest))),
        run_at=now + link.delay,
        created_at=now,
        queue=link.queue,
        priority=link.priority,
        max_attempts=link.max_attempts,
    )
