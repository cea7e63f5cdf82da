"""Microsoft Graph: change notifications of mail, calendars, files, users and Teams.

Facts: learn.microsoft.com/graph/change-notifications-delivery-webhooks (how they come, clientState, validationToken,
answers, retries), learn.microsoft.com/graph/api/resources/changenotification (fields), both read in
microsoftgraph/microsoft-graph-docs-contrib; there is no contract.
"""

from __future__ import annotations

from moorline.events.delivery import Delivers
from moorline.events.handshakes import QueryEcho
from moorline.events.schemes.secret_in_body import SecretInBody
from moorline.events.sender import Sender

__all__ = ["MicrosoftGraph"]


class MicrosoftGraph(Sender):
    """Microsoft Graph: change and lifecycle notifications, believed for their ``clientState``.

    Give each subscription the secret as its ``clientState`` (255 characters at most), and this address also as its
    ``lifecycleNotificationUrl``. A type is ``created``, ``updated``, ``deleted``, or the lifecycle's
    ``reauthorizationRequired``, ``subscriptionRemoved``, ``missed``. Notifications with resource data come encrypted,
    and with ``validationTokens``: neither is looked into here.
    Facts: learn.microsoft.com/graph/change-notifications-delivery-webhooks,
    learn.microsoft.com/graph/api/resources/changenotification
    """

    name, category = "microsoft_graph", "business"
    docs = (
        "learn.microsoft.com/graph/change-notifications-delivery-webhooks, "
        "learn.microsoft.com/graph/api/resources/changenotification"
    )
    webhooks = SecretInBody(
        field="clientState",
        env="MICROSOFT_GRAPH_CLIENT_STATE",
        each="value.*",
        # The notification's own id is optional, and that a retry repeats it is unconfirmed. Without any of the last
        # three a second change looks as the first one did: handled twice is better than not at all.
        id=(
            "subscriptionId",
            "resourceData.id",
            "changeType|lifecycleEvent",
            "id|resourceData.sequenceNumber|resourceData.@odata\\.etag",
        ),
        lacking="new",
        type=("lifecycleEvent", "changeType"),
        handshakes=(QueryEcho(echo="validationToken", methods=("POST",)),),
        delivers=Delivers(within=3, retries="with growing gaps for up to 4 hours"),  # newer text: within 10 s
    )
