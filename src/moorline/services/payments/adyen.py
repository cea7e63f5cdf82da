"""Adyen: payments and sessions by its Checkout API, modifications, and what it tells us of them.

Facts: services/payments/adyen.md; contract: adyen.json. What is marked [D] is in no card, but on docs.adyen.com.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, Final
from urllib.parse import urlsplit

from moorline.calls.dialects import basic
from moorline.calls.service import (
    BearerKey,
    Endpoints,
    ErrorMap,
    Exchange,
    IdempotencyKey,
    Parameter,
    Plan,
    RateLimitHeaders,
    Service,
    hours,
    operation,
    segment,
)
from moorline.errors import (
    AuthenticationFailed,
    BadAnswer,
    CallError,
    ConfigurationError,
    Conflict,
    InvalidRequest,
    ServiceUnavailable,
)
from moorline.events.delivery import Delivers, Reply
from moorline.events.schemes.hmac_signature import HMACSignature
from moorline.events.schemes.signed_items import SignedItems
from moorline.money import Money
from moorline.services.answers import items, moment, optional_text, record, text, whole
from moorline.services.currency_units import CurrencyUnits
from moorline.services.limits import as_text, at_most, refused, short_texts
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
    from moorline.secrets.secret import Secret

__all__ = ["Adyen", "Modification", "Session", "SessionResult"]

_V: Final = "/v72"
_LIVE: Final = "https://{}-checkout-live.adyenpayments.com/checkout"
_LIVE_HOST: Final = re.compile(r"[a-z0-9-]+-checkout-live\.adyenpayments\.com")
_ENV: Final = "ADYEN_HMAC_KEY"
_RETRIES: Final = (
    "after 9, 18 and 27 s, then with growing gaps for up to 30 days, in order: one that fails holds up the rest"
)
_UNSAID: Final = Money(0, "xxx")  # ISO 4217's code for "no currency"
_UNITS: Final = CurrencyUnits(  # [D currency-codes]
    "Adyen",
    most=2**63 - 1,  # int64
    finer=frozenset({"clp", "isk"}),
    coarser=frozenset({"cve", "idr"}),
)
_STATUSES: Final = {
    "AuthenticationFinished": PaymentStatus.NEEDS_CONFIRMATION,  # 3-D Secure alone was asked for
    "AuthenticationNotRequired": PaymentStatus.NEEDS_CONFIRMATION,
    "Authorised": PaymentStatus.AUTHORIZED,
    "Cancelled": PaymentStatus.CANCELED,
    "ChallengeShopper": PaymentStatus.REQUIRES_ACTION,
    "IdentifyShopper": PaymentStatus.REQUIRES_ACTION,
    "PartiallyAuthorised": PaymentStatus.AUTHORIZED,
    "Pending": PaymentStatus.PROCESSING,
    "PresentToShopper": PaymentStatus.REQUIRES_ACTION,
    "Received": PaymentStatus.PROCESSING,
    "RedirectShopper": PaymentStatus.REQUIRES_ACTION,
    "Success": PaymentStatus.PROCESSING,  # not final, says the card
    "received": PaymentStatus.PROCESSING,  # of a modification
}
_SESSIONS: Final = {
    "active": PaymentStatus.NEEDS_METHOD,
    "canceled": PaymentStatus.CANCELED,
    "completed": PaymentStatus.AUTHORIZED,
    "expired": PaymentStatus.CANCELED,
    "paymentPending": PaymentStatus.PROCESSING,
    "refused": PaymentStatus.FAILED,
}
# By what the event is and whether it was a success; those that are in no card are in Adyen's own Java package.
_BY_SUCCESS: Final = {
    ("AUTHORISATION", "true"): PaymentEventKind.AUTHORIZED,
    ("AUTHORISATION", "false"): PaymentEventKind.FAILED,
    ("CAPTURE", "true"): PaymentEventKind.SUCCEEDED,
    ("CAPTURE", "false"): PaymentEventKind.FAILED,
    ("CANCELLATION", "true"): PaymentEventKind.CANCELED,
    ("TECHNICAL_CANCEL", "true"): PaymentEventKind.CANCELED,  # of ``cancel_by_reference`` (unconfirmed)
    ("REFUND", "true"): PaymentEventKind.REFUNDED,
    ("REFUND", "false"): PaymentEventKind.REFUND_FAILED,
    ("CANCEL_OR_REFUND", "false"): PaymentEventKind.REFUND_FAILED,
}
_BY_CODE: Final = {
    "PENDING": PaymentEventKind.PROCESSING,
    "CAPTURE_FAILED": PaymentEventKind.FAILED,
    "REFUND_FAILED": PaymentEventKind.REFUND_FAILED,
    "REFUNDED_REVERSED": PaymentEventKind.REFUND_FAILED,
    "NOTIFICATION_OF_CHARGEBACK": PaymentEventKind.DISPUTED,
    "CHARGEBACK": PaymentEventKind.DISPUTED,
    "SECOND_CHARGEBACK": PaymentEventKind.DISPUTED,
}
_OF_PAYMENTS: Final = frozenset({"AUTHORISATION", "PENDING"})  # the others are about a modification of one
_UNHAPPY: Final = frozenset({PaymentEventKind.FAILED, PaymentEventKind.REFUND_FAILED, PaymentEventKind.DISPUTED})
_REFUNDS: Final = frozenset({PaymentEventKind.REFUNDED, PaymentEventKind.REFUND_FAILED})
# The least and the most characters of texts.
_LENGTHS: Final = {
    "reference": (1, 80),
    "returnUrl": (1, 1024),
    "shopperReference": (3, 256),
    "shopperEmail": (0, 256),
    "shopperIP": (0, 50),
    "telephoneNumber": (0, 64),
    "origin": (0, 80),
    "store": (1, 64),
    "merchantOrderReference": (0, 1000),
    "shopperStatement": (0, 10_000),
}
_REASONS: Final = ("FRAUD", "CUSTOMER REQUEST", "RETURN", "DUPLICATE", "OTHER")

# Refusals after which another try, later or with another card, may help [D refusal-reasons]. Not in the list: blocked,
# restricted and revoked cards (5, 25, 26), fraud (14, 20, 22, 31), wrong amounts (7), transactions that are not
# permitted (23), and what Adyen stops because it was tried too often (46).
_MAY_RETRY: Final = frozenset(
    {
        "2", "3", "4", "6", "8", "9", "10", "11", "12", "15", "16", "17", "18", "19", "21", "24", "27", "28", "29",
        "32", "33", "34", "35", "36", "37", "38", "39", "41", "42", "43", "44",
    }
)  # fmt: skip
_UNDECIDED: Final = "704"  # "request already processed or in progress" [D api-idempotency]


@dataclass(frozen=True, slots=True)
class Session:
    """A payment session: hand *id* and *session_data* to Adyen's Drop-in, or send the shopper to *url* (``hosted``)."""

    id: str
    amount: Money
    reference: str
    expires_at: datetime | None
    live: bool
    session_data: str | None = field(default=None, repr=False)
    url: str | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class SessionResult:
    """How a session ended. Adyen does not update it: what comes later comes by webhook. *payments* has those that were
    authorised; *vendor_status* is Adyen's word (``completed``, ``refused``, …).
    """

    id: str
    status: PaymentStatus
    vendor_status: str
    reference: str | None = None
    payments: tuple[Payment, ...] = ()
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Modification:
    """A request to change a payment that Adyen took: the result comes by webhook, under *id* (its ``pspReference``).

    *payment_id* is None, and *payment_reference* yours, where the payment was named by your own reference.
    """

    id: str
    vendor_status: str
    payment_id: str | None = None
    payment_reference: str | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


