from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.contracts import Contract
from tests.services.conftest import Box
from tests.services.recorder import Recorder, token_answer

from moorline import errors
from moorline.calls.call import Call
from moorline.calls.guards import Guards
from moorline.events.event import Event
from moorline.money import Money
from moorline.policies.policy import Policy
from moorline.policies.retry import Retry
from moorline.services.payments.paypal import PayPal
from moorline.services.payments.protocol import PaymentEventKind, PaymentStatus, RefundStatus

TEN = Money(1099, "eur")
CARD = {"card": {"number": "4012888888881881", "expiry": "2099-12", "name": "Ada Lovelace"}}
ORDER = "/v2/checkout/orders"
Run = Callable[[Any], Any]
CALLS: list[Callable[[PayPal], Any]] = [
    lambda s: s.create_payment(TEN),
    lambda s: s.get_payment("5O190127TN364715T"),
    lambda s: s.authorize_payment("5O190127TN364715T"),
    lambda s: s.capture_payment("5O190127TN364715T"),
    lambda s: s.cancel_payment("5O190127TN364715T"),
    lambda s: s.refund("5O190127TN364715T"),
    lambda s: s.refund_capture("2GG279541U471931P", TEN),
    lambda s: s.get_refund("1JU08902781691411"),
    lambda s: s.check(),
]


def card(name: str) -> dict[str, Any]:
    return {"card": {**CARD["card"], "name": name}}


def approve(box: Box, payment: Any, **query: str) -> None:
    """What the customer does at PayPal."""
    assert box.client.get(payment.action.url, params={"token": payment.id, **query}).status_code == 200


def posts(box: Box) -> list[str]:
    """The writes that arrived, tokens aside."""
    return [one["path"] for one in box.seen() if one["method"] == "POST" and "oauth2" not in one["path"]]


def test_from_approval_to_refund(box: Box, run: Run):
    """An order sends the customer to approve it, is captured, and is refunded in part and in full by the order's id."""
    paypal = box.service(PayPal)
    asked = run(paypal.create_payment(TEN, reference="order-42", return_url="https://shop.example/back"))
    assert (asked.status, asked.vendor_status) == (PaymentStatus.REQUIRES_ACTION, "PAYER_ACTION_REQUIRED")
    assert (asked.action.kind, asked.metadata, asked.live) == ("redirect", {"custom_id": "order-42"}, False)
    approve(box, asked)
    assert run(paypal.get_payment(asked.id)).status is PaymentStatus.NEEDS_CONFIRMATION
    taken = run(paypal.capture_payment(asked.id))
    assert (taken.id, taken.status, taken.captured) == (asked.id, PaymentStatus.SUCCEEDED, TEN)
    part = run(paypal.refund(asked.id, Money(400, "eur"), reason="One item returned"))
    assert (part.status, part.amount, part.payment_id) == (RefundStatus.SUCCEEDED, Money(400, "eur"), asked.id)
    assert part.reason == "One item returned"
    assert run(paypal.refund(asked.id)).amount == Money(699, "eur")
    assert run(paypal.get_refund(part.id)).amount == part.amount
    with pytest.raises(errors.InvalidRequest) as caught:
        run(paypal.refund(asked.id))
    assert (caught.value.code, caught.value.message) == (
        "CAPTURE_FULLY_REFUNDED",
        "The capture has already been fully refunded",
    )
    assert run(paypal.get_payment(asked.id)).status is PaymentStatus.SUCCEEDED


