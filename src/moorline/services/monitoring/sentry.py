"""Sentry: errors, messages, logs, metrics and check-ins in envelopes, and what its integration platform tells us.

Facts: services/monitoring/sentry.md; contract: sentry.schema.json (the event). The items of logs, metrics and check-ins
are those of sentry-sdk 2.75.0 (``_log_batcher.py``, ``_metrics_batcher.py``, ``crons/api.py``), of which the card names
the types and limits alone. Sentry has no idempotency key: an event's id, made once, is what tells it from another.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from moorline.calls.dialects import Closings
from moorline.calls.service import Endpoints, ErrorMap, Exchange, Plan, RateLimitHeaders, operation
from moorline.errors import AuthenticationFailed
from moorline.events.delivery import Delivers
from moorline.events.scheme import Scheme
from moorline.events.schemes.hmac_signature import HMACSignature
from moorline.policies.policy import Policy
from moorline.secrets.locker import secrets
from moorline.services.answers import moment, optional_text, record, text
from moorline.services.batches import FAILED, BatchService, Caps, Clean, compressed, encoded, scrubbed
from moorline.services.envelopes import Dsn, DsnKey, event_of, fitted, log_of, metric_of
from moorline.services.limits import as_text, at_most, refused
from moorline.services.monitoring.protocol import (
    Alarm,
    AlarmKind,
    LogLine,
    Metric,
    Report,
    Shipped,
)

if TYPE_CHECKING:
    from moorline.events.event import Event

__all__ = ["CheckIn", "Item", "Sentry"]

_MIB: Final = 1024 * 1024
_ENVELOPE: Final = 200 * _MIB
_EVENT, _CHECK_IN, _METRIC = _MIB, 100 * 1024, 2048  # bytes of one item, before it is compressed
_LARGEST: Final = {"check_in": _CHECK_IN, "client_report": 4096, "profile": 50 * _MIB, "attachment": _ENVELOPE}
_ID: Final = re.compile("[0-9a-f]{32}")
_WORDS: Final = re.compile(r"[A-Za-z0-9_-]+")
# The categories of limits (sentry-sdk 2.75.0, _types.py), and the bucket of ours that each closes: of the type of an
# item, by ``envelope.py`` there. "default" closes errors as well.
_CATEGORIES: Final = {
    **{one: one for one in ("transaction", "attachment", "session", "span", "profile", "profile_chunk", "monitor")},
    **{one: one for one in ("log_item", "trace_metric", "security", "internal", "feedback", "replay", "log_byte")},
    "error": "error",
    "default": "error",
}
_BUCKETS: Final = {
    "event": "error",
    "log": "log_item",
    "check_in": "monitor",
    "sessions": "session",
    "client_report": "internal",
}
_OF_OPERATIONS: Final = {"capture": "error", "send_logs": "log_item", "send_metrics": "trace_metric"}
_ALARMS: Final = {
    ("event_alert", "triggered"): AlarmKind.TRIGGERED,
    ("metric_alert", "critical"): AlarmKind.TRIGGERED,
    ("metric_alert", "warning"): AlarmKind.WARNED,
    ("metric_alert", "resolved"): AlarmKind.RECOVERED,
    ("issue", "created"): AlarmKind.TRIGGERED,
    ("issue", "unresolved"): AlarmKind.TRIGGERED,
    ("issue", "assigned"): AlarmKind.CHANGED,
    ("issue", "archived"): AlarmKind.ACKNOWLEDGED,
    ("issue", "ignored"): AlarmKind.ACKNOWLEDGED,  # as archived was called
    ("issue", "resolved"): AlarmKind.RECOVERED,
    ("error", "created"): AlarmKind.TRIGGERED,
}


@dataclass(frozen=True, slots=True)
class Item:
    """One item of an envelope: its *type*, its *payload* as JSON or bytes, and further *headers*. Sent as it is."""

    type: str
    payload: Any
    headers: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CheckIn:
    """A job of the monitor *slug* has begun, or ended after *duration* seconds. The end carries the *id* of the
    beginning. *config* creates or changes the monitor (``{"schedule": {"type": "crontab", "value": "0 * * * *"}}``).

    Raises InvalidRequest naming the field.
    """

    slug: str
    status: Literal["in_progress", "ok", "error"]
    duration: float | None = None
    environment: str | None = None
    release: str | None = None
    config: Mapping[str, Any] | None = None
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __post_init__(self) -> None:
        if not as_text("slug", self.slug):
            raise refused("slug", "must not be empty")
        if self.status not in ("in_progress", "ok", "error"):
            raise refused("status", f"must be in_progress, ok or error, not {self.status!r}")
        if not _ID.fullmatch(as_text("id", self.id)):
            raise refused("id", "must be 32 hexadecimal figures")


class Sentry(BatchService):
    """Errors by Sentry. The credential is a project's DSN, which may only send, and says where: the host of its region
    or of your own server, and a path. A project has several (client keys) at once, so a rotation is: add, switch,
    disable the old one. An empty DSN means that nothing is to be sent; see ``switched_off``.

    Nothing is said of an event's fate: a 200 means that it was taken, and is looked at later. Sentry says in any answer
    which categories it takes no more and for how long (``X-Sentry-Rate-Limits``): calls of those wait or are refused,
    all others go on. As Sentry asks, nothing that failed is repeated at once; what is sent again later (by a batcher or
    a job) carries the same ids. All that is sent is scrubbed, as logs are.

    Webhooks: neither the id nor the time is signed, so an event is known by its content, and what Sentry says again
    word for word is counted as a duplicate. The legacy WebHooks plug-in is unsigned. ``requests`` is the scheme of the
    requests of an integration's user interface, which want an answer of their own: ``verify(Sentry.requests, …)`` in a
    route of yours.

    Facts: services/monitoring/sentry.md; contract: sentry.schema.json.
    """

    name, category = "sentry", "monitoring"
    docs = "services/monitoring/sentry.md, sentry.schema.json"
    endpoints = Endpoints("https://sentry.io")  # stands for the host of the DSN
    credentials = DsnKey(
        env="SENTRY_DSN", sandbox="https://5a17d80e5a17d80e5a17d80e5a17d80e@o1.ingest.us.sentry.io/4242"
    )
    limits = RateLimitHeaders(apart=True, closings=Closings("X-Sentry-Rate-Limits", _CATEGORIES))
    errors = ErrorMap(
        message="causes.0|detail",
        statuses={403: AuthenticationFailed},  # no key, an unknown one, or two that disagree
        retry=FAILED,
    )
    default_policy = Policy(retry=None)
    reports_apart = True
    caps: ClassVar[Mapping[str, Caps]] = {
        "capture": Caps(1, _EVENT, _EVENT),
        "send_metrics": Caps(1000, _EVENT, _METRIC),
        "send_logs": Caps(100, _EVENT, _EVENT),  # the number is sentry-sdk's
    }
    webhooks = HMACSignature(
        header="Sentry-Hook-Signature",
        env="SENTRY_CLIENT_SECRET",
        id="header:Request-ID",
        type="header:Sentry-Hook-Resource",
        action="action",
        delivers=Delivers(within=1, retries="few (unconfirmed); 1000 timeouts within 24 h switch it off"),
    )
    requests: ClassVar[Scheme] = HMACSignature(
        header="Sentry-App-Signature",  # a GET signs the empty text
        env="SENTRY_CLIENT_SECRET",
        typed=False,
    )
    lacks: ClassVar[Mapping[str, str]] = {
        "send_events": "Sentry takes errors and messages: capture(Report(message=…, level=…))"
    }
    usage: ClassVar[str] = """
