"""The dashboard: what an operator looks at when something is wrong. Closed unless the application opens it."""

from __future__ import annotations

__all__: list[str] = []
