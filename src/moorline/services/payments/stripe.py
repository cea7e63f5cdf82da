"""Stripe: payment intents and refunds.

Facts: services/payments/stripe.md; contract: stripe.json (of 2023, so newer optional parameters are missing there). How
Stripe counts currencies is that of its own page, docs.stripe.com/currencies, and for ISK of support.stripe.com
("Deprecation of fractional ISK charges and refunds").
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar

from moorline.calls.service import (
    BearerKey,
    Endpoints,
    ErrorMap,
    Exchange,
    IdempotencyKey,
    Page,
    Plan,
    RateLimitHeaders,
    Service,
    hours,
    listing,
    operation,
    segment,
)
from moorline.errors import BadAnswer, PaymentDeclined
from moorline.events.delivery import Delivers
from moorline.events.schemes.hmac_signature import HMACSignature
from moorline.money import Money
from moorline.services.answers import flag, items, moment, optional_text, record, text, texts, whole
from moorline.services.currency_units import CurrencyUnits
from moorline.services.limits import at_most, refused, short_texts
from moorline.services.payments.protocol import (
    Payment,
    PaymentEvent,
    PaymentEventKind,
    PaymentStatus,
    Refund,
    RefundStatus,
    RequiredAction,
)

if TYPE_CHECKING:
    from moorline.events.event import Event

__all__ = ["Stripe"]

T = TypeVar("T")
API_VERSION: Final = "2026-10-28.endive"  # pinned: without the header the account's default version answers
_INTENTS: Final = "/v1/payment_intents"
_PAGE: Final = 100
_UNITS: Final = CurrencyUnits(
    "Stripe",
    most=10**12 - 1,  # of cards, and of all ways to pay in IDR; what else has a finer limit is Stripe's to say
    finer=frozenset({"isk", "ugx"}),  # in hundredths that are always 00
    coarser=frozenset({"mga"}),
    # So that page says in older copies, and no more in those of 2026.
    tens=frozenset({"bhd", "jod", "kwd", "omr", "tnd"}),
)
_STATUSES: Final = {
    "requires_payment_method": PaymentStatus.NEEDS_METHOD,
    "requires_confirmation": PaymentStatus.NEEDS_CONFIRMATION,
    "requires_action": PaymentStatus.REQUIRES_ACTION,
    "processing": PaymentStatus.PROCESSING,
    "requires_capture": PaymentStatus.AUTHORIZED,
    "succeeded": PaymentStatus.SUCCEEDED,
    "canceled": PaymentStatus.CANCELED,
}
# Of a refund's events the kind is in its status; see ``_refund_kind``.
_EVENTS: Final = {
    "payment_intent.created": PaymentEventKind.CREATED,
    "payment_intent.processing": PaymentEventKind.PROCESSING,
    "payment_intent.requires_action": PaymentEventKind.REQUIRES_ACTION,
    "payment_intent.amount_capturable_updated": PaymentEventKind.AUTHORIZED,
    "payment_intent.succeeded": PaymentEventKind.SUCCEEDED,
    "payment_intent.payment_failed": PaymentEventKind.FAILED,
    "payment_intent.canceled": PaymentEventKind.CANCELED,
    "charge.refunded": PaymentEventKind.REFUNDED,
    "charge.dispute.created": PaymentEventKind.DISPUTED,
}
_REFUND_STATUSES: Final = {status.value: status for status in RefundStatus}

# Declines after which another try, later or with another card, may help; not in the list: lost, stolen, fraudulent, ….
_MAY_RETRY: Final = frozenset(
    {
        "approve_with_id",
        "authentication_required",
        "call_issuer",
        "card_declined",
        "card_not_supported",
        "card_velocity_exceeded",
        "currency_not_supported",
        "do_not_honor",
        "expired_card",
        "generic_decline",
        "incorrect_cvc",
        "incorrect_number",
        "incorrect_pin",
        "incorrect_zip",
        "insufficient_funds",
        "invalid_cvc",
        "invalid_expiry_month",
        "invalid_expiry_year",
        "invalid_number",
        "issuer_not_available",
        "no_action_taken",
        "payment_intent_authentication_failure",
        "pin_try_exceeded",
        "processing_error",
        "reenter_transaction",
        "try_again_later",
        "withdrawal_count_limit_exceeded",
    }
)


class Stripe(Service):
    """Payments by Stripe. Test mode is a property of the key (``sk_test_…``).

    Facts: services/payments/stripe.md; contract: stripe.json.
    """

    name, category = "stripe", "payments"
    docs = "services/payments/stripe.md, stripe.json"
    endpoints = Endpoints("https://api.stripe.com")
    credentials = BearerKey(env="STRIPE_SECRET_KEY", sandbox="sk_test_sandbox")
    idempotency = IdempotencyKey(header="Idempotency-Key", window=hours(24), max_length=255)
    limits = RateLimitHeaders(should_retry="Stripe-Should-Retry")
    errors = ErrorMap(
        code="error.code",
        error_type="error.type",
        message="error.message",
        decline_code="error.decline_code",
        request_id="header:Request-Id",
        declined=frozenset({"card_error", "payment_intent_authentication_failure"}),
        limited=frozenset({"rate_limit", "lock_timeout"}),
        key_reused=frozenset({"idempotency_error"}),
        may_retry=_MAY_RETRY,
        statuses={402: PaymentDeclined},
        retry=frozenset({409}),  # the same key is still at work
    )
    webhooks = HMACSignature(
        header="Stripe-Signature",
        signed="{timestamp}.{body}",
        prefix="v1=",  # several while a secret is rolled; v0 is ignored
        separator=",",
        timestamp="entry:t=",
        env="STRIPE_WEBHOOK_SECRET",
        id="id",
        type="type",
        typed=False,  # Stripe's own test payload has none
        refuse={"object": "v2.core.event"},  # "thin" events, which hold no data
        delivers=Delivers(retries="with growing gaps for up to 3 days; in a sandbox 3 times within hours"),
    )
    default_headers: ClassVar[Mapping[str, str]] = {"Stripe-Version": API_VERSION}
    usage = """
