"""Keys that a stand-in has made, as its vendor's API for keys does."""

from __future__ import annotations

from typing import Any

__all__ = ["MadeKeys"]


class MadeKeys:
    """By their ids. What is shown of them holds no value."""

    def __init__(self) -> None:
        self._values: dict[str, str] = {}
        self._told: dict[str, dict[str, Any]] = {}
        self._gone: set[str] = set()

    def add(self, id: str, value: str, /, **told: Any) -> None:
        """One more, and what is told of it beside its id."""
        self._values[value], self._told[id] = id, told

    def is_good(self, value: str) -> bool:
        """Whether it was made here, and is not deleted."""
        return value in self._values and self._values[value] not in self._gone

    def is_gone(self, value: str) -> bool:
        """Whether it was made here, and is deleted."""
        return self._values.get(value) in self._gone

    def delete(self, id: str) -> bool:
        """Refuse it from now on; whether there was one."""
        if id not in self._told or id in self._gone:
            return False
        self._gone.add(id)
        return True

    def listed(self) -> dict[str, dict[str, Any]]:
        """Those that are good, by id."""
        return {name: told for name, told in self._told.items() if name not in self._gone}

    def shown(self) -> list[dict[str, Any]]:
        """All that were ever made."""
        return [{"id": name, **told, "deleted": name in self._gone} for name, told in self._told.items()]
