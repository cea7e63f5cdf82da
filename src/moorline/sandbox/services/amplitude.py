"""Amplitude's stand-in: HTTP V2 and Batch, which take a request as a whole or not at all.

Facts: services/analytics/amplitude.md and amplitude.schema.json. The key is ``0123456789abcdef0123456789abcdef``. An
event is kept once by ``insert_id`` and device, which for one without is made up of the user's id. The sandbox's own, by
how a ``user_id`` or ``device_id`` begins: ``throttled`` is over its events for a second (429), ``quota`` over those for
a day (429), ``silenced`` is a device that Amplitude does not listen to (400).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from moorline.sandbox.services._facts import Ledger, NoWebhooks, TooLarge, not_found, read_json
from moorline.sandbox.standin import Answer, Ask, Registration, Surroundings

__all__ = ["STAND_IN"]

_KEY = "0123456789abcdef0123456789abcdef"
_MOST = 2000
_BYTES = {"/2/httpapi": 1024 * 1024, "/batch": 20 * 1024 * 1024}
_SHORTEST = 5
_LONGEST = 1024
_WEEK = 7 * 86_400
_NOBODY = {
    "anonymous", "nil", "none", "null", "n/a", "na", "undefined", "unknown", "", "{}", "0", "-1", "lmy47d",
    "00000000-0000-0000-0000-000000000000",
}  # fmt: skip
_TYPES: dict[str, type | tuple[type, ...]] = {
    "event_type": str,
    "time": int,
    "event_properties": dict,
    "user_properties": dict,
    "groups": dict,
    "group_properties": dict,
    "insert_id": str,
    "session_id": int,
    "event_id": int,
    "price": (int, float),
    "quantity": int,
    "revenue": (int, float),
    "ip": str,
}


class AmplitudeStandIn(NoWebhooks):
    """One project."""

    _vendor = "Amplitude"

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._ledger = Ledger()

    async def handle(self, ask: Ask) -> Answer:
        """Answer one request."""
        if ask.method != "POST" or ask.path not in _BYTES:
            return not_found()
        try:
            body, size = read_json(ask)
        except ValueError:
            return _bad("Invalid JSON request body")
        except TooLarge:
            return _too_large()
        await ask.work()
        if size > _BYTES[ask.path]:
            return _too_large()
        if not isinstance(body, dict):
            return _bad("Invalid JSON request body")
        if not body.get("api_key"):
            return _bad("Request missing required field", missing_field="api_key")
        if body["api_key"] != _KEY:
            return _bad(f"Invalid API key: {body['api_key']}")
        events = body.get("events")
        if not isinstance(events, list) or not events:
            return _bad("Request missing required field", missing_field="events")
        if len(events) > _MOST:
            return _too_large()
        least = (body.get("options") or {}).get("min_id_length", _SHORTEST)
        return _problem(events, least) or _limited(events) or self._kept(events, size)

    def snapshot(self) -> dict[str, Any]:
        """The events, and how many came twice."""
        return {"events": self._ledger.events, "duplicates": self._ledger.duplicates}

    def failure(self, status: int) -> Answer:
        """Amplitude's error body for an injected status."""
        if status == 429:
            return Answer(429, {"code": 429, "error": "Too many requests for some devices and users"})
        return Answer(status, {"code": status, "error": "Internal Server Error"})

    def _kept(self, events: list[dict[str, Any]], size: int) -> Answer:
        week = self._around.now() // _WEEK
        for event in events:
            device = event.get("device_id") or f"of {event['user_id']}"
            name = event.get("insert_id")
            self._ledger.add(event, None if name is None else (device, name, week))
        now = int(self._around.clock.wall() * 1000)
        told = {"code": 200, "events_ingested": len(events), "payload_size_bytes": size, "server_upload_time": now}
        return Answer(200, told)


def _bad(error: str, **more: Any) -> Answer:
    return Answer(400, {"code": 400, "error": error, **more})


def _too_large() -> Answer:
    return Answer(413, {"code": 413, "error": "Payload too large"})


def _ids(event: dict[str, Any]) -> list[Any]:
    return [event[name] for name in ("user_id", "device_id") if event.get(name) is not None]


def _problem(events: list[Any], least: int) -> Answer | None:
    """What is wrong with which of them, by their places."""
    missing: dict[str, list[int]] = {}
    invalid: dict[str, list[int]] = {}
    short: dict[str, list[int]] = {}
    for place, event in enumerate(events):
        if not isinstance(event, dict):
            return _bad("Invalid JSON request body")
        if not event.get("event_type"):
            missing.setdefault("event_type", []).append(place)
        for field in [*(name for name in _TYPES if _misfit(event, name)), *_long(event)]:
            invalid.setdefault(field, []).append(place)
        names = [name for name in ("user_id", "device_id") if event.get(name) is not None]
        usable = [name for name in names if isinstance(event[name], str) and len(event[name]) >= least]
        for name in names:
            if str(event[name]).lower() in _NOBODY:
                invalid.setdefault(name, []).append(place)
        if names and not usable:
            short.setdefault(names[0], []).append(place)
        elif not names:
            missing.setdefault("user_id", []).append(place)
    if short:
        return _bad("Invalid id length for user_id or device_id", events_with_invalid_id_lengths=short)
    if missing or invalid:
        told = {"events_with_missing_fields": missing, "events_with_invalid_fields": invalid}
        return _bad("Request missing required field" if missing else "Invalid field values on some events", **told)
    silenced = _places(events, "silenced")
    if silenced:
        devices = [_ids(events[place])[0] for place in silenced]
        return _bad("Silenced devices", silenced_devices=devices, silenced_events=silenced)
    return None


def _misfit(event: dict[str, Any], name: str) -> bool:
    if name not in event:
        return False
    value = event[name]
    fits = isinstance(value, _TYPES[name]) and not isinstance(value, bool)
    return not fits or (name == "groups" and len(value) > 5)


def _long(event: dict[str, Any]) -> list[str]:
    return [name for name, value in event.items() if isinstance(value, str) and len(value) > _LONGEST]


def _places(events: list[dict[str, Any]], prefix: str) -> list[int]:
    starts: Callable[[Any], bool] = lambda one: isinstance(one, str) and one.startswith(prefix)  # noqa: E731
    return [place for place, event in enumerate(events) if any(map(starts, _ids(event)))]


def _limited(events: list[dict[str, Any]]) -> Answer | None:
    over, spent = _places(events, "throttled"), _places(events, "quota")
    if not over and not spent:
        return None
    told: dict[str, Any] = {"code": 429, "error": "Too many requests for some devices and users", "eps_threshold": 30}
    told["throttled_users"] = {_ids(events[place])[0]: 31 for place in over}
    told["throttled_events"] = [*over, *spent]
    told["exceeded_daily_quota_users"] = {_ids(events[place])[0]: 500_001 for place in spent}
    return Answer(429, told)


STAND_IN = Registration(name="amplitude", make=AmplitudeStandIn)