class _Errors(ErrorMap):
    """Adyen's errors; a refused payment is a 200, whose text stands elsewhere than an error's."""

    def data(self, exchange: Exchange) -> Any:
        """See ErrorMap."""
        found = super().data(exchange)
        if isinstance(found, dict) and "resultCode" in found:
            return {**found, "message": found.get("refusalReason")}
        return found

    def error(self, exchange: Exchange) -> CallError:
        """See ErrorMap. A refused key may be one of the other mode; a repeat that comes too early or too late leaves
        open what became of the first request.
        """
        error = super().error(exchange)
        host = urlsplit(exchange.url).hostname or ""
        if isinstance(error, AuthenticationFailed) and host.endswith((".adyen.com", ".adyenpayments.com")):
            error.message += (
                "; the live endpoint takes no test keys"
                if _LIVE_HOST.fullmatch(host)
                else "; this is the test endpoint, which takes no live keys: those need live_prefix (ADYEN_LIVE_PREFIX)"
            )
        if error.code == _UNDECIDED:
            error.outcome = "unknown"
        return error


def _refused(exchange: Exchange) -> str | None:
    found = exchange.data
    result = found.get("resultCode") if isinstance(found, dict) else None
    return result if result == "Refused" or result == "Error" else None  # noqa: PLR1714 (it may have no hash)


