"""SendGrid, by the example of its card: events of two kinds in one delivery, which ends in a line break."""

from __future__ import annotations

from tests.events.keys import elliptic
from tests.events.senders.sample import Sample

OURS, OTHERS = elliptic("ours"), elliptic("theirs")
BODY = (
    b'[{"email":"ada@example.com","timestamp":1790000000,"smtp-id":"<x@ismtpd>","event":"bounce","type":"bounce",'
    b'"status":"5.1.1","reason":"550 5.1.1 unknown user \xe2\x99\xa5","category":["receipt"],"sg_event_id":"Ym91bmNl",'
    b'"sg_message_id":"14c5d75ce93.dfd.64b469.filter0001","order":"42"},\r\n'
    b'{"email":"bob@example.com","timestamp":1790000001,"event":"delivered","sg_event_id":"ZGVsaXZlcmVk"}]\r\n'
)

SAMPLE = Sample(
    service="sendgrid",
    body=BODY,
    secret=OURS.short,
    other=OTHERS.public,
    key=OURS.private,
    other_key=OTHERS.private,
    headers={"Content-Type": "application/json"},
    signature="X-Twilio-Email-Event-Webhook-Signature",
    id="sha256:e97fb44c728f6b00c6aa4782e8a5c3b9e85224f08426dd03f7b1f59fc7ad044e",
    type="batch",
    events=2,
    timed=True,
)
