"""Datadog: metrics, logs, events, and the alerts of its monitors.

Facts: services/monitoring/datadog.md; contract: datadog.json (v1 of the vendor's description, v2 of its client 2.62.0).
How a line of a log says its time and level (``timestamp``, ``status``) is in neither, and unconfirmed. Nothing here
has an idempotency key: a request that was sent and not answered is sent again where Datadog asks for that (metrics,
logs), so that after an outage a count or a line may be there twice.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from moorline.calls.account import KeySource
from moorline.calls.dialects import LimitFields
from moorline.calls.minting import Minted
from moorline.calls.service import (
    BearerKey,
    Endpoints,
    ErrorMap,
    Exchange,
    Parameter,
    Plan,
    RateLimitHeaders,
    operation,
    segment,
)
from moorline.errors import AuthenticationFailed, BadAnswer, ConfigurationError
from moorline.events.delivery import Delivers
from moorline.events.schemes.shared_secret import SharedSecret
from moorline.secrets.locker import secrets
from moorline.secrets.secret import Secret
from moorline.services.answers import flag, items, record, text
from moorline.services.batches import FAILED, BatchService, Caps, Clean, compressed, recent, scrubbed
from moorline.services.key_answers import gone
from moorline.services.limits import at_most, refused
from moorline.services.monitoring.protocol import (
    Alarm,
    AlarmKind,
    LogLine,
    Metric,
    MetricKind,
    Occurrence,
    Report,
    Shipped,
)
from moorline.services.templates import filled, said_at

if TYPE_CHECKING:
    from moorline.events.event import Event

__all__ = ["Datadog"]

_SITES: Final = {
    "us1": "datadoghq.com",
    "us3": "us3.datadoghq.com",
    "us5": "us5.datadoghq.com",
    "eu": "datadoghq.eu",
    "ap1": "ap1.datadoghq.com",
    "ap2": "ap2.datadoghq.com",
    "uk1": "uk1.datadoghq.com",
    "gov": "ddog-gov.com",
    "gov2": "us2.ddog-gov.com",
}
_APPLICATION_KEY: Final = "DD_APP_KEY"
_APPLICATION: Final = BearerKey(_APPLICATION_KEY, header="DD-APPLICATION-KEY", scheme="")
_HOUR: Final = 3600.0
_KINDS: Final = {MetricKind.COUNT: 1, MetricKind.GAUGE: 3}
_STATUSES: Final = {"debug": "debug", "info": "info", "warning": "warn", "error": "error", "fatal": "critical"}
_ALERTS: Final = {"debug": "info", "info": "info", "warning": "warning", "error": "error", "fatal": "error"}
# docs.datadoghq.com/integrations/webhooks, $ALERT_TRANSITION.
_TRANSITIONS: Final = {
    "triggered": AlarmKind.TRIGGERED,
    "re-triggered": AlarmKind.TRIGGERED,
    "no data": AlarmKind.TRIGGERED,
    "re-no data": AlarmKind.TRIGGERED,
    "warn": AlarmKind.WARNED,
    "re-warn": AlarmKind.WARNED,
    "renotify": AlarmKind.CHANGED,
    "recovered": AlarmKind.RECOVERED,
    "warn recovered": AlarmKind.RECOVERED,  # unconfirmed, as all after it
    "no data recovered": AlarmKind.RECOVERED,
}


def _places(host: str) -> Endpoints:
    """A host of every site."""
    regions = {name: f"https://{host}.{site}" for name, site in _SITES.items()}
    return Endpoints(regions["us1"], regions)


@dataclass(frozen=True, slots=True)
class _Answer:
    """What the intakes say of a good request: nothing that could be relied on."""

    count: int

    def __call__(self, exchange: Exchange) -> Shipped:
        answer = record(exchange.data)
        if answer.get("errors"):
            raise BadAnswer("the answer is good and names errors")
        return Shipped(self.count, None, answer)


class Datadog(BatchService):
    """Metrics, logs and events by Datadog. A key belongs to one site: give its *region* (``us1``, ``us3``, ``us5``,
    ``eu``, ``ap1``, ``ap2``, ``uk1``, ``gov``, ``gov2``) or set ``DD_SITE``; on another site it is
    AuthenticationFailed. An organisation has several keys at once, so a rotation is: add, switch, revoke the old one.

    An accepted request means no more than that: what is too old or too new is dropped there without a word, so that it
    is refused here (metrics: an hour back, 10 minutes ahead; logs and events: 18 hours back). *host*, *application*
    and *environment* (``DD_HOSTNAME``, ``DD_SERVICE``, ``DD_ENV``) are on all that is sent. An *application_key*
    (``DD_APP_KEY``) is needed by ``create_event`` and for keys alone.

    Webhooks are not signed, and their body is your template. The secret goes into a custom header (``{"Authorization":
    "Bearer …"}``), into the address as ``user:password@``, or at the end of its path. Put these into the template:
    ``"id": "$ID"`` and ``"date": "$DATE"`` (both, or the event has no id), ``"event_type": "$EVENT_TYPE"`` (the event's
    type) and ``"transition": "$ALERT_TRANSITION"`` (its action); and for ``read_event`` ``"title": "$EVENT_TITLE"``,
    ``"text": "$EVENT_MSG"``, ``"link": "$LINK"``, ``"alert_id": "$ALERT_ID"`` and ``"priority": "$ALERT_PRIORITY"``.
    Without an id two equal bodies are one event if they come within the same minute, because that is a retry, and two
    events otherwise: an alert that is raised again later often has the same words.

    Facts: services/monitoring/datadog.md; contract: datadog.json.
    """

    name, category = "datadog", "monitoring"
    docs = "services/monitoring/datadog.md, datadog.json"
    endpoints = Endpoints(
        "https://api.datadoghq.com",
        _places("api").regions,
        {"logs": _places("http-intake.logs"), "events": _places("event-management-intake")},
    )
    credentials = BearerKey(
        env="DD_API_KEY", sandbox="5a17d80e5a17d80e5a17d80e5a17d80e", header="DD-API-KEY", scheme=""
    )
    host = Parameter("DD_HOSTNAME", default="")
    application = Parameter("DD_SERVICE", default="")
    environment = Parameter("DD_ENV", default="")
    limits = RateLimitHeaders(
        apart=True,  # metrics are not limited, events are, by the organisation and hour
        fields=(
            LimitFields(
                "X-RateLimit-Remaining",
                "X-RateLimit-Limit",
                "X-RateLimit-Reset",
                "seconds",
                window="X-RateLimit-Period",
            ),
        ),
    )
    errors = ErrorMap(  # one service, three shapes
        message="errors.0.detail|errors.0.title|errors.0",
        statuses={403: AuthenticationFailed},  # the usual answer for a bad key
        retry=FAILED,
    )
    caps: ClassVar[Mapping[str, Caps]] = {
        "capture": Caps(1, 1_000_000, 1_000_000),
        # 5,242,880 bytes, of which 512,000 compressed: so much of what does not shrink by half is a request.
        "send_metrics": Caps(10_000, 1_000_000, 1_000_000),
        "send_logs": Caps(1000, 5_000_000, 1_000_000),
        "send_events": Caps(1, 100_000, 100_000),  # one with each request
    }
    webhooks = SharedSecret(
        env="DATADOG_WEBHOOK_SECRET",  # ours: the sender gives it no name
        id=("id", "date"),  # an id alone may be the monitor's
        templated=True,
        lacking="digest",
        type=("event_type", "type"),
        typed=False,
        action="transition",
        repeats_after=60,
        delivers=Delivers(within=15, retries="5xx and lost connections, the latter 5 times; none after a 4xx"),
    )
    usage: ClassVar[str] = """
