"""Stripe's parameters, currencies, magic payment methods and objects, for its stand-in.

Facts: services/payments/stripe.md; the parameter names are those of stripe.json.
"""

from __future__ import annotations

import re

from moorline.sandbox.parameters import Form, Kind
from moorline.sandbox.standin import Surroundings

CURRENCIES = frozenset(
    # every code is three letters, so one text is the shortest honest list
    re.findall(
        "...",
        "aedafnallamdarsaudbambbdbdtbgnbhdbifbobbrlbwpcadchfclpcnycopcrcczkdjfdkkdopdzdegpeurgbpgelghsgnfgtqhkdhnlhufidrilsinr"
        "iskjmdjodjpykeskmfkrwkwdkztlkrmadmdlmgamkdmmkmxnmyrngnnoknzdomrpabpenphpplnpkrpygqarronrsdrubrwfsarseksgdthbtndtrytwd"
        "tzsuahugxusduyuuzsvndvuvxafxofxpfzar",
    )
)

MOST = 10**12 - 1  # of cards, which are all that is paid with here (docs.stripe.com/currencies)
# Of these the API counts smaller units than it takes (docs.stripe.com/currencies): amounts are multiples of this.
STEPS = {**dict.fromkeys(("isk", "ugx"), 100), **dict.fromkeys(("bhd", "jod", "kwd", "omr", "tnd"), 10)}

# magic payment method -> (code, decline code, message)
DECLINES: dict[str, tuple[str, str | None, str]] = {
    "pm_card_visa_chargeDeclined": ("card_declined", "generic_decline", "Your card was declined."),
    "pm_card_visa_chargeDeclinedInsufficientFunds": (
        "card_declined",
        "insufficient_funds",
        "Your card has insufficient funds.",
    ),
    "pm_card_visa_chargeDeclinedLostCard": ("card_declined", "lost_card", "Your card was declined."),
    "pm_card_visa_chargeDeclinedStolenCard": ("card_declined", "stolen_card", "Your card was declined."),
    "pm_card_chargeDeclinedExpiredCard": ("expired_card", None, "Your card has expired."),
    "pm_card_chargeDeclinedIncorrectCvc": ("incorrect_cvc", None, "Your card's security code is incorrect."),
    "pm_card_chargeDeclinedProcessingError": (
        "processing_error",
        None,
        "An error occurred while processing your card.",
    ),
}
NEEDS_ACTION = frozenset({"pm_card_authenticationRequired", "pm_card_threeDSecure2Required"})
GOOD_METHOD = re.compile(r"pm_(card_(visa|visa_debit|mastercard|amex|discover|jcb|unionpay|us|gb)|1[A-Za-z0-9]{8,})")

# number of a test card -> the magic payment method that ends as it does
CARDS = {
    "4242424242424242": "pm_card_visa",
    "4000000000000002": "pm_card_visa_chargeDeclined",
    "4000000000009995": "pm_card_visa_chargeDeclinedInsufficientFunds",
    "4000002760003184": "pm_card_authenticationRequired",
}

