"""Vonage: a status of the Messages API, with the fields of its card."""

from __future__ import annotations

from tests.events.senders.sample import Sample

SAMPLE = Sample(
    service="vonage",
    body=b'{"message_uuid":"d8f86df1-dec6-442f-870a-2241be27d721","to":"447700900000","from":"447700900001",'
    b'"timestamp":"2026-11-20T10:00:00Z","status":"delivered","channel":"sms","client_ref":"order-1"}',
    secret="the signature secret of one account",
    other="the signature secret of another",
    signature="Authorization",
    id="delivered:d8f86df1-dec6-442f-870a-2241be27d721",
    type="delivered",
    timed=True,
)
