"""What a worker has claimed and not started: single jobs, and those that are to run together. Pure, no I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from moorline.errors import ConfigurationError
from moorline.jobs.job import Claim

__all__ = ["MOST_TOGETHER", "Batching", "Intake"]

MOST_TOGETHER: Final = 10_000
LONGEST_LINGER: Final = 10.0
"""Seconds; a claim that lingers is held by this worker, and others may be idle."""


@dataclass(frozen=True, slots=True)
class Batching:
    """Jobs of a name run by one call: up to ``size``, waiting at most ``linger`` seconds for more.

    Raises ConfigurationError naming the argument.
    """

    size: int
    linger: float = 1.0

    def __post_init__(self) -> None:
        if not (_is(self.size, int) and 1 <= self.size <= MOST_TOGETHER):
            raise ConfigurationError(f"batch: expected a whole number from 1 to {MOST_TOGETHER:,}, got {self.size!r}")
        if not (_is(self.linger, int, float) and 0 <= self.linger <= LONGEST_LINGER):
            raise ConfigurationError(f"linger: expected seconds from 0 to {LONGEST_LINGER:g}, got {self.linger!r}")


def _is(value: object, *kinds: type) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool)


class Intake:
    """Gives out what is to run next, by the time of its coming.

    ``rule`` says of a job's name how its jobs are run together, if they are. Times are seconds of one clock, passed in.
    """

    __slots__ = ("_gathering", "_rule", "_singles")

    def __init__(self, rule: Callable[[str], Batching | None]) -> None:
        self._rule = rule
        self._singles: deque[tuple[float, Claim]] = deque()
        self._gathering: dict[str, tuple[Batching, deque[tuple[float, Claim]]]] = {}

    def put(self, claims: Iterable[Claim], now: float) -> None:
        """These were claimed."""
        for claim in claims:
            rule = self._rule(claim.name)
            if rule is None:
                self._singles.append((now, claim))
            elif claim.name in self._gathering:
                self._gathering[claim.name][1].append((now, claim))
            else:
                self._gathering[claim.name] = (rule, deque([(now, claim)]))

    def take(self, now: float) -> tuple[Claim, ...]:
        """What is to run next; empty if there is nothing, or nothing yet."""
        name = self._oldest_due(now) if self._gathering else None
        if name is None:
            return (self._singles.popleft()[1],) if self._singles else ()
        rule, waiting = self._gathering[name]
        batch = tuple([waiting.popleft()[1] for _ in range(min(rule.size, len(waiting)))])
        if not waiting:
            del self._gathering[name]
        return batch

    def _oldest_due(self, now: float) -> str | None:
        """The name whose batch goes next, unless a single job was there before it."""
        due = [
            (waiting[0][0], name)
            for name, (rule, waiting) in self._gathering.items()
            if len(waiting) >= rule.size or waiting[0][0] + rule.linger <= now
        ]
        if not due:
            return None
        since, name = min(due)
        return None if self._singles and self._singles[0][0] < since else name

    def due_in(self, now: float) -> float | None:
        """Seconds until a batch that is not full has waited long enough; None if none waits."""
        if not self._gathering:
            return None
        return max(0.0, min(waiting[0][0] + rule.linger for rule, waiting in self._gathering.values()) - now)

    def ready(self) -> int:
        """How many need nothing but a free slot; what gathers is not counted, so that more of it is claimed."""
        if not self._gathering:
            return len(self._singles)
        full = sum(len(waiting) - len(waiting) % rule.size for rule, waiting in self._gathering.values())
        return len(self._singles) + full

    def clear(self) -> list[Claim]:
        """All of them, to be given back."""
        claims = list(self)
        self._singles.clear()
        self._gathering.clear()
        return claims

    def __iter__(self) -> Iterator[Claim]:
        yield from (claim for _, claim in self._singles)
        for _, waiting in self._gathering.values():
            yield from (claim for _, claim in waiting)

    def __bool__(self) -> bool:
        return bool(self._singles or self._gathering)

    def __len__(self) -> int:
        return len(self._singles) + sum(len(waiting) for _, waiting in self._gathering.values())
