"""Datadog, by the template that our docs recommend."""

from __future__ import annotations

from tests.events.senders.sample import Sample, with_a_wrong_secret

SAMPLE = Sample(
    service="datadog",
    body=b'{"id":"7812233445566778899","date":"1790000000000","event_type":"query_alert_monitor",'
    b'"transition":"Triggered","title":"[Triggered] load"}',
    secret="the secret of the header",
    other="another one",
    signature="Authorization",
    id="7812233445566778899:1790000000000",
    type="query_alert_monitor",
    action="Triggered",
    timed=False,
    changed=with_a_wrong_secret,
)
