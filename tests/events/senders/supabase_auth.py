"""Supabase Auth: the hook before a user is created, and a secret as its dashboard shows it."""

from __future__ import annotations

from tests.events.senders.sample import Sample

SAMPLE = Sample(
    service="supabase_auth",
    body=b'{"metadata":{"uuid":"8b6d0a2e-3c1f-4a54-9f0e-5d8f8f4c2b11","time":"2026-11-20T10:00:00Z",'
    b'"name":"before-user-created","ip_address":"127.0.0.1"},"user":{"id":"ff7fc9ae-3b1b-4642-9241-64adb9848a03"}}',
    secret="v1,whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    other="v1,whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7o",
    signature="webhook-signature",
    id="msg_1",
    type="before-user-created",
    timed=True,
    answer=b"{}",
)
