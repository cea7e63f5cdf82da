"""Headers and JSON-like data, masked by name, and by what their texts hold."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from moorline.redaction.names import MASK, SENSITIVE_HEADERS, is_count, is_sensitive
from moorline.redaction.plain import text

__all__ = ["data", "headers", "show"]

_DEPTH: Final = 8
_SHORTEST_CARD: Final = 10**13
# Sensitive only where a token is asked for: elsewhere a code says what went wrong.
_OF_A_GRANT: Final = frozenset({"code", "device_code"})


def headers(mapping: Mapping[str, str]) -> dict[str, str]:
    """A copy with the values of sensitive headers masked and the others passed through :func:`text`."""
    return {
        name: MASK if name.lower() in SENSITIVE_HEADERS or is_sensitive(name) else text(str(value))
        for name, value in mapping.items()
    }


def data(value: Any, *, depth: int = _DEPTH) -> Any:
    """A copy of JSON-like data: values under sensitive names masked, strings passed through :func:`text`.

    Goes eight levels deep; what lies deeper is shown as ``"..."``. Anything that is not JSON becomes its redacted text.
    """
    if isinstance(value, str):
        return text(value)
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return value if value < _SHORTEST_CARD or text(str(value)) != MASK else MASK
    if isinstance(value, bytes | bytearray):
        return text(bytes(value).decode("utf-8", "backslashreplace"))
    if isinstance(value, Mapping):
        return _fields(value, depth) if depth else "..."
    if isinstance(value, list | tuple | set | frozenset):
        return [data(item, depth=depth - 1) for item in value] if depth else "..."
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


def _fields(mapping: Mapping[Any, Any], depth: int) -> dict[str, Any]:
    hidden = _OF_A_GRANT if "grant_type" in mapping else frozenset()
    return {text(str(key)): MASK if key in hidden else _field(str(key), item, depth) for key, item in mapping.items()}


def _field(name: str, value: Any, depth: int) -> Any:
    if value is None or value == "" or isinstance(value, bool) or not is_sensitive(name) or is_count(name, value):
        return data(value, depth=depth - 1)
    return MASK