def test_from_hold_to_capture(box: Box, run: Run):
    """What is authorised is held, captured in part with the rest released, and refunded by the capture's id too."""
    paypal = box.service(PayPal)
    held = run(paypal.create_payment(TEN, payment_source=CARD, capture=False))
    assert (held.status, held.vendor_status) == (PaymentStatus.AUTHORIZED, "CREATED")
    assert (held.capturable, held.captured) == (TEN, Money(0, "eur"))
    first = run(paypal.capture_payment(held.id, Money(500, "eur"), final_capture=False))
    assert (first.captured, first.capturable) == (Money(500, "eur"), Money(599, "eur"))
    last = run(paypal.capture_payment(held.id, Money(100, "eur"), note_to_payer="Thanks"))
    assert (last.id, last.captured, last.capturable) == (held.id, Money(600, "eur"), Money(0, "eur"))
    with pytest.raises(errors.InvalidRequest, match="several captures; use refund_capture") as caught:
        run(paypal.refund(held.id))
    assert caught.value.outcome == "not_sent"
    assert last.raw["id"] in caught.value.message
    back = run(paypal.refund_capture(last.raw["id"]))
    assert (back.amount, back.payment_id) == (Money(100, "eur"), None)


def test_the_last_capture_takes_what_is_left(box: Box, run: Run):
    """After a capture of a part, one without an amount takes the rest of what is held, and no more; then nothing."""
    paypal = box.service(PayPal)
    held = run(paypal.create_payment(TEN, payment_source=CARD, capture=False))
    run(paypal.capture_payment(held.id, Money(100, "eur"), final_capture=False))
    last = run(paypal.capture_payment(held.id, final_capture=False))
    assert (last.captured, last.raw["amount"]["value"]) == (TEN, "9.99")
    again = run(paypal.capture_payment(held.id))
    assert (again.status, again.captured, again.capturable) == (PaymentStatus.SUCCEEDED, TEN, Money(0, "eur"))
    assert len([path for path in posts(box) if path.endswith("/capture")]) == 2


@pytest.mark.parametrize(
    ("before", "sent"), [("PENDING", {"currency_code": "EUR", "value": "9.99"}), ("DECLINED", None)]
)
def test_what_a_capture_leaves(before: str, sent: dict[str, str] | None):
    """A capture that is pending leaves less to take, one that was declined leaves all of it."""
    bodies: list[Any] = []
    money = {"currency_code": "EUR", "value": "10.99"}
    part = {"id": "C0", "status": before, "amount": {"currency_code": "EUR", "value": "1.00"}}
    held = {"id": "A1", "status": "PARTIALLY_CAPTURED", "amount": money}
    unit = {"amount": money, "payments": {"authorizations": [held], "captures": [part]}}
    order = {"id": "O1", "status": "COMPLETED", "intent": "AUTHORIZE", "purchase_units": [unit]}

    def wire(request: httpx2.Request) -> httpx2.Response:
        token = token_answer(request)
        if token is not None or request.method == "GET":
            return token or httpx2.Response(200, json=order)
        bodies.append(json.loads(request.read()))
        return httpx2.Response(201, json={"id": "C1", "status": "COMPLETED"})

    paypal = PayPal("s", client_id="c", wire=httpx2.MockTransport(wire), guards=Guards())
    paypal.capture_payment("O1").result()
    assert [body.get("amount") for body in bodies] == [sent]


def test_approval_of_a_hold(box: Box, run: Run):
    """An order with the intent to authorise is approved, authorised and only then captured; before, the reason is told."""
    paypal = box.service(PayPal)
    asked = run(paypal.create_payment(TEN, capture=False))
    assert asked.vendor_status == "CREATED"
    with pytest.raises(errors.InvalidRequest) as early:
        run(paypal.authorize_payment(asked.id))
    assert early.value.code == "ORDER_NOT_APPROVED"
    approve(box, asked)
    with pytest.raises(errors.InvalidRequest, match="use authorize_payment"):
        run(paypal.capture_payment(asked.id))
    assert run(paypal.authorize_payment(asked.id)).status is PaymentStatus.AUTHORIZED
    with pytest.raises(errors.Conflict):
        run(paypal.authorize_payment(asked.id))
    assert run(paypal.capture_payment(asked.id)).captured == TEN


