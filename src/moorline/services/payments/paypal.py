"""PayPal: orders, their captures and authorizations, and refunds.

Facts: services/payments/paypal.md; contract: paypal.json (of 2024). The meaning of a processor's response codes is that
of PayPal's own SDK (paypal-server-sdk 2.4.0), and which currencies have no decimals is that of its currency reference.

An order, its authorization, its capture and a refund each have an id of their own. Here the payment is the *order*: all
operations take its id, and those that need another one read the order first, within the same Call.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final

from moorline.calls.service import (
    BearerKey,
    Endpoints,
    ErrorMap,
    Exchange,
    IdempotencyKey,
    Parameter,
    Plan,
    hours,
    operation,
    segment,
)
from moorline.calls.tokens import ClientCredentials, TokenService
from moorline.errors import BadAnswer, ConfigurationError, Conflict
from moorline.events.certificates import Issuer
from moorline.events.delivery import Delivers
from moorline.events.schemes.certified_checksum import CertifiedChecksum
from moorline.money import Money
from moorline.services.answers import flag, items, moment, optional_text, record, text
from moorline.services.limits import as_text, at_most, refused
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

__all__ = ["PayPal"]

_ORDERS: Final = "/v2/checkout/orders"
_HELD: Final = "/v2/payments/authorizations"
# The POSTs of which paypal.json documents PayPal-Request-Id: a void has none.
_KEYED: Final = rf"{_ORDERS}(?:/[^/]+/(?:authorize|capture))?|{_HELD}/[^/]+/capture|/v2/payments/captures/[^/]+/refund"
_FULL: Final = {"Prefer": "return=representation"}  # the default answer has neither amounts nor captures
_TEXT: Final = 127
_LIVE: Final = re.compile(r"https://(?:api|api-m|www)\.paypal\.com/")
_WHOLE: Final = frozenset({"huf", "twd"})  # two digits by ISO 4217, none at PayPal
_TAKEN: Final = frozenset({"COMPLETED", "PARTIALLY_REFUNDED", "REFUNDED"})
_OPEN: Final = frozenset({"CREATED", "PARTIALLY_CAPTURED"})
_CAPTURED: Final = frozenset({"ORDER_ALREADY_CAPTURED", "AUTHORIZATION_ALREADY_CAPTURED"})
_STATUSES: Final = {
    "CREATED": PaymentStatus.REQUIRES_ACTION,
    "PAYER_ACTION_REQUIRED": PaymentStatus.REQUIRES_ACTION,
    "SAVED": PaymentStatus.PROCESSING,
    "APPROVED": PaymentStatus.NEEDS_CONFIRMATION,
    "VOIDED": PaymentStatus.CANCELED,
}
_CAPTURES: Final = {
    **dict.fromkeys(_TAKEN, PaymentStatus.SUCCEEDED),
    "PENDING": PaymentStatus.PROCESSING,
    "DECLINED": PaymentStatus.FAILED,
    "FAILED": PaymentStatus.FAILED,
}
_AUTHORIZATIONS: Final = {
    "CREATED": PaymentStatus.AUTHORIZED,
    "PARTIALLY_CAPTURED": PaymentStatus.AUTHORIZED,
    "CAPTURED": PaymentStatus.SUCCEEDED,
    "PENDING": PaymentStatus.PROCESSING,
    "DENIED": PaymentStatus.FAILED,
    "VOIDED": PaymentStatus.CANCELED,
}
_REFUNDS: Final = {
    "COMPLETED": RefundStatus.SUCCEEDED,
    "PENDING": RefundStatus.PENDING,
    "FAILED": RefundStatus.FAILED,
    "CANCELLED": RefundStatus.CANCELED,
}
# Beside the card's: PayPal's reference of the events of Orders v2, Payments v2 and disputes (2026).
_EVENTS: Final = {
    "CHECKOUT.ORDER.APPROVED": PaymentEventKind.APPROVED,
    "PAYMENT.AUTHORIZATION.CREATED": PaymentEventKind.AUTHORIZED,
    "PAYMENT.AUTHORIZATION.VOIDED": PaymentEventKind.CANCELED,
    "PAYMENT.CAPTURE.PENDING": PaymentEventKind.PROCESSING,
    "PAYMENT.CAPTURE.COMPLETED": PaymentEventKind.SUCCEEDED,
    "PAYMENT.CAPTURE.DECLINED": PaymentEventKind.FAILED,
    "PAYMENT.CAPTURE.DENIED": PaymentEventKind.FAILED,
    "PAYMENT.CAPTURE.REFUNDED": PaymentEventKind.REFUNDED,
    "PAYMENT.CAPTURE.REVERSED": PaymentEventKind.REFUNDED,  # by PayPal, not by the merchant
    "CUSTOMER.DISPUTE.CREATED": PaymentEventKind.DISPUTED,
}
_DECLINED: Final = frozenset(
    {
        "DECLINED", "DENIED",  # of a capture and of an authorization, in a 201
        "CARD_EXPIRED", "INSTRUMENT_DECLINED", "PAYER_ACCOUNT_LOCKED_OR_CLOSED", "PAYER_ACCOUNT_RESTRICTED",
        "PAYER_ACTION_REQUIRED", "PAYER_CANNOT_PAY", "PAYMENT_SOURCE_DECLINED_BY_PROCESSOR",
        "REDIRECT_PAYER_FOR_ALTERNATE_FUNDING", "TRANSACTION_LIMIT_EXCEEDED", "TRANSACTION_REFUSED",
    }
)  # fmt: skip
# Another way to pay, the customer's own doing, or another time may help; not with fraud, lost cards, closed accounts.
_MAY_RETRY: Final = frozenset(
    {
        "CARD_EXPIRED", "DECLINED", "DENIED", "INSTRUMENT_DECLINED", "PAYER_ACTION_REQUIRED",
        "PAYMENT_SOURCE_DECLINED_BY_PROCESSOR", "REDIRECT_PAYER_FOR_ALTERNATE_FUNDING",
        "00N7", "0500", "0960", "10BR", "1330", "1380", "1382", "5100", "5110", "5120", "5170", "5180", "5400", "5650",
        "5710", "5920", "5930", "7710", "8000", "8100", "8110", "8220", "9100", "9540", "PCVV", "PPAE", "PPAX", "PPCT",
        "PPEF", "PPEX", "PPNT",
    }
)  # fmt: skip
_CERTIFICATES = Issuer(
    host=re.compile(r"(?:[a-z0-9-]+\.)+paypal\.com"),
    # The two that the card finds in certificates' addresses: whoever else speaks for a host of PayPal's is not asked.
    asked=re.compile(r"api(?:\.sandbox)?\.paypal\.com"),
    # The paths that paypal/PayPal-Ruby-SDK's tests and public deliveries show; the card names the hosts alone.
    path=re.compile(r"/v1/notifications/certs/[A-Za-z0-9_-]+"),
)
_DAYS = 3


def _lost(exchange: Exchange) -> str | None:
    """The status of the payment in an answer to a write, if it says that there is none: a 201 does not mean paid."""
    if exchange.method != "POST" or not isinstance(exchange.data, dict):
        return None
    answer, said = exchange.data, []
    try:
        if _ORDERS in exchange.url:
            said = [one.get("status") for one in _of(answer, "captures") or _of(answer, "authorizations")]
        elif _HELD in exchange.url:
            said = [answer.get("status")]
    except BadAnswer:  # which reading it will tell
        return None
    if not said or not all(status in ("DECLINED", "DENIED", "FAILED") for status in said):
        return None
    return "DENIED" if said[-1] == "DENIED" else "DECLINED"


class PayPal(TokenService):
    """Payments by PayPal. Test mode is another host with credentials of its own: ``PayPal(region="sandbox")``.

    ``PAYPAL_CLIENT_ID`` and ``PAYPAL_CLIENT_SECRET`` are those of an app in PayPal's dashboard; they get an access
    token, which is kept as long as it lasts. (That an app may have two secrets at once is unconfirmed.) To act for
    another merchant, add PayPal's header: ``call.using(headers={"PayPal-Auth-Assertion": …})``.

    The secret of the webhooks is the id of the webhook in the dashboard. The simulator's is ``WEBHOOK_ID`` for
    everybody: accept it nowhere but in tests.
    Facts: services/payments/paypal.md; contract: paypal.json.
    """

    name, category = "paypal", "payments"
    docs = "services/payments/paypal.md, paypal.json"
    endpoints = Endpoints("https://api-m.paypal.com", regions={"sandbox": "https://api-m.sandbox.paypal.com"})
    client_id = Parameter("PAYPAL_CLIENT_ID", sandbox="sandbox-client")
    credentials = BearerKey(env="PAYPAL_CLIENT_SECRET", sandbox="sandbox-secret")
    tokens = ClientCredentials("/v1/oauth2/token")
    # 45 days for refunds and captures of authorizations: the shorter holds for all, so nothing is sent again too late.
    idempotency = IdempotencyKey(header="PayPal-Request-Id", window=hours(6), max_length=108, where=_KEYED)
    errors = ErrorMap(
        code="details.0.issue|name|error",
        error_type="name",
        message="details.0.description|message|error_description",
        decline_code="purchase_units.0.payments.captures.0.processor_response.response_code"
        "|purchase_units.0.payments.authorizations.0.processor_response.response_code"
        "|processor_response.response_code",
        request_id="header:Paypal-Debug-Id",
        declined=_DECLINED,
        may_retry=_MAY_RETRY,
        limited=frozenset({"RATE_LIMIT_REACHED"}),
        kinds=dict.fromkeys(
            ("ORDER_ALREADY_CAPTURED", "ORDER_ALREADY_AUTHORIZED", "ORDER_COMPLETION_IN_PROGRESS"), Conflict
        ),
        retry=frozenset({"ORDER_COMPLETION_IN_PROGRESS", "PREVIOUS_REQUEST_IN_PROGRESS"}),
        failed=_lost,
    )
    webhooks = CertifiedChecksum(
        signature="PAYPAL-TRANSMISSION-SIG",
        timestamp="PAYPAL-TRANSMISSION-TIME",
        certificate="PAYPAL-CERT-URL",
        algorithm="PAYPAL-AUTH-ALGO",
        issuer=_CERTIFICATES,
        named="https://api.sandbox.paypal.com/v1/notifications/certs/CERT-moorline",
        # Unconfirmed: whether a delivery that is tried again has a new time and token. So a time as old as the last of
        # its tries is taken, the token counts once, and an event that is known by its id comes no second time.
        resent=_DAYS * 86_400.0,
        once="header:PAYPAL-TRANSMISSION-ID",
        once_for=hours(84),  # its tries take 3 days
        env="PAYPAL_WEBHOOK_ID",
        id="id",
        type="event_type",
        delivers=Delivers(retries=f"up to 25 times within {_DAYS} days"),
    )
    lacks: ClassVar[Mapping[str, str]] = {
        "list_payments": "PayPal lists no orders: keep their ids, or search transactions through request()"
    }
    usage = """
