"""Square: payments with a card's token or a card on file, and refunds.

Facts: services/payments/square.md; contract: square.json (of 2025-08). Listing payments is in Square's own SDK only
(squareup 46.0.0.20260916), from which the contract was trimmed; so are disputes.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, Final

from moorline.calls.service import (
    BearerKey,
    Endpoints,
    ErrorMap,
    Exchange,
    IdempotencyKey,
    Page,
    Parameter,
    Plan,
    Service,
    hours,
    listing,
    operation,
    segment,
)
from moorline.errors import BadAnswer, ServiceUnavailable
from moorline.events.delivery import Delivers
from moorline.events.schemes.hmac_signature import HMACSignature
from moorline.money import Money
from moorline.services.answers import items, moment, optional_text, record, text, whole
from moorline.services.limits import as_text, at_most, refused
from moorline.services.payments.protocol import (
    Payment,
    PaymentEvent,
    PaymentEventKind,
    PaymentStatus,
    Refund,
    RefundStatus,
)

if TYPE_CHECKING:
    from moorline.events.event import Event

__all__ = ["Square"]

API_VERSION: Final = "2026-09-16"  # pinned: without the header the application's default version answers
_LIVE: Final = "https://connect.squareup.com"
_PAYMENTS: Final = "/v2/payments"
_PAGE: Final = 100
_KEY: Final = 45
_STATUSES: Final = {
    "APPROVED": PaymentStatus.AUTHORIZED,
    "PENDING": PaymentStatus.PROCESSING,
    "COMPLETED": PaymentStatus.SUCCEEDED,
    "CANCELED": PaymentStatus.CANCELED,
    "FAILED": PaymentStatus.FAILED,
}
_REFUNDS: Final = {
    "PENDING": RefundStatus.PENDING,
    "COMPLETED": RefundStatus.SUCCEEDED,
    "REJECTED": RefundStatus.FAILED,
    "FAILED": RefundStatus.FAILED,
}
_KINDS: Final = {
    PaymentStatus.AUTHORIZED: PaymentEventKind.AUTHORIZED,
    PaymentStatus.PROCESSING: PaymentEventKind.PROCESSING,
    PaymentStatus.SUCCEEDED: PaymentEventKind.SUCCEEDED,
    PaymentStatus.CANCELED: PaymentEventKind.CANCELED,
    PaymentStatus.FAILED: PaymentEventKind.FAILED,
}
_REFUND_KINDS: Final = {
    RefundStatus.PENDING: PaymentEventKind.REFUND_PENDING,
    RefundStatus.SUCCEEDED: PaymentEventKind.REFUNDED,
    RefundStatus.FAILED: PaymentEventKind.REFUND_FAILED,
}
# Declines after which another try, with another card or what was typed corrected, may help.
_MAY_RETRY: Final = frozenset(
    {
        "ADDRESS_VERIFICATION_FAILURE", "BAD_EXPIRATION", "CARD_DECLINED", "CARD_DECLINED_CALL_ISSUER",
        "CARD_DECLINED_VERIFICATION_REQUIRED", "CARD_EXPIRED", "CARD_NOT_SUPPORTED", "CVV_FAILURE",
        "EXPIRATION_FAILURE", "GENERIC_DECLINE", "GIFT_CARD_AVAILABLE_AMOUNT", "INSUFFICIENT_FUNDS", "INVALID_ACCOUNT",
        "INVALID_CARD", "INVALID_EXPIRATION", "INVALID_PIN", "INVALID_POSTAL_CODE", "PAN_FAILURE",
        "PAYMENT_LIMIT_EXCEEDED", "TRANSACTION_LIMIT", "VERIFY_AVS_FAILURE", "VERIFY_CVV_FAILURE",
    }
)  # fmt: skip


def _told(exchange: Exchange) -> str | None:
    """The code of the errors that an answer holds, whatever its status."""
    told = exchange.data.get("errors") if isinstance(exchange.data, dict) else None
    if not isinstance(told, list) or not told or not isinstance(told[0], dict):
        return None
    return str(told[0].get("code") or "errors")


class Square(Service):
    """Payments by Square. Test mode is another host with a token of its own: ``Square(region="sandbox")``.

    *location_id* is where payments are made and listed; without one it is the seller's main location. (Unconfirmed:
    that OAuth tokens last 30 days, and that a new personal token ends the old one at once.)
    The notification URL is signed, exactly as it was registered: behind a proxy set ``webhooks.public_url``.
    Facts: services/payments/square.md; contract: square.json.
    """

    name, category = "square", "payments"
    docs = "services/payments/square.md, square.json"
    endpoints = Endpoints(_LIVE, regions={"sandbox": "https://connect.squareupsandbox.com"})
    location_id = Parameter("SQUARE_LOCATION_ID", default="")
    credentials = BearerKey(env="SQUARE_ACCESS_TOKEN", sandbox="EAAA-sandbox")
    # For how long keys are known Square does not say: a day is our choice.
    idempotency = IdempotencyKey(field="idempotency_key", window=hours(24), max_length=_KEY)
    errors = ErrorMap(
        code="errors.0.code",
        error_type="errors.0.category",
        message="errors.0.detail",
        decline_code="errors.0.code",
        declined=frozenset({"PAYMENT_METHOD_ERROR"}),
        limited=frozenset({"RATE_LIMIT_ERROR"}),
        key_reused=frozenset({"IDEMPOTENCY_KEY_REUSED"}),
        may_retry=_MAY_RETRY,
        kinds={"TEMPORARY_ERROR": ServiceUnavailable},  # though its category is that of declines
        retry=frozenset({409, "TEMPORARY_ERROR"}),
        failed=_told,
    )
    webhooks = HMACSignature(
        header="x-square-hmacsha256-signature",  # x-square-signature is the old one, with SHA-1: ignored
        signed="{url}{body}",
        encoding="base64",
        env="SQUARE_WEBHOOK_SIGNATURE_KEY",
        id="event_id",
        type="type",
        delivers=Delivers(within=10, retries="for 24 h (an older page says 72 h)"),
    )
    default_headers: ClassVar[Mapping[str, str]] = {"Square-Version": API_VERSION}
    usage = """
