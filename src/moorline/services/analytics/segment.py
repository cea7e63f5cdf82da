"""Segment: facts for its tracking API, one by one or in batches.

Facts: services/analytics/segment.md; contract: segment.schema.json; segment-analytics-python 2.4.0 (request.py,
consumer.py, client.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC
from types import MappingProxyType
from typing import Any, ClassVar, Final

from moorline.calls.dialects import UserKey
from moorline.calls.service import Endpoints, ErrorMap, Exchange, Plan, operation
from moorline.errors import InvalidRequest, ServiceUnavailable
from moorline.services.analytics.protocol import (
    Alias,
    Fact,
    GroupCall,
    Identify,
    Kind,
    PageView,
    ScreenView,
    Taken,
    Track,
    encoded,
)
from moorline.services.answers import record
from moorline.services.facts import BatchLimits, FactService, Parcel, plain_fields, zipped
from moorline.services.limits import at_most

__all__ = ["Segment"]

# 32 KB a call and an item; of a batch 500 KB, of which the official library uses 475,000 bytes.
_LIMITS: Final = BatchLimits(most=2500, most_bytes=475_000, item_bytes=32_768)
_PROPERTIES: Final = 10_000


def _failed(exchange: Exchange) -> str | None:
    answer = exchange.data
    return "not_taken" if isinstance(answer, dict) and answer.get("success") is False else None


class Segment(FactService):
    """Facts for Segment, which passes them to its destinations. The key is a source's write key.

    Segment answers 200 to nearly everything, a wrong key, missing ids and a batch that is too long among it: what is
    documented is checked here before it is sent, and ``taken`` is what was handed over. Data of an EU workspace that
    goes to the US host is answered 200 and lost: set ``region="eu"``.

    Facts carry their ``messageId``, by which Segment drops what comes twice (for about 24 hours, which is unconfirmed);
    so requests are repeated. ``sentAt`` is left out: with it Segment corrects the clocks of devices, and a request
    that was tried again or waited in a queue would move its events. Bodies are compressed, as in the official library.

    There is no test mode: use a source of your own for tests. Facts: services/analytics/segment.md; contract:
    segment.schema.json.
    """

    name, category = "segment", "analytics"
    docs = "services/analytics/segment.md, segment.schema.json"
    endpoints = Endpoints("https://api.segment.io", MappingProxyType({"eu": "https://events.eu1.segmentapis.com"}))
    credentials = UserKey(env="SEGMENT_WRITE_KEY", sandbox="sandbox-write-key-0123456789")
    errors = ErrorMap(
        code="code",
        message="message",
        failed=_failed,
        kinds={"not_taken": InvalidRequest},
        # What the official library tries again, beside what is usual; 511 only with OAuth.
        statuses={410: ServiceUnavailable, 460: ServiceUnavailable},
        retry=frozenset({410, 460, *range(500, 600)} - {501, 505, 511}),
    )
    dedupe: ClassVar[str] = (
        "Segment drops what comes twice by its `messageId`, for about 24 hours (unconfirmed): a write that "
        "was not answered is sent again."
    )
    lacks: ClassVar[Mapping[str, str]] = {
        "webhooks": "its tracking API sends none; that its Webhooks destination signs them is unconfirmed",
        "delete_user": "deletion is part of its Public API, which has another host and key",
    }
    usage: ClassVar[str] = """
from moorline.services import Segment
from moorline.services.analytics.protocol import Identify, Track

