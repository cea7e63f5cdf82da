"""Segment's stand-in: the tracking API, its sizes, and its habit of answering 200 to what it then drops.

Facts: services/analytics/segment.md and segment.schema.json. The write key is ``sandbox-write-key-0123456789``, by
Basic authentication or as ``writeKey`` in the body; as at Segment, another one is answered 200 as well. What was kept
is under ``events``, each ``messageId`` once; what was dropped without a word is under ``dropped``, with the reason.
"""

from __future__ import annotations

import re
from typing import Any

from moorline.sandbox.services._facts import Ledger, NoWebhooks, TooLarge, basic_pair, not_found, read_json
from moorline.sandbox.standin import Answer, Ask, Registration, Surroundings

__all__ = ["STAND_IN"]

_KEY = "sandbox-write-key-0123456789"
_TYPES = ("track", "identify", "page", "screen", "group", "alias")
_PATH = re.compile(rf"/v1/({'|'.join(_TYPES)}|batch)")
_ITEM = 32 * 1024
_BATCH = 500 * 1024
_MOST = 2500
_OK = Answer(200, {"success": True})


class SegmentStandIn(NoWebhooks):
    """One source."""

    _vendor = "Segment's tracking API"

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._ledger = Ledger()
        self._dropped: list[dict[str, Any]] = []

    async def handle(self, ask: Ask) -> Answer:
        """Answer one request."""
        found = _PATH.fullmatch(ask.path)
        if ask.method != "POST" or found is None:
            return not_found()
        try:
            body, size = read_json(ask)
        except ValueError:
            return _bad("invalid_json", "malformed JSON")
        except TooLarge:
            return _bad("too_large", "payload too large")
        await ask.work()
        if not isinstance(body, dict):
            return _bad("invalid_json", "malformed JSON")
        single = found[1] != "batch"
        if size > (_ITEM if single else _BATCH):
            return _bad("too_large", "payload too large")
        items = [{**body, "type": found[1]}] if single else body.get("batch")
        if not isinstance(items, list):
            return _bad("invalid_json", "batch is not a list")
        pair = basic_pair(ask)
        whole = "" if _KEY in (body.get("writeKey"), pair and pair[0]) else "no source has this write key"
        if len(items) > _MOST:
            whole = f"more than {_MOST} events"
        for item in items:
            self._take(item, whole)
        return _OK

    def snapshot(self) -> dict[str, Any]:
        """The events that were kept, how many came twice, and what was dropped."""
        return {"events": self._ledger.events, "duplicates": self._ledger.duplicates, "dropped": self._dropped}

    def failure(self, status: int) -> Answer:
        """An error body for an injected status."""
        return Answer(status, {"code": "failure", "message": "Something went wrong"})

    def _take(self, item: Any, whole: str) -> None:
        why = whole or _problem(item)
        if why:
            self._dropped.append(
                {"reason": why, "messageId": item.get("messageId") if isinstance(item, dict) else None}
            )
            return
        self._ledger.add({name: one for name, one in item.items() if name != "writeKey"}, item.get("messageId"))


def _bad(code: str, message: str) -> Answer:
    return Answer(400, {"code": code, "message": message})


def _problem(item: Any) -> str:
    """Why Segment drops an item, or nothing."""
    if not isinstance(item, dict) or item.get("type") not in _TYPES:
        return "no type"
    kind = item["type"]
    if kind == "track" and not _is_text(item.get("event")):
        return "no event"
    if kind == "group" and not _is_text(item.get("groupId")):
        return "no groupId"
    if kind == "alias" and not (_is_text(item.get("previousId")) and _is_text(item.get("userId"))):
        return "no previousId and userId"
    if not _is_text(item.get("userId")) and not _is_text(item.get("anonymousId")):
        return "no userId and no anonymousId"
    if len(str(item.get("messageId", ""))) >= 100:
        return "messageId is too long"
    return ""


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


STAND_IN = Registration(name="segment", make=SegmentStandIn)
