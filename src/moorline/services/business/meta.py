"""Meta: what Facebook pages, Instagram, Messenger and WhatsApp tell us.

Facts: developers.facebook.com/docs/graph-api/webhooks/getting-started (verification requests, notifications,
X-Hub-Signature-256); the verification of pywa 4.5.0 (pywa/utils.py) says the same; there is no contract.
"""

from __future__ import annotations

from moorline.events.delivery import Delivers
from moorline.events.handshakes import QueryEcho
from moorline.events.schemes.hmac_signature import HMACSignature
from moorline.events.sender import Sender

__all__ = ["Meta"]


class Meta(Sender):
    """Webhooks of Meta's platform: Facebook pages, Instagram, Messenger, WhatsApp.

    Each ``entry`` of a delivery is an event; its type is the delivery's ``object`` (``page``, ``instagram``,
    ``whatsapp_business_account``), its action the ``field`` of the first change, or ``messaging``.
    ``META_VERIFY_TOKEN`` is the "Verify Token" of the app's dashboard; without it the address cannot be verified there.
    Facts: developers.facebook.com/docs/graph-api/webhooks/getting-started
    """

    name, category = "meta", "business"
    docs = "developers.facebook.com/docs/graph-api/webhooks/getting-started"
    webhooks = HMACSignature(
        header="X-Hub-Signature-256",  # X-Hub-Signature is the old one, with SHA-1: ignored
        prefix="sha256=",
        env="META_APP_SECRET",
        each="entry.*",  # known by digests: an entry's id is that of the account
        type="whole:object",
        action="changes.0.field|has:messaging",
        handshakes=(
            QueryEcho(
                echo="hub.challenge",
                token="hub.verify_token",  # noqa: S106 -- the name of a parameter
                where=(("hub.mode", "subscribe"),),
                env="META_VERIFY_TOKEN",
            ),
        ),
        delivers=Delivers(retries="at once, then ever less often for up to 36 hours (unconfirmed)"),
    )