Segment().identify(Identify({"plan": "pro"}, user_id="u-17")).result()
taken = Segment().track(Track("Order Paid", user_id="u-17", properties={"value": 12.5})).result()
print(taken.taken)
"""

    @operation
    def track(self, /, fact: Track, **extra: object) -> Plan[Taken]:
        """Send one event. *extra* are Segment's further fields by their names (``integrations={"All": False}``).

        Raises InvalidRequest, naming field and limit, before anything is sent: more than 32 KB or 10,000 properties.
        """
        return self._one(fact, "track", extra)

    @operation
    def identify(self, /, fact: Identify, **extra: object) -> Plan[Taken]:
        """Say what is known of somebody. Raises as ``track``."""
        return self._one(fact, "identify", extra)

    @operation
    def page(self, /, fact: PageView, **extra: object) -> Plan[Taken]:
        """Send the view of a page; its *url* is the property of that name. Raises as ``track``."""
        return self._one(fact, "page", extra)

    @operation
    def screen(self, /, fact: ScreenView, **extra: object) -> Plan[Taken]:
        """Send the view of a screen. Raises as ``track``."""
        return self._one(fact, "screen", extra)

    @operation
    def group(self, /, fact: GroupCall, **extra: object) -> Plan[Taken]:
        """Say to which group somebody belongs. Segment knows no kinds of groups: *group_type* is not sent. Raises as
        ``track``.
        """
        return self._one(fact, "group", extra)

    @operation
    def alias(self, /, fact: Alias, **extra: object) -> Plan[Taken]:
        """Join two ids. Raises as ``track``."""
        return self._one(fact, "alias", extra)

    @operation
    def send_batch(self, /, facts: Sequence[Fact], **extra: object) -> Plan[Taken]:
        """Send up to 2,500 facts of all kinds; those over 32 KB are left out and told. *extra* are fields of the whole
        (``integrations``, ``context``).

        Raises InvalidRequest before anything is sent: too many, more than 475,000 bytes together, or none that can go.
        """
        parcel = self.together(facts)
        body = b'{"batch":' + parcel.array + (b"," + encoded(plain_fields(extra))[1:] if extra else b"}")
        return self._posted("/v1/batch", body, parcel)

    @operation
    def check(self) -> Plan[bool]:
        """True if Segment can be reached: sends a batch of nothing. It tells nobody whether a write key is good, so
        neither does this; that an empty batch is answered 200 is unconfirmed.
        """
        body = b'{"batch":[]}'
        return self.post(
            "/v1/batch", parse=lambda exchange: bool(record(exchange.data)), repeatable=True, **zipped(body)
        )

    def items(self, fact: Fact, extra: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The message, as in a batch. Raises InvalidRequest."""
        fields: dict[str, Any] = {
            "type": fact.kind,
            "messageId": fact.message_id,
            "timestamp": fact.at.astimezone(UTC).isoformat(timespec="milliseconds"),
            "userId": fact.user_id,
            "anonymousId": fact.anonymous_id,
            "context": dict(fact.context) or None,
            **_own(fact),
        }
        for name in ("properties", "traits"):
            at_most(name, fields.get(name) or {}, _PROPERTIES, "entries")
        return [{name: value for name, value in fields.items() if value is not None} | dict(extra)]

    def batch_limits(self, lane: str) -> BatchLimits:  # noqa: ARG002
        """Those of ``/v1/batch``."""
        return _LIMITS

    def _one(self, fact: Fact, kind: Kind, extra: Mapping[str, Any]) -> Plan[Taken]:
        parcel = self.single(fact, kind, extra)
        return self._posted(f"/v1/{kind}", parcel.items[0], parcel)

    def _posted(self, path: str, body: bytes, parcel: Parcel) -> Plan[Taken]:
        def parse(exchange: Exchange) -> Taken:
            return parcel.taken(record(exchange.data))

        return self.post(path, parse=parse, repeatable=True, **zipped(body))  # what comes twice is dropped


def _own(fact: Fact) -> dict[str, Any]:
    """The fields of its kind."""
    match fact:
        case Track():
            return {"event": fact.event, "properties": fact.properties}
        case Identify():
            return {"traits": fact.traits}
        case PageView():
            url = {} if fact.url is None else {"url": fact.url}
            return {"name": fact.name, "category": fact.category, "properties": {**url, **fact.properties}}
        case ScreenView():
            return {"name": fact.name, "category": fact.category, "properties": fact.properties}
        case GroupCall():
            return {"groupId": fact.group_id, "traits": fact.traits}
        case Alias():
            return {"previousId": fact.previous_id}
