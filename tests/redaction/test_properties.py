"""What holds for all texts: no planted secret leaves, ordinary text is unchanged, the gate opens whenever a rule would."""

from __future__ import annotations

import base64
import html
import json
import string
import uuid
from collections.abc import Callable
from urllib.parse import quote, quote_plus, urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.redaction.canaries import CANARIES, register

from moorline import live_values, redaction
from moorline.redaction import plain

LETTERS = string.ascii_letters + string.digits
SECRETS = st.text(LETTERS + "-_+/=.!$&ü\"'\\<> %", min_size=16, max_size=60).filter(lambda one: len(one.strip()) >= 16)
AROUND = st.text(LETTERS + " .,:;/?&=\"'\\\n{}[]()<>%é\ud800", max_size=60)
PIECES = st.sampled_from(
    [one.text for one in CANARIES.values()]
    + ["token", "secret", "api_key", "password", "Authorization", "cookie", "code", "grant_type", "keys", "--token", "bearer", "basic"]
    + ["=", ":", '": "', "': '", '\\": \\"', "%22%3A%22", "&", "?", "/", "://", "@", " ", "\n", "<", ">", "</", "[", "]", "(", ")", ","]
    + ["abc123def456", "4242424242424242", "4242", "eyJ", "xoxb-", "https", "u:p", "\\u0074\\u006f\\u006b\\u0065\\u006e", "%74%6f%6b%65%6e%31"]
    + ["é", "\ud800", "İ", "null", "***", "Secret('***')", "12"]
)  # fmt: skip
MIXED = st.lists(PIECES, max_size=12).map("".join)


@pytest.fixture(autouse=True)
def _own_values(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_values", "_anchors", "_odd"):
        monkeypatch.setattr(live_values, name, {})
    monkeypatch.setattr(live_values, "_keys", set())


def _base64(value: str) -> str:
    return base64.b64encode(f"user:{value}:end".encode()).decode()


ENCODINGS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "json": lambda value: json.dumps(value)[1:-1],
    "json in json": lambda value: json.dumps(json.dumps(value)[1:-1])[1:-1],
    "repr": lambda value: repr(value)[1:-1],
    "repr of bytes": lambda value: repr(value.encode())[2:-1],
    "repr of json": lambda value: repr(json.dumps(value) + "'")[2:-4],
    "quote": lambda value: quote(value, safe=""),
    "quote_plus": quote_plus,
    "quote in quote": lambda value: quote(quote(value, safe=""), safe=""),
    "each letter quoted": lambda value: "".join(f"%{one:02X}" for one in value.encode()),
    "each letter numbered": lambda value: "".join(f"\\u{ord(one):04X}" for one in value),
    "html": html.escape,
    "html in json": lambda value: json.dumps(html.escape(value))[1:-1],
    "hex": lambda value: value.encode().hex(),
    "hex, upper case": lambda value: value.encode().hex().upper(),
    "base64": _base64,
    "base64, for urls": lambda value: _base64(value).translate(str.maketrans("+/", "-_")),
    "latin-1": lambda value: value.encode().decode("latin-1"),
}
DOORS: dict[str, Callable[[str], str]] = {
    "text": redaction.text,
    "key and value": lambda line: json.dumps(redaction.data({line: [line]}), ensure_ascii=False),
    "text body": lambda line: redaction.body(line.encode("utf-8", "replace"), "text/plain", limit=10_000),
    "query": lambda line: redaction.url(f"https://api.test/p?{urlencode({'q': line}, errors='replace')}"),
    "header": lambda line: str(redaction.headers({"X-Note": line})["X-Note"]),
    "trace": lambda line: redaction.trace(ValueError(line)),
}


@pytest.mark.parametrize("enough", [0, 1_000_000])
@pytest.mark.parametrize("encoding", ENCODINGS)
@settings(max_examples=15)
@given(secret=SECRETS, before=AROUND, after=AROUND, door=st.sampled_from(sorted(DOORS)))
def test_a_live_value_leaves_by_no_door(enough: int, encoding: str, secret: str, before: str, after: str, door: str):
    """In whatever encoding it stands, and whatever stands around it; looked for by an automaton, and by windows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(live_values, "_ENOUGH", enough)
        for name in ("_values", "_anchors", "_odd"):
            patch.setattr(live_values, name, {})
        patch.setattr(live_values, "_keys", set())
        redaction.register(secret)
        coded = ENCODINGS[encoding](secret)
        redaction.text("once, so that there is an automaton")
        assert (live_values._Quick.of is live_values._values) == (enough == 0)
        assert coded not in DOORS[door](f"{before} {coded} {after}")


@given(
    first=SECRETS, second=st.sampled_from(["tiger", "12345678", "abcd\ud800efgh", "é" * 9, "(.*)+?[]{}^$|\\#&~- \t\n\r\v\f\0"]), line=AROUND
)  # fmt: skip
def test_the_automaton_opens_wherever_a_value_stands(first: str, second: str, line: str):
    """It reads what the windows read, also short values and those that are no text; and is made anew for another value."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(live_values, "_ENOUGH", 0)
        for name in ("_values", "_anchors", "_odd"):
            patch.setattr(live_values, name, {})
        patch.setattr(live_values, "_keys", set())
        for value in (first, second):
            redaction.register(value)
            quick = live_values.mask(f"{line} {value} {line}", "***")
            patch.setattr(live_values._Quick, "of", None)
            patch.setattr(live_values._Quick, "read", -1_000_000)
            assert quick == live_values.mask(f"{line} {value} {line}", "***")
            assert value not in quick
            live_values._Quick.forget()


