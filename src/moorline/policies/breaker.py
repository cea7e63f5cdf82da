"""The circuit breaker: when a service fails too often nobody waits for it; later a few probes find out."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any, Final, Literal

from moorline.errors import ConfigurationError
from moorline.policies.checks import check_count, check_seconds
from moorline.policies.window import Window

__all__ = ["Breaker", "BreakerState", "Permit", "Snapshot", "State", "Terms"]

State = Literal["closed", "open", "half_open"]
Forced = Literal["open", "closed"]
_NONE: Final = 0  # the generation of a permit that is settled; the first of a breaker is 1


@dataclass(frozen=True, slots=True)
class Breaker:
    """When to stop asking a service, and when to ask again.

    It opens on the first of three rules:

    * *failures* in a row;
    * at least *minimum* calls within *window* seconds, of which the share *rate* (above 0, up to 1) failed;
    * as many, of which the share *slow_rate* took more than *slow* seconds, whether they failed or not. ``slow=None``
      is four fifths of the attempt timeout.

    ``rate=None`` and ``slow_rate=None`` switch their rule off.

    It stays open for *reset* seconds; then at most *probes* calls at a time are let through, and *successes* of them in
    a row close it. One that fails opens it again. A slow probe that worked is a success, unless slow calls were what
    opened the breaker.

    Raises ConfigurationError naming the field.
    """

    failures: int = 5
    reset: float = 30.0
    probes: int = 1
    _: KW_ONLY
    rate: float | None = 0.5
    slow: float | None = None
    slow_rate: float | None = 0.5
    minimum: int = 10
    window: float = 60.0
    successes: int = 2

    def __post_init__(self) -> None:
        check_count("Breaker", "failures", self.failures)
        check_seconds("Breaker", "reset", self.reset)
        check_count("Breaker", "probes", self.probes)
        _check_share("rate", self.rate)
        if self.slow is not None:
            check_seconds("Breaker", "slow", self.slow)
        _check_share("slow_rate", self.slow_rate)
        check_count("Breaker", "minimum", self.minimum)
        check_seconds("Breaker", "window", self.window)
        check_count("Breaker", "successes", self.successes)


def _check_share(field: str, value: Any) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if value is not None and not (number and 0 < value <= 1):
        raise ConfigurationError(f"Breaker.{field} must be None or a share above 0 and up to 1, not {value!r}")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A breaker at one instant, for operators and pages.

    ``calls``, ``failed`` and ``slow`` are the counts of the window, ``failures_in_a_row`` those since the last success,
    ``until`` the time (of the breaker's own clock) of the first probe while it is open, ``wait`` the seconds until an
    attempt may be admitted, ``probes`` how many are out and ``worked`` how many in a row succeeded.
    """

    state: State
    forced: bool
    reason: str
    calls: int
    failed: int
    slow: int
    failures_in_a_row: int
    until: float | None
    wait: float
    probes: int
    worked: int


@dataclass(frozen=True, slots=True)
class Terms:
    """What belongs to the attempts of one policy, where several share a breaker; in seconds.

    *lease* is how long a probe keeps others out: longer than an attempt lasts, and bounded, so that a caller that never
    settles its permit cannot hold the breaker half open. What took more than *slow* is a slow call.
    """

    lease: float = 30.0
    slow: float = math.inf


_TERMS: Final = Terms()


class Permit:
    """The right to one attempt. Settle it once: ``success()``, ``failure()`` or ``ignore()``; later calls do nothing.

    *elapsed* is how long the attempt took, in seconds. Results of an earlier life of the breaker (attempts begun before
    it tripped) do not count. Those of a probe do for as long as the breaker is half open, also when its lease is over.
    """

    __slots__ = ("_generation", "_owner", "slow")

    def __init__(self, owner: BreakerState, generation: int, slow: float) -> None:
        self._owner = owner
        self._generation = generation
        self.slow = slow

    def success(self, elapsed: float = 0.0) -> None:
        """The service answered, be it that the caller is wrong."""
        owner, generation = self._owner, self._generation
        self._generation = _NONE
        if generation == owner._uneventful and elapsed <= self.slow:  # noqa: SLF001 (one machine in two classes)
            window = owner._window  # noqa: SLF001
            if owner._now() < window.turn:  # noqa: SLF001
                window.current.calls += 1
                return
        owner._settle(self, generation, True, elapsed)  # noqa: SLF001

    def failure(self, elapsed: float = 0.0) -> None:
        """The service failed or did not answer."""
        generation, self._generation = self._generation, _NONE
        self._owner._settle(self, generation, False, elapsed)  # noqa: SLF001

    def settle(self, *, worked: bool | None, elapsed: float = 0.0) -> None:
        """``success`` when it *worked*, ``ignore`` for None, else ``failure``."""
        if worked:
            self.success(elapsed)
        elif worked is None:
            self.ignore()
        else:
            self.failure(elapsed)

    def ignore(self) -> None:
        """Nothing was learnt: cancelled, rate-limited, or never sent."""
        generation, self._generation = self._generation, _NONE
        self._owner._settle(self, generation, None, 0.0)  # noqa: SLF001