def test_cancel(box: Box, run: Run):
    """A hold is released once, and then left as it is; what is captured, and what is only asked for, cannot be."""
    paypal = box.service(PayPal)
    held = run(paypal.create_payment(TEN, payment_source=CARD, capture=False))
    call = paypal.cancel_payment(held.id)
    assert call.idempotency_key is None
    assert run(call).status is PaymentStatus.CANCELED
    assert run(call).status is PaymentStatus.CANCELED
    assert len([path for path in posts(box) if path.endswith("/void")]) == 1
    paid = run(paypal.create_payment(TEN, payment_source=CARD))
    asked = run(paypal.create_payment(TEN))
    for payment, why in ((paid, "captured; use refund"), (asked, "cancels no order")):
        with pytest.raises(errors.InvalidRequest, match=why):
            run(paypal.cancel_payment(payment.id))
    with pytest.raises(errors.InvalidRequest, match="nothing of it is captured"):
        run(paypal.refund(asked.id))
    with pytest.raises(errors.NotFound):
        run(paypal.refund("0" * 17))


def test_a_lost_void_is_unknown_until_it_is_sent_again(box: Box, run: Run):
    """PayPal honours no key on a void: its lost answer is OutcomeUnknown, and the same Call then finds it done."""
    paypal = box.service(PayPal)
    held = run(paypal.create_payment(TEN, payment_source=CARD, capture=False))
    box.arm(kind="dropped", processed=True, path="*/void")
    call = paypal.cancel_payment(held.id)
    with pytest.raises(errors.OutcomeUnknown):
        run(call)
    assert run(call).status is PaymentStatus.CANCELED


@pytest.mark.parametrize(
    ("path", "keyed"),
    [
        (ORDER, True),
        (f"{ORDER}/O1/authorize", True),
        (f"{ORDER}/O1/capture", True),
        ("/v2/payments/authorizations/A1/capture", True),
        ("/v2/payments/captures/C1/refund", True),
        ("/v2/payments/authorizations/A1/void", False),
        ("/v1/notifications/webhooks", False),
    ],
)
def test_keys_go_where_they_are_known(path: str, keyed: bool):
    """request() repeats a POST whose answer was lost under a key where PayPal documents one, and else not at all."""
    sent: list[httpx2.Request] = []

    def wire(request: httpx2.Request) -> httpx2.Response:
        token = token_answer(request)
        if token is not None:
            return token
        sent.append(request)
        if len(sent) == 1:
            raise httpx2.ReadTimeout("lost")
        return httpx2.Response(200, json={"id": "X1"})

    retrying = Policy(retry=Retry(base=0.001))
    paypal = PayPal("s", client_id="c", wire=httpx2.MockTransport(wire), guards=Guards(), policy=retrying)
    call = paypal.request("POST", path, json={})
    if keyed:
        assert call.result() == {"id": "X1"}
    else:
        with pytest.raises(errors.OutcomeUnknown):
            call.result()
    keys = [request.headers.get("paypal-request-id") for request in sent]
    assert keys == ([call.idempotency_key] * 2 if keyed else [None])
    assert (call.idempotency_key is not None) is keyed


def test_declined(box: Box, run: Run):
    """A decline is PaymentDeclined in both of PayPal's shapes: a 201 with a declined capture, and a 422."""
    paypal = box.service(PayPal)
    for name, code, may in (("CCREJECT-IF", "5120", True), ("CCREJECT-LS", "9520", False)):
        with pytest.raises(errors.PaymentDeclined) as caught:
            run(paypal.create_payment(TEN, payment_source=card(name)))
        error = caught.value
        assert (error.status, error.code, error.decline_code, error.may_retry) == (201, "DECLINED", code, may)
        assert error.request_id
        assert "which says DECLINED" in str(error)
    with pytest.raises(errors.PaymentDeclined) as held:
        run(paypal.create_payment(TEN, payment_source=card("CCREJECT-REFUSED"), capture=False))
    assert (held.value.code, held.value.decline_code) == ("DENIED", "0500")
    failed = next(one for one in box.state("paypal")["orders"])
    assert run(paypal.get_payment(failed)).status is PaymentStatus.FAILED  # looking it up is no failure
    asked = run(paypal.create_payment(TEN))
    approve(box, asked, funding="declined")
    with pytest.raises(errors.PaymentDeclined) as refused:
        run(paypal.capture_payment(asked.id))
    assert (refused.value.status, refused.value.code, refused.value.may_retry) == (422, "INSTRUMENT_DECLINED", True)
    assert refused.value.detail["links"][0]["rel"] == "redirect"
    with pytest.raises(errors.PaymentDeclined) as expired:
        run(paypal.create_payment(TEN, payment_source={"card": {**CARD["card"], "expiry": "2020-01"}}))
    assert expired.value.code == "CARD_EXPIRED"


