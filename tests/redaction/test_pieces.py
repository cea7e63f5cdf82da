"""Looking for secrets piece by piece shows what looking at all of a text shows: wherever it is cut, and whatever lies there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.redaction.canaries import CANARIES, LIVE, leaks, register
from tests.redaction.test_properties import ENCODINGS, MIXED, PIECES

from moorline import live_values, redaction
from moorline.redaction import bodies, draft, plain
from moorline.redaction.draft import Cuts, Draft, suspicious
from moorline.redaction.gate import Gate

JSON = "application/json"
FORM = "application/x-www-form-urlencoded"
TEXT = "text/plain"


@pytest.fixture(autouse=True)
def _own_values(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_values", "_anchors", "_odd"):
        monkeypatch.setattr(live_values, name, {})
    monkeypatch.setattr(live_values, "_keys", set())


@contextmanager
def _sizes(block: int, piece: int, around: int) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, size in (("_BLOCK", block), ("_PIECE", piece), ("_AROUND", around)):
            patch.setattr(draft, name, size)
        yield


def _in_pieces(kind: str, line: str) -> str:
    """Cut wherever that is allowed, and with nothing beside the pieces."""
    with _sizes(8, 1, 0):
        return redaction.body(line.encode("utf-8", "replace"), kind, limit=1_000_000)


def _as_a_whole(kind: str, line: str) -> str:
    with _sizes(1_000_000, 1_000_000, 0):
        return redaction.body(line.encode("utf-8", "replace"), kind, limit=1_000_000)


CLEAN = st.sampled_from(
    [
        '"a":1,"b":"c", ',
        "one, two\n",
        "a=1&b=2&",
        "<p>x</p>",
        " ",
        "\n",
        ", ",
        ',"',
        "&",
        ">",
        "größer, ",
        "漢",
        "x" * 70,
    ]
)
LINES = st.lists(st.one_of(MIXED, CLEAN), max_size=12).map("".join)
NAMES = st.sampled_from(
    ["id", "name", "client_secret", "token", "tokens", "keys", "metadata", "url", "note", "code", "grant_type", "card[number]"]
)  # fmt: skip
VALUES = st.recursive(
    st.one_of(st.sampled_from([1, None, True, 4242424242424242]), LINES, PIECES),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=8,
)
LAYOUTS = st.sampled_from([{"separators": (",", ":")}, {"indent": 2}, {"ensure_ascii": False}])


@given(line=LINES, kind=st.sampled_from([JSON, FORM, TEXT]))
def test_any_text_is_shown_as_if_it_had_been_looked_at_as_a_whole(line: str, kind: str):
    """Of parts of secrets, delimiters and clean stretches in any order, as a body of each kind."""
    register()
    assert _in_pieces(kind, line) == _as_a_whole(kind, line)


@given(value=VALUES, layout=LAYOUTS)
def test_json_is_shown_as_if_it_had_been_looked_at_as_a_whole(value: object, layout: dict[str, object]):
    """Also where a secret's value follows behind line ends, is a list or an object, or holds text that is cut."""
    register()
    written = json.dumps({"first": value, "api_key": value}, **layout)  # type: ignore[arg-type]
    assert _in_pieces(JSON, written) == _as_a_whole(JSON, written)


@given(fields=st.lists(st.tuples(NAMES, LINES, st.sampled_from([str, quote_plus])), max_size=8))
def test_forms_are_shown_as_if_they_had_been_looked_at_as_a_whole(fields: list[tuple[str, str, type[str]]]):
    """Encoded or not."""
    register()
    written = "&".join(f"{name}={coded(value.encode('utf-8', 'replace').decode())}" for name, value, coded in fields)
    assert _in_pieces(FORM, written) == _as_a_whole(FORM, written)


