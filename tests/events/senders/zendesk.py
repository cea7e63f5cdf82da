"""Zendesk: an event subscription, with the fields of its card."""

from __future__ import annotations

from tests.events.senders.sample import Sample

SAMPLE = Sample(
    service="zendesk",
    body=b'{"type":"zen:event-type:user.active_changed","account_id":12514403,"id":"2b24ef10-19d3-4740-93cf-8f98ec4776c0",'
    b'"time":"2026-11-20T10:00:00Z","zendesk_event_version":"2022-06-20","subject":"zen:user:1","event":{"current":true}}',
    secret="TmV2ZXIgZ29ubmEgZ2l2ZSB5b3UgdXA=",
    other="bmV2ZXIgZ29ubmEgbGV0IHlvdSBkb3du",
    signature="X-Zendesk-Webhook-Signature",
    headers={"X-Zendesk-Webhook-Invocation-Id": "01GX"},
    id="12514403:2b24ef10-19d3-4740-93cf-8f98ec4776c0",
    type="zen:event-type:user.active_changed",
    timed=True,
)