def test_captured_already_is_done(box: Box, run: Run):
    """The customer's return and the webhook may both capture: the second finds it done, and nothing is sent for it."""
    paypal = box.service(PayPal)
    asked = run(paypal.create_payment(TEN))
    approve(box, asked)
    run(paypal.capture_payment(asked.id))
    assert run(paypal.capture_payment(asked.id, TEN)).captured == TEN
    assert len([path for path in posts(box) if path.endswith("/capture")]) == 1
    held = run(paypal.create_payment(TEN, payment_source=CARD, capture=False))
    run(paypal.capture_payment(held.id))
    assert run(paypal.capture_payment(held.id)).captured == TEN
    other = run(paypal.create_payment(TEN))
    approve(box, other)
    with pytest.raises(errors.InvalidRequest, match="captured whole"):
        run(paypal.capture_payment(other.id, Money(5, "eur")))


@pytest.mark.parametrize("held", [False, True])
def test_captured_at_one_time_is_done(box: Box, held: bool):
    """A capture that another overtakes between its read and its write has that one's result, of orders and of holds."""
    quick, raced = box.service(PayPal), []

    def slow(request: httpx2.Request) -> httpx2.Response:
        if request.url.path.endswith("/capture"):
            raced.append(quick.capture_payment(asked.id).result())
        answer = box.client.send(request)
        return httpx2.Response(answer.status_code, headers=answer.headers, content=answer.content)

    if held:
        asked = quick.create_payment(TEN, payment_source=CARD, capture=False).result()
    else:
        asked = quick.create_payment(TEN).result()
        approve(box, asked)
    late = box.service(PayPal, wire=httpx2.MockTransport(slow)).capture_payment(asked.id).result()
    assert (late.id, late.status, late.captured) == (asked.id, PaymentStatus.SUCCEEDED, TEN)
    assert [one.captured for one in raced] == [TEN]


def test_a_lost_answer_pays_once(box: Box, run: Run):
    """When the answer is lost, the retry with the same key brings the first result, at an order and at a refund."""
    paypal = box.service(PayPal, policy=Policy(retry=Retry(base=0.01)))
    run(paypal.check())  # so that the token is there
    box.arm(kind="dropped", processed=True, path="/v2/checkout/orders")
    paid = run(paypal.create_payment(TEN, payment_source=CARD))
    assert list(box.state("paypal")["orders"]) == [paid.id]
    box.arm(kind="dropped", processed=True, path="*/refund")
    back = run(paypal.refund(paid.id))
    assert (back.amount, list(box.state("paypal")["refunds"])) == (TEN, [back.id])


def test_same_call_twice(box: Box, run: Run):
    """The same Call pays once; a stored one sends under its key what it had sent."""
    paypal = box.service(PayPal)
    call = paypal.create_payment(TEN, payment_source=CARD)
    assert run(call).id == run(call).id
    stored = json.loads(json.dumps(paypal.refund(run(call).id).to_payload()))
    first, second = (run(Call.from_payload(stored, lambda _name: paypal)) for _ in range(2))
    assert (first.id, first.amount) == (second.id, TEN)
    assert len(box.state("paypal")["refunds"]) == 1


