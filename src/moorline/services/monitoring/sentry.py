"""Sentry: what its integration platform tells us of issues, alerts and installations.

Facts: services/monitoring/sentry.md; contract: sentry.schema.json.
"""

from __future__ import annotations

from typing import ClassVar

from moorline.events.delivery import Delivers
from moorline.events.scheme import Scheme
from moorline.events.schemes.hmac_signature import HMACSignature
from moorline.events.sender import Sender

__all__ = ["Sentry"]


class Sentry(Sender):
    """Errors by Sentry: the webhooks of an integration.

    Neither the id nor the time is signed, so an event is known by its content, and what Sentry says again word for word
    is counted as a duplicate. The legacy WebHooks plug-in is unsigned. ``requests`` is the scheme of the requests of an
    integration's user interface, which want an answer of their own: ``verify(Sentry.requests, …)`` in a route of yours.
    Facts: services/monitoring/sentry.md; contract: sentry.schema.json.
    """

    name, category = "sentry", "monitoring"
    docs = "services/monitoring/sentry.md, sentry.schema.json"
    webhooks = HMACSignature(
        header="Sentry-Hook-Signature",
        env="SENTRY_CLIENT_SECRET",
        id="header:Request-ID",
        type="header:Sentry-Hook-Resource",
        action="action",
        delivers=Delivers(within=1, retries="few (unconfirmed); 1000 timeouts within 24 h switch it off"),
    )
    requests: ClassVar[Scheme] = HMACSignature(
        header="Sentry-App-Signature",  # a GET signs the empty text
        env="SENTRY_CLIENT_SECRET",
        typed=False,
    )
