"""Resend: what it tells us of messages.

Facts: services/email/resend.md; contract: resend.json.
"""

from __future__ import annotations

from moorline.events.delivery import Delivers
from moorline.events.schemes.standard_webhooks import StandardWebhooks
from moorline.events.sender import Sender

__all__ = ["Resend"]


class Resend(Sender):
    """E-mail by Resend: its webhooks, which Svix delivers.

    Facts: services/email/resend.md; contract: resend.json.
    """

    name, category = "resend", "email"
    docs = "services/email/resend.md, resend.json"
    webhooks = StandardWebhooks(
        prefix="svix-",
        env="RESEND_WEBHOOK_SECRET",
        id="header:svix-id",  # the same in each try; the body has none
        type="type",
        delivers=Delivers(
            within=15, retries="after 5 s, 5 min, 30 min, 2, 5, 10 and 10 h; what keeps failing is switched off"
        ),
    )
