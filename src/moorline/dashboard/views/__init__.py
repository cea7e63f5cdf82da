"""The views: each a function from a ``Look`` to a page, as plain data."""

from __future__ import annotations

__all__: list[str] = []
