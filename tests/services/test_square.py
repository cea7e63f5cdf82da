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
from tests.services.recorder import Recorder

from moorline import errors
from moorline.calls.call import Call
from moorline.events.event import Event
from moorline.money import Money
from moorline.policies.policy import Policy
from moorline.policies.retry import Retry
from moorline.services.payments.protocol import PaymentEventKind, PaymentStatus, RefundStatus
from moorline.services.payments.square import Square

TEN = Money(1099, "usd")
OK = "cnon:card-nonce-ok"
DECLINED = "cnon:card-nonce-declined"
Run = Callable[[Any], Any]
CALLS: list[Callable[[Square], Any]] = [
    lambda s: s.create_payment(TEN, payment_method=OK),
    lambda s: s.get_payment("P1"),
    lambda s: s.capture_payment("P1"),
    lambda s: s.cancel_payment("P1"),
    lambda s: s.cancel_payment_by_key("order-42-1"),
    lambda s: s.refund("P1"),
    lambda s: s.refund("P1", TEN),
    lambda s: s.get_refund("R1"),
    lambda s: s.list_payments().page(),
    lambda s: s.check(),
]


def posts(box: Box) -> list[str]:
    return [one["path"] for one in box.seen() if one["method"] == "POST"]


def test_payment_from_hold_to_refund(box: Box, run: Run):
    """A payment is held, completed, refunded in part and then in full, for which Square wants the amount."""
    square = box.service(Square)
    held = run(square.create_payment(TEN, payment_method=OK, capture=False, reference="order-42"))
    assert (held.status, held.vendor_status) == (PaymentStatus.AUTHORIZED, "APPROVED")
    assert (held.capturable, held.captured) == (TEN, Money(0, "usd"))
    assert (held.metadata, held.live) == ({"reference_id": "order-42"}, False)
    with pytest.raises(errors.InvalidRequest, match=r"completes a payment whole, which is of 10\.99 USD"):
        run(square.capture_payment(held.id, Money(500, "usd")))
    taken = run(square.capture_payment(held.id, TEN))
    assert (taken.id, taken.status, taken.captured) == (held.id, PaymentStatus.SUCCEEDED, TEN)
    part = run(square.refund(held.id, Money(400, "usd"), reason="returned"))
    assert (part.status, part.amount, part.payment_id) == (RefundStatus.PENDING, Money(400, "usd"), held.id)
    assert run(square.get_refund(part.id)).status is RefundStatus.SUCCEEDED
    rest = run(square.refund(held.id))
    assert (rest.amount, rest.reason) == (Money(699, "usd"), None)
    with pytest.raises(errors.InvalidRequest) as caught:
        run(square.refund(held.id))
    assert caught.value.code == "REFUND_AMOUNT_INVALID"
    assert run(square.get_payment(held.id)).raw["refunded_money"]["amount"] == 1099


def test_done_already(box: Box, run: Run):
    """Completing and cancelling twice changes nothing, nor does sending again what got no answer; Square has no key."""
    square = box.service(Square)
    held = run(square.create_payment(TEN, payment_method=OK, capture=False))
    call = square.capture_payment(held.id)
    assert call.idempotency_key is None
    box.arm(kind="dropped", processed=True, path="*/complete")
    with pytest.raises(errors.OutcomeUnknown):
        run(call)
    assert run(call).captured == TEN
    with pytest.raises(errors.InvalidRequest, match="completed; use refund"):
        run(square.cancel_payment(held.id))
    other = run(square.create_payment(TEN, payment_method=OK, capture=False))
    for _ in range(2):
        assert run(square.cancel_payment(other.id)).status is PaymentStatus.CANCELED
    assert [path.rpartition("/")[2] for path in posts(box)] == ["payments", "complete", "payments", "cancel"]
    with pytest.raises(errors.InvalidRequest) as caught:
        run(square.capture_payment(other.id))
    assert caught.value.code == "BAD_REQUEST"


def test_declined(box: Box, run: Run):
    """A decline is told by its category, whatever the status, with Square's code; its key is used up."""
    square = box.service(Square)
    call = square.create_payment(TEN, payment_method=DECLINED)
    for _ in range(2):
        with pytest.raises(errors.PaymentDeclined) as caught:
            run(call)
    error = caught.value
    assert (error.status, error.code, error.decline_code, error.may_retry) == (
        400,
        "GENERIC_DECLINE",
        "GENERIC_DECLINE",
        True,
    )
    assert error.detail["payment"]["status"] == "FAILED"
    assert len(box.state("square")["payments"]) == 1
    for nonce, code in (("cvv", "CVV_FAILURE"), ("postalcode", "ADDRESS_VERIFICATION_FAILURE")):
        with pytest.raises(errors.PaymentDeclined, match=code):
            run(square.create_payment(TEN, payment_method=f"cnon:card-nonce-rejected-{nonce}"))


