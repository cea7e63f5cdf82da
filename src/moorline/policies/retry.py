"""How often and after how long to try again, and a budget that keeps retries from becoming a storm."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from moorline.errors import ConfigurationError
from moorline.policies.checks import check_count, check_seconds

__all__ = ["Jitter", "Retry", "RetryBudget"]

Jitter = Literal["full", "equal", "none"]
_JITTERS: Final = ("full", "equal", "none")


@dataclass(frozen=True, slots=True)
class Retry:
    """At most *retries* repetitions, after ``base * factor ** n`` seconds each, never more than *cap*.

    *jitter*: ``"full"`` draws from 0 to that time, ``"equal"`` from its half to it, ``"none"`` takes it as it is. A
    wait that the service itself asks for is obeyed beyond that; one longer than *cap* ends the call instead, with
    ``retry_at``.
    *budget* is the part of a service's calls that may be repeats (0.2 allows 20 %, and one a second besides); None
    lifts it.

    Raises ConfigurationError naming the field.
    """

    retries: int = 5
    base: float = 1.0
    factor: float = 2.0
    cap: float = 60.0
    jitter: Jitter = "full"
    budget: float | None = 0.2

    def __post_init__(self) -> None:
        check_count("Retry", "retries", self.retries, least=0)
        check_seconds("Retry", "base", self.base, zero=True)
        check_seconds("Retry", "factor", self.factor)
        check_seconds("Retry", "cap", self.cap, zero=True)
        if self.factor < 1:
            raise ConfigurationError(f"Retry.factor must be 1 or more, not {self.factor!r}")
        if self.jitter not in _JITTERS:
            raise ConfigurationError(f"Retry.jitter must be one of {', '.join(_JITTERS)}, not {self.jitter!r}")
        if self.budget is not None:
            check_seconds("Retry", "budget", self.budget, zero=True)

    def delay(self, number: int, random: Callable[[], float]) -> float:
        """Seconds before retry *number* (1 is the first); *random* gives numbers from 0 to 1."""
        try:
            full = min(self.cap, self.base * self.factor ** (number - 1))
        except OverflowError:
            full = self.cap
        if self.jitter == "full":
            return full * random()
        if self.jitter == "equal":
            return full * (0.5 + 0.5 * random())
        return full


class RetryBudget:
    """Tokens for retries: each call adds *ratio*, each second adds one, each retry takes one. Safe between threads.

    A retry is charged when it is scheduled, so that a burst of failures cannot all pass while they wait.
    """

    __slots__ = ("__weakref__", "_at", "_lock", "_most", "_now", "_ratio", "_tokens", "full")

    _BURST: Final = 20.0

    def __init__(self, ratio: float, now: Callable[[], float]) -> None:
        self._ratio = ratio
        self._now = now
        self._at = now()
        self._most = self._tokens = self._BURST
        self.full = True
        """Whether calls earn nothing more: the usual case, which needs no ``call``."""
        self._lock = threading.Lock()

    def call(self) -> None:
        """A new call came: it earns its share of a retry."""
        if self.full:
            return
        with self._lock:
            self._gain(self._ratio)

    def take(self) -> bool:
        """Whether one more retry may be scheduled; True has paid for it."""
        with self._lock:
            now = self._now()
            self._gain(now - self._at)
            self._at = now
            if self._tokens < 1:
                return False
            self._tokens -= 1
            self.full = False
            return True

    @property
    def left(self) -> float:
        """Retries that may be scheduled now, without those that the seconds since have earned."""
        return self._tokens

    def give_back(self) -> None:
        """A scheduled retry was cancelled before it was sent."""
        with self._lock:
            self._gain(1)

    def _gain(self, tokens: float) -> None:
        self._tokens = min(self._most, self._tokens + tokens)
        self.full = self._tokens >= self._most

    def __repr__(self) -> str:
        return f"RetryBudget({self._tokens:.1f} of {self._most:.0f})"
