"""Square's stand-in: payments, refunds, idempotency keys in the body, declines, signed events.

Facts: services/payments/square.md and square.json. Tokens begin with ``EAAA``; those that end in ``wrong`` are refused,
and ``EAAA-read…`` may only read. The tokens of Square's sandbox are charged or declined as there; which code goes with
``rejected-expiration`` is unconfirmed. The sandbox's own: a refund is ``PENDING`` in its answer and completed right
after it; cancelling by key also takes back what was completed, and frees the key, as a payment whose answer was lost
has usually been.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from moorline.errors import ConfigurationError
from moorline.sandbox import signing
from moorline.sandbox.idempotency import Keys
from moorline.sandbox.standin import Answer, Ask, Emission, Registration, Signed, Surroundings

__all__ = ["STAND_IN"]

Body = dict[str, Any]
_WINDOW = 86_400.0  # Square does not say for how long it knows a key
_LOCATION = "LSANDBOX0MAIN"
_MERCHANT = "6SSW7HV8K2ST5"
_DECLINES = {
    "cnon:card-nonce-declined": "GENERIC_DECLINE",
    "cnon:card-nonce-rejected-cvv": "CVV_FAILURE",
    "cnon:card-nonce-rejected-postalcode": "ADDRESS_VERIFICATION_FAILURE",
    "cnon:card-nonce-rejected-expiration": "INVALID_EXPIRATION",
}
_CREATE = {
    "source_id": str, "idempotency_key": str, "amount_money": dict, "tip_money": dict, "app_fee_money": dict,
    "delay_duration": str, "delay_action": str, "autocomplete": bool, "order_id": str, "customer_id": str,
    "location_id": str, "team_member_id": str, "reference_id": str, "verification_token": str,
    "accept_partial_authorization": bool, "buyer_email_address": str, "buyer_phone_number": str,
    "billing_address": dict, "shipping_address": dict, "note": str, "statement_description_identifier": str,
    "cash_details": dict, "external_details": dict, "customer_details": dict,
}  # fmt: skip
_REFUND = {
    "idempotency_key": str, "amount_money": dict, "app_fee_money": dict, "payment_id": str, "reason": str,
    "payment_version_token": str, "team_member_id": str,
}  # fmt: skip
_LIMITS = {
    "idempotency_key": 45, "reference_id": 40, "note": 500, "statement_description_identifier": 20, "reason": 192,
    "buyer_email_address": 255,
}  # fmt: skip
_EXPECTED = {str: "EXPECTED_STRING", dict: "EXPECTED_OBJECT", bool: "EXPECTED_BOOLEAN", int: "EXPECTED_INTEGER"}
_QUERY = frozenset(
    {"begin_time", "end_time", "sort_order", "cursor", "location_id", "total", "last_4", "card_brand", "limit"}
)
_INVALID, _REFUSED = "INVALID_REQUEST_ERROR", "PAYMENT_METHOD_ERROR"
_Action = Callable[..., Answer]


class _Wrong(Exception):
    """An error answer in the making. ``stored``: an idempotency key keeps it, for the work had begun."""

    def __init__(
        self,
        code: str,
        detail: str,
        field: str | None = None,
        *,
        category: str = _INVALID,
        status: int = 400,
        payment: Body | None = None,
    ) -> None:
        super().__init__(detail)
        error = {"category": category, "code": code, "detail": detail}
        self.stored = payment is not None
        told: Body = {"errors": [error if field is None else {**error, "field": field}]}
        self.answer = Answer(status, told if payment is None else {**told, "payment": payment})


class SquareStandIn:
    """One seller with one location."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._keys = Keys(around.clock, window=_WINDOW)
        self._payments: dict[str, Body] = {}
        self._made: dict[str, str] = {}  # which payment a key made
        self._refunds: dict[str, Body] = {}
        one = r"/v2/payments/([A-Za-z0-9]+)"
        self._routes: list[tuple[str, str, _Action]] = [
            ("POST", "/v2/payments", self._create),
            ("GET", "/v2/payments", self._list),
            ("POST", "/v2/payments/cancel", self._cancel_by_key),
            ("GET", one, lambda _, name: Answer(200, {"payment": self._payment(name)})),
            ("POST", one + "/complete", self._complete),
            ("POST", one + "/cancel", self._cancel),
            ("POST", "/v2/refunds", self._refund),
            ("GET", r"/v2/refunds/(\w+)", self._get_refund),
        ]

    # -- the protocol of a stand-in ------------------------------------------------------------------------------------

    async def handle(self, ask: Ask) -> Answer:
        """Answer one request."""
        try:
            self._authorise(ask)
            action, names = self._routed(ask)
            body = dict(ask.parameters) if ask.method == "GET" else _body(ask)
            key = body.get("idempotency_key")
            if ask.method != "POST" or ask.path == "/v2/payments/cancel" or not isinstance(key, str):
                await ask.work()
                answer = action(body, *names)
            else:
                answer = await self._once(ask, key, lambda: action(body, *names))
        except _Wrong as wrong:
            answer = wrong.answer
        return Answer(answer.status, json.loads(json.dumps(answer.content)), answer.headers)

    def snapshot(self) -> dict[str, Any]:
        """Payments and refunds by id."""
        return {"payments": self._payments, "refunds": self._refunds}

    def failure(self, status: int) -> Answer:
        """Square's error body for an injected status."""
        category, code = "API_ERROR", "INTERNAL_SERVER_ERROR"
        if status == 429:
            category, code = "RATE_LIMIT_ERROR", "RATE_LIMITED"
        elif status < 500:
            category, code = _INVALID, "BAD_REQUEST"
        elif status == 503:
            code = "SERVICE_UNAVAILABLE"
        return _Wrong(code, code.replace("_", " ").capitalize(), category=category, status=status).answer

    def sample(self, event: str) -> bytes:
        """An event about a payment that the seller does not have."""
        if event not in STAND_IN.events:
            raise ConfigurationError(f"'event' must be one of {', '.join(STAND_IN.events)}")
        body = {"amount_money": {"amount": 1099, "currency": "USD"}, "source_id": "CARD", "reference_id": "order-42"}
        payment = self._new(body)
        kind = event.partition(".")[0]
        return self._event(event, kind, payment if kind == "payment" else self._new_refund(payment, 1099, {}))[1]

    def sign(self, emission: Emission, *, url: str, secrets: tuple[str, ...], hook_id: str, broken: bool) -> Signed:
        """Signed over the notification URL and the body."""
        return signing.signed(
            "square",
            emission,
            url=url,
            secrets=secrets,
            broken=broken,
            now=self._around.clock.wall(),
            headers={"Content-Type": "application/json", "square-environment": "Sandbox"},
        )

    # -- the way to an action ------------------------------------------------------------------------------------------

    def _authorise(self, ask: Ask) -> None:
        scheme, _, token = ask.headers.get("authorization", "").partition(" ")
        category = "AUTHENTICATION_ERROR"
        if scheme.lower() != "bearer" or not token.startswith("EAAA") or token.endswith("wrong"):
            raise _Wrong("UNAUTHORIZED", "This request could not be authorized.", category=category, status=401)
        if token.startswith("EAAA-read") and ask.method != "GET":
            detail = "The merchant has not given your application sufficient permissions to do that."
            raise _Wrong("INSUFFICIENT_SCOPES", detail, category=category, status=403)
        version = ask.headers.get("square-version")
        if version is not None and not re.fullmatch(r"\d{4}-\d{2}-\d{2}", version):
            raise _Wrong("INVALID_SQUARE_VERSION_FORMAT", "The Square-Version must be YYYY-MM-DD.")

    def _routed(self, ask: Ask) -> tuple[_Action, tuple[str, ...]]:
        known = False
        for method, pattern, action in self._routes:
            match = re.fullmatch(pattern, ask.path)
            if match and method == ask.method:
                return action, match.groups()
            known = known or match is not None
        if known:
            raise _Wrong("METHOD_NOT_ALLOWED", "Method not allowed.", status=405)
        raise _Wrong("NOT_FOUND", "Resource not found.", status=404)

    async def _once(self, ask: Ask, key: str, act: Callable[[], Answer]) -> Answer:
        if not 1 <= len(key) <= 45:
            raise _Wrong("VALUE_TOO_LONG" if key else "VALUE_EMPTY", "1 to 45 characters.", "idempotency_key")
        before = self._keys.begin(key, json.dumps([ask.path, json.loads(ask.body)], sort_keys=True))
        if before == "other":
            detail = "Different request parameters used for the same idempotency_key."
            raise _Wrong("IDEMPOTENCY_KEY_REUSED", detail, "idempotency_key")
        if before == "running":
            raise _Wrong("CONFLICT", "A request with this idempotency_key is at work.", status=409)
        if isinstance(before, Answer):
            return before
        kept = None
        try:
            await ask.work()
            kept = act()
        except _Wrong as wrong:
            kept = wrong.answer if wrong.stored else None
            raise
        finally:
            if kept is None:
                self._keys.forget(key)
            else:
                self._keys.finish(key, Answer(kept.status, json.loads(json.dumps(kept.content))))
        return kept

    # -- payments ------------------------------------------------------------------------------------------------------

    def _create(self, body: Body) -> Answer:
        _check(body, _CREATE, "source_id", "idempotency_key", "amount_money")
        _check_money(body["amount_money"], "amount_money")
        source = body["source_id"]
        if source.startswith("ccof:") and "customer_id" not in body:
            raise _Wrong("MISSING_REQUIRED_PARAMETER", "A card on file needs its customer.", "customer_id")
        for name, details in (("CASH", "cash_details"), ("EXTERNAL", "external_details")):
            if source == name and details not in body:
                raise _Wrong("MISSING_REQUIRED_PARAMETER", f"{name} needs {details}.", details)
        good = ("CASH", "EXTERNAL", "cnon:card-nonce-ok", "ccof:customer-card-id-ok")
        if source not in good and source not in _DECLINES:
            raise _Wrong("NOT_FOUND", "Card nonce not found in this `sandbox` application environment.", status=404)
        payment = self._new(body)
        self._payments[payment["id"]] = payment
        self._made[body["idempotency_key"]] = payment["id"]
        code = _DECLINES.get(source)
        if code is not None:
            error = {"category": _REFUSED, "code": code, "detail": f"Authorization error: '{code}'"}
            payment.update(status="FAILED", card_details={"status": "FAILED", "errors": [error]})
            payment.pop("approved_money")
            self._tell("payment.created", "payment", payment)
            raise _Wrong(code, error["detail"], category=_REFUSED, payment=payment)
        self._tell("payment.created", "payment", payment)
        if payment["status"] == "COMPLETED":
            self._tell("payment.updated", "payment", payment)
        return Answer(200, {"payment": payment})

    def _new(self, body: Body) -> Body:
        money = body["amount_money"]
        total = {**money, "amount": money["amount"] + body.get("tip_money", {}).get("amount", 0)}
        source = body["source_id"]
        return {
            "id": self._around.id("", 30),
            "created_at": self._now(),
            "updated_at": self._now(),
            "amount_money": money,
            "total_money": total,
            "approved_money": total,
            "status": "COMPLETED" if body.get("autocomplete", True) else "APPROVED",
            "source_type": source if source in ("CASH", "EXTERNAL") else "CARD",
            "location_id": body.get("location_id", _LOCATION),
            "order_id": self._around.id("", 22),
            **{name: body[name] for name in ("reference_id", "customer_id", "note", "tip_money") if name in body},
            "version_token": self._around.id("", 24),
        }

    def _payment(self, name: str) -> Body:
        if name not in self._payments:
            raise _Wrong("NOT_FOUND", "Could not find payment with id.", "payment_id", status=404)
        return self._payments[name]

    def _list(self, query: Body) -> Answer:
        for name in query:
            if name not in _QUERY:
                raise _Wrong("UNKNOWN_QUERY_PARAMETER", "Unknown query parameter.", name)
        where = query.get("location_id", _LOCATION)
        rows = [one for one in self._payments.values() if one["location_id"] == where]
        if query.get("sort_order", "DESC") != "ASC":
            rows.reverse()
        start, limit = query.get("cursor", "0"), query.get("limit", "100")
        if not start.isdecimal() or not limit.isdecimal() or int(limit) < 1:
            raise _Wrong("INVALID_VALUE" if start.isdecimal() else "INVALID_CURSOR", "Invalid value.", "cursor")
        end = int(start) + min(int(limit), 100)
        page: Body = {"payments": rows[int(start) : end]} if rows else {}
        return Answer(200, {**page, "cursor": str(end)} if end < len(rows) else page)

    def _complete(self, body: Body, name: str) -> Answer:
        _check(body, {"version_token": str})
        return self._ended(name, "COMPLETED", body.get("version_token"))

    def _cancel(self, body: Body, name: str) -> Answer:
        return self._ended(name, "CANCELED", None)

    def _ended(self, name: str, status: str, version: str | None) -> Answer:
        payment = self._payment(name)
        if payment["status"] != "APPROVED":
            verb = "completed" if status == "COMPLETED" else "canceled"
            raise _Wrong("BAD_REQUEST", f"Payment {name} is {payment['status']} and cannot be {verb}.")
        if version not in (None, payment["version_token"]):
            raise _Wrong(
                "CONFLICT", "The version_token is not that of the payment as it is.", "version_token", status=409
            )
        payment.update(status=status, updated_at=self._now(), version_token=self._around.id("", 24))
        self._tell("payment.updated", "payment", payment)
        return Answer(200, {"payment": payment})

    def _cancel_by_key(self, body: Body) -> Answer:
        _check(body, {"idempotency_key": str}, "idempotency_key")
        payment = self._payments.get(self._made.pop(body["idempotency_key"], ""))
        if payment is not None and payment["status"] in ("APPROVED", "COMPLETED"):
            self._keys.forget(body["idempotency_key"])
            payment.update(status="CANCELED", updated_at=self._now())
            self._tell("payment.updated", "payment", payment)
        return Answer(200, {})

    # -- refunds -------------------------------------------------------------------------------------------------------

    def _refund(self, body: Body) -> Answer:
        _check(body, _REFUND, "idempotency_key", "amount_money", "payment_id")
        amount = _check_money(body["amount_money"], "amount_money")
        payment = self._payment(body["payment_id"])
        if payment["status"] != "COMPLETED":
            detail = "The payment is not completed."
            raise _Wrong("REFUND_ERROR_PAYMENT_NEEDS_COMPLETION", detail, category="REFUND_ERROR")
        total = payment["total_money"]
        back = payment.get("refunded_money", {"amount": 0})["amount"]
        if body["amount_money"]["currency"] != total["currency"] or amount > total["amount"] - back:
            detail = "The requested refund amount exceeds the amount available to refund."
            raise _Wrong("REFUND_AMOUNT_INVALID", detail, "amount_money.amount", category="REFUND_ERROR")
        refund = self._new_refund(payment, amount, body)
        self._refunds[refund["id"]] = refund
        payment["refunded_money"] = {"amount": back + amount, "currency": total["currency"]}
        payment.setdefault("refund_ids", []).append(refund["id"])
        answer = Answer(200, {"refund": dict(refund)})
        self._tell("refund.created", "refund", refund)
        refund.update(status="COMPLETED", updated_at=self._now())
        self._tell("refund.updated", "refund", refund)
        self._tell("payment.updated", "payment", payment)
        return answer

    def _new_refund(self, payment: Body, amount: int, body: Body) -> Body:
        return {
            "id": f"{payment['id']}_{self._around.id('', 43)}",
            "status": "PENDING",
            "amount_money": {"amount": amount, "currency": payment["total_money"]["currency"]},
            "payment_id": payment["id"],
            "order_id": payment["order_id"],
            "location_id": payment["location_id"],
            **({"reason": body["reason"]} if "reason" in body else {}),
            "created_at": self._now(),
            "updated_at": self._now(),
        }

    def _get_refund(self, body: Body, name: str) -> Answer:
        if name not in self._refunds:
            raise _Wrong("NOT_FOUND", "Refund not found.", "refund_id", status=404)
        return Answer(200, {"refund": self._refunds[name]})

    # -- events --------------------------------------------------------------------------------------------------------

    def _tell(self, event: str, kind: str, thing: Body) -> None:
        name, body = self._event(event, kind, thing)
        self._around.emit(Emission(event, body, name))

    def _event(self, event: str, kind: str, thing: Body) -> tuple[str, bytes]:
        name = str(UUID(int=self._around.random.getrandbits(128), version=4))
        told = {
            "merchant_id": _MERCHANT,
            "location_id": thing["location_id"],
            "type": event,
            "event_id": name,
            "created_at": self._now(),
            "data": {"type": kind, "id": thing["id"], "object": {kind: thing}},
        }
        return name, json.dumps(told).encode()

    def _now(self) -> str:
        return datetime.fromtimestamp(self._around.clock.wall(), UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def _body(ask: Ask) -> Body:
    if not ask.body:
        return {}
    try:
        body = json.loads(ask.body)
    except ValueError:
        body = None
    if not isinstance(body, dict) or not ask.headers.get("content-type", "").startswith("application/json"):
        raise _Wrong("EXPECTED_JSON_BODY", "A JSON body was expected.")
    return body


def _check(body: Body, kinds: Mapping[str, Any], *needed: str) -> None:
    for name in needed:
        if name not in body:
            raise _Wrong("MISSING_REQUIRED_PARAMETER", f"Missing required parameter: {name}.", name)
    for name, value in body.items():
        if name not in kinds:
            raise _Wrong("UNKNOWN_BODY_PARAMETER", f"Unknown body parameter: {name}.", name)
        if not isinstance(value, kinds[name]):
            raise _Wrong(_EXPECTED[kinds[name]], f"Expected another type of {name}.", name)
        if name in _LIMITS and len(value) > _LIMITS[name]:
            raise _Wrong("VALUE_TOO_LONG", f"Field must not be greater than {_LIMITS[name]} in length.", name)


def _check_money(money: Body, where: str) -> int:
    amount, currency = money.get("amount"), money.get("currency")
    if not isinstance(amount, int) or isinstance(amount, bool):
        raise _Wrong("EXPECTED_INTEGER", "Expected an integer value.", f"{where}.amount")
    if amount < 1:
        raise _Wrong("VALUE_TOO_LOW", "`amount_money.amount` must be greater than 0.", f"{where}.amount")
    if not isinstance(currency, str) or not re.fullmatch("[A-Z]{3}", currency):
        raise _Wrong("INVALID_ENUM_VALUE", "It is not a currency.", f"{where}.currency")
    return amount


STAND_IN = Registration(
    name="square",
    make=SquareStandIn,
    secret="sandbox-signature-key",
    events=("payment.created", "payment.updated", "refund.created", "refund.updated"),
)
