"""Stripe, by the example of its card."""

from __future__ import annotations

from tests.events.senders.sample import Sample

SAMPLE = Sample(
    service="stripe",
    body=b'{"id":"evt_3Qx","object":"event","type":"payment_intent.payment_failed","data":{"object":{"id":"pi_3x"}}}',
    secret="whsec_one",
    other="whsec_two",
    signature="Stripe-Signature",
    id="evt_3Qx",
    type="payment_intent.payment_failed",
    timed=True,
)
