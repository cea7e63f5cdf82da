"""PayPal: what it tells us of orders, payments and refunds.

Facts: services/payments/paypal.md; contract: paypal.json.
"""

from __future__ import annotations

import re

from moorline.calls.dialects import hours
from moorline.events.certificates import Issuer
from moorline.events.delivery import Delivers
from moorline.events.schemes.certified_checksum import CertifiedChecksum
from moorline.events.sender import Sender

__all__ = ["PayPal"]

_CERTIFICATES = Issuer(
    host=re.compile(r"(?:[a-z0-9-]+\.)+paypal\.com"),
    # The two that the card finds in certificates' addresses: whoever else speaks for a host of PayPal's is not asked.
    asked=re.compile(r"api(?:\.sandbox)?\.paypal\.com"),
    # The paths that paypal/PayPal-Ruby-SDK's tests and public deliveries show; the card names the hosts alone.
    path=re.compile(r"/v1/notifications/certs/[A-Za-z0-9_-]+"),
)
_DAYS = 3


class PayPal(Sender):
    """Payments by PayPal: its webhooks.

    The secret is the id of the webhook in PayPal's dashboard. The simulator's is ``WEBHOOK_ID`` for everybody: accept
    it nowhere but in tests.
    Facts: services/payments/paypal.md; contract: paypal.json.
    """

    name, category = "paypal", "payments"
    docs = "services/payments/paypal.md, paypal.json"
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
