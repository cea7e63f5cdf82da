from __future__ import annotations

from typing import Any

import httpx2
import pytest

KEY = {"Authorization": "Key os_v2_app_sandbox"}
GOOD: dict[str, Any] = {
    "app_id": "8250eaf6-1a58-489e-b136-7c74a864b434",
    "include_subscription_ids": ["a"],
    "contents": {"en": "Hi"},
}


@pytest.mark.parametrize(
    "change",
    [
        {"app_id": "other"},
        {"include_subscription_ids": None},
        {"included_segments": ["x"]},
        {"contents": None},
        {"contents": {"de": "Hallo"}},
        {"data": {"a": "x" * 2048}},
        {"collapse_id": "x" * 65},
        {"idempotency_key": "order-17"},
        {"include_subscription_ids": ["x"] * 2001},
    ],
)
async def test_what_it_refuses(box: httpx2.AsyncClient, change: dict[str, Any]):
    """400, with what is wrong in ``errors``."""
    body = {name: value for name, value in {**GOOD, **change}.items() if value is not None}
    answer = await box.post("/onesignal/notifications", json=body, headers=KEY)
    assert answer.status_code == 400
    assert isinstance(answer.json()["errors"][0], str)


async def test_a_repetition_is_told(box: httpx2.AsyncClient):
    """The first result again, and a header that says so."""
    body = {**GOOD, "idempotency_key": "6e1c2f0a-0000-4000-8000-000000000000"}
    first, second = [await box.post("/onesignal/notifications", json=body, headers=KEY) for _ in range(2)]
    assert first.json() == second.json()
    assert second.headers["idempotent-replayed"] == "true"
