"""Many small things in one request: encoded, counted, compressed, and divided by what a service takes at once."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

from moorline import redaction
from moorline.calls.group import Group
from moorline.calls.service import Service
from moorline.errors import CallError, ConfigurationError
from moorline.services.limits import refused
from moorline.services.monitoring.protocol import LogLine, Metric, Occurrence, Report, Shipped

__all__ = [
    "FAILED",
    "FRAME",
    "BatchService",
    "Caps",
    "Clean",
    "Item",
    "Refused",
    "Shipment",
    "compressed",
    "encoded",
    "recent",
    "scrubbed",
    "watching",
]

Item = Report | Metric | LogLine | Occurrence
Clean = Callable[[Any], Any]

FAILED: Final = frozenset(range(500, 600))  # statuses after which these services want the same again, later
FRAME: Final = 1024  # bytes that are left for what stands around the items
_MARGIN: Final = 8  # for the comma, and what masks are longer than what they stand for
_DEPTH: Final = 14  # of what is scrubbed: variables in a frame in a stack in an exception in an event


@dataclass(frozen=True, slots=True)
class Caps:
    """What one request takes: *most* items and *most_bytes* of JSON, of which one item has *largest* at most."""

    most: int
    most_bytes: int
    largest: int


@dataclass(frozen=True, slots=True)
class Refused:
    """An item that no request can carry, and why."""

    item: Item
    error: CallError


@dataclass(frozen=True, slots=True)
class Shipment(Shipped):
    """What became of many: the sum of the requests, what was *refused* before it was sent, and the *errors* of requests
    that failed.
    """

    refused: tuple[Refused, ...] = ()
    errors: tuple[CallError, ...] = field(default=(), compare=False)


def scrubbed(value: Any) -> Any:
    """*value* without secrets, as JSON has it."""
    return redaction.data(value, depth=_DEPTH)


def _as_it_is(value: Any) -> Any:
    return value


def encoded(value: Any) -> bytes:
    """*value*, which is scrubbed already, as JSON in few bytes."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode("utf-8", "replace")


def compressed(body: bytes) -> bytes:
    """*body* in gzip; equal bytes for equal bodies, so that what is sent again is the same."""
    return gzip.compress(body, compresslevel=6, mtime=0)


def recent(field_: str, at: float, now: float, *, back: float, ahead: float = math.inf) -> None:
    """Raises InvalidRequest for a time that the service would take, and drop without a word."""
    if now - at > back:
        raise refused(field_, f"is {(now - at) / 3600:.1f} hours ago; the limit is {back / 3600:g}")
    if at - now > ahead:
        raise refused(field_, f"is {(at - now) / 3600:.1f} hours ahead; the limit is {ahead / 3600:.2g}")


def watching(service: Any, who: str) -> BatchService:
    """*service* itself. Raises ConfigurationError, which says why where the service knows, for one that takes nothing
    of what *who* has to say.
    """
    if isinstance(service, BatchService):
        return service
    name = getattr(service, "__name__", type(service).__name__)
    why = getattr(service, "lacks", {}).get("capture")
    raise ConfigurationError(f"{who} takes services that watch, not {name}{f': {why}' if why else ''}")


