"""Exported events, read back and delivered anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorline.errors import ConfigurationError, EventPruned
from moorline.events import Event, verify
from moorline.events.export import exported, imported
from moorline.services import GitHub, Stripe
from moorline.testing import delivery, load_event

SECRET = "fixture-secret-canary"
NOW = 1_790_000_000.0


def github(body: bytes = b'{"action":"closed","number":7}', **changes: Any) -> Event:
    headers = {
        "x-github-event": "pull_request",
        "x-github-delivery": "guid-1",
        "x-github-hook-id": "7",
        "x-hub-signature-256": "sha256=00",
        "authorization": "***",
        "host": "example.com",
        "content-length": "999",
        "content-type": "application/json",
    }
    facts = {"id": "7:guid-1", "type": "pull_request", "action": "closed", "received_at": NOW, **changes}
    return Event(service="github", body=body, headers=headers, **facts)


@given(st.binary(max_size=300), st.none() | st.floats(0, 2e9))
def test_an_export_is_read_back_as_it_was(body: bytes, timestamp: float | None):
    """Text or bytes of any kind, through JSON."""
    event = github(body, timestamp=timestamp)
    assert imported(json.loads(json.dumps(exported(event)))) == event


def written(path: Path, event: Event, **options: Any) -> Path:
    path.write_text(json.dumps(exported(event, **options)))
    return path


def test_a_fixture_is_delivered_to_ones_own_application(tmp_path: Path):
    """Signed anew by the service's scheme, with the headers that it reads; what belonged to the connection is gone."""
    path = written(tmp_path / "closed.json", github())
    sent = delivery(path, secret=SECRET)
    event = verify(GitHub, headers=sent.headers, body=sent.body, secrets=SECRET)
    assert (sent.path, event.id, event.name) == ("/webhooks/github", "7:guid-1", "pull_request.closed")
    assert not {"host", "content-length", "authorization"} & {name.lower() for name in sent.headers}
    assert SECRET not in repr(sent)
    assert load_event(path) == github()


def test_a_timed_signature_is_as_of_now(tmp_path: Path):
    """An event of last year is no stale delivery."""
    body = b'{"id":"evt_1","object":"event","type":"charge.succeeded"}'
    event = Event("stripe", "evt_1", "charge.succeeded", body, {"stripe-signature": "t=1,v1=00"}, timestamp=1.0)
    sent = delivery(written(tmp_path / "a.json", event), secret="whsec_x", now=NOW)
    assert verify(Stripe, headers=sent.headers, body=sent.body, secrets="whsec_x", now=NOW).id == "evt_1"


@pytest.mark.parametrize(
    "body",
    [
        b'{"client_secret":"canary-value-1","deep":{"api_key":"canary-value-2","kept":1}}',
        b"payload=%7B%22client_secret%22%3A%22canary-value-1%22%2C%22kept%22%3A1%7D",
        b"password=canary-value-1&kept=1",
    ],
)
def test_redacting_takes_secrets_out_of_the_body(body: bytes):
    """By name, in JSON, in a form's JSON and in a form; the rest stays usable."""
    kind = "application/json" if body.startswith(b"{") else "application/x-www-form-urlencoded"
    event = Event("github", "1", "push", body, {"content-type": kind})
    text = exported(event, redact=True)["body"]
    assert "canary" not in text
    assert "kept" in text
    if not body.startswith(b"password"):
        assert imported(exported(event, redact=True)).payload["kept" if body.startswith(b"payload") else "deep"]


def test_what_is_no_export_is_said_to_be_none(tmp_path: Path):
    """File and fault are named."""
    good = exported(github())
    for wrong, said in (
        ([], "format"),
        ({**good, "format": "moorline/event/9"}, "format"),
        ({**good, "id": 7}, "id:"),
        ({**good, "headers": {"a": 1}}, "headers:"),
        ({name: value for name, value in good.items() if name != "body"}, "body:"),
        ({**good, "body": None, "body_base64": "!"}, "body_base64:"),
    ):
        path = tmp_path / "wrong.json"
        path.write_text(json.dumps(wrong))
        with pytest.raises(ConfigurationError, match=said) as refused:
            load_event(path)
        assert "wrong.json" in str(refused.value)
    with pytest.raises(ConfigurationError, match=r"missing\.json"):
        load_event(tmp_path / "missing.json")
    with pytest.raises(EventPruned):
        exported(github(b"", pruned=True))
