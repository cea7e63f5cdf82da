from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
from Adyen.util import is_valid_hmac_notification  # type: ignore[import-untyped]
from tests.contracts import Contract
from tests.services.conftest import Box
from tests.services.recorder import Recorder

from moorline import errors
from moorline.calls.call import Call
from moorline.calls.guards import Guards
from moorline.events import verify_each
from moorline.events.event import Event
from moorline.money import Money
from moorline.policies.policy import Policy
from moorline.policies.retry import Retry
from moorline.sandbox.services.adyen import STAND_IN
from moorline.sandbox.standin import Ask, Emission, StandIn, Surroundings
from moorline.services.payments.adyen import Adyen
from moorline.services.payments.protocol import PaymentEvent, PaymentStatus, RefundStatus

TEN = Money(1099, "eur")
NOTHING = Money(0, "eur")
Run = Callable[[Any], Any]
CARD: dict[str, Any] = {
    "type": "scheme",
    "encryptedCardNumber": "test_4111111111111111",
    "encryptedExpiryMonth": "test_03",
    "encryptedExpiryYear": "test_2030",
    "encryptedSecurityCode": "test_737",
}
ORDER: dict[str, Any] = {"reference": "order-42", "return_url": "https://shop.example/back?a=b"}
SECURE = {"attemptAuthentication": "always"}
NATIVE = SECURE | {"threeDSRequestData": {"nativeThreeDS": "preferred"}}
HASTY = Policy(deadline=5, retry=Retry(retries=2, base=0.001, cap=0.001))
KEY = str(STAND_IN.secret)


@pytest.fixture(scope="module")
def contract(contracts_dir: Path) -> Contract:
    """Adyen's description of its API."""
    return Contract(contracts_dir, "adyen")


def pay(service: Adyen, amount: Any = TEN, holder: str = "", **more: Any) -> Any:
    method = CARD | ({"holderName": holder} if holder else {})
    return service.create_payment(amount, **{"payment_method": method, **ORDER, **more})


CALLS: list[Callable[[Adyen], Any]] = [
    pay,
    lambda s: s.submit_details(TEN, {"redirectResult": "X"}),
    lambda s: s.capture_payment("P1", TEN),
    lambda s: s.cancel_payment("P1"),
    lambda s: s.cancel_by_reference("order-42"),
    lambda s: s.reverse_payment("P1"),
    lambda s: s.refund("P1", TEN),
    lambda s: s.create_session(TEN, **ORDER),
    lambda s: s.get_session("CS1", "R"),
    lambda s: s.check(),
]


class Shop:
    """A service in front of a stand-in of its own, and the notifications that came of it, verified and read."""

    def __init__(self, key: str = "AQE1", account: str = "Shop") -> None:
        self.emitted: list[Emission] = []
        self.asked = 0
        self.stand_in: StandIn = STAND_IN.make(Surroundings(emit=self.emitted.append))
        wire = httpx2.MockTransport(self._answer)
        self.service = Adyen(key, merchant_account=account, wire=wire, guards=Guards(), policy=HASTY)

    def _answer(self, request: httpx2.Request) -> httpx2.Response:
        self.asked += 1
        headers = {name.lower(): value for name, value in request.headers.items()}
        ask = Ask(request.method, request.url.path, "", headers, request.read(), "https://sandbox.example/adyen")
        answer = asyncio.run(self.stand_in.handle(ask))
        return httpx2.Response(answer.status, content=answer.encoded()[0], headers=dict(answer.headers))

    def told(self) -> list[PaymentEvent]:
        """What the notifications since the last time meant."""
        found = [one for emission in self.emitted for one in self._events(emission)]
        self.emitted.clear()
        read = [Adyen.read_event(event) for event in found]
        return [one for one in read if one is not None]

    def _events(self, emission: Emission) -> list[Event]:
        signed = self.stand_in.sign(emission, url="https://x.example", secrets=(KEY, "00"), hook_id="1", broken=False)
        assert signed.body is not None
        assert is_valid_hmac_notification(json.loads(signed.body), KEY)  # the official package agrees
        return verify_each(Adyen, headers=signed.headers, body=signed.body, secrets=KEY)


