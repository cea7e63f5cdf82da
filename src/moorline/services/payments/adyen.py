"""Adyen: what it tells us of payments, and of what else it has webhooks for.

Facts: services/payments/adyen.md; contract: adyen.json.
"""

from __future__ import annotations

from moorline.events.delivery import Delivers, Reply
from moorline.events.schemes.hmac_signature import HMACSignature
from moorline.events.schemes.signed_items import SignedItems
from moorline.events.sender import Sender

__all__ = ["Adyen"]

_ENV = "ADYEN_HMAC_KEY"
_RETRIES = "after 9, 18 and 27 s, then with growing gaps for up to 30 days, in order: one that fails holds up the rest"


class Adyen(Sender):
    """Payments by Adyen: its standard notifications as JSON (no forms, no SOAP), and its other webhooks.

    Adyen signs eight fields of a notification, and not its date, reason, payment method or ``additionalData``.
    Facts: services/payments/adyen.md; contract: adyen.json.
    """

    name, category = "adyen", "payments"
    docs = "services/payments/adyen.md, adyen.json"
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
