"""PayPal's stand-in: tokens, orders, authorizations, captures, refunds, idempotency, declines, signed events.

Facts: services/payments/paypal.md and paypal.json; the tables beside it say where the rest is from. Any client id is
good; a secret that ends in ``wrong`` is refused, and a client id that begins with ``limited`` may only read. The
customer approves an order by ``GET /checkoutnow?token={order}``, where PayPal's page would be, and with
``&funding=declined`` has a card there that is then declined: both are the sandbox's own. A card's holder named
``CCREJECT-…`` is declined in a 201, and the header ``PayPal-Mock-Response`` brings the error that it names. Whether a
key that comes again with another body is refused is unconfirmed: here it brings the first result, as it is by then.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from moorline.errors import ConfigurationError
from moorline.sandbox import signing
from moorline.sandbox.services import _paypal_tables as tables
from moorline.sandbox.services._paypal_tables import Body, Refused, money, shown
from moorline.sandbox.standin import Answer, Ask, Emission, Registration, Signed, Surroundings

__all__ = ["STAND_IN"]

_WINDOWS = {"orders": 6 * 3600.0, "payments": 45 * 86_400.0}
_LASTS = 32_400
_Action = Callable[..., tuple[int, Body | None]]


class PayPalStandIn:
    """One app of a business account."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._tokens: dict[str, tuple[float, bool]] = {}
        self._orders: dict[str, Body] = {}
        self._parts: dict[str, tuple[Body, Body]] = {}  # authorizations and captures: their order, and they themselves
        self._refunds: dict[str, Body] = {}
        self._invoices: set[str] = set()
        self._funding: dict[str, str] = {}
        self._kept: dict[tuple[str, str], tuple[float, Body]] = {}
        self._running: set[tuple[str, str]] = set()
        self._base = ""
        one, part = r"/v2/checkout/orders/([A-Z0-9]{1,36})", r"/([A-Za-z0-9]+)"
        self._routes: list[tuple[str, str, _Action]] = [
            ("GET", r"/v1/notifications/webhooks", lambda _: (200, {"webhooks": []})),
            ("POST", r"/v2/checkout/orders", self._create),
            ("GET", one, lambda _, name: (200, self._order(name))),
            ("POST", one + "/authorize", self._authorize),
            ("POST", one + "/capture", self._capture),
            ("GET", "/v2/payments/authorizations" + part, lambda _, name: (200, self._part(name)[1])),
            ("POST", "/v2/payments/authorizations" + part + "/capture", self._take),
            ("POST", "/v2/payments/authorizations" + part + "/void", self._void),
            ("GET", "/v2/payments/captures" + part, lambda _, name: (200, self._part(name)[1])),
            ("POST", "/v2/payments/captures" + part + "/refund", self._refund),
            ("GET", "/v2/payments/refunds" + part, self._get_refund),
        ]

    # -- the protocol of a stand-in ------------------------------------------------------------------------------------

    async def handle(self, ask: Ask) -> Answer:
        """Answer one request."""
        debug_id = self._around.id("", 13).lower()
        headers = {"Paypal-Debug-Id": debug_id}
        self._base = ask.base
        try:
            answer = await self._answer(ask, debug_id)
        except Refused as error:
            answer = error.answer(debug_id)
        return Answer(answer.status, answer.content, {**headers, **answer.headers})

    def snapshot(self) -> dict[str, Any]:
        """Orders and refunds by id."""
        return {"orders": self._orders, "refunds": self._refunds}

    def failure(self, status: int) -> Answer:
        """PayPal's error body for an injected status."""
        debug_id = self._around.id("", 13).lower()
        answer = tables.failed(status, debug_id, [], [])
        return Answer(status, answer.content, {"Paypal-Debug-Id": debug_id})

    def sample(self, event: str) -> bytes:
        """An event about an order that the account does not have."""
        if event not in STAND_IN.events:
            raise ConfigurationError(f"'event' must be one of {', '.join(STAND_IN.events)}")
        amount = shown(Decimal("10.99"), "EUR")
        order = tables.new_order(
            self._around,
            self._base,
            {"intent": "CAPTURE", "purchase_units": [{"amount": amount, "custom_id": "order-42"}]},
        )
        part = tables.new_part(self._around, self._base, order, "captures", amount)
        if event == "CHECKOUT.ORDER.APPROVED":
            return self._event(event, "checkout-order", {**order, "status": "APPROVED"})[1]
        if event == "PAYMENT.CAPTURE.REFUNDED":
            return self._event(event, "refund", tables.new_refund(self._around, self._base, part, amount, {}))[1]
        kind, word = event.split(".")[1:]
        return self._event(event, kind.lower(), {**part, "status": word})[1]

    def sign(self, emission: Emission, *, url: str, secrets: tuple[str, ...], hook_id: str, broken: bool) -> Signed:
        """Signed over the webhook's id with the sandbox's RSA key, whose certificate receivers fetch from here."""
        return signing.signed(
            "paypal",
            emission,
            url=url,
            secrets=secrets,
            broken=broken,
            now=self._around.clock.wall(),
            headers={"Content-Type": "application/json", "User-Agent": "PayPal/AUHD-214.0-58843967"},
            key=signing.private_key("rsa", broken=broken) if secrets else None,
        )

    # -- the way to an action ------------------------------------------------------------------------------------------

    async def _answer(self, ask: Ask, debug_id: str) -> Answer:
        if ask.path == "/checkoutnow":
            return self._approve(dict(ask.parameters))
        if ask.path == "/v1/oauth2/token":
            await ask.work()
            return self._token(ask)
        limited = self._authorised(ask)
        if limited is None:
            return tables.failed(401, debug_id, [], [])
        if limited and ask.method != "GET":
            raise Refused("PERMISSION_DENIED")
        mocked = self._mocked(ask, debug_id)
        if mocked is not None:
            return mocked
        action, names = self._routed(ask)
        body = _body(ask)
        key = ask.headers.get("paypal-request-id")
        if key is None or ask.method != "POST" or ask.path.endswith("/void"):
            await ask.work()
            return self._shown(ask, *action(body | {"_key": key}, *names))
        return await self._once(ask, key, lambda: action(body | {"_key": key}, *names))

    async def _once(self, ask: Ask, key: str, act: Callable[[], tuple[int, Body | None]]) -> Answer:
        """A key that comes again brings what the first request made, in its present state."""
        if not 1 <= len(key) <= 108:
            raise Refused("INVALID_STRING_LENGTH")
        use, now = (ask.path, key), self._around.clock.wall()
        until, made = self._kept.get(use, (0.0, {}))
        if now < until:
            return self._shown(ask, 200, made)
        if use in self._running:
            raise Refused("PREVIOUS_REQUEST_IN_PROGRESS")
        self._running.add(use)
        try:
            await ask.work()
            status, made_now = act()
        finally:
            self._running.discard(use)
        if made_now is not None:
            self._kept[use] = (now + _WINDOWS["orders" if "/orders" in ask.path else "payments"], made_now)
        return self._shown(ask, status, made_now)

    def _shown(self, ask: Ask, status: int, made: Body | None) -> Answer:
        """All of it where that is preferred, or asked for."""
        if made is None:
            return Answer(204)
        if ask.method == "GET" or ask.headers.get("prefer") == "return=representation":
            return Answer(status, json.loads(json.dumps(made)))
        return Answer(status, {name: made[name] for name in ("id", "status", "links")})

    def _token(self, ask: Ask) -> Answer:
        scheme, _, pair = ask.headers.get("authorization", "").partition(" ")
        try:
            client, _, secret = base64.b64decode(pair, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            client = secret = ""
        if scheme.lower() != "basic" or not client or not secret or secret.endswith("wrong"):
            return Answer(401, {"error": "invalid_client", "error_description": "Client Authentication failed"})
        if ask.method != "POST" or ask.body != b"grant_type=client_credentials":
            return Answer(400, {"error": "unsupported_grant_type", "error_description": "unsupported grant_type"})
        token = self._around.id("A21AA", 60)
        self._tokens[token] = (self._around.clock.wall() + _LASTS, client.startswith("limited"))
        facts = {"app_id": "APP-80W284485P519543T", "scope": "https://uri.paypal.com/services/payments/payment"}
        return Answer(200, {"access_token": token, "token_type": "Bearer", "expires_in": _LASTS, **facts})

    def _authorised(self, ask: Ask) -> bool | None:
        """Whether the token's app may only read; None for a token that is none, or is over."""
        scheme, _, token = ask.headers.get("authorization", "").partition(" ")
        until, limited = self._tokens.get(token, (0.0, False))
        return limited if scheme.lower() == "bearer" and self._around.clock.wall() < until else None

    def _mocked(self, ask: Ask, debug_id: str) -> Answer | None:
        wanted = ask.headers.get("paypal-mock-response")
        if wanted is None or not ask.path.startswith("/v2/"):
            return None
        try:
            code = json.loads(wanted)["mock_application_codes"]
        except (ValueError, KeyError, TypeError):
            raise Refused("MALFORMED_REQUEST_JSON") from None
        by_name = {name: status for status, (name, _) in tables.NAMES.items()}
        if code in by_name:
            return tables.failed(by_name[code], debug_id, [], [])
        raise Refused(str(code))

    def _routed(self, ask: Ask) -> tuple[_Action, tuple[str, ...]]:
        for method, pattern, action in self._routes:
            match = re.fullmatch(pattern, ask.path)
            if match and method == ask.method:
                return action, match.groups()
        raise Refused("INVALID_RESOURCE_ID")

    # -- orders --------------------------------------------------------------------------------------------------------

    def _create(self, body: Body) -> tuple[int, Body]:
        tables.check_order(body)
        source = body.get("payment_source")
        if source is not None:
            tables.check_source(source, tables.now(self._around)[:7])
        order = tables.new_order(self._around, self._base, body)
        if source is not None and _charged(source):
            if body["_key"] is None:
                raise Refused("PAYPAL_REQUEST_ID_REQUIRED")
            self._orders[order["id"]] = order
            self._charge(order, source)
        elif source is not None:
            order["status"] = "PAYER_ACTION_REQUIRED"
            order["links"][1]["rel"] = "payer-action"
            order["payment_source"] = {next(iter(source)): {}}
        self._orders[order["id"]] = order
        return 201, order

    def _order(self, name: str) -> Body:
        if name not in self._orders:
            raise Refused("INVALID_RESOURCE_ID")
        return self._orders[name]

    def _approve(self, query: dict[str, str]) -> Answer:
        order = self._orders.get(query.get("token", ""))
        if order is None:
            return Answer(404, b"no such order")
        if order["status"] in ("CREATED", "PAYER_ACTION_REQUIRED"):
            order["status"] = "APPROVED"
            self._funding[order["id"]] = query.get("funding", "")
            self._emit("CHECKOUT.ORDER.APPROVED", "checkout-order", order)
        return Answer(200, b"approved")

    def _ready(self, order: Body, body: Body) -> Body:
        """The way to pay of an order that is to be charged now."""
        source: Body | None = body.get("payment_source")
        if source is not None:
            tables.check_source(source, tables.now(self._around)[:7])
            return source
        if order["status"] != "APPROVED":
            raise Refused("ORDER_NOT_APPROVED")
        if self._funding.get(order["id"]) == "declined":
            raise Refused("INSTRUMENT_DECLINED", link=f"{self._base}/checkoutnow?token={order['id']}")
        return {"paypal": {}}

    def _authorize(self, body: Body, name: str) -> tuple[int, Body]:
        order = self._order(name)
        if order["intent"] != "AUTHORIZE":
            raise Refused("ACTION_DOES_NOT_MATCH_INTENT")
        if _parts(order, "authorizations"):
            raise Refused("ORDER_ALREADY_AUTHORIZED")
        self._charge(order, self._ready(order, body))
        return 201, order

    def _capture(self, body: Body, name: str) -> tuple[int, Body]:
        order = self._order(name)
        if order["intent"] != "CAPTURE":
            raise Refused("ACTION_DOES_NOT_MATCH_INTENT")
        if any(one["status"] != "DECLINED" for one in _parts(order, "captures")):
            raise Refused("ORDER_ALREADY_CAPTURED")
        self._charge(order, self._ready(order, body))
        return 201, order

    def _charge(self, order: Body, source: Body) -> None:
        """Capture or authorise it, in each of its purchase units."""
        kind, chosen = next(iter(source.items()))
        response = tables.TRIGGERS.get(chosen.get("name", "")) if kind == "card" else None
        self._check_invoices(order)
        order["status"] = "COMPLETED"
        if kind == "card":
            order["payment_source"] = {"card": {"last_digits": chosen.get("number", "1111")[-4:], "brand": "VISA"}}
        else:
            order["payment_source"] = {kind: {}}
        captures = order["intent"] == "CAPTURE"
        for unit in order["purchase_units"]:
            part = tables.new_part(
                self._around, self._base, order, "captures" if captures else "authorizations", unit["amount"]
            )
            if kind == "card":
                part["processor_response"] = {"response_code": response or "0000", "avs_code": "G", "cvv_code": "P"}
            if response is not None:
                part["status"] = "DECLINED" if captures else "DENIED"
            unit.setdefault("payments", {}).setdefault("captures" if captures else "authorizations", []).append(part)
            self._parts[part["id"]] = (order, part)
            if captures:
                self._emit(f"PAYMENT.CAPTURE.{part['status']}", "capture", part)
            elif response is None:
                self._emit("PAYMENT.AUTHORIZATION.CREATED", "authorization", part)

    def _check_invoices(self, order: Body) -> None:
        names = {unit["invoice_id"] for unit in order["purchase_units"] if "invoice_id" in unit}
        if names & self._invoices:
            raise Refused("DUPLICATE_INVOICE_ID")
        self._invoices |= names

    # -- authorizations, captures and refunds --------------------------------------------------------------------------

    def _part(self, name: str) -> tuple[Body, Body]:
        if name not in self._parts:
            raise Refused("INVALID_RESOURCE_ID")
        return self._parts[name]

    def _take(self, body: Body, name: str) -> tuple[int, Body]:
        order, held = self._part(name)
        if held["status"] in ("VOIDED", "CAPTURED"):
            raise Refused("AUTHORIZATION_VOIDED" if held["status"] == "VOIDED" else "AUTHORIZATION_ALREADY_CAPTURED")
        most, currency = money(held["amount"], "/amount")
        amount, given = money(body["amount"], "/amount") if "amount" in body else (most, currency)
        if given != currency:
            raise Refused("AUTH_CAPTURE_CURRENCY_MISMATCH", "/amount/currency_code")
        payments = order["purchase_units"][0]["payments"]
        taken = payments.setdefault("captures", [])
        if sum((money(one["amount"], "")[0] for one in taken), amount) > most * Decimal("1.15"):
            raise Refused("MAX_CAPTURE_AMOUNT_EXCEEDED", "/amount")
        final = body.get("final_capture", False)
        part = tables.new_part(
            self._around, self._base, order, "captures", shown(amount, currency), authorization_id=name
        )
        part["final_capture"] = final
        taken.append(part)
        held["status"] = "CAPTURED" if final else "PARTIALLY_CAPTURED"
        self._parts[part["id"]] = (order, part)
        self._emit("PAYMENT.CAPTURE.COMPLETED", "capture", part)
        return 201, part

    def _void(self, body: Body, name: str) -> tuple[int, Body]:
        _order, held = self._part(name)
        if held["status"] in ("VOIDED", "CAPTURED"):
            raise Refused("PREVIOUSLY_VOIDED" if held["status"] == "VOIDED" else "PREVIOUSLY_CAPTURED")
        held["status"] = "VOIDED"
        self._emit("PAYMENT.AUTHORIZATION.VOIDED", "authorization", held)
        return 200, held

    def _refund(self, body: Body, name: str) -> tuple[int, Body]:
        order, capture = self._part(name)
        if capture["status"] not in ("COMPLETED", "PARTIALLY_REFUNDED", "REFUNDED"):
            raise Refused("REFUND_NOT_ALLOWED")
        if capture["status"] == "REFUNDED":
            raise Refused("CAPTURE_FULLY_REFUNDED")
        tables.check_texts(body, {"note_to_payer": 255, "custom_id": 127, "invoice_id": 127}, "")
        whole, currency = money(capture["amount"], "/amount")
        back = [one for one in self._refunds.values() if one["links"][1]["href"] == capture["links"][0]["href"]]
        left = whole - sum((money(one["amount"], "")[0] for one in back), Decimal(0))
        amount, given = money(body["amount"], "/amount") if "amount" in body else (left, currency)
        if given != currency:
            raise Refused("REFUND_CAPTURE_CURRENCY_MISMATCH", "/amount/currency_code")
        if amount > left:
            raise Refused("REFUND_AMOUNT_EXCEEDED", "/amount")
        refund = tables.new_refund(self._around, self._base, capture, shown(amount, currency), body)
        self._refunds[refund["id"]] = refund
        capture["status"] = "REFUNDED" if amount == left else "PARTIALLY_REFUNDED"
        order["purchase_units"][0]["payments"].setdefault("refunds", []).append(refund)
        self._emit("PAYMENT.CAPTURE.REFUNDED", "refund", refund)
        return 201, refund

    def _get_refund(self, body: Body, name: str) -> tuple[int, Body]:
        if name not in self._refunds:
            raise Refused("INVALID_RESOURCE_ID")
        return 200, self._refunds[name]

    # -- events --------------------------------------------------------------------------------------------------------

    def _emit(self, event: str, kind: str, resource: Body) -> None:
        name, body = self._event(event, kind, resource)
        self._around.emit(Emission(event, body, name))

    def _event(self, event: str, kind: str, resource: Body) -> tuple[str, bytes]:
        name = f"WH-{tables.new_id(self._around)}-{tables.new_id(self._around)}"
        told = {
            "id": name,
            "event_version": "1.0",
            "create_time": tables.now(self._around),
            "resource_type": kind,
            "resource_version": "2.0",
            "event_type": event,
            "summary": event.replace(".", " ").capitalize(),
            "resource": resource,
            "links": [],
        }
        return name, json.dumps(told).encode()


def _body(ask: Ask) -> Body:
    if ask.method == "GET" or not ask.body:
        return {}
    if ask.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Refused("MALFORMED_REQUEST_JSON")
    try:
        body = json.loads(ask.body)
    except ValueError:
        raise Refused("MALFORMED_REQUEST_JSON") from None
    if not isinstance(body, dict):
        raise Refused("MALFORMED_REQUEST_JSON")
    return body


def _charged(source: Body) -> bool:
    """Whether this way to pay needs nothing of the customer."""
    return "card" in source or "vault_id" in next(iter(source.values()))


def _parts(order: Body, kind: str) -> list[Body]:
    return [part for unit in order["purchase_units"] for part in unit.get("payments", {}).get(kind, [])]


STAND_IN = Registration(
    name="paypal",
    make=PayPalStandIn,
    secret="4JH86294D6297924G",
    events=(
        "CHECKOUT.ORDER.APPROVED",
        "PAYMENT.AUTHORIZATION.CREATED",
        "PAYMENT.AUTHORIZATION.VOIDED",
        "PAYMENT.CAPTURE.PENDING",
        "PAYMENT.CAPTURE.COMPLETED",
        "PAYMENT.CAPTURE.DECLINED",
        "PAYMENT.CAPTURE.REFUNDED",
    ),
)