def test_a_payment_is_captured_at_once(box: Box, run: Run):
    """Without more a payment takes the money, whatever the account's setting, and says that it is a test."""
    adyen = box.service(Adyen)
    paid = run(pay(adyen, metadata={"order": "42"}))
    assert (paid.status, paid.vendor_status) == (PaymentStatus.SUCCEEDED, "Authorised")
    assert (paid.amount, paid.captured, paid.capturable, paid.live) == (TEN, TEN, NOTHING, False)
    assert box.state("adyen")["payments"][paid.id]["captured"] == 1099
    assert paid.raw["merchantReference"] == "order-42"


def test_a_payment_is_held_and_captured(box: Box, run: Run):
    """A held payment is asked to be captured, in part; the answer only says that it was taken for work."""
    adyen = box.service(Adyen)
    held = run(pay(adyen, capture=False))
    assert (held.status, held.captured, held.capturable) == (PaymentStatus.AUTHORIZED, NOTHING, TEN)
    asked = run(adyen.capture_payment(held.id, Money(1000, "eur"), reference="capture-1"))
    assert (asked.id, asked.status, asked.vendor_status) == (held.id, PaymentStatus.PROCESSING, "received")
    assert (asked.amount, asked.captured) == (Money(1000, "eur"), NOTHING)
    assert asked.raw["pspReference"] != held.id
    assert box.state("adyen")["payments"][held.id]["captured"] == 1000
    later = run(pay(adyen, captureDelayHours=24))
    assert later.status is PaymentStatus.AUTHORIZED


def test_a_refund_is_pending(box: Box, run: Run):
    """A refund has an id of its own and is pending; all of a payment is given back by a reversal."""
    adyen = box.service(Adyen)
    paid = run(pay(adyen))
    part = run(adyen.refund(paid.id, Money(99, "eur"), reason="RETURN", reference="refund-1"))
    assert (part.status, part.amount, part.payment_id) == (RefundStatus.PENDING, Money(99, "eur"), paid.id)
    assert (part.reason, part.id != paid.id) == ("RETURN", True)
    other = run(pay(adyen))
    whole = run(adyen.reverse_payment(other.id))
    assert (whole.payment_id, whole.vendor_status) == (other.id, "received")
    assert box.state("adyen")["payments"][other.id]["refunded"] == 1099


def test_cancels(box: Box, run: Run):
    """What is held is cancelled by Adyen's id or, where that was lost, by one's own."""
    adyen = box.service(Adyen)
    held = run(pay(adyen, capture=False))
    asked = run(adyen.cancel_payment(held.id))
    assert (asked.id, asked.status, asked.amount) == (held.id, PaymentStatus.PROCESSING, Money(0, "xxx"))
    lost = run(pay(adyen, capture=False, reference="order-43"))
    named = run(adyen.cancel_by_reference("order-43", reference="cancel-1"))
    assert (named.payment_id, named.payment_reference) == (None, "order-43")
    states = box.state("adyen")["payments"]
    assert [states[one.id]["state"] for one in (held, lost)] == ["cancelled", "cancelled"]


@pytest.mark.parametrize(
    ("holder", "code", "reason", "may_retry"),
    [
        ("DECLINED", "2", "Refused", True),
        ("CARD_EXPIRED", "6", "Expired Card", True),
        ("BLOCK_CARD", "5", "Blocked Card", False),
        ("NOT_ENOUGH_BALANCE", "12", "Not enough balance", True),
        ("ERROR", "4", "Acquirer Error", True),
    ],
)
def test_a_refused_payment_is_declined(holder: str, code: str, reason: str, may_retry: bool):
    """HTTP 200 is not paid: Refused and Error are PaymentDeclined with the bank's code, reason and id, sent once."""
    shop = Shop()
    with pytest.raises(errors.PaymentDeclined) as caught:
        pay(shop.service, holder=holder).result()
    error = caught.value
    assert (error.status, error.decline_code, error.message, error.may_retry) == (200, code, reason, may_retry)
    assert error.code == ("Error" if code == "4" else "Refused")
    assert (error.request_id, error.outcome, error.retryable) == (error.detail["pspReference"], "done", False)
    assert shop.asked == 1