@given(before=MIXED, after=MIXED, kind=st.sampled_from([k for k in CANARIES if not k.startswith("live")]))
def test_a_known_shape_does_not_leave(before: str, after: str, kind: str):
    """Of the secrets that have a look or a name, whatever else is written beside them."""
    one = CANARIES[kind]
    assert one.secret not in redaction.text(f"{before}\n{one.text}\n{after}")


@given(MIXED)
def test_redacted_text_stays_as_it_is(line: str):
    """Twice is once."""
    register()
    once = redaction.text(line)
    assert redaction.text(once) == once


@given(MIXED)
def test_the_gate_opens_whenever_a_rule_would_change_something(line: str):
    """Where the gate stays shut, the rules, asked all the same, change nothing."""
    if not plain._may_hold_secrets(line):
        assert plain.shown(line) == line


@pytest.mark.parametrize("kind", ["application/json", "application/x-www-form-urlencoded", "text/plain"])
@given(line=MIXED)
def test_bodies_show_no_more_than_text_does(kind: str, line: str):
    """A body that the quick look takes for clean is one in which the rules for text find nothing either."""
    content = line.encode("utf-8", "replace")
    shown = redaction.body(content, kind, limit=10_000)
    if shown == content.decode():
        assert redaction.text(shown) == shown


WORDS = st.sampled_from(
    [
        "the",
        "call",
        "to",
        "pay",
        "failed",
        "after",
        "three",
        "attempts",
        "and",
        "was",
        "tried",
        "again",
        "later",
        "order",
        "basket",
        "ship",
        "quay",
        "harbour",
        "token",
        "bucket",
        "keyboard",
        "monkey",
        "design",
        "passenger",
        "basic",
        "understanding",
        "author",
        "signature-free",
        "Größe",
        "漢字",
        "naïve",
    ]
)
NUMBERS = st.one_of(
    st.uuids().map(str),
    st.integers(0, 10**12).map(str),
    st.integers(10**12, 2 * 10**12).map(str),  # milliseconds since 1970
    st.integers(10**15, 2 * 10**15).map(str),  # microseconds
    st.floats(0, 1e6).map(lambda value: f"{value:.2f}"),
    st.datetimes().map(lambda at: at.isoformat() + "Z"),
    st.integers(0, 10**9).map(lambda number: f"978{number:010d}"),  # ISBN
    st.integers(0, 10**8).map(lambda number: f"ORD-2026-{number:08d}"),
    st.binary(min_size=20, max_size=32).map(lambda raw: raw.hex()),
    st.integers(0, 10**18).map(lambda number: f"DE{number:020d}"),  # IBAN
)


@given(st.lists(st.one_of(WORDS, NUMBERS), max_size=20))
def test_ordinary_text_is_unchanged(words: list[str]):
    """Prose, ids, times, prices, ISBNs and account numbers."""
    register()
    line = ", ".join(words)  # two numbers side by side may be one of a card
    assert redaction.text(line) == line
    body = json.dumps({"said": words, "id": str(uuid.UUID(int=7)), "amount": 12}).encode()
    assert redaction.body(body, "application/json", limit=100_000) == body.decode()
    assert redaction.data({"said": words}) == {"said": words}


CARDS = [
    "4242424242424242", "4242 4242 4242 4242", "4242-4242-4242-4242", "5555555555554444", "2223003122003222",
    "378282246310005", "3782 822463 10005", "6011111111111117", "3056930009020004", "36227206271667", "3566002020360505",
    "6200000000000005",
]  # fmt: skip


@pytest.mark.parametrize("number", CARDS)
def test_numbers_of_cards_are_masked(number: str):
    """Stripe's test numbers of each network, as they are written: in a text, in JSON as text and as a number."""
    assert redaction.text(f"paid with {number}.") == "paid with ***."
    assert number not in redaction.body(json.dumps({"said": number}).encode(), "application/json")
    if number.isdigit():
        assert redaction.data({"number": int(number)}) == {"number": "***"}
        assert number not in redaction.body(b'{"number": %s}' % number.encode(), "application/json")


@given(st.integers(10**15, 10**16 - 1).map(str))
def test_a_number_of_sixteen_digits_is_a_card_only_with_its_check_digit(number: str):
    """Each network's numbers with another last digit are order numbers; of all sixteen-digit ones, few are masked."""
    wrong = [number[:-1] + digit for digit in string.digits]
    assert sum(redaction.text(one) != one for one in wrong) <= 1


def test_personal_data_is_masked_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch):
    """By default addresses stay readable, as most logs need them."""
    line = "mail ann.lee+x@shop.test or call +49 30 1234567, order 49301234567"
    assert redaction.text(line) == line
    try:
        redaction.mask_personal(emails=True)
        assert redaction.text(line) == "mail *** or call +49 30 1234567, order 49301234567"
        redaction.mask_personal(emails=True, phones=True)
        assert redaction.text(line) == "mail *** or call ***, order 49301234567"
        body = redaction.body(json.dumps({"to": line}).encode(), "application/json")
        assert "ann.lee" not in body
    finally:
        redaction.mask_personal()


@pytest.mark.parametrize(
    "line",
    [
        "token: 12 of 20 used" * 0 + "tokens: 12", "signatures=2", "pass: 12, fail: 0", "if key == token:", '["token", "secret"]',
        "cookie=None", "token=Secret('***')", "<Key>reports/a.json</Key>", "<NextToken></NextToken>", "-key value",
        "?code=card_declined", "re_validate_payments_of_customer_now", "ssh git@github.com:a/b", "SK0123 AC0123",
        "4000123456781", "0.4242424242424242", "4242424242424242a", "id-4242424242424242",
    ],
)  # fmt: skip
def test_what_only_looks_like_a_secret_is_shown(line: str):
    """Counts, comparisons, names, and digits that are a part of something else."""
    assert redaction.text(line) == line
