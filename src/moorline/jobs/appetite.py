"""How many jobs a worker should claim: as many as it can run soon, and no more, since others may have free slots."""

from __future__ import annotations

from typing import Final

__all__ = ["Appetite"]

AHEAD: Final = 0.1
"""Seconds of work to hold beyond the free slots: enough to hide a claim's commit."""

MAX_AHEAD: Final = 1_500
_SMOOTHING: Final = 0.5
_SHORTEST: Final = 0.005


class Appetite:
    """Follows the rate at which jobs end. Slow jobs are claimed only into free slots, fast ones some hundreds ahead."""

    __slots__ = ("_ahead", "_concurrency", "_rate", "_since", "ended", "low")

    def __init__(self, concurrency: int) -> None:
        self._concurrency = concurrency
        self.ended = 0
        """Jobs that have; whoever sees one end adds it."""
        self.low = 0
        """It is time to claim when no more are buffered: half of what is held ahead is used up."""
        self._ahead = 0
        self._rate = 0.0
        self._since: float | None = None

    def wanted(self, room: int, buffered: int, now: float) -> int:
        """How many to claim, with *room* free slots and *buffered* jobs claimed and not started; 0: none now."""
        if self._since is None:
            self._since = now
        elapsed = now - self._since
        if elapsed >= _SHORTEST:
            self._rate += _SMOOTHING * (self.ended / elapsed - self._rate)
            self.ended = 0
            self._since = now
            self._ahead = min(int(self._rate * AHEAD), MAX_AHEAD)
            self.low = self._ahead // 2
        wanted = room + self._ahead - buffered
        return wanted if wanted > 0 and buffered <= self.low else 0

    def reset(self) -> None:
        """Hold nothing ahead until the rate is known again."""
        self._ahead = self.low = self.ended = 0
        self._rate = 0.0
        self._since = None