def errored(category: str, code: str) -> dict[str, Any]:
    return {"errors": [{"category": category, "code": code, "detail": "told"}]}


@pytest.mark.parametrize(
    ("category", "code", "status", "kind"),
    [
        ("PAYMENT_METHOD_ERROR", "INSUFFICIENT_FUNDS", 402, errors.PaymentDeclined),
        ("PAYMENT_METHOD_ERROR", "CARD_EXPIRED", 200, errors.PaymentDeclined),
        ("PAYMENT_METHOD_ERROR", "TEMPORARY_ERROR", 400, errors.ServiceUnavailable),
        ("INVALID_REQUEST_ERROR", "MISSING_REQUIRED_PARAMETER", 400, errors.InvalidRequest),
        ("INVALID_REQUEST_ERROR", "IDEMPOTENCY_KEY_REUSED", 400, errors.IdempotencyConflict),
        ("INVALID_REQUEST_ERROR", "NOT_FOUND", 404, errors.NotFound),
        ("INVALID_REQUEST_ERROR", "CONFLICT", 409, errors.Conflict),
        ("AUTHENTICATION_ERROR", "UNAUTHORIZED", 401, errors.AuthenticationFailed),
        ("AUTHENTICATION_ERROR", "ACCESS_TOKEN_EXPIRED", 401, errors.AuthenticationFailed),
        ("AUTHENTICATION_ERROR", "ACCESS_TOKEN_REVOKED", 401, errors.AuthenticationFailed),
        ("AUTHENTICATION_ERROR", "FORBIDDEN", 403, errors.PermissionDenied),
        ("AUTHENTICATION_ERROR", "INSUFFICIENT_SCOPES", 403, errors.PermissionDenied),
        ("RATE_LIMIT_ERROR", "RATE_LIMITED", 429, errors.RateLimited),
        ("REFUND_ERROR", "REFUND_AMOUNT_INVALID", 400, errors.InvalidRequest),
        ("REFUND_ERROR", "REFUND_ALREADY_PENDING", 400, errors.InvalidRequest),
        ("REFUND_ERROR", "PAYMENT_NOT_REFUNDABLE", 400, errors.InvalidRequest),
        ("API_ERROR", "INTERNAL_SERVER_ERROR", 500, errors.ServiceUnavailable),
        ("API_ERROR", "GATEWAY_TIMEOUT", 504, errors.ServiceUnavailable),
    ],
)
def test_every_documented_error(category: str, code: str, status: int, kind: type[errors.CallError]):
    """Each error that the card names is of its type, with Square's code and words."""
    recorder = Recorder(status, json.dumps(errored(category, code)).encode())
    square = recorder.service(Square, policy=Policy(retry=None, breaker=None))
    with pytest.raises(kind) as caught:
        square.create_payment(TEN, payment_method=OK).result()
    assert (type(caught.value), caught.value.code, caught.value.message) == (kind, code, "told")


def test_a_temporary_error_is_no_decline(box: Box, run: Run):
    """TEMPORARY_ERROR, filed under declines, is tried again under the same key."""
    square = box.service(Square, policy=Policy(retry=Retry(base=0.01)))
    box.arm(kind="status", status=400, body=errored("PAYMENT_METHOD_ERROR", "TEMPORARY_ERROR"))
    assert run(square.create_payment(TEN, payment_method=OK)).captured == TEN
    assert len(posts(box)) == 2


def test_same_call_twice_pays_once(box: Box, run: Run):
    """The same Call sent twice carries one key and pays once; another Call under that key is IdempotencyConflict."""
    square = box.service(Square)
    call = square.create_payment(TEN, payment_method=OK)
    assert run(call) == run(call)
    assert len(box.state("square")["payments"]) == 1
    with pytest.raises(errors.IdempotencyConflict):
        run(square.create_payment(Money(5, "usd"), payment_method=OK, idempotency_key=call.idempotency_key))


