"""What a view is given, and what it gives: plain data and the name of a template, or where to go next."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from moorline.errors import ConfigurationError
from moorline.secrets.secret import Secret, bare

if TYPE_CHECKING:
    from moorline.app import Moorline

__all__ = ["LONGEST", "Confirm", "Look", "Onward", "Page"]

LONGEST: Final = 500
"""Characters of a value in a query."""


@dataclass(frozen=True, slots=True)
class Look:
    """A request to a view: the application, what the path names, the query, the form of a POST, who asks, and the time
    (seconds since the epoch). *ends* gives the keys whose end is known: service, name, end.
    """

    app: Moorline
    named: tuple[str, ...]
    query: Mapping[str, Sequence[str]]
    form: Mapping[str, Sequence[str]] = field(repr=False)
    actor: str
    now: float
    ends: Callable[[], Iterable[tuple[str, str, float]]] = tuple

    def asked(self, name: str) -> str | None:
        """A value of the query; None where it is empty. Raises ConfigurationError for what is no such value."""
        found = self.query.get(name, ())
        if len(found) > 1 or any(len(one) > LONGEST or "\0" in one for one in found):
            raise ConfigurationError(f"{name}: one value, of at most {LONGEST} characters")
        return found[0] if found and found[0] else None

    def number(self, name: str, usual: int, most: int) -> int:
        """A number of the query, from 1 to *most*. Raises ConfigurationError."""
        given = self.asked(name)
        if given is None:
            return usual
        if not (given.isascii() and given.isdigit() and len(given) < 10 and 1 <= int(given) <= most):
            raise ConfigurationError(f"{name}: a number from 1 to {most}")
        return int(given)

    def given(self, name: str) -> str | None:
        """A value of the form; None where it is empty. Raises ConfigurationError."""
        found = self.form.get(name, ())
        if len(found) > 1 or any(len(one) > LONGEST or "\0" in one for one in found):
            raise ConfigurationError(f"{name}: one value, of at most {LONGEST} characters")
        return found[0] if found and found[0] else None

    def secret(self, name: str, most: int) -> Secret | None:
        """A value of the form that nobody may see, masked from now on wherever it would be; None where it is empty.
        Raises ConfigurationError for one of more than *most* characters, or that cannot be what was typed.
        """
        given = [Secret(one, name=name) for one in map(bare, self.form.get(name, ())) if one]
        if len(given) > 1 or any(len(one.reveal()) > most for one in given):
            raise ConfigurationError(f"{name}: one value, of at most {most:,} characters")
        if any({"\0", "\ufffd"} & set(one.reveal()) for one in given):  # the second is what was no text
            raise ConfigurationError(f"{name}: this is no text")
        return given[0] if given else None

    @property
    def confirmed(self) -> bool:
        """Whether the form says that it is meant."""
        return self.given("confirm") == "yes"


@dataclass(frozen=True, slots=True)
class Page:
    """*data* is plain: what JSON has. It is redacted before anybody sees it."""

    template: str
    title: str
    data: Mapping[str, Any]
    status: int = 200


@dataclass(frozen=True, slots=True)
class Onward:
    """It is done: the browser goes on to the page *to* (below ``/dashboard``), which says so in the words of *said*."""

    to: str
    said: str
    count: int = 1
    failed: int = 0


@dataclass(frozen=True, slots=True)
class Confirm:
    """Before it is done: what would be, and the form that does it. *to* is below ``/dashboard``, as is *back*."""

    question: str
    to: str
    back: str
    button: str
    fields: Sequence[tuple[str, str]] = ()
    facts: Sequence[tuple[str, Any]] = ()
    danger: bool = True
    asks: Sequence[tuple[str, str]] = ()
    """Fields that may be filled in: name and label."""
    checks: Sequence[tuple[str, str]] = ()
    """Fields that may be ticked."""

    def page(self) -> Page:
        """The page that asks."""
        data = {
            "question": self.question,
            "action": self.to,
            "back": self.back,
            "button": self.button,
            "fields": [list(one) for one in self.fields],
            "facts": [list(one) for one in self.facts],
            "danger": self.danger,
            "asks": [list(one) for one in self.asks],
            "checks": [list(one) for one in self.checks],
        }
        return Page("confirm.html", "Please confirm", data)
