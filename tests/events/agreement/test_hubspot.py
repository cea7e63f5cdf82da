"""HubSpot's own SDK and we agree on three versions; a newer signature is never passed over for an older one."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time

import pytest
from hubspot.exceptions import InvalidSignatureTimestampError  # type: ignore[import-untyped]
from hubspot.utils.signature import Signature  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st
from tests.events.senders.hubspot import SAMPLE
from tests.events.senders.sample import NOW

from moorline.errors import ConfigurationError, InvalidSignature
from moorline.events import Event, verify, verify_each
from moorline.services import HubSpot

URL = "https://shop.example/webhooks/hubspot?to=a&b=1"
V3, V2, V1 = (version.scheme for version in HubSpot.webhooks.versions)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
keys = texts.filter(str.strip)


def body_with(text: str) -> bytes:
    """A delivery with that text in it."""
    event = {"eventId": 1, "subscriptionId": 2, "objectId": 3, "occurredAt": 4, "subscriptionType": "a.b", "x": text}
    return json.dumps([event], ensure_ascii=False).encode()


def checked(headers: dict[str, str], body: bytes, secret: str, *, url: str = URL, now: float | None = None) -> Event:
    """``verify`` for HubSpot."""
    return verify(HubSpot, headers=headers, body=body, secrets=secret, url=url, now=now)


def old(version: str, body: bytes, secret: str, method: str = "POST") -> dict[str, str]:
    """The headers of an older version, by HubSpot's own SDK."""
    signature = Signature.get_signature(secret, body.decode(), version, http_uri=URL, http_method=method)
    return {"X-HubSpot-Signature": signature, "X-HubSpot-Signature-Version": version}


@given(text=texts, secret=keys)
def test_we_accept_what_hubspot_signs_in_version_3(text: str, secret: str):
    """Accepted; refused with another secret, another byte, another address, and when it is old or to come."""
    body, stamp = body_with(text), str(int(NOW * 1000))
    signature = Signature.get_signature(secret, body.decode(), "v3", http_uri=URL, timestamp=stamp)
    headers = {"X-HubSpot-Signature-v3": signature, "X-HubSpot-Request-Timestamp": stamp}
    assert checked(headers, body, secret, now=NOW).timestamp == NOW
    for attempt in (
        {"secret": secret + "x", "now": NOW},
        {"body": body + b" ", "now": NOW},
        {"url": URL + "2", "now": NOW},
        {"now": NOW + 301},
        {"now": NOW - 301},
    ):
        with pytest.raises(InvalidSignature):
            checked(**{"headers": headers, "body": body, "secret": secret, **attempt})  # type: ignore[arg-type]


@given(text=texts, secret=keys)
def test_hubspot_accepts_what_we_sign_in_version_3(text: str, secret: str):
    """HubSpot's SDK takes our headers; with another secret or byte, and when they are old, it refuses."""
    body = body_with(text)
    headers = HubSpot.webhooks.sign(body, secret, url=URL)

    def accepts(given_secret: str = secret, given_body: bytes = body, made: dict[str, str] = headers) -> bool:
        return bool(
            Signature.is_valid(
                made["X-HubSpot-Signature-v3"], given_secret, given_body.decode(), URL, "POST", "v3",
                made["X-HubSpot-Request-Timestamp"],
            )
        )  # fmt: skip

    assert accepts()
    assert not accepts(given_secret=secret + "x")
    assert not accepts(given_body=body + b" ")
    with pytest.raises(InvalidSignatureTimestampError):
        accepts(made=HubSpot.webhooks.sign(body, secret, url=URL, now=time.time() - 400))


@pytest.mark.parametrize("version", ["v1", "v2"])
@given(text=texts, secret=keys)
def test_the_older_versions_agree_in_both_directions(version: str, text: str, secret: str):
    """Made by either side, taken by the other; refused with another secret and with a changed byte."""
    body = body_with(text)
    headers = old(version, body, secret)
    assert checked(headers, body, secret).timestamp is None
    for attempt in ((body, secret + "x"), (body + b" ", secret)):
        with pytest.raises(InvalidSignature):
            checked(headers, *attempt)
    ours = (V1 if version == "v1" else V2).sign(body, secret, url=URL)["X-HubSpot-Signature"]
    assert Signature.is_valid(ours, secret, body.decode(), URL, "POST", version)
    assert not Signature.is_valid(ours, secret + "x", body.decode(), URL, "POST", version)


def test_no_downgrade():
    """Where version 3 is there it must hold: wrong, stale, empty or doubled, a good older signature changes nothing."""
    body, secret = SAMPLE.body, SAMPLE.secret
    good = old("v1", body, secret)
    stale = V3.sign(body, secret, url=URL, now=NOW - 301)
    for spoiled in (
        {"X-HubSpot-Signature-v3": "AAAA", "X-HubSpot-Request-Timestamp": str(int(NOW * 1000))},
        {"X-HubSpot-Signature-v3": ""},
        {"X-HubSpot-Signature-v3": stale["X-HubSpot-Signature-v3"]},
        stale,
        V3.sign(body, "another", url=URL, now=NOW),
    ):
        with pytest.raises(InvalidSignature):
            checked(good | spoiled, body, secret, now=NOW)
    assert checked(good, body, secret, now=NOW).id == SAMPLE.id
    fine = V3.sign(body, secret, url=URL, now=NOW)
    assert checked(fine | {"X-HubSpot-Signature": "wrong"}, body, secret, now=NOW).timestamp == NOW


