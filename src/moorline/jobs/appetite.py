"""How many jobs a worker should claim: as many as it can run soon, and no more, since others may have free slots."""

from __future__ import annotations

from typing import Final

__all__ = ["Appetite"]

AHEAD: Final = 0.1
"""Seconds of work to hold beyond the free slots: enough to hide a claim's commit."""

MAX_AHEAD: Final = 1_000
_SMOOTHING: Final = 0.5
_SHORTEST: Final = 0.005


class Appetite:
    """Follows the rate at which jobs end. Slow jobs are claimed only into free slots, fast ones some hundreds ahead."""

    __slots__ = ("_ahead", "_concurrency", "_ended", "_rate", "_since")

    def __init__(self, concurrency: int) -> None:
        self._concurrency = concurrency
        self._ahead = 0
        self._rate = 0.0
        self._ended = 0
        self._since: float | None = None

    def ended(self) -> None:
        """A job ended."""
        self._ended += 1

    def wanted(self, room: int, buffered: int, now: float) -> int:
        """How many to claim, with *room* free slots and *buffered* jobs claimed and not started; 0: none now."""
        if self._since is None:
            self._since = now
        elapsed = now - self._since
        if elapsed >= _SHORTEST:
            self._rate += _SMOOTHING * (self._ended / elapsed - self._rate)
            self._ended = 0
            self._since = now
            self._ahead = min(int(self._rate * AHEAD), MAX_AHEAD)
        wanted = room + self._ahead - buffered
        return wanted if wanted > 0 and self.low(buffered) else 0

    def low(self, buffered: int) -> bool:
        """Whether it is time to claim: half of what is held ahead is used up."""
        return buffered <= self._ahead // 2

    def reset(self) -> None:
        """Hold nothing ahead until the rate is known again."""
        self._ahead = 0
        self._rate = 0.0
        self._ended = 0
        self._since = None
