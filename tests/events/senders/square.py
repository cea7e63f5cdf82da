"""Square, by the example of its card."""

from __future__ import annotations

from tests.events.senders.sample import Sample

SAMPLE = Sample(
    service="square",
    body=b'{"merchant_id":"6SSW7HV8K2ST5","type":"payment.updated","event_id":"5b4c1d0e-0000-4a3b-9c64-1c2b3a4d5e6f",'
    b'"created_at":"2026-11-20T10:00:00.123Z","data":{"type":"payment","id":"GQTFp1ZlXdpoW4o6eGiZhbjosiDFf"}}',
    secret="the signature key",
    other="another signature key",
    signature="x-square-hmacsha256-signature",
    id="5b4c1d0e-0000-4a3b-9c64-1c2b3a4d5e6f",
    type="payment.updated",
    timed=False,
)
