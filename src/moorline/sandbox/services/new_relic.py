"""New Relic's stand-in: the intakes of metrics, logs and events, and the webhooks of a workflow.

Facts: services/monitoring/new_relic.md and new_relic.schema.json. The license key is
``5a17d80e5a17d80e5a17d80e5a17d80e5a17NRAL``. As at New Relic, what is wrong within a body is answered with success, and
told as an ``NrIntegrationError``, which the state has. The sandbox's own: an event of the type ``SandboxAlert`` opens
an issue, with ``"state": "closed"`` it closes it.
"""

from __future__ import annotations

import json
import re
import uuid
from typing import Any

from moorline.errors import ConfigurationError
from moorline.sandbox import signing
from moorline.sandbox.services._intake import Refused, inflated, read_json
from moorline.sandbox.standin import Answer, Ask, Emission, Registration, Signed, Surroundings

__all__ = ["STAND_IN"]

_KEY = "5a17d80e5a17d80e5a17d80e5a17d80e5a17NRAL"
_MOST = 1_000_000
_INFLATED = 32 * 1024 * 1024
_DAY = 86_400_000
_RESERVED = frozenset({"interval.ms", "timestamp", "value", "common", "min", "max", "count", "sum", "metrics"})
_EVENTS = ("ACTIVATED", "ACKNOWLEDGED", "CLOSED")


class NewRelicStandIn:
    """One account."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._metrics: list[Any] = []
        self._logs: list[Any] = []
        self._events: list[Any] = []
        self._wrong: list[dict[str, str]] = []
        self._issues: dict[str, str] = {}

    async def handle(self, ask: Ask) -> Answer:
        """Answer one request."""
        try:
            return await self._routed(ask)
        except Refused as refused:
            return refused.answer

    def snapshot(self) -> dict[str, Any]:
        """What was kept, and what was told to be wrong after it was accepted."""
        kept = {"metrics": self._metrics, "logs": self._logs, "events": self._events}
        return {**kept, "integration_errors": self._wrong}

    def failure(self, status: int) -> Answer:
        """New Relic's error body for an injected status."""
        return Answer(status, {"error": {"message": "Rate limit exceeded" if status == 429 else "Service unavailable"}})

    def sample(self, event: str) -> bytes:
        """A body by the default template of a workflow."""
        if event not in _EVENTS:
            raise ConfigurationError(f"'event' must be one of {', '.join(_EVENTS)}")
        return self._body(event, "d1b1f3fd-995a-4066-88ab-8ce4f6960654", "Memory Used % > 90 for at least 2 minutes")

    def sign(self, emission: Emission, *, url: str, secrets: tuple[str, ...], hook_id: str, broken: bool) -> Signed:
        """The secret is shown, as the destination's Basic authentication has it."""
        now, headers = self._around.clock.wall(), {"Content-Type": "application/json"}
        return signing.signed("new_relic", emission, url=url, secrets=secrets, broken=broken, now=now, headers=headers)

    async def _routed(self, ask: Ask) -> Answer:
        events = re.fullmatch(r"/v1/accounts(?:/\d+)?/events", ask.path)
        if not events and ask.path not in ("/log/v1", "/metric/v1"):
            raise _refused(404, "not found")
        if ask.method != "POST":
            raise _refused(405, "only POST")
        if ask.headers.get("api-key") != _KEY:
            raise _refused(403, "invalid license key")
        if len(ask.body) > _MOST:
            raise _refused(413, "payload too large")
        if ask.headers.get("content-type", "").partition(";")[0] != "application/json":
            raise _refused(415, "content type must be application/json")
        await ask.work()
        number = str(uuid.UUID(int=self._around.random.getrandbits(128), version=4))
        try:
            given = read_json(inflated(ask, _INFLATED))
        except (ValueError, OverflowError, RecursionError) as error:
            self._note(number, f"malformed JSON: {error}")
        else:
            (self._take_events if events else self._take_logs if ask.path == "/log/v1" else self._take_metrics)(
                number, given
            )
        if events:
            return Answer(200, {"success": True, "uuid": number})
        return Answer(202, {"requestId": number})

    def _note(self, number: str, message: str) -> None:
        self._wrong.append({"requestId": number, "message": message})

    def _take_metrics(self, number: str, given: Any) -> None:
        if not isinstance(given, list) or not all(isinstance(one, dict) and "metrics" in one for one in given):
            self._note(number, "a metric payload is an array of objects with metrics")
            return
        now = self._around.now() * 1000
        for wrapper in given:
            common = wrapper.get("common", {})
            for one in wrapper["metrics"]:
                metric = {**{name: common[name] for name in ("timestamp", "interval.ms") if name in common}, **one}
                wrong = _wrong_metric(metric, now)
                if wrong:
                    self._note(number, wrong)
                else:
                    self._metrics.append(metric)

    def _take_logs(self, number: str, given: Any) -> None:
        wrappers = [{"logs": [given]}] if isinstance(given, dict) else given
        if not isinstance(wrappers, list) or not all(isinstance(one, dict) and "logs" in one for one in wrappers):
            self._note(number, "a log payload is an object, or an array of objects with logs")
            return
        for wrapper in wrappers:
            for one in wrapper["logs"]:
                attributes = {**wrapper.get("common", {}).get("attributes", {}), **one.get("attributes", {})}
                kept = {name: value for name, value in attributes.items() if name not in ("eventType", "accountId")}
                self._logs.append({**one, "attributes": kept})

    def _take_events(self, number: str, given: Any) -> None:
        for one in given if isinstance(given, list) else [given]:
            if not isinstance(one, dict) or not re.fullmatch(r"[A-Za-z0-9_:]{1,255}", str(one.get("eventType", ""))):
                self._note(number, "eventType is missing or malformed")
                continue
            wrong = [name for name, value in one.items() if isinstance(value, bool) or not _plain(value)]
            if wrong or len(one) > 255:
                self._note(number, f"attributes that are neither text nor number: {', '.join(wrong)}")
                continue
            kept = {name: value for name, value in one.items() if name != "accountId"}
            if not isinstance(one.get("timestamp", 0), int):
                kept["timestamp"] = self._around.now() * 1000
            self._events.append(kept)
            if one["eventType"] == "SandboxAlert":
                self._alert(kept)

    def _alert(self, event: dict[str, Any]) -> None:
        title, closed = str(event.get("title", "an alert")), event.get("state") == "closed"
        if closed is (title not in self._issues):
            return
        if closed:
            number, state = self._issues.pop(title), "CLOSED"
        else:
            number = str(uuid.UUID(int=self._around.random.getrandbits(128), version=4))
            self._issues[title], state = number, "ACTIVATED"
        self._around.emit(Emission(state, self._body(state, number, title), self._around.id("", 32)))

    def _body(self, state: str, number: str, title: str) -> bytes:
        told = {
            "id": number,
            "issueUrl": f"https://radar-api.service.newrelic.com/accounts/1/issues/{number}",
            "title": title,
            "priority": "CRITICAL",
            "state": state,
            "trigger": "STATE_CHANGE",
            "createdAt": self._around.now() * 1000,
            "updatedAt": self._around.now() * 1000,
        }
        return json.dumps(told, separators=(",", ":")).encode()