def test_declined_by_number():
    """The test platform's other way to a refusal leads there too; a wrong security code is a plain refusal."""
    adyen = Shop().service
    with pytest.raises(errors.PaymentDeclined) as fraud:
        pay(adyen, additionalData={"RequestedTestAcquirerResponseCode": "20"}).result()
    assert (fraud.value.decline_code, fraud.value.may_retry) == ("20", False)
    with pytest.raises(errors.PaymentDeclined) as wrong:
        pay(adyen, payment_method=CARD | {"encryptedSecurityCode": "test_111"}).result()
    assert wrong.value.decline_code == "2"


@pytest.mark.parametrize(
    ("outcome", "status"), [("succeed", PaymentStatus.SUCCEEDED), ("cancel", PaymentStatus.CANCELED), ("fail", None)]
)
def test_a_redirect_is_finished_by_its_details(box: Box, run: Run, outcome: str, status: PaymentStatus | None):
    """3-D Secure is no error: the shopper is sent away, and what comes back with them finishes the payment."""
    adyen = box.service(Adyen)
    asked = run(pay(adyen, authenticationData=SECURE))
    assert (asked.status, asked.vendor_status, asked.id) == (PaymentStatus.REQUIRES_ACTION, "RedirectShopper", "")
    assert (asked.action.kind, asked.captured) == ("redirect", NOTHING)
    back = box.client.get(asked.action.url, params={"outcome": outcome})
    assert back.headers["location"].startswith("https://shop.example/back?a=b&redirectResult=")
    result = parse_qs(urlsplit(back.headers["location"]).query)["redirectResult"][0]
    if status is None:
        with pytest.raises(errors.PaymentDeclined) as caught:
            run(adyen.submit_details(TEN, {"redirectResult": result}))
        assert (caught.value.decline_code, caught.value.message) == ("11", "3D Not Authenticated")
    else:
        done = run(adyen.submit_details(TEN, {"redirectResult": result}))
        assert (done.status, bool(done.id), done.amount) == (status, True, TEN)
    with pytest.raises(errors.Conflict) as again:
        run(adyen.submit_details(TEN, {"redirectResult": result}))
    assert (again.value.code, again.value.outcome) == ("704", "unknown")


