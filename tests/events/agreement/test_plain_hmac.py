"""Meta, X and Zoom publish no verifier for Python: their pages' own recipes, in a few lines of hmac, stand for it."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.events.senders import meta, x, zoom
from tests.events.senders.sample import NOW, Sample

from moorline.errors import InvalidSignature
from moorline.events import verify

Headers = dict[str, str]
STAMP = str(int(NOW))


def by_meta(body: bytes, secret: bytes) -> Headers:
    """``sha256=`` and hex, of the body as it is sent (which is escaped to ASCII)."""
    return {"X-Hub-Signature-256": "sha256=" + hmac.new(secret, body, hashlib.sha256).hexdigest()}


def by_x(body: bytes, secret: bytes) -> Headers:
    """``sha256=`` and base64, of the body."""
    digest = base64.b64encode(hmac.new(secret, body, hashlib.sha256).digest()).decode()
    return {"x-twitter-webhooks-signature": "sha256=" + digest}


def by_zoom(body: bytes, secret: bytes) -> Headers:
    """``v0=`` and hex, of version, time and body between colons."""
    digest = hmac.new(secret, b"v0:" + STAMP.encode() + b":" + body, hashlib.sha256).hexdigest()
    return {"x-zm-signature": "v0=" + digest, "x-zm-request-timestamp": STAMP}


SENDERS = [(meta.SAMPLE, by_meta), (x.SAMPLE, by_x), (zoom.SAMPLE, by_zoom)]
both = pytest.mark.parametrize(("sample", "made"), SENDERS, ids=lambda one: getattr(one, "service", ""))
keys = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40).filter(str.strip)


def checked(sample: Sample, headers: Headers, body: bytes, secret: str, now: float = NOW) -> Any:
    """``verify`` for that sender."""
    return verify(sample.service, headers=headers, body=body, secrets=secret, now=now)


@both
@given(secret=keys, space=st.text(" \n\t", max_size=9))
def test_what_the_recipe_signs_is_accepted(
    sample: Sample, made: Callable[[bytes, bytes], Headers], secret: str, space: str
):
    """With any secret, and the body to the byte; not with another secret, nor a byte more."""
    body = sample.body + space.encode()
    headers = made(body, secret.encode())
    assert checked(sample, headers, body, secret).type == sample.type
    for attempt in ((body, secret + "x"), (body + b" ", secret)):
        with pytest.raises(InvalidSignature):
            checked(sample, headers, *attempt)


@both
@given(secret=keys)
def test_what_we_sign_is_what_the_recipe_gives(sample: Sample, made: Callable[[bytes, bytes], Headers], secret: str):
    """Header by header."""
    ours = sample.scheme.sign(sample.body, secret, now=NOW)
    assert ours == made(sample.body, secret.encode())


def test_only_zoom_signs_a_time():
    """Its deliveries are refused five minutes off; the others' are told apart from replays by their content alone."""
    for sample, made in SENDERS:
        headers = made(sample.body, b"s")
        for now in (NOW - 301, NOW + 301):
            if sample.timed:
                with pytest.raises(InvalidSignature):
                    checked(sample, headers, sample.body, "s", now)
            else:
                assert checked(sample, headers, sample.body, "s", now).timestamp is None


@pytest.mark.parametrize(
    ("sample", "headers"),
    [
        (meta.SAMPLE, {"X-Hub-Signature": "sha1=" + hmac.new(b"s", meta.SAMPLE.body, hashlib.sha1).hexdigest()}),
        (
            meta.SAMPLE,
            {"X-Hub-Signature-256": "sha1=" + hmac.new(b"s", meta.SAMPLE.body, hashlib.sha1).hexdigest()},
        ),
        (x.SAMPLE, {"x-twitter-webhooks-signature": by_x(x.SAMPLE.body, b"s")["x-twitter-webhooks-signature"][7:]}),
        (zoom.SAMPLE, by_zoom(zoom.SAMPLE.body, b"s") | {"x-zm-request-timestamp": str(int(NOW) + 1)}),
        (zoom.SAMPLE, {"x-zm-signature": by_zoom(zoom.SAMPLE.body, b"s")["x-zm-signature"]}),
        (zoom.SAMPLE, {"authorization": "s"}),
    ],
    ids=["sha1", "sha1 as 256", "no prefix", "another time", "no time", "old token"],
)
def test_older_and_weaker_proofs_are_none(sample: Sample, headers: Headers):
    """SHA-1, a missing prefix, a time that was not signed, and Zoom's verification token of old."""
    with pytest.raises(InvalidSignature):
        checked(sample, headers, sample.body, "s")


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'{"for_user_id":"1","tweet_create_events":[{"id_str":"2"}]}', "tweet_create_events"),
        (b'{"for_user_id":"1","direct_message_events":[],"users":{}}', "direct_message_events"),
        (b'{"data":{"id":"2","text":"x"},"matching_rules":[{"id":"1","tag":"t"}]}', "matching_rules"),
        (b'{"for_user_id":"1","a_new_kind":[]}', ""),
    ],
)
def test_xs_older_apis_tell_their_kind_by_a_field(body: bytes, kind: str):
    """Without an id they are known by their content; a kind that is new is an event without a type."""
    event = checked(x.SAMPLE, by_x(body, b"s"), body, "s")
    assert event.type == kind
    assert event.id.startswith("sha256:")
