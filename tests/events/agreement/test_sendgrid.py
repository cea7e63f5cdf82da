"""SendGrid's own package and we agree on what it signs. The package only verifies; SendGrid's tests have its signature."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sendgrid.helpers.eventwebhook import EventWebhook  # type: ignore[import-untyped]
from tests.events.keys import elliptic

from moorline.errors import ConfigurationError, InvalidSignature
from moorline.events import verify_each
from moorline.services import SendGrid

NOW = 1_790_000_000.0
OURS, OTHERS = elliptic("ours"), elliptic("theirs")
SIGNATURE, STAMP = "X-Twilio-Email-Event-Webhook-Signature", "X-Twilio-Email-Event-Webhook-Timestamp"

# sendgrid/sendgrid-python, test/unit/test_eventwebhook.py: made by SendGrid itself.
KEY = (
    "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE83T4O/n84iotIvIW4mdBgQ/7dAfSmpqIM8kF9mN1flpVKS3GRqe62gw+2fNNRaINXvVpiglSI8eNEc6wEA"
    "3F+g=="
)
ANOTHER = (
    "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEqTxd43gyp8IOEto2LdIfjRQrIbsd4SXZkLW6jDutdhXSJCWHw8REntlo7aNDthvj+y7GjUuFDb/R1NGe1O"
    "PzpA=="
)
EVENT = {
    "email": "hello@world.com",
    "event": "dropped",
    "reason": "Bounced Address",
    "sg_event_id": "ZHJvcC0xMDk5NDkxOS1MUnpYbF9OSFN0T0doUTRrb2ZTbV9BLTA",
    "sg_message_id": "LRzXl_NHStOGhQ4kofSm_A.filterdrecv-p3mdw1-756b745b58-kmzbl-18-5F5FC76C-9.0",
    "smtp-id": "<LRzXl_NHStOGhQ4kofSm_A@ismtpd0039p1iad1.sendgrid.net>",
    "timestamp": 1600112492,
}
BODY = json.dumps([EVENT], sort_keys=True, separators=(",", ":")).encode() + b"\r\n"
HEADERS = {
    SIGNATURE: ("MEUCIGHQVtGj+Y3LkG9fLcxf3qfI10QysgDWmMOVmxG0u6ZUAiEAyBiXDWzM+uOe5W0JuG+luQAbPIqHh89M15TluLtEZtM="),
    STAMP: "1600112502",
}


def events(body: bytes, headers: dict[str, str], secrets: Any, now: float) -> list[str]:
    """The ids of the events in that delivery."""
    return [event.id for event in verify_each(SendGrid, headers=headers, body=body, secrets=secrets, now=now)]


def test_what_sendgrid_signed_is_accepted():
    """The delivery of SendGrid's own tests, line break and all."""
    assert events(BODY, HEADERS, KEY, 1_600_112_502) == [EVENT["sg_event_id"]]
    assert events(BODY, HEADERS, [ANOTHER, KEY], 1_600_112_802) == [EVENT["sg_event_id"]]


@pytest.mark.parametrize(
    ("changes", "body", "key", "now"),
    [
        ({}, BODY, ANOTHER, 1_600_112_502),
        ({}, BODY.strip(), KEY, 1_600_112_502),
        ({}, BODY[:-2] + b"\n", KEY, 1_600_112_502),
        ({STAMP: "1600112503"}, BODY, KEY, 1_600_112_502),
        ({STAMP: "timestamp"}, BODY, KEY, 1_600_112_502),
        ({}, BODY, KEY, 1_600_112_803),
        ({}, BODY, KEY, 1_600_112_201),
        (
            {
                SIGNATURE: "MEUCIQCtIHJeH93Y+qpYeWrySphQgpNGNr/U+UyUlBkU6n7RAwIgJTz2C+8a8xonZGi6BpSzoQsbVRamr2nlxFDWYNH3j/0="
            },
            BODY,
            KEY,
            1_600_112_502,
        ),
    ],
)
def test_what_it_did_not_sign_so_is_refused(changes: dict[str, str], body: bytes, key: str, now: float):
    """Another key, a body without its line break, another time or signature, and one that is too old or too new."""
    with pytest.raises(InvalidSignature):
        events(body, HEADERS | changes, key, now)


@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_the_package_accepts_what_we_sign(text: str):
    """Any text, signed by us, is good to SendGrid's package and to us; another key and another body are not."""
    body = json.dumps([{"sg_event_id": "1", "event": "open", "x": text}], ensure_ascii=False) + "\r\n"
    headers = SendGrid.webhooks.sign(body.encode(), OURS.short, now=NOW, key=OURS.private)
    official = EventWebhook(OURS.short)
    assert official.verify_signature(body, headers[SIGNATURE], headers[STAMP])
    assert events(body.encode(), headers, OURS.short, NOW) == ["1"]
    for other, changed in ((OTHERS.short, body), (OURS.short, body + " "), (OURS.short, body.strip())):
        assert not EventWebhook(other).verify_signature(changed, headers[SIGNATURE], headers[STAMP])
        with pytest.raises(InvalidSignature):
            events(changed.encode(), headers, other, NOW)


@pytest.mark.parametrize("secret", ["x", "TUZrdw==", KEY[:-4], elliptic("a").private.decode(), b"\xff"])
def test_what_is_no_public_key_is_named(secret: Any):
    """A key that cannot be one, or is private: an error of configuration, which does not show it."""
    with pytest.raises(ConfigurationError, match="secrets") as raised:
        events(BODY, HEADERS, secret, 1_600_112_502)
    assert str(secret) not in str(raised.value)


@pytest.mark.parametrize("key", [None, b"x", OURS.public])
def test_signing_needs_the_private_key(key: Any):
    """It is no secret of ours: without it nothing can be signed."""
    with pytest.raises(ConfigurationError, match="key"):
        SendGrid.webhooks.sign(BODY, KEY, key=key)
