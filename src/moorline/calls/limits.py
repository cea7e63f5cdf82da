"""How services speak of their limits: the header fields of the standards and of the vendors, read into Readings.

Sources: RFC 9110, 10.2.3 (Retry-After); draft-ietf-httpapi-ratelimit-headers-11 (``RateLimit``, ``RateLimit-Policy``),
its drafts up to 06 (``RateLimit-Limit``, ``-Remaining``, ``-Reset``) and 07 (one ``RateLimit`` dictionary); RFC 9651
(structured fields); the cards of the services for all else. Nothing that a header may hold raises: what is malformed,
negative or beyond a year is as if it were not there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Final, Literal, Protocol

from moorline.errors import ConfigurationError
from moorline.policies.allowance import Reading
from moorline.policies.checks import check_seconds

__all__ = [
    "Closings",
    "Headed",
    "LimitFields",
    "LimitPattern",
    "RateLimitHeaders",
    "ResetAs",
    "moment",
    "seconds_until",
]

ResetAs = Literal["auto", "seconds", "milliseconds", "epoch", "epoch_ms"]

_YEAR: Final = 366 * 86_400.0
_EPOCH_FROM: Final = 1e9  # a reset above is a time, below a number of seconds
_EPOCH_MS_FROM: Final = 1e11
_LONGEST_VALUE: Final = 1000  # characters; what is longer is no limit
_NUMBER: Final = re.compile(r"\d{1,15}(?:\.\d{1,9})?")
_WHOLE: Final = re.compile(r"\d{1,15}")
_DURATION: Final = re.compile(
    r"(?=\d)(?:(\d{1,6})d)?(?:(\d{1,6})h)?(?:(\d{1,6})m(?!s))?(?:(\d{1,6}(?:\.\d{1,9})?)s)?(?:(\d{1,9})ms)?"
)
_RESETS: Final = ("auto", "seconds", "milliseconds", "epoch", "epoch_ms")
_REFUSED: Final = 429
_LIMITED: Final = (403, _REFUSED)


class Headed(Protocol):
    """Anything with headers: an Exchange, or the view of a plain response."""

    def header(self, name: str, default: str | None = None) -> str | None:
        """The value of a header, its name in lower case."""
        ...


_Read = Callable[[Headed, Callable[[], float]], Iterator[Reading]]

# One value -----------------------------------------------------------------------------------------------------------


def number(text: str | None) -> float | None:
    """*text* as a number of zero or more; None for all else."""
    if text is None:
        return None
    if text.isdigit() and text.isascii() and len(text) < 16:  # as nearly all are
        return float(text)
    text = text.strip()
    return float(text) if _NUMBER.fullmatch(text) else None


def seconds_until(text: str | None, now: float, kind: ResetAs = "auto") -> float | None:
    """Seconds from *now* (epoch seconds) until the moment that *text* names; 0 where it is over, None where it names
    none.

    ``"auto"`` knows seconds, epoch seconds and epoch milliseconds (told apart by their size), ``6m0s``, HTTP-dates and
    ISO 8601.
    """
    if text is None or not text or len(text) > _LONGEST_VALUE:
        return None
    text = text.strip()
    value = number(text)
    seconds: float | None
    if value is not None:
        seconds = _from_number(value, now, kind)
    elif kind != "auto" or not text or text[0] in "+-.":
        return None
    else:
        seconds = _from_duration(text)
        if seconds is None:
            at = moment(text)
            seconds = None if at is None else at - now
    return max(seconds, 0.0) if seconds is not None and seconds <= _YEAR else None


def _from_number(value: float, now: float, kind: ResetAs) -> float:
    if kind == "epoch_ms" or (kind == "auto" and value >= _EPOCH_MS_FROM):
        return value / 1000 - now
    if kind == "epoch" or (kind == "auto" and value >= _EPOCH_FROM):
        return value - now
    return value / 1000 if kind == "milliseconds" else value


def _from_duration(text: str) -> float | None:
    found = _DURATION.fullmatch(text)
    if found is None:
        return None
    units = (86_400.0, 3600.0, 60.0, 1.0, 0.001)
    return sum(float(part) * unit for part, unit in zip(found.groups(), units, strict=True) if part)


def moment(text: str) -> float | None:
    """The epoch seconds of an HTTP-date or of an ISO 8601 time; without a zone they are UTC. None for what is none."""
    try:
        read = datetime.fromisoformat(text) if text[0].isdigit() else parsedate_to_datetime(text)
        return (read if read.tzinfo is not None else read.replace(tzinfo=UTC)).timestamp()
    except (ValueError, IndexError, OverflowError, TypeError):
        return None


_date: Final = lru_cache(maxsize=64)(moment)  # a service's Date changes once a second


def _server_time(answer: Headed, now: float) -> float:
    """*now* by the clock of the service, for what it names in absolute time; ours where its answer has no Date.

    A Date has whole seconds, cut off, so that what is counted from it ends up to a second late, and never early.
    """
    date = answer.header("date")
    at = _date(date.strip()) if date and len(date) < 40 and not date[0].isdigit() else None
    return now if at is None else at


# Structured fields ---------------------------------------------------------------------------------------------------

# Possessive throughout, so that a hostile field costs no more than its length.
_VALUE: Final = r'(?:"(?:[^"\\]|\\.)*+"|:[\w+/=]*+:|(?:[^;,\s":][^;,\s"]*+)?+)'
_MEMBER: Final = re.compile(
    rf'\s*+(?:"((?:[^"\\]|\\.)*+)"|([A-Za-z*0-9][\w*.:/-]*+))((?:\s*+;\s*+[a-z*][\w.*-]*+(?:={_VALUE})?+)*+)\s*+(?:,|$)',
    re.ASCII,
)
_PARAMETER: Final = re.compile(rf";\s*+([a-z*][\w.*-]*+)=({_VALUE})", re.ASCII)


def _members(text: str) -> Iterator[tuple[str, dict[str, str]]]:
    """The items of a list with their parameters. A malformed field has none at all."""
    found, at = [], 0
    text = text.strip()
    while at < len(text):
        member = _MEMBER.match(text, at)
        if member is None:
            return
        found.append(member)
        at = member.end()
    for member in found:
        yield member[1] if member[1] is not None else member[2], dict(_PARAMETER.findall(member[3]))


def _policies(text: str) -> Mapping[str, dict[str, str]]:
    return _read_policies(text) if 0 < len(text) <= _LONGEST_VALUE else {}


@lru_cache(maxsize=256)  # they stay the same from one answer of a service to the next
def _read_policies(text: str) -> dict[str, dict[str, str]]:
    return dict(_members(text))


def _structured(answer: Headed, field_: str) -> tuple[Reading, ...]:
    """``RateLimit: "burst";r=5;t=30`` with its ``RateLimit-Policy: "burst";q=100;w=60``, or draft 07's
    ``limit=100, remaining=5, reset=30``.
    """
    if len(field_) > _LONGEST_VALUE:
        return ()
    policies = _policies(answer.header("ratelimit-policy") or "")
    if "remaining=" in field_ and ";" not in field_:
        parts = dict(part.strip().partition("=")[::2] for part in field_.split(","))
        return _triple(parts.get("limit"), parts.get("remaining"), parts.get("reset"), policies)
    readings = []
    for name, parameters in _members(field_):
        remaining, policy = _whole(parameters.get("r")), policies.get(name, {})
        unit = policy.get("qu", "").strip('"')
        if remaining is None or unit not in ("", "requests"):  # bytes and what is in flight are not counted in calls
            continue
        readings.append(
            Reading(
                remaining,
                _whole(policy.get("q")),
                _within(_whole(parameters.get("t"))),
                _within(_whole(policy.get("w"))) or None,
                parameters.get("pk", "").strip(":"),
                name,
            )
        )
    return tuple(readings)


def _triple(
    limit: str | None, remaining: str | None, reset: str | None, policies: Mapping[str, dict[str, str]]
) -> tuple[Reading, ...]:
    """The older fields, of which the limit may carry its policies: ``100, 100;w=60``."""
    left = number(remaining)
    if left is None:
        return ()
    most, _, rest = (limit or "").partition(",")
    windows = policies or _policies(rest)
    window = _whole(windows.get(most.strip(), {}).get("w"))
    return (Reading(left, number(most), _within(number(reset)), _within(window) or None),)


def _whole(text: str | None) -> float | None:
    return float(text) if text is not None and _WHOLE.fullmatch(text) else None


def _within(seconds: float | None) -> float | None:
    return seconds if seconds is not None and seconds <= _YEAR else None


# The records of the services -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LimitFields:
    """The header fields of one limit.

    *remaining* (or *used*, with *limit*) is what is left; *reset* when it is renewed, written as *reset_as*; *window*
    the length of the window, in seconds: a number from the service's documentation, or the field that has it, in
    *window_as*. *bucket* names the field that tells which part of the service the limit is for; *policy* is our name
    for the limit where a service has several.
    """

    remaining: str | None = None
    limit: str | None = None
    reset: str | None = None
    reset_as: ResetAs = "auto"
    window: str | float | None = None
    window_as: Literal["seconds", "milliseconds"] = "seconds"
    used: str | None = None
    bucket: str | None = None
    policy: str = ""

    def __post_init__(self) -> None:
        if self.remaining is None and (self.used is None or self.limit is None):
            raise ConfigurationError("LimitFields needs remaining, or used and limit")
        if self.reset_as not in _RESETS:
            raise ConfigurationError(f"LimitFields.reset_as must be one of {', '.join(_RESETS)}, not {self.reset_as!r}")
        for name in ("remaining", "limit", "reset", "used", "bucket"):
            value = getattr(self, name)
            object.__setattr__(self, name, value.lower() if value else value)
        if isinstance(self.window, str):
            object.__setattr__(self, "window", self.window.lower())

    @property
    def first(self) -> str:
        """The field without which there is no reading."""
        return self.remaining or self.used or ""

    def read(self, answer: Headed, now: Callable[[], float]) -> Iterator[Reading]:
        """The reading that *answer* holds, if it does."""
        said = answer.header(self.first)
        if said is None:
            return
        remaining, limit = number(said), number(answer.header(self.limit)) if self.limit else None
        if self.remaining is None and remaining is not None:
            remaining = None if limit is None else max(limit - remaining, 0.0)
        if remaining is None:
            return
        reset = seconds_until(answer.header(self.reset), now(), self.reset_as) if self.reset else None
        window = self.window
        if isinstance(window, str):
            window = number(answer.header(window))
            window = window / 1000 if window is not None and self.window_as == "milliseconds" else window
        bucket = (answer.header(self.bucket) or "") if self.bucket else ""
        yield Reading(remaining, limit, reset, _within(window) or None, bucket[:100], self.policy)


@dataclass(frozen=True, slots=True)
class LimitPattern:
    """A header field that holds a limit, or several, in a form of its own.

    *pattern* is searched for in it, again and again; its named groups are ``remaining`` (or ``used``, or neither for a
    limit that is spent), ``limit``, ``reset``, ``bucket`` and ``policy``. *window* is its length in seconds, where the
    documentation tells; *bucket* the part of the service that it is for, where the header's name tells.
    """

    header: str
    pattern: re.Pattern[str]
    window: float | None = None
    reset_as: ResetAs = "seconds"
    bucket: str = ""

    def __post_init__(self) -> None:
        known = {"remaining", "used", "limit", "reset", "bucket", "policy"}
        named = set(self.pattern.groupindex)
        if named - known or not named & {"remaining", "used", "reset"} or ("used" in named and "limit" not in named):
            raise ConfigurationError(
                f"LimitPattern.pattern must name remaining, used and limit, or reset, and of all only {sorted(known)}"
            )
        object.__setattr__(self, "header", self.header.lower())

    @property
    def first(self) -> str:
        """The field without which there is no reading."""
        return self.header

    def read(self, answer: Headed, now: Callable[[], float]) -> Iterator[Reading]:
        """The readings that *answer* holds."""
        said = answer.header(self.header)
        if said is None or len(said) > _LONGEST_VALUE:
            return
        for match in self.pattern.finditer(said):
            parts = match.groupdict()
            limit, used = number(parts.get("limit")), number(parts.get("used"))
            remaining = number(parts.get("remaining"))
            if used is not None and limit is not None:
                remaining = max(limit - used, 0.0)
            elif "remaining" not in parts and "used" not in parts:
                remaining = 0.0
            if remaining is None:
                continue
            reset = seconds_until(parts.get("reset"), now(), self.reset_as)
            bucket, policy = parts.get("bucket") or self.bucket, parts.get("policy") or ""
            yield Reading(remaining, limit, reset, self.window, bucket[:100], policy[:100])


@dataclass(frozen=True, slots=True)
class Closings:
    """A header field that lists which parts of a service take nothing, and for how long, on answers of any status:
    ``60:transaction:key, 2700.5:default;error;security:organization`` (Sentry).

    Each entry is seconds, a colon, and parts between semicolons; no part means all, and what follows is for people.
    *parts* gives for each that is known the bucket of our Plans that it closes; others are passed over, and an entry
    that names only others closes nothing. *silent* is for how many seconds all is closed by a 429 that names no time.
    Source: develop.sentry.dev, rate-limiting.
    """

    header: str
    parts: Mapping[str, str]
    silent: float = 60.0

    def __post_init__(self) -> None:
        check_seconds("Closings", "silent", self.silent)
        object.__setattr__(self, "header", self.header.lower())

    def read(self, said: str) -> dict[str, float]:
        """Seconds by bucket; the empty one is all of them. The longer of two for the same one."""
        found: dict[str, float] = {}
        for entry in said.split(",") if len(said) <= _LONGEST_VALUE else ():
            after, colon, rest = entry.partition(":")
            seconds = _within(number(after))
            if not colon or seconds is None:
                continue
            named = [one.strip().lower() for one in rest.partition(":")[0].split(";") if one.strip()]
            for bucket in [self.parts[one] for one in named if one in self.parts] if named else [""]:
                found[bucket] = max(found.get(bucket, 0.0), seconds)
        return found

    def found(self, answer: Headed, asked: Callable[[], float | None]) -> dict[str, float] | None:
        """What *answer* closes; None where it says nothing of it. Without the field a 429 closes all, for as long as
        it *asked* for.
        """
        said = answer.header(self.header)
        if said is not None:
            return self.read(said)
        if getattr(answer, "status", None) != _REFUSED:
            return None
        seconds = asked()
        return {"": self.silent if seconds is None else seconds}


_FAMILIES: Final = tuple(
    LimitFields(f"{prefix}remaining", f"{prefix}limit", f"{prefix}reset")
    for prefix in ("x-ratelimit-", "x-rate-limit-")
)


@dataclass(frozen=True, slots=True)
class RateLimitHeaders:
    """How a service speaks of its limits.

    Understood everywhere, without a word here: ``Retry-After`` (seconds or HTTP-date), ``retry-after-ms``,
    ``x-should-retry``; ``RateLimit`` with ``RateLimit-Policy`` and the older ``RateLimit-Limit``, ``-Remaining`` and
    ``-Reset``; ``X-RateLimit-*`` and ``X-Rate-Limit-*``.

    *should_retry* names one more header that says ``true`` or ``false``. *remaining* and *reset*, written as
    *reset_as*, are short for one LimitFields; *fields* are several, or those with more to say, and take the place of
    the usual families. *apart* tells that each operation has a limit of its own, so that ``Retry-After`` holds for it
    alone. *silent* is how many seconds to wait when a 403 or 429 that is a limit names no time. *closings* is a field
    that closes parts of the service; what it says takes the place of all else.

    Raises ConfigurationError.
    """

    should_retry: str | None = None
    remaining: str | None = None
    reset: str | None = None
    reset_as: ResetAs = "auto"
    fields: tuple[LimitFields | LimitPattern, ...] = ()
    apart: bool = False
    silent: float | None = None
    closings: Closings | None = None
    _readers: tuple[tuple[str, _Read], ...] = field(init=False, repr=False, compare=False)
    _told: tuple[str, ...] = field(init=False, repr=False, compare=False)
    _firsts: frozenset[str | bytes] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        fields = self.fields
        if self.remaining is not None:
            fields = (LimitFields(self.remaining, None, self.reset, self.reset_as), *fields)
        if self.silent is not None:
            check_seconds("RateLimitHeaders", "silent", self.silent)
        own = tuple((each.first, each.read) for each in fields)
        usual = tuple((each.first, each.read) for each in _FAMILIES if each.first not in dict(own))
        object.__setattr__(self, "_readers", (*own, *usual))
        firsts = {"ratelimit", "ratelimit-remaining", *dict(own), *dict(usual)}
        object.__setattr__(self, "_firsts", frozenset(firsts | {name.encode() for name in firsts}))
        told = ("x-should-retry",) if self.should_retry is None else (self.should_retry.lower(), "x-should-retry")
        object.__setattr__(self, "_told", told)

    @property
    def names(self) -> frozenset[str | bytes]:
        """The headers of which one is there where an answer speaks of limits, in lower case, as text and as bytes."""
        return self._firsts

    def readings(self, answer: Headed, now: float) -> tuple[Reading, ...]:
        """What *answer* says of the service's limits; *now* is epoch seconds. Empty for nearly all that say nothing."""
        if self.closings is not None:
            closed = self.closings.found(answer, lambda: self._named(answer, now)) or {}
            return tuple(Reading(0.0, None, seconds, None, part, closed=True) for part, seconds in closed.items())
        names = getattr(answer, "names", None)  # one look instead of four, for views that have it
        if names is not None and self._firsts.isdisjoint(names):
            return ()
        header = answer.header
        found: tuple[Reading, ...] = ()
        structured = header("ratelimit")
        if structured is not None:
            found = _structured(answer, structured)
        elif (older := header("ratelimit-remaining")) is not None:
            policies = _policies(header("ratelimit-policy") or "")
            found = _triple(header("ratelimit-limit"), older, header("ratelimit-reset"), policies)
        for first, read in self._readers:
            if header(first) is not None:
                found = (*found, *read(answer, lambda: _server_time(answer, now)))
        if found and (number(header("age")) or 0.0) > 0:
            return ()  # from a cache on the way: what it says is past (section 7.3 of the draft)
        return found

    def named_wait(self, answer: Headed, now: float, bucket: str = "") -> float | None:
        """The seconds that ``Retry-After`` or ``retry-after-ms`` names, or None; where parts are closed, those of
        *bucket*. *now* is epoch seconds.
        """
        closed = None if self.closings is None else self.closings.found(answer, lambda: self._named(answer, now))
        if closed is None:
            return self._named(answer, now)
        return max((closed[part] for part in {"", bucket} if part in closed), default=None)

    def _named(self, answer: Headed, now: float) -> float | None:
        milliseconds = number(answer.header("retry-after-ms"))
        if milliseconds is not None and milliseconds / 1000 <= _YEAR:
            return milliseconds / 1000
        named = answer.header("retry-after")
        return None if named is None else seconds_until(named, _server_time(answer, now))

    def asked_wait(self, answer: Headed, now: float, bucket: str = "") -> float | None:
        """The seconds after which the service wants to be asked again, by a name or by the reset of what is spent; None
        when it says neither. *now* is epoch seconds; *bucket* is the part of the service that was asked.
        """
        seconds = self.named_wait(answer, now, bucket)
        if self.closings is not None:
            return seconds
        if seconds is None:
            seconds = self.exhausted(answer, now)
        if seconds is None and self.silent is not None and getattr(answer, "status", None) in _LIMITED:
            return self.silent
        return seconds

    def exhausted(self, answer: Headed, now: float) -> float | None:
        """Seconds until the quota is renewed, when the answer says that nothing of it remains; otherwise None."""
        waits = [
            reading.resets_in
            for reading in self.readings(answer, now)
            if reading.remaining < 1 and reading.resets_in is not None
        ]
        return max(waits, default=None)

    def told_to_retry(self, answer: Headed) -> bool | None:
        """What the should-retry header says, or None."""
        for name in self._told:
            said = answer.header(name)
            if said is not None:
                verdict = {"true": True, "false": False}.get(said.strip().lower())
                if verdict is not None:
                    return verdict
        return None
