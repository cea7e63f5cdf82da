"""From plain data to a page: JSON, or HTML by jinja2. All of it passes through ``redaction`` here, and is escaped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlencode

from moorline import redaction
from moorline.errors import ConfigurationError

if TYPE_CHECKING:
    from jinja2 import Environment

    from moorline.dashboard.page import Page

__all__ = ["check_installed", "html", "in_json"]

_UNITS: Final = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def in_json(page: Page) -> bytes:
    """*page* for programs, without secrets."""
    return json.dumps(redaction.data(dict(page.data)), ensure_ascii=False, default=str).encode()


def html(template: str, context: dict[str, Any]) -> bytes:
    """The template with *context*. Raises ConfigurationError where jinja2 is not installed."""
    text = _environment().get_template(template).render(context)
    return text.encode("utf-8", "replace")  # a lone surrogate, which somebody has sent, is no text


def check_installed() -> None:
    """Raises ConfigurationError where jinja2 is not installed."""
    _environment()


@cache
def _environment() -> Environment:
    try:
        import jinja2
    except ImportError as error:
        raise ConfigurationError("the dashboard is drawn with jinja2; pip install 'moorline[dashboard]'") from error
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("moorline.dashboard"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"when": _when, "iso": _iso, "span": _span, "number": _number, "query": _query}
    made.filters["urlencode"] = _quoted  # jinja2's own fails for what is no text
    return made


def _shown(value: Any) -> Any:
    """What any expression of any template comes to: without secrets."""
    if value is None:
        return "–"  # noqa: RUF001 (a dash for nothing)
    # Markup is what our own templates have made, of texts that have passed here: it is escaped once.
    return value if hasattr(value, "__html__") or not isinstance(value, str) else redaction.show(value)


def _when(seconds: float | None) -> str | None:
    return None if seconds is None else _moment(seconds).strftime("%Y-%m-%d %H:%M:%S")


def _iso(seconds: float) -> str:
    return _moment(seconds).strftime("%Y-%m-%dT%H:%M:%SZ")


def _moment(seconds: float) -> datetime:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):  # a sender may have signed any number
        return datetime.fromtimestamp(0, UTC)


def _span(seconds: float) -> str:
    """A length of time in its largest unit and the one below, such as ``3 min 20 s``."""
    left = int(abs(seconds))
    for (unit, name), below in zip(_UNITS, (*_UNITS[1:], None), strict=True):
        if left >= unit or below is None:
            more = 0 if below is None else left % unit // below[0]
            return f"{left // unit} {name}" + (f" {more} {below[1]}" if below and more else "")
    raise AssertionError("there is a unit for each")


def _query(chosen: Mapping[str, Any], **more: Any) -> str:
    """The query that asks for the same again, with *more*; what is None is left out."""
    chosen = {name: value for name, value in {**chosen, **more}.items() if value is not None}
    return urlencode(chosen, errors="replace")


def _quoted(text: str) -> str:
    return quote(text, errors="replace")


def _number(value: float) -> str:
    return f"{value:,}"
