"""Payloads as models: of pydantic's and msgspec's kinds, named or annotated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
import pytest
from pydantic import BaseModel
from typing_extensions import TypedDict  # pydantic wants this one before Python 3.12

from moorline.errors import ConfigurationError, PayloadMismatch, UnusableEvent
from moorline.events import Event
from moorline.events.models import Model, model_of


class Pull(BaseModel):
    number: int
    at: datetime | None = None


@dataclass
class Data:
    number: int


class Typed(TypedDict):
    number: int


class Struct(msgspec.Struct):
    number: int


def event(body: bytes = b'{"number":7,"at":"2026-01-01T00:00:00Z","more":1}') -> Event:
    return Event("github", "1", "push", body)


@pytest.mark.parametrize("kind", [Pull, Data, Typed, Struct])
def test_a_payload_becomes_a_value_of_its_kind(kind: Any):
    """Pydantic's models, dataclasses, typed dicts and msgspec's structs; fields that are not named are ignored."""
    read = Model(kind).read(event())
    assert (read["number"] if kind is Typed else read.number) == 7
    assert kind is Typed or isinstance(read, kind)
    form = Model(kind).read(event(b"payload=%7B%22number%22%3A8%7D"))
    assert (form["number"] if kind is Typed else form.number) == 8


@pytest.mark.parametrize("kind", [Pull, Data, Typed, Struct])
def test_what_does_not_fit_is_named_without_its_value(kind: Any):
    """The error says which place is wrong, and nothing of what stood there."""
    for body in (b'{"number":"sk_live_secret"}', b'{"other":"sk_live_secret"}', b'{"number":'):
        with pytest.raises(PayloadMismatch, match=kind.__qualname__) as raised:
            Model(kind).read(event(body))
        assert "sk_live" not in str(raised.value)
    with pytest.raises(PayloadMismatch, match="number"):
        Model(kind).read(event(b'{"number":"sk_live_secret"}'))
    with pytest.raises(UnusableEvent):
        Model(kind).read(event(b"no json"))


def test_many_problems_are_cut():
    """A large payload of another kind does not fill the database with its errors."""

    class Many(BaseModel):
        numbers: list[int]

    with pytest.raises(PayloadMismatch, match=r"numbers\.9.* and 40 more"):
        Model(Many).read(event(b'{"numbers":[%s]}' % b",".join([b'"x"'] * 50)))


def takes_event(event): ...
def takes_default(event, more=3): ...
def takes_pull(event: Event, payload: Pull): ...
def takes_anything(event: Event, payload: Any): ...
def takes_pulls(events: list[Event], payloads: list[Pull]): ...
def takes_all(*args): ...
def takes_bare(event, payload): ...
def takes_three(event, payload, more): ...
def takes_unknown(event: Event, payload: Unknown): ...  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize(
    ("function", "model", "several", "kind"),
    [
        (takes_event, None, False, None),
        (takes_default, None, False, None),
        (takes_all, None, False, None),
        (len, None, False, None),
        (takes_pull, None, False, Pull),
        (takes_pull, Data, False, Data),
        (takes_default, Data, False, Data),
        (takes_all, Data, False, Data),
        (takes_bare, Data, False, Data),
        (takes_anything, None, False, Any),
        (takes_pulls, None, True, Pull),
        (takes_pulls, Data, True, Data),
    ],
)
def test_the_second_argument_is_the_payload(function: Callable[..., Any], model: Any, several: bool, kind: Any):
    """Its annotation names the model unless one is given; a parameter with a default is the function's own."""
    found = model_of(function, model, several=several)
    assert (None if found is None else found.kind) is kind


@pytest.mark.parametrize(
    ("argument", "function", "model"),
    [
        ("model", takes_event, Pull),
        ("model", takes_bare, None),
        ("model", takes_unknown, None),
        ("model", takes_bare, object()),
        ("function", takes_three, None),
    ],
)
def test_a_function_that_cannot_get_it_is_refused(argument: str, function: Callable[..., Any], model: Any):
    """When it is registered, not when the first event comes."""
    with pytest.raises(ConfigurationError, match=argument):
        model_of(function, model, several=False)
