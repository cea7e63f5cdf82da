"""New Relic: metrics, lines of logs, events, and the notifications of its alert workflows.

Facts: services/monitoring/new_relic.md; contract: new_relic.schema.json (derived from the documentation). What is sent
and not answered is sent again with the same ``x-request-id``, as newrelic-telemetry-sdk-specs want it, by whichever
Call; that New Relic then counts it once is not promised.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final

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
from moorline.errors import AuthenticationFailed
from moorline.events.delivery import Delivers
from moorline.events.schemes.shared_secret import SharedSecret
from moorline.services.answers import optional_text, record
from moorline.services.batches import FAILED, BatchService, Caps, Clean, compressed, recent, scrubbed
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

__all__ = ["NewRelic"]

_MB: Final = 1_000_000
_DAY: Final = 86_400.0
_NAME, _VALUE = 255, 4096  # characters of an attribute
_RESERVED: Final = frozenset(
    {"interval.ms", "timestamp", "value", "common", "min", "max", "count", "sum", "metrics"}
)  # no attributes of a metric
_OF_LOGS: Final = frozenset({"eventType", "accountId"})  # dropped there
_OF_EVENTS: Final = frozenset({"accountId", "eventType", "timestamp"})
_STATES: Final = {
    "CREATED": AlarmKind.TRIGGERED,
    "ACTIVATED": AlarmKind.TRIGGERED,
    "ACKNOWLEDGED": AlarmKind.ACKNOWLEDGED,
    "UNACKNOWLEDGED": AlarmKind.CHANGED,
    "CLOSED": AlarmKind.RECOVERED,
    "RESOLVED": AlarmKind.RECOVERED,  # unconfirmed, as are the words of this list that the card has not
    "DEACTIVATED": AlarmKind.RECOVERED,
}


class NewRelic(BatchService):
    """Metrics, lines of logs and events by New Relic; ``region="eu"`` for accounts of the EU. The key is a license key
    (ingest), not one of a user or a browser; an account may hold several, so a rotation is: add, switch, delete.

    An accepted request is no proof: New Relic looks at it later, and says what was wrong with it as an
    ``NrIntegrationError`` in the account alone. So what it would drop is refused here. *account_id* names the account
    that events go to; without one it is that of the key.

    Webhooks are those of a workflow, which are not signed, and whose body is your template. The destination carries the
    secret as Basic or Bearer authorization, as a custom ``Authorization`` header, or at the end of its path. Keep
    ``"id": {{json issueId}}``, ``"state": {{json state}}`` and ``"updatedAt": {{json updatedAt}}`` in the template:
    together they are the event's id (an issue tells of itself many times), the state is its type; ``read_event`` knows
    the title, ``issueUrl`` and ``priority`` of the default template as well. Without all three, two equal bodies are
    one event if they come within the same minute, and two otherwise.

    Facts: services/monitoring/new_relic.md; contract: new_relic.schema.json.
    """

    name, category = "new_relic", "monitoring"
    docs = "services/monitoring/new_relic.md, new_relic.schema.json"
    endpoints = Endpoints(  # of events; the hosts of the EU follow no pattern, and that of metrics is unconfirmed
        "https://insights-collector.newrelic.com",
        {"eu": "https://insights-collector.eu01.nr-data.net"},
        {
            "logs": Endpoints("https://log-api.newrelic.com", {"eu": "https://log-api.eu.newrelic.com"}),
            "metrics": Endpoints("https://metric-api.newrelic.com", {"eu": "https://metric-api.eu.newrelic.com"}),
        },
    )
    credentials = BearerKey(
        env="NEW_RELIC_LICENSE_KEY", sandbox="5a17d80e5a17d80e5a17d80e5a17d80e5a17NRAL", header="Api-Key", scheme=""
    )
    account_id = Parameter("NEW_RELIC_ACCOUNT_ID", default="", like="[0-9]*")
    limits = RateLimitHeaders(apart=True, silent=60)  # events say no time: the limit is that of a minute
    errors = ErrorMap(  # what their bodies say is unconfirmed
        message="error.message|error|message", statuses={403: AuthenticationFailed}, retry=FAILED
    )
    caps: ClassVar[Mapping[str, Caps]] = {  # bytes as they are sent; the numbers of items are ours
        "capture": Caps(1, _MB, _MB),
        "send_metrics": Caps(2000, _MB, _MB),
        "send_logs": Caps(2000, _MB, _MB),
        "send_events": Caps(2000, _MB, _MB),
    }
    webhooks = SharedSecret(
        env="NEW_RELIC_WEBHOOK_SECRET",  # ours: the sender gives it no name
        id=("id", "state", "updatedAt"),  # the names of these variables are unconfirmed
        templated=True,
        lacking="digest",
        type=("event_type", "state"),
        typed=False,
        action="trigger",
        repeats_after=60,
        delivers=Delivers(),
    )
    usage: ClassVar[str] = """
