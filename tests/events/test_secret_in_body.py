"""A secret shown in each event of a body: what is believed, and what is not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorline.errors import ConfigurationError, InvalidSignature, UnusableEvent
from moorline.events import verify, verify_each
from moorline.events.body import fields, streamed
from moorline.events.schemes.secret_in_body import SecretInBody
from moorline.secrets import Secret
from moorline.services import MicrosoftGraph

SCHEME = MicrosoftGraph.webhooks
SECRET = "a client state"


def notification(state: object = SECRET, **said: Any) -> dict[str, Any]:
    """One change."""
    return {"subscriptionId": "s", "changeType": "updated", "clientState": state, "resourceData": {"id": "r"}, **said}


def delivery(*notifications: Any) -> bytes:
    """A body of several."""
    return json.dumps({"value": notifications}).encode()


def checked(body: bytes, secrets: Any = SECRET, **options: Any) -> Any:
    """``verify`` for Graph."""
    return verify(MicrosoftGraph, headers={}, body=body, secrets=secrets, **options)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (delivery(notification("wrong")), "mismatch"),
        (delivery(notification(), notification("wrong")), "mismatch"),
        (delivery(notification("wrong"), notification()), "mismatch"),
        (delivery(notification(SECRET + " ")), "mismatch"),
        (delivery(notification("\ud800")), "mismatch"),
        (delivery(notification(), notification(None)), "missing"),
        (delivery(notification("")), "missing"),
        (delivery(notification([SECRET])), "missing"),
        (delivery(notification(12)), "missing"),
        (delivery(), "missing"),
        (b"{}", "missing"),
        (b'{"value":null}', "malformed"),
        (b'{"clientState":"a client state"}', "missing"),
        (delivery("a client state"), "malformed"),
        (b"", "malformed"),
        (b"[", "malformed"),
        (b"\xff", "malformed"),
        (b"[" * 100_000, "malformed"),
        (b'{"value":' * 50_000, "malformed"),
    ],
)
def test_one_event_without_the_secret_spoils_the_delivery(body: bytes, reason: str):
    """Each must show it, as text, in its own top field."""
    with pytest.raises(InvalidSignature) as raised:
        checked(body)
    assert raised.value.reason == reason


def test_two_lists_under_one_name_are_both_checked():
    """No reader of the body finds an event that was not looked at."""
    body = b'{"value":[%s],"value":[%s]}' % tuple(
        json.dumps(notification(state)).encode() for state in (SECRET, "wrong")
    )
    with pytest.raises(InvalidSignature):
        checked(body)
    with pytest.raises(InvalidSignature):
        checked(b'{"value":[{"clientState":"a client state","clientState":"wrong"}]}')


def test_the_events_of_a_delivery_may_show_different_secrets():
    """Subscriptions live on with the secret that they were made with; the older one is reported."""
    body = delivery(notification("new"), notification("old"), notification("new"))
    assert checked(body, ["new", "old"]).secret_index == 1
    assert checked(delivery(notification("new")), ["new", "old"]).secret_index == 0
    old = Secret("old", not_after=100.0)
    assert checked(body, ["new", old], now=99.0).secret_index == 1
    with pytest.raises(InvalidSignature):
        checked(body, ["new", old], now=100.0)


def test_changes_are_told_apart_by_what_marks_them():
    """A notification's own id, a sequence number or an etag make an id; without one each delivery is an event."""
    marks: list[dict[str, Any]] = [
        {"id": "n1"},
        {"resourceData": {"id": "r", "sequenceNumber": 7}},
        {"resourceData": {"id": "r", "@odata.etag": 'W/"x"'}},
    ]
    keys = [checked(delivery(notification(**mark))).dedup_key for mark in marks]
    assert keys == ["s:r:updated:n1", "s:r:updated:7", 's:r:updated:W/"x"']
    plain = delivery(notification())
    assert checked(plain).dedup_key != checked(plain).dedup_key
    life = delivery({"subscriptionId": "s", "clientState": SECRET, "lifecycleEvent": "missed"})
    assert (checked(life).type, checked(life).dedup_key[:4]) == ("missed", "new:")


def test_a_delivery_of_several_is_several_events():
    """Each with its own type, id and bytes."""
    body = delivery(notification(id="1"), notification(id="2", changeType="deleted"))
    events = verify_each(MicrosoftGraph, headers={}, body=body, secrets=SECRET)
    assert [event.type for event in events] == ["updated", "deleted"]
    assert [event.payload["id"] for event in events] == ["1", "2"]


@given(st.binary(max_size=200) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["value", "clientState", "x"]), inner),
).map(lambda value: json.dumps(value).encode()))  # fmt: skip
def test_whatever_a_stranger_sends_it_is_a_failed_check(body: bytes):
    """Never an error of another kind, and never believed."""
    with pytest.raises(InvalidSignature):
        checked(body, "a secret that is in no body")


def test_a_record_must_say_where_the_events_lie():
    """Otherwise there is nothing that holds a secret."""
    for each in ("", "lines"):
        with pytest.raises(ConfigurationError, match="each"):
            SecretInBody(env="X", field="secret", each=each)


def test_the_first_event_without_a_good_secret_ends_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a stranger wrote behind it is not read: a megabyte of empty events costs one."""
    read: list[bytes] = []

    def counting(body: bytes, names: tuple[str, ...]) -> dict[str, Any]:
        read.append(body)
        return fields(body, names)

    monkeypatch.setattr("moorline.events.schemes.secret_in_body.fields", counting)
    with pytest.raises(InvalidSignature, match="in each event"):
        checked(b'{"value":[' + b",".join([b"{}"] * 340_000) + b"]}")
    assert read == [b"{}"]


@pytest.mark.parametrize(
    "body",
    [
        b'{"notificationItems":[' + b",".join([b"{}"] * 100_000) + b"]}",
        b"{" + b",".join([b'"a":1'] * 100_000) + b"}",
    ],
)
def test_entries_that_lead_to_no_event_are_looked_at_within_a_bound(body: bytes) -> None:
    """Ten thousand, then the check is over."""
    with pytest.raises(UnusableEvent, match="too much"):
        list(streamed(body, "notificationItems.*.NotificationRequestItem"))
