from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import stripe as official
from tests.contracts import Contract
from tests.services.conftest import Box
from tests.services.recorder import Recorder

from moorline import errors
from moorline.events import verify
from moorline.money import Money
from moorline.policies.policy import Policy
from moorline.policies.retry import Retry
from moorline.sandbox.services.stripe import STAND_IN
from moorline.sandbox.standin import Emission, Surroundings
from moorline.services.payments.protocol import PaymentStatus, RefundStatus
from moorline.services.payments.stripe import Stripe

TEN = Money(1099, "eur")
Run = Callable[[Any], Any]
CALLS: list[Callable[[Stripe], Any]] = [
    lambda s: s.create_payment(Money(1099, "eur")),
    lambda s: s.confirm_payment("pi_1"),
    lambda s: s.get_payment("pi_1"),
    lambda s: s.capture_payment("pi_1"),
    lambda s: s.cancel_payment("pi_1"),
    lambda s: s.refund("pi_1"),
    lambda s: s.get_refund("re_1"),
    lambda s: s.list_payments().page(),
    lambda s: s.check(),
]


def test_payment_from_hold_to_refund(box: Box, run: Run):
    """A payment is held, captured in part, refunded in part and in full, and read back, from either colour."""
    stripe = box.service(Stripe)
    held = run(stripe.create_payment(TEN, payment_method="pm_card_visa", capture=False, metadata={"order": "42"}))
    assert (held.status, held.vendor_status) == (PaymentStatus.AUTHORIZED, "requires_capture")
    assert (held.capturable, held.captured, held.metadata) == (TEN, Money(0, "eur"), {"order": "42"})
    taken = run(stripe.capture_payment(held.id, Money(1000, "eur")))
    assert (taken.status, taken.captured) == (PaymentStatus.SUCCEEDED, Money(1000, "eur"))
    part = run(stripe.refund(held.id, Money(400, "eur"), reason="requested_by_customer"))
    assert (part.status, part.amount, part.payment_id) == (RefundStatus.SUCCEEDED, Money(400, "eur"), held.id)
    assert run(stripe.refund(held.id)).amount == Money(600, "eur")
    assert run(stripe.get_refund(part.id)) == part
    with pytest.raises(errors.InvalidRequest) as caught:
        run(stripe.refund(held.id))
    assert caught.value.code == "charge_already_refunded"
    assert run(stripe.get_payment(held.id)).raw["id"] == held.id


@pytest.mark.parametrize(
    ("amount", "sent"),
    [
        (Money(500, "isk"), 50_000),
        (Money(500, "ugx"), 50_000),
        (Money(50_000, "mga"), 500),
        (Money(5120, "kwd"), 5120),
        (Money(500, "jpy"), 500),
    ],
)
def test_currencies_that_stripe_counts_otherwise(box: Box, run: Run, amount: Money, sent: int):
    """An amount is sent in Stripe's units of its currency, and read from them, in payments, captures and refunds."""
    stripe = box.service(Stripe)
    held = run(stripe.create_payment(amount, payment_method="pm_card_visa", capture=False))
    assert (held.raw["amount"], held.amount, held.capturable) == (sent, amount, amount)
    taken = run(stripe.capture_payment(held.id, amount))
    assert (taken.raw["amount_received"], taken.captured) == (sent, amount)
    back = run(stripe.refund(held.id, amount))
    assert (back.raw["amount"], back.amount) == (sent, amount)


@pytest.mark.parametrize("amount", [Money(10**12 - 1, "idr"), Money(150_000_000, "inr"), Money(100_000_000, "jpy")])
def test_large_amounts(box: Box, amount: Money):
    """Amounts of twelve digits can be paid, which a purchase in rupiah needs before it is large."""
    paid = box.service(Stripe).create_payment(amount, payment_method="pm_card_visa").result()
    assert (paid.status, paid.captured) == (PaymentStatus.SUCCEEDED, amount)


def test_a_fraction_that_money_cannot_hold():
    """Of before 2023 Stripe has fractions of a króna: they are BadAnswer, no other amount."""
    answer = b'{"id":"pi_1","status":"succeeded","amount":4010,"currency":"isk"}'
    with pytest.raises(errors.BadAnswer, match="fraction"):
        Recorder(content=answer).service(Stripe).get_payment("pi_1").result()


def test_declined_card(box: Box, run: Run):
    """A declined card is PaymentDeclined with the bank's reason and whether another try may help; the intent lives on."""
    stripe = box.service(Stripe)
    with pytest.raises(errors.PaymentDeclined) as caught:
        run(stripe.create_payment(TEN, payment_method="pm_card_visa_chargeDeclinedInsufficientFunds"))
    error = caught.value
    assert (error.status, error.code, error.decline_code, error.may_retry) == (
        402,
        "card_declined",
        "insufficient_funds",
        True,
    )
    assert error.request_id
    intent = error.detail["error"]["payment_intent"]["id"]
    assert run(stripe.confirm_payment(intent, payment_method="pm_card_visa")).status is PaymentStatus.SUCCEEDED
    with pytest.raises(errors.PaymentDeclined) as lost:
        run(stripe.create_payment(TEN, payment_method="pm_card_visa_chargeDeclinedLostCard"))
    assert lost.value.may_retry is False
    assert len(box.seen()) == 3  # a decline is never repeated by itself


