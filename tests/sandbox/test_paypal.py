from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx2
import pytest

ORDERS = "/paypal/v2/checkout/orders"
UNIT: dict[str, Any] = {"amount": {"currency_code": "EUR", "value": "10.99"}}
ORDER: dict[str, Any] = {"intent": "CAPTURE", "purchase_units": [UNIT]}
CARD = {"card": {"number": "4012888888881881", "expiry": "2099-12"}}
FULL = {"Prefer": "return=representation"}


async def token(box: httpx2.AsyncClient, client: str = "app") -> dict[str, str]:
    answer = await box.post(
        "/paypal/v1/oauth2/token", data={"grant_type": "client_credentials"}, auth=httpx2.BasicAuth(client, "secret")
    )
    assert (answer.status_code, answer.json()["token_type"], answer.json()["expires_in"]) == (200, "Bearer", 32_400)
    return {"Authorization": f"Bearer {answer.json()['access_token']}"}


def issue(answer: httpx2.Response) -> tuple[int, str, str | None]:
    """Status, issue and field of an error, each of which carries the debug id twice."""
    body = answer.json()
    assert body["debug_id"] == answer.headers["paypal-debug-id"]
    return answer.status_code, body["details"][0]["issue"], body["details"][0].get("field")


def priced(value: str, currency: str = "EUR") -> dict[str, Any]:
    return {"intent": "CAPTURE", "purchase_units": [{"amount": {"currency_code": currency, "value": value}}]}


async def test_tokens(box: httpx2.AsyncClient):
    """Without a good secret there is no token, without a token no answer, and a limited app may only read."""
    bad = await box.post("/paypal/v1/oauth2/token", data={"grant_type": "client_credentials"}, auth=("app", "wrong"))
    assert (bad.status_code, bad.json()["error"]) == (401, "invalid_client")
    odd = await box.post("/paypal/v1/oauth2/token", data={"grant_type": "password"}, auth=("app", "s"))
    assert odd.json()["error"] == "unsupported_grant_type"
    unknown = await box.post(ORDERS, json=ORDER, headers={"Authorization": "Bearer A21AAx"})
    assert (unknown.status_code, unknown.json()["name"]) == (401, "AUTHENTICATION_FAILURE")
    refused = await box.post(ORDERS, json=ORDER, headers=await token(box, "limited"))
    assert issue(refused) == (403, "PERMISSION_DENIED", None)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, (400, "MISSING_REQUIRED_PARAMETER", "/intent")),
        ({"intent": "SALE"}, (400, "INVALID_PARAMETER_VALUE", "/intent")),
        ({"intent": "CAPTURE"}, (400, "MISSING_REQUIRED_PARAMETER", "/purchase_units")),
        ({"intent": "CAPTURE", "purchase_units": []}, (400, "INVALID_ARRAY_MIN_ITEMS", "/purchase_units")),
        ({"intent": "CAPTURE", "purchase_units": [UNIT] * 11}, (400, "INVALID_ARRAY_MAX_ITEMS", "/purchase_units")),
        (priced("1,5"), (400, "INVALID_PARAMETER_SYNTAX", "/purchase_units/0/amount/value")),
        (priced("0.00"), (422, "CANNOT_BE_ZERO_OR_NEGATIVE", "/purchase_units/0/amount/value")),
        (priced("1.005"), (422, "DECIMAL_PRECISION", "/purchase_units/0/amount/value")),
        (priced("10.00", "JPY"), (422, "DECIMALS_NOT_SUPPORTED", "/purchase_units/0/amount/value")),
        (priced("10", "KWD"), (422, "INVALID_CURRENCY_CODE", "/purchase_units/0/amount/currency_code")),
        (
            {"intent": "CAPTURE", "purchase_units": [{**UNIT, "custom_id": "x" * 128}]},
            (400, "INVALID_STRING_LENGTH", "/purchase_units/0/custom_id"),
        ),
        (
            {"intent": "CAPTURE", "purchase_units": [UNIT, *priced("5", "USD")["purchase_units"]]},
            (422, "MULTI_CURRENCY_ORDER", None),
        ),
        ({**ORDER, "payment_source": CARD}, (400, "PAYPAL_REQUEST_ID_REQUIRED", None)),
        ({**ORDER, "payment_source": {"card": {}}}, (400, "MISSING_REQUIRED_PARAMETER", "/payment_source/card/number")),
        ([], (400, "MALFORMED_REQUEST_JSON", None)),
    ],
)
async def test_what_is_wrong_with_an_order(box: httpx2.AsyncClient, body: Any, expected: tuple[int, str, str | None]):
    """An order that PayPal would refuse is refused with its issue and the field's pointer, and nothing is kept."""
    assert issue(await box.post(ORDERS, json=body, headers=await token(box))) == expected
    assert (await box.get("/_sandbox/state")).json()["paypal"]["orders"] == {}


