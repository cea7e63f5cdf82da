"""Questions that are no events: who gets an answer, and what an answer must never give away."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.events.senders.sample import NOW

from moorline.clock import ManualClock
from moorline.errors import InvalidSignature, UnusableEvent
from moorline.events import Reply, verify
from moorline.events.delivery import Delivery
from moorline.events.handshakes import BodyEcho, Handshake, QueryDigest, QueryEcho
from moorline.events.intake import Ask, Entry, Intake
from moorline.events.refused import Refused
from moorline.secrets import Secret
from moorline.services import Meta, MicrosoftGraph, Slack, X, Zoom

VERIFY = QueryEcho(echo="hub.challenge", token="hub.verify_token", where=(("hub.mode", "subscribe"),))
CRC = QueryDigest(token="crc_token", field="response_token")


class NoInbox:
    """Nothing here is stored."""


def intake_for(**secrets: Sequence[str]) -> Intake:
    """The rules, with these secrets."""
    inbox: Any = NoInbox()
    return Intake(inbox, lambda name: secrets.get(name, ()), clock=ManualClock(NOW))


def asked(intake: Intake, name: str, query: str = "", method: str = "GET", **headers: str) -> Entry | Reply:
    """What a request is told before its body."""
    return intake.admit(Ask(name, method, headers, query, lambda: f"https://shop.example/webhooks/{name}?{query}"))


# --- in the address


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("hub.mode=subscribe&hub.challenge=115&hub.verify_token=right", 200),
        ("hub.verify_token=right&hub.challenge=115&hub.mode=subscribe", 200),
        ("hub.mode=subscribe&hub.challenge=115&hub.verify_token=older", 200),
        ("hub.mode=subscribe&hub.challenge=115&hub.verify_token=wrong", 403),
        ("hub.mode=subscribe&hub.challenge=115&hub.verify_token=", 403),
        ("hub.mode=subscribe&hub.challenge=115&hub.verify_token=%FF%D8", 403),
        ("hub.mode=subscribe&hub.challenge=115", 403),
        ("hub.mode=unsubscribe&hub.challenge=115&hub.verify_token=right", None),
        ("hub.challenge=115&hub.verify_token=right", None),
        ("hub.mode=subscribe&hub.challenge=&hub.verify_token=right", None),
        ("hub.mode=subscribe&hub.verify_token=right", None),
        (f"hub.mode=subscribe&hub.challenge={'1' * 5000}&hub.verify_token=right", None),
        ("", None),
    ],
)
def test_a_challenge_is_echoed_to_who_shows_the_token(query: str, status: int | None):
    """Any of the accepted ones; what is not the question gets no answer of this kind."""
    reply = VERIFY.opening(query, "GET", ["right", "older"])
    assert (None if reply is None else reply.status) == status
    if status == 403:
        assert reply is not None
        assert b"115" not in reply.body
    assert VERIFY.opening(query, "POST", ["right"]) is None


def test_an_echo_is_never_a_page():
    """It is plain text that no browser may take for anything else."""
    script = "<script>alert(1)</script>"
    reply = QueryEcho(echo="validationToken", methods=("POST",)).opening(
        urlencode({"validationToken": script}), "POST", ["s"]
    )
    assert reply is not None
    assert (reply.body, reply.media) == (script.encode(), "text/plain; charset=utf-8")
    assert ("x-content-type-options", "nosniff") in reply.headers


def test_the_token_of_the_handshake_is_not_the_secret_of_the_deliveries(monkeypatch: pytest.MonkeyPatch):
    """Meta's verify token is a variable of its own; without it the question is not answered, nor by the app secret."""
    intake = intake_for(meta=["app secret"])
    query = "hub.mode=subscribe&hub.challenge=115&hub.verify_token="
    monkeypatch.delenv("META_VERIFY_TOKEN", raising=False)
    with pytest.raises(Refused) as raised:
        asked(intake, "meta", query + "app%20secret")
    assert raised.value.status == 405
    monkeypatch.setenv("META_VERIFY_TOKEN", "mine")
    reply = asked(intake, "meta", query + "mine")
    assert isinstance(reply, Reply)
    assert reply.status == 200
    with pytest.raises(Refused) as raised:  # and so it is among the refused requests that an operator can list
        asked(intake, "meta", query + "app%20secret")
    assert (raised.value.status, raised.value.forged) == (403, True)
    assert raised.value.reply.body == b'{"error":"forbidden"}'


def test_nobody_answers_where_nothing_is_configured():
    """Without a secret there is no such address, whatever is asked."""
    for name, query in (("x", "crc_token=a"), ("microsoft_graph", "validationToken=a"), ("meta", "hub.challenge=1")):
        for method in ("GET", "POST"):
            with pytest.raises(Refused) as raised:
                asked(intake_for(), name, query, method)
            assert raised.value.status == 404


def test_a_query_of_a_thousand_fields_is_not_read():
    """It is answered as nothing at all."""
    with pytest.raises(Refused) as raised:
        asked(intake_for(x=["s"]), "x", "&".join(["crc_token=a"] * 1000))
    assert raised.value.status == 404


# --- a challenge that is signed with the secret of the deliveries

