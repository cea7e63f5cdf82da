"""Microsoft Graph: a notification as its page shows it."""

from __future__ import annotations

import dataclasses

from tests.events.senders.sample import Handshake, Sample, Signed


def _changed(signed: Signed) -> Signed:
    """With a bit of the secret changed: nothing else is proved."""
    return dataclasses.replace(signed, body=signed.body.replace(b"a client state", b"a client stat\x64", 1))


SAMPLE = Sample(
    service="microsoft_graph",
    body=b'{"value":[{"id":"lsgTZMr9KwAAA","subscriptionId":"7f105c7d-2dc5-4530-97cd-4e7ae6534c07",'
    b'"subscriptionExpirationDateTime":"2026-09-30T22:11:09.952Z","changeType":"created",'
    b'"resource":"users/1/messages/AAMk","tenantId":"84bd8158-6d4d-4958-8b9f-9d6445542f95",'
    b'"resourceData":{"@odata.type":"#Microsoft.Graph.Message","@odata.etag":"W/\\"CQAA\\"","id":"AAMk"}}]}',
    secret="a client state",
    other="another client state",
    id="7f105c7d-2dc5-4530-97cd-4e7ae6534c07:AAMk:created:lsgTZMr9KwAAA",
    type="created",
    timed=False,
    changed=_changed,
    handshakes=(
        Handshake(query="validationToken=Validation%3A%20Testing%20%C3%A9", answer="Validation: Testing é".encode()),
    ),
)
