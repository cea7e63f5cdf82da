from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.contracts import Contract

from moorline.sandbox.services.resend import STAND_IN
from moorline.sandbox.standin import Surroundings

MAIL: dict[str, Any] = {
    "from": "Shop <shop@shop.example>",
    "to": ["ada@customer.example"],
    "cc": "c@customer.example",
    "subject": "Receipt",
    "text": "Thanks",
    "html": "<p>Thanks</p>",
    "headers": {"X-Order": "42"},
    "attachments": [{"filename": "r.pdf", "content": "JVBERi0="}],
    "tags": [{"name": "order", "value": "42"}],
}
LATER = (datetime.now(UTC) + timedelta(days=1)).isoformat()


async def send(
    box: httpx2.AsyncClient, mail: Any, path: str = "/emails", key: str = "re_1", **headers: str
) -> httpx2.Response:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return await box.post(f"/resend{path}", json=mail, headers={"Authorization": f"Bearer {key}", **given})


async def held(box: httpx2.AsyncClient) -> list[dict[str, Any]]:
    state = (await box.get("/_sandbox/state", params={"service": "resend"})).json()
    found: list[dict[str, Any]] = state["resend"]["emails"]
    return found


def without(*names: str, **changes: Any) -> dict[str, Any]:
    return {name: value for name, value in {**MAIL, **changes}.items() if name not in names}


async def test_accepted(box: httpx2.AsyncClient):
    """A good mail is a 200 with its id; it lies in the state as it was sent; each answer tells the limits in seconds."""
    response = await send(box, MAIL)
    assert response.status_code == 200
    assert [(one["id"], one["message"]) for one in await held(box)] == [(response.json()["id"], MAIL)]
    assert response.headers["ratelimit-reset"] == "1"
    assert int(response.headers["ratelimit-remaining"]) < int(response.headers["ratelimit-limit"])


@pytest.mark.parametrize(
    ("mail", "name"),
    [
        ([], "validation_error"),
        (without("from"), "missing_required_field"),
        (without("to"), "missing_required_field"),
        (without("subject"), "missing_required_field"),
        (without("text", "html"), "missing_required_field"),
        (without(text=1), "validation_error"),
        ({**MAIL, "from": "nobody"}, "invalid_from_address"),
        (without(to=["nobody"]), "validation_error"),
        (without(to=[f"a{n}@customer.example" for n in range(51)]), "validation_error"),
        (without(to="ada@example.com"), "validation_error"),
        (without(cc=["ada@test.com"]), "validation_error"),
        (without(reply_to=[1]), "validation_error"),
        (without(template={"id": "t"}), "validation_error"),
        (without("text", "html", template={}), "missing_required_field"),
        (without(attachments=[{"filename": "x"}]), "invalid_attachment"),
        (without(attachments=[{"filename": "x", "content": "%"}]), "invalid_attachment"),
        (without(tags=[{"name": "a b", "value": "1"}]), "validation_error"),
        (without(tags=[{"name": "a", "value": "1"}] * 2), "validation_error"),
        (without(scheduled_at="soon"), "validation_error"),
        (without(scheduled_at="2020-01-01T00:00:00Z"), "validation_error"),
    ],
)
async def test_validation(box: httpx2.AsyncClient, mail: Any, name: str):
    """What Resend refuses is a 422 with its name for it, and nothing is kept."""
    response = await send(box, mail)
    assert (response.status_code, response.json()["name"], response.json()["statusCode"]) == (422, name, 422)
    assert await held(box) == []


@pytest.mark.parametrize(
    ("key", "mail", "status", "name"),
    [
        ("", MAIL, 401, "missing_api_key"),
        ("re_wrong", MAIL, 403, "invalid_api_key"),
        ("sk_1", MAIL, 403, "invalid_api_key"),
        ("re_daily", MAIL, 429, "daily_quota_exceeded"),
        ("re_monthly", MAIL, 429, "monthly_quota_exceeded"),
        ("re_1", {**MAIL, "from": "a@unverified.example"}, 403, "validation_error"),
        ("re_1", {**MAIL, "from": "onboarding@resend.dev"}, 403, "validation_error"),
    ],
)
async def test_keys_quotas_and_senders(box: httpx2.AsyncClient, key: str, mail: Any, status: int, name: str):
    """Keys, spent quotas and senders that are not verified have the vendor's statuses, odd as they are."""
    response = await send(box, mail, key=key)
    assert (response.status_code, response.json()["name"]) == (status, name)


