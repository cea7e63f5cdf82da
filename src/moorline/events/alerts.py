"""What is wrong with an application, above all with the events that come in, decided from facts alone: no clock, no
database.

An alert fires once, when its limit is reached, and is over once, when it is well below it again (four fifths), so that
what wavers around the limit is one alert. Each has a rule:

========  =========================================================================  ===============================
silent    no event of a service for ``silent_minutes``                                ends with its next event; one that
                                                                                     is named in the limits may have
                                                                                     sent nothing yet
failures  more than ``failures_percent`` of a service's requests were forged          of at least ten in 15 minutes
backlog   the oldest event that is due has waited for ``backlog_seconds``
secret    a signing secret, or a key, ends within ``secret_days``                      ends when it is gone
refused   a service has refused a key within ``refused_minutes``, and not taken it    ends when it is taken again, or no
          since                                                                      longer sent
breaker   the breaker of a service has not been closed for ``breaker_minutes``        as the process that looks knows it
dead      ``dead_letters`` jobs in the database are dead                              ends when they were acted on
ended     ``ended_connections`` accounts at a service have ended in the last day      ends a day later, or when they are
                                                                                     connected again
========  =========================================================================  ===============================
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from moorline.errors import ConfigurationError

__all__ = [
    "Alert",
    "AlertConfig",
    "Counts",
    "Expiring",
    "Facts",
    "Limits",
    "Reading",
    "RefusedKey",
    "Stuck",
    "decide",
    "readings",
]

Rule: TypeAlias = Literal["silent", "failures", "backlog", "secret", "breaker", "dead", "refused", "ended"]
Key: TypeAlias = str

_OVER: Final = 0.8  # of the limit: below it an alert is over
_LEAST: Final = 10  # requests in the window, for a share of them to mean anything
WINDOW_MINUTES: Final = 15
_GONE: Final = {"breaker": "the breaker is closed", "ended": "none has ended in the last day"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What is too much, for one service or for all; None is never. Raises ConfigurationError that names the field."""

    silent_minutes: float | None = None
    failures_percent: float | None = 50.0

    def __post_init__(self) -> None:
        for name in ("silent_minutes", "failures_percent"):
            _check(name, getattr(self, name))


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertConfig:
    """All limits: ``limits`` hold for every service that ``services`` does not name. Raises ConfigurationError."""

    limits: Limits = field(default_factory=Limits)
    services: Mapping[str, Limits] = field(default_factory=dict)
    backlog_seconds: float | None = 300.0
    secret_days: float | None = 14.0
    breaker_minutes: float | None = None
    dead_letters: float | None = None
    refused_minutes: float | None = 15.0
    ended_connections: float | None = 1.0

    def __post_init__(self) -> None:
        for name in (
            "backlog_seconds", "secret_days", "breaker_minutes", "dead_letters", "refused_minutes", "ended_connections",
        ):  # fmt: skip
            _check(name, getattr(self, name))


class Counts(NamedTuple):
    """A service: the minute (since the epoch) of its last event, None if none is known; and what came in the window."""

    last: int | None
    good: int
    forged: int


_UNHEARD: Final = Counts(None, 0, 0)


class Expiring(NamedTuple):
    """A secret that ends: whose, what it is called, and when, in seconds since the epoch. Never the secret itself."""

    service: str
    label: str
    not_after: float


class Stuck(NamedTuple):
    """A breaker that is not closed: whose, since when (seconds since the epoch), and why."""

    service: str
    since: float
    reason: str


class RefusedKey(NamedTuple):
    """A version of a credential that a service has refused, and not taken since: its variable, its fingerprint, when it
    was refused last (seconds since the epoch), how often, and by whom it was sent.
    """

    name: str
    version: str
    at: float
    times: int
    by: str


class Facts(NamedTuple):
    """What was found at that time; ``oldest`` is when the oldest event that waits was due, None if none waits.

    ``awaited``: of each service that has limits of its own, since when it is watched, in seconds since the epoch;
    ``ended``: how many connected accounts of each service have ended in the last day.
    """

    at: float
    counts: Mapping[str, Counts]
    oldest: float | None
    secrets: Sequence[Expiring] = ()
    awaited: Mapping[str, float] = MappingProxyType({})
    breakers: Sequence[Stuck] = ()
    dead: int = 0
    refused: Sequence[RefusedKey] = ()
    ended: Mapping[str, int] = MappingProxyType({})


class Reading(NamedTuple):
    """One rule, looked at: ``level`` is 1 at the limit; None if it cannot be told now, so that nothing changes."""

    rule: Rule
    service: str
    label: str
    level: float | None
    value: float
    limit: float
    message: str

    @property
    def key(self) -> Key:
        """What this is the reading of."""
        return f"{self.rule}\x1f{self.service}\x1f{self.label}"


@dataclass(frozen=True, slots=True)
class Alert:
    """``state`` is ``firing`` or ``resolved``. ``service`` is empty where it is about all. Seconds since the epoch.

    ``value`` and ``limit`` are in the rule's own unit: minutes, percent, seconds, days, jobs. ``label`` is a secret's.
    """

    rule: Rule
    service: str
    label: str
    state: Literal["firing", "resolved"]
    value: float
    limit: float
    message: str
    since: float
    at: float

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def readings(facts: Facts, config: AlertConfig) -> list[Reading]:
    """Every rule that has a limit, looked at."""
    found: list[Reading] = []
    unheard = {service: _UNHEARD for service in facts.awaited if service not in facts.counts}
    for service, counts in {**facts.counts, **unheard}.items():
        limits = config.services.get(service, config.limits)
        found += _silent(service, counts, limits, facts)
        found += _failures(service, counts, limits)
    found += _backlog(facts, config)
    found += _secrets(facts, config)
    found += _breakers(facts, config)
    found += _dead(facts, config)
    found += _refused(facts, config)
    found += _ended(facts, config)
    return found


