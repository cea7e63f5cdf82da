"""Mailgun: what it tells us of messages.

Facts: services/email/mailgun.md; contract: mailgun.json.
"""

from __future__ import annotations

from moorline.calls.dialects import hours
from moorline.events.delivery import Delivers
from moorline.events.schemes.signed_token import SignedToken
from moorline.events.sender import Sender

__all__ = ["Mailgun"]


class Mailgun(Sender):
    """E-mail by Mailgun: its webhooks. Routes, which post whole messages as forms, are not taken.

    Mailgun signs a token and the time, and not the event: whoever can read your webhooks on their way can change them.
    Facts: services/email/mailgun.md; contract: mailgun.json.
    """

    name, category = "mailgun", "email"
    docs = "services/email/mailgun.md, mailgun.json"
    webhooks = SignedToken(
        within="signature",
        also=("parent-signature",),  # of a subaccount's events, by the primary account's key
        # Unconfirmed: that a delivery which is tried again has a new token and time. Mailgun's own package, which
        # refuses what is older than 15 min, relies on it.
        once="signature.token",
        once_for=hours(12),  # its tries take 8 h; its ids are unique in a day
        env="MAILGUN_WEBHOOK_SIGNING_KEY",
        id="event-data.id",  # unique in a day, not for ever (unconfirmed)
        type="event-data.event",
        action="event-data.severity",
        delivers=Delivers(retries="after 5, 10, 15 min, 1, 2 and 4 h (an older page: 10, 10, 15, 30 min, 1, 2, 4 h)"),
    )