class Adyen(Service):
    """Payments by Adyen.

    Without *live_prefix* (``ADYEN_LIVE_PREFIX``: Customer Area, Developers, API URLs) all goes to the test endpoint,
    where no money moves; with it, to the live endpoint of your company account. Each takes its own keys only. ``live``
    says which it is, so does each Payment, and ``check(live=True)`` refuses to start on the wrong one. A live prefix
    may name a region (unconfirmed); idempotency keys are not shared between regions.

    The key goes in ``X-API-Key``; with *user* (``ws@Company.…``) it is the password of that user, by Basic
    authentication. A new API key leaves the old one valid for 24 hours [D].

    There is no asking how a payment stands: keep a record of your own, and follow the webhooks. Captures, cancels and
    refunds are only requested here (status ``processing`` or ``pending``); their results come by webhook. Do not show
    shoppers why a payment was refused: it helps who tries stolen cards.

    A request whose twin is still at work is answered with code 704: repeated under the same key where Adyen says that
    this helps, else a Conflict that says ``outcome="unknown"``.

    Adyen signs eight fields of a notification, and not its date, reason, payment method or ``additionalData``.
    Facts: services/payments/adyen.md; contract: adyen.json.
    """

    name, category = "adyen", "payments"
    docs = "services/payments/adyen.md, adyen.json"
    endpoints = Endpoints("https://checkout-test.adyen.com")
    credentials = BearerKey(env="ADYEN_API_KEY", sandbox="AQEsandbox", header="X-API-Key", scheme="")
    merchant_account = Parameter("ADYEN_MERCHANT_ACCOUNT", sandbox="MoorlineECOM", like=r"[A-Za-z0-9][\w.-]*")
    live_prefix = Parameter("ADYEN_LIVE_PREFIX", like=r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,47}[A-Za-z0-9])?", default="")
    user = Parameter("ADYEN_WS_USER", like=r"[^\s:@]+@[^\s:@]+", default="")  # the variable's name is ours
    idempotency = IdempotencyKey(header="Idempotency-Key", window=hours(31 * 24), max_length=64)
    limits = RateLimitHeaders(should_retry="transient-error")
    errors = _Errors(
        code="errorCode",
        error_type="errorType",
        message="message",
        decline_code="refusalReasonCode",
        request_id="pspReference",
        declined=frozenset({"Refused", "Error"}),
        # "configuration" comes with a 500 too, and is of the account, not a failure of the service; of the types that
        # are left, "validation" and "security" mean what their status says.
        kinds={_UNDECIDED: Conflict, "configuration": InvalidRequest, "internal": ServiceUnavailable},
        may_retry=_MAY_RETRY,
        failed=_refused,
    )
    webhooks = SignedItems(
        each="notificationItems.*.NotificationRequestItem",
        signed=(
            "pspReference",
            "originalReference",
            "merchantAccountCode",
            "merchantReference",
            "amount.value",
            "amount.currency",
            "eventCode",
            "success",
        ),
        free="merchantReference",
        signature="additionalData.hmacSignature",
        # Platforms, management, tokens: the whole body in a header; their events have no id that is known.
        otherwise=HMACSignature(header="HmacSignature", key="hex", encoding="base64", env=_ENV, type="type"),
        answer=Reply(200, b"[accepted]", "text/plain; charset=utf-8"),  # older set-ups want these very words
        env=_ENV,
        id=("eventCode", "success", "pspReference"),  # there is no id of the event
        type="eventCode",
        action="success",
        delivers=Delivers(within=10, retries=_RETRIES),
    )
    lacks: ClassVar[Mapping[str, str]] = {
        "get_payment": "Adyen's Checkout API has no such call: follow the webhooks, or ask get_session for its result",
        "list_payments": "Adyen's Checkout API has no such call: keep a record of your own, by the webhooks",
    }
    usage = """
from moorline import Money
from moorline.services import Adyen

back = "https://shop.example/back"
session = Adyen().create_session(Money(1099, "eur"), reference="order-42", return_url=back).result()
print(session.id, session.amount, session.live)
"""

    @property
    def live(self) -> bool:
        """Whether money moves. False at the test endpoint and in the sandbox."""
        if self.in_sandbox:
            return False
        return bool(self.live_prefix) or _LIVE_HOST.fullmatch(urlsplit(self.base_url).hostname or "") is not None

    def _endpoint(self) -> str:
        """See Service."""
        prefix = self.live_prefix
        return _LIVE.format(prefix) if prefix else super()._endpoint()

    def authorized(
        self, key: Secret, method: str, url: str, headers: dict[str, str], body: bytes | None
    ) -> dict[str, str]:
        """See Service."""
        user = self.user
        return {**headers, **basic(user, key)} if user else super().authorized(key, method, url, headers, body)

    @operation
    def create_payment(
        self,
        /,
        amount: Money,
        *,
        payment_method: Mapping[str, Any] | str,
        reference: str,
        return_url: str,
        capture: bool = True,
        metadata: Mapping[str, str] | None = None,
        **extra: object,
    ) -> Plan[Payment]:
        """Try to pay with *payment_method*: Adyen's object, as its Drop-in gives it, or the id of a stored card.

        *reference* is your name for the payment, which the webhooks repeat. The money is captured at once, whatever
        the account's setting; ``capture=False`` holds it for ``capture_payment``, ``captureDelayHours=…`` for so long.
        *extra* are Adyen's further parameters, by their names (``shopperReference``, ``browserInfo``).

        Status ``requires_action``: a plain redirect, or (kind ``sdk``) ``action.raw`` for Adyen's Drop-in; then give
        what comes back to ``submit_details``. Until then the payment may have no id (an empty one).

        Raises PaymentDeclined for the results Refused and Error (``decline_code`` is Adyen's refusalReasonCode),
        InvalidRequest.
        """
        body = _order(amount, reference, return_url, metadata, extra, capture=capture)
        body["paymentMethod"] = _method(payment_method)
        parse = self._parsing(amount, taken=capture and extra.get("captureDelayHours", 0) == 0)
        return self.post(f"{_V}/payments", json=self._named(body), parse=parse)

    @operation
    def submit_details(
        self,
        /,
        amount: Money,
        details: Mapping[str, Any],
        *,
        payment_data: str | None = None,
        capture: bool = True,
        **extra: object,
    ) -> Plan[Payment]:
        """Go on with a payment that required an action: *details* are what the Drop-in gave, or
        ``{"redirectResult": …}`` from the address to which the shopper came back.

        *amount* and *capture* are those of ``create_payment``: Adyen repeats neither. Raises PaymentDeclined.
        """
        _amount("amount", amount, least=0)
        if not details:
            raise refused("details", "is needed: what the shopper's action gave")
        body = _given(details=dict(details), paymentData=payment_data) | extra
        return self.post(f"{_V}/payments/details", json=body, parse=self._parsing(amount, taken=capture))

    @operation
    def capture_payment(
        self, /, payment_id: str, amount: Money | None = None, *, reference: str | None = None, **extra: object
    ) -> Plan[Payment]:
        """Ask for *amount* of the money that is held. It must be given: Adyen knows no "all of it".

        The payment that comes back is ``processing``, nothing captured; its ``raw["pspReference"]`` is that of the
        webhook ``CAPTURE`` that tells the result.
        """
        if amount is None:
            raise refused("amount", "is needed: Adyen captures an amount, also when it is all that is held")
        body = {"amount": _amount("amount", amount), **_own(reference)} | extra
        return self._modify(payment_id, "captures", body, self._parsing(amount, known=payment_id))

    @operation
    def cancel_payment(self, /, payment_id: str, *, reference: str | None = None, **extra: object) -> Plan[Payment]:
        """Ask to let go the money that is held; what is captured needs ``refund``, what may be, ``reverse_payment``.

        The payment that comes back is ``processing``; Adyen does not say its amount, which is 0 XXX. The result comes
        by the webhook ``CANCELLATION``.
        """
        parse = self._parsing(_UNSAID, known=payment_id)
        return self._modify(payment_id, "cancels", _own(reference) | extra, parse)

    @operation
    def cancel_by_reference(
        self, /, payment_reference: str, *, reference: str | None = None, **extra: object
    ) -> Plan[Modification]:
        """Ask to cancel the payment that you named so, where its answer was lost and with it Adyen's id."""
        _check_length("reference", payment_reference)
        body = {"paymentReference": payment_reference} | _own(reference) | extra
        return self.post(f"{_V}/cancels", json=self._named(body), parse=_modification)

    @operation
    def reverse_payment(
        self, /, payment_id: str, *, reference: str | None = None, **extra: object
    ) -> Plan[Modification]:
        """Ask to give all of a payment back: it is cancelled, or refunded where it is captured already.

        Not for payments captured in several parts [D]. The result comes by the webhook ``CANCEL_OR_REFUND``.
        """
        return self._modify(payment_id, "reversals", _own(reference) | extra, _modification)

    @operation
    def refund(
        self,
        /,
        payment_id: str,
        amount: Money | None = None,
        *,
        reason: str | None = None,
        reference: str | None = None,
        **extra: object,
    ) -> Plan[Refund]:
        """Ask to give *amount* back. It must be given, also for all of it: Adyen knows no "all that is left", and
        ``reverse_payment`` would cancel what is not captured yet.

        *reason* is ``FRAUD``, ``CUSTOMER REQUEST``, ``RETURN``, ``DUPLICATE`` or ``OTHER``. The refund that comes back
        is ``pending``; the result comes by the webhooks ``REFUND`` and ``REFUND_FAILED``.
        """
        if amount is None:
            raise refused("amount", "is needed: Adyen refunds an amount; reverse_payment gives all of it back")
        if reason is not None and reason not in _REASONS:
            raise refused("reason", f"must be one of {', '.join(_REASONS)}")
        body = {"amount": _amount("amount", amount), **_given(merchantRefundReason=reason), **_own(reference)} | extra
        return self._modify(payment_id, "refunds", body, _refund)

    @operation
    def create_session(
        self,
        /,
        amount: Money,
        *,
        reference: str,
        return_url: str,
        mode: str = "embedded",
        capture: bool = True,
        metadata: Mapping[str, str] | None = None,
        **extra: object,
    ) -> Plan[Session]:
        """Start a payment session, in which the shopper chooses how to pay: in Adyen's Drop-in (*mode* ``embedded``),
        or on a page of Adyen's (``hosted``). *capture* and *extra* are as in ``create_payment``.
        """
        if mode not in ("embedded", "hosted"):
            raise refused("mode", "must be embedded or hosted")
        body = {**_order(amount, reference, return_url, metadata, extra, capture=capture), "mode": mode}
        live = self.live
        return self.post(f"{_V}/sessions", json=self._named(body), parse=lambda answer: _session(answer, live=live))

    @operation
    def get_session(self, session_id: str, session_result: str) -> Plan[SessionResult]:
        """How a session ended; *session_result* is what the Drop-in gives, or the return address holds."""
        if not as_text("session_result", session_result):
            raise refused("session_result", "is needed: the Drop-in gives it, or the address of the shopper's return")
        live = self.live
        return self.get(
            f"{_V}/sessions/{segment(session_id, 'session_id')}",
            query={"sessionResult": session_result},
            parse=lambda exchange: _session_result(exchange, live=live),
        )

    @operation
    def check(self, *, live: bool | None = None) -> Plan[bool]:
        """True if the key is good for the merchant account, at the endpoint that ``live`` tells: asks how it can be
        paid. Give *live* to be sure of the mode, such as ``check(live=True)`` when a shop starts.

        Raises ConfigurationError for the other mode, AuthenticationFailed (also for a key of the other mode) or
        PermissionDenied (also for another merchant account).
        """
        if live is not None and live is not self.live:
            why = "live_prefix (ADYEN_LIVE_PREFIX) is what makes it live"
            raise ConfigurationError(f"adyen.live is {self.live}, at {self.base_url}, not {live}: {why}")
        return self.post(
            f"{_V}/paymentMethods",  # not in adyen.json, but in the official SDK
            json=self._named({}),
            parse=lambda exchange: bool(record(exchange.data)),
            repeatable=True,
        )

    def _named(self, body: Mapping[str, object]) -> dict[str, object]:
        return {"merchantAccount": self.merchant_account, **body}

    def _modify(
        self, payment_id: str, verb: str, body: Mapping[str, object], parse: Callable[[Exchange], Any]
    ) -> Plan[Any]:
        path = f"{_V}/payments/{segment(payment_id, 'payment_id')}/{verb}"
        return self.post(path, json=self._named(body), parse=parse)

    def _parsing(self, amount: Money, *, taken: bool = False, known: str = "") -> Callable[[Exchange], Payment]:
        live = self.live
        return lambda exchange: _payment(record(exchange.data), amount, live=live, taken=taken, known=known)

    @classmethod
    def read_event(cls, event: Event) -> PaymentEvent | None:
        """What a notification means: of payments, captures, cancels, refunds and chargebacks; None for all others,
        and for a cancel that failed.

        A good ``AUTHORISATION`` is ``authorized``, also where the money is captured at once: no ``CAPTURE`` follows
        then, unless it was asked for (unconfirmed). ``failed`` are an ``AUTHORISATION`` or a ``CAPTURE`` without
        success and ``CAPTURE_FAILED``: see ``vendor_type``. That a reversal was a cancel stands in ``additionalData``,
        which is not signed. Raises BadAnswer for one that is not of the known shape.
        """
        told = _item(event.payload)
        kind = _kind(event.type, told)
        if kind is None:
            return None
        own = optional_text(told, "pspReference")
        amount = told.get("amount")
        return PaymentEvent(
            kind,
            event.type,
            payment_id=own if event.type in _OF_PAYMENTS else optional_text(told, "originalReference") or None,
            refund_id=own if kind in _REFUNDS else None,
            amount=None if amount is None else _money(amount),
            reference=optional_text(told, "merchantReference") or None,
            reason=(optional_text(told, "reason") or None) if kind in _UNHAPPY else None,
            at=moment(told, "eventDate"),
            raw=told,
        )


