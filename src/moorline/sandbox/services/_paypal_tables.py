"""PayPal's errors, currencies and magic card holders, and what its stand-in checks of a body.

Facts: services/payments/paypal.md and paypal.json; the triggers are those of
developer.paypal.com/tools/sandbox/card-testing (2023), the currencies those of PayPal's currency reference.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from moorline.sandbox.standin import Answer, Surroundings

Body = dict[str, Any]

NAMES = {
    400: ("INVALID_REQUEST", "Request is not well-formed, syntactically incorrect, or violates schema."),
    401: (
        "AUTHENTICATION_FAILURE",
        "Authentication failed due to missing authorization header, or invalid authentication credentials.",
    ),
    403: ("NOT_AUTHORIZED", "Authorization failed due to insufficient permissions."),
    404: ("RESOURCE_NOT_FOUND", "The specified resource does not exist."),
    409: ("RESOURCE_CONFLICT", "The server has detected a conflict while processing this request."),
    422: (
        "UNPROCESSABLE_ENTITY",
        "The requested action could not be performed, semantically incorrect, or failed business validation.",
    ),
    429: ("RATE_LIMIT_REACHED", "Too many requests. Blocked due to rate limiting."),
    500: ("INTERNAL_SERVER_ERROR", "An internal server error occurred."),
    503: ("SERVICE_UNAVAILABLE", "Service Unavailable."),
}
# Issues that are not answered with a 422.
_STATUSES = {
    **dict.fromkeys(
        (
            "INVALID_ARRAY_MAX_ITEMS",
            "INVALID_ARRAY_MIN_ITEMS",
            "INVALID_PARAMETER_SYNTAX",
            "INVALID_PARAMETER_VALUE",
            "INVALID_STRING_LENGTH",
            "MALFORMED_REQUEST_JSON",
            "MISSING_REQUIRED_PARAMETER",
            "PAYPAL_REQUEST_ID_REQUIRED",
        ),
        400,
    ),
    "PERMISSION_DENIED": 403,
    "INVALID_RESOURCE_ID": 404,
    "PREVIOUS_REQUEST_IN_PROGRESS": 409,
}
# What PayPal says of some, where it says the same everywhere; for the others the name has to do.
_WORDS = {
    "AUTHORIZATION_ALREADY_CAPTURED": "Authorization has previously been captured.",
    "CAPTURE_FULLY_REFUNDED": "The capture has already been fully refunded",
    "CARD_EXPIRED": "The card is expired",
    "INVALID_PARAMETER_SYNTAX": "The value of a field does not conform to the expected format.",
    "INVALID_PARAMETER_VALUE": "A parameter value is not valid.",
    "MALFORMED_REQUEST_JSON": "The request JSON is not well formed.",
    "REDIRECT_PAYER_FOR_ALTERNATE_FUNDING": "Transaction failed. Redirect the payer to select another funding source.",
    "REFUND_CAPTURE_CURRENCY_MISMATCH": "Refund must be in the same currency as the capture",
    "REFUND_NOT_ALLOWED": "Capture cannot be refunded.",
    "TRANSACTION_LIMIT_EXCEEDED": "Total payment amount exceeded transaction limit.",
}

# The card holder's name, in test mode -> what the processor says.
TRIGGERS = {
    "CCREJECT-REFUSED": "0500",
    "CCREJECT-SF": "9500",
    "CCREJECT-EC": "5400",
    "CCREJECT-IRC": "5180",
    "CCREJECT-IF": "5120",
    "CCREJECT-LS": "9520",
    "CCREJECT-IA": "1330",
    "CCREJECT-BANK_ERROR": "5100",
    "CCREJECT-CVV_F": "00N7",
}
_WHOLE = frozenset({"HUF", "JPY", "TWD"})
_CURRENCIES = _WHOLE | frozenset(
    re.findall("...", "AUDBRLCADCNYCZKDKKEURHKDILSMYRMXNNZDNOKPHPPLNGBPRUBSGDSEKCHFTHBUSD")
)
_VALUE = re.compile(r"-?[0-9]+|-?[0-9]*\.[0-9]+")
_UNIT_TEXTS = {"reference_id": 256, "custom_id": 127, "invoice_id": 127, "description": 127, "soft_descriptor": 22}
_UNIT_FIELDS = (*_UNIT_TEXTS, "amount", "items", "shipping")


class Refused(Exception):
    """An error answer in the making: *issue* is PayPal's, *field* the JSON pointer of what is wrong."""

    def __init__(self, issue: str, field: str | None = None, *, link: str | None = None) -> None:
        super().__init__(issue)
        self.issue, self.field, self.link = issue, field, link

    def answer(self, debug_id: str) -> Answer:
        """PayPal's answer."""
        detail: Body = {"issue": self.issue}
        if self.issue in _WORDS:
            detail["description"] = _WORDS[self.issue]
        if self.field is not None:
            detail |= {"field": self.field, "location": "body"}
        links = [{"href": self.link, "rel": "redirect", "method": "GET"}] if self.link else []
        return failed(_STATUSES.get(self.issue, 422), debug_id, [detail], links)


