"""XML bodies: exact slices, plain values, and none of what makes XML dangerous."""

from __future__ import annotations

from xml.sax.saxutils import escape, quoteattr

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.events.senders.salesforce import BODY, SAMPLE

from moorline.errors import UnusableEvent
from moorline.events import verify, verify_each
from moorline.events.body import parsed
from moorline.events.markup import parse, slices
from moorline.services import Salesforce

PATH = ["Envelope", "Body", "notifications", "Notification"]
texts = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff"), max_size=20)


def test_the_events_of_an_outbound_message():
    """Each Notification is an event of its record's type, with its own bytes; what is around it is not kept."""
    signed = SAMPLE.signed()
    events = verify_each(Salesforce, secrets=SAMPLE.secret, **signed.to_verify())
    assert [(event.id, event.type) for event in events] == [
        ("04l080000000001AAA", "Opportunity"),
        ("04l080000000002AAA", "Opportunity"),
    ]
    assert events[0].payload == {
        "Notification": {
            "Id": "04l080000000001AAA",
            "sObject": {"@type": "Opportunity", "Id": "006240000000001AAA", "Name": "B & B ♥"},
        }
    }
    assert all(event.body.startswith(b"<Notification>") and event.body.endswith(b"</Notification>") for event in events)
    assert not any(b"SessionId" in event.body for event in events)


def test_nil_is_none_and_repeated_elements_are_a_list():
    """Attributes have an ``@``, text beside them is ``#text``, prefixes are dropped."""
    text = b'<p:a xmlns:p="x" xmlns:xsi="y" n="1">  <p:b xsi:nil="true"/><c/><c>1</c><c q:x="2">3</c><d><![CDATA[<&]]></d></p:a>'
    assert parse(text) == {"a": {"@n": "1", "b": None, "c": ["", "1", {"@x": "2", "#text": "3"}], "d": "<&"}}
    assert parsed(text, "application/soap+xml") == parse(text)


@pytest.mark.parametrize(
    "body",
    [
        b'<!DOCTYPE a [<!ENTITY x "y">]><a>&x;</a>',
        b'<!DOCTYPE a [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;&a;">]><a>&b;</a>',
        b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>',
        b'<!DOCTYPE a [<!ENTITY x SYSTEM "http://127.0.0.1/">]><a>&x;</a>',
        b"<!DOCTYPE a><a/>",
        b"<a>&x;</a>",
        b"<a>",
        b"<a/><b/>",
        b"",
        b"{}",
        b"\xff",
        '<?xml version="1.0" encoding="utf-16"?><a/>'.encode("utf-16"),
        b"<a>" * 101 + b"</a>" * 101,
        b"<a>" * 200_000,
    ],
)  # fmt: skip
def test_dangerous_and_broken_documents_are_refused(body: bytes):
    """No document type, so no entities, inside or outside; not deeper than 100 elements; UTF-8 only."""
    with pytest.raises(UnusableEvent):
        parse(body)
    with pytest.raises(UnusableEvent):
        slices(body, ["a"])


@given(
    items=st.lists(st.tuples(texts, texts), min_size=1, max_size=5),
    space=st.sampled_from(["", "\n  ", "<!-- <x> -->", "<y>&gt;</y>"]),
)
def test_slices_are_exact_and_read_as_in_the_whole(items: list[tuple[str, str]], space: str):
    """Whatever stands in them and between them."""
    pieces = [f"<x a={quoteattr(name)} >{escape(text)}<z/></x >" for name, text in items]
    body = f"<r><l>{space}{space.join(pieces)}{space}</l><x>no</x></r>".encode()
    found = slices(body, ["r", "l", "x"])
    assert found == [piece.encode() for piece in pieces]
    whole = parse(body)["r"]["l"]["x"]
    assert [parse(piece)["x"] for piece in found] == (whole if isinstance(whole, list) else [whole])


@pytest.mark.parametrize(
    "body",
    [
        b"<a/>",
        BODY.replace(b"Notification", b"Other"),
        b"<Envelope><Body><notifications><Notification/></notifications></Body></Envelope>",
        b'<Envelope><Body><notifications><Notification a=">"/></notifications></Body></Envelope>',
    ],
)
def test_a_message_without_notifications_is_no_event(body: bytes):
    """It is refused, and not acknowledged as if it were stored."""
    with pytest.raises(UnusableEvent):
        slices(body, PATH)
    with pytest.raises(UnusableEvent):
        verify(Salesforce, headers={"Content-Type": "text/xml", "Authorization": "x"}, body=body, secrets="x")