from moorline import Money
from moorline.services import Square

payment = Square().create_payment(Money(1099, "usd"), payment_method="cnon:card-nonce-ok").result()
print(payment.status, payment.captured)
"""

    @operation
    def create_payment(
        self,
        /,
        amount: Money,
        *,
        payment_method: str | None = None,
        capture: bool = True,
        customer: str | None = None,
        reference: str | None = None,
        note: str | None = None,
        statement_description_identifier: str | None = None,
        metadata: Mapping[str, str] | None = None,
        **extra: object,
    ) -> Plan[Payment]:
        """Charge *payment_method*: a token of Square's payment form (``cnon:…``), a card on file (``ccof:…``, with its
        *customer*), ``CASH`` or ``EXTERNAL``. ``capture=False`` holds the money for ``capture_payment``; left alone it
        is released after 7 days (unconfirmed), or ``delay_duration``.

        *reference* is your own id for it, which events repeat; Square keeps no *metadata*. *extra* are Square's further
        fields (``tip_money``, ``verification_token``, ``idempotency_key``). A decline uses the key up: make a new Call
        for another card.

        Raises PaymentDeclined, InvalidRequest, IdempotencyConflict.
        """
        if not payment_method:
            raise refused("payment_method", "is needed: a token of Square's payment form, or a card on file")
        if metadata:
            raise refused("metadata", "Square keeps none; give your id as reference, or a note")
        if payment_method.startswith("ccof:") and customer is None:
            raise refused("customer", "is needed for a card on file")
        _check_texts({"reference_id": reference}, 40)
        _check_texts({"note": note}, 500)
        _check_texts({"statement_description_identifier": statement_description_identifier}, 20)
        body = {
            "source_id": payment_method,
            "amount_money": _amount(amount),
            "autocomplete": capture,
            "location_id": self.location_id or None,
            "customer_id": customer,
            "reference_id": reference,
            "note": note,
            "statement_description_identifier": statement_description_identifier,
        }
        return self.post(_PAYMENTS, json=_given(body) | extra, parse=_payment)

    @operation
    def get_payment(self, payment_id: str) -> Plan[Payment]:
        """The payment as it is now. Raises NotFound."""
        return self.get(_one(payment_id), parse=_payment)

    @operation
    def capture_payment(self, payment_id: str, amount: Money | None = None) -> Plan[Payment]:
        """Take what is held, all of it. The payment is read first; one that is completed is the result as it is.

        Square honours no key on it, so it is not repeated by itself where its answer is lost; the same Call, sent
        again, finds out.

        Raises InvalidRequest for an *amount* that is not the payment's (change that first, by ``request("PUT", …)``),
        and where nothing is held.
        """
        if amount is not None:
            _amount(amount)

        def then(payment: Payment) -> Plan[Payment] | None:
            if amount is not None and amount != payment.amount:
                raise refused("amount", f"Square completes a payment whole, which is of {payment.amount}")
            done = payment.status is PaymentStatus.SUCCEEDED
            return None if done else self.post(f"{_one(payment_id)}/complete", json={}, parse=_payment, keyed=False)

        return self.post_after(self.get(_one(payment_id), parse=_payment), then, parse=_payment, keyed=False)

    @operation
    def cancel_payment(self, payment_id: str) -> Plan[Payment]:
        """Release what is held. The payment is read first; one that is canceled is the result as it is.

        As of ``capture_payment``, a lost answer is not repeated by itself. Raises InvalidRequest for a payment that is
        completed: that needs ``refund``.
        """

        def then(payment: Payment) -> Plan[Payment] | None:
            if payment.status is PaymentStatus.CANCELED:
                return None
            if payment.status is PaymentStatus.SUCCEEDED:
                raise refused("payment_id", "it is completed; use refund")
            return self.post(f"{_one(payment_id)}/cancel", parse=_payment, keyed=False)

        return self.post_after(self.get(_one(payment_id), parse=_payment), then, parse=_payment, keyed=False)

    @operation
    def cancel_payment_by_key(self, idempotency_key: str) -> Plan[bool]:
        """Give up a ``create_payment`` whose answer was lost, by the key of that Call (``error.idempotency_key``).

        True, also where that never arrived: the payment can then be made anew. It may be repeated.
        """
        at_most("idempotency_key", as_text("idempotency_key", idempotency_key), _KEY, "characters")
        body = {"idempotency_key": idempotency_key}
        return self.post(f"{_PAYMENTS}/cancel", json=body, parse=_true, repeatable=True, keyed=False)

    @operation
    def refund(
        self, /, payment_id: str, amount: Money | None = None, *, reason: str | None = None, **extra: object
    ) -> Plan[Refund]:
        """Give back *amount*, or all that is left: then the payment is read first, as Square wants an amount always.

        It begins as ``pending``; an event tells when it is through. *reason* is shown to the seller.

        Raises InvalidRequest for more than is left.
        """
        _check_texts({"reason": reason}, 192)
        segment(payment_id, "payment_id")
        body = {"payment_id": payment_id, "reason": reason}
        if amount is not None:
            return self._refunding(_given(body) | {"amount_money": _amount(amount)} | extra)

        def then(payment: Mapping[str, Any]) -> Plan[Refund]:
            total = _money(payment, "total_money") or _needed(payment, "amount_money")
            back = _money(payment, "refunded_money")
            # Where nothing is left it may be this very refund that took it, its answer lost: its key then brings the
            # first result, and without one Square says that it is too much.
            left = total.minor - (0 if back is None else back.minor) or total.minor
            return self._refunding({**_given(body), "amount_money": _amount(Money(left, total.currency)), **extra})

        return self.post_after(self.get(_one(payment_id), parse=_raw_payment), then, parse=_refund, json=extra)

    def _refunding(self, body: Mapping[str, object]) -> Plan[Refund]:
        return self.post("/v2/refunds", json=body, parse=_refund)

    @operation
    def get_refund(self, refund_id: str) -> Plan[Refund]:
        """The refund as it is now. Raises NotFound."""
        return self.get(f"/v2/refunds/{segment(refund_id, 'refund_id')}", parse=_refund)

    @listing
    def list_payments(self, /, *, page_size: int = _PAGE, **filters: object) -> Plan[Page[Payment]]:
        """The location's payments of the last year, newest first. *page_size* is 1 to 100; *filters* are Square's own
        (``begin_time``, ``end_time``, ``last_4``). New ones may take some seconds to appear.
        """
        if not 1 <= page_size <= _PAGE:
            raise refused("page_size", f"must be from 1 to {_PAGE}")
        return self._listing({"limit": page_size, "location_id": self.location_id or None, **filters})

    def _listing(self, query: dict[str, object]) -> Plan[Page[Payment]]:
        def parse(exchange: Exchange) -> Page[Payment]:
            answer = record(exchange.data)
            found = items(answer.get("payments") or [], "payments")
            payments = tuple(_read_payment(one, live=_is_live(exchange)) for one in found)
            cursor = optional_text(answer, "cursor")
            if not cursor:
                return Page(payments)
            if cursor == query.get("cursor"):
                raise BadAnswer("the listing does not advance")
            return Page(payments, self._listing({**query, "cursor": cursor}))

        return self.get(_PAYMENTS, query=query, parse=parse)

    @operation
    def check(self) -> Plan[bool]:
        """True if the token is good here and may read payments. Raises AuthenticationFailed, also for a token of the
        other mode, or PermissionDenied.
        """
        return self.get(_PAYMENTS, query={"limit": 1}, parse=_true)

    @classmethod
    def read_event(cls, event: Event) -> PaymentEvent | None:
        """What an event means: payments, refunds and new disputes; None for all others, and for updates of a payment
        that is refunded, which the refund's own events tell. An update that changes no status comes as the same kind
        again.

        Raises BadAnswer for one that is not of the known shape.
        """
        subject, _, change = event.type.partition(".")
        if subject not in ("payment", "refund", "dispute") or change not in ("created", "updated"):
            return None
        envelope = record(event.payload, "the event")
        holder = record(record(envelope.get("data"), "data").get("object"), "data.object")
        # The SDK calls a dispute's place ``object``, where that of others has their name.
        told = record(holder.get(subject) or holder.get("object"), f"data.object.{subject}")
        at = moment(envelope, "created_at")
        if subject == "dispute":
            return _dispute_event(event.type, told, at)
        if subject == "refund":
            return _refund_event(event.type, told, at)
        payment = _read_payment(told, live=event.headers.get("square-environment") == "Production")
        back = _money(told, "refunded_money")
        if payment.status not in _KINDS or (back is not None and back.minor):
            return None
        return PaymentEvent(
            _KINDS[payment.status],
            event.type,
            payment_id=payment.id,
            amount=payment.amount,
            reference=optional_text(told, "reference_id"),
            reason=_reason(told),
            at=at,
            payment=payment,
            raw=told,
        )


def _refund_event(type_: str, told: Mapping[str, Any], at: datetime | None) -> PaymentEvent | None:
    refund = _read_refund(told)
    if refund.status not in _REFUND_KINDS:
        return None
    return PaymentEvent(
        _REFUND_KINDS[refund.status],
        type_,
        payment_id=refund.payment_id,
        refund_id=refund.id,
        amount=refund.amount,
        reason=refund.failure_reason,
        at=at,
        refund=refund,
        raw=told,
    )


def _dispute_event(type_: str, told: Mapping[str, Any], at: datetime | None) -> PaymentEvent | None:
    if type_ != "dispute.created":
        return None
    return PaymentEvent(
        PaymentEventKind.DISPUTED,
        type_,
        payment_id=optional_text(record(told.get("disputed_payment") or {}, "disputed_payment"), "payment_id"),
        amount=_money(told, "amount_money"),
        reason=optional_text(told, "reason"),
        at=at,
        raw=told,
    )


def _reason(payment: Mapping[str, Any]) -> str | None:
    """Why a card was refused, in Square's word."""
    details = record(payment.get("card_details") or {}, "card_details")
    told = [*items(details.get("errors") or [], "errors"), {}]
    return optional_text(record(told[0], "an error"), "code")