from moorline import Money
from moorline.services import PayPal

payment = PayPal().create_payment(Money(1099, "eur"), return_url="https://shop.example/back").result()
print(payment.status, payment.action.url)  # send the customer there, then: capture_payment(payment.id)
"""

    @operation
    def create_payment(
        self,
        /,
        amount: Money,
        *,
        payment_method: str | None = None,
        payment_source: Mapping[str, Any] | None = None,
        capture: bool = True,
        reference: str | None = None,
        invoice_id: str | None = None,
        description: str | None = None,
        soft_descriptor: str | None = None,
        return_url: str | None = None,
        cancel_url: str | None = None,
        purchase_unit: Mapping[str, Any] | None = None,
        metadata: Mapping[str, str] | None = None,
        **extra: object,
    ) -> Plan[Payment]:
        """Create an order. Without a way to pay it waits for the customer: ``status`` is ``requires_action`` and
        ``action.url`` is where they approve it; ``capture_payment`` then takes the money.

        *payment_source* is PayPal's (``{"card": {"vault_id": …}}``), *payment_method* the vault id of a PayPal wallet:
        those are charged at once; a card's number has no place in a Call that is enqueued. ``capture=False`` is
        PayPal's intent AUTHORIZE: once approved, ``authorize_payment`` holds the money. *reference* is your own id for
        it (``custom_id``), which events repeat; PayPal keeps no *metadata*. *purchase_unit* are further fields of the
        only purchase unit (``items``, ``shipping``, ``amount={"breakdown": …}``), *extra* of the order.

        Raises PaymentDeclined, also for a declined card in a 201; InvalidRequest.
        """
        if metadata:
            raise refused("metadata", "PayPal keeps none; give your id as reference")
        if payment_method is not None and payment_source is not None:
            raise refused("payment_method", "is a saved PayPal wallet; give it or payment_source, not both")
        texts = {"custom_id": reference, "invoice_id": invoice_id, "description": description}
        unit = dict(purchase_unit or {})
        money = {**unit.get("amount", {}), **_amount("amount", amount)}
        unit |= {"amount": money, **_texts(texts), **_texts({"soft_descriptor": soft_descriptor}, 22)}
        order: dict[str, Any] = {"intent": "CAPTURE" if capture else "AUTHORIZE", "purchase_units": [unit]}
        source = payment_source if payment_method is None else {"paypal": {"vault_id": payment_method}}
        source = _returning(source, return_url, cancel_url)
        if source is not None:
            order["payment_source"] = source
        return self.post(_ORDERS, json=order | extra, headers=_FULL, parse=partial(_payment, asked=amount))

    @operation
    def get_payment(self, payment_id: str) -> Plan[Payment]:
        """The order as it is now. Raises NotFound, also for an order that expired unapproved."""
        return self.get(f"{_ORDERS}/{segment(payment_id, 'payment_id')}", parse=_payment)

    @operation
    def authorize_payment(self, /, payment_id: str, **extra: object) -> Plan[Payment]:
        """Hold the money of an order that was created with ``capture=False`` and is approved.

        Raises PaymentDeclined; InvalidRequest where it is not approved.
        """
        path = f"{_ORDERS}/{segment(payment_id, 'payment_id')}/authorize"
        return self.post(path, json=extra, headers=_FULL, parse=_payment)

    @operation
    def capture_payment(self, /, payment_id: str, amount: Money | None = None, **extra: object) -> Plan[Payment]:
        """Take the money of an approved order, or what is held of it. The order is read first; one that is captured
        already is the result as it is, so a customer's return and the webhook may both come here, even at one time.

        *amount* takes a part of what is *held*, and the rest is released (unless ``final_capture=False``); without it
        all that is left is taken. An order that is not authorised is taken whole. *extra* are PayPal's further fields
        (``note_to_payer``, ``invoice_id``).

        Raises PaymentDeclined; InvalidRequest where nothing is approved or held; NotFound.
        """
        part = None if amount is None else _amount("amount", amount)

        def then(order: Mapping[str, Any]) -> Plan[Payment] | None:
            held = _of(order, "authorizations")
            if held:
                return self._take(order, held[-1], {"amount": part, "final_capture": True, **extra})
            if any(one.get("status") in _CAPTURES and not _failed(one) for one in _of(order, "captures")):
                return None
            if order.get("intent") == "AUTHORIZE":
                raise refused("payment_id", "nothing is held of it yet; once it is approved, use authorize_payment")
            if amount is not None and amount != _total(order):
                raise refused("amount", f"an order is captured whole ({_total(order)}); create it with capture=False")
            path = f"{_ORDERS}/{segment(text(order, 'id'))}/capture"
            return self.post(path, json=extra, headers=_FULL, parse=partial(_payment, asked=_total(order)))

        return self.post_after(self._order(payment_id), then, parse=_payment, overtaken=_CAPTURED)

    def _take(
        self, order: Mapping[str, Any], held: Mapping[str, Any], body: Mapping[str, object]
    ) -> Plan[Payment] | None:
        """The capture of an authorization; None where it is captured already."""
        if held.get("status") == "CAPTURED":
            return None
        given = {name: value for name, value in body.items() if value is not None}
        taken = [_money(one.get("amount")) for one in _of(order, "captures") if not _failed(one)]
        if "amount" not in given and taken:  # without one PayPal takes all that was authorised, once more
            whole = _money(held.get("amount"))
            left = whole.minor - _sum(taken, whole.currency).minor
            if left < 1:
                return None
            given["amount"] = _amount("amount", Money(left, whole.currency))

        def parse(exchange: Exchange) -> Payment:
            capture = record(exchange.data, "the capture")
            told = {"amount": given.get("amount", held.get("amount")), **capture}
            status = "CAPTURED" if given["final_capture"] else "PARTIALLY_CAPTURED"
            return _changed(order, held, status, captures=[*_of(order, "captures"), told], raw=capture)

        path = f"{_HELD}/{segment(text(held, 'id'))}/capture"
        return self.post(path, json=given, headers=_FULL, parse=parse)

    @operation
    def cancel_payment(self, payment_id: str) -> Plan[Payment]:
        """Release what is held. The order is read first; one that is released already is the result as it is.

        PayPal honours no key on it, so it is not repeated by itself where its answer is lost.

        Raises InvalidRequest where nothing is held: what is captured needs ``refund``, and an order that nobody
        captures cannot be cancelled at PayPal, it expires.
        """

        def then(order: Mapping[str, Any]) -> Plan[Payment] | None:
            held = _of(order, "authorizations")
            if order.get("status") == "VOIDED" or (held and held[-1].get("status") == "VOIDED"):
                return None
            if any(one.get("status") in _TAKEN for one in _of(order, "captures")):
                raise refused("payment_id", "it is captured; use refund")
            if not held:
                raise refused("payment_id", "nothing is held; PayPal cancels no order, it expires uncaptured")

            def parse(exchange: Exchange) -> Payment:
                return _changed(order, held[-1], "VOIDED", captures=[], raw=record(exchange.data or {}))

            path = f"{_HELD}/{segment(text(held[-1], 'id'))}/void"
            return self.post(path, headers=_FULL, parse=parse, blank=True, keyed=False)

        return self.post_after(self._order(payment_id), then, parse=_payment, keyed=False)

    @operation
    def refund(
        self, /, payment_id: str, amount: Money | None = None, *, reason: str | None = None, **extra: object
    ) -> Plan[Refund]:
        """Give back *amount*, or all that is left, of the order's capture, for which the order is read first.

        *reason* is shown to the payer (``note_to_payer``). *extra* are PayPal's further fields (``invoice_id``).

        Raises InvalidRequest where nothing is captured, and where there are several captures: ``refund_capture`` says
        which of them.
        """
        body = _refund_body(amount, reason, extra)

        def then(order: Mapping[str, Any]) -> Plan[Refund]:
            captures = [one for one in _of(order, "captures") if not _failed(one)]
            if not captures:
                raise refused("payment_id", "nothing of it is captured, so nothing can be refunded")
            if len(captures) > 1:
                ids = ", ".join(text(one, "id") for one in captures)
                raise refused("payment_id", f"it has several captures; use refund_capture with one of {ids}")
            asked = amount or _money(captures[0].get("amount"))
            return self._refunding(text(captures[0], "id"), body, partial(_refund, order=payment_id, asked=asked))

        return self.post_after(self._order(payment_id), then, parse=_refund)

    @operation
    def refund_capture(
        self, /, capture_id: str, amount: Money | None = None, *, reason: str | None = None, **extra: object
    ) -> Plan[Refund]:
        """As ``refund``, of one capture: its id is in events, and in ``Payment.raw``. Its one request asks nothing."""
        body = _refund_body(amount, reason, extra)
        return self._refunding(capture_id, body, partial(_refund, asked=amount))

    def _refunding(self, capture_id: str, body: Mapping[str, object], parse: Any) -> Plan[Refund]:
        path = f"/v2/payments/captures/{segment(capture_id, 'capture_id')}/refund"
        return self.post(path, json=body, headers=_FULL, parse=parse)

    @operation
    def get_refund(self, refund_id: str) -> Plan[Refund]:
        """The refund as it is now; which order it belongs to is not in it. Raises NotFound."""
        return self.get(f"/v2/payments/refunds/{segment(refund_id, 'refund_id')}", parse=_refund)

    @operation
    def check(self) -> Plan[bool]:
        """True if client id and secret are good here: gets a token, and lists the app's webhooks with it.

        Raises AuthenticationFailed, also for credentials of the other mode, or PermissionDenied.
        """
        # Of notifications_webhooks_v1.json, from which the contract was trimmed; an app can always list its own.
        return self.get("/v1/notifications/webhooks", parse=lambda exchange: bool(record(exchange.data)))

    def _order(self, payment_id: str) -> Plan[Mapping[str, Any]]:
        path = f"{_ORDERS}/{segment(payment_id, 'payment_id')}"
        return self.get(path, parse=lambda exchange: record(exchange.data, "the order"))

    @classmethod
    def read_event(cls, event: Event) -> PaymentEvent | None:
        """What an event means: approvals, authorizations, captures, refunds and new disputes; None for all others.

        ``payment_id`` is None where PayPal does not name the order: of refunds and disputes, which name the capture.

        Raises BadAnswer for one that is not of the known shape.
        """
        if event.type not in _EVENTS:
            return None
        envelope = record(event.payload, "the event")
        resource = record(envelope.get("resource"), "resource")
        at = moment(envelope, "create_time")
        if event.type.startswith("CHECKOUT."):
            return _order_event(event.type, resource, at)
        if event.type.startswith("CUSTOMER."):
            return _dispute_event(event.type, resource, at)
        details = record(resource.get("status_details") or {}, "status_details")
        related = record(resource.get("supplementary_data") or {}, "supplementary_data").get("related_ids")
        refunded = _EVENTS[event.type] is PaymentEventKind.REFUNDED
        return PaymentEvent(
            _EVENTS[event.type],
            event.type,
            payment_id=optional_text(record(related or {}, "related_ids"), "order_id"),
            refund_id=text(resource, "id") if refunded else None,
            amount=_money_if_any(resource, "amount"),
            reference=optional_text(resource, "custom_id"),
            reason=optional_text(details, "reason"),
            at=at,
            refund=_read_refund(resource) if refunded and resource.get("amount") else None,
            raw=resource,
        )


def _order_event(type_: str, resource: Mapping[str, Any], at: datetime | None) -> PaymentEvent:
    payment = _read_order(resource)
    return PaymentEvent(
        _EVENTS[type_],
        type_,
        payment_id=payment.id,
        amount=payment.amount,
        reference=payment.metadata.get("custom_id"),
        at=at,
        payment=payment,
        raw=resource,
    )


def _dispute_event(type_: str, resource: Mapping[str, Any], at: datetime | None) -> PaymentEvent:
    """The fields are those of public deliveries: disputes are not in the contract."""
    disputed = [*items(resource.get("disputed_transactions") or [], "disputed_transactions"), {}]
    return PaymentEvent(
        _EVENTS[type_],
        type_,
        amount=_money_if_any(resource, "dispute_amount"),
        reference=optional_text(record(disputed[0], "a disputed transaction"), "custom"),
        reason=optional_text(resource, "reason"),
        at=at,
        raw=resource,
    )


def _amount(name: str, money: Money) -> dict[str, str]:
    """PayPal's amount: a decimal text in the main unit."""
    if not isinstance(money, Money):
        raise refused(name, f"must be Money, not {type(money).__name__}")
    if money.minor < 1:
        raise refused(name, f"must be more than zero, not {money}")
    if money.currency in _WHOLE and money.minor % 100:
        raise refused(name, f"PayPal takes no decimals of {money.currency.upper()}, such as in {money}")
    value = str(money.minor // 100) if money.currency in _WHOLE else f"{money.decimal:f}"
    at_most(name, value, 32, "characters")
    return {"currency_code": money.currency.upper(), "value": value}


def _texts(given: Mapping[str, str | None], limit: int = _TEXT) -> dict[str, str]:
    for name, value in given.items():
        if value is not None and not 1 <= len(as_text(name, value)) <= limit:
            raise refused(name, f"must have from 1 to {limit} characters, not {len(value)}")
    return {name: value for name, value in given.items() if value is not None}


def _returning(
    source: Mapping[str, Any] | None, return_url: str | None, cancel_url: str | None
) -> Mapping[str, Any] | None:
    """The way to pay, with where the customer comes back to."""
    urls = {name: url for name, url in (("return_url", return_url), ("cancel_url", cancel_url)) if url is not None}
    if not urls:
        return source
    kind, chosen = next(iter((source or {"paypal": {}}).items()))
    return {kind: {**chosen, "experience_context": {**chosen.get("experience_context", {}), **urls}}}


def _refund_body(amount: Money | None, reason: str | None, extra: Mapping[str, object]) -> dict[str, object]:
    body: dict[str, object] = {} if amount is None else {"amount": _amount("amount", amount)}
    return {**body, **_texts({"note_to_payer": reason}, 255), **extra}


def _units(order: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [record(unit, "a purchase unit") for unit in items(order.get("purchase_units") or [], "purchase_units")]


def _of(order: Mapping[str, Any], kind: str) -> list[Mapping[str, Any]]:
    """The captures or authorizations of an order, in their order."""
    lists = [record(unit.get("payments") or {}, "payments").get(kind) or [] for unit in _units(order)]
    return [record(one, kind) for found in lists for one in items(found, kind)]


def _failed(capture: Mapping[str, Any]) -> bool:
    return _CAPTURES.get(str(capture.get("status"))) is PaymentStatus.FAILED


def _money(value: object) -> Money:
    amount = record(value, "the amount")
    try:
        return Money.of(text(amount, "value"), text(amount, "currency_code"))
    except ConfigurationError:
        raise BadAnswer("the answer's amount is none") from None


def _money_if_any(holder: Mapping[str, Any], name: str) -> Money | None:
    return _money(holder[name]) if holder.get(name) else None


def _sum(amounts: list[Money], currency: str) -> Money:
    return Money(sum(each.minor for each in amounts), currency)


def _total(order: Mapping[str, Any], asked: Money | None = None) -> Money:
    """What the order is about; what was *asked* for where a short answer does not say."""
    amounts = [_money(unit["amount"]) for unit in _units(order) if unit.get("amount")]
    if amounts:
        return _sum(amounts, amounts[0].currency)
    if asked is None:
        raise BadAnswer("the answer has no amount")
    return asked


def _payment(exchange: Exchange, asked: Money | None = None) -> Payment:
    return _read_order(exchange.data, asked)


def _read_order(value: object, asked: Money | None = None) -> Payment:
    order = record(value, "the order")
    captures, held = _of(order, "captures"), _of(order, "authorizations")
    amount = _total(order, asked)
    status, word = _standing(order, captures, held)
    taken = [_money(one.get("amount")) for one in captures if one.get("status") in _TAKEN]
    captured = _sum(taken, amount.currency)
    left = 0
    if held and held[-1].get("status") in _OPEN and not any(flag(one, "final_capture") for one in captures):
        left = max(_money(held[-1].get("amount")).minor - captured.minor, 0)
    first = next(iter(_units(order)), {})
    names = {name: optional_text(first, name) for name in ("custom_id", "invoice_id")}
    links = [record(link, "a link") for link in items(order.get("links") or [], "links")]
    return Payment(
        id=text(order, "id"),
        status=status,
        vendor_status=word,
        amount=amount,
        captured=captured,
        capturable=Money(left, amount.currency),
        live=any(_LIVE.match(optional_text(link, "href") or "") for link in links),
        created_at=moment(order, "create_time"),
        action=_action(links) if status is PaymentStatus.REQUIRES_ACTION else None,
        metadata={name: value for name, value in names.items() if value is not None},
        raw=order,
    )


def _standing(
    order: Mapping[str, Any], captures: list[Mapping[str, Any]], held: list[Mapping[str, Any]]
) -> tuple[PaymentStatus, str]:
    """Where it stands, and PayPal's word for it: of the capture, else the authorization, else the order. An order that
    is COMPLETED, of which no more is told, may have been declined.
    """
    for found, known in ((captures, _CAPTURES), (held, _AUTHORIZATIONS)):
        if found:
            best = next((one for one in reversed(found) if known is _CAPTURES and not _failed(one)), found[-1])
            return known.get(text(best, "status"), PaymentStatus.UNKNOWN), text(best, "status")
    return _STATUSES.get(text(order, "status"), PaymentStatus.UNKNOWN), text(order, "status")


def _action(links: list[Mapping[str, Any]]) -> RequiredAction:
    for link in links:
        if link.get("rel") in ("approve", "payer-action"):
            return RequiredAction("redirect", url=text(link, "href"), raw=link)
    return RequiredAction("other")


def _changed(
    order: Mapping[str, Any],
    held: Mapping[str, Any],
    status: str,
    *,
    captures: list[Mapping[str, Any]],
    raw: Mapping[str, Any],
) -> Payment:
    """The order as it is after its authorization was captured or released, of which alone the answer tells."""
    payments = {"captures": captures, "authorizations": [{**held, "status": status}]}
    return replace(_read_order({**order, "purchase_units": [{**_units(order)[0], "payments": payments}]}), raw=raw)


def _refund(exchange: Exchange, order: str | None = None, asked: Money | None = None) -> Refund:
    return _read_refund(exchange.data, order, asked)


def _read_refund(value: object, order: str | None = None, asked: Money | None = None) -> Refund:
    refund = record(value, "the refund")
    status = optional_text(refund, "status") or "unknown"
    details = record(refund.get("status_details") or {}, "status_details")
    return Refund(
        id=text(refund, "id"),
        status=_REFUNDS.get(status, RefundStatus.UNKNOWN),
        vendor_status=status,
        amount=asked if asked is not None and not refund.get("amount") else _money(refund.get("amount")),
        payment_id=order,
        reason=optional_text(refund, "note_to_payer"),
        failure_reason=optional_text(details, "reason"),
        created_at=moment(refund, "create_time"),
        raw=refund,
    )
