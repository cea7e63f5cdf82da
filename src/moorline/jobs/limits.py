"""How many jobs may begin, and how many may run at once: of a function, of each value of an argument, of a queue.

Pure: what is kept of a limit is passed in and given back. Times are seconds since the epoch.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from random import Random
from typing import Any, Final, NamedTuple

import msgspec

from moorline.errors import ConfigurationError
from moorline.policies.checks import check_count
from moorline.policies.rate import RateLimit

__all__ = ["Limit", "Line", "Rule", "Standing", "admitted", "check_by", "key_of", "queue_rule", "take"]

_LONGEST: Final = 200
_CLOSE: Final = 0.9  # of the time between two: rather one too early, who asks again, than a place that is not taken
_FIRST_GUESS: Final = 0.02  # seconds that a job runs, before any has ended
_SMOOTHING: Final = 0.2
_FORGET: Final = 0.9
_SOONEST: Final = 0.05
_LATEST_AGAIN: Final = 60.0


@dataclass(frozen=True, slots=True)
class Limit:
    """Of a job or a queue: ``rate`` (``RateLimit(100, per=60)``) for how many begin, ``concurrency`` for how many run,
    counted over all workers that share the database. A rush that comes after a rest may begin at once, beside those of
    the minute (see ``RateLimit``): with ``burst=1`` no minute has more than 100. With ``by``, for each value of that
    argument of the function.

    Raises ConfigurationError naming the field.
    """

    rate: RateLimit | None = None
    concurrency: int | None = None
    by: str | None = None

    def __post_init__(self) -> None:
        if self.rate is None and self.concurrency is None:
            raise ConfigurationError("Limit: give a rate, a concurrency, or both")
        if self.rate is not None and not isinstance(self.rate, RateLimit):
            raise ConfigurationError(f"Limit: rate is a RateLimit, not {self.rate!r}")
        if self.concurrency is not None:
            check_count("Limit", "concurrency", self.concurrency)
        if self.by == "":
            raise ConfigurationError("Limit: by is the name of an argument")


class Rule(NamedTuple):
    """A limit for the jobs that share ``key``: one text for all workers."""

    key: str
    rate: RateLimit | None
    concurrency: int | None


class _Arguments(msgspec.Struct):
    args: dict[str, msgspec.Raw]


_READ: Final = msgspec.json.Decoder(_Arguments).decode


def key_of(name: str, limit: Limit, payload: bytes) -> Rule:
    """The rule for a job of that name, by its stored arguments; one that is left out counts as its own value."""
    value = ""
    if limit.by is not None:
        try:
            value = bytes(_READ(payload).args.get(limit.by, b"")).decode()
        except (msgspec.DecodeError, UnicodeDecodeError):
            value = _lenient(payload, limit.by)
    return Rule(_bounded(f"job\t{name}\t{value}"), limit.rate, limit.concurrency)


def _lenient(payload: bytes, name: str) -> str:
    """The argument of a payload with NaN in it, which is no JSON for all, written as elsewhere."""
    try:
        args = json.loads(payload)["args"]
        return json.dumps(args[name], ensure_ascii=False, separators=(",", ":")) if name in args else ""
    except (ValueError, LookupError, TypeError, RecursionError):
        return "?"  # it will not fit its function


def queue_rule(queue: str, limit: Limit) -> Rule:
    """The rule for the jobs of that queue."""
    return Rule(_bounded(f"queue\t{queue}"), limit.rate, limit.concurrency)


def _bounded(key: str) -> str:
    if len(key) <= _LONGEST and "\x00" not in key:
        return key
    return f"{key[:60]}…{hashlib.sha256(key.encode()).hexdigest()}".replace("\x00", "?")


@dataclass(slots=True)
class Standing:
    """What is known of a rule: ``next_at``, when the next one would begin if all began evenly; how many ``run``."""

    next_at: float = 0.0
    running: int = 0


def admitted(rule: Rule, standing: Standing, now: float) -> bool:
    """Whether one more may begin; the caller ``take``s it only when all its rules say so."""
    if rule.concurrency is not None and standing.running >= rule.concurrency:
        return False
    if rule.rate is None:
        return True
    ahead = (_burst(rule.rate) - 1) * _interval(rule.rate)
    return standing.next_at <= now + ahead + 1e-9


def take(rule: Rule, standing: Standing, now: float) -> None:
    """One more has begun."""
    standing.running += 1
    if rule.rate is not None:
        standing.next_at = max(standing.next_at, now) + _interval(rule.rate)


def _interval(rate: RateLimit) -> float:
    return rate.per / rate.limit


def _burst(rate: RateLimit) -> int:
    return rate.limit if rate.burst is None else rate.burst


class Line:
    """When those come again that were not admitted by a rule: one after the other, about as they will be.

    Nobody has a place: who is more urgent and comes later is asked first. A worker has one for each rule. How long jobs
    run is learned: from those that end, and while none does, from how long that has been so.
    """

    __slots__ = ("_again", "_end", "_lasts", "_since")

    def __init__(self) -> None:
        self._end = -math.inf
        self._lasts = _FIRST_GUESS
        self._since = math.inf  # the last end, or the first that was sent away
        self._again = 0.0  # about how many were sent away more than once

    def ran(self, seconds: float, now: float) -> None:
        """A job of the rule has ended."""
        self._lasts += _SMOOTHING * (seconds - self._lasts)
        self._since = now
        self._again *= _FORGET

    def place(self, rule: Rule, standing: Standing, now: float, random: Random, *, again: bool) -> float:
        """When to come again; *again* if it was sent away before: then rather soon, all of those one by one."""
        self._since = min(self._since, now)
        apart = self._apart(rule, now)
        if again:
            self._again += 1
            crowd = 1.0 if rule.concurrency is None else self._again
            return now + min(max(_SOONEST, random.uniform(0.2, 2.0) * apart * crowd), _LATEST_AGAIN)
        first = now
        if rule.rate is not None:
            first = max(now, standing.next_at - (_burst(rule.rate) - 1) * _interval(rule.rate))
        self._end = max(self._end + apart * _CLOSE, first)
        return max(self._end, now + _SOONEST)

    def _apart(self, rule: Rule, now: float) -> float:
        by_rate = 0.0 if rule.rate is None else _interval(rule.rate)
        lasts = max(self._lasts, now - self._since)
        by_count = 0.0 if rule.concurrency is None else lasts / rule.concurrency
        return max(by_rate, by_count)


def check_by(name: str, limit: Limit, parameters: Any) -> None:
    """Raises ConfigurationError when the function has no argument of the name that the limit is by."""
    if limit.by is not None and limit.by not in parameters:
        raise ConfigurationError(f"limit: {name} has no argument {limit.by!r}")