class BatchService(Service):
    """The base of services that take many things at once. They say what they take in ``caps``, by the operation's name,
    and give in ``_record`` the JSON of one item, without secrets.
    """

    caps: ClassVar[Mapping[str, Caps]] = {}
    reports_apart: ClassVar[bool] = False
    """Whether a report goes to another place than a line of the log."""
    taken: ClassVar[Mapping[type[Any], str]] = {
        Report: "capture",
        Metric: "send_metrics",
        LogLine: "send_logs",
        Occurrence: "send_events",
    }

    @property
    def switched_off(self) -> bool:
        """Whether it was configured to send nothing."""
        return False

    def _record(self, item: Any, clean: Clean = scrubbed) -> Any:
        """The JSON of an item, as the service has it; *clean* is what its texts have to pass."""
        raise NotImplementedError

    def _check(self, item: Any, field_: str) -> None:
        """Raise InvalidRequest, naming the field, for an item that the service would refuse, change or drop."""

    def size(self, item: Item) -> int:
        """The bytes that *item* takes of a request. Raises InvalidRequest for one that no request can carry."""
        operation = self.taken[type(item)]
        field_ = operation.removeprefix("send_") + "[0]"
        self._check(item, field_)
        # What is handed over in passing is not scrubbed twice: it is hardly longer without secrets than with them.
        piece = encoded(self._record(item, scrubbed if isinstance(item, Report) else _as_it_is))
        self._weigh(operation, field_, piece)
        return len(piece) + _MARGIN

    def _weigh(self, operation: str, field_: str, piece: bytes) -> None:
        largest = self.caps[operation].largest
        if len(piece) > largest:
            raise refused(field_, f"has {len(piece)} bytes; the limit is {largest}")

    def _checked(self, operation: str, items: Sequence[Item]) -> list[bytes]:
        """The JSON of each. Raises InvalidRequest naming the first that is over a limit, and the limit."""
        caps, field_ = self.caps[operation], operation.removeprefix("send_")
        if not items:
            raise refused(field_, "must not be empty")
        if len(items) > caps.most:
            raise refused(field_, f"has {len(items)} items; the limit is {caps.most}")
        pieces = []
        for number, item in enumerate(items):
            self._check(item, f"{field_}[{number}]")
            piece = encoded(self._record(item))
            pieces.append(piece)
            self._weigh(operation, f"{field_}[{number}]", piece)
        return pieces

    def _gathered(self, operation: str, pieces: Sequence[bytes], frame: tuple[bytes, bytes]) -> bytes:
        """The body: *pieces* between commas, within *frame*. Raises InvalidRequest where it is too large."""
        body = frame[0] + b",".join(pieces) + frame[1]
        most = self.caps[operation].most_bytes
        if len(body) > most:
            raise refused(operation.removeprefix("send_"), f"have {len(body)} bytes together; the limit is {most}")
        return body

    def limited(self, operation: str) -> bool:  # noqa: ARG002 (a hole to fill)
        """Whether what is handed over for *operation* now is to be dropped, as the service wants it."""
        return False

    def suited(self, item: Item) -> Item:
        """*item*, or what stands for it where there is no intake of its kind: a message for an event."""
        if not isinstance(item, Occurrence) or "send_events" in self.caps:
            return item
        text = f"{item.title}: {item.text}" if item.text else item.title
        group = (item.kind, item.group) if item.group else ()
        return Report(text, item.level, extra=dict(item.attributes), fingerprint=group, logger=item.kind, at=item.at)

    def ship(self, items: Sequence[Item]) -> Group[Shipment]:
        """Send any number of items, of any kind that the service takes, with as many requests as its limits ask for.

        What no request can carry is ``refused`` in the result, and the error of a request hides none of the others.
        Raises InvalidRequest for what is no such item.
        """
        for number, one in enumerate(items):
            if type(one) not in self.taken:
                raise refused(f"items[{number}]", f"must be a Report, Metric, LogLine or Occurrence, not {one!r:.40}")
        calls, lost = [], []
        for operation, send in ((name, getattr(self, name, None)) for name in self.taken.values()):
            wanted = [one for one in items if self.taken[type(one)] == operation]
            if send is None:
                lost += [Refused(one, refused(operation, self.lacks[operation])) for one in wanted]
                continue
            batches, unfit = self._divided(operation, wanted)
            lost += unfit
            calls += [send(batch[0] if operation == "capture" else batch) for batch in batches]

        def join(found: list[Any]) -> Shipment:
            errors = tuple(one for one in found if isinstance(one, CallError))
            accepted = sum(one.accepted for one in found if not isinstance(one, CallError))
            return Shipment(accepted, None, tuple(found), tuple(lost), errors)

        return Group(calls, join, width=2)

    def _divided(self, operation: str, items: Sequence[Item]) -> tuple[list[list[Item]], list[Refused]]:
        caps = self.caps.get(operation)
        batches: list[list[Item]] = []
        unfit: list[Refused] = []
        room = 0
        for item in items:
            assert caps is not None
            try:
                size = self.size(item)
            except CallError as error:
                unfit.append(Refused(item, error))
                continue
            if not batches or size > room or len(batches[-1]) >= caps.most:
                batches.append([])
                room = caps.most_bytes - FRAME
            batches[-1].append(item)
            room -= size
        return batches, unfit
