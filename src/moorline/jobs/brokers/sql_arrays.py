"""Columns of values as PostgreSQL reads arrays: in text, made by one join each.

psycopg makes the same of a list, with a dumper's call and a regular expression for each element, which took as long as
the server did for the insertion.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["blobs", "numbers", "texts"]

_NULL = "NULL"


def texts(values: Iterable[str | None]) -> str:
    """For ``%s::text[]``."""
    quoted = [
        _NULL if one is None else '"' + one + '"' if one.isalnum() else '"' + _escaped(one) + '"' for one in values
    ]
    return "{" + ",".join(quoted) + "}"


def numbers(values: Iterable[float | None]) -> str:
    """For ``%s::float8[]``, and those of whole numbers."""
    return "{" + ",".join([_NULL if one is None else repr(one) for one in values]) + "}"


def blobs(values: Iterable[bytes]) -> str:
    """For ``%s::bytea[]``."""
    return "{" + ",".join(['"\\\\x' + one.hex() + '"' for one in values]) + "}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