def test_a_version_is_taken_for_no_other():
    """A digest of version 1 under the name of 2, the other way round, and under no name or a new one."""
    body, secret = SAMPLE.body, SAMPLE.secret
    for version, called in (("v1", "v2"), ("v2", "v1"), ("v1", ""), ("v1", "v4"), ("v2", "V2")):
        headers = old(version, body, secret) | {"X-HubSpot-Signature-Version": called}
        with pytest.raises(InvalidSignature):
            checked(headers, body, secret)
    with pytest.raises(InvalidSignature):
        checked(old("v2", body, secret, method="GET"), body, secret)
    with pytest.raises(InvalidSignature, match="v3"):
        checked({}, body, secret)


def test_version_1_needs_no_address_and_the_others_do():
    """Without the address the newer ones cannot be checked: an error of ours, not of the sender's."""
    body, secret = SAMPLE.body, SAMPLE.secret
    assert verify(HubSpot, headers=old("v1", body, secret), body=body, secrets=secret).id == SAMPLE.id
    with pytest.raises(ConfigurationError, match="url"):
        verify(HubSpot, headers=V3.sign(body, secret, url=URL), body=body, secrets=secret)


@pytest.mark.parametrize("escape", ["3A", "2F", "3F", "40", "21", "24", "27", "28", "29", "2A", "2C", "3B"])
def test_twelve_escapes_are_decoded_in_the_address(escape: str):
    """What HubSpot signs is the address with exactly these decoded, in either case."""
    character = bytes.fromhex(escape).decode()
    signed = f"https://shop.example/in?to={character}x&other=%20%5B%25"
    stamp = str(int(NOW * 1000))
    text = f"POST{signed}".encode() + SAMPLE.body + stamp.encode()
    digest = base64.b64encode(hmac.new(SAMPLE.secret.encode(), text, hashlib.sha256).digest()).decode()
    headers = {"X-HubSpot-Signature-v3": digest, "X-HubSpot-Request-Timestamp": stamp}
    for written in (f"%{escape}", f"%{escape.lower()}", character):
        called = f"https://shop.example/in?to={written}x&other=%20%5B%25"
        assert checked(headers, SAMPLE.body, SAMPLE.secret, url=called, now=NOW).id == SAMPLE.id


@pytest.mark.parametrize("escape", ["%20", "%26", "%3D", "%2B", "%25", "%23", "%5B", "%253A"])
def test_no_other_escape_is_decoded(escape: str):
    """An escaped ampersand, say, stays one, and what is escaped twice is not decoded at all."""
    url = f"https://shop.example/in?to={escape}x"
    signed = V3.sign(SAMPLE.body, SAMPLE.secret, url=url, now=NOW)
    text = f"POST{url}".encode() + SAMPLE.body + signed["X-HubSpot-Request-Timestamp"].encode()
    digest = base64.b64encode(hmac.new(SAMPLE.secret.encode(), text, hashlib.sha256).digest()).decode()
    assert signed["X-HubSpot-Signature-v3"] == digest


def test_each_event_of_a_batch_has_an_id_that_a_retry_keeps():
    """AttemptNumber changes in a retry; what the id is made of does not."""
    first = b'[{"eventId":1,"subscriptionId":2,"objectId":3,"occurredAt":4,"subscriptionType":"a.b","attemptNumber":0},'
    first += (
        b' {"eventId":1,"subscriptionId":2,"objectId":5,"occurredAt":4,"subscriptionType":"a.c","attemptNumber":0}]'
    )
    second = first.replace(b'"attemptNumber":0', b'"attemptNumber":1')
    ids = [
        [event.dedup_key for event in verify_each(HubSpot, headers=old("v1", one, "s"), body=one, secrets="s")]
        for one in (first, second)
    ]
    assert ids == [["2:1:3:4", "2:1:5:4"]] * 2


def test_what_a_workflow_sends_is_one_event():
    """One object, without id and type."""
    body = b'{"objectId":512,"properties":{}}'
    event = checked(old("v2", body, "s"), body, "s")
    assert (event.type, event.id[:7]) == ("", "sha256:")


def test_a_hash_that_was_lengthened_is_no_json():
    """Length extension glues the byte 0x80 to the body: even with a digest that holds, it is no event."""
    longer = SAMPLE.body + b"\x80" + b"\x00" * 20 + b"[]"
    digest = hashlib.sha256(SAMPLE.secret.encode() + longer).hexdigest()
    with pytest.raises(Exception, match="not JSON"):
        checked({"X-HubSpot-Signature": digest, "X-HubSpot-Signature-Version": "v1"}, longer, SAMPLE.secret)