def test_a_lost_answer(box: Box, run: Run, impatient: Policy):
    """A create whose answer was lost is retried under its key, or given up by that key; a full refund too is made once."""
    square = box.service(Square, policy=Policy(retry=Retry(base=0.01)))
    box.arm(kind="dropped", processed=True)
    paid = run(square.create_payment(TEN, payment_method=OK))
    assert list(box.state("square")["payments"]) == [paid.id]
    box.arm(kind="dropped", processed=True)
    with pytest.raises(errors.OutcomeUnknown) as caught:
        run(box.service(Square, policy=impatient).create_payment(TEN, payment_method=OK))
    assert run(square.cancel_payment_by_key(caught.value.idempotency_key or "")) is True
    assert run(square.cancel_payment_by_key("never-seen")) is True
    assert [one["status"] for one in box.state("square")["payments"].values()] == ["COMPLETED", "CANCELED"]
    stored = json.loads(json.dumps(square.refund(paid.id).to_payload()))
    first, second = (run(Call.from_payload(stored, lambda _name: square)) for _ in range(2))
    assert (first, first.amount) == (second, TEN)
    assert len(box.state("square")["refunds"]) == 1


def test_list_pages_by_itself(box: Box):
    """All payments of the location come in both colours, newest first, over as many pages as needed."""
    square = box.service(Square)
    ids = [square.create_payment(Money(500 + n, "usd"), payment_method=OK).result().id for n in range(5)]
    assert [payment.id for payment in square.list_payments(page_size=2)] == ids[::-1]
    assert len(square.list_payments(page_size=2).page().result().items) == 2
    elsewhere = box.service(Square, location_id="L2")
    assert elsewhere.list_payments().page().result().items == ()
    there = elsewhere.create_payment(TEN, payment_method=OK).result()
    assert [payment.id for payment in elsewhere.list_payments()] == [there.id]
    stuck = Recorder(200, b'{"payments":[],"cursor":"7"}').service(Square)
    with pytest.raises(errors.BadAnswer, match="does not advance"):
        list(stuck.list_payments(cursor="7"))


async def test_list_pages_by_itself_async(box: Box):
    """The same listing on an event loop."""
    square = box.service(Square)
    ids = {(await square.create_payment(TEN, payment_method=OK)).id for _ in range(3)}
    assert {payment.id async for payment in square.list_payments(page_size=2)} == ids


def test_any_other_endpoint(box: Box, run: Run):
    """request() reaches endpoints without an operation; a key goes with it where the body names the field."""
    square = box.service(Square)
    body = {"source_id": OK, "amount_money": {"amount": 700, "currency": "USD"}, "idempotency_key": "order-7"}
    made = run(square.request("POST", "/v2/payments", json=body))
    assert made["payment"]["amount_money"]["amount"] == 700
    assert run(square.request("POST", "/v2/payments", json=body)) == made
    with pytest.raises(errors.NotFound):
        run(square.request("GET", "/v2/unicorns"))


@pytest.mark.parametrize(
    ("key", "kind"), [("EAAA-wrong", errors.AuthenticationFailed), ("EAAA-read", errors.PermissionDenied)]
)
def test_bad_tokens(box: Box, run: Run, key: str, kind: type[errors.CallError]):
    """A wrong token and one without the right are told apart, and neither is in the error's text."""
    with pytest.raises(kind) as caught:
        run(box.service(Square, key).create_payment(TEN, payment_method=OK))
    assert key not in str(caught.value)
    assert run(box.service(Square).check()) is True


def test_test_mode_is_another_host():
    """``region="sandbox"`` is Square's sandbox; a payment says whether it was for money."""
    assert Square("EAAA").base_url == "https://connect.squareup.com"
    assert Square("EAAA", region="sandbox").base_url == "https://connect.squareupsandbox.com"
    answer = {"payment": {"id": "P", "status": "COMPLETED", "amount_money": {"amount": 1, "currency": "USD"}}}
    for region, live in ((None, True), ("sandbox", False)):
        recorder = Recorder(200, json.dumps(answer).encode())
        assert recorder.service(Square, region=region).get_payment("P").result().live is live


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda s: s.create_payment(TEN), "payment_method"),
        (lambda s: s.create_payment(Money(0, "usd"), payment_method=OK), "amount"),
        (lambda s: s.create_payment(1099, payment_method=OK), "amount"),
        (lambda s: s.create_payment(TEN, payment_method="ccof:customer-card-id-ok"), "customer"),
        (lambda s: s.create_payment(TEN, payment_method=OK, reference="r" * 41), "reference_id"),
        (lambda s: s.create_payment(TEN, payment_method=OK, note="n" * 501), "note"),
        (
            lambda s: s.create_payment(TEN, payment_method=OK, statement_description_identifier="s" * 21),
            "statement_description_identifier",
        ),
        (lambda s: s.create_payment(TEN, payment_method=OK, metadata={"a": "b"}), "metadata"),
        (lambda s: s.cancel_payment_by_key("k" * 46), "idempotency_key"),
        (lambda s: s.capture_payment("P1", Money(0, "usd")), "amount"),
        (lambda s: s.refund("P1", Money(-5, "usd")), "amount"),
        (lambda s: s.refund("P1", reason="r" * 193), "reason"),
        (lambda s: s.list_payments(page_size=101), "page_size"),
    ],
)
def test_limits_are_checked_before_sending(make: Callable[[Any], Any], field: str):
    """What Square would refuse by a documented limit is InvalidRequest naming the field, and nothing is sent."""
    recorder = Recorder()
    with pytest.raises(errors.InvalidRequest, match=field) as caught:
        make(recorder.service(Square))
    assert caught.value.outcome == "not_sent"
    assert recorder.requests == []


