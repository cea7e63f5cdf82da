"""The admission cap: how many calls of one service (and tenant) may be under way at once, those that wait included."""

from __future__ import annotations

import threading

__all__ = ["Admission"]


class Admission:
    """A counter with a limit, safe between threads. It has no queue: what waits is what it counts."""

    __slots__ = ("_lock", "limit", "under_way")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.under_way = 0
        self._lock = threading.Lock()

    def enter(self) -> bool:
        """Whether one more call may begin; True must be followed by ``leave()``."""
        with self._lock:
            if self.under_way >= self.limit:
                return False
            self.under_way += 1
        return True

    def leave(self) -> None:
        """A call is over."""
        with self._lock:
            self.under_way -= 1