class BreakerState:
    """The machine. Time comes from *now* (monotonic seconds); safe between threads; does no I/O.

    *on_change* is called with the old state, the new one and the reason, outside of the lock.

    Whatever can trip the breaker is counted under a lock. A fast success in a calm time takes none: where threads run
    truly in parallel a few of those may go uncounted, so that the shares come out higher by as little, never lower.
    """

    __slots__ = (
        "__weakref__",
        "_forced",
        "_generation",
        "_in_a_row",
        "_left_closed",
        "_lock",
        "_now",
        "_on_change",
        "_probes",
        "_slowness",
        "_state",
        "_threshold",
        "_uneventful",
        "_until",
        "_window",
        "_worked",
        "config",
        "free",
        "reason",
    )

    def __init__(
        self,
        config: Breaker,
        now: Callable[[], float],
        *,
        on_change: Callable[[State, State, str], None] | None = None,
    ) -> None:
        self.config = config
        self.reason = ""
        """Why the state is what it is, in words; empty until it changes for the first time."""
        self._now = now
        self._on_change = on_change
        self._lock = threading.Lock()
        self._forced: Forced | None = None
        self._generation = 0
        self._slowness = False  # whether slow calls are what opened it
        self._threshold = math.inf  # that the last slow call exceeded
        self._until = 0.0  # when open: the time of the first probe
        self._left_closed: float | None = None  # since when it has not been closed
        self._probes: dict[Permit, float] = {}  # probes that are out, and when their leases end
        self._window = Window(config.window, now())
        self._enter("closed", "")

    @property
    def state(self) -> State:
        """``closed``, ``open`` or ``half_open``; an open breaker whose time is over still says open until somebody
        calls.
        """
        return self._forced or self._state

    def admit(self, terms: Terms = _TERMS) -> Permit | None:
        """A permit for one attempt, or None: then ``wait()`` says how long."""
        generation = self.free  # the usual case needs no lock to read one reference
        if generation:
            return Permit(self, generation, terms.slow)
        with self._lock:
            before = self._state
            permit = self._admit(self._now(), terms)
            after, reason = self._state, self.reason
        self._tell(before, after, reason)
        return permit

    def wait(self) -> float:
        """Seconds until an attempt may be admitted: 0 when it is now, infinite when the breaker is forced open. While
        probes are out it is at most *reset*: they mostly come back long before their leases end.
        """
        if self.free:
            return 0.0
        with self._lock:
            return self._wait(self._now())

    @property
    def open_for(self) -> float | None:
        """For how many seconds it has not been closed, failed probes included; None while it is closed, or an operator
        holds it.
        """
        with self._lock:
            since = self._left_closed
            return None if since is None or self._forced is not None else self._now() - since

    def snapshot(self) -> Snapshot:
        """All that an operator may want to know, at one instant. Changes nothing."""
        with self._lock:
            now = self._now()
            self._window.roll(now)
            self._drop_lost(now)
            calls, failed, slow = self._window.totals()
            return Snapshot(
                state=self.state,
                forced=self._forced is not None,
                reason=self.reason,
                calls=calls,
                failed=failed,
                slow=slow,
                failures_in_a_row=self._in_a_row,
                until=self._until if self.state == "open" and self._forced is None else None,
                wait=self._wait(now),
                probes=len(self._probes),
                worked=self._worked,
            )

    def force(self, state: Forced | None) -> None:
        """Hold the breaker open or closed whatever happens; None gives it back to itself, closed and with a clean
        count.

        Raises ConfigurationError for another state.
        """
        if state not in ("open", "closed", None):
            raise ConfigurationError(f"a breaker can be forced 'open' or 'closed', or freed with None, not {state!r}")
        with self._lock:
            before = self.state
            self._forced = state
            self._enter("closed", "forced by an operator" if state else "freed by an operator")
            after, reason = self.state, self.reason
        self._tell(before, after, reason)

    def follow(self, seconds: float, reason: str) -> None:
        """Others found out that the service is down: be open as they are, for so many *seconds*."""
        with self._lock:
            if self._forced is not None or self._state == "open" or not seconds > 0:
                return
            before = self._state
            self._enter("open", reason)
            self._until = self._now() + min(seconds, self.config.reset)
        self._tell(before, "open", reason)

    @property
    def forced(self) -> bool:
        """Whether an operator holds it."""
        return self._forced is not None

    # All below is called under the lock -------------------------------------------------------------------------------

    def _admit(self, now: float, terms: Terms) -> Permit | None:
        if self._forced == "open":
            return None
        if self._state == "open":
            if now < self._until:
                return None
            self._enter("half_open", f"open for {self.config.reset:g} s")
        permit = Permit(self, self._generation, terms.slow)
        if self._state == "half_open":
            self._drop_lost(now)
            if len(self._probes) >= self.config.probes:
                return None
            self._probes[permit] = now + terms.lease
        return permit

    def _wait(self, now: float) -> float:
        if self._forced is not None:
            return 0.0 if self._forced == "closed" else math.inf
        if self._state == "open":
            return max(self._until - now, 0.0)
        self._drop_lost(now)
        if len(self._probes) >= self.config.probes:
            return max(min(min(self._probes.values()) - now, self.config.reset), 0.0)
        return 0.0

    def _drop_lost(self, now: float) -> None:
        for permit, end in list(self._probes.items()):
            if end <= now:
                del self._probes[permit]

    def _probed(self, permit: Permit, worked: bool, elapsed: float) -> None:  # noqa: FBT001 (see _settle)
        # Where its lease ran out another may be out in its place; how the service is it tells all the same.
        self._probes.pop(permit, None)
        if not worked:
            took = f" after {elapsed:.3g} s" if elapsed else ""
            self._enter("open", f"probe failed: no good answer{took}")
        elif self._slowness and elapsed > permit.slow:
            self._enter("open", f"probe failed: it worked, but was slower than {permit.slow:g} s")
        else:
            self._worked += 1
            if self._worked >= self.config.successes:
                self._enter("closed", f"{_plural(self._worked, 'probe')} worked")

    def _counted(self, permit: Permit, worked: bool, elapsed: float) -> None:  # noqa: FBT001 (see _settle)
        window = self._window
        window.roll(self._now())
        window.current.calls += 1
        if worked:
            self._in_a_row = 0
        else:
            self._in_a_row += 1
            window.current.failed += 1
        if elapsed > permit.slow:
            window.current.slow += 1
            self._threshold = permit.slow
        self._judge()

    def _judge(self) -> None:
        """Open where a rule says so; otherwise find out whether the next success can matter to any."""
        config, (calls, failed, slow) = self.config, self._window.totals()
        enough = calls >= config.minimum
        if self._in_a_row >= config.failures:
            self._enter("open", f"{_plural(self._in_a_row, 'failure')} in a row")
        elif enough and config.rate is not None and failed / calls >= config.rate:
            self._enter("open", f"{failed} of {_plural(calls, 'call')} failed in {config.window:g} s")
        elif enough and config.slow_rate is not None and slow / calls >= config.slow_rate:
            self._enter("open", f"{slow} of {_plural(calls, 'call')} were slower than {self._threshold:g} s")
            self._slowness = True
        else:
            # A success ends a row, and may be the one that makes up the minimum. Apart from that it only lowers the
            # shares, until the window moves on.
            matters = self._in_a_row or ((failed or slow) and not enough)
            self._uneventful = -1 if matters else self._generation

    def _enter(self, state: State, reason: str = "") -> None:
        now = self._now()
        self._state = state
        self.reason = reason
        self._generation += 1
        self._in_a_row = self._worked = 0
        self._probes.clear()
        self._window.clear(now)
        closed = state == "closed"
        # The generation whose calls are admitted, and whose successes are counted, without the lock.
        # The generation of the permits that ``admit`` gives without a lock; nothing where it must look closer.
        self.free = self._generation if closed and self._forced != "open" else _NONE
        self._uneventful = self._generation if closed and self._forced is None else -1
        if closed:
            self._slowness = False
            self._left_closed = None
            return
        if self._left_closed is None:
            self._left_closed = now
        if state == "open":
            self._until = now + self.config.reset

    # And these two are not --------------------------------------------------------------------------------------------

    def _settle(
        self,
        permit: Permit,
        generation: int,
        worked: bool | None,  # noqa: FBT001 (positional, as each call passes here)
        elapsed: float,
    ) -> None:
        if generation == _NONE:
            return
        with self._lock:
            if generation != self._generation or self._forced is not None:
                return
            before = self._state
            if worked is None:
                self._probes.pop(permit, None)
            elif before == "half_open":
                self._probed(permit, worked, elapsed)
            elif before == "closed":
                self._counted(permit, worked, elapsed)
            after, reason = self._state, self.reason
        self._tell(before, after, reason)

    def _tell(self, before: State, after: State, reason: str) -> None:
        if before != after and self._on_change is not None:
            self._on_change(before, after, reason)


def _plural(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
