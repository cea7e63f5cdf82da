from __future__ import annotations

import copy
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.contracts import Contract

from moorline.sandbox.services.sendgrid import STAND_IN
from moorline.sandbox.standin import Surroundings

KEY = {"Authorization": "Bearer SG.x", "Accept": "application/json"}
MAIL: dict[str, Any] = {
    "personalizations": [{"to": [{"email": "ada@example.com", "name": "Ada"}], "custom_args": {"order": "42"}}],
    "from": {"email": "shop@example.com", "name": "Shop"},
    "subject": "Receipt",
    "content": [{"type": "text/plain", "value": "Thanks"}, {"type": "text/html", "value": "<p>Thanks</p>"}],
    "attachments": [{"content": "JVBERi0=", "filename": "r.pdf", "type": "application/pdf"}],
    "categories": ["receipt"],
    "headers": {"X-Order": "42"},
}


async def send(box: httpx2.AsyncClient, mail: Any, key: str = "SG.x") -> httpx2.Response:
    return await box.post("/sendgrid/v3/mail/send", json=mail, headers={**KEY, "Authorization": f"Bearer {key}"})


def changed(**changes: Any) -> dict[str, Any]:
    mail = copy.deepcopy(MAIL)
    for path, value in changes.items():
        place: Any = mail
        *parents, last = path.split("__")
        for part in parents:
            place = place[int(part)] if part.isdecimal() else place[part]
        place[int(last) if last.isdecimal() else last] = value
    return mail


async def test_accepted(box: httpx2.AsyncClient):
    """A good mail is a 202 without a body, its id in X-Message-Id, and lies in the state as it was sent."""
    response = await send(box, MAIL)
    assert (response.status_code, response.content) == (202, b"")
    held = (await box.get("/_sandbox/state", params={"service": "sendgrid"})).json()["sendgrid"]["messages"]
    assert held == [{"id": response.headers["x-message-id"], "message": MAIL}]


async def test_sandbox_mode_sends_nothing(box: httpx2.AsyncClient):
    """Sandbox mode validates, answers 200, and keeps nothing."""
    assert (await send(box, {**MAIL, "mail_settings": {"sandbox_mode": {"enable": True}}})).status_code == 200
    assert (await box.get("/_sandbox/state")).json()["sendgrid"]["messages"] == []


async def test_rate_headers(box: httpx2.AsyncClient):
    """Each answer carries the limit, what is left, and the absolute second of the reset."""
    first, second = await send(box, MAIL), await send(box, MAIL)
    left = [int(response.headers["x-ratelimit-remaining"]) for response in (first, second)]
    assert left[0] > left[1] or first.headers["x-ratelimit-reset"] != second.headers["x-ratelimit-reset"]
    assert 0 < int(first.headers["x-ratelimit-reset"]) - time.time() <= 61


@pytest.mark.parametrize(
    ("mail", "field"),
    [
        ([], None),
        (changed(surprise=1), "surprise"),
        ({key: value for key, value in MAIL.items() if key != "from"}, "from"),
        (changed(personalizations=[]), "personalizations"),
        (changed(personalizations__0__to=[]), "personalizations.0.to"),
        (changed(personalizations__0__to__0__email="nobody"), "personalizations.0.to.0.email"),
        (changed(personalizations__0__cc=[{"email": "ADA@example.com"}]), "personalizations.0"),
        (changed(personalizations__0__custom_args={"order": 42}), "personalizations.0.custom_args.order"),
        (changed(custom_args={"a": "x" * 10_000}), "custom_args"),
        (changed(content=MAIL["content"][::-1]), "content"),
        (changed(content=[]), "content"),
        (changed(subject=""), "subject"),
        (changed(attachments__0__content="%%%"), "attachments.0.content"),
        (changed(attachments__0__disposition="sideways"), "attachments.0.disposition"),
        (changed(headers={"Subject": "x"}), "headers.Subject"),
        (changed(headers={"X-A": "b\r\nBcc: c@example.com"}), "headers.X-A"),
        (changed(categories=[str(n) for n in range(11)]), "categories"),
        (changed(categories=["a", "a"]), "categories"),
        (changed(send_at=int(time.time()) + 73 * 3600), "send_at"),
        (changed(reply_to={"email": "a@example.com"}, reply_to_list=[{"email": "b@example.com"}]), "reply_to"),
    ],
)
async def test_validation(box: httpx2.AsyncClient, mail: Any, field: str | None):
    """What SendGrid refuses is a 400 that names the field, and nothing is kept."""
    response = await send(box, mail)
    assert (response.status_code, response.json()["errors"][0]["field"]) == (400, field)
    assert (await box.get("/_sandbox/state")).json()["sendgrid"]["messages"] == []


async def test_keys_scopes_and_senders(box: httpx2.AsyncClient):
    """A wrong key is 401; a key without the scope and a sender that is not verified are 403; no Accept header is 406."""
    assert (await send(box, MAIL, key="SG.wrong")).status_code == 401
    assert (await send(box, MAIL, key="nonsense")).status_code == 401
    assert (await send(box, MAIL, key="SG.readonly")).status_code == 403
    assert (await send(box, changed(**{"from": {"email": "a@unverified.example"}}))).status_code == 403
    bare = httpx2.Request("POST", "http://sandbox/sendgrid/v3/mail/send", headers={"Authorization": "Bearer SG.x"})
    assert (await box.send(bare)).status_code == 406


async def test_answers_fit_the_contract(box: httpx2.AsyncClient, contracts_dir: Path):
    """Every answer is what sendgrid.json describes; 406, 415 and 429 are in the card only, their bodies have the same shape."""
    contract = Contract(contracts_dir, "sendgrid")
    asked = [
        await send(box, MAIL),
        await send(box, {}),
        await send(box, MAIL, key="SG.wrong"),
        await send(box, MAIL, key="SG.read"),
        await box.get("/sendgrid/v3/mail/send", headers=KEY),
        await send(box, changed(subject="x" * 31_500_000)),
    ]
    assert [response.status_code for response in asked] == [202, 400, 401, 403, 405, 413]
    for response in asked:
        assert contract.answer_problems("POST", "/v3/mail/send", response.status_code, response.content) == []
    batch = await box.post("/sendgrid/v3/mail/batch", headers=KEY)
    assert batch.status_code == 201
    assert contract.answer_problems("POST", "/v3/mail/batch", 201, batch.content) == []
    stand_in = STAND_IN.make(Surroundings())
    for status in (429, 500, 503):
        assert contract.problems(contract.component("ErrorResponse"), stand_in.failure(status).content) == []
