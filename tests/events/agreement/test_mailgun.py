"""Mailgun's own package and we agree on its signatures; and what becomes of a signature that leaves the content open."""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mailgun.security import SecurityGuard
from tests.events.senders.mailgun import SAMPLE
from tests.events.senders.sample import NOW

from moorline.errors import ConfigurationError, InvalidSignature
from moorline.events import Event, Inbox, verify
from moorline.services import Mailgun

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=50)
CONTENT = {"event": "opened", "id": "e1", "timestamp": 1790000000.5}


def body(stamp: Any, token: Any, signature: Any, content: Any = CONTENT, **more: Any) -> bytes:
    """A delivery."""
    inner = {"timestamp": stamp, "token": token, "signature": signature, **more}
    return json.dumps({"signature": inner, "event-data": content}).encode()


def made(stamp: str, token: str, key: str) -> str:
    """The signature by a few lines of hmac."""
    return hmac.new(key.encode(), (stamp + token).encode(), hashlib.sha256).hexdigest()


def good_to_mailgun(found: dict[str, str], key: str) -> bool:
    """What Mailgun's package says of that signature."""
    return SecurityGuard.verify_webhook(key, found["token"], found["timestamp"], found["signature"])


@given(token=texts, key=texts.filter(str.strip))
def test_mailgun_accepts_what_we_sign(token: str, key: str):
    """Any token and key; both refuse another key, another token, and what is old or to come."""
    content = json.dumps({"signature": {"token": token}, "event-data": CONTENT}).encode()
    found = json.loads(Mailgun.webhooks.seal(content, key))["signature"]
    assert good_to_mailgun(found, key)
    assert not good_to_mailgun(found, key + "x")
    assert not good_to_mailgun(found | {"token": token + "x"}, key)
    for off in (-1000, 1000):
        assert not good_to_mailgun(
            json.loads(Mailgun.webhooks.seal(content, key, now=time.time() + off))["signature"], key
        )


@given(token=texts.filter(str.isprintable), key=texts.filter(str.strip))
def test_we_accept_what_mailgun_accepts(token: str, key: str):
    """Signed by a few lines of hmac, good to Mailgun's package, and to us; not under another key or token, or in time."""
    now = int(time.time())
    stamp = str(now)
    found = {"timestamp": stamp, "token": token, "signature": made(stamp, token, key)}
    assert good_to_mailgun(found, key)
    event = verify(Mailgun, headers={}, body=body(**_named(found)), secrets=["x", key], now=now)
    assert (event.id, event.type, event.timestamp) == ("e1", "opened", float(now))
    for changes, secret, moment in (({}, key + "x", now), ({"token": token + "x"}, key, now), ({}, key, now + 301)):
        with pytest.raises(InvalidSignature):
            verify(Mailgun, headers={}, body=body(**_named(found | changes)), secrets=secret, now=moment)


def _named(found: dict[str, str]) -> dict[str, str]:
    return {"stamp": found["timestamp"], "token": found["token"], "signature": found["signature"]}


def test_a_primary_accounts_key_is_enough_for_its_subaccounts():
    """The second signature, by the primary account's key, counts as the first does; the time may be a number."""
    stamp = str(int(NOW))
    theirs, ours = made(stamp, "t", "the subaccount's"), made(stamp, "t", "the primary's")
    for secret in ("the subaccount's", "the primary's"):
        sent = body(int(NOW), "t", theirs, **{"parent-signature": ours})
        assert verify(Mailgun, headers={}, body=sent, secrets=secret, now=NOW).id == "e1"
    with pytest.raises(InvalidSignature):
        verify(Mailgun, headers={}, body=body(stamp, "t", theirs), secrets="the primary's", now=NOW)


STAMP = str(int(NOW))
GOOD = made(STAMP, "t", "k")


@pytest.mark.parametrize(
    "sent",
    [
        b"", b"[]", b"\xff", b"{}", b'{"signature":"x"}', b'{"signature":{}}',
        body(STAMP, "", made(STAMP, "", "k")),
        body(STAMP, 1, GOOD), body(STAMP, None, GOOD), body(True, "t", GOOD), body(1.5, "t", GOOD), body("now", "t", GOOD),
        body(STAMP, "t", None), body(STAMP, "t", 1), body(STAMP, "t", "zz"), body(STAMP, "t", GOOD[:-2]),
        body(STAMP + "t", "", GOOD), body(STAMP[:-1], STAMP[-1] + "t", GOOD),
        body(STAMP, "t", GOOD).replace(b'"token"', b'"token": "u", "token"'),
        body(STAMP, "t", GOOD).replace(b'"signature": {', b'"signature": {}, "signature": {'),
    ],
)  # fmt: skip
def test_junk_is_a_failed_check(sent: bytes):
    """Missing, of another kind, moved from one field into the other, there twice: refused, and no other error."""
    with pytest.raises(InvalidSignature):
        verify(Mailgun, headers={}, body=sent, secrets="k", now=NOW)


def received(token: str, content: dict[str, Any], key: str = SAMPLE.secret, now: float = NOW) -> Event:
    """The event of a delivery with that token and content, as if they belonged together."""
    sent = Mailgun.webhooks.seal(
        json.dumps({"signature": {"token": token}, "event-data": content}).encode(), key, now=now
    )
    event = verify(Mailgun, headers={}, body=sent, secrets=key, now=now)
    return dataclasses.replace(event, received_at=now)


async def test_a_stolen_signature_makes_no_second_event(inbox: Inbox):
    """Another content around a token that came here is a duplicate, in the same moment and later."""
    forged = CONTENT | {"id": "e2", "event": "unsubscribed"}
    stored = await inbox.add_all([received("t1", CONTENT), received("t1", forged)])
    stored.append(await inbox.add(received("t1", forged)))
    assert [one.duplicate for one in stored] == [False, True, True]
    assert [event.id for event in await inbox.recent()] == ["e1"]


async def test_an_event_that_comes_again_with_a_new_token_is_a_duplicate(inbox: Inbox):
    """Mailgun's later tries: known by the event's id, for 12 h; an id that is used again after that is another event."""
    tries = [
        received("t1", CONTENT),
        received("t2", CONTENT, now=NOW + 8 * 3600),
        received("t3", CONTENT, now=NOW + 21 * 3600),
    ]
    stored = [await inbox.add(event) for event in tries]
    assert [one.duplicate for one in stored] == [False, True, False]
    assert (await inbox.get("e1")).inbox_id == stored[2].event_id  # the newest


async def test_a_stolen_token_hides_no_other_event(inbox: Inbox):
    """Who sends a used token with the id of an event that is still to come does not keep that event out."""
    await inbox.add(received("t1", CONTENT))
    later = CONTENT | {"id": "e2"}
    stored = await inbox.add_all([received("t1", later), received("t2", later)])
    assert [one.duplicate for one in stored] == [True, False]


def test_a_record_says_where_its_token_lies():
    """The token that is signed is the one that counts once."""
    with pytest.raises(ConfigurationError, match="once"):
        dataclasses.replace(Mailgun.webhooks, once="event-data.id")
