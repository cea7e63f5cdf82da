"""Rates: our own quota (a token bucket), and the gate that a service's answers close for a while."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

from moorline.policies.checks import check_count, check_seconds

__all__ = ["RateGate", "RateLimit", "TokenBucket", "retry_after_seconds"]

_NUMBER: Final = re.compile(r"\d{1,12}(?:\.\d{1,9})?")
_GRAIN: Final = 1e-6  # shorter waits are rounding errors of the clock


@dataclass(frozen=True, slots=True)
class RateLimit:
    """At most *limit* attempts in *per* seconds, of which *burst* (normally *limit*) may come at once.

    Raises ConfigurationError naming the field.
    """

    limit: int
    per: float = 1.0
    burst: int | None = None

    def __post_init__(self) -> None:
        check_count("RateLimit", "limit", self.limit)
        check_seconds("RateLimit", "per", self.per)
        if self.burst is not None:
            check_count("RateLimit", "burst", self.burst)


class TokenBucket:
    """The state of a RateLimit: who comes when it is empty is told how long to wait, in the order of coming."""

    __slots__ = ("_at", "_burst", "_lock", "_now", "_rate", "_tokens")

    def __init__(self, config: RateLimit, now: Callable[[], float]) -> None:
        self._rate = config.limit / config.per
        self._burst = float(config.limit if config.burst is None else config.burst)
        self._tokens = self._burst
        self._now = now
        self._at = now()
        self._lock = threading.Lock()

    def take(self, longest: float) -> tuple[bool, float]:
        """``(True, seconds)``: a token is ours after that wait. ``(False, seconds)``: it would take longer than
        *longest*.
        """
        with self._lock:
            now = self._now()
            self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
            self._at = now
            wait = max((1 - self._tokens) / self._rate, 0.0)
            wait = 0.0 if wait < _GRAIN else wait
            if wait > longest:
                return False, wait
            self._tokens -= 1
            return True, wait

    def give_back(self) -> None:
        """The token was not used."""
        with self._lock:
            self._tokens = min(self._burst, self._tokens + 1)


class RateGate:
    """Closed until a time that the service named, by Retry-After or by a limit's reset."""

    __slots__ = ("_now", "_until")

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._until = 0.0

    def close(self, seconds: float) -> None:
        """Let nobody pass for *seconds* from now; never shortens an earlier closing."""
        self._until = max(self._until, self._now() + seconds)

    def wait(self) -> float:
        """Seconds until the gate opens; 0 when it is open."""
        if not self._until:
            return 0.0
        left = self._until - self._now()
        return left if left > _GRAIN else 0.0


def retry_after_seconds(value: str, now: float) -> float | None:
    """The seconds that a ``Retry-After`` asks for: a number, or an HTTP-date against *now* (epoch seconds).

    None for what is neither; 0 for a date in the past.
    """
    text = value.strip()
    if _NUMBER.fullmatch(text):
        return float(text)
    if not text or text[0].isdigit() or text[0] in "+-.":
        return None
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, IndexError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    try:
        return max(moment.timestamp() - now, 0.0)
    except (ValueError, OverflowError):
        return None
