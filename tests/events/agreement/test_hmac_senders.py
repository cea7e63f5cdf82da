"""Senders without a verifier of their own on PyPI, by a few lines of hmac that follow their documentation."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorline.errors import ConfigurationError, InvalidSignature
from moorline.events import verify
from moorline.services import Sentry, Zendesk

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
STAMP, NOW = "2026-11-20T10:00:00Z", 1_795_168_800.0


def zendesk(secret: str, stamp: str, body: bytes) -> dict[str, str]:
    digest = hmac.new(secret.encode(), stamp.encode() + body, hashlib.sha256).digest()
    return {
        "X-Zendesk-Webhook-Signature": base64.b64encode(digest).decode(),
        "X-Zendesk-Webhook-Signature-Timestamp": stamp,
    }


@given(text=texts, secret=texts.filter(str.strip))
def test_zendesk_signs_its_time_and_the_body(text: str, secret: str):
    """The secret is the text as it is shown; time and body are joined by nothing; ours is the same signature."""
    body = json.dumps({"account_id": 1, "id": "a", "type": "zen:x", "text": text}).encode()
    event = verify(Zendesk, headers=zendesk(secret, STAMP, body), body=body, secrets=secret, now=NOW)
    assert (event.id, event.dedup_key, event.timestamp) == ("1:a", "1:a", NOW)
    assert Zendesk.webhooks.sign(body, secret, now=NOW) == zendesk(secret, STAMP, body)


def test_zendesks_older_order_is_refused():
    """What an old page prints (the body first) is not what is signed today."""
    body = b"{}"
    digest = hmac.new(b"s", body + STAMP.encode(), hashlib.sha256).digest()
    headers = zendesk("s", STAMP, body) | {"X-Zendesk-Webhook-Signature": base64.b64encode(digest).decode()}
    with pytest.raises(InvalidSignature):
        verify(Zendesk, headers=headers, body=body, secrets="s", now=NOW)


def test_zendesks_published_secret_is_none():
    """The secret of its tests stands in its documentation: alone it is an error, beside others it is left out."""
    known = "dGhpc19zZWNyZXRfaXNfZm9yX3Rlc3Rpbmdfb25seQ=="
    with pytest.raises(ConfigurationError, match="published"):
        verify(Zendesk, headers=zendesk(known, STAMP, b"{}"), body=b"{}", secrets=known, now=NOW)
    with pytest.raises(InvalidSignature):
        verify(Zendesk, headers=zendesk(known, STAMP, b"{}"), body=b"{}", secrets=["s", known], now=NOW)


@given(body=st.binary(max_size=60), secret=texts.filter(str.strip))
def test_sentrys_signature_is_the_plain_hmac(body: bytes, secret: str):
    """Bare hex of the raw body; a user interface's GET signs the empty text."""
    digest = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    headers = {"Sentry-Hook-Signature": digest, "Request-ID": "1", "Sentry-Hook-Resource": "issue"}
    assert verify(Sentry, headers=headers, body=body, secrets=secret).type == "issue"
    empty = {"Sentry-App-Signature": hmac.new(secret.encode(), b"", hashlib.sha256).hexdigest()}
    request = verify(Sentry.requests, headers=empty, body=b"", secrets=secret, method="GET", url="https://x/?a=1")
    assert request.body == b""  # the query is not signed, and so no part of it
    with pytest.raises(InvalidSignature):
        verify(Sentry.requests, headers=empty, body=b"x", secrets=secret)