def _item(payload: object) -> Mapping[str, Any]:
    """The notification; also of a whole delivery that holds just one, as ``verify`` gives it."""
    told = record(payload, "the event")
    wrapped = told.get("notificationItems")
    if not isinstance(wrapped, list):
        return told
    if len(wrapped) != 1:
        raise BadAnswer("the delivery holds several notifications: read each of verify_each")
    return record(record(wrapped[0], "the notification").get("NotificationRequestItem"), "the notification")


def _kind(code: str, told: Mapping[str, Any]) -> PaymentEventKind | None:
    success = optional_text(told, "success") or ""
    if code == "CANCEL_OR_REFUND" and success == "true":
        more = told.get("additionalData")
        refunded = isinstance(more, dict) and more.get("modification.action") == "refund"
        return PaymentEventKind.REFUNDED if refunded else PaymentEventKind.CANCELED
    return _BY_CODE.get(code) or _BY_SUCCESS.get((code, success))


def _given(**fields: object) -> dict[str, object]:
    return {name: value for name, value in fields.items() if value is not None}


def _order(
    amount: Money,
    reference: str,
    return_url: str,
    metadata: Mapping[str, str] | None,
    extra: Mapping[str, object],
    *,
    capture: bool,
) -> dict[str, object]:
    """What payments and sessions have in common, checked against the limits that Adyen documents."""
    short_texts("metadata", metadata or {}, most=20, name=20, value=80)
    # An amount of 0 only looks whether the card is good.
    body = _given(amount=_amount("amount", amount, least=0), reference=reference, returnUrl=return_url)
    body |= _given(metadata=None if metadata is None else dict(metadata))
    if capture:
        # The account's own setting may be by hand; this is how Adyen's Magento plug-in goes past it.
        body = {**body, "captureDelayHours": 0, **extra}
    else:
        more = extra.get("additionalData")
        held = {**(more if isinstance(more, Mapping) else {}), "manualCapture": "true"}
        body = {**body, **extra, "additionalData": held}
    for name in _LENGTHS.keys() & body.keys():
        _check_length(name, body[name])
    return body


