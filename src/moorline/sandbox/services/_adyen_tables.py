"""Adyen's fields, refusals, errors and notifications, for its stand-in.

Facts: services/payments/adyen.md; the fields are those of adyen.json. The refusals, their holder names and the messages
of errors are those of docs.adyen.com (refusal-reasons, result-codes, error-codes) and of Adyen's own packages.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any

from moorline.sandbox.standin import Surroundings

_BOTH = """accountInfo additionalAmount additionalData amount applicationInfo authenticationData billingAddress
captureDelayHours channel company countryCode dateOfBirth deliverAt deliveryAddress enableOneClick enablePayOut
enableRecurring fundOrigin fundRecipient lineItems mandate mcc merchantAccount merchantOrderReference metadata mpiData
platformChargebackLogic recurringExpiry recurringFrequency recurringProcessingModel redirectFromIssuerMethod
redirectToIssuerMethod reference returnUrl riskData shopperEmail shopperIP shopperInteraction shopperLocale shopperName
shopperReference shopperStatement socialSecurityNumber splits store storePaymentMethod telephoneNumber
threeDS2RequestData threeDSAuthenticationOnly trustedShopper """
_PAYMENT = """bankAccount browserInfo checkoutAttemptId dccQuote deliveryDate deviceFingerprint enhancedSchemeData
entityType fraudOffset industryUsage installments localizedShopperStatement merchantRiskIndicator order orderReference
origin paymentMethod paymentValidations sessionValidity shopperConversionId shopperTaxInfo subMerchants surcharge"""
_SESSION = """allowedPaymentMethods blockedPaymentMethods expiresAt installmentOptions mode showInstallmentAmount
showRemovePaymentMethodButton splitCardFundingSources storeFiltrationMode storePaymentMethodMode themeId"""
_METHODS = """additionalData allowedPaymentMethods amount blockedPaymentMethods channel countryCode order
shopperReference shopperLocale splitCardFundingSources store"""
_MODIFICATION = "applicationInfo merchantAccount reference "

# The name of each kind of request, as error 702 spells it, and its fields.
FIELDS: dict[str, frozenset[str]] = {
    "PaymentRequest": frozenset((_BOTH + _PAYMENT).split()),
    "CreateCheckoutSessionRequest": frozenset((_BOTH + _SESSION).split()),
    "PaymentDetailsRequest": frozenset({"authenticationData", "details", "paymentData", "threeDSAuthenticationOnly"}),
    "PaymentMethodsRequest": frozenset((_MODIFICATION + _METHODS).split()) - {"applicationInfo", "reference"},
    "PaymentCaptureRequest": frozenset(
        (_MODIFICATION + "amount enhancedSchemeData lineItems platformChargebackLogic splits subMerchants").split()
    ),
    "PaymentRefundRequest": frozenset(
        (
            _MODIFICATION + "amount capturePspReference enhancedSchemeData lineItems merchantRefundReason splits store"
        ).split()
    ),
    "PaymentCancelRequest": frozenset(_MODIFICATION.split()),
    "PaymentReversalRequest": frozenset(_MODIFICATION.split()),
    "StandalonePaymentCancelRequest": frozenset((_MODIFICATION + "paymentReference").split()),
}
REASONS = ("FRAUD", "CUSTOMER REQUEST", "RETURN", "DUPLICATE", "OTHER", None)

# refusalReasonCode -> (holder name that leads to it, refusalReason)
REFUSALS: dict[str, tuple[str, str]] = {
    "0": ("UNKNOWN", "Unknown"),
    "2": ("DECLINED", "Refused"),
    "3": ("REFERRAL", "Referral"),
    "4": ("ERROR", "Acquirer Error"),
    "5": ("BLOCK_CARD", "Blocked Card"),
    "6": ("CARD_EXPIRED", "Expired Card"),
    "7": ("INVALID_AMOUNT", "Invalid Amount"),
    "8": ("INVALID_CARD_NUMBER", "Invalid Card Number"),
    "9": ("ISSUER_UNAVAILABLE", "Issuer Unavailable"),
    "10": ("NOT_SUPPORTED", "Not supported"),
    "11": ("NOT_3D_AUTHENTICATED", "3D Not Authenticated"),
    "12": ("NOT_ENOUGH_BALANCE", "Not enough balance"),
    "14": ("ACQUIRER_FRAUD", "Acquirer Fraud"),
    "15": ("CANCELLED", "Cancelled"),
    "16": ("SHOPPER_CANCELLED", "Shopper Cancelled"),
    # By number only: their holder names are in no source of ours.
    "20": ("", "FRAUD"),
    "22": ("", "FRAUD-CANCELLED"),
    "23": ("", "Transaction Not Permitted"),
    "24": ("", "CVC Declined"),
    "25": ("", "Restricted Card"),
    "26": ("", "Revocation Of Auth"),
    "27": ("", "Declined Non Generic"),
    "28": ("", "Withdrawal amount exceeded"),
    "29": ("", "Withdrawal count exceeded"),
    "31": ("", "Issuer Suspected Fraud"),
    "32": ("", "AVS Declined"),
    "38": ("", "Authentication required"),
}
ERRORS = frozenset({"0", "4"})  # with resultCode Error; all others Refused
BY_HOLDER = {holder: code for code, (holder, _) in REFUSALS.items() if holder}
PENDING = "13"  # holder name PENDING: Received, and the result comes by webhook
_KINDS: dict[str, type] = {
    "additionalData": dict,
    "authenticationData": dict,
    "captureDelayHours": int,
    "metadata": dict,
    "reference": str,
    "returnUrl": str,
    "shopperReference": str,
    "shopperEmail": str,
}
_LIMITS = {"reference": 80, "returnUrl": 1024, "shopperReference": 256, "shopperEmail": 256}


class Refused(Exception):
    """An error answer in the making. ``kept``: an idempotency key keeps it as the result of the request."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        kind: str = "validation",
        *,
        transient: bool = False,
        kept: bool = False,
    ) -> None:
        super().__init__(message)
        self.body: dict[str, Any] = {"status": status, "errorCode": code, "message": message, "errorType": kind}
        self.headers = {"transient-error": "true"} if transient else {}
        self.kept = kept


