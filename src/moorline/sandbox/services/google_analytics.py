"""Google Analytics' stand-in: the collection endpoint, which answers 204 to anything, and the validation server.

Facts: services/analytics/google_analytics.md and google_analytics.schema.json. The stream is ``G-SANDBOX123`` (or the
application ``1:1:web:sandbox``), its secret ``sandbox-api-secret-0123``. What was kept is under ``events``; what was
dropped without a word (a wrong secret, malformed, too old) is under ``dropped``, with the reason. As at Google nothing
is known twice but a ``purchase`` by its ``transaction_id``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from moorline.sandbox.services._facts import Ledger, NoWebhooks, TooLarge, not_found, read_json
from moorline.sandbox.standin import Answer, Ask, Registration, Surroundings

__all__ = ["STAND_IN"]

_SECRET = "sandbox-api-secret-0123"
_STREAMS = {("measurement_id", "G-SANDBOX123"), ("firebase_app_id", "1:1:web:sandbox")}
_MOST, _PARAMS, _USER_PROPERTIES = 25, 25, 25
_BYTES = 130_000
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,39}")
_USER_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,23}")
_RESERVED = {
    "ad_click", "app_remove", "error", "first_open", "first_visit", "in_app_purchase", "session_start",
    "user_engagement",
}  # fmt: skip
_PREFIXES = ("_", "firebase_", "ga_", "google_", "gtag.")
_LONGER = {"page_location": 1000, "page_referrer": 420, "page_title": 300}
_THREE_DAYS = 72 * 3600
_HASH = re.compile("[0-9a-f]{64}")
_CODES = {"ad_user_data", "ad_personalization"}
_Message = dict[str, str]


class GoogleAnalyticsStandIn(NoWebhooks):
    """One stream."""

    _vendor = "Google Analytics"

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._ledger = Ledger()
        self._dropped: list[str] = []
        self._validated = 0

    async def handle(self, ask: Ask) -> Answer:
        """Answer one request."""
        if ask.path not in ("/mp/collect", "/debug/mp/collect"):
            return not_found()
        if ask.method != "POST":
            return Answer(405, b"Method Not Allowed")
        await ask.work()
        try:
            body, size = read_json(ask)
        except (ValueError, TooLarge):
            body, size = None, 0
        problems = list(self._problems(body, size))
        if ask.path.startswith("/debug"):
            self._validated += 1
            return Answer(200, {"validationMessages": problems})
        asked = dict(ask.parameters)
        known = asked.get("api_secret") == _SECRET and any(pair in _STREAMS for pair in asked.items())
        if problems or not known:
            self._dropped.append(problems[0]["description"] if problems else "no stream has this secret")
        else:
            self._keep(body)
        return Answer(204)

    def snapshot(self) -> dict[str, Any]:
        """The events, each with who it is about, why others were dropped, and how many requests were validated."""
        kept = {"events": self._ledger.events, "duplicates": self._ledger.duplicates}
        return {**kept, "dropped": self._dropped, "validated": self._validated}

    def failure(self, status: int) -> Answer:
        """Google's error page for an injected status."""
        return Answer(status, b"<html><title>Error</title></html>", {"content-type": "text/html"})

    def _keep(self, body: dict[str, Any]) -> None:
        who = {name: value for name, value in body.items() if name != "events"}
        for event in body["events"]:
            bought = event["name"] == "purchase" and event.get("params", {}).get("transaction_id")
            self._ledger.add({**event, "request": who}, bought or None)

    def _problems(self, body: Any, size: int) -> Iterator[_Message]:
        if not isinstance(body, dict) or size > _BYTES:
            yield _message("", "Unable to parse Measurement Protocol JSON payload.", "VALUE_INVALID")
            return
        if not any(isinstance(body.get(name), str) and body[name] for name in ("client_id", "app_instance_id")):
            yield _message("client_id", "Measurement requires a client_id.", "VALUE_REQUIRED")
        yield from _about_user(body)
        events = body.get("events")
        if not isinstance(events, list) or not events:
            yield _message("events", "Measurement requires at least one event.", "VALUE_REQUIRED")
            return
        if len(events) > _MOST:
            yield _message("events", f"A request has at most {_MOST} events.", "EXCEEDED_MAX_ENTITIES")
        for place, event in enumerate(events):
            yield from self._about_event(place, event)

    def _about_event(self, place: int, event: Any) -> Iterator[_Message]:
        where = f"Event at index: [{place}]"
        name = event.get("name") if isinstance(event, dict) else None
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            told = "Names must be 40 characters or fewer, letters, figures and _, and begin with a letter."
            yield _message("events", f"{where} has invalid name [{name}]. {told}", "NAME_INVALID")
            return
        if name in _RESERVED:
            yield _message("events", f"{where} has name [{name}] which is reserved.", "NAME_RESERVED")
        at = event.get("timestamp_micros")
        if at is not None and not _recent(at, self._around.clock.wall()):
            yield _message("events.timestamp_micros", f"{where} is out of bounds in time.", "VALUE_OUT_OF_BOUNDS")
        params = event.get("params", {})
        if not isinstance(params, dict):
            yield _message("events.params", f"{where} has params that are no object.", "VALUE_INVALID")
            return
        if len(params) > _PARAMS:
            yield _message("events.params", f"{where} has more than {_PARAMS} params.", "EXCEEDED_MAX_ENTITIES")
        for key, value in params.items():
            if not _NAME.fullmatch(key):
                yield _message(f"events.params.{key}", f"{where} has param [{key}] of invalid name.", "NAME_INVALID")
            elif key.startswith(_PREFIXES):
                yield _message(f"events.params.{key}", f"{where} has a reserved param [{key}].", "NAME_RESERVED")
            elif not _fits(key, value):
                yield _message(f"events.params.{key}", f"{where} has param [{key}] of invalid value.", "VALUE_INVALID")


def _about_user(body: dict[str, Any]) -> Iterator[_Message]:
    known = body.get("user_properties", {})
    if len(known) > _USER_PROPERTIES:
        yield _message("user_properties", "There are too many user properties.", "EXCEEDED_MAX_ENTITIES")
    for name, value in known.items():
        if not _USER_NAME.fullmatch(name):
            yield _message(f"user_properties.{name}", "The name is invalid.", "NAME_INVALID")
        if not isinstance(value, dict) or len(str(value.get("value", "x" * 99))) > 36:
            yield _message(f"user_properties.{name}", "The value is invalid.", "VALUE_INVALID")
    for name, value in body.get("consent", {}).items():
        if name not in _CODES or value not in ("GRANTED", "DENIED"):
            yield _message(f"consent.{name}", "The value is invalid.", "VALUE_INVALID")
    for name in ("sha256_email_address", "sha256_phone_number"):
        if not all(_HASH.fullmatch(str(one)) for one in body.get("user_data", {}).get(name, [])):
            yield _message(f"user_data.{name}", "The value is no SHA-256 in hexadecimal.", "VALUE_INVALID")


def _message(field: str, description: str, code: str) -> _Message:
    return {"fieldPath": field, "description": description, "validationCode": code}


def _recent(at: Any, now: float) -> bool:
    try:
        return now - _THREE_DAYS <= int(at) / 1_000_000 <= now + 3600
    except (TypeError, ValueError):
        return False


def _fits(key: str, value: Any) -> bool:
    if key == "items":
        return isinstance(value, list) and all(isinstance(one, dict) for one in value)
    if isinstance(value, str):
        return len(value) <= _LONGER.get(key, 100)
    return isinstance(value, int | float) and not isinstance(value, bool)


STAND_IN = Registration(name="google_analytics", make=GoogleAnalyticsStandIn)