def _method(given: Mapping[str, Any] | str) -> dict[str, Any]:
    if isinstance(given, str) and given:
        at_most("payment_method", given, 64, "characters")
        return {"type": "scheme", "storedPaymentMethodId": given}
    if isinstance(given, Mapping) and given:
        return dict(given)
    raise refused("payment_method", "is needed: Adyen's object or a stored card's id; or let create_session ask for it")


def _own(reference: str | None) -> dict[str, object]:
    """Your own name for a modification."""
    if reference is not None:
        _check_length("reference", reference)
    return _given(reference=reference)


def _check_length(name: str, value: object) -> None:
    least, most = _LENGTHS[name]
    at_most(name, as_text(name, value), most, "characters")
    if len(str(value)) < least:
        raise refused(name, f"must have at least {least} characters")


def _amount(name: str, amount: Money, *, least: int = 1) -> dict[str, object]:
    """*amount* in Adyen's units."""
    return {"value": _UNITS.sent(name, amount, least=least), "currency": amount.currency.upper()}


def _money(value: object) -> Money:
    """An amount in Adyen's units."""
    holder = record(value, "amount")
    return _UNITS.read(whole(holder, "value"), text(holder, "currency"))


def _payment(answer: Mapping[str, Any], amount: Money, *, live: bool, taken: bool = False, known: str = "") -> Payment:
    """A payment of *amount*, unless the answer says more; or the payment *known* of which a change was asked for.
    *taken*: Authorised means that the money is.
    """
    result = text(answer, "status" if known else "resultCode")
    said = answer.get("amount")
    amount = amount if said is None else _money(said)
    action = _action(answer.get("action"))
    status = _STATUSES.get(result, PaymentStatus.UNKNOWN)
    if action is not None:
        status = PaymentStatus.REQUIRES_ACTION
    elif taken and result == "Authorised":
        status = PaymentStatus.SUCCEEDED
    nothing = Money(0, amount.currency)
    return Payment(
        id=known or optional_text(answer, "pspReference") or "",
        status=status,
        vendor_status=result,
        amount=amount,
        captured=amount if status is PaymentStatus.SUCCEEDED else nothing,
        capturable=amount if status is PaymentStatus.AUTHORIZED else nothing,
        live=live,
        action=action,
        raw=answer,
    )