from moorline import Money
from moorline.services import Stripe

payment = Stripe().create_payment(Money(1099, "eur"), payment_method="pm_card_visa").result()
print(payment.status, payment.captured)
"""

    @operation
    def create_payment(
        self,
        /,
        amount: Money,
        *,
        payment_method: str | None = None,
        confirm: bool | None = None,
        capture: bool = True,
        customer: str | None = None,
        description: str | None = None,
        receipt_email: str | None = None,
        statement_descriptor_suffix: str | None = None,
        return_url: str | None = None,
        off_session: bool | None = None,
        metadata: Mapping[str, str] | None = None,
        **extra: object,
    ) -> Plan[Payment]:
        """Create a payment intent, and charge it at once when *payment_method* is given, unless *confirm* is False.

        ``capture=False`` holds the money for ``capture_payment``. With *return_url* the customer may be redirected to
        approve; without it only cards and the like are taken. *extra* are Stripe's further parameters, by their names.

        A need for 3-D Secure is no error: the payment's status is ``requires_action``.

        Raises PaymentDeclined, InvalidRequest.
        """
        _check_texts(metadata, description, statement_descriptor_suffix)
        confirmed = confirm if confirm is not None else payment_method is not None
        if confirmed and payment_method is None and not {"payment_method_data", "confirmation_token"} & extra.keys():
            raise refused("payment_method", "is needed to confirm a payment")
        form: dict[str, object] = {
            "amount": _UNITS.sent("amount", amount),
            "currency": amount.currency,
            "payment_method": payment_method,
            "confirm": confirmed or None,
            "capture_method": None if capture else "manual",
            "customer": customer,
            "description": description,
            "receipt_email": receipt_email,
            "statement_descriptor_suffix": statement_descriptor_suffix,
            "return_url": return_url if confirmed else None,
            "off_session": off_session if confirmed else None,
            "metadata": metadata,
        }
        if not {"payment_method_types", "automatic_payment_methods"} & extra.keys():
            direct = confirmed and return_url is None
            form["automatic_payment_methods"] = {"enabled": True, "allow_redirects": "never" if direct else None}
        return self.post(_INTENTS, form=form | extra, parse=_payment)

    @operation
    def confirm_payment(
        self, /, payment_id: str, *, payment_method: str | None = None, return_url: str | None = None, **extra: object
    ) -> Plan[Payment]:
        """Try a payment (again), such as with another card after a decline. Raises PaymentDeclined, NotFound."""
        form = {"payment_method": payment_method, "return_url": return_url}
        return self.post(f"{_INTENTS}/{_id(payment_id)}/confirm", form=form | extra, parse=_payment)

    @operation
    def get_payment(self, payment_id: str) -> Plan[Payment]:
        """The payment as it is now. Raises NotFound."""
        return self.get(f"{_INTENTS}/{_id(payment_id)}", parse=_payment)

    @operation
    def capture_payment(self, /, payment_id: str, amount: Money | None = None, **extra: object) -> Plan[Payment]:
        """Take the money that is held, or *amount* of it: the rest is released. With an amount the payment is read
        first.

        Raises InvalidRequest where nothing is held, and for an *amount* of another currency than the payment's.
        """
        form = {"amount_to_capture": None if amount is None else _UNITS.sent("amount", amount)}
        write = self.post(f"{_INTENTS}/{_id(payment_id)}/capture", form=form | extra, parse=_payment)
        return write if amount is None else self._of_its_currency(payment_id, amount, write)

    @operation
    def cancel_payment(self, /, payment_id: str, *, reason: str | None = None, **extra: object) -> Plan[Payment]:
        """Give a payment up that did not succeed; one that did needs ``refund``.

        *reason* is ``abandoned``, ``duplicate``, ``fraudulent`` or ``requested_by_customer``.
        """
        _check_reason(reason, "abandoned", "duplicate", "fraudulent", "requested_by_customer")
        form = {"cancellation_reason": reason}
        return self.post(f"{_INTENTS}/{_id(payment_id)}/cancel", form=form | extra, parse=_payment)

    @operation
    def refund(
        self,
        /,
        payment_id: str,
        amount: Money | None = None,
        *,
        reason: str | None = None,
        metadata: Mapping[str, str] | None = None,
        **extra: object,
    ) -> Plan[Refund]:
        """Give back *amount*, for which the payment is read first, or all that is left.

        *reason* is ``duplicate``, ``fraudulent`` or ``requested_by_customer``.

        Raises InvalidRequest for more than is left, and for an *amount* of another currency than the payment's.
        """
        _check_reason(reason, "duplicate", "fraudulent", "requested_by_customer")
        _check_texts(metadata)
        form: dict[str, object] = {
            "payment_intent": _named(payment_id),
            "amount": None if amount is None else _UNITS.sent("amount", amount),
            "reason": reason,
            "metadata": metadata,
        }
        write = self.post("/v1/refunds", form=form | extra, parse=_refund)
        return write if amount is None else self._of_its_currency(payment_id, amount, write)

    def _of_its_currency(self, payment_id: str, amount: Money, write: Plan[T]) -> Plan[T]:
        """*write*, once the payment is known to be of *amount*'s currency: Stripe is told the number alone."""

        def then(payment: Payment) -> Plan[T]:
            if payment.amount.currency != amount.currency:
                raise refused("amount", f"is {amount}, but the payment is in {payment.amount.currency.upper()}")
            return write

        return self.post_after(self.get(f"{_INTENTS}/{_id(payment_id)}", parse=_payment), then, parse=write.parse)

    @operation
    def get_refund(self, refund_id: str) -> Plan[Refund]:
        """The refund as it is now. Raises NotFound."""
        return self.get(f"/v1/refunds/{segment(refund_id, 'refund_id')}", parse=_refund)

    @listing
    def list_payments(
        self, /, *, customer: str | None = None, page_size: int = _PAGE, **filters: object
    ) -> Plan[Page[Payment]]:
        """All payments, newest first. *page_size* is 1 to 100; *filters* are Stripe's own (``created={"gte": …}``)."""
        if not 1 <= page_size <= _PAGE:
            raise refused("page_size", f"must be from 1 to {_PAGE}")
        return self._listing({"limit": page_size, "customer": customer, **filters})

    def _listing(self, query: dict[str, object]) -> Plan[Page[Payment]]:
        def parse(exchange: Exchange) -> Page[Payment]:
            answer = record(exchange.data)
            payments = tuple(_read_payment(item) for item in items(answer.get("data"), "data"))
            if not flag(answer, "has_more") or not payments:
                return Page(payments)
            if payments[-1].id == query.get("starting_after"):
                raise BadAnswer("the listing does not advance")
            return Page(payments, self._listing({**query, "starting_after": payments[-1].id}))

        return self.get(_INTENTS, query=query, parse=parse)

    @operation
    def check(self) -> Plan[bool]:
        """True if the key is good: reads one payment. Raises AuthenticationFailed or PermissionDenied if not."""
        return self.get(_INTENTS, query={"limit": 1}, parse=lambda exchange: bool(record(exchange.data)))

    @classmethod
    def read_event(cls, event: Event) -> PaymentEvent | None:
        """What an event means: payment intents, refunds and new disputes; None for all others.

        Raises BadAnswer for one that is not of the known shape.
        """
        envelope = record(event.payload, "the event")
        subject = record(record(envelope.get("data"), "data").get("object"), "data.object")
        at = moment(envelope, "created")
        if event.type.startswith("payment_intent.") and event.type in _EVENTS:
            return _intent_event(event.type, subject, at)
        if event.type.startswith(("refund.", "charge.refund.")):
            return _refund_event(event.type, subject, at)
        if event.type not in _EVENTS:
            return None
        refunded = "amount_refunded" if event.type == "charge.refunded" else "amount"
        return PaymentEvent(
            _EVENTS[event.type],
            event.type,
            payment_id=optional_text(subject, "payment_intent"),
            amount=_money(subject, refunded, text(subject, "currency")),
            reason=optional_text(subject, "reason"),
            at=at,
            raw=subject,
        )


