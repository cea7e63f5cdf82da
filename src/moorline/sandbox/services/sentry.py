"""Sentry's stand-in: one project, envelopes with their rules, limits by category, and the webhooks of an integration.

Facts: services/monitoring/sentry.md; the framing is that of develop-docs' envelopes page. The project is 4242, its key
``5a17d80e5a17d80e5a17d80e5a17d80e``. The sandbox's own: an event with the tag ``sandbox.limits`` makes it answer with
that as ``X-Sentry-Rate-Limits``, and keep to it. The first event of an issue (its fingerprint, or the type and value of
the exception) is told by webhooks; one whose tag ``sandbox.resolve`` is there resolves it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from moorline.calls.dialects import Closings
from moorline.errors import ConfigurationError
from moorline.sandbox import signing
from moorline.sandbox.services._intake import Refused, inflated, read_json
from moorline.sandbox.standin import Answer, Ask, Emission, Registration, Signed, Surroundings

__all__ = ["STAND_IN"]

_PROJECT = "4242"
_KEY = "5a17d80e5a17d80e5a17d80e5a17d80e"
_MIB = 1024 * 1024
_ENVELOPE = 200 * _MIB
_LARGEST = {"check_in": 100 * 1024, "client_report": 4096, "profile": 50 * _MIB, "attachment": _ENVELOPE}
_LEVELS = ("fatal", "error", "warning", "info", "debug")
_CATEGORY = {
    "event": "error",
    "log": "log_item",
    "check_in": "monitor",
    "sessions": "session",
    "client_report": "internal",
}
_ID = re.compile("[0-9a-f]{32}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_EVENTS = (
    "issue.created",
    "issue.resolved",
    "error.created",
    "event_alert.triggered",
    "metric_alert.critical",
    "metric_alert.resolved",
)


def _refused(status: int, detail: str, *causes: str) -> Refused:
    told: dict[str, Any] = {"detail": detail}
    if causes:
        told["causes"] = list(causes)
    return Refused(Answer(status, told, {"X-Sentry-Error": "; ".join([detail, *causes])}))


class SentryStandIn:
    """One project."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._events: dict[str, dict[str, Any]] = {}
        self._logs: list[Any] = []
        self._metrics: list[Any] = []
        self._check_ins: dict[str, Any] = {}
        self._others: list[dict[str, Any]] = []
        self._issues: dict[str, dict[str, Any]] = {}
        self._dropped: dict[str, int] = {}
        self._closed: dict[str, float] = {}  # until when, by category; the empty one is all
        self._limits = ""

    async def handle(self, ask: Ask) -> Answer:
        """Answer one request."""
        try:
            found = re.fullmatch(r"/api/(\w+)/envelope/", ask.path)
            if found is None or ask.method != "POST":
                raise _refused(404, "not found")
            await ask.work()
            return self._taken(ask, found[1])
        except Refused as refused:
            return refused.answer

    def snapshot(self) -> dict[str, Any]:
        """What was taken, by kind, and what was dropped by a limit."""
        return {
            "events": self._events,
            "logs": self._logs,
            "metrics": self._metrics,
            "check_ins": self._check_ins,
            "others": self._others,
            "issues": self._issues,
            "dropped": self._dropped,
        }

    def failure(self, status: int) -> Answer:
        """Sentry's error body for an injected status."""
        if status == 429:
            return Answer(429, {"detail": "Sentry dropped data due to a quota or internal rate limit being reached."})
        return Answer(status, {"detail": "Internal server error"})

    def sample(self, event: str) -> bytes:
        """A body of that event."""
        resource, _, action = event.partition(".")
        if event not in _EVENTS:
            raise ConfigurationError(f"'event' must be one of {', '.join(_EVENTS)}")
        if resource == "metric_alert":
            return self._body(action, self._metric_alert(action))
        issue = {"id": "1170820242", "title": "ZeroDivisionError: division by zero", "level": "error", "count": 1}
        return self._body(action, self._about(resource, {"event_id": "ab" * 16, "culprit": "shop in pay"}, issue))

    def sign(self, emission: Emission, *, url: str, secrets: tuple[str, ...], hook_id: str, broken: bool) -> Signed:
        """The headers of a delivery."""
        headers = {
            "Content-Type": "application/json",
            "Request-ID": emission.id.replace("-", ""),
            "Sentry-Hook-Resource": emission.event.partition(".")[0],
            "Sentry-Hook-Timestamp": str(self._around.now()),
        }
        now = self._around.clock.wall()
        return signing.signed("sentry", emission, url=url, secrets=secrets, broken=broken, now=now, headers=headers)

    # An envelope -----------------------------------------------------------------------------------------------------

    def _taken(self, ask: Ask, project: str) -> Answer:
        try:
            body = inflated(ask, _ENVELOPE)
        except OverflowError:
            raise _refused(413, "envelope exceeded size limits") from None
        except ValueError as error:
            raise _refused(400, "bad content encoding", str(error)) from None
        try:
            head, items = _envelope(body)
        except (ValueError, RecursionError) as error:
            raise _refused(400, "invalid event envelope", str(error)) from None
        self._authorise(ask, project, head)
        self._limits = ""
        left = [(told, payload) for told, payload in items if not self._limited(told["type"])]
        for told, payload in left:
            self._keep(head, told, payload)
        event_id = head.get("event_id")
        headers = {"X-Sentry-Rate-Limits": self._limits} if self._limits else {}
        if items and not left:
            told_limits = self._standing()
            headers = {"X-Sentry-Rate-Limits": told_limits, "Retry-After": told_limits.partition(":")[0]}
            return Answer(429, self.failure(429).content, headers)
        return Answer(200, {"id": str(event_id).replace("-", "")} if event_id else {}, headers)

    def _authorise(self, ask: Ask, project: str, head: dict[str, Any]) -> None:
        parts = dict(re.findall(r"(\w+)=([^,\s]+)", ask.headers.get("x-sentry-auth", "")))
        shown = {parts["sentry_key"]} if "sentry_key" in parts else set()
        shown |= {value for name, value in ask.parameters if name == "sentry_key"}
        dsn = re.match(r"https?://(\w+)(?::\w*)?@[^/]+(?:/.*)?/(\w+)$", str(head.get("dsn", "")))
        if dsn is not None:
            shown.add(dsn[1])
        if not shown:
            raise _refused(403, "missing authorization information")
        if shown != {_KEY} or project != _PROJECT or (dsn is not None and dsn[2] != project):
            raise _refused(403, "event submission rejected with_reason: ProjectId")

    def _limited(self, kind: str) -> bool:
        now, category = self._around.clock.wall(), _CATEGORY.get(kind, kind)
        if all(self._closed.get(one, 0.0) <= now for one in ("", category)):
            return False
        self._dropped[category] = self._dropped.get(category, 0) + 1
        return True

    def _standing(self) -> str:
        now = self._around.clock.wall()
        return ", ".join(f"{until - now:.0f}:{one}:key" for one, until in self._closed.items() if until > now)

    def _keep(self, head: dict[str, Any], told: dict[str, Any], payload: bytes) -> None:
        kind = told["type"]
        if len(payload) > _LARGEST.get(kind, _MIB):
            raise _refused(413, "envelope exceeded size limits", f"item {kind}: {len(payload)} bytes")
        keep: dict[str, Callable[[dict[str, Any], dict[str, Any], Any], None]] = {
            "event": self._keep_event,
            "log": self._keep_batch,
            "trace_metric": self._keep_batch,
            "check_in": self._keep_check_in,
        }
        if kind not in keep:
            self._others.append({**told, "size": len(payload)})
            return
        try:
            read = read_json(payload)
        except (ValueError, RecursionError) as error:
            raise _refused(400, "invalid event envelope", f"item {kind}: {error}") from None
        if not isinstance(read, dict):
            raise _refused(400, "invalid event envelope", f"item {kind} is no object")
        keep[kind](head, told, read)

    def _keep_event(self, head: dict[str, Any], _told: dict[str, Any], event: dict[str, Any]) -> None:
        name = str(event.get("event_id") or head.get("event_id") or "").replace("-", "")
        if not _ID.fullmatch(name) or str(head.get("event_id", name)).replace("-", "") != name:
            raise _refused(400, "invalid event envelope", "event_id is missing, or is not that of the envelope")
        if event.get("level", "error") not in _LEVELS:
            raise _refused(400, "invalid event envelope", f"unknown level {event['level']!r}")
        values = (event.get("exception") or {}).get("values", [])
        if any(not isinstance(one, dict) or not (one.get("type") or one.get("value")) for one in values):
            raise _refused(400, "invalid event envelope", "an exception has neither type nor value")
        tags = event.get("tags") or {}
        if isinstance(tags, dict) and tags.get("sandbox.limits"):
            self._limits = str(tags["sandbox.limits"])
            now = self._around.clock.wall()
            closed = Closings("x", {one: one for one in (*_CATEGORY.values(), "trace_metric")}).read(self._limits)
            self._closed |= {part: now + seconds for part, seconds in closed.items()}
        if name not in self._events:  # what is sent again is dropped
            self._events[name] = event
            self._tell(name, event, values)

    def _keep_batch(self, _head: dict[str, Any], told: dict[str, Any], read: dict[str, Any]) -> None:
        kind, items = told["type"], read.get("items")
        media = "application/vnd.sentry.items.log+json" if kind == "log" else None
        media = media or "application/vnd.sentry.items.trace-metric+json"
        if told.get("content_type") != media or not isinstance(items, list) or told.get("item_count") != len(items):
            raise _refused(400, "invalid event envelope", f"item {kind}: content type or item_count do not fit")
        for one in items:
            wanted = ("timestamp", "level", "body") if kind == "log" else ("timestamp", "name", "type", "value")
            missing = [name for name in (*wanted, "trace_id") if not isinstance(one, dict) or name not in one]
            if missing:
                raise _refused(400, "invalid event envelope", f"item {kind}: no {', '.join(missing)}")
        (self._logs if kind == "log" else self._metrics).extend(items)

    def _keep_check_in(self, _head: dict[str, Any], _told: dict[str, Any], read: dict[str, Any]) -> None:
        if not read.get("monitor_slug") or read.get("status") not in ("in_progress", "ok", "error"):
            raise _refused(400, "invalid event envelope", "check_in: monitor_slug or status is missing")
        self._check_ins[str(read.get("check_in_id"))] = read

    # What is told ----------------------------------------------------------------------------------------------------

    def _tell(self, name: str, event: dict[str, Any], values: list[dict[str, Any]]) -> None:
        last = values[-1] if values else {}
        title = f"{last['type']}: {last.get('value', '')}" if last.get("type") else _message(event)
        known = "|".join(map(str, event.get("fingerprint") or [])) or title
        tags = event.get("tags") or {}
        new = known not in self._issues
        if new:
            number = str(1_170_820_000 + len(self._issues))
            level = event.get("level", "error")
            self._issues[known] = {"id": number, "title": title, "level": level, "status": "unresolved", "count": 0}
        issue = self._issues[known]
        issue["count"] += 1
        about = {"event_id": name, "culprit": str(last.get("module") or "")}
        if new:
            self._emit("issue", "created", about, issue)
            self._emit("error", "created", about, issue)
            self._emit("event_alert", "triggered", about, issue)
        if isinstance(tags, dict) and tags.get("sandbox.resolve"):
            issue["status"] = "resolved"
            self._emit("issue", "resolved", about, issue)

    def _emit(self, resource: str, action: str, about: dict[str, Any], issue: dict[str, Any]) -> None:
        body = self._body(action, self._about(resource, about, issue))
        self._around.emit(Emission(f"{resource}.{action}", body, self._around.id("", 32).lower()))

    def _about(self, resource: str, about: dict[str, Any], issue: dict[str, Any]) -> dict[str, Any]:
        base, now = "https://sentry.io/organizations/quay/issues", self._now()
        if resource == "issue":
            shown = {**issue, "culprit": about["culprit"], "lastSeen": now, "web_url": f"{base}/{issue['id']}/"}
            return {"issue": {**shown, "permalink": None, "project": {"id": _PROJECT, "slug": "shop"}}}
        event = {
            **about,
            "title": issue["title"],
            "level": issue["level"],
            "issue_id": issue["id"],
            "datetime": now,
            "web_url": f"{base}/{issue['id']}/events/{about['event_id']}/",
        }
        if resource == "error":
            return {"error": event}
        return {"event": event, "triggered_rule": "Every new issue"}

    def _metric_alert(self, action: str) -> dict[str, Any]:
        incident = {"id": "4", "title": "Too many errors", "date_detected": self._now()}
        return {
            "metric_alert": incident,
            "description_title": f"{action.capitalize()}: Too many errors",
            "description_text": "1000 events in the last 10 minutes",
            "web_url": "https://sentry.io/organizations/quay/alerts/4/",
        }

    def _body(self, action: str, data: dict[str, Any]) -> bytes:
        told = {
            "action": action,
            "actor": {"id": "sentry", "name": "Sentry", "type": "application"},
            "data": data,
            "installation": {"uuid": "a8e5d37a-696c-4c54-adb5-b3f28d64c7de"},
        }
        return json.dumps(told, separators=(",", ":")).encode()

    def _now(self) -> str:
        return datetime.fromtimestamp(self._around.now(), UTC).isoformat().replace("+00:00", ".000000Z")


