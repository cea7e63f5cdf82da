from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import pytest

TOKEN = {"Authorization": "Bearer EAAA-1"}
PAID: dict[str, Any] = {
    "source_id": "cnon:card-nonce-ok",
    "idempotency_key": "k1",
    "amount_money": {"amount": 1099, "currency": "USD"},
}


async def post(box: httpx2.AsyncClient, path: str, body: Any, **headers: str) -> httpx2.Response:
    return await box.post(f"/square/v2/{path}", json=body, headers=TOKEN | headers)


def wrong(answer: httpx2.Response) -> tuple[int, str, str | None]:
    """Status, code and field of an error."""
    [error] = answer.json()["errors"]
    return answer.status_code, error["code"], error.get("field")


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in PAID.items() if key != name}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (without("source_id"), (400, "MISSING_REQUIRED_PARAMETER", "source_id")),
        (without("idempotency_key"), (400, "MISSING_REQUIRED_PARAMETER", "idempotency_key")),
        (without("amount_money"), (400, "MISSING_REQUIRED_PARAMETER", "amount_money")),
        ({**PAID, "surprise": 1}, (400, "UNKNOWN_BODY_PARAMETER", "surprise")),
        ({**PAID, "autocomplete": "yes"}, (400, "EXPECTED_BOOLEAN", "autocomplete")),
        ({**PAID, "idempotency_key": "k" * 46}, (400, "VALUE_TOO_LONG", "idempotency_key")),
        ({**PAID, "reference_id": "r" * 41}, (400, "VALUE_TOO_LONG", "reference_id")),
        ({**PAID, "amount_money": {"amount": 0, "currency": "USD"}}, (400, "VALUE_TOO_LOW", "amount_money.amount")),
        ({**PAID, "amount_money": {"amount": "5"}}, (400, "EXPECTED_INTEGER", "amount_money.amount")),
        (
            {**PAID, "amount_money": {"amount": 5, "currency": "$"}},
            (400, "INVALID_ENUM_VALUE", "amount_money.currency"),
        ),
        ({**PAID, "source_id": "ccof:customer-card-id-ok"}, (400, "MISSING_REQUIRED_PARAMETER", "customer_id")),
        ({**PAID, "source_id": "CASH"}, (400, "MISSING_REQUIRED_PARAMETER", "cash_details")),
        ({**PAID, "source_id": "cnon:unknown"}, (404, "NOT_FOUND", None)),
        ([], (400, "EXPECTED_JSON_BODY", None)),
    ],
)
async def test_what_is_wrong_with_a_payment(box: httpx2.AsyncClient, body: Any, expected: tuple[int, str, str | None]):
    """What Square would refuse is refused with its code and the field, nothing is kept, and the key is as good as new."""
    assert wrong(await post(box, "payments", body)) == expected
    assert (await box.get("/_sandbox/state")).json()["square"]["payments"] == {}
    assert (await post(box, "payments", PAID)).status_code == 200


async def test_tokens_and_versions(box: httpx2.AsyncClient):
    """A token that is none, or lacks the scope, is refused, and so are odd versions, paths and methods."""
    assert wrong(await post(box, "payments", PAID, Authorization="Bearer x"))[1] == "UNAUTHORIZED"
    assert wrong(await post(box, "payments", PAID, Authorization="Bearer EAAA-read"))[:2] == (
        403,
        "INSUFFICIENT_SCOPES",
    )
    odd = {"Square-Version": "latest"}
    assert wrong(await post(box, "payments", PAID, **odd))[1] == "INVALID_SQUARE_VERSION_FORMAT"
    assert wrong(await box.get("/square/v2/moons", headers=TOKEN))[:2] == (404, "NOT_FOUND")
    assert wrong(await box.get("/square/v2/refunds", headers=TOKEN))[:2] == (405, "METHOD_NOT_ALLOWED")
    assert wrong(await box.get("/square/v2/payments?moon=1", headers=TOKEN))[2] == "moon"
    assert wrong(await box.get("/square/v2/payments?cursor=x", headers=TOKEN))[1] == "INVALID_CURSOR"


async def test_keys(box: httpx2.AsyncClient):
    """The same key brings the first answer, declines included; with another body, or still at work, it is refused."""
    first = await post(box, "payments", PAID)
    assert (await post(box, "payments", PAID)).json() == first.json()
    assert wrong(await post(box, "payments", {**PAID, "note": "x"}))[1] == "IDEMPOTENCY_KEY_REUSED"
    declined = {**PAID, "source_id": "cnon:card-nonce-declined", "idempotency_key": "k2"}
    answers = [await post(box, "payments", declined) for _ in range(2)]
    assert answers[0].json() == answers[1].json()
    assert answers[0].json()["payment"]["status"] == "FAILED"
    await box.post("/_sandbox/faults", json={"kind": "latency", "seconds": 0.05, "count": 1})
    slow = {**PAID, "idempotency_key": "k3"}
    both = await asyncio.gather(*(post(box, "payments", slow) for _ in "ab"))
    assert sorted(one.status_code for one in both) == [200, 409]


async def test_states(box: httpx2.AsyncClient):
    """Only what is approved is completed or cancelled, in the version that is named; only what is completed is refunded."""
    held = (await post(box, "payments", {**PAID, "autocomplete": False})).json()["payment"]
    back = {"idempotency_key": "r1", "payment_id": held["id"], "amount_money": PAID["amount_money"]}
    assert wrong(await post(box, "refunds", back))[1] == "REFUND_ERROR_PAYMENT_NEEDS_COMPLETION"
    complete = f"payments/{held['id']}/complete"
    assert wrong(await post(box, complete, {"version_token": "old"}))[:2] == (409, "CONFLICT")
    assert (await post(box, complete, {"version_token": held["version_token"]})).json()["payment"][
        "status"
    ] == "COMPLETED"
    assert wrong(await post(box, complete, {}))[1] == "BAD_REQUEST"
    assert wrong(await post(box, f"payments/{held['id']}/cancel", None))[1] == "BAD_REQUEST"
    assert wrong(await post(box, "refunds", {**back, "amount_money": {"amount": 1100, "currency": "USD"}}))[1] == (
        "REFUND_AMOUNT_INVALID"
    )
    assert wrong(await post(box, "refunds", {key: back[key] for key in ("idempotency_key", "payment_id")}))[2] == (
        "amount_money"
    )
    assert (await post(box, "refunds", back)).json()["refund"]["status"] == "PENDING"
    assert (await box.get("/square/v2/refunds/none", headers=TOKEN)).status_code == 404


async def test_cancel_by_key(box: httpx2.AsyncClient):
    """It takes back what the key made, which can then be made anew, and says the same where it made nothing."""
    first = (await post(box, "payments", PAID)).json()["payment"]["id"]
    for key in ("k1", "never"):
        answer = await post(box, "payments/cancel", {"idempotency_key": key})
        assert (answer.status_code, answer.json()) == (200, {})
    again = (await post(box, "payments", PAID)).json()["payment"]
    assert (again["status"], again["id"] == first) == ("COMPLETED", False)
