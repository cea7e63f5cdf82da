"""Mailgun, by the example of its card."""

from __future__ import annotations

import dataclasses

from tests.events.senders.sample import Sample, Signed


def changed(signed: Signed) -> Signed:
    """Another letter in the token: nothing else is signed."""
    return dataclasses.replace(signed, body=signed.body.replace(b"e0b5477167", b"f0b5477167"))


SAMPLE = Sample(
    service="mailgun",
    body=b'{"signature":{"token":"e0b5477167110d68991efc6b9f89f0a11066af27834600e123"},"event-data":{"event":"failed",'
    b'"severity":"permanent","reason":"bounce","id":"G9Bn5sl1TC6nu79C8C0bwg","timestamp":1790000000.12,'
    b'"recipient":"ada@example.com","tags":["receipt"],"user-variables":{"order":"42"}}}',
    secret="a signing key",
    other="another signing key",
    headers={"Content-Type": "application/json"},
    id="G9Bn5sl1TC6nu79C8C0bwg",
    type="failed",
    action="permanent",
    timed=True,
    changed=changed,
)