def _message(event: dict[str, Any]) -> str:
    entry = event.get("logentry") or event.get("message") or ""
    return str(entry.get("formatted") or entry.get("message") or "") if isinstance(entry, dict) else str(entry)


def _envelope(body: bytes) -> tuple[dict[str, Any], list[tuple[dict[str, Any], bytes]]]:
    """The header and the items. Raises ValueError with the reason."""
    line, _, rest = body.partition(b"\n")
    head = _header(line)
    items = []
    while rest not in (b"", b"\n"):
        line, newline, rest = rest.partition(b"\n")
        told = _header(line)
        if not isinstance(told.get("type"), str) or not newline:
            raise ValueError("an item has no type, or no payload")
        length = told.get("length")
        if length is None:
            payload, _, rest = rest.partition(b"\n")
        elif not isinstance(length, int) or isinstance(length, bool) or not 0 <= length <= len(rest):
            raise ValueError("an item ends before its length")
        elif rest[length : length + 1] not in (b"\n", b""):
            raise ValueError("an item goes on after its length")
        else:
            payload, rest = rest[:length], rest[length + 1 :]
        items.append((told, payload))
    return head, items


def _header(line: bytes) -> dict[str, Any]:
    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({name for name, _ in found}) < len(found):
            raise ValueError("a header names a field twice")
        return dict(found)

    if line != line.strip():
        raise ValueError("a header line is padded")
    read = json.loads(line, object_pairs_hook=pairs)
    if not isinstance(read, dict):
        raise ValueError("a header is no object")  # noqa: TRY004 - of what came, and no mistake of ours
    return read


STAND_IN = Registration(name="sentry", make=SentryStandIn, secret="sentry_sandbox_client_secret", events=_EVENTS)
