"""Amazon SNS: what comes from its topics: inbound text messages, reports on push endpoints, and whatever one publishes.

Facts: services/sms/sns.md, services/push/sns.md; contract: none, it is botocore's model of sns.
"""

from __future__ import annotations

from moorline.events.sender import Sender
from moorline.services.topics import topic

__all__ = ["SNS"]


class SNS(Sender):
    """Topics of Amazon SNS: their webhooks.

    The event's content is the text in ``Message``. Facts: services/sms/sns.md, services/push/sns.md.
    """

    name, category = "sns", "sms"
    docs = "services/sms/sns.md, services/push/sns.md"
    # Unconfirmed: that reports on push endpoints name their kind in EventType. Inbound text messages name none.
    webhooks = topic(env="SNS_TOPIC_ARN", type=("Message.EventType", "Type"))