def test_keys_fit():
    """Keys have 1 to 45 characters, as option and as Square's field."""
    square = Recorder().service(Square)
    for make in (
        lambda: square.create_payment(TEN, payment_method=OK, idempotency_key="k" * 46),
        lambda: square.refund("P1", idempotency_key=""),
        lambda: square.create_payment(TEN, payment_method=OK).using(idempotency_key="k" * 46),
    ):
        with pytest.raises(errors.ConfigurationError, match="1 to 45"):
            make()
    assert square.refund("P1", idempotency_key="mine").idempotency_key == "mine"


@pytest.mark.parametrize(
    ("path", "make", "keyed"),
    [
        ("/v2/payments", lambda s: s.create_payment(TEN, payment_method=OK), True),
        (
            "/v2/payments",
            lambda s: s.create_payment(
                TEN,
                payment_method="ccof:customer-card-id-ok",
                capture=False,
                customer="C1",
                reference="order-42",
                note="Tea & cake",
                statement_description_identifier="TEA",
                tip_money={"amount": 100, "currency": "USD"},
                verification_token="v",
            ),
            True,
        ),
        ("/v2/payments/cancel", lambda s: s.cancel_payment_by_key("order-42-1"), False),
        ("/v2/refunds", lambda s: s.refund("P1", TEN, reason="returned"), True),
    ],
)
def test_requests_fit_the_contract(contracts_dir: Path, path: str, make: Callable[[Any], Any], keyed: bool):
    """Every request that we build is valid by square.json, with the pinned version, and its key in the body."""
    recorder = Recorder(500)
    call = make(recorder.service(Square, policy=Policy(retry=None), location_id="L1"))
    with pytest.raises(errors.CallError):
        call.result()
    [request] = recorder.requests
    body = json.loads(request.content)
    contract = Contract(contracts_dir, "square")
    assert (request.method, request.url.path) == ("POST", path)
    assert contract.request_problems("POST", path, request.content, request.headers["content-type"]) == []
    assert (call.idempotency_key is not None) is keyed
    assert body["idempotency_key"] == (call.idempotency_key or "order-42-1")
    assert "idempotency-key" not in request.headers
    assert request.headers["square-version"] == "2026-09-16"
    assert body.get("location_id") == ("L1" if path == "/v2/payments" else None)


def test_all_that_is_sent_and_answered_fits_the_contract(box: Box, contracts_dir: Path):
    """A whole life of payments, recorded on the wire; the contract gives errors the same shape, and lists no listing."""
    contract = Contract(contracts_dir, "square")
    seen: set[tuple[str, int]] = set()

    def judged(request: httpx2.Request) -> httpx2.Response:
        answer = box.client.send(request)
        path = request.url.path.removeprefix("/square")
        if (request.method, path) != ("GET", "/v2/payments"):
            if request.method == "POST" and not re.search("[a-zA-Z0-9]/cancel$", path.removeprefix("/v2/payments")):
                kind = request.headers["content-type"]
                assert contract.request_problems("POST", path, request.read(), kind) == [], path
            assert contract.answer_problems(request.method, path, 200, answer.content) == [], answer.content
            seen.add((re.sub("[0-9a-zA-Z_]{20,}", "*", path), answer.status_code))
        for payment in answer.json().get("payments", []):
            assert contract.problems(contract.component("Payment"), payment) == []
        return httpx2.Response(answer.status_code, headers=answer.headers, content=answer.content)

    square = box.service(Square, wire=httpx2.MockTransport(judged), policy=Policy(retry=None))
    paid = square.create_payment(TEN, payment_method=OK, note="x").result()
    held, other = (square.create_payment(TEN, payment_method=OK, capture=False).result() for _ in "ab")
    refused: list[Call[Any]] = [
        square.create_payment(TEN, payment_method=DECLINED),
        square.create_payment(TEN, payment_method="cnon:unknown"),
        square.get_payment("none"),
        square.refund(held.id),
    ]
    for call in refused:
        with pytest.raises(errors.CallError):
            call.result()
    for good in (
        square.capture_payment(held.id),
        square.cancel_payment(other.id),
        square.cancel_payment_by_key("none"),
        square.refund(paid.id),
        square.list_payments().page(),
    ):
        good.result()
    square.get_refund(next(iter(box.state("square")["refunds"]))).result()
    assert len(seen) >= 9


