"""Reading a service's JSON without trusting it: each function gives the type that it names, or raises BadAnswer.

The messages name the field and never its value, which may be private.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from moorline.errors import BadAnswer

__all__ = ["flag", "items", "milliseconds", "moment", "optional_text", "record", "text", "texts", "whole"]


def record(value: object, where: str = "the answer") -> Mapping[str, Any]:
    """A JSON object."""
    if not isinstance(value, dict):
        raise BadAnswer(f"{where} is not a JSON object")
    return value


def items(value: object, where: str) -> list[Any]:
    """A JSON array."""
    if not isinstance(value, list):
        raise BadAnswer(f"{where} is not a JSON array")
    return value


def text(holder: Mapping[str, Any], name: str) -> str:
    """A text that must be there and not be empty."""
    value = holder.get(name)
    if not isinstance(value, str) or not value:
        raise BadAnswer(f"the answer has no usable {name!r}")
    return value


def optional_text(holder: Mapping[str, Any], name: str) -> str | None:
    """A text, or None where there is none."""
    value = holder.get(name)
    if value is not None and not isinstance(value, str):
        raise BadAnswer(f"{name!r} in the answer is not a text")
    return value


def whole(holder: Mapping[str, Any], name: str, default: int | None = None) -> int:
    """An integer; *default* where there is none, if given."""
    value = holder.get(name)
    if value is None and default is not None:
        return default
    if not isinstance(value, int) or isinstance(value, bool):
        raise BadAnswer(f"{name!r} in the answer is not a whole number")
    return value


def flag(holder: Mapping[str, Any], name: str, *, default: bool = False) -> bool:
    """A truth value."""
    value = holder.get(name, default)
    if not isinstance(value, bool):
        raise BadAnswer(f"{name!r} in the answer is neither true nor false")
    return value


def texts(holder: Mapping[str, Any], name: str) -> Mapping[str, str]:
    """An object of texts (metadata); empty where there is none."""
    value = holder.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise BadAnswer(f"{name!r} in the answer is not an object of texts")
    return dict(value)


def moment(holder: Mapping[str, Any], name: str) -> datetime | None:
    """A time in UTC, from UNIX seconds (with fractions, if any) or RFC 3339; None where there is none."""
    value = holder.get(name)
    if value is None:
        return None
    try:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return datetime.fromtimestamp(value, UTC)
        if isinstance(value, str):
            read = datetime.fromisoformat(value)
            return (read if read.tzinfo else read.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        pass
    raise BadAnswer(f"{name!r} in the answer is not a time")


def milliseconds(holder: Mapping[str, Any], name: str) -> datetime | None:
    """A time in UTC, from UNIX milliseconds: a number, or the same as a text; None where there is none."""
    value = holder.get(name)
    if value is None:
        return None
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= 15:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) > 10**15:
        raise BadAnswer(f"{name!r} in the answer is not a time")
    return moment({name: value / 1000}, name)
