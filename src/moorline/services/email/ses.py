"""Amazon SES: what it tells us of messages, through a topic of Amazon SNS.

Facts: services/email/ses.md; contract: none, it is botocore's model of sesv2.
"""

from __future__ import annotations

from moorline.events.sender import Sender
from moorline.services.topics import topic

__all__ = ["SES"]


class SES(Sender):
    """E-mail by Amazon SES: its notifications and event publishing, delivered by SNS.

    The event's type is SES's (``Bounce``, ``Complaint``, ``Delivery``, ``Open``, …); what is no JSON of SES's, such as
    the first message to a new topic, has SNS's (``Notification``). Its content is the text in ``Message``.
    Facts: services/email/ses.md, services/sms/sns.md.
    """

    name, category = "ses", "email"
    docs = "services/email/ses.md, services/sms/sns.md"
    webhooks = topic(env="SES_TOPIC_ARN", type=("Message.eventType", "Message.notificationType", "Type"))
