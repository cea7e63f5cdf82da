"""Checks of the policies' arguments: each error names the field and says what is accepted."""

from __future__ import annotations

import math
from typing import Any

from moorline.errors import ConfigurationError

__all__ = ["check_count", "check_seconds"]


def check_seconds(owner: str, field: str, value: Any, *, zero: bool = False) -> None:
    """Raise ConfigurationError unless *value* is a finite, positive (or zero, if *zero*) number of seconds."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not number or value < 0 or (value == 0 and not zero):
        floor = "zero or more" if zero else "more than zero"
        raise ConfigurationError(f"{owner}.{field} must be a number, {floor}, not {value!r}")


def check_count(owner: str, field: str, value: Any, *, least: int = 1) -> None:
    """Raise ConfigurationError unless *value* is an integer of at least *least*."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigurationError(f"{owner}.{field} must be an integer of {least} or more, not {value!r}")
