"""SNS's reports on push endpoints, in the form in which applications in the field read them."""

from __future__ import annotations

import json

from tests.events.senders.sample import Handshake, Sample
from tests.events.senders.sns import CERTIFICATES, CONFIRMATION, OTHER_CERTIFICATES, OTHERS, OURS, SUBSCRIBE, changed

MESSAGE = {
    "EventType": "DeliveryFailure",
    "EndpointArn": "arn:aws:sns:us-east-1:123456789012:endpoint/GCM/shop/0e3b4b2c-0000-3f1d-9b4e-77a35a2e4b11",
    "FailureType": "InvalidPlatformToken",
}

SAMPLE = Sample(
    service="sns_push",
    body=json.dumps(
        {
            "Type": "Notification",
            "MessageId": "7a1c2b9c-0000-5f1d-9b4e-77a35a2e4b11",
            "Message": json.dumps(MESSAGE),
            "UnsubscribeURL": "https://sns.us-east-1.amazonaws.com/?Action=Unsubscribe&SubscriptionArn=arn:x",
        }
    ).encode(),
    secret="arn:aws:sns:us-east-1:123456789012:push",
    other="arn:aws:sns:us-east-1:210987654321:push",
    key=OURS.private,
    other_key=OTHERS.private,
    certificates=CERTIFICATES,
    other_certificates=OTHER_CERTIFICATES,
    headers={"Content-Type": "text/plain; charset=UTF-8", "x-amz-sns-message-type": "Notification"},
    id="7a1c2b9c-0000-5f1d-9b4e-77a35a2e4b11",
    type="DeliveryFailure",
    timed=True,
    late=86_400.0 + 300,
    handshakes=(Handshake(answer=b"", body=CONFIRMATION, confirms=SUBSCRIBE),),
    changed=changed,
)