def invalid(code: str, message: str) -> Refused:
    """What validation refuses."""
    return Refused(422, code, message)


def check_fields(kind: str, body: dict[str, Any]) -> None:
    """Raises Refused for a field that the request does not have, or none that is needed."""
    unknown = [name for name in body if name not in FIELDS[kind]]
    if unknown:
        raise Refused(400, "702", f"Structure of {kind} contains the following unknown fields: [{', '.join(unknown)}]")
    if "merchantAccount" in FIELDS[kind]:
        account = body.get("merchantAccount")
        if not isinstance(account, str) or not account or account.startswith("Wrong"):
            raise Refused(403, "901", "Invalid Merchant Account", "security")
    for name in _KINDS.keys() & body.keys():
        if not isinstance(body[name], _KINDS[name]) or isinstance(body[name], bool):
            raise Refused(400, "702", f"Field '{name}' is not valid")
    for name in ("additionalData", "metadata"):
        if not all(isinstance(value, str) for value in body.get(name, {}).values()):
            raise Refused(400, "702", f"Field '{name}' is not valid")
    if not isinstance(body.get("authenticationData", {}).get("threeDSRequestData", {}), dict):
        raise Refused(400, "702", "Field 'threeDSRequestData' is not valid")
    if "metadata" in body:
        _check_metadata(body["metadata"])
    for name, most in _LIMITS.items():  # the code is the sandbox's own guess
        if len(body.get(name, "")) > most:
            raise invalid("702", f"Field '{name}' is longer than {most} characters")


def check_amount(body: dict[str, Any], least: int) -> None:
    """Raises Refused for an amount that is none."""
    amount = body.get("amount")
    if not isinstance(amount, dict):
        raise invalid("100", "Required object 'amount' is not provided.")
    value, currency = amount.get("value"), amount.get("currency")
    if set(amount) - {"value", "currency"} or not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise invalid("137", "Invalid amount specified")
    if not isinstance(currency, str) or not re.fullmatch("[A-Z]{3}", currency):
        raise invalid("138", "Unsupported currency specified")


