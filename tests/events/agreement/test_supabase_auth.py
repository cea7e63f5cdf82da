"""Supabase's hooks are Standard Webhooks with secrets and lists of its own; held against the ``standardwebhooks`` package."""

from __future__ import annotations

import base64
import datetime as dt
import json
import time
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from moorline.errors import ConfigurationError, InvalidSignature
from moorline.events import verify
from moorline.secrets.sources.environment import load_all
from moorline.services import SupabaseAuth

SECRET = "v1,whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = "v1,whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
BODY = b'{"user_id":"8ccaa7af-909f-44e7-84cb-67cdccb56be6","valid":false}'
NOW = 1_790_000_000.0
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@given(text=texts)
def test_both_accept_each_other(text: str):
    """With the secret as the dashboard shows it; not with another, nor when it is old."""
    body = json.dumps({"x": text})
    now = dt.datetime.now(tz=dt.UTC)
    signature = Webhook(SECRET.removeprefix("v1,")).sign("id", now, body)
    headers = {"webhook-id": "id", "webhook-timestamp": str(int(now.timestamp())), "webhook-signature": signature}
    assert verify(SupabaseAuth, headers=headers, body=body.encode(), secrets=SECRET).id == "id"
    with pytest.raises(InvalidSignature):
        verify(SupabaseAuth, headers=headers, body=body.encode(), secrets=OTHER)
    ours = SupabaseAuth.webhooks.sign(body.encode(), SECRET, id="id")
    assert Webhook(SECRET.removeprefix("v1,")).verify(body, ours) == {"x": text}
    old = SupabaseAuth.webhooks.sign(body.encode(), SECRET, id="id", now=time.time() - 400)
    for secret, attempt in ((OTHER, ours), (SECRET, old)):
        with pytest.raises(WebhookVerificationError):
            Webhook(secret.removeprefix("v1,")).verify(body, attempt)


def signed(secret: str, *, now: float = NOW, id: str = "id") -> dict[str, str]:
    return SupabaseAuth.webhooks.sign(BODY, secret, id=id, now=now)


def checked(headers: dict[str, str], *, secrets: Any = SECRET, now: float = NOW) -> Any:
    return verify(SupabaseAuth, headers=headers, body=BODY, secrets=secrets, now=now)


def test_signatures_joined_by_comma_and_space_are_a_list():
    """With two secrets set there, both signatures count, in either order (the package fails on such a header)."""
    both = [signed(OTHER)["webhook-signature"], signed(SECRET)["webhook-signature"]]
    for order in (both, both[::-1]):
        assert checked(signed(SECRET) | {"webhook-signature": ", ".join(order)}).id == "id"


def test_a_secret_in_the_environment_is_not_cut_at_its_comma():
    """What is left of ``v1,whsec_…`` before the comma would be a key of one byte, with which anybody signs."""
    held = load_all("HOOK", {"HOOK": f"{SECRET},{OTHER} v1a,whpk_x"})
    assert [secret.reveal() for secret in held] == [SECRET, OTHER, "v1a,whpk_x"]
    assert [one.reveal() for one in load_all("X", {"X": "whsec_a,whsec_b"})] == ["whsec_a", "whsec_b"]
    with pytest.raises(ConfigurationError, match="16 bytes"):
        checked(signed(SECRET), secrets=["v1"])
    with pytest.raises(InvalidSignature):  # beside a good one it is left out
        checked(signed("v1,whsec_" + base64.b64encode(b"v1" * 12).decode()), secrets=["v1", SECRET])


def test_a_retry_with_a_new_id_is_the_same_and_a_later_hook_is_another():
    """Within the 10 s of one slot the content counts; what says the same later is another event."""
    first, retry = checked(signed(SECRET, id="a")), checked(signed(SECRET, id="b", now=NOW + 4), now=NOW + 4)
    assert (first.id, retry.id) == ("a", "b")
    assert first.dedup_key == retry.dedup_key
    later = checked(signed(SECRET, id="c", now=NOW + 60), now=NOW + 60)
    assert later.dedup_key != first.dedup_key


def test_a_replay_in_the_next_slot_is_in_the_slot_that_was_signed():
    """The signed time makes the slot, not the arrival."""
    headers = signed(SECRET)
    assert checked(headers, now=NOW + 200).dedup_key == checked(headers).dedup_key


def test_an_asymmetric_signature_is_checked_by_the_public_key():
    """``v1a`` made by a few lines of ``cryptography`` is accepted, by that key alone; a public key is no HMAC key."""
    private, stranger = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    signature = base64.b64encode(private.sign(b"id.1790000000." + BODY)).decode()
    headers = {"webhook-id": "id", "webhook-timestamp": "1790000000", "webhook-signature": f"v1,zz, v1a,{signature}"}

    def public(key: Ed25519PrivateKey) -> str:
        raw = key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        return "whpk_" + base64.b64encode(raw).decode()

    assert checked(headers, secrets=public(private)).id == "id"
    for secrets in (public(stranger), SECRET):
        with pytest.raises(InvalidSignature):
            checked(headers, secrets=secrets)
    forged = signed("whsec_" + public(private).removeprefix("whpk_"))
    with pytest.raises(InvalidSignature):
        checked(forged, secrets=public(private))
