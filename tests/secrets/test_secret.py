from __future__ import annotations

import copy
import json
import pickle
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

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


def test_pydantic_takes_a_string_and_names_a_bad_one():
    """A settings field of this type validates, and its error does not repeat a neighbour's value."""
    assert Settings.model_validate({"key": CANARY}).key.reveal() == CANARY
    with pytest.raises(ValidationError, match="key"):
        Settings.model_validate({"key": ""})
