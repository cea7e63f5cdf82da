"""Datadog's stand-in: the intakes of metrics, logs and events, and the webhooks of monitors.

Facts: services/monitoring/datadog.md and datadog.json. One organisation, whose API key and application key are both
``5a17d80e5a17d80e5a17d80e5a17d80e``. As at Datadog, what is too old or too new is dropped without a word, and a log
over 1 MB is cut off; the state tells how many. The sandbox's own: a gauge named ``sandbox.alert`` is watched by a
monitor, which triggers above 0 and recovers at 0.
"""

from __future__ import annotations

import json
from typing import Any

from moorline.errors import ConfigurationError
from moorline.sandbox import signing
from moorline.sandbox.services._intake import Refused, inflated, read_json
from moorline.sandbox.services._made_keys import MadeKeys
from moorline.sandbox.standin import Answer, Ask, Emission, Registration, Signed, Surroundings

__all__ = ["STAND_IN"]

_KEY = "5a17d80e5a17d80e5a17d80e5a17d80e"
_MOST = {"/api/v2/series": 5_242_880, "/api/v2/logs": 5_000_000, "/api/v1/events": 100_000, "/api/v2/events": 100_000}
_COMPRESSED = 512_000
_LOG = 1_000_000
_ALERTS = ("error", "warning", "info", "success", "user_update", "recommendation", "snapshot")
_EVENTS = ("query_alert_monitor.Triggered", "query_alert_monitor.Warn", "query_alert_monitor.Recovered")


def _texts(status: int, *errors: str) -> Refused:
    return Refused(Answer(status, {"errors": list(errors)}))


def _objects(status: int, title: str, detail: str) -> Refused:
    return Refused(Answer(status, {"errors": [{"status": str(status), "title": title, "detail": detail}]}))


