"""What is shared by name: the parts of a service's state, and its connections."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["Known"]

K = TypeVar("K")
V = TypeVar("V")


class Known(Generic[K, V]):
    """Values by key, each made on first use. Keys may come from users, and their number has no bound: the *most* that
    were asked for last are remembered, and what somebody still holds, so that one key never has two values at a time.

    Not safe between threads. Values must allow weak references.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._recent: OrderedDict[K, V] = OrderedDict()
        self._all: weakref.WeakValueDictionary[K, V] = weakref.WeakValueDictionary()

    def of(self, key: K, make: Callable[[], V]) -> V:
        """The value of *key*, which is now the one that was asked for last."""
        found = self._recent.get(key)
        if found is not None:
            self._recent.move_to_end(key)
            return found
        found = self._all.get(key)
        if found is None:
            found = self._all[key] = make()
        self._recent[key] = found
        if len(self._recent) > self._most:
            self._recent.popitem(last=False)
        return found

    def items(self) -> list[tuple[K, V]]:
        """All that exist."""
        return list(self._all.items())

    def __len__(self) -> int:
        return len(self._all)