@pytest.mark.parametrize(
    ("code", "fault"), [("ORDER_COMPLETION_IN_PROGRESS", 422), ("PREVIOUS_REQUEST_IN_PROGRESS", 409)]
)
def test_what_is_in_progress_is_tried_again(box: Box, run: Run, code: str, fault: int):
    """An order that PayPal is still at work on is tried again under the same key, which other 422s are not."""
    paypal = box.service(PayPal, policy=Policy(retry=Retry(base=0.01)))
    run(paypal.check())
    box.arm(kind="status", status=fault, body={"name": "X", "details": [{"issue": code}]})
    assert run(paypal.create_payment(TEN, payment_source=CARD)).captured == TEN
    box.arm(kind="status", status=422, body={"name": "X", "details": [{"issue": "DUPLICATE_INVOICE_ID"}]})
    with pytest.raises(errors.InvalidRequest):
        run(paypal.create_payment(TEN))


DOCUMENTED: list[tuple[str, type[errors.CallError], int]] = [
    ("INSTRUMENT_DECLINED", errors.PaymentDeclined, 422),
    ("TRANSACTION_REFUSED", errors.PaymentDeclined, 422),
    ("PAYER_CANNOT_PAY", errors.PaymentDeclined, 422),
    ("PAYER_ACCOUNT_RESTRICTED", errors.PaymentDeclined, 422),
    ("PAYER_ACTION_REQUIRED", errors.PaymentDeclined, 422),
    ("TRANSACTION_LIMIT_EXCEEDED", errors.PaymentDeclined, 422),
    ("REDIRECT_PAYER_FOR_ALTERNATE_FUNDING", errors.PaymentDeclined, 422),
    ("ORDER_NOT_APPROVED", errors.InvalidRequest, 422),
    ("DUPLICATE_INVOICE_ID", errors.InvalidRequest, 422),
    ("ORDER_ALREADY_CAPTURED", errors.Conflict, 422),
    ("INVALID_REQUEST", errors.InvalidRequest, 400),
    ("AUTHENTICATION_FAILURE", errors.AuthenticationFailed, 401),
    ("NOT_AUTHORIZED", errors.PermissionDenied, 403),
    ("RESOURCE_NOT_FOUND", errors.NotFound, 404),
    ("RESOURCE_CONFLICT", errors.Conflict, 409),
    ("RATE_LIMIT_REACHED", errors.RateLimited, 429),
    ("INTERNAL_SERVER_ERROR", errors.ServiceUnavailable, 500),
    ("SERVICE_UNAVAILABLE", errors.ServiceUnavailable, 503),
]


def test_every_documented_error(box: Box):
    """Each error that the card names, forced by PayPal's own header for it, is of its type, with code and debug id."""
    paypal = box.service(PayPal, policy=Policy(retry=None, breaker=None))
    for code, kind, status in DOCUMENTED:
        forced = {"PayPal-Mock-Response": json.dumps({"mock_application_codes": code})}
        with pytest.raises(kind) as caught:
            paypal.create_payment(TEN).using(headers=forced).result()
        assert (type(caught.value), caught.value.code, caught.value.status) == (kind, code, status)
        assert caught.value.request_id == caught.value.detail["debug_id"]


def test_credentials(box: Box, run: Run):
    """A wrong secret, and an app without the right, are told apart; the token is fetched once for all calls."""
    with pytest.raises(errors.AuthenticationFailed) as caught:
        run(box.service(PayPal, "is-wrong").check())
    assert (caught.value.outcome, caught.value.code) == ("not_sent", "invalid_client")
    assert "is-wrong" not in str(caught.value)
    limited = box.service(PayPal, client_id="limited-app")
    assert run(limited.check()) is True
    with pytest.raises(errors.PermissionDenied):
        run(limited.create_payment(TEN))
    assert [one["path"] for one in box.seen()].count("/v1/oauth2/token") == 2
    old = box.client.get("/paypal/v1/notifications/webhooks", headers={"Authorization": "Bearer A21AAold"})
    assert (old.status_code, old.json()["name"]) == (401, "AUTHENTICATION_FAILURE")


