"""What was used in the last while: the sum that a sliding window holds."""

from __future__ import annotations

import math
from collections import deque
from typing import Final

__all__ = ["Trail"]

_PARTS: Final = 100  # of the window; what comes within one part is forgotten together, with the last of it


class Trail:
    """A log of costs over a sliding window, with at most about a hundred entries."""

    __slots__ = ("_parts", "_total")

    def __init__(self) -> None:
        self._parts: deque[list[float]] = deque()  # first and last moment, and cost
        self._total = 0.0

    def add(self, now: float, cost: float, window: float) -> None:
        """*cost* was used by now at the latest."""
        self.total(now, window)
        if self._parts and now - self._parts[-1][0] < window / _PARTS:
            self._parts[-1][1] = now
            self._parts[-1][2] += cost
        else:
            self._parts.append([now, now, cost])
        self._total += cost

    def total(self, now: float, window: float) -> float:
        """What was used in the last *window* seconds."""
        parts = self._parts
        while parts and parts[0][1] <= now - window:
            self._total -= parts.popleft()[2]
        if not parts:
            self._total = 0.0
        return self._total

    def wait(self, now: float, window: float, wanted: float) -> float:
        """Seconds until *wanted* of it is forgotten; infinite when there is not so much."""
        freed = 0.0
        for _, last, cost in self._parts:
            freed += cost
            if freed >= wanted:
                return max(last + window - now, 0.0)
        return math.inf

    def age(self, now: float, kept: float) -> float:
        """Seconds since the last moment before the newest *kept* of it; infinite when there is no more."""
        for _, last, cost in reversed(self._parts):
            if kept < 0:
                return now - last
            kept -= cost
        return math.inf

    def since(self, moment: float) -> float:
        """What was used after *moment*."""
        used = 0.0
        for _, last, cost in reversed(self._parts):
            if last < moment:
                break
            used += cost
        return used