def test_a_native_action_goes_to_the_drop_in(box: Box, run: Run):
    """What is no plain redirect is Adyen's Drop-in's, which gets the action as it is."""
    adyen = box.service(Adyen)
    asked = run(pay(adyen, authenticationData=NATIVE, capture=False))
    assert (asked.action.kind, asked.action.raw["type"]) == ("sdk", "threeDS2")
    assert asked.action.raw["token"] not in repr(asked)
    done = run(adyen.submit_details(TEN, {"threeds2.fingerprint": asked.action.raw["token"]}, capture=False))
    assert (done.status, done.capturable) == (PaymentStatus.AUTHORIZED, TEN)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"resultCode": "Authorised"}, ("succeeded", TEN, None)),
        (
            {"resultCode": "PartiallyAuthorised", "amount": {"value": 5, "currency": "EUR"}},
            ("authorized", NOTHING, None),
        ),
        ({"resultCode": "Received"}, ("processing", NOTHING, None)),
        ({"resultCode": "Pending"}, ("processing", NOTHING, None)),
        ({"resultCode": "Pending", "action": {"type": "await", "url": "u"}}, ("requires_action", NOTHING, "sdk")),
        ({"resultCode": "PresentToShopper", "action": {"type": "voucher"}}, ("requires_action", NOTHING, "sdk")),
        (
            {"resultCode": "RedirectShopper", "action": {"type": "redirect", "method": "POST", "url": "u", "data": {}}},
            ("requires_action", NOTHING, "sdk"),
        ),
        (
            {"resultCode": "RedirectShopper", "action": {"type": "redirect", "method": "GET", "url": "u"}},
            ("requires_action", NOTHING, "redirect"),
        ),
        ({"resultCode": "ChallengeShopper", "action": {"type": "threeDS2"}}, ("requires_action", NOTHING, "sdk")),
        ({"resultCode": "AuthenticationFinished"}, ("needs_confirmation", NOTHING, None)),
        ({"resultCode": "Cancelled"}, ("canceled", NOTHING, None)),
        ({"resultCode": "SomethingNew"}, ("unknown", NOTHING, None)),
    ],
)
def test_what_results_mean(answer: dict[str, Any], expected: tuple[str, Money, str | None]):
    """Each of Adyen's result codes has one word of ours; an amount that Adyen leaves out is the one that was asked."""
    paid = pay(Recorder(200, json.dumps(answer).encode()).service(Adyen)).result()
    assert (paid.status, paid.captured, paid.action and paid.action.kind) == expected
    assert paid.amount == (Money(5, "eur") if "amount" in answer else TEN)


def test_sessions(box: Box, run: Run):
    """A session is opened, paid by the shopper, and read once by what comes back with them."""
    adyen = box.service(Adyen)
    session = run(adyen.create_session(TEN, mode="hosted", **ORDER))
    assert (session.amount, session.reference, session.live) == (TEN, "order-42", False)
    assert session.session_data
    assert session.session_data not in repr(session)
    assert session.expires_at is not None
    back = box.client.get(session.url)
    result = parse_qs(urlsplit(back.headers["location"]).query)["sessionResult"][0]
    ended = run(adyen.get_session(session.id, result))
    assert (ended.status, ended.vendor_status, ended.reference) == (PaymentStatus.AUTHORIZED, "completed", "order-42")
    [paid] = ended.payments
    assert (paid.amount, box.state("adyen")["payments"][paid.id]["captured"]) == (TEN, 1099)
    with pytest.raises(errors.InvalidRequest):
        run(adyen.get_session(session.id, "another"))
    refused = run(adyen.create_session(TEN, **ORDER))
    gone = box.client.get(f"/adyen/_pay/{refused.id}", params={"outcome": "refused"})
    result = parse_qs(urlsplit(gone.headers["location"]).query)["sessionResult"][0]
    assert run(adyen.get_session(refused.id, result)).status is PaymentStatus.FAILED


@pytest.mark.parametrize(
    ("money", "value"),
    [
        (Money(1099, "eur"), 1099),
        (Money(500, "jpy"), 500),
        (Money(1500, "bhd"), 1500),
        (Money(2790, "isk"), 279_000),
        (Money(10, "clp"), 1000),
        (Money(1_000_000, "idr"), 10_000),
        (Money(700, "cve"), 7),
    ],
)
def test_currencies_that_adyen_counts_otherwise(money: Money, value: int):
    """Four currencies have other decimals at Adyen than in ISO 4217: the same money goes out and comes back."""
    amount = {"value": value, "currency": money.currency.upper()}
    answer = {"pspReference": "R", "paymentPspReference": "P", "status": "received", "amount": amount}
    recorder = Recorder(201, json.dumps(answer).encode())
    refund = recorder.service(Adyen).refund("P", money).result()
    assert json.loads(recorder.requests[0].content)["amount"] == amount
    assert refund.amount == money


