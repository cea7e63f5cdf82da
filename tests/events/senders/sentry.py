"""Sentry, with the headers of its card."""

from __future__ import annotations

from tests.events.senders.sample import Sample

SAMPLE = Sample(
    service="sentry",
    body=b'{"action":"resolved","installation":{"uuid":"a8e5d37a-696c-4c54-adb5-b3f28d64c7de"},'
    b'"data":{"issue":{"id":"1170820242"}},"actor":{"type":"user","id":1,"name":"\xe2\x99\xa5"}}',
    secret="the client secret",
    other="another client secret",
    headers={"Request-ID": "4a3d", "Sentry-Hook-Resource": "issue", "Sentry-Hook-Timestamp": "1790000000"},
    signature="Sentry-Hook-Signature",
    id="4a3d",
    type="issue",
    action="resolved",
    timed=False,
)
