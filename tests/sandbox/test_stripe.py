from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx2
import pytest
import stripe as official
from tests.contracts import Contract

from moorline.sandbox.services.stripe import STAND_IN
from moorline.sandbox.standin import Emission, Surroundings

KEY = {"Authorization": "Bearer sk_test_1"}
CREATE = "/v1/payment_intents"
PAID = {
    "amount": "1099",
    "currency": "eur",
    "confirm": "true",
    "payment_method": "pm_card_visa",
    "automatic_payment_methods[enabled]": "true",
    "automatic_payment_methods[allow_redirects]": "never",
    "metadata[order]": "42",
}


async def post(
    box: httpx2.AsyncClient, path: str, form: dict[str, str] | None = None, **headers: str
) -> httpx2.Response:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return await box.post("/stripe" + path, data=form or {}, headers={**KEY, **names})


async def get(box: httpx2.AsyncClient, path: str, **query: str) -> httpx2.Response:
    return await box.get("/stripe" + path, params=query, headers=KEY)


def error(response: httpx2.Response) -> dict[str, Any]:
    found: dict[str, Any] = response.json()["error"]
    return found


async def test_manual_capture_in_part_then_refunds(box: httpx2.AsyncClient):
    """A held amount is captured in part, refunded in two steps, and then nothing is left to refund."""
    intent = (await post(box, CREATE, {**PAID, "capture_method": "manual"})).json()
    assert (intent["status"], intent["amount_capturable"], intent["metadata"]) == (
        "requires_capture",
        1099,
        {"order": "42"},
    )
    assert error(await post(box, "/v1/refunds", {"payment_intent": intent["id"]}))["type"] == "invalid_request_error"
    captured = (await post(box, f"{CREATE}/{intent['id']}/capture", {"amount_to_capture": "1000"})).json()
    assert (captured["status"], captured["amount_received"]) == ("succeeded", 1000)
    part = (await post(box, "/v1/refunds", {"payment_intent": intent["id"], "amount": "400"})).json()
    assert (part["amount"], part["status"]) == (400, "succeeded")
    too_much = await post(box, "/v1/refunds", {"payment_intent": intent["id"], "amount": "601"})
    assert (too_much.status_code, error(too_much)["param"]) == (400, "amount")
    assert (await post(box, "/v1/refunds", {"payment_intent": intent["id"]})).json()["amount"] == 600
    again = await post(box, "/v1/refunds", {"payment_intent": intent["id"]})
    assert error(again)["code"] == "charge_already_refunded"


async def test_units_of_currencies(box: httpx2.AsyncClient):
    """Captures and refunds of fractions that Stripe does not take are refused as payments of them are."""
    intent = (
        await post(box, CREATE, {**PAID, "amount": "50000", "currency": "ugx", "capture_method": "manual"})
    ).json()
    odd = await post(box, f"{CREATE}/{intent['id']}/capture", {"amount_to_capture": "4050"})
    assert (odd.status_code, error(odd)["param"]) == (400, "amount_to_capture")
    await post(box, f"{CREATE}/{intent['id']}/capture")
    back = await post(box, "/v1/refunds", {"payment_intent": intent["id"], "amount": "4050"})
    assert (back.status_code, error(back)["code"]) == (400, "invalid_charge_amount_no_decimal_compatible")


@pytest.mark.parametrize(
    ("method", "code", "decline_code"),
    [
        ("pm_card_visa_chargeDeclined", "card_declined", "generic_decline"),
        ("pm_card_visa_chargeDeclinedInsufficientFunds", "card_declined", "insufficient_funds"),
        ("pm_card_chargeDeclinedExpiredCard", "expired_card", None),
    ],
)
async def test_declines(box: httpx2.AsyncClient, method: str, code: str, decline_code: str | None):
    """A declined card is a 402 that carries the intent, which stays and can be paid with another card."""
    response = await post(box, CREATE, {**PAID, "payment_method": method})
    found = error(response)
    assert (response.status_code, found["type"], found["code"]) == (402, "card_error", code)
    assert found.get("decline_code") == decline_code
    assert found["payment_intent"]["status"] == "requires_payment_method"
    intent = found["payment_intent"]["id"]
    assert (await post(box, f"{CREATE}/{intent}/confirm", {"payment_method": "pm_card_visa"})).json()[
        "status"
    ] == "succeeded"


