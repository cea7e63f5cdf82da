from __future__ import annotations

from typing import Any

import httpx2
import pytest

ACCOUNT = "AC0123456789abcdef0123456789abcdef"
PATH = f"/twilio/2010-04-01/Accounts/{ACCOUNT}/Messages.json"
GOOD = {"To": "+14155552671", "From": "+15005550006", "Body": "Hi"}
KEY = (ACCOUNT, "sandbox-auth-token-0123456789abc")


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"To": None}, 21604),
        ({"From": None}, 21603),
        ({"Body": None}, 21602),
        ({"Surprise": "1"}, 21602),
        ({"Body": "x" * 1601}, 21617),
        ({"To": "0770"}, 21211),
        ({"StatusCallback": "https://a_b.example/"}, 21609),
    ],
)
async def test_what_it_refuses(box: httpx2.AsyncClient, change: dict[str, Any], code: int):
    """In Twilio's words: a number, a sentence, and where to read more."""
    fields = {name: value for name, value in {**GOOD, **change}.items() if value is not None}
    answer = await box.post(PATH, data=fields, auth=KEY)
    assert answer.status_code == 400
    told = answer.json()
    assert (told["code"], told["status"], str(code) in told["more_info"]) == (code, 400, True)


async def test_who_it_knows(box: httpx2.AsyncClient):
    """Another account, token or kind of authentication is 401; another path 404."""
    for auth in (("AC1", KEY[1]), (ACCOUNT, "x"), ("", "")):
        answer = await box.post(PATH, data=GOOD, auth=auth)
        assert (answer.status_code, answer.json()["code"]) == (401, 20003)
    assert (await box.get("/twilio/2010-04-01/Nothing.json", auth=KEY)).status_code == 404


async def test_callbacks_tell_what_became_of_it(box: httpx2.AsyncClient):
    """Only with a StatusCallback, one for each step, to whoever registered."""
    target = {"service": "twilio", "url": "http://127.0.0.1:9/hook"}
    await box.post("/_sandbox/webhooks", json=target)
    await box.post(PATH, data=GOOD, auth=KEY)
    await box.post(PATH, data={**GOOD, "To": "+14155550099", "StatusCallback": "https://x.example/"}, auth=KEY)
    log = (await box.get("/_sandbox/deliveries", params={"settle": "true"})).json()["deliveries"]
    assert sorted(entry["event"] for entry in log) == ["queued", "sent", "undelivered"]
