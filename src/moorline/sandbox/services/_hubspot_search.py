"""What the filters of a search at HubSpot mean."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

__all__ = ["condition"]

_COMPARED: dict[str, Callable[[float, float, float], bool]] = {
    "LT": lambda here, there, _: here < there,
    "LTE": lambda here, there, _: here <= there,
    "GT": lambda here, there, _: here > there,
    "GTE": lambda here, there, _: here >= there,
    "BETWEEN": lambda here, there, high: there <= here <= high,
}
_WORDS = ("EQ", "NEQ", "CONTAINS_TOKEN", "NOT_CONTAINS_TOKEN")


def condition(given: Mapping[str, Any]) -> Callable[[Mapping[str, str]], bool]:
    """Whether properties meet the filter. Raises ValueError for one that HubSpot would not take."""
    name, operator = given.get("propertyName"), given.get("operator")
    if not isinstance(name, str) or not isinstance(operator, str):
        raise ValueError("A filter needs propertyName and operator")  # noqa: TRY004 (what was sent is wrong)
    if operator in ("HAS_PROPERTY", "NOT_HAS_PROPERTY"):
        return lambda properties: bool(properties.get(name)) is (operator == "HAS_PROPERTY")
    if operator in ("IN", "NOT_IN"):
        values = given.get("values")
        if not isinstance(values, list):
            raise ValueError(f"{operator} needs values")
        return lambda properties: (properties.get(name) in values) is (operator == "IN")
    value = given.get("value")
    if not isinstance(value, str):
        raise ValueError(f"{operator} needs a value")  # noqa: TRY004
    if operator in _WORDS:
        return lambda properties: _meets(operator, properties.get(name), value.lower())
    compare = _COMPARED.get(operator)
    if compare is None:
        raise ValueError(f"unknown operator {operator}")
    there, high = _number(value), _number(str(given.get("highValue", "")))
    return lambda properties: compare(_number(properties.get(name) or ""), there, high)


def _meets(operator: str, held: str | None, value: str) -> bool:
    if operator in ("EQ", "NEQ"):
        return (held is not None and held.lower() == value) is (operator == "EQ")
    words = re.split(r"\W+", (held or "").lower())
    return (value.strip("*") in words) is (operator == "CONTAINS_TOKEN")


def _number(value: str) -> float:
    """A number, or a time in milliseconds; what is neither is less than all."""
    try:
        return float(value)
    except ValueError:
        pass
    try:
        return round(datetime.fromisoformat(value).timestamp() * 1000)
    except ValueError:
        return float("-inf")
