"""What the senders' own libraries sign we accept, and what we sign they accept; real bodies come through unchanged."""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import json
import time
from pathlib import Path

import pytest
import standardwebhooks
import stripe
from hypothesis import given
from hypothesis import strategies as st
from tests.events.schemes import SENDERS, STRIPE

from moorline.errors import InvalidSignature
from moorline.events import verify
from moorline.services import GitHub, Stripe

STANDARD = SENDERS[2]
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


def stripe_body(text: str) -> str:
    return json.dumps({"id": "evt_1", "object": "event", "type": "charge.refunded", "x": text}, ensure_ascii=False)


@given(text=texts, secret=texts.filter(str.strip))
def test_we_accept_what_stripe_signs(text: str, secret: str):
    """A header made by Stripe's package for any body and secret is accepted, and refused for another secret."""
    body = stripe_body(text)
    header = stripe.WebhookSignature.generate_signature_header(body, secret)
    headers = {"Stripe-Signature": header}
    assert verify(Stripe, headers=headers, body=body.encode(), secrets=secret).id == "evt_1"
    with pytest.raises(InvalidSignature):
        verify(Stripe, headers=headers, body=body.encode(), secrets=secret + "x")


@given(text=texts, secret=texts.filter(str.strip))
def test_stripe_accepts_what_we_sign(text: str, secret: str):
    """Stripe's package takes our header, and refuses it for another secret and when it is old."""
    body = stripe_body(text).encode()
    header = STRIPE.sign(body, secret)["Stripe-Signature"]
    assert stripe.Webhook.construct_event(body, header, secret).id == "evt_1"
    old = STRIPE.sign(body, secret, now=time.time() - 400)["Stripe-Signature"]
    for attempt in ((header, secret + "x"), (old, secret)):
        with pytest.raises(stripe.SignatureVerificationError):
            stripe.Webhook.construct_event(body, *attempt)


def test_stripes_own_test_payload_is_taken():
    """The event of Stripe's own tests has no type, and is an event all the same."""
    body = '{\n  "id": "evt_test_webhook",\n  "object": "event"\n}'
    header = stripe.WebhookSignature.generate_signature_header(body, "whsec_test")
    event = verify(Stripe, headers={"stripe-signature": header}, body=body.encode(), secrets="whsec_test")
    assert (event.id, event.type) == ("evt_test_webhook", "")


@given(text=texts, identity=st.text("abcXYZ019_-.", min_size=1, max_size=40))
def test_we_accept_what_the_standard_library_signs(text: str, identity: str):
    """A signature made by the standardwebhooks package is accepted, with or without the secret's prefix or padding."""
    webhook = standardwebhooks.Webhook(STANDARD.secret)
    now = dt.datetime.now(tz=dt.UTC)
    headers = {
        "webhook-id": identity,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": webhook.sign(msg_id=identity, timestamp=now, data=text),
    }
    for secret in (STANDARD.secret, STANDARD.secret.removeprefix("whsec_").rstrip("=")):
        event = verify("standard_webhooks", headers=headers, body=text.encode(), secrets=secret)
        assert (event.id, event.body) == (identity, text.encode())
    with pytest.raises(InvalidSignature):
        verify("standard_webhooks", headers=headers, body=text.encode(), secrets=STANDARD.other)


@given(text=texts)
def test_the_standard_library_accepts_what_we_sign(text: str):
    """The standardwebhooks package takes our headers, and refuses them for another secret and when they are old."""
    body = json.dumps({"test": text}).encode()
    headers = STANDARD.scheme.sign(body, STANDARD.secret, id="msg_1")
    assert standardwebhooks.Webhook(STANDARD.secret).verify(body, headers) == {"test": text}
    old = STANDARD.scheme.sign(body, STANDARD.secret, id="msg_1", now=time.time() - 400)
    for attempt, secret in ((headers, STANDARD.other), (old, STANDARD.secret)):
        with pytest.raises(standardwebhooks.WebhookVerificationError):
            standardwebhooks.Webhook(secret).verify(body, attempt)


@given(body=st.binary(max_size=200), secret=texts.filter(str.strip))
def test_githubs_signature_is_the_plain_hmac(body: bytes, secret: str):
    """Our signature is what a few lines of hmac give, for any bytes."""
    digest = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    headers = {"X-Hub-Signature-256": f"sha256={digest}", "X-GitHub-Delivery": "1", "X-GitHub-Event": "ping"}
    assert verify(GitHub, headers=headers, body=body, secrets=["old", secret]).secret_index == 1


def test_githubs_real_bodies_come_through(payloads_dir: Path):
    """Each recorded body is accepted byte for byte, its action found, its payload what JSON says; one changed bit is not."""
    bodies = sorted((payloads_dir / "github").glob("*.json"))
    assert bodies
    for path in bodies:
        body = path.read_bytes()
        kind, action = path.name.split(".")[:2]
        headers = GitHub.webhooks.sign(body, "s3cret") | {"X-GitHub-Event": kind, "X-GitHub-Delivery": path.name}
        event = verify(GitHub, headers=headers, body=body, secrets="s3cret")
        expected = json.loads(body)
        assert event.body == body
        assert event.payload == expected
        assert event.action == expected.get("action")
        assert event.name == (f"{kind}.{action}" if expected.get("action") else kind)
        changed = body[:-2] + bytes([body[-2] ^ 1]) + body[-1:]
        with pytest.raises(InvalidSignature):
            verify(GitHub, headers=headers, body=changed, secrets="s3cret")