def _amount(amount: Money) -> dict[str, object]:
    if not isinstance(amount, Money):
        raise refused("amount", f"must be Money, not {type(amount).__name__}")
    if amount.minor < 1:
        raise refused("amount", f"must be more than zero, not {amount}")
    return {"amount": amount.minor, "currency": amount.currency.upper()}


def _check_texts(given: Mapping[str, str | None], limit: int) -> None:
    for name, value in given.items():
        if value is not None:
            at_most(name, as_text(name, value), limit, "characters")


def _given(body: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in body.items() if value is not None}


def _one(payment_id: str) -> str:
    return f"{_PAYMENTS}/{segment(payment_id, 'payment_id')}"


def _true(exchange: Exchange) -> bool:
    record(exchange.data)
    return True


def _is_live(exchange: Exchange) -> bool:
    return exchange.url.startswith(f"{_LIVE}/")


def _money(holder: Mapping[str, Any], name: str) -> Money | None:
    """An amount, or None where there is none."""
    if holder.get(name) is None:
        return None
    amount = record(holder[name], name)
    try:
        return Money(whole(amount, "amount"), text(amount, "currency"))
    except ValueError:
        raise BadAnswer("the answer's currency is not an ISO 4217 code") from None


def _needed(holder: Mapping[str, Any], name: str) -> Money:
    amount = _money(holder, name)
    if amount is None:
        raise BadAnswer(f"the answer has no {name!r}")
    return amount


