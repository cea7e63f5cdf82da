"""What Adyen tells, read: in its real shapes, and as the stand-in sends it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.services.test_adyen import KEY, TEN, Shop, pay

from moorline import errors
from moorline.events import verify, verify_each
from moorline.events.event import Event
from moorline.money import Money
from moorline.services.payments.adyen import Adyen
from moorline.services.payments.protocol import PaymentEvent, PaymentEventKind, PaymentStatus


def kinds(events: list[PaymentEvent]) -> list[str]:
    return [f"{one.vendor_type} {one.kind}" for one in events]


def test_what_modifications_come_to():
    """The results come by webhook: captures, refunds and cancels, good and bad, each named by the payment's id."""
    shop = Shop()
    adyen = shop.service
    held = pay(adyen, capture=False).result()
    assert kinds(shop.told()) == ["AUTHORISATION authorized"]
    adyen.capture_payment(held.id, Money(1100, "eur")).result()
    asked = adyen.capture_payment(held.id, TEN).result()
    refund = adyen.refund(held.id, Money(500, "eur")).result()
    adyen.refund(held.id, Money(600, "eur")).result()
    adyen.cancel_payment(held.id).result()
    adyen.reverse_payment(held.id).result()
    told = shop.told()
    assert kinds(told) == [
        "CAPTURE failed",
        "CAPTURE succeeded",
        "REFUND refunded",
        "REFUND refund_failed",
        "CANCEL_OR_REFUND refund_failed",
    ]
    assert {(one.payment_id, one.reference) for one in told} == {(held.id, "order-42")}
    assert [one.reason for one in told[:3]] == ["Insufficient balance on payment", None, None]
    assert (told[1].amount, told[1].raw["pspReference"]) == (TEN, asked.raw["pspReference"])
    assert (told[2].refund_id, told[2].amount) == (refund.id, Money(500, "eur"))
    other = pay(adyen, capture=False).result()
    adyen.cancel_payment(other.id).result()
    third = pay(adyen).result()
    adyen.reverse_payment(third.id).result()
    pay(adyen, capture=False, reference="lost").result()
    adyen.cancel_by_reference("lost").result()
    events = [one for one in shop.told() if one.vendor_type != "AUTHORISATION"]
    assert kinds(events) == ["CANCELLATION canceled", "CANCEL_OR_REFUND refunded", "TECHNICAL_CANCEL canceled"]


def test_what_payments_come_to():
    """Refusals, pending payments, and what goes wrong later."""
    shop = Shop()
    with pytest.raises(errors.PaymentDeclined):
        pay(shop.service, holder="DECLINED").result()
    [refused] = shop.told()
    assert (refused.kind, refused.reason, bool(refused.payment_id)) == (PaymentEventKind.FAILED, "Refused", True)
    pending = pay(shop.service, holder="PENDING").result()
    assert pending.status is PaymentStatus.PROCESSING
    assert [(one.kind, one.payment_id) for one in shop.told()] == [(PaymentEventKind.AUTHORIZED, pending.id)]
    held = pay(shop.service, holder="capture failed", capture=False).result()
    shop.service.capture_payment(held.id, TEN).result()
    assert kinds(shop.told())[1:] == ["CAPTURE succeeded", "CAPTURE_FAILED failed"]
    paid = pay(shop.service, holder="refund failed").result()
    shop.service.refund(paid.id, TEN).result()
    assert kinds(shop.told())[1:] == ["REFUND refunded", "REFUND_FAILED refund_failed"]
    pay(shop.service, holder="chargeback:10.4").result()
    assert kinds(shop.told()) == ["AUTHORISATION authorized", "CHARGEBACK disputed"]