def test_test_mode_is_another_host():
    """``region="sandbox"`` is PayPal's sandbox; without it requests are for money."""
    assert PayPal("s", client_id="c").base_url == "https://api-m.paypal.com"
    assert PayPal("s", client_id="c", region="sandbox").base_url == "https://api-m.sandbox.paypal.com"
    with pytest.raises(errors.ConfigurationError, match="known: sandbox"):
        PayPal("s", client_id="c", region="eu")


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda s: s.create_payment(Money(0, "eur")), "amount"),
        (lambda s: s.create_payment(1099), "amount"),
        (lambda s: s.create_payment(Money(10**33, "eur")), "amount"),
        (lambda s: s.create_payment(Money(1050, "huf")), "amount"),
        (lambda s: s.create_payment(TEN, reference="r" * 128), "custom_id"),
        (lambda s: s.create_payment(TEN, reference=""), "custom_id"),
        (lambda s: s.create_payment(TEN, invoice_id="i" * 128), "invoice_id"),
        (lambda s: s.create_payment(TEN, description="d" * 128), "description"),
        (lambda s: s.create_payment(TEN, soft_descriptor="s" * 23), "soft_descriptor"),
        (lambda s: s.create_payment(TEN, metadata={"a": "b"}), "metadata"),
        (lambda s: s.create_payment(TEN, payment_method="v", payment_source=CARD), "payment_method"),
        (lambda s: s.capture_payment("O1", Money(0, "eur")), "amount"),
        (lambda s: s.refund("O1", Money(-5, "eur")), "amount"),
        (lambda s: s.refund_capture("C1", TEN, reason="r" * 256), "note_to_payer"),
    ],
)
def test_limits_are_checked_before_sending(make: Callable[[Any], Any], field: str):
    """What PayPal would refuse by a documented limit is InvalidRequest naming the field, and nothing is sent."""
    recorder = Recorder()
    with pytest.raises(errors.InvalidRequest, match=field) as caught:
        make(recorder.service(PayPal))
    assert caught.value.outcome == "not_sent"
    assert recorder.requests == []


@pytest.mark.parametrize(
    ("money", "value"),
    [
        (Money(1099, "eur"), "10.99"),
        (Money(1099, "jpy"), "1099"),
        (Money(105_000, "huf"), "1050"),
        (Money(5, "usd"), "0.05"),
    ],
)
def test_amounts_are_decimal_texts(money: Money, value: str):
    """Amounts go out in the main unit with the currency's decimals, of which PayPal has none for some."""
    recorder = Recorder(500)
    with pytest.raises(errors.CallError):
        recorder.service(PayPal, policy=Policy(retry=None)).create_payment(money).result()
    [unit] = json.loads(recorder.requests[0].content)["purchase_units"]
    assert unit["amount"] == {"currency_code": money.currency.upper(), "value": value}


FULL = {
    "payment_source": CARD,
    "capture": False,
    "reference": "order-42",
    "invoice_id": "INV-7",
    "description": "Tea & cake",
    "soft_descriptor": "TEA",
    "return_url": "https://shop.example/back",
    "cancel_url": "https://shop.example/no",
    "purchase_unit": {"amount": {"breakdown": {"item_total": {"currency_code": "EUR", "value": "10.99"}}}},
}


