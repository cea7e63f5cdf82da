"""The admission cap: how many calls of one service (and tenant) may be under way at once, those that wait included."""

from __future__ import annotations

from collections import deque

__all__ = ["Admission"]


class Admission:
    """A counter with a limit. It has no queue: what waits is what it counts.

    It counts by the length of a deque, whose changes are atomic without a lock, which would cost as much as the rest
    of the pipeline's bookkeeping; so many threads that come at the same instant may pass the limit by a few.
    """

    __slots__ = ("__weakref__", "calls", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.calls: deque[None] = deque()
        """One for each call that is under way: what ``enter`` appends and ``leave`` takes away."""

    @property
    def under_way(self) -> int:
        """Calls that have begun and are not over."""
        return len(self.calls)

    def enter(self) -> bool:
        """Whether one more call may begin; True must be followed by ``leave()``."""
        if len(self.calls) >= self.limit:
            return False
        self.calls.append(None)
        return True

    def leave(self) -> None:
        """A call is over."""
        self.calls.pop()
