"""Svix's own library and we agree, by a scheme that is configured and not written."""

from __future__ import annotations

import datetime as dt
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from svix.webhooks import Webhook, WebhookVerificationError
from tests.events.senders.sample import NOW

from moorline.errors import InvalidSignature
from moorline.events import StandardWebhooks, verify

SVIX = StandardWebhooks(env="SVIX_SECRET", prefix="svix-", aliases=("webhook-",), id="header:svix-id")
SECRET, OTHER = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@given(
    text=texts, identity=st.text("abcXYZ019_-.", min_size=1, max_size=40), prefix=st.sampled_from(["svix-", "webhook-"])
)
def test_we_accept_what_svix_signs(text: str, identity: str, prefix: str):
    """Made by svix: accepted under either name of its headers; refused with another secret or byte, and out of time."""
    body = json.dumps({"type": "a.b", "x": text}).encode()
    moment = dt.datetime.fromtimestamp(NOW, dt.UTC)
    headers = {
        prefix + "id": identity,
        prefix + "timestamp": str(int(NOW)),
        prefix + "signature": Webhook(SECRET).sign(identity, moment, body.decode()),
    }
    event = verify(SVIX, headers=headers, body=body, secrets=[OTHER, SECRET], now=NOW)
    assert (event.id, event.dedup_key, event.type, event.secret_index) == (identity, identity, "a.b", 1)
    for given_body, secret, now in ((body, OTHER, NOW), (body + b" ", SECRET, NOW), (body, SECRET, NOW + 301)):
        with pytest.raises(InvalidSignature):
            verify(SVIX, headers=headers, body=given_body, secrets=secret, now=now)


@given(text=texts)
def test_svix_accepts_what_we_sign(text: str):
    """Our headers are taken by svix; with another secret or byte, and when they are old, they are not."""
    body = json.dumps({"x": text}).encode()
    headers = SVIX.sign(body, SECRET, id="msg_1")
    Webhook(SECRET).verify(body, headers)
    old = SVIX.sign(body, SECRET, id="msg_1", now=NOW - 10**8)
    for given_body, given_headers, secret in (
        (body, headers, OTHER),
        (body + b" ", headers, SECRET),
        (body, old, SECRET),
    ):
        with pytest.raises(WebhookVerificationError):
            Webhook(secret).verify(given_body, given_headers)