def failed(status: int, debug_id: str, details: list[Body], links: list[Body]) -> Answer:
    """An error in PayPal's shape."""
    name, message = NAMES.get(status, ("ERROR", "An error occurred."))
    body: Body = {"name": name, "message": message, "debug_id": debug_id, "links": links}
    if details:
        body["details"] = details
    return Answer(status, body)


def check_texts(given: Body, limits: dict[str, int], where: str) -> None:
    """Raises Refused for a text that is none, or too long."""
    for name, limit in limits.items():
        value = given.get(name)
        if value is not None and not isinstance(value, str):
            raise Refused("INVALID_PARAMETER_SYNTAX", f"{where}/{name}")
        if value is not None and not 1 <= len(value) <= limit:
            raise Refused("INVALID_STRING_LENGTH", f"{where}/{name}")


def money(given: Any, where: str) -> tuple[Decimal, str]:
    """An amount and its currency. Raises Refused."""
    if not isinstance(given, dict):
        raise Refused("MISSING_REQUIRED_PARAMETER", where)
    for name in ("currency_code", "value"):
        if name not in given:
            raise Refused("MISSING_REQUIRED_PARAMETER", f"{where}/{name}")
    value, currency = given["value"], given["currency_code"]
    if not isinstance(value, str) or not isinstance(currency, str) or not _VALUE.fullmatch(value) or len(value) > 32:
        raise Refused("INVALID_PARAMETER_SYNTAX", f"{where}/value")
    if currency not in _CURRENCIES:
        raise Refused("INVALID_CURRENCY_CODE", f"{where}/currency_code")
    number, decimals = Decimal(value), len(value.partition(".")[2])
    if currency in _WHOLE and decimals:
        raise Refused("DECIMALS_NOT_SUPPORTED", f"{where}/value")
    if decimals > 2:
        raise Refused("DECIMAL_PRECISION", f"{where}/value")
    if number <= 0:
        raise Refused("CANNOT_BE_ZERO_OR_NEGATIVE", f"{where}/value")
    return number, currency


def shown(number: Decimal, currency: str) -> Body:
    """An amount as PayPal writes it."""
    return {"currency_code": currency, "value": f"{number:.0f}" if currency in _WHOLE else f"{number:.2f}"}


def check_order(body: Body) -> None:
    """What has to be right of a new order. Raises Refused."""
    if body.get("intent") not in ("CAPTURE", "AUTHORIZE"):
        raise Refused("INVALID_PARAMETER_VALUE" if "intent" in body else "MISSING_REQUIRED_PARAMETER", "/intent")
    units = body.get("purchase_units")
    if not isinstance(units, list):
        raise Refused("MISSING_REQUIRED_PARAMETER", "/purchase_units")
    if not 1 <= len(units) <= 10:
        raise Refused("INVALID_ARRAY_MIN_ITEMS" if not units else "INVALID_ARRAY_MAX_ITEMS", "/purchase_units")
    currencies = set()
    for index, unit in enumerate(units):
        where = f"/purchase_units/{index}"
        if not isinstance(unit, dict):
            raise Refused("INVALID_PARAMETER_SYNTAX", where)
        check_texts(unit, _UNIT_TEXTS, where)
        currencies.add(money(unit.get("amount"), f"{where}/amount")[1])
    if len(currencies) > 1:
        raise Refused("MULTI_CURRENCY_ORDER")


