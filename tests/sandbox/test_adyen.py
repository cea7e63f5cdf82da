from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx2
import pytest
from Adyen.util import is_valid_hmac_notification  # type: ignore[import-untyped]
from tests.contracts import Contract

from moorline.sandbox.services.adyen import STAND_IN
from moorline.sandbox.standin import Emission, Surroundings

KEY = {"X-API-Key": "AQE1"}
CARD: dict[str, Any] = {
    "type": "scheme",
    "encryptedCardNumber": "test_4111111111111111",
    "encryptedExpiryMonth": "test_03",
    "encryptedExpiryYear": "test_2030",
    "encryptedSecurityCode": "test_737",
}
ORDER: dict[str, Any] = {
    "merchantAccount": "Shop",
    "reference": "order-42",
    "amount": {"value": 1099, "currency": "EUR"},
    "returnUrl": "https://shop.example/return",
}
PAID: dict[str, Any] = {**ORDER, "paymentMethod": CARD}


async def post(box: httpx2.AsyncClient, path: str, body: Any, **headers: str) -> httpx2.Response:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return await box.post(f"/adyen/v72{path}", json=body, headers={**KEY, **names})


async def paid(box: httpx2.AsyncClient, **changes: Any) -> str:
    answer = (await post(box, "/payments", {**PAID, **changes})).json()
    return str(answer["pspReference"])


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ([], 400, "000"),
        ({**PAID, "surprise": 1}, 400, "702"),
        ({**PAID, "captureDelayHours": "soon"}, 400, "702"),
        ({**PAID, "additionalData": {"manualCapture": True}}, 400, "702"),
        ({**PAID, "merchantAccount": "WrongShop"}, 403, "901"),
        ({name: value for name, value in PAID.items() if name != "merchantAccount"}, 403, "901"),
        ({name: value for name, value in PAID.items() if name != "amount"}, 422, "100"),
        ({**PAID, "amount": {"value": "10.99", "currency": "EUR"}}, 422, "137"),
        ({**PAID, "amount": {"value": -1, "currency": "EUR"}}, 422, "137"),
        ({**PAID, "amount": {"value": 1, "currency": "eur"}}, 422, "138"),
        ({**PAID, "reference": ""}, 422, "130"),
        ({name: value for name, value in PAID.items() if name != "returnUrl"}, 422, "14_030"),
        (ORDER, 422, "14_004"),
        ({**PAID, "paymentMethod": {**CARD, "encryptedCardNumber": "test_4111111111111112"}}, 422, "101"),
        ({**PAID, "paymentMethod": {**CARD, "encryptedCardNumber": "eyJhbGciOiJ"}}, 422, "174"),
        ({**PAID, "paymentMethod": {"type": "scheme", "storedPaymentMethodId": "S1"}}, 422, "14_004"),
        ({**PAID, "metadata": {str(n): "v" for n in range(21)}}, 422, "177"),
        ({**PAID, "metadata": {"k" * 21: "v"}}, 422, "178"),
        ({**PAID, "metadata": {"k": "v" * 81}}, 422, "179"),
        ({**PAID, "reference": "r" * 81}, 422, "702"),
    ],
)
async def test_validation(box: httpx2.AsyncClient, body: Any, status: int, code: str):
    """What Adyen refuses is refused with its code, and nothing is made."""
    response = await post(box, "/payments", body)
    assert (response.status_code, response.json()["errorCode"]) == (status, code)
    assert (await box.get("/_sandbox/state")).json()["adyen"]["payments"] == {}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"X-API-Key": "nonsense"}, 401),
        ({"X-API-Key": "AQEwrong"}, 401),
        ({"X-API-Key": "AQEread"}, 403),
        ({"Authorization": "Basic d3NAQ29tcGFueS5TaG9wOnNlY3JldA=="}, 200),
        ({"Authorization": "Basic d3NAQ29tcGFueS5TaG9wOndyb25n"}, 401),
        ({"Authorization": "Basic %%%"}, 401),
    ],
)
async def test_keys(box: httpx2.AsyncClient, headers: dict[str, str], status: int):
    """No key, a wrong one and one without the role are told apart; a user and password are as good as a key."""
    response = await box.post("/adyen/v72/payments", json=PAID, headers=headers)
    assert response.status_code == status


async def test_modifications_are_taken_or_refused(box: httpx2.AsyncClient):
    """Any payment that is known takes modifications, with a new reference for each; others are refused by name."""
    name = await paid(box)
    change = {"merchantAccount": "Shop", "amount": {"value": 500, "currency": "EUR"}, "reference": "r-1"}
    first = await post(box, f"/payments/{name}/refunds", change)
    second = (await post(box, f"/payments/{name}/refunds", change)).json()
    assert first.status_code == 201
    assert (first.json()["status"], first.json()["paymentPspReference"]) == ("received", name)
    assert len({name, first.json()["pspReference"], second["pspReference"]}) == 3
    for path, body, code in [
        ("/payments/NONE/refunds", change, "167"),
        (f"/payments/{name}/refunds", {"merchantAccount": "Shop"}, "100"),
        (f"/payments/{name}/refunds", {**change, "merchantRefundReason": "mood"}, "702"),
        ("/cancels", {"merchantAccount": "Shop"}, "130"),
    ]:
        response = await post(box, path, body)
        assert (response.status_code, response.json()["errorCode"]) == (422, code)


