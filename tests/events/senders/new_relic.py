"""New Relic, by the template that our docs recommend."""

from __future__ import annotations

from tests.events.senders.sample import Sample, with_a_wrong_secret

SAMPLE = Sample(
    service="new_relic",
    body=b'{"id":"d1b1f3fd-995a-4066-88ab-8ce4f6960654","state":"ACTIVATED","updatedAt":1790000000000,'
    b'"title":"Memory Used"}',
    secret="user:password of the destination",
    other="user:another",
    signature="Authorization",
    id="d1b1f3fd-995a-4066-88ab-8ce4f6960654:ACTIVATED:1790000000000",
    type="ACTIVATED",
    timed=False,
    changed=with_a_wrong_secret,
)
