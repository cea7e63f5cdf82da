from __future__ import annotations

from typing import Any

import httpx2
import pytest

GOOD = {"channel": "sms", "message_type": "text", "to": "447700900000", "from": "Moorline", "text": "Hi"}
KEY = ("abcd1234", "sandbox-Secret-0123456789")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"to": None}, "to"),
        ({"text": None}, "text"),
        ({"to": "+447700900000"}, "to"),
        ({"from": "+447700900001"}, "from"),
        ({"text": "x" * 3201}, "text"),
        ({"channel": "whatsapp"}, "channel"),
        ({"ttl": 20_000_000}, "ttl"),
        ({"client_ref": "x" * 101}, "client_ref"),
        ({"surprise": 1}, "surprise"),
    ],
)
async def test_what_it_refuses(box: httpx2.AsyncClient, change: dict[str, Any], field: str):
    """As a problem of RFC 7807 that names the parameter."""
    message = {name: value for name, value in {**GOOD, **change}.items() if value is not None}
    answer = await box.post("/vonage/v1/messages", json=message, auth=KEY)
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    told = answer.json()
    assert told["type"].endswith("messages#1150")
    assert [one["name"] for one in told["invalid_parameters"]] == [field]


async def test_who_it_knows(box: httpx2.AsyncClient):
    """Another account, secret or kind of authentication is 401, as are tokens of nobody; another path 404."""
    for auth in (("abcd1235", KEY[1]), ("abcd1234", "x"), ("", "")):
        assert (await box.post("/vonage/v1/messages", json=GOOD, auth=auth)).status_code == 401
    for shown in ("", "Basic ?", "Bearer x.y.z", "Bearer eyJhbGciOiJub25lIn0.eyJhcHBsaWNhdGlvbl9pZCI6IngifQ."):
        answer = await box.post("/vonage/v1/messages", json=GOOD, headers={"Authorization": shown})
        assert (answer.status_code, answer.json()["type"].rpartition("#")[2]) == (401, "unauthorized")
    assert (await box.get("/vonage/v1/nothing", auth=KEY)).status_code == 404
    assert (await box.get("/vonage/v1/users", auth=KEY)).status_code == 401
    refused = await box.post("/vonage/v2/applications", json={"name": "x", "keys": {"public_key": "y"}}, auth=KEY)
    assert refused.status_code == 422


async def test_webhooks_tell_what_became_of_it(box: httpx2.AsyncClient):
    """Two for each message, to whoever registered, and each has an id of its own."""
    await box.post("/_sandbox/webhooks", json={"service": "vonage", "url": "http://127.0.0.1:9/hook"})
    for to in ("447700900000", "447700900098", "447700900099"):
        assert (await box.post("/vonage/v1/messages", json={**GOOD, "to": to}, auth=KEY)).status_code == 202
    log = (await box.get("/_sandbox/deliveries", params={"settle": "true"})).json()["deliveries"]
    assert sorted(entry["event"] for entry in log) == [
        "delivered", "rejected", "submitted", "submitted", "submitted", "undeliverable",
    ]  # fmt: skip
