"""How long a write would wait for its commit: an estimate from what waits and how fast groups were committed.

Pure: it is told what happens and when. A group's time is taken for a fixed part, which a commit costs whatever it
holds, and a part for each write; small groups teach the first, large ones the second. Only the second makes a queue:
a slow disk alone is no overload.
"""

from __future__ import annotations

from typing import Final

__all__ = ["Pressure"]

LARGE: Final = 32
"""Writes of a group that says what each costs; as many may wait at any time."""
STALLED: Final = 2.0
"""Seconds that a commit may last beyond what was expected of it: a hiccup of the disk is no reason to refuse, and a
database that does not answer is."""
_SMALL: Final = 8
_SMOOTHING: Final = 0.3


class Pressure:
    """Follows the writer, which alone tells it of commits; any thread may ask."""

    __slots__ = ("_began", "_each", "_fixed", "_writes")

    def __init__(self) -> None:
        self._fixed = 0.0
        self._each = 0.0
        self._writes = 0
        self._began: float | None = None

    @property
    def fixed(self) -> float:
        """Seconds that a commit of next to nothing takes; 0 until one was seen."""
        return self._fixed

    def began(self, writes: int, now: float) -> None:
        """A group of so many writes is being committed."""
        self._writes = writes
        self._began = now

    def ended(self, now: float) -> None:
        """It is committed, or has failed."""
        if self._began is None:
            return
        took = now - self._began
        if self._writes <= _SMALL:
            self._fixed += _SMOOTHING * (took - self._fixed)
        elif self._writes >= LARGE:
            # Of a group whose commit was quicker than those before, a part at least is the writes' own.
            own = max(took - self._fixed, took / 4) / self._writes
            self._each = own if not self._each else self._each + _SMOOTHING * (own - self._each)
        self._began = None

    def wait(self, waiting: int, now: float) -> float:
        """Seconds that one more write would wait behind *waiting* ones; infinite behind a commit that stands still."""
        began, writes, each = self._began, self._writes, self._each
        if began is not None:
            lasted = now - began
            if lasted > STALLED + self._fixed + writes * each:
                return float("inf")
            if writes >= LARGE:
                each = max(each, (lasted - self._fixed) / writes)
            remaining = max(0.0, writes * each - lasted) if writes >= LARGE else 0.0
        else:
            remaining = 0.0
        return remaining + waiting * each if waiting >= LARGE else 0.0
