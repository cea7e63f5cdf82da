"""The circuit breaker: after some failures in a row nobody waits for a dead service; later a few probes find out."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from moorline.errors import ConfigurationError
from moorline.policies.checks import check_count, check_seconds

__all__ = ["Breaker", "BreakerState", "Permit", "State"]

State = Literal["closed", "open", "half_open"]
_LONGEST_LEASE: Final = 30.0


@dataclass(frozen=True, slots=True)
class Breaker:
    """Opens after *failures* in a row, for *reset* seconds; then at most *probes* calls at a time are let through.

    As many probes must succeed in a row before it closes; one that fails opens it again.

    Raises ConfigurationError naming the field.
    """

    failures: int = 5
    reset: float = 30.0
    probes: int = 1

    def __post_init__(self) -> None:
        check_count("Breaker", "failures", self.failures)
        check_seconds("Breaker", "reset", self.reset)
        check_count("Breaker", "probes", self.probes)


class Permit:
    """The right to one attempt. Settle it once: ``success()``, ``failure()`` or ``ignore()``; later calls do nothing.

    Results of an earlier life of the breaker (attempts begun before it tripped) and of a probe whose lease ran out no
    longer count.
    """

    __slots__ = ("_generation", "_owner")

    def __init__(self, owner: BreakerState, generation: int) -> None:
        self._owner: BreakerState | None = owner
        self._generation = generation

    def success(self) -> None:
        """The service answered, be it that the caller is wrong."""
        self._settle(worked=True)

    def failure(self) -> None:
        """The service failed or did not answer."""
        self._settle(worked=False)

    def ignore(self) -> None:
        """Nothing was learnt: cancelled, rate-limited, or never sent."""
        self._settle(worked=None)

    def _settle(self, *, worked: bool | None) -> None:
        owner, self._owner = self._owner, None
        if owner is not None:
            owner._settle(self, self._generation, worked=worked)  # noqa: SLF001 (one machine in two classes)


class BreakerState:
    """The machine. Time comes from *now* (monotonic seconds); safe between threads; does no I/O.

    *lease* is how long a probe may be out before another is let in its place: a caller that never settles its permit
    cannot hold the breaker half open. *on_change* is called with the old and the new state, outside of the lock.
    """

    __slots__ = (
        "_failures",
        "_forced",
        "_generation",
        "_lock",
        "_now",
        "_on_change",
        "_probes",
        "_state",
        "_until",
        "_worked",
        "config",
        "lease",
    )

    def __init__(
        self,
        config: Breaker,
        now: Callable[[], float],
        *,
        lease: float = _LONGEST_LEASE,
        on_change: Callable[[State, State], None] | None = None,
    ) -> None:
        self.config = config
        self.lease = min(lease, _LONGEST_LEASE)
        self._now = now
        self._on_change = on_change
        self._lock = threading.Lock()
        self._state: State = "closed"
        self._forced: Literal["open", "closed"] | None = None
        self._generation = 0
        self._failures = 0  # in a row, while closed
        self._worked = 0  # probes in a row, while half open
        self._until = 0.0  # when open: the time of the first probe
        self._probes: dict[Permit, float] = {}  # probes that are out, and when their leases end

    @property
    def state(self) -> State:
        """``closed``, ``open`` or ``half_open``; an open breaker whose time is over still says open until somebody
        calls.
        """
        return self._forced or self._state

    def admit(self) -> Permit | None:
        """A permit for one attempt, or None: then ``wait()`` says how long."""
        if self._state == "closed" and self._forced is None:  # the usual case needs no lock to read one reference
            return Permit(self, self._generation)
        with self._lock:
            before = self._state
            permit = self._admit(self._now())
            after = self._state
        self._tell(before, after)
        return permit

    def wait(self) -> float:
        """Seconds until an attempt may be admitted: 0 when it is now, infinite when the breaker is forced open."""
        with self._lock:
            now = self._now()
            if self._forced is not None:
                return 0.0 if self._forced == "closed" else math.inf
            if self._state == "open":
                return max(self._until - now, 0.0)
            if self._state == "half_open" and self._slots(now) == 0:
                return max(min(self._probes.values()) - now, 0.0)
            return 0.0

    def force(self, state: Literal["open", "closed"] | None) -> None:
        """Hold the breaker open or closed whatever happens; None gives it back to itself, closed and with a clean
        count.

        Raises ConfigurationError for another state.
        """
        if state not in ("open", "closed", None):
            raise ConfigurationError(f"a breaker can be forced 'open' or 'closed', or freed with None, not {state!r}")
        with self._lock:
            before = self.state
            self._forced = state
            self._enter("closed")
            after = self.state
        self._tell(before, after)

    def _admit(self, now: float) -> Permit | None:
        if self._forced is not None:
            return Permit(self, self._generation) if self._forced == "closed" else None
        if self._state == "open":
            if now < self._until:
                return None
            self._enter("half_open")
        if self._state == "half_open":
            if self._slots(now) == 0:
                return None
            permit = Permit(self, self._generation)
            self._probes[permit] = now + self.lease
            return permit
        return Permit(self, self._generation)

    def _slots(self, now: float) -> int:
        for permit, end in list(self._probes.items()):
            if end <= now:
                del self._probes[permit]
        return self.config.probes - len(self._probes)

    def _settle(self, permit: Permit, generation: int, *, worked: bool | None) -> None:
        if worked and not self._failures and self._state == "closed":
            return  # the usual case: nothing to forget
        with self._lock:
            if generation != self._generation or self._forced is not None:
                return
            before = self._state
            if before == "half_open":
                self._probed(permit, worked=worked)
            elif before == "closed" and worked is not None:
                self._counted(worked=worked)
            after = self._state
        self._tell(before, after)

    def _probed(self, permit: Permit, *, worked: bool | None) -> None:
        end = self._probes.pop(permit, None)
        if worked is None or end is None or end <= self._now():
            return
        if not worked:
            self._enter("open")
            return
        self._worked += 1
        if self._worked >= self.config.probes:
            self._enter("closed")

    def _counted(self, *, worked: bool) -> None:
        self._failures = 0 if worked else self._failures + 1
        if self._failures >= self.config.failures:
            self._enter("open")

    def _enter(self, state: State) -> None:
        self._state = state
        self._generation += 1
        self._failures = self._worked = 0
        self._probes.clear()
        if state == "open":
            self._until = self._now() + self.config.reset

    def _tell(self, before: State, after: State) -> None:
        if before != after and self._on_change is not None:
            self._on_change(before, after)
