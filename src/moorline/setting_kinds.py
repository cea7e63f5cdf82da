"""The kinds of values that settings of several rooms have."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import BeforeValidator, ConfigDict, Field
from pydantic_settings import NoDecode

__all__ = ["STRICT", "Seconds", "Words"]

STRICT: Final = ConfigDict(extra="forbid", frozen=True)
"""Of each table: a key that is none of its own is refused."""

Seconds = Annotated[float, Field(gt=0)]
"""More than none."""


def _split(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
"""A list in the file; in the environment separated by commas."""
