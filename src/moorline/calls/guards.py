"""What calls to one service share: its breaker, rate gate, quota, bulkhead and retry budget."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any, Final, TypeVar

from moorline import telemetry
from moorline.calls import story
from moorline.clock import SYSTEM, Clock
from moorline.policies.admission import Admission
from moorline.policies.breaker import Breaker, BreakerState, State
from moorline.policies.bulkhead import Bulkhead, BulkheadState
from moorline.policies.gate import Gate
from moorline.policies.policy import Policy
from moorline.policies.rate import RateLimit
from moorline.policies.retry import RetryBudget

__all__ = ["PROCESS", "Guard", "Guards", "breakers_of", "snapshot"]

T = TypeVar("T")
_log: Final = telemetry.logger("calls")
_MOST_TENANTS: Final = 10_000
_SLOW: Final = 0.8  # of the attempt timeout: a call that took as long nearly failed


class Guard:
    """The parts that one policy needs of a service's shared state; None where the policy has the part switched off."""

    __slots__ = ("admission", "breaker", "budget", "bulkhead", "gate")

    def __init__(
        self,
        gate: Gate,
        breaker: BreakerState | None,
        bulkhead: BulkheadState | None,
        budget: RetryBudget | None,
        admission: Admission | None,
    ) -> None:
        self.admission = admission
        self.gate = gate
        self.breaker = breaker
        self.bulkhead = bulkhead
        self.budget = budget


class Guards:
    """A registry of shared state by name. Calls that use the same name, and equal parts of a policy, share them.

    ``Guards()`` makes a separate world, such as one for an application or a test; ``PROCESS`` is the default one.
    """

    def __init__(self, clock: Clock = SYSTEM) -> None:
        self.clock = clock
        _all.add(self)
        self._lock = threading.Lock()
        self._gates: dict[tuple[str, tuple[tuple[RateLimit, ...], bool]], Gate] = {}
        self._breakers: dict[tuple[str, Breaker], BreakerState] = {}
        self._admissions: OrderedDict[tuple[str, str, int], Admission] = OrderedDict()
        self._bulkheads: dict[tuple[str, Bulkhead], BulkheadState] = {}
        self._budgets: OrderedDict[tuple[str, str, float], RetryBudget] = OrderedDict()

    def guard(self, name: str, policy: Policy, tenant: str = "", *, apart: bool = False) -> Guard:
        """The shared state of *name*, as far as *policy* uses it; made on first use.

        Retry budget and admission cap are kept for each *tenant*, so that one customer's outage or burst takes nothing
        from another's; breaker and limits are the service's and common to all. *apart* tells that each operation of
        the service has a rate limit of its own.
        """
        now = self.clock.monotonic
        with self._lock:
            quotas = policy.rates, apart
            gate = self._gates.get((name, quotas))
            if gate is None:
                gate = self._gates[name, quotas] = Gate(now, policy.rates, apart=apart)
            return Guard(
                gate,
                _part(self._breakers, name, policy.breaker, partial(self._breaker, name, policy)),
                _part(self._bulkheads, name, policy.bulkhead, BulkheadState),
                _of_tenant(
                    self._budgets,
                    name,
                    tenant,
                    policy.retry.budget if policy.retry else None,
                    partial(RetryBudget, now=now),
                ),
                _of_tenant(self._admissions, name, tenant, policy.admission, Admission),
            )

    def breakers(self) -> dict[str, list[BreakerState]]:
        """The breakers by name: for operators, who may look at them and force them."""
        with self._lock:
            found: dict[str, list[BreakerState]] = {}
            for (name, _config), breaker in self._breakers.items():
                found.setdefault(name, []).append(breaker)
            return found

    def snapshot(self) -> dict[str, dict[str, Any]]:
        """All parts by name, as JSON, for operators."""
        with self._lock:
            found: dict[str, dict[str, Any]] = {}
            for (name, _config), breaker in self._breakers.items():
                found.setdefault(name, {})["breaker"] = breaker.state
                found[name]["breaker_reason"] = breaker.reason
            for (name, _quotas), gate in self._gates.items():
                found.setdefault(name, {})["rate_gate"] = asdict(gate.snapshot())
            for (name, _limit), bulkhead in self._bulkheads.items():
                taken = {"limit": bulkhead.config.limit, "busy": bulkhead.busy, "waiting": bulkhead.waiting}
                found.setdefault(name, {})["bulkhead"] = taken
            for (name, tenant, _ratio), budget in self._budgets.items():
                found.setdefault(name, {}).setdefault("retries_left", {})[tenant] = int(budget.left)
            for (name, tenant, _most), admission in self._admissions.items():
                found.setdefault(name, {}).setdefault("under_way", {})[tenant] = admission.under_way
            return found

    def _breaker(self, name: str, policy: Policy, config: Breaker) -> BreakerState:
        # A probe cannot be out for longer than its attempt, and the body that may follow it.
        lease = policy.attempt_timeout or policy.deadline or config.reset
        slow = None if policy.attempt_timeout is None else policy.attempt_timeout * _SLOW
        changed = partial(_changed, name, self.clock)
        return BreakerState(config, self.clock.monotonic, lease=lease, slow=slow, on_change=changed)


C = TypeVar("C")


def _part(known: dict[tuple[str, C], T], name: str, config: C | None, make: Callable[[C], T]) -> T | None:
    if config is None:
        return None
    found = known.get((name, config))
    if found is None:
        found = known[name, config] = make(config)
    return found


def _of_tenant(
    known: OrderedDict[tuple[str, str, C], T], name: str, tenant: str, config: C | None, make: Callable[[C], T]
) -> T | None:
    """As ``_part``; of tenants only those are remembered that called last, as their number has no bound."""
    if config is None:
        return None
    key = (name, tenant, config)
    found = known.get(key)
    if found is None:
        found = known[key] = make(config)
        if len(known) > _MOST_TENANTS:
            known.popitem(last=False)
    else:
        known.move_to_end(key)
    return found


def _changed(name: str, clock: Clock, before: State, after: State, reason: str = "") -> None:
    write = _log.warning if after == "open" else _log.info
    write("breaker_changed", service=name, before=before, after=after, reason=reason)
    if story.watchers:
        now = clock.wall()
        story.tell(story.StateChanged(at=now, service=name, reason=reason, part="breaker", before=before, after=after))


_STATES: Final = (None, "closed", "half_open", "open")
_all: Final[weakref.WeakSet[Guards]] = weakref.WeakSet()


def snapshot() -> dict[str, dict[str, Any]]:
    """The parts of all registries of this process by name; where two have the same name, those of the worse state."""
    found: dict[str, dict[str, Any]] = {}
    for guards in list(_all):
        for name, parts in guards.snapshot().items():
            if name not in found or _STATES.index(parts.get("breaker")) > _STATES.index(found[name].get("breaker")):
                found[name] = parts
    return dict(sorted(found.items()))


def breakers_of(name: str) -> list[BreakerState]:
    """The breakers of that name in all registries of this process."""
    return [breaker for guards in list(_all) for breaker in guards.breakers().get(name, ())]


PROCESS: Final = Guards()
