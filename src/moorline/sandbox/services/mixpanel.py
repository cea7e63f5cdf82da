"""Mixpanel's stand-in: ``/import`` with strict checking, ``/track``, ``/engage`` and ``/groups``.

Facts: services/analytics/mixpanel.md and mixpanel.json. The project is 12345, its token
``0123456789abcdef0123456789abcdef``; its service account ``sandbox.service`` has the secret ``sandbox-secret-0123``.
Bodies may be JSON, lines of JSON (``/import``) or the official library's form. Events are kept once by event, time,
``distinct_id`` and ``$insert_id``; with another token in a record ``/track`` and its like answer as if all were well,
as Mixpanel does, and keep nothing.
"""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import parse_qsl

from moorline.sandbox.services._facts import Ledger, NoWebhooks, TooLarge, basic_pair, not_found, read_json
from moorline.sandbox.standin import Answer, Ask, Registration, Surroundings

__all__ = ["STAND_IN"]

_TOKEN = "0123456789abcdef0123456789abcdef"
_PROJECT = "12345"
_ACCOUNT = ("sandbox.service", "sandbox-secret-0123")
_MOST = 2000
_BYTES = 10 * 1024 * 1024
_ENTRIES = 255
_DEEPEST = 3
_FIVE_DAYS = 5 * 86_400
_EARLIEST = 31_536_000
_MILLISECONDS = 100_000_000_000
_INSERT_ID = re.compile("[A-Za-z0-9-]{1,36}")
_NOBODY = {
    "00000000-0000-0000-0000-000000000000", "anon", "anonymous", "nil", "none", "null", "n/a", "na", "undefined",
    "unknown", "<nil>", "0", "-1", "true", "false", "[]", "{}",
}  # fmt: skip
_OPERATIONS = ("$set", "$set_once", "$add", "$union", "$append", "$remove", "$unset", "$delete")


class MixpanelStandIn(NoWebhooks):
    """One project."""

    _vendor = "Mixpanel"

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._ledger = Ledger()
        self._profiles: dict[str, dict[str, Any]] = {}
        self._groups: dict[str, dict[str, Any]] = {}
        self._dropped: list[str] = []

    async def handle(self, ask: Ask) -> Answer:
        """Answer one request."""
        if ask.method != "POST" or ask.path not in ("/import", "/track", "/engage", "/groups"):
            return not_found()
        form = "x-www-form-urlencoded" in ask.headers.get("content-type", "")
        asked = dict(ask.parameters)
        if ask.path == "/import" and not _authorised(ask, asked):
            return Answer(401, {"code": 401, "error": "Invalid credentials", "status": "Unauthorized"})
        try:
            records, size = _form(ask, asked) if form else _records(ask)
        except ValueError as error:
            return self._malformed(ask.path, str(error))
        except TooLarge:
            return _too_large()
        await ask.work()
        if size > _BYTES or len(records) > _MOST:
            return _too_large()
        if ask.path == "/import":
            return self._import(records, strict=asked.get("strict") == "1", form=form)
        return self._told([self._record(ask.path, one) for one in records], verbose=asked.get("verbose") == "1")

    def snapshot(self) -> dict[str, Any]:
        """Events, profiles by id, groups by ``key/id``, and why others were dropped."""
        return {
            "events": self._ledger.events,
            "duplicates": self._ledger.duplicates,
            "profiles": self._profiles,
            "groups": self._groups,
            "dropped": self._dropped,
        }

    def failure(self, status: int) -> Answer:
        """Mixpanel's error body for an injected status."""
        return Answer(status, {"code": status, "error": "injected", "status": "Error"})

    def _malformed(self, path: str, why: str) -> Answer:
        if path == "/import":
            return Answer(400, {"code": 400, "error": f"invalid request: {why}", "status": "Bad Request"})
        return Answer(200, 0)

    def _import(self, records: list[Any], *, strict: bool, form: bool) -> Answer:
        failed = []
        kept = 0
        for place, one in enumerate(records):
            field, message = self._problem(one)
            if field:
                self._dropped.append(message)
                name = one.get("properties", {}).get("$insert_id") if isinstance(one, dict) else None
                failed.append({"index": place, "$insert_id": str(name), "field": field, "message": message})
            else:
                kept += 1
                self._keep(one)
        if form:
            return Answer(200, {"status": 1, "error": None})
        if strict and failed:
            told = "some data points in the request failed validation"
            answer = {"code": 400, "error": told, "status": "Bad Request", "num_records_imported": kept}
            return Answer(400, {**answer, "failed_records": failed})
        return Answer(200, {"code": 200, "num_records_imported": kept, "status": "OK"})

    def _told(self, problems: list[str], *, verbose: bool) -> Answer:
        self._dropped += [one for one in problems if one]
        wrong = next((one for one in problems if one and one != "token"), None)
        taken = 1 if wrong is None or not all(problems) else 0
        return Answer(200, {"status": taken, "error": wrong} if verbose else taken)

    def _record(self, path: str, one: Any) -> str:
        """Take a record of the endpoints for clients; gives what is wrong with it, if something is."""
        if not isinstance(one, dict):
            return "not an object"
        if path == "/track":
            return self._client_event(one)
        names = ("$distinct_id",) if path == "/engage" else ("$group_key", "$group_id")
        if not all(isinstance(one.get(name), str) and one[name] for name in names):
            return f"missing {' or '.join(names)}"
        done = [name for name in _OPERATIONS if name in one]
        if len(done) != 1:
            return "one operation a record"
        if one.get("$token") != _TOKEN:
            return "token"
        held = self._profiles if path == "/engage" else self._groups
        _apply(held.setdefault("/".join(one[name] for name in names), {}), done[0], one[done[0]])
        return ""

    def _client_event(self, one: dict[str, Any]) -> str:
        properties = one.get("properties")
        if not isinstance(one.get("event"), str) or not isinstance(properties, dict):
            return "no event or properties"
        if properties.get("token") != _TOKEN:
            return "token"
        at = properties.get("time")
        if at is not None and _seconds(at) < self._around.clock.wall() - _FIVE_DAYS:
            self._dropped.append("older than five days")
            return ""
        self._keep(one)
        return ""

    def _keep(self, one: dict[str, Any]) -> None:
        properties = one["properties"]
        given = properties.get("$insert_id")
        parts = (one["event"], properties.get("time"), properties.get("distinct_id"), given)
        self._ledger.add(one, None if given is None else parts)

    def _problem(self, one: Any) -> tuple[str, str]:
        """The field at fault, and what is wrong with it."""
        if not isinstance(one, dict) or not isinstance(one.get("event"), str) or not one["event"]:
            return "event", "'event' must be a string of one character or more"
        properties = one.get("properties")
        if not isinstance(properties, dict):
            return "properties", "'properties' must be an object"
        at, who, name = (properties.get(key) for key in ("time", "distinct_id", "$insert_id"))
        if isinstance(at, bool) or not isinstance(at, int | float):
            return "properties.time", "'properties.time' must be a number"
        if not _EARLIEST <= _seconds(at) <= self._around.clock.wall() + 3600:
            return "properties.time", "'properties.time' is invalid: must be of 1971 or later and not in the future"
        if not isinstance(who, str) or who.lower() in _NOBODY:
            return "properties.distinct_id", "'properties.distinct_id' is invalid: it means nobody"
        if not isinstance(name, str) or not _INSERT_ID.fullmatch(name):
            return "properties.$insert_id", "'properties.$insert_id' is invalid: 36 bytes of letters, figures and '-'"
        if len(json.dumps(one).encode()) > 1024 * 1024 or not _fits(properties, 0):
            return "properties", "'properties' is invalid: too many entries, or nested too deeply"
        return "", ""


