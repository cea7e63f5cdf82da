"""HubSpot: what it tells us of contacts, companies, deals and tickets.

Facts: services/business/hubspot.md; contract: hubspot.json.
"""

from __future__ import annotations

from typing import Final

from moorline.events.delivery import Delivers
from moorline.events.schemes.hash_signature import HashSignature
from moorline.events.schemes.hmac_signature import HMACSignature
from moorline.events.schemes.newest_of import NewestOf, Version
from moorline.events.sender import Sender

__all__ = ["HubSpot"]

_VARIABLE: Final = "HUBSPOT_CLIENT_SECRET"
_OLD: Final = "X-HubSpot-Signature"
_MARKER: Final = "X-HubSpot-Signature-Version"
_UNESCAPED: Final = ":/?@!$'()*,;"  # exactly these; no live example with one of them was seen: unconfirmed

_V3: Final = HMACSignature(
    header="X-HubSpot-Signature-v3",
    signed="{method}{url}{body}{timestamp}",
    unescaped=_UNESCAPED,
    encoding="base64",
    timestamp="header:X-HubSpot-Request-Timestamp",
    clock="milliseconds",
    env=_VARIABLE,
)
_V2: Final = HashSignature(header=_OLD, signed="{method}{url}{body}", env=_VARIABLE)
_V1: Final = HashSignature(header=_OLD, env=_VARIABLE)


class HubSpot(Sender):
    """CRM by HubSpot: its webhooks, signed in version 3, 2 or 1.

    Where a signature of version 3 is there it decides, whatever the others say; 2 and 1 hold no time, and count where 3
    was left out, by HubSpot or by who replays a delivery (a duplicate, while its key is kept). Whose deliveries all
    have it takes nothing else by ``app.source(name, dataclasses.replace(HubSpot.webhooks, newest_only=True))``. The
    address is signed as HubSpot calls it: behind a proxy set ``webhooks.public_url``. Workflows may also ask by GET:
    not taken.
    Facts: services/business/hubspot.md; contract: hubspot.json.
    """

    name, category = "hubspot", "business"
    docs = "services/business/hubspot.md, hubspot.json"
    webhooks = NewestOf(
        versions=(Version(_V3), Version(_V2, (_MARKER, "v2")), Version(_V1, (_MARKER, "v1"))),
        env=_VARIABLE,
        each="*",
        # eventId alone is not promised to be unique; attemptNumber differs in each retry.
        id=("subscriptionId", "eventId", "objectId", "occurredAt"),
        type="subscriptionType",
        typed=False,  # what a workflow sends is one object, with neither id nor type
        delivers=Delivers(  # both unconfirmed; an older text says 2 s
            within=5, retries="up to 10 times in 24 h, but not after 400, 401, 403, 404 or 405"
        ),
    )