def _raw_payment(exchange: Exchange) -> Mapping[str, Any]:
    return record(record(exchange.data).get("payment"), "the payment")


def _payment(exchange: Exchange) -> Payment:
    return _read_payment(_raw_payment(exchange), live=_is_live(exchange))


def _read_payment(value: object, *, live: bool) -> Payment:
    payment = record(value, "the payment")
    status = text(payment, "status")
    amount = _needed(payment, "amount_money")
    total = _money(payment, "total_money") or amount
    nothing = Money(0, amount.currency)
    reference = optional_text(payment, "reference_id")
    return Payment(
        id=text(payment, "id"),
        status=_STATUSES.get(status, PaymentStatus.UNKNOWN),
        vendor_status=status,
        amount=amount,
        captured=total if status == "COMPLETED" else nothing,
        capturable=(_money(payment, "approved_money") or total) if status == "APPROVED" else nothing,
        live=live,
        created_at=moment(payment, "created_at"),
        metadata={} if reference is None else {"reference_id": reference},
        raw=payment,
    )


def _refund(exchange: Exchange) -> Refund:
    return _read_refund(record(exchange.data).get("refund"))


def _read_refund(value: object) -> Refund:
    refund = record(value, "the refund")
    status = optional_text(refund, "status") or "unknown"
    return Refund(
        id=text(refund, "id"),
        status=_REFUNDS.get(status, RefundStatus.UNKNOWN),
        vendor_status=status,
        amount=_needed(refund, "amount_money"),
        payment_id=optional_text(refund, "payment_id"),
        reason=optional_text(refund, "reason"),
        failure_reason=status if status in ("REJECTED", "FAILED") else None,
        created_at=moment(refund, "created_at"),
        raw=refund,
    )
