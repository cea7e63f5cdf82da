"""How Amazon SNS signs what it delivers, which is the same for every service that publishes to its topics.

Facts: services/sms/sns.md, services/email/ses.md, which name aws/aws-js-sns-message-validator (npm ``sns-validator``
0.3.5) and the Amazon SNS developer guide.
"""

from __future__ import annotations

import re
from typing import Any, Final

from moorline.events.certificates import Issuer
from moorline.events.delivery import Delivers
from moorline.events.handshakes import BodyConfirm
from moorline.events.schemes.certified_fields import CertifiedFields

__all__ = ["topic"]

_HOST: Final = re.compile(r"sns\.[a-z0-9-]{3,}\.amazonaws\.com(?:\.cn)?")
_FILE: Final = re.compile(r"/SimpleNotificationService-[A-Za-z0-9]+\.pem")
_NOTIFICATION: Final = ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type")
_WITH_TOKEN: Final = ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type")
# The guide lists Token for both confirmations, Amazon's validator leaves it out of the second: unconfirmed which.
_WITHOUT: Final = tuple(name for name in _WITH_TOKEN if name != "Token")
_DAY: Final = 86_400.0


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