def test_other_ways_to_confirm():
    """A payment is also confirmed by a method's data, or by the token that Stripe's form gave (stripe 16.1.0)."""
    recorder = Recorder(content=b'{"id":"pi_1","status":"succeeded","amount":1099,"currency":"eur"}')
    recorder.service(Stripe).create_payment(TEN, confirm=True, confirmation_token="ctoken_1").result()
    recorder.service(Stripe).create_payment(TEN, confirm=True, payment_method_data={"type": "card"}).result()
    assert [b"confirm=true" in request.content for request in recorder.requests] == [True, True]
    assert b"confirmation_token=ctoken_1" in recorder.requests[0].content


def test_three_d_secure(box: Box, run: Run):
    """3-D Secure is a payment that requires a typed action; refused off session it is a decline."""
    stripe = box.service(Stripe)
    card = "pm_card_authenticationRequired"
    asked = run(stripe.create_payment(TEN, payment_method=card, return_url="https://shop.example/back"))
    assert asked.status is PaymentStatus.REQUIRES_ACTION
    assert (asked.action.kind, asked.action.url.startswith("https://")) == ("redirect", True)
    assert asked.client_secret not in repr(asked)
    direct = run(stripe.create_payment(TEN, payment_method=card))
    assert (direct.action.kind, direct.action.client_secret) == ("sdk", direct.client_secret)
    with pytest.raises(errors.PaymentDeclined) as caught:
        run(stripe.create_payment(TEN, payment_method=card, off_session=True))
    assert caught.value.code == "authentication_required"


def test_cancel(box: Box, run: Run):
    """An open payment can be cancelled with a reason; one that is paid cannot."""
    stripe = box.service(Stripe)
    open_payment = run(stripe.create_payment(TEN))
    assert open_payment.status is PaymentStatus.NEEDS_METHOD
    assert run(stripe.cancel_payment(open_payment.id, reason="abandoned")).status is PaymentStatus.CANCELED
    with pytest.raises(errors.InvalidRequest) as caught:
        run(stripe.cancel_payment(open_payment.id))
    assert caught.value.code == "payment_intent_unexpected_state"


def test_same_call_twice_pays_once(box: Box, run: Run):
    """The same Call sent twice carries one key and pays once; another Call under that key is IdempotencyConflict."""
    stripe = box.service(Stripe)
    call = stripe.create_payment(TEN, payment_method="pm_card_visa")
    assert call.idempotency_key is not None
    assert run(call) == run(call)
    assert len(box.state("stripe")["payment_intents"]) == 1
    with pytest.raises(errors.IdempotencyConflict):
        run(stripe.create_payment(Money(2000, "eur")).using(idempotency_key=call.idempotency_key))


def test_retry_after_a_lost_answer_pays_once(box: Box, run: Run):
    """When the answer is lost after Stripe acted, the retry with the same key brings the first payment."""
    box.arm(kind="dropped", processed=True)
    box.arm(kind="status", status=503)
    stripe = box.service(Stripe, policy=Policy(retry=Retry(base=0.01)))
    paid = run(stripe.create_payment(TEN, payment_method="pm_card_visa"))
    assert paid.status is PaymentStatus.SUCCEEDED
    assert list(box.state("stripe")["payment_intents"]) == [paid.id]
    assert len(box.seen()) == 3


def test_list_pages_by_itself(box: Box):
    """All payments come in both colours, newest first, over as many pages as needed."""
    stripe = box.service(Stripe)
    ids = [stripe.create_payment(Money(500 + n, "usd")).result().id for n in range(5)]
    assert [payment.id for payment in stripe.list_payments(page_size=2)] == ids[::-1]
    assert len(stripe.list_payments(page_size=2).page().result().items) == 2
    assert stripe.list_payments(customer="cus_none").page().result().items == ()


async def test_list_pages_by_itself_async(box: Box):
    """The same listing on an event loop."""
    stripe = box.service(Stripe)
    ids = {(await stripe.create_payment(Money(500, "usd"))).id for _ in range(3)}
    assert {payment.id async for payment in stripe.list_payments(page_size=2)} == ids


