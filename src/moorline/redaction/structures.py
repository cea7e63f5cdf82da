"""Headers and JSON-like data, masked by name, and by what their texts hold."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Final

from moorline.redaction.names import MASK, SENSITIVE_HEADERS, is_count, is_sensitive
from moorline.redaction.plain import text

__all__ = ["data", "headers", "show"]

_DEPTH: Final = 8
_SHORTEST_CARD: Final = 10**13
# Sensitive only where a token is asked for: elsewhere a code says what went wrong.
_LABELS: Final = frozenset({"name", "key"})
_OF_A_GRANT: Final = frozenset({"code", "device_code"})


def headers(mapping: Mapping[str, str]) -> dict[str, str]:
    """A copy with the values of sensitive headers masked and the others passed through :func:`text`."""
    return {
        name: MASK if name.lower() in SENSITIVE_HEADERS or is_sensitive(name) else text(str(value))
        for name, value in mapping.items()
    }


def data(value: Any, *, depth: int = _DEPTH) -> Any:
    """A copy of JSON-like data: values under sensitive names masked, strings passed through :func:`text`.

    Goes eight levels deep; what lies deeper is shown as ``"..."``. Anything that is not JSON becomes its redacted text,
    and so do numbers that are not finite.
    """
    if isinstance(value, str):
        return text(value)
    if value is None or isinstance(value, bool) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, int):
        return value if value < _SHORTEST_CARD or text(str(value)) != MASK else MASK
    if isinstance(value, bytes | bytearray):
        return text(bytes(value).decode("utf-8", "backslashreplace"))
    if isinstance(value, Mapping):
        return _fields(value, depth) if depth else "..."
    if isinstance(value, list | tuple | set | frozenset):
        return [_item(item, depth - 1) for item in value] if depth else "..."
    return text(str(value))


def show(value: object) -> str:
    """*value* as a page shows it: redacted text; JSON, indented, for what has parts.

    For templates: as a filter, or as Jinja's ``finalize``, which all that a template prints goes through. What is
    marked as safe HTML (it has ``__html__``) is redacted and stays marked.
    """
    if isinstance(value, str) and hasattr(value, "__html__"):
        return type(value)(text(value))
    if isinstance(value, Mapping | list | tuple | set | frozenset):
        return json.dumps(data(value), indent=2, ensure_ascii=False, default=str)
    return text(value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value))


def _item(value: Any, depth: int) -> Any:
    """Of a list; one of pairs is one of headers or variables, and their second half the value."""
    if depth > 0 and isinstance(value, list | tuple) and len(value) == 2 and _is_name(value[0]):
        return [text(value[0]), _masked(value[1], depth - 1)]
    return data(value, depth=depth)


def _is_name(name: object) -> bool:
    return isinstance(name, str) and (name.lower() in SENSITIVE_HEADERS or is_sensitive(name))


def _masked(value: Any, depth: int) -> Any:
    return data(value, depth=depth) if value is None or value == "" or isinstance(value, bool) else MASK


def _fields(mapping: Mapping[Any, Any], depth: int) -> dict[str, Any]:
    hidden = _OF_A_GRANT if "grant_type" in mapping else frozenset()
    labels, values = _labelled(mapping)
    return {
        text(str(key)): MASK
        if key in hidden
        else text(item)
        if key in labels
        else _masked(item, depth - 1)
        if key in values
        else _field(str(key), item, depth)
        for key, item in mapping.items()
    }


def _labelled(mapping: Mapping[Any, Any]) -> tuple[set[Any], set[Any]]:
    """The keys of a sensitive name, and of its value, where they stand side by side: ``{"name": …, "value": …}``."""
    labels = {key for key, item in mapping.items() if str(key).lower() in _LABELS and _is_name(item)}
    values = {key for key in mapping if str(key).lower() == "value"}
    return (labels, values) if labels and values else (set(), set())


def _field(name: str, value: Any, depth: int) -> Any:
    if value is None or value == "" or isinstance(value, bool) or not is_sensitive(name) or is_count(name, value):
        return data(value, depth=depth - 1)
    return MASK
