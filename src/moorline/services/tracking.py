"""``Analytics``: what happens in an application, told to several vendors at once, none of which it waits for."""

from __future__ import annotations

import asyncio
import math
import os
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar, get_args

from moorline.calls.batcher import BatchCounts, Batcher, close_all, flush_all
from moorline.calls.call import Call
from moorline.clock import SYSTEM, Clock
from moorline.errors import CallError, ConfigurationError, InvalidRequest
from moorline.policies.checks import check_seconds
from moorline.services.analytics.protocol import (
    Alias,
    Fact,
    GroupCall,
    Identify,
    PageView,
    ScreenView,
    Taken,
    Track,
)
from moorline.services.facts import FactService
from moorline.services.limits import refused
from moorline.telemetry import logger

__all__ = ["Analytics", "Consent"]

Consent = bool | Collection[str]
"""Whether somebody agreed: to all, to nothing, or to these categories."""

F = TypeVar("F", bound=Fact)
_CATEGORY: Final = "analytics"
_known: Final[weakref.WeakSet[_Vendor]] = weakref.WeakSet()
_SAID_AGAIN: Final = 60.0
_MOST_SAID: Final = 1000
log = logger("analytics")


class Analytics:
    """Tells each of *services* what happens: ``Analytics(Segment(), Mixpanel(), GoogleAnalytics())``. A class stands
    for an instance of it without arguments; ``app.analytics(…)`` takes the application's own, which outlive an outage.

    ``track``, ``identify``, ``page``, ``screen``, ``group`` and ``alias`` return at once with the fact that they made,
    whose id and time every vendor sees. Each vendor has queues and threads of its own, so that one that is down holds
    up no other: see ``Batcher`` for when batches go, and what becomes of them in an outage. What a vendor has no call
    for, and what its documented limits refuse, is counted there, with the reason in the log, and goes to the others.

    *consent* is asked for each fact whether it may leave: True, False, or the categories that its user agreed to
    (``{"analytics", "marketing"}``); ``consent=`` of a call says it for that one. Without an answer that says yes
    nothing leaves, and it is counted as ``no_consent``. *needs* names the category for a vendor, which is ``analytics``
    if it does not: ``needs={"google_analytics": "marketing"}``. Where neither is given, everything may leave.

    *context* is a default for that of each fact, or is asked for one. *age* and *capacity* are those of ``Batcher``.

    Wrong arguments (no id, a time without a zone, what has no JSON form) raise InvalidRequest at once, as no vendor
    could take them; with ``strict=False`` they are logged and counted as ``invalid``, and None is returned. Nothing
    else raises, whatever becomes of the vendors.

    Raises ConfigurationError naming the argument.
    """

    def __init__(
        self,
        *services: FactService | type[FactService],
        consent: Consent | Callable[[Fact], Consent] | None = None,
        needs: Mapping[str, str] | None = None,
        context: Mapping[str, Any] | Callable[[], Mapping[str, Any]] | None = None,
        strict: bool = True,
        age: float = 5.0,
        capacity: int = 10_000,
        clock: Clock = SYSTEM,
    ) -> None:
        members: list[Any] = [
            one() if isinstance(one, type) and issubclass(one, FactService) else one for one in services
        ]
        strange = [getattr(one, "__name__", type(one).__name__) for one in members if not isinstance(one, FactService)]
        if strange or not members:
            raise ConfigurationError(f"Analytics takes analytics services, not {strange[0] if strange else 'none'}")
        names = [one.name for one in members]
        if len(set(names)) < len(names):
            raise ConfigurationError(f"Analytics takes each service once, not {', '.join(names)}")
        unknown = set(needs or {}) - set(names)
        if unknown:
            raise ConfigurationError(f"Analytics.needs names {min(unknown)!r}, which is none of {', '.join(names)}")
        if consent is not None and not callable(consent) and not _is_consent(consent):
            raise ConfigurationError(
                "Analytics.consent must be True, False, categories, or a function that gives these"
            )
        check_seconds("Analytics", "age", age)
        self.services: tuple[FactService, ...] = tuple(members)
        self._vendors = [_Vendor(one, age, capacity, clock) for one in self.services]
        self._needs = dict(needs or {})
        self._consent = consent
        self._context = context
        self._strict = strict

    def __repr__(self) -> str:
        return f"<Analytics {', '.join(one.name for one in self.services)}>"

    # --- what happens

    def track(
        self, event: str, properties: Mapping[str, Any] | None = None, *, consent: Consent | None = None, **who: Any
    ) -> Track | None:
        """Somebody did something: ``analytics.track("Order Paid", {"value": 12.5}, user_id="u-17")``.

        *who* are the fields of a fact: ``user_id``, ``anonymous_id``, ``at``, ``message_id``, ``context``, ``vendors``.
        """
        return self._say(lambda **more: Track(event, properties or {}, **more), consent, who)

    def identify(
        self, traits: Mapping[str, Any] | None = None, *, consent: Consent | None = None, **who: Any
    ) -> Identify | None:
        """What is known of somebody: ``analytics.identify({"plan": "pro"}, user_id="u-17")``."""
        return self._say(lambda **more: Identify(traits or {}, **more), consent, who)

    def page(
        self,
        name: str | None = None,
        properties: Mapping[str, Any] | None = None,
        *,
        category: str | None = None,
        url: str | None = None,
        consent: Consent | None = None,
        **who: Any,
    ) -> PageView | None:
        """Somebody saw a page."""
        return self._say(lambda **more: PageView(name, properties or {}, category, url, **more), consent, who)

    def screen(
        self,
        name: str,
        properties: Mapping[str, Any] | None = None,
        *,
        category: str | None = None,
        consent: Consent | None = None,
        **who: Any,
    ) -> ScreenView | None:
        """Somebody saw a screen."""
        return self._say(lambda **more: ScreenView(name, properties or {}, category, **more), consent, who)

    def group(
        self,
        group_id: str,
        traits: Mapping[str, Any] | None = None,
        *,
        group_type: str = "company",
        consent: Consent | None = None,
        **who: Any,
    ) -> GroupCall | None:
        """Somebody belongs to a group."""
        return self._say(lambda **more: GroupCall(group_id, traits or {}, group_type, **more), consent, who)

    def alias(self, previous_id: str, *, consent: Consent | None = None, **who: Any) -> Alias | None:
        """Who was *previous_id* is ``user_id`` from now on."""
        return self._say(lambda **more: Alias(previous_id, **more), consent, who)

    def add(self, fact: Fact, *, consent: Consent | None = None) -> None:
        """Tell a fact that is made already. Raises InvalidRequest, as the others do, for what is none."""
        self._say(lambda **more: _surrounded(fact, more), consent, {})

    # --- what becomes of it

    @property
    def counts(self) -> dict[str, BatchCounts]:
        """What became of everything, by vendor: *added* is *sent*, *spilled*, *waiting* and *refused* together.

        Beside the reasons of ``BatchCounts``, *refused* has ``no_consent``, ``lacks_identify`` (and its like),
        ``invalid``, ``limits.FIELD`` (documented limits, by the field at fault) and ``vendor`` (refused by its answer).
        """
        return {vendor.service.name: vendor.counts for vendor in self._vendors}

    def flush(self, timeout: float = 5.0, *, spill: bool = False) -> bool:
        """Send what was added before, now, and wait. With *spill*, what still waits after *timeout* seconds becomes
        durable jobs, where there is an application. False if some of it waits even then.
        """
        return flush_all(self._batchers(), timeout, spill=spill)

    async def aflush(self, timeout: float = 5.0, *, spill: bool = False) -> bool:
        """As ``flush``, on the event loop."""
        return await asyncio.to_thread(self.flush, timeout, spill=spill)

    def close(self, timeout: float = 5.0) -> bool:
        """Take nothing more, and send what waits. True if nothing was lost; see ``Batcher.close``."""
        for vendor in self._vendors:
            vendor.closed = True
        return close_all(self._batchers(), timeout)

    async def aclose(self, timeout: float = 5.0) -> bool:
        """As ``close``, on the event loop."""
        return await asyncio.to_thread(self.close, timeout)

    def _batchers(self) -> list[Batcher[_Weighed]]:
        return [one for vendor in self._vendors for one in vendor.batchers()]

    def _say(self, make: Callable[..., F], consent: Consent | None, who: dict[str, Any]) -> F | None:
        default = self._default_context()
        try:
            own = who.get("context", {})
            if default and isinstance(own, Mapping):  # else it is refused as what it is
                who = {**who, "context": {**default, **own}}
            _check_consent(consent)
            fact = make(**who)
        except Exception as error:
            if self._strict:
                raise
            for vendor in self._vendors:
                vendor.refuse("invalid", str(error))
            return None
        self._tell(fact, consent)
        return fact

    def _tell(self, fact: Fact, consent: Consent | None) -> None:
        allowed = self._allowed(fact, consent)
        for vendor in self._vendors:
            needed = self._needs.get(vendor.service.name, _CATEGORY)
            if allowed if isinstance(allowed, bool) else needed in allowed:
                vendor.add(fact)
            else:
                vendor.refuse("no_consent")

    def _default_context(self) -> dict[str, Any]:
        """The context that facts get besides their own; none where the function for it fails."""
        try:
            return dict(self._context() if callable(self._context) else self._context or {})
        except Exception as error:  # noqa: BLE001 - a fact is worth more than its surroundings
            self._vendors[0].say("context_failed", type(error).__name__, str(error))
            return {}

    def _allowed(self, fact: Fact, consent: Consent | None) -> Consent:
        if consent is not None:
            return consent if _is_consent(consent) else False
        if not callable(self._consent):
            return True if self._consent is None else self._consent
        try:
            found = self._consent(fact)
        except Exception as error:  # noqa: BLE001 - whoever cannot say that it may leave has not said so
            self._vendors[0].say("consent_failed", type(error).__name__, str(error))
            return False
        return found if _is_consent(found) else False


