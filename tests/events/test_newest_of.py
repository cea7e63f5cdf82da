"""Several signatures of one sender: which of them decides, and what may be left out."""

from __future__ import annotations

import dataclasses

import pytest
from tests.events.senders.sample import NOW

from moorline.errors import InvalidSignature
from moorline.events import verify
from moorline.events.scheme import Scheme
from moorline.services import HubSpot

SECRET = "a client secret"
URL = "https://shop.example/webhooks/hubspot"
BODY = b'[{"eventId":1,"subscriptionId":2,"objectId":3,"occurredAt":4,"subscriptionType":"contact.creation"}]'
SCHEME = HubSpot.webhooks
STRICT = dataclasses.replace(SCHEME, newest_only=True)
NEWEST = "X-HubSpot-Signature-v3"


def headers() -> dict[str, str]:
    """Both signatures, as HubSpot sends them."""
    old = SCHEME.versions[2].scheme.sign(BODY, SECRET)
    return SCHEME.sign(BODY, SECRET, now=NOW, url=URL) | old | {"X-HubSpot-Signature-Version": "v1"}


def taken(scheme: Scheme, shown: dict[str, str]) -> str:
    """The id of what these headers prove."""
    return verify(scheme, headers=shown, body=BODY, secrets=SECRET, url=URL, now=NOW).id


def test_the_newest_signature_decides_where_it_is():
    """A good old one beside a spoilt new one does not count."""
    assert taken(SCHEME, headers()) == taken(STRICT, headers()) == "2:1:3:4"
    for scheme in (SCHEME, STRICT):
        with pytest.raises(InvalidSignature):
            taken(scheme, headers() | {NEWEST: "AAAA"})


def test_an_old_signature_alone_counts_unless_the_newest_is_required():
    """Who leaves the new one out falls back to the old one, but not where ``newest_only`` is set."""
    stripped = {name: value for name, value in headers().items() if name != NEWEST}
    assert taken(SCHEME, stripped) == "2:1:3:4"
    with pytest.raises(InvalidSignature) as raised:
        taken(STRICT, stripped)
    assert raised.value.reason == "missing"
