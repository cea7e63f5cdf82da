"""Queries in SOQL whose values are quoted, so that none of them can be more than a value.

Sources: services/business/salesforce.md (backslashes and quotes are escaped); Salesforce's SOQL and SOSL reference,
"Quoted String Escape Sequences" and "Date Formats and Date Literals" (not on the card).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Final

from moorline.services.limits import as_text, refused

__all__ = ["Like", "field_name", "quoted", "soql", "written"]

_ESCAPES: Final = {
    "\\": "\\\\", "'": "\\'", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f",
}  # fmt: skip
_ESCAPED: Final = re.compile(r"""[\\'"\n\r\t\x08\f]""")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_WILD: Final = re.compile(r"[%_]")
_BEHIND: Final = r"\\\g<0>"
_HOLE: Final = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]*(?:\.[A-Za-z][A-Za-z0-9_]*)*")


def soql(template: str, /, **values: object) -> str:
    """*template* with each ``{name}`` replaced by that value, quoted: ``soql("… WHERE Email = {email}", email=…)``.

    A list becomes ``('a', 'b')``, for ``IN``. Holes stand outside of quotes. Raises InvalidRequest, naming the value,
    for one that is missing, too many, or has no form in SOQL.
    """
    used: set[str] = set()

    def filled(hole: re.Match[str]) -> str:
        name = hole[1]
        if name not in values:
            raise refused(name, "is named in the query, and is not given")
        if _open(template[: hole.start()]):
            raise refused(name, "stands within quotes, where it would not be quoted: leave them out")
        used.add(name)
        return quoted(values[name], name)

    made = _HOLE.sub(filled, template)
    for name in values:
        if name not in used:
            raise refused(name, "is not in the query")
    return made


def quoted(value: object, name: str = "value") -> str:
    """*value* as a literal: text in quotes, numbers, ``true``, ``null``, dates, times in UTC, lists in parentheses.

    Raises InvalidRequest, naming *name*.
    """
    if isinstance(value, str):
        return f"'{_escaped(value, name)}'"
    if isinstance(value, Like):
        return f"'{value.before}{_WILD.sub(_BEHIND, _escaped(value.text, name))}{value.after}'"
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "null"
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise refused(name, "needs a time zone")
        return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{value.microsecond // 1000:03}Z"
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, (int, float, Decimal)):
        return _number(value, name)
    if isinstance(value, (list, tuple, set, frozenset)):
        if not value:
            raise refused(name, "must not be empty")
        return f"({', '.join(quoted(one, name) for one in value)})"
    raise refused(name, f"must be text, a number, a time or a list of them, not {type(value).__name__}")


@dataclass(frozen=True, slots=True)
class Like:
    """A value for ``LIKE``: what begins with *text*, in which ``%`` and ``_`` stand for themselves; *before* and
    *after* are wildcards (``Like("50%", before="%")`` is what holds that). A text of your own keeps its wildcards.

    Raises InvalidRequest for other than wildcards around it.
    """

    text: str
    before: str = ""
    after: str = "%"

    def __post_init__(self) -> None:
        for name in ("before", "after"):
            if getattr(self, name).strip("%_"):
                raise refused(name, "takes wildcards alone: % and _")


def field_name(name: str) -> str:
    """*name* itself, if it is one of a field or an object (``Account.Name``). Raises InvalidRequest."""
    if not _NAME.fullmatch(as_text("field", name)) or len(name) > 255:
        raise refused("field", f"{name[:60]!r} is no name of a field or object")
    return name


def _escaped(text: str, name: str) -> str:
    made = _ESCAPED.sub(lambda found: _ESCAPES[found[0]], text)
    if _CONTROL.search(made):
        raise refused(name, "must not hold control characters")
    return made


def _number(value: float | Decimal, name: str) -> str:
    if not Decimal(value).is_finite():
        raise refused(name, "must be a finite number")
    return format(Decimal(repr(value)) if isinstance(value, float) else Decimal(value), "f")


def _open(text: str) -> bool:
    """Whether a quote is open at the end of *text*."""
    return len(re.sub(r"\\.", "", text).split("'")) % 2 == 0


def written(fields: Mapping[str, object]) -> dict[str, object]:
    """The fields of a record as its JSON holds them: times in UTC, dates, and decimals as numbers."""
    made: dict[str, object] = {}
    for name, value in fields.items():
        if isinstance(value, datetime):
            made[name] = quoted(value, name)
        elif isinstance(value, date):
            made[name] = value.isoformat()
        elif isinstance(value, Decimal):
            made[name] = float(value)
        else:
            made[name] = value
    return made
