"""Topics of Amazon SNS: how it signs what they deliver, which is the same for every service that publishes to them, and
what a message to one is made of.

Facts: services/sms/sns.md, services/email/ses.md, which name aws/aws-js-sns-message-validator (npm ``sns-validator``
0.3.5) and the Amazon SNS developer guide.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from moorline.events.certificates import Issuer
from moorline.events.delivery import Delivers
from moorline.events.handshakes import BodyConfirm
from moorline.events.schemes.certified_fields import CertifiedFields
from moorline.services.answers import record

if TYPE_CHECKING:
    from moorline.events.event import Event

__all__ = ["content", "is_topic", "message_attributes", "topic"]

_HOST: Final = re.compile(r"sns\.[a-z0-9-]{3,}\.amazonaws\.com(?:\.cn)?")
_FILE: Final = re.compile(r"/SimpleNotificationService-[A-Za-z0-9]+\.pem")
_NOTIFICATION: Final = ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type")
_WITH_TOKEN: Final = ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type")
# The guide lists Token for both confirmations, Amazon's validator leaves it out of the second: unconfirmed which.
_WITHOUT: Final = tuple(name for name in _WITH_TOKEN if name != "Token")
_DAY: Final = 86_400.0
_TOPIC: Final = re.compile(r"arn:aws[a-z-]*:sns:[a-z0-9-]+:[0-9]{12}:[A-Za-z0-9_-]{1,256}(?:\.fifo)?")


def topic(*, env: str, type: tuple[str, ...], **more: Any) -> CertifiedFields:
    """The scheme of what comes from topics; *type* and *more* are the publisher's.

    The secrets are the accepted TopicArns, ``arn:aws:sns:us-east-1:123456789012:*`` for all of an account's. Raw
    delivery is not signed, and refused. Require SHA-256 by ``dataclasses.replace(scheme, versions=("2",))``.
    """
    return CertifiedFields(
        signed={
            "Notification": (_NOTIFICATION,),
            "SubscriptionConfirmation": (_WITH_TOKEN,),
            "UnsubscribeConfirmation": (_WITH_TOKEN, _WITHOUT),
        },
        optional=("Subject",),
        owner="TopicArn",
        bounded=re.compile(r"arn:aws[a-z-]*:sns:[a-z0-9-]+:\d{12}:"),
        issuer=Issuer(_HOST, _FILE),
        named="https://sns.us-east-1.amazonaws.com/SimpleNotificationService-00000000000000000000000000000000.pem",
        # The time is that of publishing. Tries end after 3600 s, and a throttled topic's begin later: a day is allowed,
        # since a refusal is final to SNS, and a replay of what is signed is a duplicate.
        resent=_DAY,
        handshakes=(BodyConfirm(field="Type", value="SubscriptionConfirmation", at="SubscribeURL", host=_HOST),),
        refuse={"header:x-amz-sns-rawdelivery": "true"},
        env=env,
        id="MessageId",
        type=type,
        delivers=Delivers(within=15, retries="3 times, 20 s apart, or by the topic's policy; not after a 4xx"),
        **more,
    )


def is_topic(arn: str) -> bool:
    """Whether it is the ARN of a topic."""
    return _TOPIC.fullmatch(arn) is not None


def message_attributes(
    texts: Mapping[str, str], numbers: Mapping[str, str] | None = None
) -> dict[str, dict[str, str]] | None:
    """The attributes of a message, each with its type; None for none."""
    found = {name: {"DataType": "String", "StringValue": value} for name, value in texts.items()}
    found |= {name: {"DataType": "Number", "StringValue": value} for name, value in (numbers or {}).items()}
    return found or None


def content(event: Event) -> Mapping[str, Any] | None:
    """The JSON object that stands in the message of a notification; None where it is something else."""
    message = record(event.payload, "the event").get("Message")
    try:
        found = json.loads(message) if isinstance(message, str) else None
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