def test_any_other_endpoint(box: Box, run: Run):
    """request() reaches endpoints without an operation, with form bodies, keys and typed errors."""
    stripe = box.service(Stripe)
    found = run(
        stripe.request("POST", "/v1/payment_intents", form={"amount": 700, "currency": "usd", "metadata": {"a": "b"}})
    )
    assert (found["amount"], found["metadata"]) == (700, {"a": "b"})
    with pytest.raises(errors.NotFound):
        run(stripe.request("GET", "/v1/unicorns"))


@pytest.mark.parametrize(
    ("key", "kind"), [("sk_test_wrong", errors.AuthenticationFailed), ("rk_test_read", errors.PermissionDenied)]
)
def test_bad_keys(box: Box, run: Run, key: str, kind: type[errors.CallError]):
    """A wrong key and one without the right are told apart, and neither is in the error's text."""
    with pytest.raises(kind) as caught:
        run(box.service(Stripe, key).create_payment(TEN))
    assert key not in str(caught.value)
    assert run(box.service(Stripe).check()) is True


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda s: s.create_payment(Money(0, "eur")), "amount"),
        (lambda s: s.create_payment(Money(10**12, "idr")), "amount"),
        (lambda s: s.create_payment(Money(10**10, "isk")), "amount"),
        (lambda s: s.create_payment(1099), "amount"),
        (lambda s: s.create_payment(Money(150, "mga")), "amount"),
        (lambda s: s.create_payment(Money(5123, "kwd")), "amount"),
        (lambda s: s.capture_payment("pi_1", Money(5123, "kwd")), "amount"),
        (lambda s: s.refund("pi_1", Money(150, "mga")), "amount"),
        (lambda s: s.create_payment(TEN, confirm=True), "payment_method"),
        (lambda s: s.create_payment(TEN, metadata={"k" * 41: "v"}), "metadata"),
        (lambda s: s.create_payment(TEN, metadata={"k": "v" * 501}), "metadata"),
        (lambda s: s.create_payment(TEN, metadata={str(n): "v" for n in range(51)}), "metadata"),
        (lambda s: s.create_payment(TEN, metadata={"k": 1}), "metadata"),
        (lambda s: s.create_payment(TEN, description="d" * 1001), "description"),
        (lambda s: s.create_payment(TEN, statement_descriptor_suffix="s" * 23), "statement_descriptor_suffix"),
        (lambda s: s.refund("pi_1", reason="mood"), "reason"),
        (lambda s: s.refund("pi_1", Money(-5, "eur")), "amount"),
        (lambda s: s.cancel_payment("pi_1", reason="mood"), "reason"),
        (lambda s: s.list_payments(page_size=101), "page_size"),
    ],
)
def test_limits_are_checked_before_sending(make: Callable[[Any], Any], field: str):
    """What Stripe would refuse by a documented limit is InvalidRequest naming the field, and nothing is sent."""
    recorder = Recorder()
    with pytest.raises(errors.InvalidRequest, match=field) as caught:
        make(recorder.service(Stripe))
    assert caught.value.outcome == "not_sent"
    assert recorder.requests == []


def test_ids_cannot_reach_other_endpoints():
    """An id with slashes or dots is escaped or refused, so that it cannot name another resource."""
    recorder = Recorder(500)
    stripe = recorder.service(Stripe, policy=Policy(retry=None))
    with pytest.raises(errors.ServiceUnavailable):
        stripe.get_payment("../refunds").result()
    assert recorder.requests[0].url.raw_path == b"/v1/payment_intents/..%2Frefunds"
    with pytest.raises(errors.ConfigurationError, match="payment_id"):
        stripe.refund("")


@pytest.mark.parametrize(
    ("method", "path", "make"),
    [
        ("POST", "/v1/payment_intents", lambda s: s.create_payment(TEN)),
        (
            "POST",
            "/v1/payment_intents",
            lambda s: s.create_payment(
                Money(1099, "jpy"),
                payment_method="pm_card_visa",
                capture=False,
                customer="cus_1",
                description="Tea & cake 50 %",
                receipt_email="ada@example.com",
                statement_descriptor_suffix="TEA",
                return_url="https://shop.example/?a=b&c=d",
                off_session=True,
                metadata={"order": "42", "naïve key": "ü=&[]"},
                shipping={"name": "Ada", "address": {"line1": "1 Quay"}},
                setup_future_usage="off_session",
                expand=["latest_charge"],
            ),
        ),
        ("POST", "/v1/payment_intents", lambda s: s.create_payment(TEN, payment_method_types=["card"])),
        (
            "POST",
            "/v1/payment_intents/pi_1/confirm",
            lambda s: s.confirm_payment("pi_1", payment_method="pm_card_visa"),
        ),
        ("POST", "/v1/payment_intents/pi_1/capture", lambda s: s.capture_payment("pi_1")),
        ("POST", "/v1/payment_intents/pi_1/cancel", lambda s: s.cancel_payment("pi_1", reason="duplicate")),
        ("POST", "/v1/refunds", lambda s: s.refund("pi_1")),
        ("GET", "/v1/payment_intents/pi_1", lambda s: s.get_payment("pi_1")),
        ("GET", "/v1/refunds/re_1", lambda s: s.get_refund("re_1")),
    ],
)
def test_requests_fit_the_contract(contracts_dir: Path, method: str, path: str, make: Callable[[Any], Any]):
    """Every request that we build is valid by stripe.json, carries the pinned version, and a key when it writes."""
    recorder = Recorder(500)
    with pytest.raises(errors.CallError):
        make(recorder.service(Stripe, policy=Policy(retry=None))).result()
    [request] = recorder.requests
    contract = Contract(contracts_dir, "stripe")
    kind = request.headers.get("content-type", "")
    assert (request.method, request.url.path) == (method, path)
    if method == "POST":
        assert contract.request_problems(method, path, request.content, kind) == []
    assert request.headers["stripe-version"] == "2026-10-28.endive"
    assert request.headers["authorization"] == "Bearer sk_test_1"
    assert ("idempotency-key" in request.headers) is (method == "POST")