async def test_a_key_brings_the_latest_state(box: httpx2.AsyncClient):
    """A key that comes again makes nothing new: a 200 with what the first made, as it is by then; at work it is a 409."""
    headers = await token(box) | FULL | {"PayPal-Request-Id": "order-42"}
    first = await box.post(ORDERS, json=ORDER, headers=headers)
    assert first.status_code == 201
    name = first.json()["id"]
    await box.get("/paypal/checkoutnow", params={"token": name})
    again = await box.post(ORDERS, json=ORDER, headers=headers)
    assert (again.status_code, again.json()["id"], again.json()["status"]) == (200, name, "APPROVED")
    await box.post("/_sandbox/faults", json={"kind": "latency", "seconds": 0.05, "count": 1})
    both = await asyncio.gather(*(box.post(f"{ORDERS}/{name}/capture", json={}, headers=headers) for _ in "ab"))
    assert sorted(one.status_code for one in both) == [201, 409]
    assert (await box.post(f"{ORDERS}/{name}/capture", json={}, headers=headers)).status_code == 200


async def test_a_short_answer(box: httpx2.AsyncClient):
    """Without the wish for more an answer is id, status and links."""
    answer = await box.post(ORDERS, json=ORDER, headers=await token(box))
    assert set(answer.json()) == {"id", "status", "links"}


async def test_states(box: httpx2.AsyncClient):
    """What does not fit the state is refused: captures unapproved or twice, of the other intent, over the limit."""
    headers = await token(box) | FULL
    held = {**ORDER, "intent": "AUTHORIZE", "payment_source": CARD}
    open_order = (await box.post(ORDERS, json=ORDER, headers=headers)).json()
    hold = (await box.post(ORDERS, json=held, headers=headers | {"PayPal-Request-Id": "h"})).json()
    name = hold["purchase_units"][0]["payments"]["authorizations"][0]["id"]
    part = f"/paypal/v2/payments/authorizations/{name}"
    refusals = [
        (f"{ORDERS}/{open_order['id']}/capture", {}, "ORDER_NOT_APPROVED"),
        (f"{ORDERS}/{open_order['id']}/authorize", {}, "ACTION_DOES_NOT_MATCH_INTENT"),
        (f"{ORDERS}/{hold['id']}/authorize", {}, "ORDER_ALREADY_AUTHORIZED"),
        (f"{part}/capture", {"amount": {"currency_code": "EUR", "value": "12.65"}}, "MAX_CAPTURE_AMOUNT_EXCEEDED"),
        (f"{part}/capture", {"amount": {"currency_code": "USD", "value": "1"}}, "AUTH_CAPTURE_CURRENCY_MISMATCH"),
    ]
    for path, body, expected in refusals:
        assert issue(await box.post(path, json=body, headers=headers))[1] == expected
    assert (await box.post(f"{part}/void", headers=headers)).json()["status"] == "VOIDED"
    assert issue(await box.post(f"{part}/void", headers=headers))[1] == "PREVIOUSLY_VOIDED"
    assert issue(await box.post(f"{part}/capture", json={}, headers=headers))[1] == "AUTHORIZATION_VOIDED"
    assert (await box.get("/paypal/checkoutnow", params={"token": "none"})).status_code == 404


async def test_refunds_and_invoices(box: httpx2.AsyncClient):
    """No more is given back than was taken, in its currency; an invoice is paid once."""
    headers = await token(box) | FULL
    paid = {"intent": "CAPTURE", "purchase_units": [{**UNIT, "invoice_id": "I-7"}], "payment_source": CARD}
    order = (await box.post(ORDERS, json=paid, headers=headers | {"PayPal-Request-Id": "1"})).json()
    capture = order["purchase_units"][0]["payments"]["captures"][0]["id"]
    path = f"/paypal/v2/payments/captures/{capture}/refund"
    wanted = [("11.00", "EUR", "REFUND_AMOUNT_EXCEEDED"), ("1.00", "USD", "REFUND_CAPTURE_CURRENCY_MISMATCH")]
    for value, currency, expected in wanted:
        body = {"amount": {"currency_code": currency, "value": value}}
        assert issue(await box.post(path, json=body, headers=headers))[1] == expected
    assert (await box.post(path, json={}, headers=headers)).json()["amount"]["value"] == "10.99"
    assert issue(await box.post(path, json={}, headers=headers))[1] == "CAPTURE_FULLY_REFUNDED"
    twice = await box.post(ORDERS, json=paid, headers=headers | {"PayPal-Request-Id": "2"})
    assert issue(twice)[1] == "DUPLICATE_INVOICE_ID"


async def test_the_mock_header(box: httpx2.AsyncClient):
    """PayPal-Mock-Response brings the error that it names, also one that the sandbox has no words for."""
    headers = await token(box)
    for code, status in (("INSTRUMENT_DECLINED", 422), ("INTERNAL_SERVER_ERROR", 500), ("SOMETHING_NEW", 422)):
        forced = {**headers, "PayPal-Mock-Response": json.dumps({"mock_application_codes": code})}
        answer = await box.post(ORDERS, json=ORDER, headers=forced)
        said = answer.json().get("details", [{"issue": answer.json()["name"]}])[0]["issue"]
        assert (answer.status_code, said) == (status, code)
