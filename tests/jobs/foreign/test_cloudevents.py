"""CloudEvents in and out, by the examples of the specification; and messages as payloads of jobs."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorline.errors import InvalidArguments, PayloadMismatch
from moorline.jobs.foreign import Message
from moorline.jobs.foreign.cloudevents import AMQP_PREFIX, PREFIX, binary, opened, structured
from moorline.jobs.foreign.consumer import job_id
from moorline.jobs.foreign.message import packed, unpacked

_BASE = {"specversion": "1.0", "type": "com.example.someevent", "source": "/mycontext", "time": "2018-04-05T17:31:00Z"}
_EXTENSIONS = {"comexampleextension1": "value", "comexampleothervalue": 5}
_AT = 1_522_949_460.0
_MEDIA = "application/cloudevents+json; charset=UTF-8"


# The examples of the JSON format's section 3.2.
@pytest.mark.parametrize(
    ("said", "content_type", "body"),
    [
        ({"datacontenttype": "application/vnd.apache.thrift.binary", "data_base64": "/wA="}, ..., b"\xff\0"),
        ({"datacontenttype": "application/xml", "data": '<much wow="xml"/>', "unset": None}, ..., b'<much wow="xml"/>'),
        ({"datacontenttype": "application/json", "subject": None, "data": {"a": "abc"}}, ..., b'{"a": "abc"}'),
        ({"data": "I'm just a string"}, "application/json", b'"I\'m just a string"'),
        ({}, None, b""),
        ({"data": None}, "application/json", b"null"),
    ],
)
def test_a_structured_event_is_read(said: dict[str, Any], content_type: Any, body: bytes) -> None:
    """As the specification's examples are: binary data, text, JSON, and JSON without a type."""
    envelope = json.dumps({**_BASE, "id": "A234-1234-1234", **_EXTENSIONS, **said}).encode()
    event = opened(Message(envelope, content_type=_MEDIA))
    assert (event.id, event.type, event.source, event.time) == (
        "A234-1234-1234", "com.example.someevent", "/mycontext", _AT,
    )  # fmt: skip
    assert (event.body, event.attributes) == (body, _EXTENSIONS)
    assert event.content_type == (said["datacontenttype"] if content_type is ... else content_type)


@pytest.mark.parametrize("prefix", ["cloudEvents:", "cloudEvents_", "ce_", "ce-"])
def test_a_binary_event_is_read(prefix: str) -> None:
    """By the example of the AMQP binding's section 3.1.4, with either separator, and as Kafka and HTTP spell it."""
    said = {
        "specversion": "1.0", "type": "com.example.someevent", "time": "2018-04-05T03:56:24Z", "id": "1234-1234-1234",
        "source": "/mycontext/subcontext",
    }  # fmt: skip
    headers = {**{prefix + name: value for name, value in said.items()}, "other": 1}
    event = opened(Message(b"{}", content_type="application/json; charset=utf-8", headers=headers))
    assert (event.id, event.source, event.time) == ("1234-1234-1234", "/mycontext/subcontext", 1_522_900_584.0)
    assert (event.body, event.headers, event.attributes) == (b"{}", {"other": 1}, {})
    assert event.content_type == "application/json; charset=utf-8"


@pytest.mark.parametrize("lacks", ["id", "source", "specversion", "type"])
def test_what_lacks_a_needed_attribute_is_no_event(lacks: str) -> None:
    """In an envelope that says that it is one, it is an error; among headers it is any message."""
    said = {name: value for name, value in {**_BASE, "id": "1"}.items() if name != lacks}
    with pytest.raises(PayloadMismatch, match=f"has no {lacks}"):
        opened(Message(json.dumps(said).encode(), content_type=_MEDIA))
    plain = Message(b"{}", headers={f"ce_{name}": value for name, value in said.items()})
    assert opened(plain) is plain


