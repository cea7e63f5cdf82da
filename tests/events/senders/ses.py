"""SES through SNS, by the example of its card."""

from __future__ import annotations

import json

from tests.events.senders.sample import Handshake, Sample
from tests.events.senders.sns import CERTIFICATES, CONFIRMATION, OTHER_CERTIFICATES, OTHERS, OURS, SUBSCRIBE, changed

MESSAGE = {
    "eventType": "Bounce",
    "bounce": {"bounceType": "Permanent", "bouncedRecipients": [{"emailAddress": "ada@example.com"}]},
    "mail": {"messageId": "0100018f0a1b2c3d-aaaa-bbbb-000000", "tags": {"order": ["42"]}},
}

SAMPLE = Sample(
    service="ses",
    body=json.dumps(
        {
            "Type": "Notification",
            "MessageId": "5f2c2b9c-0000-5f1d-9b4e-77a35a2e4b11",
            "Message": json.dumps(MESSAGE),
            "UnsubscribeURL": "https://sns.us-east-1.amazonaws.com/?Action=Unsubscribe&SubscriptionArn=arn:x",
        }
    ).encode(),
    secret="arn:aws:sns:us-east-1:123456789012:ses",
    other="arn:aws:sns:us-east-1:210987654321:ses",
    key=OURS.private,
    other_key=OTHERS.private,
    certificates=CERTIFICATES,
    other_certificates=OTHER_CERTIFICATES,
    headers={"Content-Type": "text/plain; charset=UTF-8", "x-amz-sns-message-type": "Notification"},
    id="5f2c2b9c-0000-5f1d-9b4e-77a35a2e4b11",
    type="Bounce",
    timed=True,
    late=86_400.0 + 300,
    handshakes=(Handshake(answer=b"", body=CONFIRMATION, confirms=SUBSCRIBE),),
    changed=changed,
)