def test_a_fraction_that_adyen_does_not_count():
    """Hundredths of a currency that Adyen counts whole are refused, and such answers are not rounded."""
    adyen = Recorder().service(Adyen)
    with pytest.raises(errors.InvalidRequest, match="IDR"):
        adyen.refund("P", Money(1_000_050, "idr"))
    answer = b'{"pspReference":"R","paymentPspReference":"P","status":"received","amount":{"value":5,"currency":"ISK"}}'
    with pytest.raises(errors.BadAnswer, match="fraction"):
        Recorder(201, answer).service(Adyen).refund("P", TEN).result()


def test_live_and_test_are_never_mixed_up(monkeypatch: pytest.MonkeyPatch):
    """Only a live prefix leads to where money moves; the service, its payments and its check say where they are."""
    recorder = Recorder(200, b'{"resultCode":"Authorised","pspReference":"P"}')
    test = recorder.service(Adyen)
    assert (test.live, test.base_url) == (False, "https://checkout-test.adyen.com")
    assert pay(test).result().live is False
    live = recorder.service(Adyen, live_prefix="1797a841fbb37ca7-AdyenDemo")
    assert live.live is True
    assert pay(live).result().live is True
    assert [str(one.url) for one in recorder.requests] == [
        "https://checkout-test.adyen.com/v72/payments",
        "https://1797a841fbb37ca7-adyendemo-checkout-live.adyenpayments.com/checkout/v72/payments",
    ]
    assert "checkout-test" in repr(test)
    with pytest.raises(errors.ConfigurationError, match=r"live is False.*ADYEN_LIVE_PREFIX"):
        test.check(live=True)
    with pytest.raises(errors.ConfigurationError, match="live is True"):
        live.check(live=False)
    assert len(recorder.requests) == 2
    assert live.check(live=True).result() is True
    monkeypatch.setenv("ADYEN_LIVE_PREFIX", "1797a841fbb37ca7-AdyenDemo")
    assert test.live is True  # read at each use, as keys are
    monkeypatch.setenv("MOORLINE_SANDBOX_URL", "http://localhost:1")
    assert test.live is False
    for wrong in ("evil.example/", "https://x-checkout-live.adyenpayments.com", "-x", "x" * 50):
        with pytest.raises(errors.ConfigurationError, match="live_prefix"):
            recorder.service(Adyen, live_prefix=wrong)


@pytest.mark.parametrize(
    ("prefix", "words"), [(None, "takes no live keys.*ADYEN_LIVE_PREFIX"), ("abc-Shop", "takes no test keys")]
)
def test_a_key_of_the_other_mode(prefix: str | None, words: str):
    """A refused key may be one of the other mode: the error says at which endpoint it was refused."""
    body = b'{"status":401,"errorCode":"000","message":"HTTP Status Response - Unauthorized","errorType":"security"}'
    adyen = Recorder(401, body).service(Adyen, key="AQEsecret", live_prefix=prefix)
    with pytest.raises(errors.AuthenticationFailed, match=words) as caught:
        adyen.check().result()
    assert "AQEsecret" not in str(caught.value)


def test_basic_authentication(box: Box, run: Run):
    """With a user the key is that user's password; a key that may only look is good enough for the health check."""
    recorder = Recorder()
    recorder.service(Adyen, key="secret", user="ws_1@Company.Shop").check().result()
    [request] = recorder.requests
    assert request.headers["authorization"] == "Basic d3NfMUBDb21wYW55LlNob3A6c2VjcmV0"
    assert "x-api-key" not in request.headers
    assert run(box.service(Adyen, "secret", user="ws_1@Company.Shop").check()) is True
    assert run(box.service(Adyen, "AQEread").check()) is True


@pytest.mark.parametrize(
    ("key", "account", "kind", "code"),
    [
        ("AQEwrong", "Shop", errors.AuthenticationFailed, "000"),
        ("AQEread", "Shop", errors.PermissionDenied, "010"),
        ("AQE1", "WrongShop", errors.PermissionDenied, "901"),
    ],
)
def test_bad_keys(key: str, account: str, kind: type[errors.CallError], code: str):
    """A wrong key, one without the role, and a merchant account of somebody else are told apart."""
    with pytest.raises(kind) as caught:
        pay(Shop(key, account).service).result()
    assert (caught.value.code, key in str(caught.value)) == (code, False)


