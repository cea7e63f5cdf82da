"""A bounded map that forgets what was used least recently: bounded by a number of bytes, and of entries."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from moorline.policies.checks import check_count

__all__ = ["Lru"]

K = TypeVar("K")
V = TypeVar("V")


class Lru(Generic[K, V]):
    """At most *max_entries*, of at most *max_bytes* together. Safe between threads.

    *dropped* is told each key that leaves for want of room, while the lock is held: it must be quick and not call back.
    Raises ConfigurationError for a bound that is no positive integer.
    """

    def __init__(
        self, where: str, *, max_bytes: int, max_entries: int, dropped: Callable[[K, V], None] | None = None
    ) -> None:
        check_count(where, "max_bytes", max_bytes)
        check_count(where, "max_entries", max_entries)
        self.max_bytes = max_bytes
        self.max_entries = max_entries
        self.bytes = 0
        self._dropped = dropped
        self._lock = threading.RLock()
        self._kept: OrderedDict[K, tuple[V, int]] = OrderedDict()

    def get(self, key: K) -> V | None:
        """The value of *key*, which is now the most recently used."""
        with self._lock:
            found = self._kept.get(key)
            if found is None:
                return None
            self._kept.move_to_end(key)
            return found[0]

    def put(self, key: K, value: V, size: int) -> bool:
        """Keep *value*, of *size* bytes, in place of what was there; False when it is larger than all the room."""
        with self._lock:
            self.remove(key)
            if size > self.max_bytes:
                return False
            self._kept[key] = value, size
            self.bytes += size
            while self.bytes > self.max_bytes or len(self._kept) > self.max_entries:
                oldest, (old, freed) = self._kept.popitem(last=False)
                self.bytes -= freed
                if self._dropped is not None:
                    self._dropped(oldest, old)
            return True

    def remove(self, key: K) -> None:
        """Forget *key*, if it is known."""
        with self._lock:
            found = self._kept.pop(key, None)
            if found is not None:
                self.bytes -= found[1]
                if self._dropped is not None:
                    self._dropped(key, found[0])

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            for key in list(self._kept):
                self.remove(key)

    def __len__(self) -> int:
        return len(self._kept)