async def test_keys_are_kept(box: httpx2.AsyncClient):
    """The same key brings the first answer, also a refusal by the bank; after a validation error it is as good as
    new; what came with other parameters is refused.
    """
    declined = {**PAID, "paymentMethod": {**CARD, "holderName": "DECLINED"}}
    assert (await post(box, "/payments", {**PAID, "reference": ""}, Idempotency_Key="k")).status_code == 422
    first, second = [await post(box, "/payments", declined, Idempotency_Key="k") for _ in range(2)]
    assert first.json() == second.json()
    assert second.headers["idempotency-key"] == "k"
    other = await post(box, "/payments", PAID, Idempotency_Key="k")
    assert (other.json()["errorCode"], "transient-error" in other.headers) == ("704", False)
    assert (await post(box, "/payments", PAID, Idempotency_Key="k" * 65)).status_code == 422


async def test_same_key_while_running(box: httpx2.AsyncClient):
    """A second request with a key that is still at work is told to come again."""
    await box.post("/_sandbox/faults", json={"kind": "latency", "seconds": 0.1, "count": 1})
    both = await asyncio.gather(*(post(box, "/payments", PAID, Idempotency_Key="k") for _ in range(2)))
    late = next(response for response in both if response.status_code != 200)
    assert (late.status_code, late.json()["errorCode"], late.headers["transient-error"]) == (422, "704", "true")


async def test_stored_errors(box: httpx2.AsyncClient):
    """An error of transmission is the result of its key; one of connecting is none, and says that it will pass."""
    for asked, transient in (("NO_CONNECTION_AVAILABLE", True), ("IOEXCEPTION_RECEIVED", False)):
        body = {**PAID, "additionalData": {"RequestedTestErrorResponseCode": asked}}
        responses = [await post(box, "/payments", body, Idempotency_Key=asked) for _ in range(2)]
        assert [one.status_code for one in responses] == [500, 500]
        assert [one.headers.get("transient-error") == "true" for one in responses] == [transient, transient]


@pytest.mark.parametrize("event", STAND_IN.events)
def test_official_verifier_accepts_our_events(event: str):
    """The official package verifies what the sandbox signs, and refuses a broken one."""
    stand_in = STAND_IN.make(Surroundings())
    emission = Emission(event, stand_in.sample(event), "1")
    secrets = (str(STAND_IN.secret),)
    good, bad = [
        stand_in.sign(emission, url="https://x.example", secrets=secrets, hook_id="1", broken=broken).body
        for broken in (False, True)
    ]
    assert good is not None
    assert bad is not None
    assert is_valid_hmac_notification(json.loads(good), secrets[0])
    assert not is_valid_hmac_notification(json.loads(bad), secrets[0])


async def test_answers_fit_the_contract(box: httpx2.AsyncClient, contracts_dir: Path):
    """Every answer, good and bad, is what adyen.json describes (of sessions it describes good ones only)."""
    contract = Contract(contracts_dir, "adyen")
    held = {"additionalData": {"manualCapture": "true"}}
    psp, other, third = await paid(box), await paid(box, **held), await paid(box, **held)
    change = {"merchantAccount": "Shop", "amount": {"value": 99, "currency": "EUR"}, "reference": "r-1"}
    bare = {"merchantAccount": "Shop"}
    secure = {"attemptAuthentication": "always"}
    native = {**secure, "threeDSRequestData": {"nativeThreeDS": "preferred"}}
    identify = (await post(box, "/payments", {**PAID, "authenticationData": native})).json()
    asked: list[tuple[str, Any]] = [
        ("/payments", PAID),
        ("/payments", {**PAID, "authenticationData": secure}),
        ("/payments", {**PAID, "authenticationData": native}),
        ("/payments", {**PAID, "paymentMethod": {"type": "ideal"}}),
        ("/payments", {**PAID, "paymentMethod": {**CARD, "holderName": "ERROR"}}),
        ("/payments", {**PAID, "paymentMethod": {**CARD, "holderName": "PENDING"}}),
        ("/payments", {}),
        ("/payments", {**PAID, "reference": ""}),
        ("/payments", {**PAID, "additionalData": {"RequestedTestErrorResponseCode": "IOEXCEPTION_RECEIVED"}}),
        ("/payments/details", {"details": {"threeDSResult": identify["action"]["token"]}}),
        ("/payments/details", {"details": {"threeDSResult": "nothing"}}),
        (f"/payments/{psp}/refunds", {**change, "merchantRefundReason": "OTHER"}),
        (f"/payments/{other}/captures", change),
        (f"/payments/{other}/captures", bare),
        (f"/payments/{third}/cancels", {**bare, "reference": "c-1"}),
        (f"/payments/{psp}/reversals", bare),
        ("/cancels", {**bare, "paymentReference": "order-42"}),
        ("/sessions", {**ORDER, "mode": "hosted", "metadata": {"a": "b"}}),
    ]
    statuses = set()
    for path, body in asked:
        response = await post(box, path, body)
        statuses.add(response.status_code)
        assert contract.answer_problems("POST", path, response.status_code, response.content) == [], (path, body)
    assert statuses == {200, 201, 403, 422, 500}
    session = response.json()["id"]
    back = await box.get(f"/adyen/_pay/{session}")
    query = httpx2.URL(back.headers["location"]).params
    ended = await box.get(f"/adyen/v72/sessions/{session}", params=query, headers=KEY)
    assert ended.json()["payments"]
    assert contract.answer_problems("GET", f"/sessions/{session}", ended.status_code, ended.content) == []
    for status in (429, 500, 503):
        content = STAND_IN.make(Surroundings()).failure(status).content
        assert contract.problems(contract.component("ServiceError"), content) == []
