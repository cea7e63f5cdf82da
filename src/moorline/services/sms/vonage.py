"""Vonage: what its Messages API tells us.

Facts: services/sms/vonage.md; contract: vonage.json; vonage-jwt 1.1 (verify_jwt).
"""

from __future__ import annotations

from moorline.events.delivery import Delivers
from moorline.events.schemes.signed_jwt import SignedJWT
from moorline.events.sender import Sender

__all__ = ["Vonage"]


class Vonage(Sender):
    """Messages by Vonage: status and inbound webhooks of the Messages API.

    Several accounts may send here: list all their signature secrets; which one it was is the event's ``secret``. The
    digest of the body in the token, whose check Vonage calls optional, must be there and right.
    Facts: services/sms/vonage.md; contract: vonage.json.
    """

    name, category = "vonage", "sms"
    docs = "services/sms/vonage.md, vonage.json"
    webhooks = SignedJWT(
        env="VONAGE_SIGNATURE_SECRET",
        id=("status", "message_uuid"),
        type=("status", "=received"),  # an inbound message has no status
        # After errors of its own it delivers without a signature, and signs when it comes again. That the window is
        # ours, and which claims beside iat it sets, is unconfirmed.
        unsigned=503,
        delivers=Delivers(retries="429 and 5xx only: after 5 s, doubling up to 15 min, for 24 h"),
    )
