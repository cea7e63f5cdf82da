"""Zoom: what it tells us of meetings, webinars, recordings and users.

Facts: zoom/webhook-sample, index.js and README.md (signature, validation, a body), developers.zoom.us/docs/api/webhooks
and developers.zoom.us/blog/webhook-delays (answers, retries); there is no contract.
"""

from __future__ import annotations

from moorline.events.delivery import Delivers
from moorline.events.handshakes import BodyEcho
from moorline.events.schemes.hmac_signature import HMACSignature
from moorline.events.sender import Sender

__all__ = ["Zoom"]


class Zoom(Sender):
    """Webhooks of Zoom. Events have no id: they are known by a digest, and each holds its own ``event_ts``.

    Facts: developers.zoom.us/docs/api/webhooks, developers.zoom.us/blog/webhook-delays
    """

    name, category = "zoom", "business"
    docs = "developers.zoom.us/docs/api/webhooks, developers.zoom.us/blog/webhook-delays"
    webhooks = HMACSignature(
        header="x-zm-signature",
        signed="v0:{timestamp}:{body}",
        prefix="v0=",
        timestamp="header:x-zm-request-timestamp",  # seconds, in every recorded delivery that was seen
        env="ZOOM_WEBHOOK_SECRET_TOKEN",
        type="event",
        handshakes=(  # when the address is entered, and every 72 hours
            BodyEcho(
                field="event", value="endpoint.url_validation", echo="payload.plainToken", digest="encryptedToken"
            ),
        ),
        delivers=Delivers(within=3, retries="3 times: after 5, 20 and 60 minutes more"),
    )