@pytest.mark.parametrize(
    ("body", "media", "match"),
    [
        (b"[]", _MEDIA, "not a JSON object"),
        (b"\xff", _MEDIA, "not a JSON object"),
        ({"specversion": "0.3"}, _MEDIA, "another version"),
        ({"time": "yesterday"}, _MEDIA, "no time stamp"),
        (
            b'{"id":"1","source":"s","type":"t","specversion":"1.0","datacontenttype":"a/b","data":'
            + b"[" * 900
            + b"]" * 900
            + b"}",
            _MEDIA,
            "no text|cannot be read|not a JSON object",
        ),
        ({"data_base64": "?"}, _MEDIA, "not base64"),
        ({"datacontenttype": "text/plain", "data": {}}, _MEDIA, "no text"),
        ({"datacontenttype": 5, "data": {}}, _MEDIA, "datacontenttype of the CloudEvent is no text"),
        ({"datacontenttype": ["text/plain"], "data_base64": ""}, _MEDIA, "datacontenttype of the CloudEvent is no"),
        (b"", "application/cloudevents+avro", r"format 'application/cloudevents\+avro' cannot be read"),
        (b"[]", "application/cloudevents-batch+json", "cannot be read"),
    ],
)
def test_a_broken_envelope_is_named(body: Any, media: str, match: str) -> None:
    """It becomes a dead letter with the reason mismatch; the message shows no value."""
    sent = body if isinstance(body, bytes) else json.dumps({**_BASE, "id": "1", **body}).encode()
    with pytest.raises(PayloadMismatch, match=match):
        opened(Message(sent, content_type=media))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"id": None}, "id: a CloudEvent needs one"),
        ({"attributes": {"Subject": "x"}}, "'Subject' is no further attribute"),
        ({"attributes": {"id": "x"}}, "'id' is no further attribute"),
        ({"attributes": {"a": 1.5}}, "a is neither a text"),
        ({"time": 1e300}, "time: it is no moment"),
        ({"body": b"{", "content_type": "application/json"}, "it is not JSON"),
    ],
)
def test_an_event_that_cannot_be_is_refused(change: dict[str, Any], match: str) -> None:
    """Before anybody gets it."""
    facts: dict[str, Any] = {"body": b"{}", "id": "1", "type": "t", "source": "s"} | change
    with pytest.raises(InvalidArguments, match=match):
        structured(Message(**facts))


_TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
_NAMES = st.from_regex(r"[a-z][a-z0-9]{0,10}", fullmatch=True).filter(
    lambda name: name not in {"id", "source", "specversion", "type", "time", "datacontenttype", "data"}
)
_TIMES = st.none() | st.integers(0, 4_000_000_000_000).map(lambda ms: ms / 1000)
_JSON = st.recursive(st.none() | st.booleans() | st.integers() | _TEXT, st.lists, max_leaves=5)
_BODIES = st.one_of(
    st.tuples(_JSON.map(lambda value: json.dumps(value, indent=1).encode()), st.just("application/json")),
    st.tuples(st.binary(), st.sampled_from([None, "application/octet-stream", "text/plain; charset=latin-1"])),
)


@st.composite
def events(draw: st.DrawFn, values: st.SearchStrategy[Any]) -> Message:
    body, content_type = draw(_BODIES)
    attributes = draw(st.dictionaries(_NAMES, values, max_size=3))
    return Message(
        body, id=draw(_TEXT), type=draw(_TEXT), source=draw(_TEXT), time=draw(_TIMES), content_type=content_type,
        headers={"h": "1"}, attributes=attributes,
    )  # fmt: skip


@given(events(_TEXT | st.booleans() | st.integers(-(2**31), 2**31 - 1)))
def test_a_structured_event_comes_back_as_it_went(event: Message) -> None:
    """Byte for byte, JSON too."""
    sent = structured(event)
    envelope = json.loads(sent.body)
    assert sent.content_type is not None
    assert sent.content_type.startswith("application/cloudevents+json")
    assert envelope["specversion"] == "1.0"
    assert not {"data", "data_base64"} <= envelope.keys()
    assert opened(sent) == event