def _action(value: object) -> RequiredAction | None:
    """What the shopper has to do. Adyen's Drop-in takes whatever is no plain redirect, such as one by POST."""
    if value is None:
        return None
    step = record(value, "action")
    url = optional_text(step, "url")
    plain = text(step, "type") == "redirect" and (optional_text(step, "method") or "GET").upper() == "GET"
    return RequiredAction("redirect" if plain and url else "sdk", url=url, raw=step)


def _modification(exchange: Exchange) -> Modification:
    answer = record(exchange.data)
    return Modification(
        id=text(answer, "pspReference"),
        vendor_status=text(answer, "status"),
        payment_id=optional_text(answer, "paymentPspReference"),
        payment_reference=optional_text(answer, "paymentReference"),
        raw=answer,
    )


def _refund(exchange: Exchange) -> Refund:
    answer = record(exchange.data)
    return Refund(
        id=text(answer, "pspReference"),
        status=RefundStatus.PENDING,
        vendor_status=text(answer, "status"),
        amount=_money(answer.get("amount")),
        payment_id=text(answer, "paymentPspReference"),
        reason=optional_text(answer, "merchantRefundReason"),
        raw=answer,
    )


def _session(exchange: Exchange, *, live: bool) -> Session:
    answer = record(exchange.data)
    return Session(
        id=text(answer, "id"),
        amount=_money(answer.get("amount")),
        reference=text(answer, "reference"),
        expires_at=moment(answer, "expiresAt"),
        live=live,
        session_data=optional_text(answer, "sessionData"),
        url=optional_text(answer, "url"),
        raw=answer,
    )


def _session_result(exchange: Exchange, *, live: bool) -> SessionResult:
    answer = record(exchange.data)
    status, paid = text(answer, "status"), answer.get("payments")
    found = [] if paid is None else items(paid, "payments")
    return SessionResult(
        id=text(answer, "id"),
        status=_SESSIONS.get(status, PaymentStatus.UNKNOWN),
        vendor_status=status,
        reference=optional_text(answer, "reference"),
        payments=tuple(_payment(record(one, "a payment"), _UNSAID, live=live, taken=False) for one in found),
        raw=answer,
    )
