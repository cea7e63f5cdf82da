"""Clerk: what it tells us of users, sessions and organizations.

Facts: services/auth/clerk.md; contract: clerk.json. The variable: @clerk/backend 2.29 (webhooks), clerk.com/docs.
"""

from __future__ import annotations

from moorline.events.delivery import Delivers
from moorline.events.schemes.standard_webhooks import StandardWebhooks
from moorline.events.sender import Sender

__all__ = ["Clerk"]


class Clerk(Sender):
    """Users by Clerk: its webhooks, which Svix delivers.

    They are neither ordered nor immediate: not for the sign-up flow. Facts: services/auth/clerk.md; contract:
    clerk.json.
    """

    name, category = "clerk", "auth"
    docs = "services/auth/clerk.md, clerk.json"
    webhooks = StandardWebhooks(
        prefix="svix-",
        aliases=("webhook-",),  # Clerk's SDKs take these too
        env="CLERK_WEBHOOK_SIGNING_SECRET",
        id="header:svix-id",
        type="type",
        typed=True,
        delivers=Delivers(
            within=15, retries="after 5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 10 h; switched off after 5 days of failures"
        ),
    )