@pytest.mark.parametrize(
    ("item", "kind", "payment_id", "refund_id", "reason"),
    [
        # As Adyen's own packages have them in their tests (adyen-java-api-library, mocks/notification).
        (
            {"eventCode": "AUTHORISATION", "pspReference": "123456789", "reason": "1234:7777:12/2012"},
            "authorized", "123456789", None, None,
        ),
        ({"eventCode": "CAPTURE", "success": "false", "reason": "Insufficient balance on payment"},
         "failed", "7914853620991813", None, "Insufficient balance on payment"),
        ({"eventCode": "REFUND", "success": "false", "reason": "Insufficient balance on payment"},
         "refund_failed", "7914853620991813", "8514853640987132", "Insufficient balance on payment"),
        ({"eventCode": "CANCELLATION", "merchantReference": None}, "canceled", "7914853620991813", None, None),
        ({"eventCode": "CHARGEBACK", "reason": "Other Fraud-Card Absent Environment"},
         "disputed", "7914853620991813", None, "Other Fraud-Card Absent Environment"),
        # The card's example, and what is near it.
        ({"eventCode": "REFUND"}, "refunded", "7914853620991813", "8514853640987132", None),
        ({"eventCode": "CANCEL_OR_REFUND", "additionalData": {"modification.action": "cancel"}},
         "canceled", "7914853620991813", None, None),
        ({"eventCode": "REFUNDED_REVERSED"}, "refund_failed", "7914853620991813", "8514853640987132", None),
    ],
)  # fmt: skip
def test_read_event(item: dict[str, Any], kind: str, payment_id: str, refund_id: str | None, reason: str | None):
    """Notifications in their real shapes, also as the one of a whole delivery."""
    whole = {
        "amount": {"currency": "USD", "value": 23623},
        "eventDate": "2017-01-25T18:08:19+01:00",
        "merchantAccountCode": "MagentoMerchantTest2",
        "merchantReference": "00000001",
        "originalReference": "7914853620991813",
        "paymentMethod": "visa",
        "pspReference": "8514853640987132",
        "reason": "",
        "success": "true",
        **item,
    }
    body = json.dumps({"live": "false", "notificationItems": [{"NotificationRequestItem": whole}]}).encode()
    sealed = Adyen.webhooks.seal(body, KEY)
    for event in (
        verify(Adyen, headers={}, body=sealed, secrets=KEY),
        *verify_each(Adyen, headers={}, body=sealed, secrets=KEY),
    ):
        read = Adyen.read_event(event)
        assert read is not None
        assert (read.kind, read.payment_id, read.refund_id, read.reason) == (kind, payment_id, refund_id, reason)
        assert (read.amount, read.reference) == (Money(23623, "usd"), whole["merchantReference"])
        assert read.at is not None
        assert read.at.isoformat() == "2017-01-25T17:08:19+00:00"


@pytest.mark.parametrize("code", ["REPORT_AVAILABLE", "OFFER_CLOSED", "NOTIFICATION_OF_FRAUD", "merchant.created"])
def test_other_events_have_no_common_meaning(code: str):
    """None for what is about no payment, or has no common word."""
    assert Adyen.read_event(Event("adyen", "1", code, b'{"success":"true"}')) is None
    assert Adyen.read_event(Event("adyen", "1", "CANCELLATION", b'{"success":"false"}')) is None


@pytest.mark.parametrize(
    "payload", [b"[]", b'{"notificationItems":[{},{}]}', b'{"success":"true","amount":{"value":1}}']
)
def test_a_misshapen_event_is_a_bad_answer(payload: bytes):
    """What is not of the known shape is said to be so."""
    with pytest.raises(errors.BadAnswer):
        Adyen.read_event(Event("adyen", "1", "AUTHORISATION", payload))


def test_several_items_are_several_events():
    """A delivery with two notifications is two events, each read by itself."""
    items = [
        {"eventCode": code, "success": "true", "pspReference": f"P{code}", "originalReference": "P0",
         "amount": {"value": 5, "currency": "EUR"}}
        for code in ("CAPTURE", "REFUND")
    ]  # fmt: skip
    body = json.dumps({"notificationItems": [{"NotificationRequestItem": one} for one in items]}).encode()
    events = verify_each(Adyen, headers={}, body=Adyen.webhooks.seal(body, KEY), secrets=KEY)
    read = [Adyen.read_event(event) for event in events]
    assert [(one.kind.value, one.payment_id) for one in read if one] == [("succeeded", "P0"), ("refunded", "P0")]
