"""Finding an unknown limit: after a refusal begin slowly, speed up, and back off at each further one."""

from __future__ import annotations

from typing import Final

__all__ = ["Pacer"]

_FIRST: Final = 2.0  # calls a second after the first refusal, doubled each second until the next
_LEAST: Final = 0.1
_KEPT: Final = 0.7  # of the rate, at each refusal
_FAST: Final = 1000.0  # a rate above is no limit worth keeping
_CALM: Final = 300.0  # seconds without a refusal after which it is forgotten


class Pacer:
    """Additive increase, multiplicative decrease of a rate. Not safe between threads: the gate holds the lock."""

    __slots__ = ("_at", "_cut", "_found", "_rate", "_tokens")

    def __init__(self, now: float) -> None:
        self._rate = _FIRST
        self._found = 0.0  # the rate that was refused last; none yet: double instead of adding
        self._tokens = 0.0
        self._at = self._cut = now

    def wait(self, now: float, ahead: float, cost: float) -> float:
        """Seconds until *cost* may pass, when *ahead* goes first."""
        self._grow(now)
        lacking = ahead + cost - self._tokens
        return lacking / self._rate if lacking > 0 else 0.0

    def passed(self, cost: float) -> None:
        """*cost* is on its way."""
        self._tokens -= cost

    def limited(self, now: float, sent: float | None) -> None:
        """One more refusal. Those of calls that were sent before the last one counted say nothing new."""
        if (sent is not None and sent < self._cut) or now - self._cut < min(1.0, 2 / self._rate):
            return
        self._grow(now)
        self._found = self._rate
        self._rate = max(self._rate * _KEPT, _LEAST)
        self._tokens = min(self._tokens, 0.0)
        self._cut = now

    def over(self, now: float) -> bool:
        """Whether there is no limit to be seen any more."""
        return self._rate > _FAST or now - self._cut > _CALM

    def _grow(self, now: float) -> None:
        elapsed = now - self._at
        if elapsed <= 0:
            return
        self._tokens = min(self._tokens + elapsed * self._rate, max(self._rate * 0.1, 1.0))
        used = min(elapsed, 2 / self._rate)  # a rate that nobody uses proves nothing
        self._rate = self._rate + used * max(0.02 * self._found, 0.01) if self._found else self._rate * 2**used
        self._at = now

    def __str__(self) -> str:
        return f"the service refuses calls that come too fast: {self._rate:.3g} a second for now"
