"""``application/x-www-form-urlencoded`` bodies and query strings with nested values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from urllib.parse import quote, quote_plus

from moorline.errors import ConfigurationError

__all__ = ["encode_form", "pairs", "segment"]


def encode_form(values: Mapping[str, object]) -> str:
    """``{"amount": 5, "metadata": {"a": "b"}, "expand": ["x"]}`` as ``amount=5&metadata[a]=b&expand[]=x``, escaped.

    Lists of mappings are numbered (``items[0][price]=…``), as otherwise their fields would mix. Booleans are written
    ``true`` and ``false``; None leaves a field out; an empty string clears it.

    Raises ConfigurationError, naming the field, for a value that has no form encoding (floats not finite, bytes,
    objects).
    """
    return "&".join(f"{quote_plus(name, safe='[]')}={quote_plus(value)}" for name, value in pairs(values))


def pairs(values: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """The flat names and texts of nested *values*, in order."""
    for name, value in values.items():
        yield from _flat(str(name), value)


def segment(value: str | int, name: str = "id") -> str:
    """*value* as one segment of a path: escaped, so that an id of ``../x`` or ``a?b`` reaches no other resource.

    Raises ConfigurationError, naming *name*, for an empty value or one that is only dots.
    """
    text = str(value)
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise ConfigurationError(f"{name} must be a string, not {type(value).__name__}")
    if not text.strip("."):
        raise ConfigurationError(f"{name} must not be {'empty' if not text else 'only dots'}")
    return quote(text, safe="")


def _flat(name: str, value: object) -> Iterator[tuple[str, str]]:
    if value is None:
        return
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(f"{name}[{key}]", inner)
    elif isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray)):
        for index, inner in enumerate(value):
            yield from _flat(f"{name}[{index if isinstance(inner, Mapping) else ''}]", inner)
    else:
        yield name, _text(name, value)


def _text(name: str, value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, (float, Decimal)) and Decimal(value).is_finite():
        return format(value, "f") if isinstance(value, Decimal) else repr(value)
    raise ConfigurationError(f"{name} cannot be sent as a form field: {type(value).__name__}")
