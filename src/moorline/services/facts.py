"""What the services that take facts share: one alone, several together, and a vendor's limits checked before sending.

A service says how a fact looks in its vendor's words (``items``) and which may share a request (``lane``); here is what
is the same for all: that the kind fits, sizes and counts, and what is left out of a batch and why.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, get_args

from moorline.calls.call import Call
from moorline.calls.service import Service
from moorline.errors import CallError, InvalidRequest
from moorline.services.analytics.protocol import Fact, Kind, Refused, Taken, encoded, json_value
from moorline.services.limits import at_most, refused

__all__ = ["BatchLimits", "FactService", "Parcel", "parts", "plain_fields", "plain_json", "zipped"]

KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
_JSON: Final = {"Content-Type": "application/json"}


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """How many facts one request takes, how many bytes they are together, and one of them alone."""

    most: int
    most_bytes: int
    item_bytes: int


@dataclass(frozen=True, slots=True)
class Parcel:
    """What goes into one request: the *items* in the vendor's words, as JSON, of which fact each is (*owners*, places
    in *facts*), and the facts that stay out.
    """

    facts: tuple[Fact, ...]
    items: tuple[bytes, ...]
    owners: tuple[int, ...]
    refused: tuple[Refused, ...] = ()

    @property
    def array(self) -> bytes:
        """The items as a JSON array."""
        return b"[" + b",".join(self.items) + b"]"

    def taken(self, raw: Any, faults: Mapping[int, str] | None = None) -> Taken:
        """The result: all of them, but those (places in *items*) that the vendor refused."""
        told = {self.owners[place]: why for place, why in (faults or {}).items() if place < len(self.owners)}
        theirs = [_refusal(self.facts[one], why, by="vendor") for one, why in sorted(told.items())]
        return Taken(len(self.facts) - len(told), (*self.refused, *theirs), raw=raw)


class FactService(Service):
    """The base of services that take facts. ``category``, records and operations are the service's own. *dedupe* says
    by what the vendor knows a fact that comes twice, where it does; then its requests are repeated.
    """

    dedupe: ClassVar[str] = ""

    def items(self, fact: Fact, extra: Mapping[str, Any]) -> list[dict[str, Any]]:
        """*fact* in the vendor's words, with its further fields *extra* (those of ``fact.vendors`` among them).

        Raises InvalidRequest for what the vendor would refuse or drop.
        """
        raise NotImplementedError

    def lane(self, fact: Fact) -> str:  # noqa: ARG002
        """Facts of one lane can share a request."""
        return ""

    def batch_limits(self, lane: str) -> BatchLimits:
        """The limits of one request."""
        raise NotImplementedError

    def line(self, lane: str) -> str:
        """In which of its few queues facts of that lane wait, when they are sent later."""
        return lane

    def line_limits(self, line: str) -> BatchLimits:
        """The limits of what leaves such a queue at once."""
        return self.batch_limits(line)

    def lacking(self, kind: str) -> str | None:
        """Why it has no facts of that *kind*; None where it has."""
        return self.lacks.get(kind)

    def weighed(self, fact: Fact) -> tuple[int, str]:
        """How many bytes *fact* is in a batch, and its lane. Raises InvalidRequest for one that the vendor would not
        take.
        """
        items, lane = self._encoded(fact, {})
        return sum(map(len, items)) + len(items), lane

    def single(self, fact: Fact, kind: Kind, extra: Mapping[str, Any]) -> Parcel:
        """One fact for an operation that takes *kind*. Raises InvalidRequest, naming field and limit."""
        if getattr(fact, "kind", None) != kind:
            raise refused("fact", f"must be one of kind {kind}, not {getattr(fact, 'kind', type(fact).__name__)}")
        items, _ = self._encoded(fact, extra)
        return Parcel((fact,), tuple(items), (0,) * len(items))

    def together(self, facts: Sequence[Fact], limits: BatchLimits | None = None) -> Parcel:
        """Several facts for one request; those that the vendor would not take stay out. *limits* are those of the
        request, where they are not the lane's.

        Raises InvalidRequest for none, for too many, for those that cannot share a request, and where none is left (its
        ``detail`` has the reasons).
        """
        given: object = facts
        if not isinstance(given, list | tuple) or not given:
            raise refused("facts", "must be a list of one or more")
        strange = [type(one).__name__ for one in given if getattr(one, "kind", None) not in KINDS]
        if strange:
            raise refused("facts", f"must be facts, not {strange[0]}")
        kept: list[Fact] = []
        lanes: set[str] = set()
        items: list[bytes] = []
        owners: list[int] = []
        out: list[Refused] = []
        for fact in facts:
            try:
                made, lane = self._encoded(fact, {})
            except InvalidRequest as error:
                out.append(_refusal(fact, error.message, error.code or ""))
                continue
            owners += [len(kept)] * len(made)
            items += made
            kept.append(fact)
            lanes.add(lane)
        if not kept:
            detail = [{"message_id": one.message_id, "reason": one.reason} for one in out]
            raise InvalidRequest(
                f"none of the facts can be sent: {out[0].reason}", code="facts", outcome="not_sent", detail=detail
            )
        if len(lanes) > 1:
            raise refused("facts", "cannot share a request: see batches()")
        limits = limits or self.batch_limits(lanes.pop())
        at_most("facts", kept, limits.most, "facts")
        at_most("facts", items, limits.most, "events")
        size = sum(map(len, items)) + len(items) + 1
        if size > limits.most_bytes:
            raise refused("facts", f"are {size} bytes together; the limit is {limits.most_bytes}")
        return Parcel(tuple(kept), tuple(items), tuple(owners), tuple(out))

    def blamed(self, facts: Sequence[Fact], error: CallError) -> Mapping[int, float]:  # noqa: ARG002
        """Which of *facts*, by their places, that *error* of their request is about, and in how many seconds each may
        be sent again (infinite: never). The others may be sent without them; where there are none, it is about all.
        """
        return {}

    def origins(self, facts: Sequence[Fact]) -> list[tuple[int, bytes]]:
        """Each item of the request that *facts* make, after the place of the fact that it is of."""
        parcel = self.together(facts)
        given = iter(enumerate(facts))
        places = [next(place for place, one in given if one is kept) for kept in parcel.facts]
        return [(places[owner], item) for owner, item in zip(parcel.owners, parcel.items, strict=True)]

    def _encoded(self, fact: Fact, extra: Mapping[str, Any]) -> tuple[list[bytes], str]:
        why = self.lacking(fact.kind)
        if why is not None:
            raise refused("kind", f"{type(self).__name__} has no {fact.kind}: {why}")
        own = {**fact.vendors.get(self.name, {}), **plain_fields(extra)}
        found = [encoded(one) for one in self.items(fact, own)]
        lane = self.lane(fact)
        limit = self.batch_limits(lane).item_bytes
        for one in found:
            if len(one) > limit:
                raise refused("fact", f"is {len(one)} bytes; the limit is {limit}")
        return found, lane

    def batches(self, facts: Sequence[Fact]) -> list[Call[Taken]]:
        """Calls of ``send_batch`` that together send *facts*: as many as lanes and limits make needful. Facts that the
        vendor would not take are in none of them; ``weighed`` tells of each.
        """
        return [self.send_batch(part) for part in parts(self, facts)]

    def send_batch(self, facts: Sequence[Fact], /) -> Call[Taken]:
        """See the service."""
        raise NotImplementedError


def parts(service: FactService, facts: Sequence[Fact]) -> list[list[Fact]]:
    """*facts* divided into what one request each can carry, in their order within a lane."""
    found: list[list[Fact]] = []
    open_: dict[str, tuple[list[Fact], int, int]] = {}
    for fact in facts:
        try:
            items, lane = service._encoded(fact, {})  # noqa: SLF001 (of this module)
        except InvalidRequest:
            continue
        sizes = [len(one) + 1 for one in items]
        limits = service.batch_limits(lane)
        part, count, size = open_.get(lane, ([], 0, 1))
        if not part or count + len(sizes) > limits.most or size + sum(sizes) > limits.most_bytes:
            part, count, size = [], 0, 1
            found.append(part)
        part.append(fact)
        open_[lane] = (part, count + len(sizes), size + sum(sizes))
    return found


def zipped(body: bytes) -> dict[str, Any]:
    """The arguments of a Plan that sends the JSON *body* compressed; the same bytes for the same body."""
    return {"content": gzip.compress(body, mtime=0), "headers": {**_JSON, "Content-Encoding": "gzip"}}


def plain_fields(extra: Mapping[str, Any]) -> dict[str, Any]:
    """Further fields as plain JSON, as those of a fact are. Raises InvalidRequest, naming the field."""
    return {name: json_value(name, value) for name, value in extra.items()}


def plain_json(body: bytes) -> dict[str, Any]:
    """The arguments of a Plan that sends the JSON *body* as it is."""
    return {"content": body, "headers": _JSON}


def _refusal(fact: Fact, why: str, field: str = "", *, by: Any = "limits") -> Refused:
    return Refused(fact.message_id, fact.kind, why, field, by)