from moorline.services import Sentry
from moorline.services.reports import report

try:
    1 / 0
except ZeroDivisionError as error:
    print(Sentry().capture(report(error, release="shop@1.4.2")).result().id)
"""

    @property
    def switched_off(self) -> bool:
        """Whether there is no DSN, or an empty one, which is the customary way to send nothing."""
        return self._key is None and secrets().load(self.credentials.env) is None and not self.in_sandbox

    @property
    def needed_variable(self) -> None:
        """Without a DSN nothing is sent, which is no mistake."""
        return

    @property
    def dsn(self) -> Dsn:
        """The DSN, taken apart. Raises ConfigurationError."""
        return Dsn.of(self.secret().reveal())

    def limited(self, operation: str) -> bool:
        """Whether Sentry has closed the category: what happens meanwhile it wants dropped, not kept. The DSN, which
        may have to be fetched, is not read for it: until something was sent nothing is known to be closed.
        """
        known = self._known_guard
        gate = None if known is None else known[-1].gate
        return gate is not None and not gate.free and gate.closed_for(_OF_OPERATIONS[operation]) > 0

    def __repr__(self) -> str:
        return f"<{type(self).__name__} without a DSN>" if self.switched_off else super().__repr__()

    def _endpoint(self) -> str:
        return self.dsn.base

    def _guard_name(self, base: str) -> str:
        """Sentry's limits are those of a DSN, of which a process may have several."""
        dsn = self.dsn
        return f"{super()._guard_name(base)}, project {dsn.project}, key {dsn.public_key[:8]}"

    @operation
    def capture(self, /, report: Report, **extra: object) -> Plan[Shipped]:
        """Report an error or a message. *extra* are further fields of Sentry's event by their names (``contexts``).

        The result's *id* is the event's. Of an event over 1 MiB the oldest breadcrumbs are left out, then what stands
        in the report's *extra*. Raises InvalidRequest, before anything is sent, where that is not enough.
        """
        more = scrubbed(extra)
        event = fitted(event_of(report), _EVENT - len(encoded(more))) | more
        body = self._checked_item("event", encoded(event), _EVENT)
        return self._posted([body], "error", 1, event_id=report.id)

    @operation
    def send_metrics(self, /, metrics: Sequence[Metric]) -> Plan[Shipped]:
        """Send up to 1000 points, of 2 KiB at most. Raises InvalidRequest naming the point and the limit."""
        return self._batch("send_metrics", "trace_metric", "trace-metric", metrics)

    @operation
    def send_logs(self, /, lines: Sequence[LogLine]) -> Plan[Shipped]:
        """Send up to 100 lines, of 1 MiB together. Raises InvalidRequest naming the line and the limit."""
        return self._batch("send_logs", "log", "log", lines)

    @operation
    def check_in(self, /, check_in: CheckIn) -> Plan[Shipped]:
        """Tell that a job has begun or ended. Raises InvalidRequest for one over 100 KiB."""
        told: dict[str, Any] = {
            "monitor_slug": check_in.slug,
            "check_in_id": check_in.id,
            "status": check_in.status,
            "duration": check_in.duration,
            "environment": check_in.environment,
            "release": check_in.release,
        }
        if check_in.config is not None:
            told["monitor_config"] = check_in.config
        body = self._checked_item("check_in", encoded(scrubbed(told)), _CHECK_IN)
        return self._posted([body], "monitor", 1)

    @operation
    def send_envelope(self, /, items: Sequence[Item], *, event_id: str | None = None) -> Plan[Shipped]:
        """Send items of any type, such as an attachment with its event (whose *event_id* both then have).

        JSON is scrubbed, bytes go out as they are. The limits of the first item's category hold for all of it.

        Raises InvalidRequest for an item or an envelope over its limit.
        """
        if not items:
            raise refused("items", "must not be empty")
        if event_id is not None and not _ID.fullmatch(event_id):
            raise refused("event_id", "must be 32 hexadecimal figures")
        bodies = []
        for item in items:
            raw = item.payload if isinstance(item.payload, bytes) else encoded(scrubbed(item.payload))
            bodies.append(self._checked_item(item.type, raw, _LARGEST.get(item.type, _MIB), item.headers))
        if sum(map(len, bodies)) > _ENVELOPE - 4096:
            raise refused("items", f"have more than {_ENVELOPE} bytes together")
        first = items[0].type
        return self._posted(bodies, _BUCKETS.get(first, _CATEGORIES.get(first, "error")), len(items), event_id=event_id)

    @operation
    def check(self) -> Plan[bool]:
        """True if an empty envelope is taken, which Sentry discards: the host answers, and the key is not refused.

        That a key which nobody knows is refused at once is unconfirmed. Raises AuthenticationFailed.
        """
        return self._sent([], "internal", lambda _: True)

    @classmethod
    def read_event(cls, event: Event) -> Alarm | None:
        """What an issue, an alert or an error means; None for installations, comments and words that are newer.

        Raises BadAnswer for an event of another shape.
        """
        kind = _ALARMS.get((event.type, event.action or ""))
        if kind is None:
            return None
        told = record(event.payload, "the event")
        data = record(told.get("data"), "data")
        word = f"{event.type}.{event.action}"
        if event.type == "metric_alert":
            incident = record(data.get("metric_alert"), "metric_alert")
            return Alarm(
                kind,
                word,
                optional_text(data, "description_title") or text(incident, "title"),
                optional_text(incident, "id"),
                optional_text(data, "description_text") or "",
                optional_text(data, "web_url"),
                event.action,
                moment(incident, "date_detected"),
                told,
            )
        about = record(data.get("event" if event.type == "event_alert" else event.type), event.type)
        return Alarm(
            kind,
            word,
            optional_text(about, "title") or optional_text(data, "triggered_rule") or word,
            optional_text(about, "id" if event.type == "issue" else "issue_id"),
            optional_text(about, "culprit") or "",
            optional_text(about, "web_url") or optional_text(about, "permalink"),
            optional_text(about, "level"),
            moment(about, "lastSeen" if event.type == "issue" else "datetime"),
            told,
        )

    def _record(self, item: Any, clean: Clean = scrubbed) -> Any:
        if isinstance(item, Report):
            return fitted(event_of(item), _EVENT)
        return log_of(item, clean) if isinstance(item, LogLine) else metric_of(item, clean)

    def _batch(self, name: str, kind: str, media: str, items: Sequence[Any]) -> Plan[Shipped]:
        body = self._gathered(name, self._checked(name, items), (b'{"version":2,"items":[', b"]}"))
        headers = {"item_count": len(items), "content_type": f"application/vnd.sentry.items.{media}+json"}
        return self._posted([self._checked_item(kind, body, _MIB, headers)], _BUCKETS.get(kind, kind), len(items))

    def _checked_item(self, kind: str, payload: bytes, most: int, headers: Mapping[str, Any] | None = None) -> bytes:
        if not _WORDS.fullmatch(kind):
            raise refused("type", "must be a word")
        at_most(kind, payload, most, "bytes")
        head = {"type": kind, "content_type": "application/json", **(headers or {}), "length": len(payload)}
        return encoded(head) + b"\n" + payload + b"\n"

    def _posted(self, items: list[bytes], bucket: str, count: int, *, event_id: str | None = None) -> Plan[Shipped]:
        def parse(exchange: Exchange) -> Shipped:
            answer = exchange.data
            told = None if answer is None else optional_text(record(answer), "id")
            return Shipped(count, told or event_id, answer)

        return self._sent(items, bucket, parse, event_id=event_id)

    def _sent(self, items: list[bytes], bucket: str, parse: Any, *, event_id: str | None = None) -> Plan[Any]:
        now = datetime.fromtimestamp(self.clock.wall(), UTC).isoformat(timespec="milliseconds")
        head: dict[str, Any] = {"sent_at": now.replace("+00:00", "Z"), "sdk": {"name": "moorline", "version": "0.1"}}
        if event_id is not None:
            head = {"event_id": event_id, **head}
        body = json.dumps(head, separators=(",", ":")).encode() + b"\n" + b"".join(items)
        headers = {"Content-Type": "application/x-sentry-envelope", "Content-Encoding": "gzip"}
        path = f"/api/{self.dsn.project}/envelope/"
        plan: dict[str, Any] = {"content": compressed(body), "headers": headers, "bucket": bucket, "blank": True}
        return self.post(path, repeatable=True, parse=parse, **plan)