@pytest.mark.parametrize(
    ("status", "code", "type_", "kind"),
    [
        (400, "702", "validation", errors.InvalidRequest),
        (401, "000", "security", errors.AuthenticationFailed),
        (403, "901", "security", errors.PermissionDenied),
        (404, "000", "validation", errors.NotFound),
        (409, "704", "validation", errors.Conflict),
        (422, "130", "validation", errors.InvalidRequest),
        (422, "704", "validation", errors.Conflict),
        (422, "905", "configuration", errors.InvalidRequest),
        (500, "905", "configuration", errors.InvalidRequest),
        (500, "000", "internal", errors.ServiceUnavailable),
        (429, "000", "validation", errors.RateLimited),
        (503, None, None, errors.ServiceUnavailable),
    ],
)
def test_documented_errors(status: int, code: str | None, type_: str | None, kind: type[errors.CallError]):
    """Each kind of error is typed, with Adyen's code, words and reference; a proxy's page is one by its status."""
    body = {"status": status, "errorCode": code, "message": "Why", "errorType": type_, "pspReference": "881617"}
    content = json.dumps(body).encode() if code else b"<html>"
    with pytest.raises(errors.CallError) as caught:
        pay(Recorder(status, content).service(Adyen, policy=Policy(retry=None))).result()
    assert type(caught.value) is kind
    assert (caught.value.status, caught.value.code) == (status, code)
    if code:
        assert caught.value.message.startswith("Why")
        assert caught.value.request_id == "881617"


@pytest.mark.parametrize(("told", "attempts"), [("true", 3), ("false", 1), (None, 1)])
def test_a_twin_that_is_still_at_work(told: str | None, attempts: int):
    """Error 704 is repeated under the same key where Adyen says that it helps; what became of it is not known."""
    body = b'{"status":422,"errorCode":"704","message":"request already processed or in progress"}'
    recorder = Recorder(422, body, {} if told is None else {"Transient-Error": told})
    with pytest.raises(errors.Conflict) as caught:
        pay(recorder.service(Adyen, policy=HASTY)).result()
    assert (len(recorder.requests), caught.value.outcome) == (attempts, "unknown")
    assert len({one.headers["idempotency-key"] for one in recorder.requests}) == 1


def test_same_call_twice_pays_once(box: Box, run: Run):
    """The same Call sent twice carries one key of at most 64 characters and pays once."""
    adyen = box.service(Adyen)
    call = pay(adyen)
    assert call.idempotency_key is not None
    assert run(call) == run(call)
    assert len(box.state("adyen")["payments"]) == 1
    with pytest.raises(errors.ConfigurationError, match="64"):
        call.using(idempotency_key="k" * 65)
    assert adyen.check().idempotency_key is None


def test_a_lost_answer_is_found_again(box: Box, run: Run):
    """When the answer to a payment is lost the same key brings the first result, by a retry or by the same Call."""
    box.arm(kind="dropped", processed=True)
    paid = run(pay(box.service(Adyen, policy=HASTY)))
    assert list(box.state("adyen")["payments"]) == [paid.id]
    box.arm(kind="dropped", processed=True)
    call = pay(box.service(Adyen, policy=Policy(retry=None)))
    with pytest.raises(errors.OutcomeUnknown) as caught:
        run(call)
    assert (caught.value.retryable, caught.value.idempotency_key) == (True, call.idempotency_key)
    assert run(call).id in box.state("adyen")["payments"]
    assert len(box.state("adyen")["payments"]) == 2