@given(line=LINES, before=st.sampled_from(["bearer", "basic", "token", "--key", "key", "https", "42424242", "PRIVATE"]))
@pytest.mark.parametrize(
    ("gate", "cuts"),
    [
        (plain._may_hold_secrets, plain.CUTS),
        (bodies._may_be_secret_json, plain.CUTS),
        (bodies._may_be_secret_field, bodies._FIELDS),
        (bodies._may_be_secret_form, bodies._FIELDS),
    ],
)
def test_no_cut_hides_anything_from_a_gate(gate: Gate, cuts: Cuts, line: str, before: str):
    """It opens for one of the pieces if it opens for all of the text."""
    with _sizes(8, 1, 0):
        assert bool(suspicious(before + line, gate, cuts)) == gate(before + line)


LONG = {
    "text in JSON": '"client_secret": "{}"',
    "behind line ends": '"client_secret"\n  :\n\n  "{}"',
    "object": '"secrets": {{"first": ["a, b", "{}"], "second": "c"}}',
    "list": '"api_keys" : [ "a", "b",\n"{}" ]',
    "json in json": '"event": "{{\\"api_key\\": \\"{}\\"}}"',
    "xml": "<SessionToken>{}</SessionToken>",
    "private key": "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----",
    "cookie": "Cookie: a={}",
}


@pytest.mark.parametrize("kind", [JSON, TEXT, FORM])
@pytest.mark.parametrize("shape", LONG)
def test_a_value_longer_than_a_piece_is_masked_to_its_end(shape: str, kind: str):
    """It is not cut at the commas that it holds."""
    inside = "word, word; " * 1_000 + "last-of-the-value"
    content = '"name": "x", ' * 1_000 + LONG[shape].format(inside) + ', "name": "y"' * 1_000
    shown = redaction.body(content.encode(), kind, limit=1_000_000)
    assert "last-of-the-value" not in shown
    assert "word, word" not in shown
    assert shown.startswith('"name": "x", ' * 1_000)


@pytest.mark.parametrize("start", [0, 190, 250, 256, 260, 4090, 4096, 4100, 8200])
@pytest.mark.parametrize("filler", ['"id": 1, ', "größer, schöner ", "a=b&c=d&", "<b>x</b>", "one line\n"])
def test_secrets_of_all_kinds_are_masked_at_each_cut(start: int, filler: str):
    """One after the other, with clean text between them that has places for cuts."""
    register()
    between = filler * 40
    content = (filler * (start // len(filler) + 1))[:start] + f"\n{between}".join(
        f"\n{one.text}\n" for one in CANARIES.values()
    )
    assert leaks(redaction.body(content.encode(), TEXT, limit=1_000_000)) == []


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("kind", [JSON, TEXT, FORM])
def test_live_values_of_any_length_are_masked_across_cuts(encoding: str, kind: str):
    """Values that hold line ends, commas and marks of forms, longer than a piece."""
    value = LIVE[1] + ', "a": 1,\n&b=2>\n' * 50
    redaction.register(value)
    coded = ENCODINGS[encoding](value)
    content = '"name": "x", ' * 100 + coded + ', "name": "y"' * 100
    shown = redaction.body(content.encode(), kind, limit=1_000_000)
    assert coded not in shown
    assert redaction.MASK in shown


def test_what_cannot_be_read_is_looked_at():
    """A lone surrogate, which no gate reads, makes its piece suspicious and hides no other."""
    line = "a, b, " * 200 + "\ud800 token=abc123, " + "a, b, " * 200 + "password=hunter2"
    shown = redaction.text(line)
    assert shown == line.replace("abc123", "***").replace("hunter2", "***")


def test_changes_move_the_pieces_behind_them():
    """A rule finds what stands in a piece after an earlier one made the text longer or shorter before or in it."""
    with _sizes(8, 1, 0):
        made = Draft("one secret two secret three secret", [(4, 10), (15, 21)])
        assert made.places("secret") == [4, 15]
        made.change([(0, 3, "ONE AND MORE"), (5, 12, "X")])
        assert made.line == "ONE AND MORE sXwo secret three secret"
        assert made.places("secret") == [18]
        made.change([(14, 24, "")])
        assert made.places("secret", "e") == []