def check_order(body: dict[str, Any]) -> None:
    """Raises Refused for what payments and sessions both need."""
    check_amount(body, 0)
    if not body.get("reference"):
        raise invalid("130", "Reference Missing")
    if not body.get("returnUrl"):
        raise invalid("14_030", "Return URL is missing.")


def _check_metadata(metadata: dict[str, str]) -> None:
    if len(metadata) > 20:
        raise invalid("177", "Metadata size exceeds limit")
    if any(len(name) > 20 for name in metadata):
        raise invalid("178", "Metadata key size exceeds limit")
    if any(len(value) > 80 for value in metadata.values()):
        raise invalid("179", "Metadata value size exceeds limit")  # the code is the sandbox's own guess


def refusal_of(body: dict[str, Any]) -> str | None:
    """The refusal that a test payment asks for, or that its card comes to; None for none."""
    asked = body.get("additionalData", {}).get("RequestedTestAcquirerResponseCode")
    if asked is not None:
        return str(asked) if str(asked) in REFUSALS or str(asked) == PENDING else None
    method = body["paymentMethod"]
    holder = str(method.get("holderName", "")).partition(":")[0].strip()
    if holder == "PENDING":
        return PENDING
    if holder in BY_HOLDER:
        return BY_HOLDER[holder]
    given = [_plain(method, name) for name in ("ExpiryMonth", "ExpiryYear", "SecurityCode")]
    if "storedPaymentMethodId" not in method and (given[:2] != ["03", "2030"] or given[2] not in ("737", "")):
        return "2"  # a wrong expiry or security code is declined like that
    return None


def check_method(body: dict[str, Any]) -> str:
    """The type of a payment method. Raises Refused for none, and for a card that is none."""
    method = body.get("paymentMethod")
    if not isinstance(method, dict) or not isinstance(method.get("type", "scheme"), str) or not method:
        raise invalid("14_004", "Missing payment method details")
    kind: str = method.get("type", "scheme")
    if kind in ("scheme", "card") and "storedPaymentMethodId" not in method:
        number = _plain(method, "CardNumber")
        if not re.fullmatch(r"\d{12,19}", number) or not _luhn(number):
            raise invalid("101", "Invalid card number")
    elif kind in ("scheme", "card") and not body.get("shopperReference"):
        raise invalid("14_004", "Missing payment method details: a stored card needs its shopperReference")
    return kind


def _plain(method: dict[str, Any], name: str) -> str:
    """A field of a card, as it stands or ``encrypted`` with the prefix of the test platform."""
    bare = {"CardNumber": "number", "SecurityCode": "cvc"}.get(name, name[0].lower() + name[1:])
    if bare in method:
        return str(method[bare])
    sealed = str(method.get(f"encrypted{name}", ""))
    if sealed and not sealed.startswith("test_"):
        raise invalid("174", "Unable to decrypt data")
    return sealed.removeprefix("test_")


def _luhn(number: str) -> bool:
    doubled = [int(digit) * (1 + index % 2) for index, digit in enumerate(reversed(number))]
    return sum(value - 9 if value > 9 else value for value in doubled) % 10 == 0


def reference(around: Surroundings) -> str:
    """A new ``pspReference``."""
    return around.id("", 16).upper()


def moment(around: Surroundings, ahead: int = 0) -> str:
    """A time as Adyen writes it."""
    return datetime.fromtimestamp(around.now() + ahead, UTC).isoformat(timespec="seconds")


def notification(around: Surroundings, code: str, payment: dict[str, Any], **fields: Any) -> tuple[str, bytes]:
    """The id and the body of a notification of one item about *payment*, not signed yet."""
    item: dict[str, Any] = {
        "additionalData": {},
        "amount": payment["amount"],
        "eventCode": code,
        "eventDate": moment(around),
        "merchantAccountCode": payment["merchantAccount"],
        "merchantReference": payment["reference"],
        "paymentMethod": payment["method"],
        "pspReference": payment["pspReference"],
        "reason": "",
        "success": "true",
        **fields,
    }
    body = {"live": "false", "notificationItems": [{"NotificationRequestItem": item}]}
    return f"{code}:{item['success']}:{item['pspReference']}", json.dumps(body, indent=2, ensure_ascii=False).encode()