def _authorised(ask: Ask, asked: dict[str, str]) -> bool:
    pair = basic_pair(ask)
    if pair == _ACCOUNT:
        return asked.get("project_id") == _PROJECT
    return pair == (_TOKEN, "")


def _form(ask: Ask, asked: dict[str, str]) -> tuple[list[Any], int]:
    given = dict(parse_qsl(ask.body.decode(), keep_blank_values=True))
    asked.update(given)
    records = json.loads(given.get("data", ""))
    return records if isinstance(records, list) else [records], len(ask.body)


def _records(ask: Ask) -> tuple[list[Any], int]:
    if ask.headers.get("content-type", "").startswith("application/x-ndjson"):
        return [json.loads(line) for line in ask.body.splitlines() if line.strip()], len(ask.body)
    body, size = read_json(ask)
    if not isinstance(body, list):
        raise ValueError("not an array")  # noqa: TRY004 (as malformed as what is no JSON)
    return body, size


def _too_large() -> Answer:
    return Answer(413, {"code": 413, "error": "request exceeds max limit", "status": "Request Entity Too Large"})


def _seconds(at: Any) -> float:
    value = float(at) if isinstance(at, int | float) else 0.0
    return value / 1000 if value > _MILLISECONDS else value


def _fits(value: Any, depth: int) -> bool:
    if not isinstance(value, dict | list):
        return True
    inner = value.values() if isinstance(value, dict) else value
    return depth <= _DEEPEST and len(value) < _ENTRIES and all(_fits(one, depth + 1) for one in inner)


def _apply(profile: dict[str, Any], operation: str, value: Any) -> None:
    match operation:
        case "$set":
            profile.update(value)
        case "$set_once":
            profile.update({name: one for name, one in value.items() if name not in profile})
        case "$add":
            profile.update({name: profile.get(name, 0) + one for name, one in value.items()})
        case "$append":
            profile.update({name: [*profile.get(name, []), one] for name, one in value.items()})
        case "$union":
            profile.update({name: list(dict.fromkeys([*profile.get(name, []), *one])) for name, one in value.items()})
        case "$remove":
            for name, one in value.items():
                profile[name] = [each for each in profile.get(name, []) if each != one]
        case "$unset":
            for name in value:
                profile.pop(name, None)
        case _:
            profile.clear()


STAND_IN = Registration(name="mixpanel", make=MixpanelStandIn)
