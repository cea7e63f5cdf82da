"""Idempotency keys as vendors keep them: the first result is replayed, other parameters and overlapping uses are
refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from moorline.clock import Clock
from moorline.sandbox.standin import Answer

__all__ = ["Keys"]


@dataclass(slots=True)
class _Use:
    mark: str
    at: float
    answer: Answer | None = None


class Keys:
    """The keys of one account, each good for ``window`` seconds after its first use."""

    def __init__(self, clock: Clock, window: float) -> None:
        self._clock = clock
        self._window = window
        self._uses: dict[str, _Use] = {}

    def begin(self, key: str, mark: str) -> Answer | Literal["running", "other"] | None:
        """Start using a key: None to go on, the first answer, or why not. ``mark`` stands for the parameters."""
        use = self._uses.get(key)
        if use is not None and self._clock.wall() - use.at < self._window:
            if use.mark != mark:
                return "other"
            return use.answer or "running"
        self._uses[key] = _Use(mark, self._clock.wall())
        return None

    def finish(self, key: str, answer: Answer) -> None:
        """Keep the result."""
        self._uses[key].answer = answer

    def forget(self, key: str) -> None:
        """The request came to nothing: the key is as good as new."""
        self._uses.pop(key, None)