@pytest.mark.parametrize(
    ("path", "make"),
    [
        (ORDER, lambda s: s.create_payment(TEN)),
        (ORDER, lambda s: s.create_payment(TEN, **FULL)),
        (ORDER, lambda s: s.create_payment(TEN, payment_method="8kk8451t", cancel_url="https://shop.example/no")),
        (f"{ORDER}/O1/authorize", lambda s: s.authorize_payment("O1")),
        ("/v2/payments/captures/C1/refund", lambda s: s.refund_capture("C1")),
        ("/v2/payments/captures/C1/refund", lambda s: s.refund_capture("C1", TEN, reason="x", invoice_id="I")),
    ],
)
def test_requests_fit_the_contract(contracts_dir: Path, path: str, make: Callable[[Any], Any]):
    """Every request that we build is valid by paypal.json, with a key and the wish for a whole answer."""
    recorder = Recorder(500)
    with pytest.raises(errors.CallError):
        make(recorder.service(PayPal, policy=Policy(retry=None))).result()
    [request] = recorder.requests
    contract = Contract(contracts_dir, "paypal")
    assert (request.method, request.url.path) == ("POST", path)
    assert contract.request_problems("POST", path, request.content, request.headers["content-type"]) == []
    assert request.headers["authorization"] == "Bearer token-0123456789"
    assert request.headers["prefer"] == "return=representation"
    assert 1 <= len(request.headers["paypal-request-id"]) <= 108


def test_all_that_is_sent_and_answered_fits_the_contract(box: Box, contracts_dir: Path):
    """A whole life of payments, recorded on the wire: requests, good answers and errors are what paypal.json describes."""
    contract = Contract(contracts_dir, "paypal")
    seen: set[tuple[str, int]] = set()

    def judged(request: httpx2.Request) -> httpx2.Response:
        answer = box.client.send(request)
        response = httpx2.Response(answer.status_code, headers=answer.headers, content=answer.content)
        path = request.url.path.removeprefix("/paypal")
        if path.startswith("/v2/"):
            body, kind = request.read(), request.headers.get("content-type", "")
            if request.method == "POST" and not path.endswith("/void"):
                assert contract.request_problems("POST", path, body, kind) == [], (path, body)
            assert contract.answer_problems(request.method, path, response.status_code, response.content) == [], path
            seen.add((re.sub("[0-9A-Z]{17}", "*", path), response.status_code))
        return response

    paypal = box.service(PayPal, wire=httpx2.MockTransport(judged), policy=Policy(retry=None))
    asked = paypal.create_payment(TEN, reference="order-42").result()
    held = paypal.create_payment(TEN, payment_source=CARD, capture=False).result()
    other = paypal.create_payment(TEN, payment_source=CARD, capture=False).result()
    refused: list[Call[Any]] = [
        paypal.capture_payment(asked.id),
        paypal.authorize_payment(asked.id),
        paypal.create_payment(Money(5, "xxx")),
        paypal.create_payment(TEN, payment_source=card("CCREJECT-SF")),
        paypal.get_payment("0" * 17),
        paypal.capture_payment(held.id, Money(9999, "eur")),
        paypal.capture_payment(held.id, Money(5, "usd")),
        paypal.refund_capture("0" * 17),
    ]
    for call in refused:
        with pytest.raises(errors.CallError):
            call.result()
    approve(box, asked)
    for good in (
        paypal.capture_payment(asked.id),
        paypal.capture_payment(held.id, Money(500, "eur")),
        paypal.cancel_payment(other.id),
        paypal.refund(asked.id, Money(99, "eur")),
        paypal.refund(held.id),
    ):
        good.result()
    assert len(seen) >= 12


def test_answers_that_say_little():
    """Without amounts, as with ``return=minimal``, what was asked for stands in; nobody calls it paid."""
    answers = {
        ORDER: {"id": "O1", "status": "COMPLETED", "links": []},
        "/v2/payments/captures/C1/refund": {"id": "R1", "status": "COMPLETED", "links": []},
    }

    def wire(request: httpx2.Request) -> httpx2.Response:
        return token_answer(request) or httpx2.Response(201, json=answers[request.url.path])

    paypal = PayPal("s", client_id="c", wire=httpx2.MockTransport(wire), guards=Guards())
    made = paypal.create_payment(TEN).result()
    assert (made.status, made.vendor_status, made.amount) == (PaymentStatus.UNKNOWN, "COMPLETED", TEN)
    assert paypal.refund_capture("C1", TEN).result().amount == TEN
    with pytest.raises(errors.BadAnswer):
        paypal.refund_capture("C1").result()