async def test_routes(box: httpx2.AsyncClient):
    """What is not there is 404, another method 405, no JSON 400; a key that only sends may look at nothing."""
    key = {"Authorization": "Bearer re_1"}
    for method, path, status in (("GET", "/x", 404), ("GET", "/emails", 405), ("GET", "/emails/1", 404)):
        assert (await box.request(method, f"/resend{path}", headers=key)).status_code == status
    assert (await box.get("/resend/emails/1/cancel", headers=key)).status_code == 405
    assert (await box.post("/resend/emails", content=b"{", headers=key)).status_code == 400
    refused = await box.get("/resend/emails/1", headers={"Authorization": "Bearer re_send_1"})
    assert (refused.status_code, refused.json()["name"]) == (401, "restricted_api_key")


async def test_keys_of_idempotency(box: httpx2.AsyncClient):
    """The same key gives the same answer and one mail; with another body it is 409; a refused mail uses no key up."""
    first, second = await send(box, MAIL, idempotency_key="k"), await send(box, MAIL, idempotency_key="k")
    assert first.json() == second.json()
    assert len(await held(box)) == 1
    other = await send(box, without(subject="Other"), idempotency_key="k")
    assert (other.status_code, other.json()["name"]) == (409, "invalid_idempotent_request")
    assert (await send(box, MAIL, idempotency_key="k" * 257)).json()["name"] == "invalid_idempotency_key"
    assert (await send(box, {}, idempotency_key="l")).status_code == 422
    assert (await send(box, MAIL, idempotency_key="l")).status_code == 200


async def test_batches(box: httpx2.AsyncClient):
    """Strict, which is the default, takes all or none; permissive names the bad ones by their index."""
    mails = [without("attachments"), without("attachments", to=["a@example.com"]), MAIL]
    assert (await send(box, mails, "/emails/batch")).status_code == 422
    assert await held(box) == []
    answer = (await send(box, mails, "/emails/batch", x_batch_validation="permissive")).json()
    assert [one["index"] for one in answer["errors"]] == [1, 2]
    assert [one["id"] for one in answer["data"]] == [one["id"] for one in await held(box)]
    wrong: Any
    for wrong in ([], [mails[0]] * 101, {}):
        assert (await send(box, wrong, "/emails/batch")).status_code == 422
    assert set((await send(box, mails[:1], "/emails/batch")).json()) == {"data"}


async def test_answers_fit_the_contract(box: httpx2.AsyncClient, contracts_dir: Path):
    """Each good answer is what resend.json describes; errors are in the card only."""
    contract = Contract(contracts_dir, "resend")
    sent = await send(box, without(scheduled_at=LATER, reply_to="h@shop.example"))
    batch = await send(box, [without("attachments")], "/emails/batch", x_batch_validation="permissive")
    path = f"/emails/{sent.json()['id']}"
    got = await box.get(f"/resend{path}", headers={"Authorization": "Bearer re_1"})
    canceled = await box.post(f"/resend{path}/cancel", headers={"Authorization": "Bearer re_1"})
    for method, place, response in (
        ("POST", "/emails", sent),
        ("POST", "/emails/batch", batch),
        ("GET", path, got),
        ("POST", f"{path}/cancel", canceled),
    ):
        assert contract.answer_problems(method, place, response.status_code, response.content) == []
    stand_in = STAND_IN.make(Surroundings())
    names = {status: json.loads(stand_in.failure(status).encoded()[0])["name"] for status in (429, 500, 503)}
    assert names == {429: "rate_limit_exceeded", 500: "application_error", 503: "application_error"}