def _intent_event(type_: str, subject: Mapping[str, Any], at: datetime | None) -> PaymentEvent:
    payment = _read_payment(subject)
    failure = subject.get("last_payment_error")
    return PaymentEvent(
        _EVENTS[type_],
        type_,
        payment_id=payment.id,
        amount=payment.amount,
        reason=optional_text(failure, "message") if isinstance(failure, dict) else None,
        at=at,
        payment=payment,
        raw=subject,
    )


def _refund_event(type_: str, subject: Mapping[str, Any], at: datetime | None) -> PaymentEvent:
    refund = _read_refund(subject)
    ends = {RefundStatus.SUCCEEDED: PaymentEventKind.REFUNDED, RefundStatus.PENDING: PaymentEventKind.REFUND_PENDING}
    failed = type_ == "refund.failed" or refund.status in (RefundStatus.FAILED, RefundStatus.CANCELED)
    return PaymentEvent(
        PaymentEventKind.REFUND_FAILED if failed else ends.get(refund.status, PaymentEventKind.REFUND_PENDING),
        type_,
        payment_id=refund.payment_id,
        refund_id=refund.id,
        amount=refund.amount,
        reason=refund.failure_reason,
        at=at,
        refund=refund,
        raw=subject,
    )


def _check_texts(metadata: Mapping[str, str] | None, description: str | None = None, suffix: str | None = None) -> None:
    short_texts("metadata", metadata or {}, most=50, name=40, value=500)
    at_most("description", description or "", 1000, "characters")
    at_most("statement_descriptor_suffix", suffix or "", 22, "characters")


