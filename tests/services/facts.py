"""One fact of each kind, for the tests of analytics services."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from moorline.services.analytics.protocol import Alias, Fact, GroupCall, Identify, PageView, ScreenView, Track

AT = datetime(2026, 1, 1, 12, tzinfo=UTC)
WHO: dict[str, Any] = {
    "user_id": "user-17",
    "anonymous_id": "123456.7654321",
    "at": AT,
    "context": {"ip": "203.0.113.7"},
}
TRACK = Track("Order Paid", {"value": 12.5, "items": ["a", "b"]}, **WHO)
IDENTIFY = Identify({"plan": "pro", "email": "ada@shop.example"}, **WHO)
PAGE = PageView("Prices", {"ref": "mail"}, "Shop", "https://shop.example/prices", **WHO)
SCREEN = ScreenView("Basket", {"items": 2}, "Shop", **WHO)
GROUP = GroupCall("acme", {"seats": 5}, **WHO)
ALIAS = Alias("device-4", user_id="user-17", at=AT, context=WHO["context"])
FACTS: list[Fact] = [TRACK, IDENTIFY, PAGE, SCREEN, GROUP, ALIAS]
EACH: list[Callable[[Any], Any]] = [
    lambda s: s.track(TRACK),
    lambda s: s.identify(IDENTIFY),
    lambda s: s.page(PAGE),
    lambda s: s.screen(SCREEN),
    lambda s: s.group(GROUP),
    lambda s: s.alias(ALIAS),
]
