"""Where facts are found in a delivery: places, alternatives, and what becomes of an event without an id."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

import pytest

from moorline.errors import UnusableEvent
from moorline.events import Delivery, SharedSecret, Verified
from moorline.events.body import fields
from moorline.events.places import digest

FORM = {"content-type": "application/x-www-form-urlencoded"}


def read(body: bytes, headers: dict[str, str] | None = None, *, url: str = "", **record: Any) -> Verified:
    """The facts of a delivery, by a record with those places."""
    scheme = SharedSecret(env="X_SECRET", **{"id": "id", "typed": False, **record})
    return scheme.read(Delivery(headers or {}, body, url=url or None), 0, None)


@pytest.mark.parametrize(
    ("place", "found"),
    [
        ("id", "top"),
        ("number", "12"),
        ("a.b", "deep"),
        ("a.none|a.b", "deep"),
        ("none|a.none|number", "12"),
        ("list.0.x", "first"),
        ("list.1.x", "second"),
        ("list.2.x|id", "top"),
        ("list.-1.x|id", "top"),
        ("list.x|id", "top"),
        ("text.y", "inside"),
        ("a.@odata\\.etag", 'W/"1"'),
        ("has:a.b", "b"),
        ("has:list", "list"),
        ("has:none|=else", "else"),
        ("has:a.none|id", "top"),
        ("=said", "said"),
        ("header:X-One", "1"),
        ("query:q", "two"),
        ("header:X-None|query:q", "two"),
        ("has:query:q", "q"),
    ],
)
def test_a_place_is_found(place: str, found: str):
    """Each kind of place, and the first of several that holds something."""
    body = json.dumps(
        {
            "id": "top",
            "number": 12,
            "a": {"b": "deep", "@odata.etag": 'W/"1"'},
            "list": [{"x": "first"}, {"x": "second"}],
            "text": '{"y":"inside"}',
        }
    ).encode()
    assert read(body, {"x-one": "1"}, url="https://x.example/?q=two", id=place).id == found


@pytest.mark.parametrize("place", ["a", "list", "flag", "list|id"])
def test_what_is_neither_text_nor_a_number_is_no_id(place: str):
    """An object, a list and a truth value are refused rather than written out."""
    with pytest.raises(UnusableEvent, match="neither text"):
        read(b'{"id":"x","a":{},"list":[],"flag":true}', id=place)


def test_a_form_has_its_own_facts_beside_those_of_json():
    """A body that is no JSON is nothing wrong where it is a form; a broken ``payload`` in one is."""
    body = urlencode({"trigger": "1.2", "command": "/x"}).encode()
    found = read(body, FORM, id="id|form:trigger", type=("kind", "has:form:command"), action="form:command")
    assert (found.id, found.type, found.action, found.problem) == ("1.2", "command", "/x", "")
    assert read(b"payload=%7B", FORM, id="form:payload", type="kind").problem
    with pytest.raises(UnusableEvent, match="not JSON"):
        read(body, FORM, lacking="digest", forms=False)  # a sender that uses no forms: the media type is anybody's word


def test_the_whole_delivery_can_be_asked_from_within_an_event():
    """What stands beside the list holds for each of its events."""
    scheme = SharedSecret(env="X", each="items.*", id="whole:account|n", type="whole:kind.name")
    body = b'{"items":[{"n":1},{"n":2}],"kind":{"name":"page"}}'
    parts = scheme.parts(Delivery({}, body), 0, None)
    assert [(found.id, found.type, part) for found, part in parts] == [
        ("1", "page", b'{"n":1}'),
        ("2", "page", b'{"n":2}'),
    ]


def test_an_event_without_an_id_is_refused_or_known_by_its_content_or_new_each_time():
    """As the record says; one that has an id has it in all three."""
    body = b'{"x":1}'
    with pytest.raises(UnusableEvent, match="no 'id'"):
        read(body)
    digests = {read(body, lacking="digest").key for _ in range(2)}
    assert len(digests) == 1
    assert digests.pop().startswith("sha256:")
    new = {read(body, lacking="new").key for _ in range(3)}
    assert len(new) == 3
    assert {read(b'{"id":"7"}', lacking=one).key for one in ("refuse", "digest", "new")} == {"7"}


def test_parts_that_are_too_long_together_become_a_digest():
    """No event is lost for the length of a sender's ids; a single one that is too long is refused."""
    one, other = (json.dumps({"a": "x" * 200, "b": "y" * 100 + end}).encode() for end in "12")
    found = read(one, id=("a", "b"))
    assert found.id.startswith("sha256:")
    assert found.id == read(one, id=("a", "b")).key != read(other, id=("a", "b")).key
    with pytest.raises(UnusableEvent, match="longer"):
        read(json.dumps({"id": "x" * 300}).encode())


def test_an_alternative_in_a_header_that_is_not_signed_is_not_believed():
    """One place that nobody vouches for among several, and the content counts."""
    from moorline.events import HMACSignature

    scheme = HMACSignature(header="X-S", env="X", id="id|header:x-id", typed=False)
    body = b'{"id":"1"}'
    assert scheme.read(Delivery({"x-id": "2"}, body), 0, None).key.startswith("sha256:")
    assert not scheme.believes("id|header:x-id")
    assert scheme.believes("id|form:id")


@pytest.mark.parametrize(
    "odd",
    [
        b'{"id": {"deep": 1}, "type": "t"}',
        b'{"id": "\\u0007", "type": "t"}',
        b'{"id": "%s", "type": "t"}' % (b"x" * 300),
        b'{"id": "b", "type": ["t"]}',
        b'{"id": "b", "kind": "thin"}',
        b"5",
    ],
)
def test_an_odd_event_of_several_is_kept_by_its_digest_beside_the_others(odd: bytes):
    """It has no type; those beside it are as if it were not there."""
    scheme = SharedSecret(env="X", each="*", id="id", type="type", refuse={"kind": "thin"})
    delivery = Delivery({}, b'[{"id":"a","type":"t"},' + odd + b"]")
    (good, _), (found, body) = scheme.parts(delivery, 0, None)
    assert (good.id, good.type, good.problem) == ("a", "t", "")
    assert (found.id, found.type, found.key, found.problem, body) == (digest(odd), "", digest(odd), "", odd)


@pytest.mark.parametrize("body", [b'{"id":' + b"[" * 200_000 + b"]" * 200_000 + b"}", b'{"a":' * 100_000])
def test_a_body_that_is_nested_too_deeply_is_unusable(body: bytes):
    """As any that cannot be read, whichever reader gives it up."""
    with pytest.raises(UnusableEvent):
        fields(body, ("id",))
