"""Webhooks whose body is the customer's own template: fields that may be missing, empty, or never filled in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from moorline.errors import BadAnswer

__all__ = ["filled", "said_at"]

_UNFILLED: Final = re.compile(r"\$[A-Z_]+|\{\{.*\}\}|null|None|", re.DOTALL)


def filled(told: Mapping[str, Any], name: str) -> str | None:
    """A text or number that the template has, as text; None where it is missing, empty, or a variable without value.

    Raises BadAnswer for a list or an object.
    """
    value = told.get(name)
    if isinstance(value, list) and len(value) == 1:  # as New Relic's annotations come
        value = value[0]
    if value is None or isinstance(value, bool):
        return None
    if not isinstance(value, str | int | float):
        raise BadAnswer(f"{name!r} of the event is not a text")
    try:
        text = str(value).strip()
    except ValueError:  # an integer of thousands of digits
        raise BadAnswer(f"{name!r} of the event is not a text") from None
    return None if _UNFILLED.fullmatch(text) else text


def said_at(told: Mapping[str, Any], name: str) -> datetime | None:
    """A time in seconds or milliseconds since the epoch, or in ISO 8601; None for what is none."""
    text = filled(told, name)
    try:
        if text is None:
            return None
        if text.isascii() and text.isdecimal():
            number = int(text)
            return datetime.fromtimestamp(number / 1000 if number > 10**11 else number, UTC)
        read = datetime.fromisoformat(text)
        return (read if read.tzinfo else read.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        return None