PAYMENT = {
    "id": "GQTFp1ZlXdpoW4o6eGiZhbjosiDFf",
    "status": "COMPLETED",
    "amount_money": {"amount": 1099, "currency": "EUR"},
    "refunded_money": {"amount": 0, "currency": "EUR"},
    "reference_id": "order-42",
}


def event(type_: str, holder: Any, environment: str = "Production") -> Event:
    told = {"type": type_, "event_id": "e", "created_at": "2026-11-20T10:00:00.123Z", "data": {"object": holder}}
    headers = {"content-type": "application/json", "square-environment": environment}
    return Event("square", "e", type_, json.dumps(told).encode(), headers)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("APPROVED", PaymentEventKind.AUTHORIZED),
        ("PENDING", PaymentEventKind.PROCESSING),
        ("COMPLETED", PaymentEventKind.SUCCEEDED),
        ("CANCELED", PaymentEventKind.CANCELED),
        ("FAILED", PaymentEventKind.FAILED),
    ],
)
def test_events_of_payments(status: str, kind: PaymentEventKind):
    """The card's example and its like are read by the payment's status, with what Square repeats of ours."""
    refused = {"errors": [{"category": "PAYMENT_METHOD_ERROR", "code": "CVV_FAILURE"}]}
    read = Square.read_event(
        event("payment.updated", {"payment": {**PAYMENT, "status": status, "card_details": refused}})
    )
    assert read is not None
    assert read.payment is not None
    assert (read.kind, read.payment_id, read.reference) == (kind, PAYMENT["id"], "order-42")
    assert (read.amount, read.reason, read.payment.live) == (Money(1099, "eur"), "CVV_FAILURE", True)


def test_events_of_refunds_and_disputes():
    """Refunds are told by their status, new disputes name the payment; updates that tell nothing are None."""
    refund = {"id": "R", "payment_id": "P", "amount_money": {"amount": 5, "currency": "EUR"}}
    kinds = {
        "PENDING": PaymentEventKind.REFUND_PENDING,
        "COMPLETED": PaymentEventKind.REFUNDED,
        "REJECTED": PaymentEventKind.REFUND_FAILED,
        "FAILED": PaymentEventKind.REFUND_FAILED,
    }
    for status, kind in kinds.items():
        read = Square.read_event(event("refund.updated", {"refund": {**refund, "status": status}}))
        assert read is not None
        assert (read.kind, read.refund_id, read.payment_id, read.amount) == (kind, "R", "P", Money(5, "eur"))
    dispute = {"amount_money": {"amount": 9, "currency": "EUR"}, "disputed_payment": {"payment_id": "P"}}
    for place in ("dispute", "object"):
        read = Square.read_event(event("dispute.created", {place: {**dispute, "reason": "NO_KNOWLEDGE"}}))
        assert read is not None
        assert (read.kind, read.payment_id, read.reason) == (PaymentEventKind.DISPUTED, "P", "NO_KNOWLEDGE")
    back = {**PAYMENT, "refunded_money": {"amount": 5, "currency": "EUR"}}
    test = Square.read_event(event("payment.created", {"payment": PAYMENT}, "Sandbox"))
    assert test is not None
    assert test.payment is not None
    assert test.payment.live is False
    for type_, holder in (
        ("payment.updated", {"payment": back}),
        ("payment.updated", {"payment": {**PAYMENT, "status": "NEW"}}),
        ("refund.updated", {"refund": {**refund, "status": "NEW"}}),
        ("dispute.state.updated", {}),
        ("customer.created", {}),
    ):
        assert Square.read_event(event(type_, holder)) is None
    with pytest.raises(errors.BadAnswer):
        Square.read_event(event("payment.updated", {}))
