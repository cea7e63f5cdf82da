from __future__ import annotations

from decimal import Decimal
from urllib.parse import parse_qsl, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorline.calls.forms import encode_form, pairs, segment
from moorline.errors import ConfigurationError

names = st.text(st.characters(blacklist_characters="[]", blacklist_categories=["Cs"]), min_size=1, max_size=8)
texts = st.text(st.characters(blacklist_categories=["Cs"]), max_size=20)
values = st.recursive(
    texts, lambda inner: st.dictionaries(names, inner, max_size=3) | st.lists(texts, max_size=3), max_leaves=8
)


@given(st.dictionaries(names, values, max_size=4))
def test_a_form_decodes_back(form):
    """A standard decoder reads the very names and values that were encoded, in order."""
    encoded = encode_form(form)
    assert encoded.isascii()
    assert parse_qsl(encoded, keep_blank_values=True, strict_parsing=bool(encoded)) == list(pairs(form))


def test_the_spelling_of_nested_values():
    """Mappings and lists are spelled as vendors document, numbered where fields would mix; None is left out."""
    form = {"a": True, "b": {"c": 1, "d": None}, "e": ["x", "y"], "f": [{"g": Decimal("1e2")}], "h": "", "i": 0.5}
    assert unquote(encode_form(form)) == "a=true&b[c]=1&e[]=x&e[]=y&f[0][g]=100&h=&i=0.5"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), b"x", object(), {"in": b"x"}])
def test_what_has_no_form_is_named(value):
    """A value that no form can carry is refused by the name of its field."""
    with pytest.raises(ConfigurationError, match="field"):
        encode_form({"field": value})


@given(texts.filter(lambda text: text.strip(".") != ""))
def test_a_segment_stays_one_segment(text):
    """An id becomes one segment of a path, whatever it holds, and decodes back."""
    escaped = segment(text)
    assert not set(escaped) & set("/?#% ") - {"%"}
    assert unquote(escaped) == text


@pytest.mark.parametrize("value", ["", ".", "..", True, None, 1.5])
def test_no_segment(value):
    """What would reach another resource is refused by name."""
    with pytest.raises(ConfigurationError, match="payment"):
        segment(value, "payment")