def event(type_: str, resource: Any) -> Event:
    told = {"id": "WH-1", "event_type": type_, "create_time": "2026-11-20T10:00:00.000Z", "resource": resource}
    return Event("paypal", "WH-1", type_, json.dumps(told).encode(), {"content-type": "application/json"})


CAPTURE = {
    "id": "2GG279541U471931P",
    "status": "COMPLETED",
    "amount": {"currency_code": "EUR", "value": "10.99"},
    "custom_id": "order-42",
    "supplementary_data": {"related_ids": {"order_id": "5O190127TN364715T"}},
}


@pytest.mark.parametrize(
    ("type_", "kind"),
    [
        ("PAYMENT.CAPTURE.COMPLETED", PaymentEventKind.SUCCEEDED),
        ("PAYMENT.CAPTURE.PENDING", PaymentEventKind.PROCESSING),
        ("PAYMENT.CAPTURE.DENIED", PaymentEventKind.FAILED),
        ("PAYMENT.CAPTURE.DECLINED", PaymentEventKind.FAILED),
        ("PAYMENT.AUTHORIZATION.CREATED", PaymentEventKind.AUTHORIZED),
        ("PAYMENT.AUTHORIZATION.VOIDED", PaymentEventKind.CANCELED),
    ],
)
def test_events_of_payments(type_: str, kind: PaymentEventKind):
    """The card's example and its like are read, with the order's id as the payment's, which the operations take."""
    read = PayPal.read_event(event(type_, {**CAPTURE, "status_details": {"reason": "ECHECK"}}))
    assert read is not None
    assert (read.kind, read.payment_id, read.amount, read.reference) == (kind, "5O190127TN364715T", TEN, "order-42")
    assert (read.reason, read.raw["id"], str(read.at)) == ("ECHECK", CAPTURE["id"], "2026-11-20 10:00:00+00:00")


def test_events_of_orders_refunds_and_disputes():
    """An approval holds the order, a refund the refund; neither refunds nor disputes name the order; others are None."""
    order = {
        "id": "O1",
        "status": "APPROVED",
        "purchase_units": [{"amount": {"currency_code": "EUR", "value": "10.99"}, "custom_id": "order-42"}],
        "links": [{"rel": "self", "href": "https://api.paypal.com/v2/checkout/orders/O1"}],
    }
    approved = PayPal.read_event(event("CHECKOUT.ORDER.APPROVED", order))
    assert approved is not None
    assert approved.payment is not None
    assert (approved.kind, approved.payment_id, approved.payment.live) == (PaymentEventKind.APPROVED, "O1", True)
    refund = {"id": "R1", "status": "PENDING", "amount": {"currency_code": "EUR", "value": "5.00"}}
    refunded = PayPal.read_event(event("PAYMENT.CAPTURE.REFUNDED", refund))
    assert refunded is not None
    assert refunded.refund is not None
    assert (refunded.refund_id, refunded.payment_id, refunded.refund.amount) == ("R1", None, Money(500, "eur"))
    dispute = {
        "dispute_id": "PP-D-1",
        "reason": "UNAUTHORISED",
        "dispute_amount": {"currency_code": "EUR", "value": "10.99"},
        "disputed_transactions": [{"seller_transaction_id": "2GG279541U471931P", "custom": "order-42"}],
    }
    disputed = PayPal.read_event(event("CUSTOMER.DISPUTE.CREATED", dispute))
    assert disputed is not None
    assert (disputed.kind, disputed.amount, disputed.reference) == (PaymentEventKind.DISPUTED, TEN, "order-42")
    assert PayPal.read_event(event("BILLING.PLAN.CREATED", {})) is None
    with pytest.raises(errors.BadAnswer):
        PayPal.read_event(event("PAYMENT.CAPTURE.COMPLETED", {**CAPTURE, "amount": {"value": "ten"}}))