@pytest.mark.parametrize(
    ("number", "fate"),
    [
        ("4242424242424242", (200, "succeeded")),
        ("4000000000000002", (402, "generic_decline")),
        ("4000000000009995", (402, "insufficient_funds")),
        ("4000002760003184", (200, "requires_action")),
        ("4242424242424241", (402, "incorrect_number")),
    ],
)
async def test_cards(box: httpx2.AsyncClient, number: str, fate: tuple[int, str]):
    """The numbers of Stripe's test cards end as its page says, at a creation as at a confirmation."""
    form = {name: value for name, value in PAID.items() if name != "payment_method"}
    card = {"payment_method_data[type]": "card", "payment_method_data[card][number]": number}
    bare = (await post(box, CREATE, {name: form[name] for name in ("amount", "currency")})).json()
    for response in (
        await post(box, CREATE, {**form, **card}),
        await post(box, f"{CREATE}/{bare['id']}/confirm", card),
    ):
        found = response.json()
        told = found.get("status") or found["error"].get("decline_code") or found["error"]["code"]
        assert (response.status_code, told) == fate


async def test_data_of_a_way_to_pay(box: httpx2.AsyncClient):
    """Data that name no type, and those of anything but a card, are refused, and nothing is made."""
    form = {name: value for name, value in PAID.items() if name != "payment_method"}
    untyped = await post(box, CREATE, {**form, "payment_method_data[card][number]": "4242424242424242"})
    other = await post(box, CREATE, {**form, "payment_method_data[type]": "ideal"})
    assert (untyped.status_code, error(untyped)["code"], error(untyped)["param"]) == (400, "parameter_missing", "type")
    assert (other.status_code, error(other)["param"]) == (400, "payment_method_data")
    assert (await get(box, CREATE)).json()["data"] == []


async def test_three_d_secure(box: httpx2.AsyncClient):
    """3-D Secure is a 200 with requires_action, settled where the bank would be; off session it is a decline."""
    form = {**PAID, "payment_method": "pm_card_authenticationRequired", "return_url": "https://shop.example/back"}
    asked = (await post(box, CREATE, form)).json()
    assert (asked["status"], asked["next_action"]["type"]) == ("requires_action", "redirect_to_url")
    back = await box.get(f"/stripe/_authenticate/{asked['id']}")
    assert (back.status_code, back.headers["location"]) == (303, "https://shop.example/back")
    assert (await get(box, f"{CREATE}/{asked['id']}")).json()["status"] == "succeeded"
    other = (await post(box, CREATE, form)).json()
    await box.get(f"/stripe/_authenticate/{other['id']}", params={"outcome": "fail"})
    assert (await get(box, f"{CREATE}/{other['id']}")).json()["status"] == "requires_payment_method"
    refused = await post(box, CREATE, {**form, "off_session": "true"})
    assert (refused.status_code, error(refused)["code"]) == (402, "authentication_required")


async def test_cancel_only_before_success(box: httpx2.AsyncClient):
    """An open intent can be cancelled once; a paid one cannot."""
    intent = (await post(box, CREATE, {"amount": "500", "currency": "usd"})).json()
    done = (await post(box, f"{CREATE}/{intent['id']}/cancel", {"cancellation_reason": "duplicate"})).json()
    assert (done["status"], done["cancellation_reason"]) == ("canceled", "duplicate")
    again = await post(box, f"{CREATE}/{intent['id']}/cancel")
    assert (again.status_code, error(again)["code"]) == (400, "payment_intent_unexpected_state")


@pytest.mark.parametrize(
    ("change", "code", "param"),
    [
        ({"amount": ""}, "parameter_invalid_empty", "amount"),
        ({"amount": "ten"}, "parameter_invalid_integer", "amount"),
        ({"amount": "10.99"}, "parameter_invalid_integer", "amount"),
        ({"amount": "0"}, "parameter_invalid_integer", "amount"),
        ({"amount": "49"}, "amount_too_small", "amount"),
        ({"amount": "1000000000000"}, "amount_too_large", "amount"),
        ({"currency": "isk"}, "invalid_charge_amount_no_decimal_compatible", "amount"),
        ({"currency": "kwd"}, None, "amount"),
        ({"currency": "xxx"}, None, "currency"),
        ({"colour": "red"}, "parameter_unknown", "colour"),
        ({"automatic_payment_methods[colour]": "red"}, "parameter_unknown", "colour"),
        ({"confirm": "yes"}, None, "confirm"),
        ({"capture_method": "later"}, None, "capture_method"),
        ({"metadata": "flat"}, None, "metadata"),
        ({"payment_method": "pm_nonsense"}, "resource_missing", "payment_method"),
        ({"automatic_payment_methods[allow_redirects]": "always"}, None, "return_url"),
    ],
)
async def test_validation(box: httpx2.AsyncClient, change: dict[str, str], code: str | None, param: str):
    """What Stripe refuses is refused with its code and the parameter's name, and nothing is made."""
    response = await post(box, CREATE, {**PAID, **change})
    assert (response.status_code, error(response).get("code"), error(response)["param"]) == (400, code, param)
    assert (await get(box, CREATE)).json()["data"] == []