def check_source(source: Any, month: str) -> None:
    """A way to pay; *month* is the present one. Raises Refused."""
    if not isinstance(source, dict) or len(source) != 1 or not isinstance(next(iter(source.values())), dict):
        raise Refused("INVALID_PARAMETER_SYNTAX", "/payment_source")
    card = source.get("card")
    if card is None or "vault_id" in card:
        return
    for name, pattern in (("number", r"[0-9]{13,19}"), ("expiry", r"[0-9]{4}-(0[1-9]|1[0-2])")):
        if name not in card:
            raise Refused("MISSING_REQUIRED_PARAMETER", f"/payment_source/card/{name}")
        if not isinstance(card[name], str) or not re.fullmatch(pattern, card[name]):
            raise Refused("INVALID_PARAMETER_SYNTAX", f"/payment_source/card/{name}")
    if card["expiry"] < month:
        raise Refused("CARD_EXPIRED", "/payment_source/card/expiry")


def new_id(around: Surroundings) -> str:
    """An id in PayPal's manner."""
    return around.id("", 17).upper()


def now(around: Surroundings) -> str:
    """The time as PayPal writes it."""
    return datetime.fromtimestamp(around.now(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def new_order(around: Surroundings, base: str, body: Body) -> Body:
    """An order of a checked body that nobody has approved."""
    name = new_id(around)
    url = f"{base}/v2/checkout/orders/{name}"
    verb = "capture" if body["intent"] == "CAPTURE" else "authorize"
    units = [
        {"reference_id": "default", **{field: unit[field] for field in _UNIT_FIELDS if field in unit}}
        for unit in body["purchase_units"]
    ]
    return {
        "id": name,
        "intent": body["intent"],
        "status": "CREATED",
        "purchase_units": units,
        "create_time": now(around),
        "links": [
            {"href": url, "rel": "self", "method": "GET"},
            {"href": f"{base}/checkoutnow?token={name}", "rel": "approve", "method": "GET"},
            {"href": f"{url}/{verb}", "rel": verb, "method": "POST"},
        ],
    }


def new_part(around: Surroundings, base: str, order: Body, kind: str, amount: Body, **related: str) -> Body:
    """A capture or an authorization (*kind* is the plural) of an order, which went well."""
    name = new_id(around)
    unit = order["purchase_units"][0]
    part: Body = {
        "id": name,
        "status": "COMPLETED" if kind == "captures" else "CREATED",
        "amount": {field: amount[field] for field in ("currency_code", "value")},
        **{field: unit[field] for field in ("custom_id", "invoice_id") if field in unit},
        "supplementary_data": {"related_ids": {"order_id": order["id"], **related}},
        "create_time": now(around),
        "links": [{"href": f"{base}/v2/payments/{kind}/{name}", "rel": "self", "method": "GET"}],
    }
    return part | {"final_capture": True} if kind == "captures" else part


def new_refund(around: Surroundings, base: str, capture: Body, amount: Body, body: Body) -> Body:
    """A refund of a capture, to which the link named ``up`` leads."""
    name = new_id(around)
    return {
        "id": name,
        "status": "COMPLETED",
        "amount": amount,
        **{field: body[field] for field in ("note_to_payer", "custom_id", "invoice_id") if field in body},
        "create_time": now(around),
        "links": [
            {"href": f"{base}/v2/payments/refunds/{name}", "rel": "self", "method": "GET"},
            {**capture["links"][0], "rel": "up"},
        ],
    }
