"""Whether the wall clock was set forward, or stood still with a machine that slept: then all leases look as if over."""

from __future__ import annotations

from moorline.clock import Clock

__all__ = ["Steps"]


class Steps:
    """Compares the clock on the wall with the one that measures, which no one sets."""

    __slots__ = ("_clock", "_gap")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._gap = clock.wall() - clock.monotonic()

    def forward(self) -> float:
        """Seconds that the wall clock gained since it was asked last; negative if it was set back."""
        before, self._gap = self._gap, self._clock.wall() - self._clock.monotonic()
        return self._gap - before
