"""Arguments go through bytes unchanged, and what does not fit is InvalidArguments and nothing else."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorline.codec import Codec
from moorline.errors import InvalidArguments
from moorline.money import Money


@dataclass(frozen=True)
class Point:
    x: int
    label: str


_TEXT = st.text(st.characters(exclude_categories=["Cs"]))
_KINDS: dict[Any, st.SearchStrategy[Any]] = {
    str: _TEXT,
    int: st.integers(-(10**12), 10**12),
    float: st.floats(allow_nan=False, allow_infinity=False),
    bool: st.booleans(),
    bytes: st.binary(),
    datetime: st.datetimes(),
    Decimal: st.decimals(allow_nan=False, allow_infinity=False),
    Point: st.builds(Point, st.integers(-(10**12), 10**12), _TEXT),
    Money: st.builds(Money, st.integers(-(10**12), 10**12), st.sampled_from(["usd", "jpy", "kwd"])),
    list[int]: st.lists(st.integers(-(10**12), 10**12)),
    dict[str, list[bool]]: st.dictionaries(_TEXT, st.lists(st.booleans())),
    type(None): st.none(),
}


@pytest.mark.parametrize("kind", _KINDS, ids=str)
def test_a_value_comes_back_as_it_went(kind: Any) -> None:
    """Encoded and decoded, a value equals itself and has its type."""

    def function(value: Any) -> None: ...

    function.__annotations__ = {"value": kind}
    codec = Codec(function)

    @given(_KINDS[kind])
    def check(value: Any) -> None:
        args, kwargs = codec.decode(codec.encode((value,), {}))
        (back,) = [*args, *kwargs.values()]
        assert (back, type(back)) == (value, type(value))

    check()


@given(st.dictionaries(st.sampled_from(["a", "b", "f0", "model_x"]), st.integers(0, 9) | _TEXT | st.none()))
def test_extra_keywords_come_back(extra: dict[str, object]) -> None:
    """``**extra`` takes any name and any JSON value."""

    def function(first: int, **extra: object) -> None: ...

    codec = Codec(function)
    args, kwargs = codec.decode(codec.encode((1,), extra))
    assert (args, kwargs) == ([], {"first": 1, **extra})


@given(st.binary() | st.binary().map(lambda data: b'{"v":1,"args":' + data + b"}"))
def test_bytes_that_are_no_arguments_are_refused(data: bytes) -> None:
    """Whatever is stored, decoding raises InvalidArguments and nothing else."""

    def function(value: int) -> None: ...

    with pytest.raises(InvalidArguments):
        Codec(function).decode(data)


@pytest.mark.parametrize(
    ("stored", "named"),
    [(b'{"value":1,"gone":2}', "gone"), (b"{}", "value"), (b'{"value":"x"}', "value"), (b'{"value":null}', "value")],
)
def test_stored_arguments_of_another_version_are_named(stored: bytes, named: str) -> None:
    """A parameter that is gone, missing or of another type is named."""

    def function(value: int) -> None: ...

    with pytest.raises(InvalidArguments, match=named):
        Codec(function).decode(b'{"v":1,"args":' + stored + b"}")


def _plain(a, b, c=3): ...
def _named(a, *, b=2): ...
def _rest(a, *more, **others): ...
def _none(): ...


_NAMES = st.sampled_from(["a", "b", "c", "d"])


@given(
    st.sampled_from([_plain, _named, _rest, _none]),
    st.lists(st.integers(), max_size=4),
    st.dictionaries(_NAMES, st.integers(), max_size=3),
)
def test_arguments_are_bound_as_python_binds_them(
    function: Callable[..., None], args: list[int], kwargs: dict[str, int]
) -> None:
    """By position, by name, or both; and what Python refuses is refused."""
    codec = Codec(function)
    try:
        bound = inspect.signature(function).bind(*args, **kwargs)
    except TypeError:
        with pytest.raises(InvalidArguments):
            codec.encode(tuple(args), kwargs)
        return
    positional, keywords = codec.decode(codec.encode(tuple(args), kwargs))
    assert inspect.signature(function).bind(*positional, **keywords) == bound