@pytest.mark.parametrize("asked", ["NO_CONNECTION_AVAILABLE", "IOEXCEPTION_RECEIVED"])
def test_communication_errors(asked: str):
    """Adyen's two simulated errors of communication are the service's fault, and are tried again with the same key."""
    shop = Shop()
    with pytest.raises(errors.ServiceUnavailable):
        pay(shop.service, additionalData={"RequestedTestErrorResponseCode": asked}).result()
    assert (shop.asked, shop.stand_in.snapshot()["payments"]) == (3, {})


@pytest.mark.parametrize("make", CALLS)
def test_a_call_survives_a_queue(make: Callable[[Adyen], Any]):
    """Each Call comes out of a queue as it went in: the same request under the same key."""
    recorder = Recorder(500)
    adyen = recorder.service(Adyen, policy=Policy(retry=None))
    call = make(adyen)
    stored = json.loads(json.dumps(call.to_payload()))
    for one in (call, Call.from_payload(stored, lambda name: adyen)):
        with pytest.raises(errors.ServiceUnavailable):
            one.result()
    first, second = recorder.requests
    assert (first.url, first.content) == (second.url, second.content)
    assert first.headers.get("idempotency-key") == second.headers.get("idempotency-key")


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda s: pay(s, Money(-1, "eur")), "amount"),
        (lambda s: pay(s, 1099), "amount"),
        (lambda s: pay(s, Money(2**63, "eur")), "amount"),
        (lambda s: pay(s, reference=""), "reference"),
        (lambda s: pay(s, reference="r" * 81), "reference.*80"),
        (lambda s: pay(s, reference=42), "reference"),
        (lambda s: pay(s, return_url=""), "returnUrl"),
        (lambda s: pay(s, return_url="https://x.example/" + "a" * 1024), "returnUrl.*1024"),
        (lambda s: pay(s, payment_method=None), "payment_method"),
        (lambda s: pay(s, payment_method={}), "payment_method"),
        (lambda s: pay(s, payment_method="s" * 65), "payment_method.*64"),
        (lambda s: pay(s, metadata={str(n): "v" for n in range(21)}), "metadata.*20"),
        (lambda s: pay(s, metadata={"k" * 21: "v"}), "metadata.*20"),
        (lambda s: pay(s, metadata={"k": "v" * 81}), "metadata.*80"),
        (lambda s: pay(s, shopperReference="ab"), "shopperReference.*3"),
        (lambda s: pay(s, shopperEmail="a" * 257), "shopperEmail.*256"),
        (lambda s: s.submit_details(TEN, {}), "details"),
        (lambda s: s.capture_payment("P"), "amount"),
        (lambda s: s.capture_payment("P", Money(0, "eur")), "amount"),
        (lambda s: s.refund("P"), "amount.*reverse_payment"),
        (lambda s: s.refund("P", TEN, reason="mood"), "reason"),
        (lambda s: s.refund("P", TEN, reference="r" * 81), "reference"),
        (lambda s: s.cancel_by_reference(""), "reference"),
        (lambda s: s.create_session(TEN, mode="sideways", **ORDER), "mode"),
        (lambda s: s.create_session(TEN, reference="r" * 81, return_url="https://x.example"), "reference"),
        (lambda s: s.get_session("CS1", ""), "session_result"),
    ],
)
def test_limits_are_checked_before_sending(make: Callable[[Any], Any], field: str):
    """What Adyen would refuse by a documented limit is InvalidRequest naming the field, and nothing is sent."""
    recorder = Recorder()
    with pytest.raises(errors.InvalidRequest, match=f"^adyen.*{field}|^{field}") as caught:
        make(recorder.service(Adyen))
    assert caught.value.outcome == "not_sent"
    assert recorder.requests == []


def test_ids_cannot_reach_other_endpoints():
    """An id with slashes is escaped, so that it cannot name another resource; without one nothing is sent."""
    recorder = Recorder(500)
    adyen = recorder.service(Adyen, policy=Policy(retry=None))
    with pytest.raises(errors.ServiceUnavailable):
        adyen.cancel_payment("../sessions").result()
    assert recorder.requests[0].url.raw_path == b"/v72/payments/..%2Fsessions/cancels"
    with pytest.raises(errors.ConfigurationError, match="payment_id"):
        adyen.refund("", TEN)


