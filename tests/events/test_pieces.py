"""The events within a delivery: exact slices of what came, for any JSON and any white space, and nothing lost."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorline.errors import UnusableEvent
from moorline.events.body import pieces

KEYS = st.sampled_from(["items", "item", "x", "*", "é", 'a"b', "lines", ""])
SPACES = st.text(" \t\r\n", max_size=3)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@st.composite
def written(draw: st.DrawFn, value: Any) -> str:
    """The value as JSON, with white space wherever it may be, its text escaped or not."""

    def space() -> str:
        return draw(SPACES)

    def text(one: Any) -> str:
        return json.dumps(one, ensure_ascii=draw(st.booleans()))

    def write(one: Any) -> str:
        if isinstance(one, dict):
            inside = [f"{space()}{text(key)}{space()}:{space()}{write(held)}{space()}" for key, held in one.items()]
            return "{" + (",".join(inside) or space()) + "}"
        if isinstance(one, list):
            return "[" + (",".join(f"{space()}{write(held)}{space()}" for held in one) or space()) + "]"
        return text(one)

    return space() + write(value) + space()


@given(st.data())
def test_the_pieces_of_a_list_are_its_items(data: st.DataObject):
    """Each is an exact slice of the body, and reads as the item does; they stand in their order."""
    items = data.draw(st.lists(VALUES, max_size=5))
    body = data.draw(written(items)).encode()
    found = pieces(body, "*")
    assert [json.loads(one) for one in found] == items
    _in_order(found, body)


@given(st.data())
def test_the_pieces_that_lie_deeper_are_found_by_their_path(data: st.DataObject):
    """``items.*`` and ``items.*.item``, beside whatever else there is."""
    items = data.draw(st.lists(st.dictionaries(KEYS, VALUES, max_size=4), max_size=4))
    whole = data.draw(st.dictionaries(KEYS, VALUES, max_size=3)) | {"items": items}
    body = data.draw(written(whole)).encode()
    found = pieces(body, "items.*")
    assert [json.loads(one) for one in found] == items
    _in_order(found, body)
    deeper = pieces(body, "items.*.item")
    assert [json.loads(one) for one in deeper] == [one["item"] for one in items if "item" in one]
    _in_order(deeper, body)


@given(st.data())
def test_a_single_event_in_place_of_the_list_is_that_one(data: st.DataObject):
    """What is no list is the event itself."""
    value = data.draw(VALUES.filter(lambda one: not isinstance(one, list)))
    text = data.draw(written(value))
    assert pieces(text.encode(), "*") == [text.strip(" \t\r\n").encode()]


@given(st.data())
def test_one_event_on_each_line(data: st.DataObject):
    """With blank lines between and at the end, by either kind of line end; a list is taken too."""
    items = data.draw(st.lists(st.dictionaries(KEYS, VALUES, max_size=3), min_size=1, max_size=4))
    lines = [json.dumps(one) for one in items]
    end = data.draw(st.sampled_from(["\n", "\r\n", "\n\n", " \n\t"]))
    assert pieces((end.join(lines) + data.draw(st.sampled_from(["", end]))).encode(), "lines") == [
        line.encode() for line in lines
    ]
    assert [json.loads(one) for one in pieces(json.dumps(items, indent=1).encode(), "lines")] == items


@pytest.mark.parametrize("each", ["*", "items.*"])
@pytest.mark.parametrize("body", [b"", b" \n"])
def test_nothing_at_all_is_unusable_but_for_lines(each: str, body: bytes):
    """No line is no event, and still a delivery."""
    with pytest.raises(UnusableEvent):
        pieces(body, each)
    assert pieces(body, "lines") == []


@pytest.mark.parametrize("each", ["*", "items.*", "lines"])
@pytest.mark.parametrize(
    "body",
    [
        b"[",
        b"[1,2",
        b"[1,]",
        b"[1 2]",
        b"[1] 2",
        b'{"items":[1]} {"items":[2]}',
        b'{"items":[1]}]',
        b'{"items":[1],}',
        b"{items:[1]}",
        b"\xff",
        b"\x00",
        b"[" * 200_000,
        b'{"items":' * 100_000,
        b"not json",
    ],
)
def test_a_body_that_is_not_json_as_a_whole_is_unusable(each: str, body: bytes):
    """A good beginning is not taken for all of it: what follows would be lost and acknowledged."""
    with pytest.raises(UnusableEvent):
        pieces(body, each)


def test_a_byte_order_mark_is_no_part_of_an_event():
    """As ``json.loads`` has it."""
    assert pieces(b'\xef\xbb\xbf[{"a":1}]', "*") == [b'{"a":1}']


def _in_order(found: list[bytes], body: bytes) -> None:
    at = 0
    for one in found:
        at = body.index(one, at) + len(one)


@pytest.mark.parametrize("odd", [b'{"a": 2, "b', b"no JSON", b"[" * 200_000])
def test_a_line_that_is_no_json_is_a_piece_beside_the_good_ones(odd: bytes):
    """A last line that was cut off, or one that is odd, does not cost those before it."""
    assert pieces(b'{"a": 1}\n' + odd, "lines") == [b'{"a": 1}', odd]
    with pytest.raises(UnusableEvent):
        pieces(odd, "lines")


def test_a_value_on_several_lines_that_is_cut_off_is_unusable():
    """Its lines are no events."""
    with pytest.raises(UnusableEvent):
        pieces(b'{\n"a": 1,\n"b":', "lines")
