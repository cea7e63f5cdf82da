"""Deliveries with a few changed bytes: an event that was signed, or one of our errors; nothing unsigned comes through."""

from __future__ import annotations

import random
from typing import Any

import pytest
from tests.events.senders import adyen, mailgun, paypal, sendgrid, ses, sns
from tests.events.senders.sample import NOW, Sample

from moorline.errors import InvalidSignature, UnusableEvent
from moorline.events import verify_each

SAMPLES = [adyen.SAMPLE, mailgun.SAMPLE, paypal.SAMPLE, sendgrid.SAMPLE, ses.SAMPLE, sns.SAMPLE]
PIECES = [
    b'"',
    b"{",
    b"}",
    b"[",
    b"]",
    b":",
    b",",
    b"\\",
    b"\\ud800",
    b"null",
    b"1e9",
    b"-1",
    b"true",
    b"\x00",
    b"\xff",
    b"",
]


def mutated(chance: random.Random, text: bytes) -> bytes:
    """The text with one to three places replaced, doubled or cut."""
    for _ in range(chance.randint(1, 3)):
        start = chance.randrange(len(text) + 1)
        end = min(len(text), start + chance.choice([0, 1, 1, 2, 5, 40]))
        middle = chance.choice([chance.choice(PIECES), text[start:end] * 2, text[::-1][start:end]])
        text = text[:start] + middle + text[end:]
    return text


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda one: one.service)
def test_mutated_deliveries_are_refused_or_say_the_same(sample: Sample):
    """Of 400 mutants in body and headers each gives a typed error, or events under the keys that were signed."""
    chance = random.Random(sample.service)
    good = sample.signed()
    known = {event.dedup_key for event in _events(sample, good.headers, good.body)}
    for _ in range(400):
        headers, body = dict(good.headers), good.body
        if chance.random() < 0.7 or sample.service in {"adyen", "mailgun", "ses", "sns"}:
            body = mutated(chance, body)
        else:
            name = chance.choice(sorted(headers))
            headers[name] = mutated(chance, headers[name].encode()).decode("latin-1")
        try:
            found = _events(sample, headers, body)
        except (InvalidSignature, UnusableEvent):
            continue
        assert {event.dedup_key for event in found} <= known


def _events(sample: Sample, headers: dict[str, str], body: bytes) -> list[Any]:
    return verify_each(
        sample.service,
        headers=headers,
        body=body,
        secrets=sample.secret,
        now=NOW,
        certificates={**(sample.certificates or {})},
    )