async def test_missing_and_wrong_content_type(box: httpx2.AsyncClient):
    """A missing amount is named, and JSON is no form."""
    assert error(await post(box, CREATE, {"currency": "eur"}))["code"] == "parameter_missing"
    response = await box.post("/stripe" + CREATE, json={"amount": 1}, headers=KEY)
    assert (response.status_code, error(response)["type"]) == (400, "invalid_request_error")


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (None, 401),
        ("Bearer sk_live_x", 401),
        ("Bearer sk_test_wrong", 401),
        ("Bearer rk_test_read", 403),
        ("Digest x", 401),
    ],
)
async def test_keys(box: httpx2.AsyncClient, header: str | None, status: int):
    """No key, a wrong one and one without the right are told apart."""
    headers = {"Authorization": header} if header else {}
    response = await box.post("/stripe" + CREATE, data=PAID, headers=headers)
    assert response.status_code == status
    assert response.headers["request-id"].startswith("req_")


async def test_key_by_basic_authentication(box: httpx2.AsyncClient):
    """The key as the user's name of HTTP Basic is accepted too."""
    assert (await box.get("/stripe" + CREATE, auth=("sk_test_1", ""))).status_code == 200


async def test_idempotency_replays_the_first_result(box: httpx2.AsyncClient):
    """One key gives one payment and the first answer, also when that was a decline; other parameters are refused."""
    first = await post(box, CREATE, PAID, Idempotency_Key="k1")
    second = await post(box, CREATE, PAID, Idempotency_Key="k1")
    assert first.json() == second.json()
    assert second.headers["idempotent-replayed"] == "true"
    assert first.headers["request-id"] != second.headers["request-id"]
    assert len((await get(box, CREATE)).json()["data"]) == 1
    other = await post(box, CREATE, {**PAID, "amount": "1100"}, Idempotency_Key="k1")
    assert (other.status_code, error(other)["type"]) == (400, "idempotency_error")
    declined = {**PAID, "payment_method": "pm_card_visa_chargeDeclined"}
    assert [(await post(box, CREATE, declined, Idempotency_Key="k2")).status_code for _ in range(2)] == [402, 402]
    assert len((await get(box, CREATE)).json()["data"]) == 2


async def test_a_refused_request_leaves_the_key_unused(box: httpx2.AsyncClient):
    """After a validation error the same key may come with corrected parameters."""
    assert (await post(box, CREATE, {**PAID, "amount": "1"}, Idempotency_Key="k")).status_code == 400
    assert (await post(box, CREATE, PAID, Idempotency_Key="k")).status_code == 200
    assert error(await post(box, CREATE, PAID, Idempotency_Key="k" * 256))["type"] == "invalid_request_error"


async def test_same_key_while_running(box: httpx2.AsyncClient):
    """A second request with a key that is still at work is a 409, and the first is not disturbed."""
    await box.post("/_sandbox/faults", json={"kind": "latency", "seconds": 0.2, "count": 1})
    first, second = await asyncio.gather(
        post(box, CREATE, PAID, Idempotency_Key="k"), post(box, CREATE, PAID, Idempotency_Key="k")
    )
    assert sorted([first.status_code, second.status_code]) == [200, 409]
    late = first if first.status_code == 409 else second
    assert error(late)["code"] == "idempotency_key_in_use"
    assert (await post(box, CREATE, PAID, Idempotency_Key="k")).headers["idempotent-replayed"] == "true"


async def test_lost_answer_then_replay(box: httpx2.AsyncClient):
    """When the answer to a processed request is lost, the same key brings the first result."""
    await box.post("/_sandbox/faults", json={"kind": "dropped", "processed": True, "count": 1})
    with pytest.raises(ConnectionResetError):
        await post(box, CREATE, PAID, Idempotency_Key="k")
    assert (await post(box, CREATE, PAID, Idempotency_Key="k")).headers["idempotent-replayed"] == "true"
    assert len((await get(box, CREATE)).json()["data"]) == 1


