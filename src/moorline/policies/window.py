"""A sliding window of counts: a ring of ten buckets, so that memory and cost do not grow with the calls."""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["Bucket", "Totals", "Window"]

_BUCKETS: Final = 10


class Bucket:
    """What happened in a tenth of the window: ``calls`` in all, those that ``failed``, and those that were ``slow``."""

    __slots__ = ("calls", "failed", "slow")

    def __init__(self) -> None:
        self.calls = self.failed = self.slow = 0


class Totals(NamedTuple):
    """The counts of a whole window."""

    calls: int
    failed: int
    slow: int


class Window:
    """The counts of the last *seconds*, in tenths: a call counts for at least nine of them and never for more than ten.

    ``current`` is the bucket to count in until the time ``turn``; from then on ``roll()`` comes first. It has no lock:
    that is its owner's business.
    """

    __slots__ = ("_at", "_ring", "_width", "current", "turn")

    def __init__(self, seconds: float, now: float) -> None:
        self._width = seconds / _BUCKETS
        self.clear(now)

    def clear(self, now: float) -> None:
        """Forget all counts; the first bucket begins *now*."""
        # New buckets, not zeros: who counts without the lock may still hold the old one.
        self._ring = [Bucket() for _ in range(_BUCKETS)]
        self._at = 0
        self.current = self._ring[0]
        self.turn = now + self._width

    def roll(self, now: float) -> None:
        """Bring the window up to *now*: what is too old is forgotten."""
        if now < self.turn:
            return
        steps = int((now - self.turn) // self._width) + 1
        if steps >= _BUCKETS:
            self.clear(now)
            return
        for _ in range(steps):
            self._at = (self._at + 1) % _BUCKETS
            self._ring[self._at] = Bucket()
        self.current = self._ring[self._at]
        self.turn += steps * self._width

    def totals(self) -> Totals:
        """The counts of all buckets, as of the last ``roll()``."""
        calls = failed = slow = 0
        for bucket in self._ring:
            calls += bucket.calls
            failed += bucket.failed
            slow += bucket.slow
        return Totals(calls, failed, slow)
