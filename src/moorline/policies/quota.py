"""Our own quota: a token bucket that is asked before it is charged, so that several of them decide together."""

from __future__ import annotations

from moorline.policies.rate import RateLimit

__all__ = ["Quota"]


class Quota:
    """The state of one RateLimit. Not safe between threads: the gate that owns it holds the lock.

    In any *s* seconds it lets through at most ``burst + s * limit / per``.
    """

    __slots__ = ("_at", "_burst", "_rate", "_tokens", "config")

    def __init__(self, config: RateLimit, now: float) -> None:
        self.config = config
        self._rate = config.limit / config.per
        self._burst = self._tokens = float(config.limit if config.burst is None else config.burst)
        self._at = now

    def wait(self, now: float, ahead: float, cost: float) -> float:
        """Seconds until *cost* is there, when *ahead* is taken by others first. A cost above the burst waits for a full
        bucket, and leaves it in debt.
        """
        if now > self._at:
            self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
            self._at = now
        wanted = ahead + min(self._burst, cost)
        return (wanted - self._tokens) / self._rate if wanted > self._tokens else 0.0

    def spend(self, cost: float) -> None:
        """Take *cost*, after ``wait`` said that it is there."""
        self._tokens -= cost

    def refund(self, cost: float) -> None:
        """What was taken was not used."""
        self._tokens = min(self._burst, self._tokens + cost)

    def __str__(self) -> str:
        limit, per = self.config.limit, self.config.per
        return f"our own rate limit of {limit:g} {'a second' if per == 1 else f'in {per:g} s'}"
