"""Zendesk: what it tells us of tickets, users and organizations.

Facts: services/business/zendesk.md.
"""

from __future__ import annotations

from moorline.events.delivery import Delivers
from moorline.events.schemes.hmac_signature import HMACSignature
from moorline.events.sender import Sender

__all__ = ["Zendesk"]


class Zendesk(Sender):
    """Tickets by Zendesk: webhooks of event subscriptions, and of triggers and automations with a body of your own.

    An event subscription's id is its account and its own; a trigger's body, which you write, has none that could be
    known as such (``id`` is often the ticket's): equal bodies are one event if they were signed within the same minute.
    Choose POST, PUT or PATCH: of a GET or DELETE nothing but the time is signed. The test that Zendesk sends before a
    webhook is created is signed with a published secret, and refused.
    Facts: services/business/zendesk.md.
    """

    name, category = "zendesk", "business"
    docs = "services/business/zendesk.md"
    webhooks = HMACSignature(
        header="X-Zendesk-Webhook-Signature",
        signed="{timestamp}{body}",
        timestamp="header:X-Zendesk-Webhook-Signature-Timestamp",
        clock="iso8601",
        encoding="base64",
        env="ZENDESK_WEBHOOK_SECRET",
        published=("dGhpc19zZWNyZXRfaXNfZm9yX3Rlc3Rpbmdfb25seQ==",),
        id=("account_id", "id"),
        templated=True,
        lacking="digest",
        type="type",
        forms=True,  # triggers may be told to send one
        typed=False,
        repeats_after=60,
        methods=("POST", "PUT", "PATCH"),
        # 10 to 12 s by the card. No tolerance is documented: 5 minutes is ours. That the invocation id in the headers
        # stays the same over retries is unconfirmed, and it is not signed.
        delivers=Delivers(within=10, retries="409, timeouts, and 429 or 503 with Retry-After under 60 s"),
    )