@pytest.mark.parametrize(
    ("method", "path", "make"),
    [
        ("POST", "/payments", pay),
        ("POST", "/payments", lambda s: pay(s, capture=False, additionalData={"executeThreeD": "true"})),
        (
            "POST",
            "/payments",
            lambda s: pay(
                s,
                Money(2790, "isk"),
                payment_method="8415718415172204",
                metadata={"order": "42", "naïve key": "ü"},
                captureDelayHours=24,
                shopperReference="shopper-7",
                shopperEmail="ada@example.com",
                shopperInteraction="ContAuth",
                recurringProcessingModel="Subscription",
                channel="Web",
                browserInfo={
                    "acceptHeader": "*/*", "colorDepth": 24, "language": "en", "javaEnabled": True,
                    "screenHeight": 700, "screenWidth": 1200, "timeZoneOffset": 0, "userAgent": "x",
                },
            ),
        ),
        ("POST", "/payments/details", lambda s: s.submit_details(TEN, {"redirectResult": "X"}, payment_data="Ab02")),
        ("POST", "/payments/P1/captures", lambda s: s.capture_payment("P1", TEN, reference="c-1")),
        ("POST", "/payments/P1/cancels", lambda s: s.cancel_payment("P1", reference="c-1")),
        ("POST", "/cancels", lambda s: s.cancel_by_reference("order-42", reference="c-1")),
        ("POST", "/payments/P1/reversals", lambda s: s.reverse_payment("P1")),
        ("POST", "/payments/P1/refunds", lambda s: s.refund("P1", TEN, reason="CUSTOMER REQUEST", reference="r-1")),
        ("POST", "/sessions", lambda s: s.create_session(TEN, **ORDER)),
        (
            "POST",
            "/sessions",
            lambda s: s.create_session(TEN, mode="hosted", capture=False, countryCode="NL", metadata={"a": "b"}, **ORDER),
        ),
        ("GET", "/sessions/CS1", lambda s: s.get_session("CS1", "a+b/c=")),
    ],
)  # fmt: skip
def test_requests_fit_the_contract(contract: Contract, method: str, path: str, make: Callable[[Any], Any]):
    """Every request that we build is valid by adyen.json, in its version, with the key, and an idempotency key when it
    writes (/paymentMethods, which check asks, is not in adyen.json).
    """
    recorder = Recorder(500)
    with pytest.raises(errors.CallError):
        make(recorder.service(Adyen, policy=Policy(retry=None))).result()
    [request] = recorder.requests
    assert (request.method, request.url.path) == (method, f"/v72{path}")
    assert request.headers["x-api-key"] == "sk_test_1"
    assert "authorization" not in request.headers
    assert ("idempotency-key" in request.headers) is (method == "POST")
    if method == "GET":
        assert dict(request.url.params) == {"sessionResult": "a+b/c="}
        return
    assert contract.request_problems(method, path, request.content, request.headers["content-type"]) == []
    if path != "/payments/details":
        assert json.loads(request.content)["merchantAccount"] == "MoorlineECOM"


def test_any_other_endpoint(box: Box, run: Run):
    """request() reaches endpoints without an operation, also of other versions, with keys and typed errors."""
    adyen = box.service(Adyen)
    found = run(adyen.request("POST", "/v71/paymentMethods", json={"merchantAccount": "Shop"}))
    assert found["paymentMethods"][0]["type"] == "scheme"
    with pytest.raises(errors.NotFound):
        run(adyen.request("POST", "/v72/unicorns", json={}))


def test_what_adyen_lacks():
    """Adyen has no call for the state of a payment, and the attribute says so."""
    adyen: Any = Recorder().service(Adyen)
    for name in ("get_payment", "list_payments"):
        with pytest.raises(AttributeError, match="no such call"):
            getattr(adyen, name)
