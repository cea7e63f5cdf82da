"""Slack's own SDK and we agree; commands and interactivity come as forms."""

from __future__ import annotations

import json
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st
from slack_sdk.signature import Clock, SignatureVerifier
from tests.events.senders.sample import NOW
from tests.events.senders.slack import SAMPLE

from moorline.errors import InvalidSignature
from moorline.events import Event, verify
from moorline.services import Slack

FORM = {"Content-Type": "application/x-www-form-urlencoded"}
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
keys = texts.filter(str.strip)


class At(Clock):
    """Slack's clock, stopped."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def now(self) -> float:
        """The moment."""
        return self.seconds


def body_with(text: str) -> bytes:
    """An event with that text in it."""
    event = {"type": "app_mention", "text": text}
    return json.dumps({"type": "event_callback", "event_id": "Ev1", "event": event}, ensure_ascii=False).encode()


def checked(body: bytes, secret: str = SAMPLE.secret, **headers: str) -> Event:
    """The Event of a delivery that we signed."""
    signed = Slack.webhooks.sign(body, secret, now=NOW)
    return verify(Slack, headers={**signed, **headers}, body=body, secrets=SAMPLE.secret, now=NOW)


def form(**fields: str) -> Event:
    """The Event of a form."""
    return checked(urlencode(fields).encode(), **FORM)


@given(text=texts, secret=keys)
def test_we_accept_what_slack_signs(text: str, secret: str):
    """Made by slack_sdk: accepted in time; refused with another secret, a changed byte, and when it is old or to come."""
    body, stamp = body_with(text), str(int(NOW))
    signature = SignatureVerifier(secret).generate_signature(timestamp=stamp, body=body)
    headers = {"X-Slack-Request-Timestamp": stamp, "X-Slack-Signature": str(signature)}
    assert verify(Slack, headers=headers, body=body, secrets=["old", secret], now=NOW).secret_index == 1
    for given_body, given_secret, now in (
        (body, secret + "x", NOW),
        (body + b" ", secret, NOW),
        (body, secret, NOW + 301),
        (body, secret, NOW - 301),
    ):
        with pytest.raises(InvalidSignature):
            verify(Slack, headers=headers, body=given_body, secrets=given_secret, now=now)


@given(text=texts, secret=keys)
def test_slack_accepts_what_we_sign(text: str, secret: str):
    """slack_sdk takes our headers; with another secret, a changed byte, and when they are old, it refuses."""
    body = body_with(text)
    headers = Slack.webhooks.sign(body, secret, now=NOW)
    stamp, signature = headers["X-Slack-Request-Timestamp"], headers["X-Slack-Signature"]
    assert SignatureVerifier(secret, clock=At(NOW)).is_valid(body, stamp, signature)
    assert not SignatureVerifier(secret + "x", clock=At(NOW)).is_valid(body, stamp, signature)
    assert not SignatureVerifier(secret, clock=At(NOW)).is_valid(body + b" ", stamp, signature)
    assert not SignatureVerifier(secret, clock=At(NOW + 301)).is_valid(body, stamp, signature)


def test_slacks_documented_vector():
    """The request of slack_sdk's own tests, to the byte."""
    body = (
        b"token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V"
        b"&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text="
        b"&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN"
        b"&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c"
    )
    headers = FORM | {
        "X-Slack-Request-Timestamp": "1531420618",
        "X-Slack-Signature": "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503",
    }
    event = verify(Slack, headers=headers, body=body, secrets="8f742231b10e8888abcd99yyyzzz85a5", now=1531420618)
    assert (event.name, event.id) == (
        "command./webhook-collect",
        "398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c",
    )
    assert event.payload["team_domain"] == "testteamnow"
    assert event.payload["text"] == ""


@pytest.mark.parametrize(
    ("payload", "name", "id"),
    [
        ({"type": "block_actions", "trigger_id": "1.2", "actions": [{"action_id": "ok"}]}, "block_actions.ok", "1.2"),
        (
            {"type": "view_submission", "trigger_id": "3.4", "view": {"callback_id": "ask"}},
            "view_submission.ask",
            "3.4",
        ),
        ({"type": "shortcut", "trigger_id": "5.6", "callback_id": "new"}, "shortcut.new", "5.6"),
        ({"type": "view_closed", "view": {"callback_id": "ask"}}, "view_closed.ask", "sha256:"),
    ],
)
def test_an_interaction_is_an_event(payload: dict[str, object], name: str, id: str):
    """The form's ``payload`` is read as JSON; where there is no trigger id the digest stands for it."""
    event = form(payload=json.dumps(payload))
    assert event.name == name
    assert event.id.startswith(id)
    assert event.payload == payload


def test_a_rate_limit_is_an_event():
    """It has no inner event, and no id."""
    event = checked(b'{"type":"app_rate_limited","team_id":"T1","minute_rate_limited":1518467820,"api_app_id":"A1"}')
    assert (event.type, event.action) == ("app_rate_limited", None)
    assert event.id.startswith("sha256:")