@pytest.mark.parametrize(
    ("path", "make", "sent"),
    [
        (
            "/v1/payment_intents/pi_1/capture",
            lambda s, amount: s.capture_payment("pi_1", amount, metadata={"a": "b"}),
            b"amount_to_capture=1099&metadata[a]=b",
        ),
        (
            "/v1/refunds",
            lambda s, amount: s.refund("pi_1", amount, reason="fraudulent", metadata={"a": "b"}),
            b"payment_intent=pi_1&amount=1099&reason=fraudulent&metadata[a]=b",
        ),
    ],
)
def test_amounts_are_of_the_payments_currency(
    contracts_dir: Path, path: str, make: Callable[[Any, Money], Any], sent: bytes
):
    """A capture and a refund of an amount look at the payment first: Stripe, told no currency, would take any number."""
    intent = b'{"id":"pi_1","status":"requires_capture","amount":1099,"currency":"eur"}'
    recorder = Recorder(content=intent)
    call = make(recorder.service(Stripe), TEN)
    assert call.result().amount == TEN
    read, write = recorder.requests
    assert (read.method, read.url.path, "idempotency-key" in read.headers) == ("GET", "/v1/payment_intents/pi_1", False)
    assert (write.method, write.url.path, write.content) == ("POST", path, sent)
    assert write.headers["idempotency-key"] == call.idempotency_key
    assert write.headers["stripe-version"] == "2026-10-28.endive"
    kind = write.headers["content-type"]
    assert Contract(contracts_dir, "stripe").request_problems("POST", path, write.content, kind) == []
    with pytest.raises(errors.InvalidRequest, match=r"amount: is 1099 JPY, but the payment is in EUR") as caught:
        make(recorder.service(Stripe), Money(1099, "jpy")).result()
    assert caught.value.outcome == "not_sent"
    assert [request.method for request in recorder.requests] == ["GET", "POST", "GET"]


def test_the_contract_check_finds_what_is_wrong(contracts_dir: Path):
    """The judge itself: a wrong type, a missing, an unknown and an out-of-enum field are each found."""
    contract = Contract(contracts_dir, "stripe")
    form = "application/x-www-form-urlencoded"
    for body in (
        b"amount=ten&currency=eur",
        b"amount=5",
        b"amount=5&currency=eur&moon=1",
        b"amount=5&currency=eur&capture_method=x",
    ):
        assert len(contract.request_problems("POST", "/v1/payment_intents", body, form)) == 1, body
    answer = b'{"id":"pi_1","object":"payment_intent","amount":"ten"}'
    assert contract.answer_problems("POST", "/v1/payment_intents", 200, answer)


def test_webhooks_agree_with_the_official_verifier():
    """What the official package signs verifies here, and what the sandbox signs verifies on both sides."""
    stand_in = STAND_IN.make(Surroundings())
    body = stand_in.sample("payment_intent.succeeded")
    now = int(Surroundings().clock.wall())
    theirs = official.WebhookSignature.generate_signature_header(body.decode(), "whsec_1", now)
    ours = stand_in.sign(
        Emission("x", body, "evt"), url="https://x.example", secrets=("whsec_0", "whsec_1"), hook_id="", broken=False
    ).headers
    for header in (theirs, ours["Stripe-Signature"]):
        event = verify(Stripe, headers={"Stripe-Signature": header}, body=body, secrets="whsec_1")
        assert event.type == "payment_intent.succeeded"
        assert event.id.startswith("evt_")
    broken = stand_in.sign(
        Emission("x", body, "evt"), url="https://x.example", secrets=("whsec_1",), hook_id="", broken=True
    ).headers
    with pytest.raises(errors.InvalidSignature):
        verify("stripe", headers=broken, body=body, secrets="whsec_1")
