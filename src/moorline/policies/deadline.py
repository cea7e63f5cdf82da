"""The end of a whole call, whatever it does meanwhile."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["Deadline"]


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment on the monotonic clock; ``Deadline.after(now, None)`` never comes."""

    at: float

    @classmethod
    def after(cls, now: float, seconds: float | None) -> Deadline:
        """The moment *seconds* from *now*."""
        return cls(math.inf if seconds is None else now + seconds)

    def remaining(self, now: float) -> float:
        """Seconds left, never negative; infinite without a deadline."""
        left = self.at - now
        return left if left > 0 else 0.0
