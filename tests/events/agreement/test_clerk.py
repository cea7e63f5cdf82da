"""Clerk's deliveries are Svix's: its package and our scheme accept each other's signatures."""

from __future__ import annotations

import datetime as dt
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from svix.webhooks import Webhook, WebhookVerificationError

from moorline.errors import InvalidSignature
from moorline.events import verify
from moorline.services import Clerk

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@given(
    text=texts, identity=st.text("abcXYZ019_-", min_size=1, max_size=40), prefix=st.sampled_from(["svix-", "webhook-"])
)
def test_we_accept_what_svix_signs(text: str, identity: str, prefix: str):
    """Under both names of the headers, for any content and id; not for another secret, a changed byte or an old time."""
    body = json.dumps({"type": "user.created", "data": {"x": text}}, ensure_ascii=False)
    now = dt.datetime.now(tz=dt.UTC)
    headers = {
        prefix + "id": identity,
        prefix + "timestamp": str(int(now.timestamp())),
        prefix + "signature": "v2,xx " + Webhook(SECRET).sign(identity, now, body),
    }
    event = verify(Clerk, headers=headers, body=body.encode(), secrets=[OTHER, SECRET])
    assert (event.id, event.type, event.dedup_key, event.secret_index) == (identity, "user.created", identity, 1)
    wrongs: tuple[dict[str, Any], ...] = (
        {"secrets": OTHER},
        {"body": body.encode() + b" "},
        {"now": now.timestamp() + 400},
        {"now": now.timestamp() - 400},
    )
    for wrong in wrongs:
        with pytest.raises(InvalidSignature):
            verify(Clerk, **{"headers": headers, "body": body.encode(), "secrets": SECRET, **wrong})


@given(text=texts)
def test_svix_accepts_what_we_sign(text: str):
    """Svix's package takes our headers, and refuses another secret, a changed byte and an old time."""
    body = json.dumps({"type": "user.created", "x": text}).encode()
    headers = Clerk.webhooks.sign(body, SECRET, id="msg_1")
    Webhook(SECRET).verify(body, headers)
    old = Clerk.webhooks.sign(body, SECRET, id="msg_1", now=time.time() - 400)
    for secret, given_body, given_headers in (
        (OTHER, body, headers),
        (SECRET, body + b" ", headers),
        (SECRET, body, old),
    ):
        with pytest.raises(WebhookVerificationError):
            Webhook(secret).verify(given_body, given_headers)


def test_headers_of_both_names_are_not_mixed():
    """The id counts that was signed: one under the other name changes nothing."""
    body = b'{"type":"user.created"}'
    headers = Clerk.webhooks.sign(body, SECRET, id="msg_1") | {"webhook-id": "msg_2", "webhook-signature": "v1,x"}
    assert verify(Clerk, headers=headers, body=body, secrets=SECRET).id == "msg_1"
