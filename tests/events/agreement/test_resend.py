"""Resend signs by Svix: Svix's own package and we agree, in both directions."""

from __future__ import annotations

import datetime as dt
import json
import time

import pytest
import svix
from hypothesis import given
from hypothesis import strategies as st
from tests.events.senders.resend import SAMPLE

from moorline.errors import InvalidSignature
from moorline.events import verify
from moorline.services import Resend

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
ids = st.text("abcXYZ019_-.", min_size=1, max_size=40)


def body_with(text: str) -> str:
    return json.dumps({"type": "email.sent", "x": text}, ensure_ascii=False)


@given(text=texts, identity=ids)
def test_we_accept_what_svix_signs(text: str, identity: str):
    """Any body and id; not with another secret, a changed byte, or when it is old or to come."""
    body = body_with(text)
    now = int(time.time())
    signed = svix.Webhook(SAMPLE.secret).sign(identity, dt.datetime.fromtimestamp(now, dt.UTC), body)
    headers = {"svix-id": identity, "svix-timestamp": str(now), "svix-signature": f"v1,AAAA v2,x {signed}"}
    event = verify(Resend, headers=headers, body=body.encode(), secrets=SAMPLE.secret, now=now)
    assert (event.id, event.type, event.dedup_key) == (identity, "email.sent", identity)
    for secret, changed, moment in (
        (SAMPLE.other, body, now),
        (SAMPLE.secret, body + " ", now),
        (SAMPLE.secret, body, now + 301),
        (SAMPLE.secret, body, now - 301),
    ):
        with pytest.raises(InvalidSignature):
            verify(Resend, headers=headers, body=changed.encode(), secrets=secret, now=moment)


@given(text=texts, identity=ids)
def test_svix_accepts_what_we_sign(text: str, identity: str):
    """Any body and id; not with another secret, a changed byte, or when it is old or to come."""
    body = body_with(text).encode()
    headers = Resend.webhooks.sign(body, SAMPLE.secret, id=identity)
    svix.Webhook(SAMPLE.secret).verify(body, headers)
    old, early = (Resend.webhooks.sign(body, SAMPLE.secret, id=identity, now=time.time() + off) for off in (-400, 400))
    for secret, changed, given_headers in (
        (SAMPLE.other, body, headers),
        (SAMPLE.secret, body + b" ", headers),
        (SAMPLE.secret, body, old),
        (SAMPLE.secret, body, early),
    ):
        with pytest.raises(svix.WebhookVerificationError):
            svix.Webhook(secret).verify(changed, given_headers)
