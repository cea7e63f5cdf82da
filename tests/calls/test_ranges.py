"""What a download may ask for, and what fits: the decisions by themselves."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorline import errors
from moorline.calls.ranges import Transfer, content_range, length_of, validator

OLD = "Tue, 02 Jan 2024 03:04:05 GMT"
LATER = "Tue, 02 Jan 2024 03:05:05 GMT"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bytes 0-499/1234", (0, 499, 1234)),
        ("Bytes 500-1233/*", (500, 1233, None)),
        ("bytes 7-7/8", (7, 7, 8)),
        (None, None),
        ("", None),
        ("bytes */1234", None),
        ("bytes 5-4/10", None),
        ("bytes 0-10/10", None),
        ("bytes 0-9/10, bytes 0-9/10", None),
        ("bytes=0-9/10", None),
        ("items 0-9/10", None),
        ("bytes -1-9/10", None),
        ("bytes 0-9/10\n", None),
        ("byte\u017f 0-9/10", None),
        ("bytes \u0660-9/10", None),
        ("bytes 0-9999999999999999999/*", None),
    ],
)
def test_content_ranges(text, expected):
    """A range of bytes is read; all else is none, and no error."""
    assert content_range(text) == expected


@given(st.text() | st.from_regex(re.compile(r"\A(?:bytes|Bytes) ?[\d*-]*[-/]?[\d*]*/?[\d*]*\Z")))
def test_any_text_is_a_range_or_none(text):
    """What is read makes sense, whatever the text is."""
    found = content_range(text)
    if found is not None:
        assert 0 <= found.first <= found.last
        assert found.total is None or found.last < found.total


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"etag": '"a"'}, '"a"'),
        ({"etag": '""'}, '""'),
        ({"etag": '"a"', "last-modified": OLD}, '"a"'),
        ({"etag": 'W/"a"', "last-modified": OLD, "date": LATER}, None),
        ({"etag": "a"}, None),
        ({"etag": '"a", "b"'}, None),
        ({"etag": '"\xe9"'}, None),
        ({"last-modified": OLD, "date": LATER}, OLD),
        ({"last-modified": OLD, "date": OLD}, None),
        ({"last-modified": LATER, "date": OLD}, None),
        ({"last-modified": OLD}, None),
        ({"last-modified": "yesterday", "date": LATER}, None),
        ({"last-modified": "Tue, 99 Foo 2024 03:04:05 GMT", "date": LATER}, None),
        ({"last-modified": "Tue, 02 Jan 2024 33:04:05 GMT", "date": LATER}, None),
        ({}, None),
    ],
)
def test_strong_validators(headers, expected):
    """A strong ETag; without any ETag a date that is a minute older than the answer; as it was sent."""
    assert validator(headers) == expected


@given(st.dictionaries(st.sampled_from(["etag", "last-modified", "date", "content-length"]), st.text()))
def test_any_headers_give_a_validator_that_can_be_sent(headers):
    """Odd headers are no validator and no length, and no error; what there is can stand in a request."""
    assert (validator(headers) or "").isprintable()
    assert (validator(headers) or "").isascii()
    length = length_of(headers)
    assert length is None or length >= 0


@given(
    st.lists(
        st.tuples(
            st.sampled_from([200, 203, 204, 206]),
            st.dictionaries(
                st.sampled_from(["etag", "content-range", "content-length", "content-encoding"]),
                st.sampled_from(['"a"', '"b"', "bytes 5-9/10", "bytes 0-9/10", "bytes 9-9/*", "10", "5", "gzip", ""]),
            ),
            st.integers(0, 12),
        ),
        max_size=8,
    )
)
def test_a_transfer_takes_any_answers(answers):
    """Whatever comes fits or is BadAnswer, and no request asks for anything but what follows the bytes that are here."""
    transfer = Transfer()
    for status, headers, count in answers:
        asked = transfer.ask()
        if asked:
            assert asked == {"Range": f"bytes={transfer.size}-", "If-Range": asked["If-Range"]}
            assert transfer.size == transfer.offset > 0
        before = transfer.size
        try:
            goes_on = transfer.begin(status, headers, "https://ledger.example/file")
            assert transfer.size == (before if goes_on else 0)
            assert asked or not goes_on
            transfer.took(count)
            transfer.end()
        except errors.BadAnswer:
            continue


def test_how_it_is_shown():
    """In words: how much is here, of how much if that is known."""
    transfer = Transfer()
    transfer.begin(200, {}, "")
    transfer.took(5)
    assert str(transfer) == "5 bytes"
    transfer.begin(200, {"content-length": "10"}, "")
    assert str(transfer) == "0 of 10 bytes"
