"""Vonage's SMS API: a delivery receipt as a form, with the fields of its card."""

from __future__ import annotations

from tests.events.senders.sample import Sample

SAMPLE = Sample(
    service="vonage_sms",
    body=b"msisdn=447700900000&to=AcmeInc&network-code=12345&messageId=0A0000001234567B&price=0.03330000&"
    b"status=delivered&scts=2001011400&err-code=0&api-key=abcd1234&client-ref=a%26b%3Dc",
    secret="sha256:the signature secret",
    other="sha512:another",
    id="delivered:0A0000001234567B",
    type="delivered",
    timed=True,
)