@dataclass(frozen=True, slots=True)
class _Weighed:
    """A fact, and how many bytes it is in its vendor's words."""

    fact: Fact
    size: int


class _Vendor:
    """One service with its queues, and what never came into one of them."""

    def __init__(self, service: FactService, age: float, capacity: int, clock: Clock) -> None:
        self.service = service
        self.closed = False
        self._age, self._capacity, self._clock = age, capacity, clock
        self._lines: dict[str, Batcher[_Weighed]] = {}
        self.forget()
        _known.add(self)

    def forget(self) -> None:
        """Begin to count anew: at first, and in a child process, where another thread's lock would stay shut."""
        self._lock = threading.Lock()
        self._refused: Counter[str] = Counter()
        self._said: dict[str, float] = {}

    @property
    def counts(self) -> BatchCounts:
        with self._lock:
            refused, lines = Counter(self._refused), list(self._lines.values())
        added = refused.total()
        sent = spilled = waiting = 0
        for each in (one.counts for one in lines):
            added, sent, spilled = added + each.added, sent + each.sent, spilled + each.spilled
            waiting += each.waiting
            refused.update(each.refused)
        return BatchCounts(added, sent, spilled, waiting, dict(refused))

    def batchers(self) -> list[Batcher[_Weighed]]:
        with self._lock:
            return list(self._lines.values())

    def add(self, fact: Fact) -> None:
        """Let it wait, or count why not."""
        try:
            if self.service.lacking(fact.kind) is not None:
                self.refuse(f"lacks_{fact.kind}")
                return
            size, lane = self.service.weighed(fact)
            batcher = self._line(self.service.line(lane))
        except InvalidRequest as error:
            self.refuse(f"limits.{(error.code or 'fact').partition('.')[0]}", error.message)
        except Exception as error:  # noqa: BLE001 - nothing that a vendor wants breaks the caller
            self.refuse(type(error).__name__, str(error))
        else:
            if batcher is None:
                self.refuse("closed")
            else:
                batcher.add(_Weighed(fact, size))

    def refuse(self, why: str, message: str = "") -> None:
        """Count it, and say so."""
        with self._lock:
            self._refused[why] += 1
        if message:
            self.say("fact_refused", why, message)

    def say(self, event: str, why: str, message: str) -> None:
        """Log it, the same once a minute: there may be thousands."""
        now = self._clock.monotonic()
        with self._lock:
            if now - self._said.get(event + why, -math.inf) < _SAID_AGAIN:
                return
            if len(self._said) >= _MOST_SAID:
                self._said.clear()
            self._said[event + why] = now
        log.warning(event, service=self.service.name, why=why, reason=message)

    def _line(self, line: str) -> Batcher[_Weighed] | None:
        with self._lock:
            known = self._lines.get(line)
            if known is None and not self.closed:
                limits = self.service.line_limits(line)
                known = self._lines[line] = Batcher(
                    self._sending,
                    name=f"{self.service.name}{line}",
                    size=lambda one: one.size,
                    most=limits.most,
                    most_bytes=limits.most_bytes,
                    age=self._age,
                    capacity=self._capacity,
                    refusals=self._refusals,
                    blamed=self._blamed,
                    clock=self._clock,
                )
            return known

    def _sending(self, facts: list[_Weighed]) -> Call[Taken]:
        return self.service.send_batch([one.fact for one in facts])

    def _blamed(self, facts: list[_Weighed], error: CallError) -> Mapping[int, float]:
        return self.service.blamed([one.fact for one in facts], error)

    def _refusals(self, taken: Taken) -> Mapping[str, int]:
        counted: Counter[str] = Counter()
        for one in taken.refused:
            why = "vendor" if one.by == "vendor" else f"limits.{one.field.partition('.')[0] or 'fact'}"
            counted[why] += 1
            self.say("fact_refused", why, one.reason)
        return counted


def _surrounded(fact: Fact, more: Mapping[str, Any]) -> Fact:
    given: object = fact
    if not isinstance(given, get_args(Fact)):
        raise refused("fact", f"must be one of analytics.protocol, not {type(given).__name__}")
    return replace(fact, context={**more["context"], **fact.context}) if more else fact


def _check_consent(consent: object) -> None:
    if consent is not None and not _is_consent(consent):
        raise refused("consent", "must be True, False or categories")


def _is_consent(value: object) -> bool:
    return isinstance(value, bool) or (
        isinstance(value, Collection)
        and not isinstance(value, str | bytes)
        and all(isinstance(one, str) for one in value)
    )


def _forget_all() -> None:
    for one in list(_known):
        one.forget()


os.register_at_fork(after_in_child=_forget_all)
