from __future__ import annotations

import pytest

from moorline import redaction
from moorline.errors import ConfigurationError
from moorline.secrets.sources import environment

PEM = "-----BEGIN PRIVATE KEY-----\nMIIE vQIB\n-----END PRIVATE KEY-----"


@pytest.mark.parametrize(
    ("environ", "values"),
    [
        ({}, []),
        ({"KEY": ""}, []),
        ({"KEY": " , "}, []),
        ({"KEY": "one-value"}, ["one-value"]),
        ({"KEY": " one-value\n"}, ["one-value"]),
        ({"KEY": "first, second third"}, ["first", "second", "third"]),
        ({"KEY": "first", "KEY_PREVIOUS": "older oldest"}, ["first", "older", "oldest"]),
        ({"KEY": "first", "KEY_PREVIOUS": "first,older"}, ["first", "older"]),
        ({"KEY_PREVIOUS": "older"}, ["older"]),
        ({"KEY": PEM, "KEY_PREVIOUS": "older"}, [PEM, "older"]),
        ({"KEY": ' {"a": "1", "b": "2"}\n', "KEY_PREVIOUS": "older"}, ['{"a": "1", "b": "2"}', "older"]),
    ],
)
def test_all_accepted_values(environ, values):
    """A variable's values in order, then the previous ones, each once."""
    assert [secret.reveal() for secret in environment.load_all("KEY", environ)] == values


@pytest.mark.parametrize(
    ("environ", "value"), [({}, None), ({"KEY_PREVIOUS": "older"}, None), ({"KEY": "first,second"}, "first")]
)
def test_the_current_value(environ, value):
    """What is sent is the first value, never a previous one."""
    found = environment.load("KEY", environ)
    assert (found.reveal() if found else None) == value


def test_the_process_environment_is_read_and_masked(monkeypatch):
    """Without a mapping the process's own variables count, and what was loaded is masked from then on."""
    monkeypatch.setenv("CANARY_KEY", "environment-canary-0123456789")
    found = environment.load("CANARY_KEY")
    assert found is not None
    assert found.name == "CANARY_KEY"
    assert redaction.text("got environment-canary-0123456789") == "got ***"


@pytest.mark.parametrize("name", ["", "A B", "A=B", "1A", "A\0"])
def test_impossible_names_are_refused(name):
    """A name that no variable can have is a mistake of the caller, and the error shows it."""
    with pytest.raises(ConfigurationError, match="not the name of an environment variable"):
        environment.load(name, {})


def test_a_value_that_is_not_text_is_named():
    """Bytes that are not UTF-8 in a variable give an error with the variable's name."""
    with pytest.raises(ConfigurationError, match="KEY is not valid UTF-8"):
        environment.load("KEY", {"KEY": "caf\udce9-0123"})
