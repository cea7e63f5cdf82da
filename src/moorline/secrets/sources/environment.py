"""Secrets in environment variables.

A variable may hold several values, separated by commas or white space: the first is current, all are accepted.
``NAME_PREVIOUS`` may hold older ones, which are accepted until ``NAME_PREVIOUS_UNTIL`` (an ISO date and time with its
zone, or seconds since the epoch) if that is set. So a rotation is: set these, restart, remove them later. What begins
with ``-----BEGIN`` (a PEM key), or is a JSON object (a key file), is one value, white space and all; the comma of
``v1,whsec_…`` belongs to it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final

from moorline.errors import ConfigurationError
from moorline.secrets.secret import Secret
from moorline.secrets.versions import NOTHING, Found, Version, fingerprint

__all__ = ["PREVIOUS", "UNTIL", "Variable", "check_name", "found", "load", "load_all", "load_usable", "moment"]

PREVIOUS = "_PREVIOUS"
UNTIL = "_PREVIOUS_UNTIL"

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_BETWEEN = re.compile(r"(?:\s|(?<!\bv1)(?<!\bv1a),)+")
# Each call asks, and os.environ encodes and decodes, and raises and catches for what is not there: that is a twentieth
# of a call. What is in the dictionary behind it, where there is one, is compared as it is.
_held: Final[dict[Any, Any] | None] = getattr(os.environ, "_data", None)
_get: Final = os.environ.get if _held is None else _held.get
_key: Final = str if _held is None else os.environ.encodekey


class Variable:
    """Where a variable of this process, and those beside it, are looked at each time: a ``Place``.

    Making Secrets costs more than the rest of a request: they are made again when a variable holds something else.
    Raises ConfigurationError when *name* is not the name of a variable.
    """

    __slots__ = ("_known", "_name", "_previous", "_until", "_variable")

    where = "the environment"

    def __init__(self, name: str) -> None:
        check_name(name)
        self._variable = name
        self._name, self._previous, self._until = (_key(f"{name}{end}") for end in ("", PREVIOUS, UNTIL))
        self._known: tuple[tuple[Any, Any, Any], Found] = (None, None, None), NOTHING

    def now(self) -> Found:
        """What the environment holds."""
        held = _get(self._name), _get(self._previous), _get(self._until)
        known = self._known
        if known[0] != held:
            known = self._known = held, found(self._variable)
        return known[1]

    def refresh(self) -> None:
        """It is looked at each time."""


def load(name: str, environ: Mapping[str, str] | None = None) -> Secret | None:
    """The current value of the variable *name*, or None when it is not set or empty.

    Raises ConfigurationError when *name* is not the name of a variable, or the value is not UTF-8.
    """
    values = _values(name, os.environ if environ is None else environ)
    return Secret(values[0], name=name) if values else None


def load_all(name: str, environ: Mapping[str, str] | None = None) -> tuple[Secret, ...]:
    """All accepted values: those of *name*, in order, then those of ``NAME_PREVIOUS``; each once.

    Raises ConfigurationError when *name* is not the name of a variable, a value is not UTF-8, or the end is no moment.
    """
    found, problems = load_usable(name, environ)
    if problems:
        raise problems[0]
    return found


def load_usable(
    name: str, environ: Mapping[str, str] | None = None
) -> tuple[tuple[Secret, ...], list[ConfigurationError]]:
    """What ``load_all`` gives without what cannot be used, and an error for each of that.

    Those of ``NAME_PREVIOUS`` count for nothing when their end is no moment: they would never end.
    Raises ConfigurationError when *name* is not the name of a variable.
    """
    where = os.environ if environ is None else environ
    previous = f"{name}{PREVIOUS}"
    found: list[Secret] = []
    problems: list[ConfigurationError] = []

    def take(values: Iterable[str], variable: str, until: float | None = None) -> None:
        for value in values:
            try:
                found.append(Secret(value, name=variable, not_after=until))
            except ConfigurationError as error:
                problems.append(error)

    take(_values(name, where), name)
    older = _values(previous, where)
    try:
        until = moment(f"{name}{UNTIL}", where) if older else None
    except ConfigurationError as error:
        problems.append(error)
    else:
        take(older, previous, until)
    return tuple(dict.fromkeys(found)), problems


def found(name: str, environ: Mapping[str, str] | None = None, origin: str = "env:") -> Found:
    """What ``load_usable`` gives, as versions; *origin* is where they are said to be from."""
    usable, problems = load_usable(name, environ)
    failure = None
    try:
        current = load(name, environ)
    except ConfigurationError as error:
        current, failure = None, error
    versions, before = [], dict.fromkeys((name, f"{name}{PREVIOUS}"), 0)
    for secret in usable:
        before[secret.name] += 1
        number = f"#{before[secret.name]}" if before[secret.name] > 1 else ""
        versions.append(
            Version(
                secret,
                fingerprint(secret),
                "current" if current is not None and secret == current else "previous",
                origin=f"{origin}{secret.name}{number}",
            )
        )
    return Found(versions, problems, failure=failure)


def moment(name: str, environ: Mapping[str, str]) -> float | None:
    """The moment that the variable holds, in seconds since the epoch. Raises ConfigurationError for what is none."""
    text = environ.get(name, "").strip()
    if not text:
        return None
    try:
        if text.isascii() and text.isdigit():
            return float(text)
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise ConfigurationError(f"{name}: expected a date and time with its zone, such as 2027-01-31T12:00:00Z")
    return moment.timestamp()


def check_name(name: str) -> None:
    """Raise ConfigurationError for what is not the name of a variable."""
    if not _NAME.fullmatch(name):
        raise ConfigurationError(f"{name!r} is not the name of an environment variable")


def _values(name: str, environ: Mapping[str, str]) -> list[str]:
    check_name(name)
    held = environ.get(name, "").strip()
    if held.startswith("-----BEGIN") or (held.startswith("{") and held.endswith("}")):
        return [held]
    return [value for value in _BETWEEN.split(held) if value]
