"""HubSpot: a delivery, with the fields of its card."""

from __future__ import annotations

from tests.events.senders.sample import Sample

SAMPLE = Sample(
    service="hubspot",
    body=b'[{"eventId":100,"subscriptionId":20,"portalId":62515,"appId":54321,"occurredAt":1790000000123,'
    b'"subscriptionType":"contact.creation","attemptNumber":0,"objectId":123,"changeSource":"CRM"}]',
    secret="a client secret",
    other="another client secret",
    signature="X-HubSpot-Signature-v3",
    id="20:100:123:1790000000123",
    type="contact.creation",
    timed=True,
    url="https://shop.example/webhooks/hubspot?a=1&b=%3A",
)
