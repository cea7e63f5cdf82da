"""PayPal, by the example of its card."""

from __future__ import annotations

from tests.events.keys import certified
from tests.events.senders.sample import Sample

URL = "https://api.sandbox.paypal.com/v1/notifications/certs/CERT-moorline"
OURS, OTHERS = certified("messageverificationcerts.paypal.com"), certified("messageverificationcerts.paypal.net")

SAMPLE = Sample(
    service="paypal",
    body=b'{"id":"WH-8PT597110X687430L-1AB","event_version":"1.0","create_time":"2026-11-20T10:00:00.000Z",'
    b'"resource_type":"capture","resource_version":"2.0","event_type":"PAYMENT.CAPTURE.COMPLETED",'
    b'"summary":"Payment completed","resource":{"id":"2GG279541U471931P","status":"COMPLETED"},"links":[]}',
    secret="4JH86294D6297924G",
    other="1GN4256289D90C4B",
    key=OURS.private,
    other_key=OTHERS.private,
    certificates={URL: OURS.certificate},
    other_certificates={URL: OTHERS.certificate},
    headers={"Content-Type": "application/json"},
    signature="PAYPAL-TRANSMISSION-SIG",
    id="WH-8PT597110X687430L-1AB",
    type="PAYMENT.CAPTURE.COMPLETED",
    timed=True,
    late=3 * 86_400.0 + 300,
)