_REASONS = ("duplicate", "fraudulent", "requested_by_customer")
CONFIRM: dict[str, Kind] = {
    "capture_method": ("automatic", "automatic_async", "manual"),
    "client_secret": "text",
    "error_on_requires_action": "bool",
    "expand": "list",
    "mandate": "text",
    "mandate_data": "any",
    "off_session": "any",
    "payment_method": "text",
    "payment_method_data": "hash",
    "payment_method_options": "hash",
    "payment_method_types": "list",
    "radar_options": "hash",
    "receipt_email": "text",
    "return_url": "text",
    "setup_future_usage": ("off_session", "on_session", ""),
    "shipping": "any",
    "use_stripe_sdk": "bool",
}
CREATE: dict[str, Kind] = {
    **{name: kind for name, kind in CONFIRM.items() if name != "client_secret"},
    "amount": "int",
    "application_fee_amount": "int",
    "automatic_payment_methods": "hash",
    "confirm": "bool",
    "confirmation_method": ("automatic", "manual"),
    "currency": "text",
    "customer": "text",
    "description": "text",
    "metadata": "hash",
    "on_behalf_of": "text",
    "statement_descriptor": "text",
    "statement_descriptor_suffix": "text",
    "transfer_data": "hash",
    "transfer_group": "text",
}
CAPTURE: dict[str, Kind] = {
    "amount_to_capture": "int",
    "application_fee_amount": "int",
    "expand": "list",
    "metadata": "any",
    "statement_descriptor": "text",
    "statement_descriptor_suffix": "text",
    "transfer_data": "hash",
}
CANCEL: dict[str, Kind] = {"cancellation_reason": ("abandoned", *_REASONS), "expand": "list"}
REFUND: dict[str, Kind] = {
    "amount": "int",
    "charge": "text",
    "currency": "text",
    "customer": "text",
    "expand": "list",
    "instructions_email": "text",
    "metadata": "any",
    "origin": ("customer_balance",),
    "payment_intent": "text",
    "reason": _REASONS,
    "refund_application_fee": "bool",
    "reverse_transfer": "bool",
}
PAGE: dict[str, Kind] = {
    "created": "any",
    "customer": "text",
    "ending_before": "text",
    "expand": "list",
    "limit": "int",
    "payment_intent": "text",
    "starting_after": "text",
}
ONE: dict[str, Kind] = {"client_secret": "text", "expand": "list"}
AUTOMATIC: dict[str, Kind] = {"enabled": "bool", "allow_redirects": ("always", "never")}


def new_intent(around: Surroundings, form: Form) -> Form:
    """A payment intent of checked parameters, not yet confirmed."""
    name = around.id("pi_3")
    return {
        "id": name,
        "object": "payment_intent",
        "amount": form["amount"],
        "amount_capturable": 0,
        "amount_details": {"tip": {}},
        "amount_received": 0,
        "application": None,
        "application_fee_amount": form.get("application_fee_amount"),
        "automatic_payment_methods": form.get("automatic_payment_methods"),
        "canceled_at": None,
        "cancellation_reason": None,
        "capture_method": form.get("capture_method", "automatic"),
        "client_secret": f"{name}_secret_{around.id('', 25)}",
        "confirmation_method": form.get("confirmation_method", "automatic"),
        "created": around.now(),
        "currency": form["currency"],
        "customer": form.get("customer"),
        "description": form.get("description"),
        "last_payment_error": None,
        "latest_charge": None,
        "livemode": False,
        "metadata": form.get("metadata", {}),
        "next_action": None,
        "payment_method": form.get("payment_method"),
        "payment_method_options": {},
        "payment_method_types": form.get("payment_method_types", ["card"]),
        "processing": None,
        "receipt_email": form.get("receipt_email"),
        "statement_descriptor": form.get("statement_descriptor"),
        "statement_descriptor_suffix": form.get("statement_descriptor_suffix"),
        "status": "requires_payment_method" if form.get("payment_method") is None else "requires_confirmation",
    }


def new_charge(around: Surroundings, intent: Form, *, paid: bool) -> Form:
    """The charge of one try to pay an intent; nothing captured yet."""
    return {
        "id": around.id("ch_3"),
        "object": "charge",
        "amount": intent["amount"],
        "amount_captured": 0,
        "amount_refunded": 0,
        "captured": False,
        "created": around.now(),
        "currency": intent["currency"],
        "livemode": False,
        "metadata": dict(intent["metadata"]),
        "paid": paid,
        "payment_intent": intent["id"],
        "refunded": False,
        "status": "succeeded" if paid else "failed",
    }


def new_refund(around: Surroundings, charge: Form, amount: int, form: Form) -> Form:
    """A refund that succeeded at once, as in test mode."""
    return {
        "id": around.id("re_3"),
        "object": "refund",
        "amount": amount,
        "balance_transaction": around.id("txn_3"),
        "charge": charge["id"],
        "created": around.now(),
        "currency": charge["currency"],
        "metadata": form["metadata"] if isinstance(form.get("metadata"), dict) else {},
        "payment_intent": charge["payment_intent"],
        "reason": form.get("reason"),
        "receipt_number": None,
        "source_transfer_reversal": None,
        "status": "succeeded",
        "transfer_reversal": None,
    }
