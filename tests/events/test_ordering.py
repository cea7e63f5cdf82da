"""The key of an event, found before it is stored, whatever the user's function does."""

from __future__ import annotations

import logging
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorline.errors import ConfigurationError
from moorline.events import Event
from moorline.events.ordering import Ordering
from moorline.jobs.order import lock_number, order_key, original, shown


def event(body: bytes = b'{"data":{"object":{"customer":"cus_1","n":7}}}') -> Event:
    return Event("stripe", "evt_1", "charge.succeeded", body, {"x-shop": "s1"})


@pytest.mark.parametrize(
    ("key", "stored"),
    [
        ("data.object.customer", "=event:stripe.f\tcus_1"),
        ("data.object.n", "=event:stripe.f\t7"),
        ("header:X-Shop", "=event:stripe.f\ts1"),
        (lambda one: one.payload["data"]["object"]["customer"], "=event:stripe.f\tcus_1"),
    ],
)
def test_a_place_or_a_function_gives_the_key(key: Any, stored: str):
    """Texts and whole numbers, from the body, a header, or wherever a function takes them from."""
    assert Ordering(key).of(event(), "event:stripe.f") == stored


class Panic(BaseException):
    """As of libraries that are written in other languages."""


def panics(one: Event) -> str:
    raise Panic(one.id)


@pytest.mark.parametrize(
    "key",
    ["data.object.none", "data.object", "data", "header:none", lambda one: None, lambda one: 1 / 0, lambda one: "",
     panics, sys.exit],
)  # fmt: skip
def test_without_a_key_an_event_is_in_no_order_and_that_is_logged_once(key: Any, caplog: pytest.LogCaptureFixture):
    """No failure of the user's function keeps an event from being stored."""
    ordering = Ordering(key)
    with caplog.at_level(logging.WARNING):
        assert [ordering.of(event(), "event:stripe.f") for _ in range(3)] == [None] * 3
    assert caplog.text.count("event_without_key") == 1
    assert "cus_1" not in caplog.text


def test_a_body_without_json_has_no_key():
    """It is stored all the same."""
    assert Ordering("a.b").of(event(b"{"), "j") is None
    assert Ordering("a.b").of(event(b"\xff"), "j") is None


async def later(event): ...


@pytest.mark.parametrize(
    ("argument", "options"),
    [("key", {"key": ""}), ("key", {"key": "a..b"}), ("key", {"key": later}), ("key", {"key": 5}),
     ("on_dead", {"key": "a", "on_dead": "wait"})],
)  # fmt: skip
def test_a_bad_argument_is_named(argument: str, options: dict[str, Any]):
    """A key is a place or a plain function."""
    with pytest.raises(ConfigurationError, match=argument):
        Ordering(**options)


@given(st.text(), st.text() | st.integers())
def test_a_stored_key_is_bounded_printable_and_its_own(name: str, key: str | int):
    """Whatever the user's key is, it fits an index, can be stored everywhere, and no other pair has it."""
    if key == "":
        with pytest.raises(ConfigurationError):
            order_key(name, key)
        return
    stored = order_key(name, key)
    assert len(stored) <= 210
    assert stored.replace("\t", "").isprintable()
    assert stored != order_key(name, key, "skip")
    assert stored != order_key(name + "x", key)
    assert -(2**63) <= lock_number(stored) < 2**63


def test_a_parked_key_is_shown_as_the_key_it_was():
    """Marks are for the broker."""
    assert (original("-~n\tk"), shown("-~n\tk"), shown("=n\tk")) == ("~n\tk", "n k", "n k")