def _refused(status: int, message: str) -> Refused:
    return Refused(Answer(status, {"error": {"message": message}}))


def _plain(value: Any) -> bool:
    return isinstance(value, int | float) or (isinstance(value, str) and len(value) <= 4096)


def _wrong_metric(metric: Any, now: int) -> str:
    """Why New Relic drops it; empty where it does not."""
    name, kind, value = metric.get("name"), metric.get("type", "gauge"), metric.get("value")
    attributes = metric.get("attributes", {})
    if not isinstance(name, str) or not 0 < len(name) < 255 or kind not in ("count", "gauge", "summary"):
        return "name or type is wrong"
    if (kind == "summary") is not isinstance(value, dict) or value is None:
        return f"{name}: the value does not fit the type"
    if kind != "gauge" and not (isinstance(metric.get("interval.ms"), int) and metric["interval.ms"] > 0):
        return f"{name}: interval.ms is needed"
    at = metric.get("timestamp")
    if not isinstance(at, int) or not now - 2 * _DAY <= at <= now + _DAY:
        return f"{name}: the timestamp is missing, too old or too new"
    if len(attributes) > 100 or _RESERVED & attributes.keys() or name in attributes:
        return f"{name}: too many attributes, or a reserved name"
    return ""


STAND_IN = Registration(name="new_relic", make=NewRelicStandIn, secret="sandbox:of-new-relic", events=_EVENTS)