async def test_lists_page_by_cursor(box: httpx2.AsyncClient):
    """Lists come newest first, in pages after a cursor or before one."""
    ids = [(await post(box, CREATE, {"amount": "500", "currency": "usd"})).json()["id"] for _ in range(5)]
    first = (await get(box, CREATE, limit="2")).json()
    assert ([item["id"] for item in first["data"]], first["has_more"]) == (ids[:2:-1], True)
    rest = (await get(box, CREATE, limit="3", starting_after=ids[3])).json()
    assert ([item["id"] for item in rest["data"]], rest["has_more"]) == (ids[2::-1], False)
    before = (await get(box, CREATE, limit="1", ending_before=ids[3])).json()
    assert [item["id"] for item in before["data"]] == [ids[4]]
    assert (await get(box, CREATE, limit="101")).status_code == 400
    assert error(await get(box, CREATE, starting_after="pi_none"))["code"] == "resource_missing"


async def test_expand(box: httpx2.AsyncClient):
    """``expand[]=latest_charge`` gives the charge instead of its id; what cannot be expanded is refused."""
    intent = (await post(box, CREATE, {**PAID, "expand[]": "latest_charge"})).json()
    assert intent["latest_charge"]["object"] == "charge"
    assert (await post(box, CREATE, {**PAID, "expand[]": "moon"})).status_code == 400


@pytest.mark.parametrize("event", STAND_IN.events)
@pytest.mark.parametrize("secrets", [("whsec_a",), ("whsec_old", "whsec_a")])
def test_official_verifier_accepts_our_events(event: str, secrets: tuple[str, ...]):
    """The official package verifies what the sandbox signs, with any of several secrets, and refuses a broken one."""
    stand_in = STAND_IN.make(Surroundings())
    body = stand_in.sample(event)
    headers = stand_in.sign(
        Emission(event, body, "evt_1"), url="https://x.example", secrets=secrets, hook_id="1", broken=False
    ).headers
    verified = official.Webhook.construct_event(body, headers["Stripe-Signature"], "whsec_a")
    assert verified.type == event
    broken = stand_in.sign(
        Emission(event, body, "evt_1"), url="https://x.example", secrets=secrets, hook_id="1", broken=True
    ).headers
    with pytest.raises(official.SignatureVerificationError):
        official.Webhook.construct_event(body, broken["Stripe-Signature"], "whsec_a")


async def test_answers_fit_the_contract(box: httpx2.AsyncClient, contracts_dir: Path):
    """Every answer, good and bad, is what stripe.json describes (it is of 2023 and has no lists: items are checked)."""
    contract = Contract(contracts_dir, "stripe")
    held = {**PAID, "capture_method": "manual"}
    ids = [(await post(box, CREATE, form)).json()["id"] for form in (PAID, held, held)]
    refund = (await post(box, "/v1/refunds", {"payment_intent": ids[0], "amount": "99"})).json()["id"]
    secure = {**PAID, "payment_method": "pm_card_authenticationRequired", "return_url": "https://shop.example/back"}
    asked: list[tuple[str, str, dict[str, str]]] = [
        ("POST", CREATE, {"amount": "500", "currency": "usd"}),
        ("POST", CREATE, PAID),
        ("POST", CREATE, secure),
        ("POST", CREATE, {**secure, "off_session": "true"}),
        ("POST", CREATE, {**PAID, "payment_method": "pm_card_visa_chargeDeclined"}),
        ("POST", CREATE, {**PAID, "payment_method": "pm_card_chargeDeclinedExpiredCard"}),
        ("POST", CREATE, {"currency": "usd"}),
        ("POST", f"{CREATE}/{ids[1]}/capture", {"amount_to_capture": "100"}),
        ("POST", f"{CREATE}/{ids[1]}/capture", {}),
        ("POST", f"{CREATE}/{ids[2]}/cancel", {}),
        ("POST", f"{CREATE}/{ids[2]}/confirm", {}),
        ("GET", f"{CREATE}/{ids[0]}", {}),
        ("GET", f"{CREATE}/pi_none", {}),
        ("POST", "/v1/refunds", {"payment_intent": ids[0]}),
        ("POST", "/v1/refunds", {"payment_intent": ids[0]}),
        ("POST", "/v1/refunds", {}),
        ("GET", f"/v1/refunds/{refund}", {}),
        ("POST", f"/v1/refunds/{refund}/cancel", {}),
    ]
    statuses = set()
    for method, path, form in asked:
        response = await (post(box, path, form) if method == "POST" else get(box, path))
        statuses.add(response.status_code)
        assert contract.answer_problems(method, path, response.status_code, response.content) == [], (path, form)
    assert statuses == {200, 400, 402, 404}
    for item in (await get(box, CREATE, limit="100")).json()["data"]:
        assert contract.problems(contract.component("payment_intent"), item) == []
    for status in (429, 500, 503):
        content, _ = STAND_IN.make(Surroundings()).failure(status).encoded()
        assert contract.problems(contract.component("error"), json.loads(content)) == []