class DatadogStandIn:
    """One organisation."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._series: list[dict[str, Any]] = []
        self._logs: list[dict[str, Any]] = []
        self._events: list[dict[str, Any]] = []
        self._dropped = {"points": 0, "logs": 0, "cut": 0}
        self._alerting = False
        self._made = MadeKeys()

    async def handle(self, ask: Ask) -> Answer:
        """Answer one request."""
        try:
            key = ask.headers.get("dd-api-key", "")
            if key != _KEY and not self._made.is_good(key):
                raise _texts(403, "Forbidden")
            await ask.work()
            return self._routed(ask)
        except Refused as refused:
            return refused.answer

    def snapshot(self) -> dict[str, Any]:
        """What was taken, and how much was dropped without a word; the keys that were made."""
        taken = {"series": self._series, "logs": self._logs, "events": self._events, "dropped": self._dropped}
        return {**taken, "api_keys": self._made.shown()}

    def failure(self, status: int) -> Answer:
        """Datadog's error body for an injected status."""
        if status == 429:
            limits = {"X-RateLimit-Limit": "500000", "X-RateLimit-Period": "3600", "X-RateLimit-Remaining": "0"}
            return Answer(429, {"errors": ["Rate limit exceeded"]}, {**limits, "X-RateLimit-Reset": "7"})
        return Answer(status, {"errors": ["Internal error"]})

    def sample(self, event: str) -> bytes:
        """A body by the template that the service's documentation recommends."""
        if event not in _EVENTS:
            raise ConfigurationError(f"'event' must be one of {', '.join(_EVENTS)}")
        kind, _, transition = event.partition(".")
        told = {
            "id": str(self._around.random.randrange(10**18, 10**19)),
            "date": str(self._around.now() * 1000),
            "event_type": kind,
            "transition": transition,
            "title": f"[{transition} on {{host:web-1}}] The load is high",
            "text": "system.load.1 over host:web-1 was > 2 at least once during the last 5m.",
            "link": "https://app.datadoghq.com/monitors/1234",
            "alert_id": "1234",
            "priority": "P2",
        }
        return json.dumps(told, separators=(",", ":")).encode()

    def sign(self, emission: Emission, *, url: str, secrets: tuple[str, ...], hook_id: str, broken: bool) -> Signed:
        """The secret is shown, as Datadog's custom header has it."""
        now, headers = self._around.clock.wall(), {"Content-Type": "application/json"}
        return signing.signed("datadog", emission, url=url, secrets=secrets, broken=broken, now=now, headers=headers)

    def _routed(self, ask: Ask) -> Answer:
        if (ask.method, ask.path) == ("GET", "/api/v1/validate"):
            return Answer(200, {"valid": True})
        if ask.path.partition("/api/v2/api_keys")[:2] == ("", "/api/v2/api_keys"):
            return self._api_keys(ask)
        if ask.method != "POST" or ask.path not in _MOST:
            raise _texts(404, "Not found")
        try:
            given = read_json(inflated(ask, _MOST[ask.path]))
        except OverflowError:
            raise self._refused(ask, 413, "Payload too large") from None
        except (ValueError, RecursionError) as error:
            raise self._refused(ask, 400, f"Invalid payload: {error}") from None
        take = {
            "/api/v2/series": self._take_series,
            "/api/v2/logs": self._take_logs,
            "/api/v1/events": self._take_event,
            "/api/v2/events": self._take_new_event,
        }
        return take[ask.path](ask, given)

    def _api_keys(self, ask: Ask) -> Answer:
        if ask.headers.get("dd-application-key") != _KEY:
            raise _texts(403, "Forbidden")
        if ask.path == "/api/v2/api_keys" and ask.method == "GET":
            named = dict(ask.parameters).get("filter", "")
            held = self._made.listed().items()
            found = [{"type": "api_keys", "id": one, "attributes": told} for one, told in held if named in told["name"]]
            return Answer(200, {"data": found})
        if ask.path == "/api/v2/api_keys" and ask.method == "POST":
            try:
                data = read_json(ask.body)["data"]
                kind, label = data["type"], data["attributes"]["name"]
            except (ValueError, KeyError, TypeError):
                raise _texts(400, "Bad Request") from None
            if kind != "api_keys" or not isinstance(label, str) or not label:
                raise _texts(400, "Bad Request")
            name, key = (f"{self._around.random.getrandbits(128):032x}" for _ in range(2))
            told = {"name": label, "last4": key[-4:]}
            self._made.add(name, key, **told)
            return Answer(201, {"data": {"type": "api_keys", "id": name, "attributes": {**told, "key": key}}})
        if ask.method != "DELETE" or not self._made.delete(ask.path.rpartition("/")[2]):
            raise _texts(404, "API Key not found")
        return Answer(204)

    @staticmethod
    def _refused(ask: Ask, status: int, why: str) -> Refused:
        return _objects(status, "Bad request", why) if ask.path == "/api/v2/logs" else _texts(status, why)

    def _take_series(self, ask: Ask, given: Any) -> Answer:
        if ask.headers.get("content-encoding") and len(ask.body) > _COMPRESSED:
            raise _texts(413, "Payload too large")
        series = given.get("series") if isinstance(given, dict) else None
        if not isinstance(series, list):
            raise _texts(400, "series is required")
        now = self._around.clock.wall()
        for one in series:
            if not isinstance(one, dict) or not isinstance(one.get("metric"), str) or not one.get("points"):
                raise _texts(400, "metric and points are required")
            if one.get("type", 0) not in (0, 1, 2, 3) or isinstance(one.get("interval", 1), float):
                raise _texts(400, "type must be 0 to 3, interval an integer")
            if not all(isinstance(point.get("timestamp"), int) and "value" in point for point in one["points"]):
                raise _texts(400, "a point has a timestamp in whole seconds, and a value")
            timely = [point for point in one["points"] if -3600 <= point["timestamp"] - now <= 600]
            self._dropped["points"] += len(one["points"]) - len(timely)
            if timely:
                self._series.append({**one, "points": timely})
                self._watch(one["metric"], timely[-1]["value"])
        return Answer(202, {"errors": []})

    def _watch(self, metric: str, value: float) -> None:
        if metric != "sandbox.alert" or (value > 0) is self._alerting:
            return
        self._alerting = value > 0
        event = _EVENTS[0] if self._alerting else _EVENTS[2]
        self._around.emit(Emission(event, self.sample(event), self._around.id("", 32)))

    def _take_logs(self, ask: Ask, given: Any) -> Answer:
        lines = [given] if isinstance(given, dict) else given
        if not isinstance(lines, list) or len(lines) > 1000:
            raise self._refused(ask, 400 if not isinstance(lines, list) else 413, "up to 1000 logs are an array")
        for one in lines:
            if not isinstance(one, dict) or not isinstance(one.get("message"), str):
                raise self._refused(ask, 400, "message is required")
        for one in lines:
            if len(json.dumps(one).encode()) > _LOG:
                self._dropped["cut"] += 1
            self._logs.append(one)
        return Answer(202, {})

    def _take_event(self, _ask: Ask, given: Any) -> Answer:
        if not isinstance(given, dict) or not given.get("title") or not given.get("text"):
            raise _texts(400, "title and text are required")
        if len(given["text"]) > 4000 or len(given.get("aggregation_key", "")) > 100:
            raise _texts(400, "text is limited to 4000 characters, aggregation_key to 100")
        if given.get("alert_type", "info") not in _ALERTS or given.get("priority", "normal") not in ("normal", "low"):
            raise _texts(400, "unknown alert_type or priority")
        if not isinstance(given.get("date_happened", 0), int):
            raise _texts(400, "date_happened must be an integer")
        number = 6_000_000_000_000_000_000 + len(self._events)
        self._events.append(given)
        url = f"https://app.datadoghq.com/event/event?id={number}"
        event = {**given, "id": number, "id_str": str(number), "url": url}
        return Answer(202, {"status": "ok", "event": event})

    def _take_new_event(self, ask: Ask, given: Any) -> Answer:
        if ask.headers.get("dd-application-key") != _KEY:
            raise _objects(403, "Forbidden", "an application key is needed")
        data = given.get("data") if isinstance(given, dict) else None
        told = data.get("attributes") if isinstance(data, dict) and data.get("type") == "event" else None
        if not isinstance(told, dict) or not told.get("title") or not isinstance(told.get("attributes"), dict):
            raise _objects(400, "Invalid request", "data.attributes needs title, category and attributes")
        if told.get("category") not in ("alert", "change") or len(told["title"]) > 500:
            raise _objects(400, "Invalid request", "unknown category, or a title over 500 characters")
        if told["category"] == "alert" and told["attributes"].get("status") not in ("error", "ok", "warn"):
            raise _objects(400, "Invalid request", "an alert needs its status")
        self._events.append(told)
        uid = self._around.id("", 22)
        event = {"attributes": {"attributes": {"evt": {"id": str(len(self._events)), "uid": uid}}}, "type": "event"}
        return Answer(202, {"data": event, "links": {"self": f"https://app.datadoghq.com/event/{uid}"}})


STAND_IN = Registration(name="datadog", make=DatadogStandIn, secret="sandbox:of-datadog", events=_EVENTS)
