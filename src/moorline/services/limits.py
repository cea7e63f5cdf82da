"""Limits that a service documents, checked before anything is sent: the error names the field and the limit."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sized
from typing import Final

from moorline.errors import InvalidRequest

__all__ = ["as_text", "at_most", "encodable", "plain", "refused", "short_texts"]

_LINE_BREAKS: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\x85\u2028\u2029]")  # a tab alone is harmless


def refused(field: str, why: str) -> InvalidRequest:
    """The error for a request that is not even sent."""
    return InvalidRequest(f"{field}: {why}", code=field, outcome="not_sent", detail={"field": field})


def at_most(field: str, value: Sized, limit: int, what: str) -> None:
    """Raises InvalidRequest when *value* has more than *limit* of *what* (characters, recipients, …)."""
    if len(value) > limit:
        raise refused(field, f"has {len(value)} {what}; the limit is {limit}")


def short_texts(field: str, values: Mapping[str, str], *, most: int, name: int, value: int) -> None:
    """Metadata: at most *most* entries, with names and values of limited length. Raises InvalidRequest."""
    at_most(field, values, most, "entries")
    for key, entry in values.items():
        if not as_text(field, key):
            raise refused(field, "a name must not be empty")
        at_most(f"{field}[{key}]", key, name, "characters in its name")
        at_most(f"{field}[{key}]", as_text(f"{field}[{key}]", entry), value, "characters")


def as_text(field: str, value: object) -> str:
    """*value* itself, if it is text. Raises InvalidRequest."""
    if not isinstance(value, str):
        raise refused(field, f"must be text, not {type(value).__name__}")
    return value


def encodable(field: str, value: object) -> str:
    """*value* itself, if it is text that can be sent: half of a surrogate pair cannot. Raises InvalidRequest."""
    text = as_text(field, value)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise refused(field, "is not valid Unicode (half of a surrogate pair)") from None
    return text


def plain(field: str, value: str) -> str:
    """*value* itself, if it can be sent and has no line break or control character, with which it could smuggle in
    another header.

    Raises InvalidRequest.
    """
    if _LINE_BREAKS.search(encodable(field, value)):
        raise refused(field, "must not hold line breaks or control characters")
    return value
