"""SNS, by the example of the Amazon SNS developer guide."""

from __future__ import annotations

import dataclasses
import json

from tests.events.keys import certified
from tests.events.senders.sample import Handshake, Sample, Signed

URL = "https://sns.us-east-1.amazonaws.com/SimpleNotificationService-00000000000000000000000000000000.pem"
OURS, OTHERS = certified("sns.amazonaws.com"), certified("sns.example.com")
CERTIFICATES, OTHER_CERTIFICATES = {URL: OURS.certificate}, {URL: OTHERS.certificate}
SUBSCRIBE = "https://sns.us-east-1.amazonaws.com/?Action=ConfirmSubscription&TopicArn=arn:x&Token=233"
CONFIRMATION = json.dumps(
    {
        "Type": "SubscriptionConfirmation",
        "MessageId": "3d891288-136d-417f-bc05-901c108273ee",
        "Token": "233",
        "Message": "You have chosen to subscribe to the topic.\nTo confirm, visit the SubscribeURL.",
        "SubscribeURL": SUBSCRIBE,
    }
).encode()


def changed(signed: Signed) -> Signed:
    """Another letter in the message."""
    found = json.loads(signed.body)
    found["Message"] = "X" + found["Message"][1:]
    return dataclasses.replace(signed, body=json.dumps(found).encode())


SAMPLE = Sample(
    service="sns",
    body=json.dumps(
        {
            "Type": "Notification",
            "MessageId": "4d4dc071-ddbf-465d-bba8-08f81c89da64",
            "Subject": "My subject",
            "Message": "My Test Message\nwith a line break, \u2665 and \\",
            "UnsubscribeURL": "https://sns.us-east-1.amazonaws.com/?Action=Unsubscribe&SubscriptionArn=arn:x",
        }
    ).encode(),
    secret="arn:aws:sns:us-east-1:123456789012:news",
    other="arn:aws:sns:us-east-1:210987654321:news",
    key=OURS.private,
    other_key=OTHERS.private,
    certificates=CERTIFICATES,
    other_certificates=OTHER_CERTIFICATES,
    headers={"Content-Type": "text/plain; charset=UTF-8", "x-amz-sns-message-type": "Notification"},
    id="4d4dc071-ddbf-465d-bba8-08f81c89da64",
    type="Notification",
    timed=True,
    late=86_400.0 + 300,
    handshakes=(Handshake(answer=b"", body=CONFIRMATION, confirms=SUBSCRIBE),),
    changed=changed,
)
