"""Square: what it tells us of payments and refunds.

Facts: services/payments/square.md; contract: square.json.
"""

from __future__ import annotations

from moorline.events.delivery import Delivers
from moorline.events.schemes.hmac_signature import HMACSignature
from moorline.events.sender import Sender

__all__ = ["Square"]


class Square(Sender):
    """Payments by Square: its webhooks.

    The notification URL is signed, exactly as it was registered: behind a proxy set ``webhooks.public_url``.
    Facts: services/payments/square.md; contract: square.json.
    """

    name, category = "square", "payments"
    docs = "services/payments/square.md, square.json"
    webhooks = HMACSignature(
        header="x-square-hmacsha256-signature",  # x-square-signature is the old one, with SHA-1: ignored
        signed="{url}{body}",
        encoding="base64",
        env="SQUARE_WEBHOOK_SIGNATURE_KEY",
        id="event_id",
        type="type",
        delivers=Delivers(within=10, retries="for 24 h (an older page says 72 h)"),
    )