from moorline.services import NewRelic
from moorline.services.monitoring.protocol import LogLine

print(NewRelic().send_logs([LogLine("moored", "info", {"quay": 3})]).result().id)
"""

    @operation
    def capture(self, /, report: Report) -> Plan[Shipped]:
        """Report an error or a message as a line of the log, with ``error.kind``, ``error.message`` and
        ``error.stack``: no intake of errors is documented. Raises as ``send_logs``.
        """
        return self._logged("capture", [report])

    @operation
    def send_metrics(self, /, metrics: Sequence[Metric]) -> Plan[Shipped]:
        """Send points, of 1 MB together. A distribution is a summary of one.

        Raises InvalidRequest, naming the point and the limit, for names over 254 characters, more than 100 tags, those
        that New Relic reserves, and times more than 48 hours ago or 24 hours ahead.
        """
        pieces = self._checked("send_metrics", metrics)
        return self._sent("/metric/v1", "metrics", self._gathered("send_metrics", pieces, _METRICS), len(metrics))

    @operation
    def send_logs(self, /, lines: Sequence[LogLine]) -> Plan[Shipped]:
        """Send lines, of 1 MB together.

        Raises InvalidRequest, naming the line and the limit, for more than 255 attributes, the names that New Relic
        drops, and times more than 48 hours ago.
        """
        return self._logged("send_logs", lines)

    @operation
    def send_events(self, /, events: Sequence[Occurrence]) -> Plan[Shipped]:
        """Send events, of 1 MB together: *kind* is the ``eventType``, and title, text, level and group are attributes
        beside the event's own; true and false go as text.

        Raises InvalidRequest, naming the event and the limit, for more than 255 attributes, texts over 4096 characters,
        and times more than 24 hours ago.
        """
        body = self._gathered("send_events", self._checked("send_events", events), (b"[", b"]"))
        account = f"/{segment(self.account_id, 'account_id')}" if self.account_id else ""
        return self._sent(f"/v1/accounts{account}/events", "", body, len(events))

    @operation
    def check(self) -> Plan[bool]:
        """True if the license key is good. Nothing can be asked with it, so this sends one point of the metric
        ``moorline.check``. Raises AuthenticationFailed.
        """
        point = Metric("moorline.check", 1, MetricKind.GAUGE, at=self.clock.wall())
        body = self._gathered("send_metrics", self._checked("send_metrics", [point]), _METRICS)
        return self._sent("/metric/v1", "metrics", body, 1, lambda exchange: record(exchange.data) is not None)

    @classmethod
    def read_event(cls, event: Event) -> Alarm | None:
        """What a notification means, by the fields that the template has; None without a state that is known.

        Raises BadAnswer for an event of another shape.
        """
        told = record(event.payload, "the event")
        state = filled(told, "state")
        kind = _STATES.get((state or "").upper())
        if kind is None or state is None:
            return None
        title = filled(told, "title") or state
        subject, text, link = filled(told, "id"), filled(told, "description") or "", filled(told, "issueUrl")
        severity, at = filled(told, "priority"), said_at(told, "updatedAt")
        return Alarm(kind, state, title, subject, text, link, severity, at, told)

    def _logged(self, operation: str, lines: Sequence[LogLine | Report]) -> Plan[Shipped]:
        body = self._gathered(operation, self._checked(operation, lines), (b'[{"logs":[', b"]}]"))
        return self._sent("/log/v1", "logs", body, len(lines))

    def _sent(self, path: str, host: str, body: bytes, count: int, parse: Any = None) -> Plan[Any]:
        headers = {
            "Content-Type": "application/json",
            "Content-Encoding": "gzip",
            "x-request-id": _id_of(body),
        }
        content = compressed(body)
        at_most("batch", content, _MB, "bytes, compressed")
        read = parse or partial(_accepted, count)
        return self.post(path, content=content, headers=headers, host=host, repeatable=True, parse=read)

    # Items -----------------------------------------------------------------------------------------------------------

    def _check(self, item: Any, field_: str) -> None:
        now = self.clock.wall()
        if isinstance(item, Metric):
            at_most(f"{field_}.name", item.name, _NAME - 1, "characters")
            _attributes(f"{field_}.tags", item.tags, 100, _RESERVED | {item.name})
            recent(f"{field_}.at", item.at, now, back=2 * _DAY, ahead=_DAY)
        elif isinstance(item, Occurrence):
            _attributes(f"{field_}.attributes", _told(item), 254, frozenset())
            _attributes(f"{field_}.attributes", item.attributes, 254, _OF_EVENTS)
            if type(item.attributes.get("appId", 0)) is not int:
                raise refused(f"{field_}.attributes[appId]", "must be a whole number")
            recent(f"{field_}.at", item.at, now, back=_DAY)
        else:
            line = item.line() if isinstance(item, Report) else item
            _attributes(f"{field_}.attributes", line.attributes, 250, _OF_LOGS, longest=_MB)
            recent(f"{field_}.at", item.at, now, back=2 * _DAY)

    def _record(self, item: Any, clean: Clean = scrubbed) -> Any:
        if isinstance(item, Report):
            item = item.line()
        if isinstance(item, Metric):
            return _point(item, clean)
        if isinstance(item, LogLine):
            attributes = {**clean(dict(item.attributes)), "level": item.level}
            attributes |= {"logger.name": item.logger} if item.logger else {}
            attributes |= {"trace.id": item.trace} if item.trace else {}
            return {"timestamp": _ms(item.at), "message": clean(item.message), "attributes": attributes}
        return {**clean(_told(item)), "eventType": item.kind, "timestamp": _ms(item.at)}


def _id_of(payload: bytes) -> str:
    """The same in whichever Call it goes: one of a batcher's, or of a job's. What is divided has others."""
    return str(uuid.UUID(bytes=hashlib.sha256(payload).digest()[:16], version=4))


_METRICS: Final = (b'[{"metrics":[', b"]}]")


def _point(metric: Metric, clean: Clean) -> dict[str, Any]:
    told: dict[str, Any] = {
        "name": clean(metric.name),
        "type": metric.kind.value,
        "value": metric.value,
        "timestamp": _ms(metric.at),
        "attributes": clean(dict(metric.tags)),
    }
    if metric.unit:
        told["attributes"].setdefault("unit", metric.unit)
    if metric.kind is MetricKind.DISTRIBUTION:
        one = metric.value
        told |= {"type": "summary", "value": {"count": 1, "sum": one, "min": one, "max": one}}
    if metric.kind is not MetricKind.GAUGE:
        told["interval.ms"] = max(round(metric.interval * 1000), 1)
    return told


def _told(event: Occurrence) -> dict[str, Any]:
    """The attributes of an event: texts and numbers."""
    told: dict[str, Any] = {"title": event.title, "text": event.text, "level": event.level, "group": event.group}
    told |= {name: str(one).lower() if isinstance(one, bool) else one for name, one in event.attributes.items()}
    return {name: one for name, one in told.items() if one != ""}


def _attributes(
    field_: str, given: Mapping[str, Any], most: int, dropped: frozenset[str], *, longest: int = _VALUE
) -> None:
    at_most(field_, given, most, "entries")
    for name, one in given.items():
        at_most(f"{field_}[{name[:60]}]", name, _NAME, "characters in its name")
        if name in dropped:
            raise refused(f"{field_}[{name}]", "would be dropped: New Relic has this name for itself")
        if isinstance(one, str):
            at_most(f"{field_}[{name}]", one, longest, "characters")


def _ms(at: float) -> int:
    """Whole milliseconds: a fraction would be replaced by the time of arrival."""
    return int(at * 1000)


def _accepted(count: int, exchange: Exchange) -> Shipped:
    answer = record(exchange.data)
    return Shipped(count, optional_text(answer, "requestId") or optional_text(answer, "uuid"), answer)