tokens = st.text(max_size=40) | st.sampled_from(
    ["{}", '{"a":1}', "[]", "[1]", "12", "true", "null", '"x"', "a=b", "payload=12", "payload=%7B%7D", " ", "x" * 200]
)


@given(token=tokens)
@example(token='{"data":{"event_type":"post.create"}}')
@example(token="1" * 128)
def test_a_challenge_is_no_oracle(token: str):
    """Anybody may ask. What is signed for a stranger is accepted as a delivery by nobody."""
    reply = CRC.opening(urlencode({"crc_token": token}), "GET", ["s3cret"])
    if reply is None:
        return
    signature = json.loads(reply.body)["response_token"]
    assert signature == "sha256=" + base64.b64encode(hmac.digest(b"s3cret", token.encode(), "sha256")).decode()
    body = token.encode()
    for media in ("application/json", "application/x-www-form-urlencoded"):
        headers = {"x-twitter-webhooks-signature": signature, "content-type": media}
        with pytest.raises(UnusableEvent):
            verify(X, headers=headers, body=body, secrets="s3cret")
        entry = asked(intake_for(x=["s3cret"]), "x", method="POST", **headers)
        assert isinstance(entry, Entry)
        with pytest.raises(Refused) as raised:
            intake_for(x=["s3cret"]).check(entry, body)
        assert raised.value.status == 400


@pytest.mark.parametrize("token", ["{}", '{"data":1}', "[1]", '"x"', "a b", "a&b", "", "x" * 129, "a%7B", "é", "\x00"])
def test_a_token_that_could_be_a_body_gets_no_answer(token: str):
    """Nor does one that is too long to be X's."""
    assert CRC.opening(f"crc_token={quote(token)}", "GET", ["s"]) is None
    assert CRC.opening("crc_token=fine", "POST", ["s"]) is None


# --- in a signed body


@pytest.mark.parametrize("index", [0, 1])
def test_an_answer_is_signed_by_the_secret_that_signed_the_question(index: int):
    """While Zoom's secret is changed either may ask, and wants its own back."""
    secrets = ["current", "previous"]
    body = b'{"event":"endpoint.url_validation","payload":{"plainToken":"abc"}}'
    intake = intake_for(zoom=secrets)
    headers = {name.lower(): value for name, value in Zoom.webhooks.sign(body, secrets[index], now=NOW).items()}
    entry = asked(intake, "zoom", method="POST", **headers)
    assert isinstance(entry, Entry)
    reply = intake.check(entry, body).reply
    assert reply is not None
    expected = hmac.new(secrets[index].encode(), b"abc", hashlib.sha256).hexdigest()
    assert json.loads(reply.body) == {"plainToken": "abc", "encryptedToken": expected}


@pytest.mark.parametrize("scheme", [Zoom.webhooks, Slack.webhooks])
def test_a_question_that_is_not_signed_is_not_answered(scheme: Any):
    """Otherwise anybody could have anything signed, or learn that this address is somebody's."""
    name = "zoom" if scheme is Zoom.webhooks else "slack"
    body = b'{"event":"endpoint.url_validation","type":"url_verification","challenge":"a","payload":{"plainToken":"a"}}'
    intake = intake_for(**{name: ["right"]})
    attempts: list[dict[str, str]] = [
        {},
        scheme.sign(body, "wrong", now=NOW),
        scheme.sign(body, "right", now=NOW - 301),
    ]
    for headers in attempts:
        entry = asked(intake, name, method="POST", **{key.lower(): value for key, value in headers.items()})
        assert isinstance(entry, Entry)
        with pytest.raises(Refused) as raised:
            intake.check(entry, body)
        assert raised.value.status == 401


@pytest.mark.parametrize(
    "body",
    [
        b'{"type":"message","text":"url_verification","challenge":"a"}',
        b'{"type":"url_verification"}',
        b'{"type":"url_verification","challenge":12}',
        b'{"type":"url_verification","challenge":{"a":1}}',
        b'{"type":"url_verification","challenge":""}',
        b'{"type":"url_verification","challenge":"%s"}' % (b"x" * 5000),
        b'{"event":{"type":"url_verification"},"challenge":"a"}',
        b'["url_verification"]',
        b"url_verification",
    ],
)
def test_what_only_looks_like_a_question_is_none(body: bytes):
    """The field itself must say it, and hold a text of reasonable length."""
    echo = BodyEcho(field="type", value="url_verification", echo="challenge")
    assert echo.asked(Delivery({}, body), ["s"]) is None


def test_each_kind_asks_in_one_place_only():
    """The base is neither question, and no kind answers at both."""
    delivery = Delivery({}, b'{"type":"x"}')
    for handshake in (Handshake(), VERIFY, CRC):
        assert handshake.asked(delivery, ["s"]) is None
    assert Handshake().opening("a=1", "GET", ["s"]) is None
    assert [type(one).__name__ for one in MicrosoftGraph.webhooks.handshakes + Meta.webhooks.handshakes] == [
        "QueryEcho",
        "QueryEcho",
    ]


def test_an_expired_token_opens_nothing():
    """The handshake's own secret may have an end too."""
    query = "hub.mode=subscribe&hub.challenge=115&hub.verify_token=old"
    with pytest.raises(InvalidSignature):
        VERIFY.opening(query, "GET", [Secret("old", not_after=1.0)])