from moorline.services import Datadog
from moorline.services.monitoring.protocol import Metric

print(Datadog().send_metrics([Metric("shop.orders", 3, tags={"quay": "3"})]).result().accepted, "accepted")
"""

    def __init__(
        self, api_key: KeySource | None = None, *, application_key: str | Secret | None = None, **options: Any
    ) -> None:
        super().__init__(api_key, **options)
        given = application_key
        self._application_key = Secret(given, name="datadog.application_key") if isinstance(given, str) else given

    @property
    def region(self) -> str | None:
        """The one given, or that of ``DD_SITE``. Raises ConfigurationError for a site that is none."""
        site = os.environ.get("DD_SITE", "").strip().lower()
        if self._region is not None or not site:
            return self._region
        for name, one in _SITES.items():
            if one == site:
                return name
        raise ConfigurationError(f"DD_SITE must be one of {', '.join(_SITES.values())}")

    def authorized(
        self, key: Secret, method: str, url: str, headers: dict[str, str], body: bytes | None
    ) -> dict[str, str]:
        """The application key, if there is one, only where it is asked for."""
        found = super().authorized(key, method, url, headers, body)
        if url.endswith("/api/v2/events") or "/api/v2/api_keys" in url:
            own = self._application_key or secrets().load(_APPLICATION_KEY)
            if own is None and self.in_sandbox:
                own = Secret(self.credentials.sandbox, name="the sandbox key of datadog")
            found |= {} if own is None else _APPLICATION.headers(own)
        return found

    @operation
    def capture(self, /, report: Report) -> Plan[Shipped]:
        """Report an error or a message as a line of the log, with ``error.kind``, ``error.message`` and
        ``error.stack``: no intake of errors is documented. Raises as ``send_logs``.
        """
        return self._logged("capture", [report])

    @operation
    def send_metrics(self, /, metrics: Sequence[Metric]) -> Plan[Shipped]:
        """Send points: counts and gauges.

        Raises InvalidRequest, naming the point and the limit, for distributions, which this intake does not take, and
        for times that Datadog would drop.
        """
        body = self._gathered("send_metrics", self._checked("send_metrics", metrics), (b'{"series":[', b"]}"))
        content = compressed(body)
        at_most("metrics", content, 512_000, "bytes, compressed")
        return self.post("/api/v2/series", content=content, headers=_GZIP, repeatable=True, parse=_Answer(len(metrics)))

    @operation
    def send_logs(self, /, lines: Sequence[LogLine]) -> Plan[Shipped]:
        """Send up to 1000 lines, of 5 MB together. Raises InvalidRequest, naming the line and the limit, for one over
        1 MB, which Datadog would cut off, and for one over 18 hours old.
        """
        return self._logged("send_logs", lines)

    @operation
    def send_events(self, /, events: Sequence[Occurrence]) -> Plan[Shipped]:
        """Send an event; one with each request, so ``ship`` takes several. *group* is the aggregation key.

        The result's *id* is the event's. Raises InvalidRequest for more than 4000 characters of text, 100 of the group,
        and more than 18 hours ago.
        """
        pieces = self._checked("send_events", events)
        headers = {"Content-Type": "application/json"}
        return self.post("/api/v1/events", content=pieces[0], headers=headers, parse=_posted)

    @operation
    def create_event(
        self,
        category: Literal["alert", "change"],
        title: str,
        attributes: Mapping[str, Any],
        *,
        message: str = "",
        tags: Mapping[str, str] | None = None,
        group: str = "",
    ) -> Plan[Shipped]:
        """Send an event of the newer kind: *attributes* are those of an alert (``{"status": "error"}``) or of a change
        (``{"changed_resource": {"name": …, "type": "feature_flag"}}``), as Datadog has them.

        Raises AuthenticationFailed where an application key is wanted, and InvalidRequest, before anything is sent, for
        a title over 500 characters, a message over 4000, more than 100 tags.
        """
        at_most("title", title, 500, "characters")
        at_most("message", message, 4000, "characters")
        at_most("group", group, 100, "characters")
        words = self._tags(tags or {})
        at_most("tags", words, 100, "tags")
        told = {
            "title": title,
            "category": category,
            "message": message,
            "tags": words,
            "aggregation_key": group,
            "host": self.host,
        }
        named = {name: one for name, one in scrubbed(told).items() if one}
        body = {"data": {"type": "event", "attributes": {**named, "attributes": scrubbed(dict(attributes))}}}
        return self.post("/api/v2/events", json=body, host="events", parse=_created)

    @operation
    def check(self) -> Plan[bool]:
        """True if the API key is good at this site. Raises AuthenticationFailed."""
        return self.get("/api/v1/validate", parse=lambda exchange: flag(record(exchange.data), "valid"))

    @operation
    def mint_key(self, label: str) -> Plan[Minted]:
        """Make another API key of the organisation: they are all alike. For ``moorline keys rotate``. An application
        key of a user who may ``api_keys_write`` is needed.

        Facts: datadog-api-client (v2, key_management); docs.datadoghq.com/api/latest/key-management. Raises
        AuthenticationFailed without an application key, or without that right.
        """
        body = {"data": {"type": "api_keys", "attributes": {"name": label}}}
        return self.post("/api/v2/api_keys", json=body, parse=_minted)

    @operation
    def revoke_key(self, id: str) -> Plan[bool]:
        """Delete the key of that id: it is refused from now on. False where there is none."""
        path = f"/api/v2/api_keys/{segment(id, 'id')}"
        return self.delete(path, parse=lambda _: True, blank=True, accept=gone)

    @operation
    def find_keys(self, label: str) -> Plan[Sequence[str]]:
        """The ids of the keys that are called so."""
        query = {"filter": label, "page[size]": 100}
        return self.get("/api/v2/api_keys", query=query, parse=lambda exchange: _called(exchange, label))

    def key_id(self, secret: Secret) -> str | None:  # noqa: ARG002 (of others it can be told)
        """None: a key of Datadog's does not tell."""
        return None

    @classmethod
    def read_event(cls, event: Event) -> Alarm | None:
        """What an alert means, by the fields that the template has; None without a transition that is known.

        Raises BadAnswer for an event of another shape.
        """
        told = record(event.payload, "the event")
        word = filled(told, "transition")
        kind = _TRANSITIONS.get((word or "").lower())
        if kind is None or word is None:
            return None
        title = filled(told, "title") or word
        text, link = filled(told, "text") or "", filled(told, "link")
        severity = filled(told, "priority") or filled(told, "alert_type")
        return Alarm(kind, word, title, filled(told, "alert_id"), text, link, severity, said_at(told, "date"), told)

    def _logged(self, operation: str, lines: Sequence[LogLine | Report]) -> Plan[Shipped]:
        body = self._gathered(operation, self._checked(operation, lines), (b"[", b"]"))
        parse = _Answer(len(lines))
        return self.post(
            "/api/v2/logs", content=compressed(body), headers=_GZIP, host="logs", repeatable=True, parse=parse
        )

    def _check(self, item: Any, field_: str) -> None:
        back, ahead = 18 * _HOUR, math.inf
        if isinstance(item, Metric):
            back, ahead = _HOUR, 600.0
            if item.kind not in _KINDS:
                raise refused(f"{field_}.kind", "this intake takes counts and gauges, no distributions")
        elif isinstance(item, Occurrence):
            ahead = 2 * _HOUR
            at_most(f"{field_}.text", item.text, 4000, "characters")
            at_most(f"{field_}.group", item.group, 100, "characters")
        recent(f"{field_}.at", item.at, self.clock.wall(), back=back, ahead=ahead)

    def _record(self, item: Any, clean: Clean = scrubbed) -> Any:
        if isinstance(item, Report):
            item = item.line()
        if isinstance(item, Metric):
            return self._series(item, clean)
        return self._line(item, clean) if isinstance(item, LogLine) else self._event(item, clean)

    def _series(self, metric: Metric, clean: Clean) -> dict[str, Any]:
        told: dict[str, Any] = {
            "metric": clean(metric.name),
            "type": _KINDS.get(metric.kind, 0),
            "points": [{"timestamp": int(metric.at), "value": metric.value}],
            "tags": self._tags(metric.tags, clean),
        }
        if metric.kind is MetricKind.COUNT:
            told["interval"] = max(round(metric.interval), 1)
        if metric.unit:
            told["unit"] = metric.unit
        if self.host:
            told["resources"] = [{"type": "host", "name": self.host}]
        return told

    def _line(self, line: LogLine, clean: Clean) -> dict[str, Any]:
        told: dict[str, Any] = clean(dict(line.attributes))
        told |= {
            "message": clean(line.message),
            "status": _STATUSES[line.level],
            "timestamp": datetime.fromtimestamp(line.at, UTC).isoformat(timespec="milliseconds"),
            "ddsource": "python",
            "ddtags": ",".join(self._tags({}, clean)),
            "hostname": self.host,
            "service": self.application,
        }
        if line.logger:
            told["logger.name"] = line.logger
        return {name: one for name, one in told.items() if one != "" or name == "message"}

    def _event(self, event: Occurrence, clean: Clean) -> dict[str, Any]:
        told = {
            "title": clean(event.title),
            "text": clean(event.text) or clean(event.title),
            "alert_type": _ALERTS[event.level],
            "date_happened": int(event.at),
            "tags": [*self._tags(event.attributes, clean), f"kind:{event.kind}"],
            "aggregation_key": clean(event.group),
            "host": self.host,
        }
        return {name: one for name, one in told.items() if one != ""}

    def _tags(self, tags: Mapping[str, Any], clean: Clean = scrubbed) -> list[str]:
        """``name:value``, with those that all have."""
        common = {"service": self.application, "env": self.environment}
        given = {**{name: one for name, one in common.items() if one}, **clean(dict(tags))}
        return [f"{name}:{str(one).lower() if isinstance(one, bool) else one}" for name, one in given.items()]


_GZIP: Final = {"Content-Type": "application/json", "Content-Encoding": "gzip"}


def _minted(exchange: Exchange) -> Minted:
    made = record(record(exchange.data).get("data"), "data")
    value = text(record(made.get("attributes"), "attributes"), "key")
    return Minted(Secret(value, name="DD_API_KEY"), text(made, "id"))


def _called(exchange: Exchange, label: str) -> list[str]:
    """Datadog's filter finds parts of names too."""
    found = [record(one, "a key") for one in items(record(exchange.data).get("data"), "data")]
    return [text(one, "id") for one in found if record(one.get("attributes"), "attributes").get("name") == label]


def _posted(exchange: Exchange) -> Shipped:
    answer = record(exchange.data)
    event = record(answer.get("event") or {}, "event")
    found = event.get("id_str") or event.get("id")
    return Shipped(1, None if found is None else str(found)[:64], answer)


def _created(exchange: Exchange) -> Shipped:
    answer = record(exchange.data)
    place: Any = answer
    for step in ("data", "attributes", "attributes", "evt"):
        place = record(place.get(step) or {}, step)
    found = place.get("uid") or place.get("id")
    return Shipped(1, found if isinstance(found, str) else None, answer)
