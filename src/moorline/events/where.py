"""Which events a handler is meant for, beyond their type: asked in the worker, before the handler.

A place is a field of the payload, with dots for what lies deeper and numbers for the entries of a list
(``pull_request.merged``, ``items.0.id``), or a header (``header:X-GitHub-Event``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from moorline.errors import ConfigurationError

if TYPE_CHECKING:
    from moorline.events.event import Event

__all__ = ["MISSING", "Filter", "Where", "deeper", "filter_of", "value_at"]

Where: TypeAlias = Callable[["Event"], object] | Mapping[str, object]
"""A function of the event, or the values (or collections of values) that it must have at some places."""

MISSING: Final = object()
"""At that place there is nothing; JSON's null is something."""

_INDEX: Final = re.compile(r"[0-9]{1,9}")
_SCALARS: Final = (str, int, float, bool, type(None))


@dataclass(frozen=True, slots=True)
class Filter:
    """``places`` holds each place with the values of which it must have one; ``ask`` is the function, if it is one."""

    places: tuple[tuple[str, tuple[object, ...]], ...] = ()
    ask: Callable[[Event], object] | None = None

    def fits(self, event: Event) -> bool:
        """Whether the handler wants it. Raises whatever the function raises, and UnusableEvent without a payload."""
        if self.ask is not None:
            return bool(self.ask(event))
        return all(_is_one_of(value_at(event, place), values) for place, values in self.places)


def filter_of(where: object) -> Filter:
    """Raises ConfigurationError for anything that is neither a plain function nor places and values."""
    if isinstance(where, Mapping):
        if not where:
            raise ConfigurationError("where: an empty mapping says nothing; leave it out")
        return Filter(tuple((_place(place), _values(place, values)) for place, values in where.items()))
    if callable(where) and not iscoroutinefunction(where):
        return Filter(ask=where)
    raise ConfigurationError(f"where: expected a plain function or a mapping of places to values, got {where!r}")


def value_at(event: Event, place: str) -> Any:
    """What the event has there, else MISSING. Raises UnusableEvent when the payload cannot be read."""
    if place.startswith("header:"):
        return event.headers.get(place[7:].lower(), MISSING)
    return deeper(event.payload, place.split("."))


def deeper(value: Any, names: list[str]) -> Any:
    """What lies below *value*, name by name, else MISSING."""
    for name in names:
        if isinstance(value, dict):
            value = value.get(name, MISSING)
        elif isinstance(value, list) and _INDEX.fullmatch(name) and int(name) < len(value):
            value = value[int(name)]
        else:
            return MISSING
    return value


def _place(place: object) -> str:
    if not isinstance(place, str) or not all(place.split(".")):
        raise ConfigurationError(f'where: expected places such as "pull_request.merged", got {place!r}')
    return place


def _values(place: str, values: object) -> tuple[object, ...]:
    several = tuple(values) if isinstance(values, (list, tuple, set, frozenset)) else (values,)
    if not several or not all(isinstance(value, _SCALARS) for value in several):
        raise ConfigurationError(f"where: {place!r} must be a text, number, True, False, None, or several of these")
    return several


def _is_one_of(found: object, values: tuple[object, ...]) -> bool:
    # JSON's true is no 1.
    return any(found == value and isinstance(found, bool) == isinstance(value, bool) for value in values)
