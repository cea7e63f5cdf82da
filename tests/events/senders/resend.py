"""Resend, by the example of its card."""

from __future__ import annotations

from tests.events.senders.sample import Sample

SAMPLE = Sample(
    service="resend",
    body=b'{"type":"email.complained","created_at":"2026-11-20T10:00:00.000Z","data":{"email_id":'
    b'"49a3999c-0ce1-4ea6-ab68-afcd6dc2e794","to":["ada@example.com"],"subject":"Receipt","tags":{"order":"42"}}}',
    secret="whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    other="whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
    signature="svix-signature",
    id="msg_1",
    type="email.complained",
    timed=True,
)
