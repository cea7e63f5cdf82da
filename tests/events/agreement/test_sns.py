"""What moto, which stands in for Amazon, signed as SNS: recorded, with the certificate that it made for it.

moto 5.2.5 leaves a subject unsigned, which Amazon's guide lists: so this message has none.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from moorline.errors import InvalidSignature
from moorline.events import verify
from moorline.services import SES, SNS

TOPIC = "arn:aws:sns:us-east-1:123456789012:news"
RECORDED = json.loads(Path(__file__).with_name("sns_by_moto.json").read_text())
ARGUMENTS: dict[str, Any] = {"headers": {}, "certificates": {RECORDED["url"]: RECORDED["certificate"]}}
BODY = RECORDED["body"].encode()
NOW = 1_795_810_000.0


@pytest.mark.parametrize(("service", "kind"), [(SNS, "Notification"), (SES, "Bounce")])
def test_what_moto_signed_is_accepted(service: Any, kind: str):
    """With line breaks, and a text that is JSON itself; the type is found in it."""
    event = verify(service, body=BODY, secrets=TOPIC, now=NOW, tolerance=1e9, **ARGUMENTS)
    assert (event.id, event.type) == (json.loads(BODY)["MessageId"], kind)


@pytest.mark.parametrize("name", ["Message", "MessageId", "Timestamp", "TopicArn", "Type", "Signature"])
def test_each_of_its_fields_counts(name: str):
    """One changed letter in any of the signed fields spoils it; what is not signed may change."""
    found = json.loads(BODY)
    changed = json.dumps(found | {name: found[name][:-1] + ("1" if found[name][-1] != "1" else "2")}).encode()
    with pytest.raises(InvalidSignature):
        verify(SNS, body=changed, secrets=[TOPIC, TOPIC + "*"], now=NOW, tolerance=1e9, **ARGUMENTS)
    free = json.dumps(found | {"UnsubscribeURL": ""}).encode()
    assert verify(SNS, body=free, secrets=TOPIC, now=NOW, tolerance=1e9, **ARGUMENTS).id == found["MessageId"]


def test_another_topic_and_another_time_are_refused():
    """It is ours only if we named its topic, and for a day."""
    sent = verify(SNS, body=BODY, secrets=TOPIC, now=NOW, tolerance=1e9, **ARGUMENTS).timestamp
    assert sent is not None
    assert verify(SNS, body=BODY, secrets=TOPIC, now=sent + 86_400, **ARGUMENTS).timestamp == sent
    for topic, now in ((TOPIC + "2", sent), (TOPIC, sent + 86_701), (TOPIC, sent - 301)):
        with pytest.raises(InvalidSignature):
            verify(SNS, body=BODY, secrets=topic, now=now, **ARGUMENTS)
