from __future__ import annotations

import copy
import dataclasses
import gc
import inspect
import io
import json
import pickle
import pprint
import traceback

import msgspec
import pytest
import rich.pretty
import rich.traceback
import structlog.tracebacks
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter, ValidationError
from rich.console import Console
from sentry_sdk.serializer import serialize
from sentry_sdk.utils import event_from_exception

from moorline import redaction
from moorline.errors import ConfigurationError, Misuse
from moorline.secrets import Secret

CANARY = "secret-canary-a1b2c3d4e5f6"


class Settings(BaseModel):
    key: Secret


@pytest.mark.parametrize(
    "show",
    [
        repr,
        str,
        lambda secret: f"{secret}",
        lambda secret: f"{secret!r:>40}",
        lambda secret: format(secret, "<30"),
        lambda secret: "%s %r" % (secret, secret),  # noqa: UP031 -- the old way must be safe as well
        lambda secret: json.dumps({"key": secret}, default=str),
        lambda secret: str([secret, {secret: secret}]),
        lambda secret: Settings(key=secret).model_dump_json(),
        lambda secret: str(Settings(key=secret).model_dump()),
        lambda secret: repr(Settings(key=secret)),
        lambda secret: redaction.text(secret.reveal()),
    ],
)
def test_no_way_of_showing_it_shows_it(show):
    """Whatever turns a Secret into text gives a mask."""
    shown = show(Secret(CANARY, name="KEY"))
    assert CANARY not in shown
    assert "***" in shown


def test_reveal_gives_the_value():
    """The value comes out by the one method that says so."""
    assert Secret(CANARY).reveal() == CANARY


@pytest.mark.parametrize("write", [pickle.dumps, lambda secret: pickle.dumps({"a": [secret]}, protocol=2)])
def test_pickling_is_refused(write):
    """A Secret cannot be written to a queue or a file by accident, and the error says what to do."""
    with pytest.raises(Misuse, match="load it again"):
        write(Secret(CANARY))


def test_copies_are_the_same_object():
    """Copying a structure that holds a Secret makes no second one."""
    secret = Secret(CANARY)
    assert copy.copy(secret) is secret
    assert copy.deepcopy({"a": secret})["a"] is secret


@given(st.text(min_size=1).filter(str.strip), st.text(min_size=1).filter(str.strip))
def test_equality_is_that_of_the_values(first, second):
    """Two secrets are equal, and hash alike, exactly if their values are."""
    try:
        one, two = Secret(first), Secret(second, name="other")
    except ConfigurationError:
        return
    assert (one == two) == (first == second)
    assert one == Secret(first)
    assert hash(one) == hash(Secret(first))
    assert one != first


def test_fingerprint_tells_secrets_apart():
    """Six hexadecimal digits, equal for equal values, and no part of the value."""
    first, second = Secret(CANARY), Secret(CANARY + "x")
    assert len(first.fingerprint) == 6
    assert int(first.fingerprint, 16) >= 0
    assert first.fingerprint == Secret(CANARY).fingerprint
    assert first.fingerprint != second.fingerprint


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("", "KEY is empty"),
        ("  \n", "KEY is empty"),
        (b"x", "KEY must be a string, not bytes"),
        ("\udc80x", "not valid UTF-8"),
    ],
)
def test_bad_values_are_named(value, says):
    """An unusable value is refused by an error that names the secret and holds nothing of it."""
    with pytest.raises(ConfigurationError, match=says) as caught:
        Secret(value, name="KEY")
    shown = "".join(traceback.format_exception(caught.value))
    assert "\\udc80" not in shown


def test_it_has_no_attributes_to_look_into():
    """Neither vars() nor a debugger's list of attributes carries the value."""
    secret = Secret(CANARY)
    with pytest.raises(TypeError):
        vars(secret)
    with pytest.raises(AttributeError):
        secret.value = "x"  # type: ignore[attr-defined]


@dataclasses.dataclass
class Held:
    key: Secret


def deeply() -> None:
    """Fail with a Secret in all kinds of local variables."""
    secret = Secret(CANARY)
    several = {"key": secret, "held": Held(secret), "list": [secret], "given": Settings(key=secret)}
    raise RuntimeError(len(several))


@pytest.mark.parametrize("how", ["traceback", "rich", "structlog", "sentry"])
def test_local_variables_of_a_traceback_show_nothing(how: str) -> None:
    """As debuggers, error pages, Sentry and structlog list them: by their ``repr``."""
    try:
        deeply()
    except RuntimeError as error:
        if how == "traceback":
            shown = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
        elif how == "rich":
            console = Console(record=True, width=300, file=io.StringIO())
            console.print(rich.traceback.Traceback(show_locals=True))
            shown = console.export_text()
        elif how == "sentry":
            event, _ = event_from_exception(error)  # with local variables, as it does by default
            shown = json.dumps(serialize(dict(event)))
        else:
            formatter = structlog.tracebacks.ExceptionDictTransformer(show_locals=True)
            shown = json.dumps(formatter((type(error), error, error.__traceback__)))
    assert "several" in shown
    assert CANARY not in shown


@pytest.mark.parametrize(
    "show",
    [
        dataclasses.asdict,
        dataclasses.astuple,
        dataclasses.replace,
        lambda held: inspect.getmembers(held.key),
        lambda held: gc.get_referents(held.key),
        lambda held: [getattr(held.key, name) for name in dir(held.key)],
        rich.pretty.pretty_repr,
        pprint.pformat,
        lambda held: Settings(key=held.key).model_dump(mode="python"),
        lambda held: Settings(key=held.key).model_dump(mode="json"),
        lambda held: Settings(key=held.key).model_copy(deep=True),
        lambda held: TypeAdapter(dict[str, Secret]).dump_json({"a": held.key}),
        copy.deepcopy,
    ],
    ids=[
        "asdict", "astuple", "replace", "getmembers", "gc", "dir", "rich", "pprint", "pydantic", "pydantic json",
        "pydantic copy", "pydantic adapter", "deepcopy",
    ],
)  # fmt: skip
def test_what_looks_into_it_sees_nothing(show):
    """Neither as an attribute, nor as its state, nor in what is made of a structure that holds it."""
    assert CANARY not in repr(show(Held(Secret(CANARY))))


@pytest.mark.parametrize(
    "write",
    [
        json.dumps,
        msgspec.json.encode,
        bytes,
        list,
        lambda secret: secret + "",
        "".join,
        lambda secret: secret.__getstate__(),
        lambda secret: secret.__reduce__(),
        lambda secret: secret.__reduce_ex__(1),
    ],
    ids=["json", "msgspec", "bytes", "list", "plus", "join", "state", "reduce", "reduce_ex"],
)
def test_what_would_write_it_is_refused(write):
    """By an error that shows nothing, and holds nothing in its traceback."""
    with pytest.raises((TypeError, Misuse)) as caught:
        write(Secret(CANARY))
    shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    assert CANARY not in "".join(shown.format())


def test_it_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """By digests of equal length, and by what is made for it."""
    compared: list[tuple[int, int]] = []

    def compare(first: bytes, second: bytes) -> bool:
        compared.append((len(first), len(second)))
        return first == second

    monkeypatch.setattr("hmac.compare_digest", compare)
    assert Secret("short") != Secret("a much longer value")
    assert compared == [(32, 32)]


def test_pydantic_takes_a_string_and_names_a_bad_one():
    """A settings field of this type validates, and its error does not repeat a neighbour's value."""
    assert Settings.model_validate({"key": CANARY}).key.reveal() == CANARY
    with pytest.raises(ValidationError, match="key"):
        Settings.model_validate({"key": ""})