def _check_reason(reason: str | None, *known: str) -> None:
    if reason is not None and reason not in known:
        raise refused("reason", f"must be one of {', '.join(known)}")


def _named(payment_id: str) -> str:
    segment(payment_id, "payment_id")
    return payment_id


def _id(payment_id: str) -> str:
    return segment(payment_id, "payment_id")


def _payment(exchange: Exchange) -> Payment:
    return _read_payment(exchange.data)


def _read_payment(value: object) -> Payment:
    intent = record(value, "the payment")
    currency, status = text(intent, "currency"), text(intent, "status")
    return Payment(
        id=text(intent, "id"),
        status=_STATUSES.get(status, PaymentStatus.UNKNOWN),
        vendor_status=status,
        amount=_money(intent, "amount", currency),
        captured=_money(intent, "amount_received", currency, 0),
        capturable=_money(intent, "amount_capturable", currency, 0),
        live=flag(intent, "livemode"),
        created_at=moment(intent, "created"),
        action=_action(intent) if status == "requires_action" else None,
        metadata=texts(intent, "metadata"),
        client_secret=optional_text(intent, "client_secret"),
        raw=intent,
    )


def _action(intent: Mapping[str, Any]) -> RequiredAction:
    given = intent.get("next_action")
    step = record({} if given is None else given, "next_action")
    kind = optional_text(step, "type")
    secret = optional_text(intent, "client_secret")
    if kind == "redirect_to_url":
        url = text(record(step.get("redirect_to_url"), "redirect_to_url"), "url")
        return RequiredAction("redirect", url=url, client_secret=secret, raw=step)
    return RequiredAction("sdk" if kind == "use_stripe_sdk" else "other", client_secret=secret, raw=step)


def _refund(exchange: Exchange) -> Refund:
    return _read_refund(exchange.data)


def _read_refund(value: object) -> Refund:
    refund = record(value, "the refund")
    status = optional_text(refund, "status") or "unknown"
    return Refund(
        id=text(refund, "id"),
        status=_REFUND_STATUSES.get(status, RefundStatus.UNKNOWN),
        vendor_status=status,
        amount=_money(refund, "amount", text(refund, "currency")),
        payment_id=optional_text(refund, "payment_intent"),
        reason=optional_text(refund, "reason"),
        failure_reason=optional_text(refund, "failure_reason"),
        created_at=moment(refund, "created"),
        raw=refund,
    )


def _money(holder: Mapping[str, Any], name: str, currency: str, default: int | None = None) -> Money:
    """An amount in Stripe's units."""
    return _UNITS.read(whole(holder, name, default), currency)