@given(events(_TEXT), st.sampled_from([AMQP_PREFIX, PREFIX]))
def test_a_binary_event_comes_back_as_it_went(event: Message, prefix: str) -> None:
    """Its attributes as text, which is what a queue's headers are."""
    sent = binary(event, prefix)
    assert (sent.body, sent.content_type) == (event.body, event.content_type)
    assert all(isinstance(value, str) for value in sent.headers.values())
    assert opened(sent) == event


@pytest.mark.parametrize("time", ["2018-04-05t17:31:00z", "2018-04-05T19:31:00.000000000+02:00"])
def test_a_time_is_read_as_rfc_3339_writes_it(time: str) -> None:
    """Small letters and fine fractions are allowed there."""
    said = {**_BASE, "id": "1", "time": time}
    assert opened(Message(json.dumps(said).encode(), content_type=_MEDIA)).time == _AT


_HEADERS = st.dictionaries(_TEXT, st.none() | st.booleans() | st.integers() | _TEXT, max_size=3)


@given(st.binary() | _TEXT.map(str.encode), st.none() | st.text(), _HEADERS, _TIMES)
def test_a_message_is_kept_as_it_came(body: bytes, id: str | None, headers: dict[str, Any], time: float | None) -> None:
    """Each byte of its body, and all that came beside it; people can read it if it is text."""
    message = Message(body, id=id, time=time, headers=headers, attributes={"a": 1})
    assert unpacked(packed(message, url="x")) == (message, {"url": "x"})


@pytest.mark.parametrize(
    "payload", [b"", b"[]", b'{"v":2,"text":""}', b'{"v":1}', b'{"v":1,"base64":"?"}', b'{"v":1,"text":5}']
)
def test_a_payload_of_another_format_is_a_mismatch(payload: bytes) -> None:
    """A dead letter, for a program that knows it."""
    with pytest.raises(PayloadMismatch, match="cannot read"):
        unpacked(payload)


_NOW = 1_800_000_000.0


def test_the_id_of_a_job_is_that_of_its_message() -> None:
    """The same for the same message, another one for each thing that makes it another; in the order of their times."""
    first = Message(b"{}", id="1", time=_NOW - 5)
    same = job_id("orders", first, _NOW)
    assert same == job_id("orders", Message(b"{}", id="1", time=_NOW - 5), _NOW + 9)
    others = [
        ("invoices", first),
        ("orders", Message(b"{} ", id="1", time=_NOW - 5)),
        ("orders", Message(b"{}", id="2", time=_NOW - 5)),
        ("orders", Message(b"{}", id="1", source="/s", time=_NOW - 5)),
    ]
    ids = {same, *(job_id(name, message, _NOW) for name, message in others)}
    assert len(ids) == 5
    assert {len(one) for one in ids} == {32}
    assert {one[:12] for one in ids} == {f"{int((_NOW - 5) * 1000):012x}"}
    assert job_id("orders", Message(b"{}", id="1", time=_NOW - 4), _NOW) > same


def test_a_message_without_id_or_time() -> None:
    """Without an id each is a new one; a time that cannot be is not believed."""
    assert job_id("orders", Message(b"{}"), _NOW) != job_id("orders", Message(b"{}"), _NOW)
    assert job_id("orders", Message(b"{}", id="1", time=_NOW), _NOW, stamped=False).startswith("0" * 12)
    for time in (None, 0.0, _NOW + 1e6, 1e300):
        assert job_id("orders", Message(b"{}", id="1", time=time), _NOW).startswith("0" * 12)
    broken = Message(b"[]", id="1", content_type=_MEDIA)
    assert job_id("orders", broken, _NOW) == job_id("orders", broken, _NOW)
