from __future__ import annotations

import httpx2
import pytest

GOOD = {"to": "447700900000", "from": "Moorline", "text": "Hi"}
KEY = ("abcd1234", "sandbox-Secret-0123456789")


@pytest.mark.parametrize(
    ("change", "status", "word"),
    [
        ({"to": ""}, "2", "to"),
        ({"text": ""}, "2", "text"),
        ({"to": "+447700900000"}, "3", "to"),
        ({"from": "+447700900001"}, "3", "from"),
        ({"type": "utf8"}, "3", "type"),
        ({"ttl": "600"}, "3", "ttl"),
        ({"client-ref": "x" * 101}, "3", "client-ref"),
        ({"surprise": "1"}, "3", "surprise"),
        ({"to": "447700900929"}, "29", "Non White-listed"),
    ],
)
async def test_what_it_refuses(box: httpx2.AsyncClient, change: dict[str, str], status: str, word: str):
    """By 200, with a status and a sentence that names the field."""
    answer = await box.post("/vonage_sms/sms/json", data={**GOOD, **change}, auth=KEY)
    assert answer.status_code == 200
    [told] = answer.json()["messages"]
    assert (told["status"], word in told["error-text"]) == (status, True)


async def test_who_it_knows(box: httpx2.AsyncClient):
    """The pair may be fields too; a wrong one is status 4, or 401 where there are no messages."""
    fields = {**GOOD, "api_key": KEY[0], "api_secret": KEY[1]}
    told = (await box.post("/vonage_sms/sms/json", data=fields)).json()
    assert told["messages"][0]["status"] == "0"
    for auth in (("abcd1235", KEY[1]), ("abcd1234", "x")):
        told = (await box.post("/vonage_sms/sms/json", data=GOOD, auth=auth)).json()
        assert told["messages"][0]["status"] == "4"
    odd = await box.post("/vonage_sms/sms/json", data=GOOD, headers={"Authorization": "Basic ?"})
    assert odd.json()["messages"][0]["status"] == "4"
    assert (await box.get("/vonage_sms/account/get-balance")).status_code == 401
    assert (await box.get("/vonage_sms/nothing", auth=KEY)).status_code == 404


async def test_letters_are_lost_without_unicode(box: httpx2.AsyncClient):
    """What is sent as text and is no GSM-7 arrives with question marks."""
    for kind, arrives in (("text", "50 € ?"), ("unicode", "50 € ⚓")):
        told = (await box.post("/vonage_sms/sms/json", data={**GOOD, "text": "50 € ⚓", "type": kind}, auth=KEY)).json()
        state = (await box.get("/_sandbox/state", params={"service": "vonage_sms"})).json()["vonage_sms"]
        assert state["messages"][told["messages"][0]["message-id"]]["text"] == arrives


async def test_receipts_tell_what_became_of_it(box: httpx2.AsyncClient):
    """Two for each message, to whoever registered; none where none is wanted."""
    await box.post("/_sandbox/webhooks", json={"service": "vonage_sms", "url": "http://127.0.0.1:9/hook"})
    for change in ({}, {"to": "447700900098"}, {"to": "447700900099"}, {"status-report-req": "false"}):
        await box.post("/vonage_sms/sms/json", data={**GOOD, **change}, auth=KEY)
    log = (await box.get("/_sandbox/deliveries", params={"settle": "true"})).json()["deliveries"]
    found = sorted(entry["event"] for entry in log)
    assert found == ["accepted", "accepted", "accepted", "delivered", "failed", "rejected"]