def decide(firing: Mapping[Key, Alert], found: Sequence[Reading], now: float) -> tuple[dict[Key, Alert], list[Alert]]:
    """What fires from now on, and what changed: alerts that began or are over.

    One whose reading is gone (the service or the secret, or its limit) is over.
    """
    after: dict[Key, Alert] = {}
    changed: list[Alert] = []
    for reading in found:
        before = firing.get(reading.key)
        if before is None:
            if reading.level is not None and reading.level >= 1:
                after[reading.key] = _alert(reading, now)
                changed.append(after[reading.key])
        elif reading.level is not None and reading.level < _OVER:
            changed.append(replace(_alert(reading, now), state="resolved", since=before.since))
        else:
            after[reading.key] = before
    gone = firing.keys() - {reading.key for reading in found}
    for key in sorted(gone):
        why = _GONE.get(firing[key].rule, "no longer watched")
        changed.append(replace(firing[key], state="resolved", at=now, message=why))
    return after, changed


def _alert(reading: Reading, now: float) -> Alert:
    facts = (reading.value, reading.limit, reading.message)
    return Alert(reading.rule, reading.service, reading.label, "firing", *facts, since=now, at=now)


def _silent(service: str, counts: Counts, limits: Limits, facts: Facts) -> Iterator[Reading]:
    last = facts.awaited.get(service) if counts.last is None else (counts.last + 1) * 60.0
    if limits.silent_minutes is None or last is None:
        return
    silent = max(facts.at - last, 0.0) / 60
    message = f"no event of {service} for {silent:.0f} minutes (limit {limits.silent_minutes:g})"
    if counts.last is None:
        message += "; none has come so far"
    level = silent / limits.silent_minutes
    yield Reading("silent", service, "", level, round(silent, 1), limits.silent_minutes, message)


def _failures(service: str, counts: Counts, limits: Limits) -> Iterator[Reading]:
    if limits.failures_percent is None:
        return
    total = counts.good + counts.forged
    share = 100.0 * counts.forged / total if total else 0.0
    # A few requests say nothing, unless all of them are good.
    level = share / limits.failures_percent if total >= _LEAST or not counts.forged else None
    message = f"{share:.0f} % of {total} requests as {service} were not signed by an accepted secret"
    message += f", in {WINDOW_MINUTES} minutes (limit {limits.failures_percent:g} %)"
    yield Reading("failures", service, "", level, round(share, 1), limits.failures_percent, message)


def _backlog(facts: Facts, config: AlertConfig) -> Iterator[Reading]:
    limit = config.backlog_seconds
    if limit is None:
        return
    age = 0.0 if facts.oldest is None else max(facts.at - facts.oldest, 0.0)
    message = f"the oldest event that is due has waited for {age:.0f} s (limit {limit:g})"
    yield Reading("backlog", "", "", age / limit, round(age, 1), limit, message)


def _secrets(facts: Facts, config: AlertConfig) -> Iterator[Reading]:
    limit = config.secret_days
    if limit is None:
        return
    for secret in facts.secrets:
        left = (secret.not_after - facts.at) / 86_400
        ends = f"ends in {left:.1f} days" if left > 0 else f"ended {-left:.1f} days ago"
        message = f"the secret {secret.label!r} of {secret.service} {ends} (limit {limit:g})"
        level = 1.0 if left <= limit else 0.0
        yield Reading("secret", secret.service, secret.label, level, round(left, 1), limit, message)


def _breakers(facts: Facts, config: AlertConfig) -> Iterator[Reading]:
    limit = config.breaker_minutes
    for stuck in facts.breakers if limit is not None else ():
        minutes = max(facts.at - stuck.since, 0.0) / 60
        message = f"the breaker of {stuck.service} has not been closed for {minutes:.0f} minutes: {stuck.reason}"
        level = minutes / (limit or 1.0)
        yield Reading("breaker", stuck.service, "", level, round(minutes, 1), limit or 1.0, message)


def _dead(facts: Facts, config: AlertConfig) -> Iterator[Reading]:
    limit = config.dead_letters
    if limit is None:
        return
    some = "1 job is dead" if facts.dead == 1 else f"{facts.dead} jobs are dead"
    yield Reading("dead", "", "", facts.dead / limit, facts.dead, limit, f"{some} (limit {limit:g})")


def _refused(facts: Facts, config: AlertConfig) -> Iterator[Reading]:
    limit = config.refused_minutes
    for one in facts.refused if limit is not None else ():
        minutes = max(facts.at - one.at, 0.0) / 60
        message = f"{one.name}: the service refuses version {one.version} ({one.times} times, last by {one.by})"
        message += f"; see: moorline keys status {one.name}"
        level = 1.0 if minutes < (limit or 0.0) else 0.0
        yield Reading("refused", one.name, one.version, level, round(minutes, 1), limit or 0.0, message)


def _ended(facts: Facts, config: AlertConfig) -> Iterator[Reading]:
    limit = config.ended_connections
    for service, count in sorted(facts.ended.items()) if limit is not None else ():
        some = "1 connected account" if count == 1 else f"{count} connected accounts"
        message = f"{some} of {service} ended in the last day: to be connected again by their owners"
        yield Reading("ended", service, "", count / (limit or 1.0), count, limit or 1.0, message)


def _check(name: str, value: object) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ConfigurationError(f"{name}: expected a number above 0, or nothing for never, got {value!r}")
