"""What calls to one service share: its breaker, rate gate, quota, bulkhead and retry budget."""

from __future__ import annotations

import os
import threading
import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from moorline import telemetry
from moorline.calls import story
from moorline.calls.known import Known
from moorline.clock import SYSTEM, Clock
from moorline.errors import ConfigurationError
from moorline.policies.admission import Admission
from moorline.policies.breaker import Breaker, BreakerState, State, Terms
from moorline.policies.bulkhead import Bulkhead, BulkheadState
from moorline.policies.gate import Gate, GateView
from moorline.policies.policy import Policy
from moorline.policies.rate import RateLimit
from moorline.policies.retry import RetryBudget

if TYPE_CHECKING:
    from moorline.calls.shared_guard import SharedGuard
    from moorline.calls.shared_store import SharedStore

__all__ = ["PROCESS", "Guard", "Guards", "breakers_of", "open_breakers", "snapshot"]

C = TypeVar("C")
T = TypeVar("T")
_log: Final = telemetry.logger("calls")
_MOST: Final = 10_000  # of each part: names and tenants may come from users
_MOST_SHOWN: Final = 20  # accounts of a service, those of which most calls wait
_VARIABLE: Final = "MOORLINE_SHARED_URL"
_SLOW: Final = 0.8  # of the attempt timeout: a call that took as long nearly failed
_MARGIN: Final = 1.0  # seconds by which a probe's lease is longer than its attempt can last
_UNBOUNDED: Final = 30.0  # seconds, where nothing bounds the body of an answer
_LONGEST_LEASE: Final = 600.0  # seconds: one more probe each ten minutes harms nobody


class Guard:
    """The parts that one policy needs of a service's shared state; None where the policy has the part switched off.
    *terms* are the policy's own, for a breaker that others share. *shared* is the side that all processes have in
    common, where there is a store for it.
    """

    __slots__ = ("__weakref__", "admission", "breaker", "budget", "bulkhead", "gate", "shared", "terms")

    def __init__(
        self,
        gate: Gate,
        breaker: BreakerState | None,
        terms: Terms,
        bulkhead: BulkheadState | None,
        budget: RetryBudget | None,
        admission: Admission | None,
        shared: SharedGuard | None = None,
    ) -> None:
        self.shared = shared
        self.admission = admission
        self.gate = gate
        self.breaker = breaker
        self.terms = terms
        self.bulkhead = bulkhead
        self.budget = budget


class Guards:
    """A registry of shared state by name. Calls that use the same name, and equal parts of a policy, share them.

    ``Guards()`` makes a separate world, such as one for an application or a test; ``PROCESS`` is the default one. With
    *shared*, the URL of a Redis or Valkey server, it is shared with all processes that name the same one.

    Raises ConfigurationError for such a URL that cannot be used.
    """

    def __init__(self, clock: Clock = SYSTEM, *, shared: str | SharedStore | None = None) -> None:
        self.clock = clock
        self.store: SharedStore | None = None
        self._from_environment = False
        self._unlinked: weakref.WeakKeyDictionary[Guard, tuple[str, Policy, str]] = weakref.WeakKeyDictionary()
        self._shared: Known[tuple[str, str, str, Policy], SharedGuard] = Known(_MOST)
        self._lock = threading.Lock()
        self._gates: Known[tuple[str, str, tuple[RateLimit, ...], bool], Gate] = Known(_MOST)
        self._breakers: Known[tuple[str, Breaker], BreakerState] = Known(_MOST)
        self._admissions: Known[tuple[str, str, int], Admission] = Known(_MOST)
        self._bulkheads: Known[tuple[str, Bulkhead], BulkheadState] = Known(_MOST)
        self._budgets: Known[tuple[str, str, float], RetryBudget] = Known(_MOST)
        self._passed: Known[str, Counter[str]] = Known(_MOST)
        if shared is not None:
            self.share(shared)
        _all.add(self)

    def guard(self, name: str, policy: Policy, tenant: str = "", *, account: str = "", apart: bool = False) -> Guard:
        """The shared state of *name*, as far as *policy* uses it; made on first use.

        Retry budget and admission cap are kept for each *tenant*, so that one customer's outage or burst takes nothing
        from another's; breaker and limits are the service's and common to all. Where calls are made for one of several
        accounts at the service, the limits are that *account*'s, and common to its calls alone: services count each
        account by itself. *apart* tells that each operation of the service has a rate limit of its own.
        """
        if self._from_environment:
            self._look_around()
        now, rates = self.clock.monotonic, policy.rates
        budget = policy.retry.budget if policy.retry else None
        told = partial(_gate_changed, name, account, self.clock)
        with self._lock:
            guard = Guard(
                self._gates.of((name, account, rates, apart), lambda: Gate(now, rates, apart=apart, on_change=told)),
                _part(self._breakers, policy.breaker, (name, policy.breaker), partial(self._breaker, name)),
                _terms(policy),
                _part(self._bulkheads, policy.bulkhead, (name, policy.bulkhead), BulkheadState),
                _part(self._budgets, budget, (name, tenant, budget), partial(RetryBudget, now=now)),
                _part(self._admissions, policy.admission, (name, tenant, policy.admission), Admission),
            )
            if self.store is not None:
                self._link(guard, name, policy, tenant, account)
            elif not tenant:
                self._unlinked[guard] = name, policy, account
            return guard

    def share(self, store: str | SharedStore) -> None:
        """Share the state with all processes that name the same Redis or Valkey server, from now on: breakers, rate
        gates and retry budgets. While the server is away each process goes by its own.

        Raises ConfigurationError for a URL that cannot be used, and when there is another one already.
        """
        from moorline.calls.shared_store import SharedStore

        made = SharedStore(store) if isinstance(store, str) else store
        with self._lock:
            self._from_environment = False
            if self.store is not None and not self.store.same(made):
                raise ConfigurationError(f"state is shared at {self.store.where} already, so not at {made.where}")
            if self.store is None:
                self.store = made
                for guard, (name, policy, account) in list(self._unlinked.items()):
                    self._link(guard, name, policy, "", account)
                self._unlinked.clear()

    def _look_around(self) -> None:
        """What the environment says, once it is complete: at the first call."""
        self._from_environment = False
        url = os.environ.get(_VARIABLE)
        if url and self.store is None:
            self.share(url)

    def _link(self, guard: Guard, name: str, policy: Policy, tenant: str, account: str) -> None:
        from moorline.calls.shared_guard import SharedGuard

        store = self.store
        assert store is not None

        def make() -> SharedGuard:
            budget = policy.retry.budget if policy.retry else None
            return SharedGuard(store, name, policy.breaker, guard.terms, policy.rates, budget, tenant, account)

        guard.shared = self._shared.of((name, tenant, account, policy), make)

    def passed_on(self, name: str, to: str) -> None:
        """Count that a call of *name* went to another service, since it could not do it itself."""
        with self._lock:
            self._passed.of(name, Counter)[to] += 1

    def breakers(self) -> dict[str, list[BreakerState]]:
        """The breakers by name: for operators, who may look at them and force them."""
        with self._lock:
            found: dict[str, list[BreakerState]] = {}
            for (name, _config), breaker in self._breakers.items():
                found.setdefault(name, []).append(breaker)
            return found

    def snapshot(self) -> dict[str, dict[str, Any]]:
        """All parts by name, as JSON, for operators. Of accounts those whose limits are known, or that wait."""
        with self._lock:
            found: dict[str, dict[str, Any]] = {}
            for (name, _config), breaker in self._breakers.items():
                found.setdefault(name, {})["breaker"] = breaker.state
                found[name]["breaker_reason"] = breaker.reason
            gates = [(name, account, gate.snapshot()) for (name, account, *_), gate in self._gates.items()]
            for name, account, view in sorted(gates, key=lambda one: (-one[2].waiting, one[1])):
                _show_gate(found.setdefault(name, {}), account, view)
            for (name, _limit), bulkhead in self._bulkheads.items():
                taken = {"limit": bulkhead.config.limit, "busy": bulkhead.busy, "waiting": bulkhead.waiting}
                found.setdefault(name, {})["bulkhead"] = taken
            for (name, tenant, _ratio), budget in self._budgets.items():
                found.setdefault(name, {}).setdefault("retries_left", {})[tenant] = int(budget.left)
            for (name, tenant, _most), admission in self._admissions.items():
                found.setdefault(name, {}).setdefault("under_way", {})[tenant] = admission.under_way
            for name, passed in self._passed.items():
                found.setdefault(name, {})["passed_on"] = dict(passed)
            if self.store is not None:
                for parts in found.values():
                    parts["shared"] = {"where": self.store.where, "up": self.store.up}
            return found

    def _breaker(self, name: str, config: Breaker) -> BreakerState:
        return BreakerState(config, self.clock.monotonic, on_change=partial(_changed, name, self.clock))


def _show_gate(parts: dict[str, Any], account: str, view: GateView) -> None:
    if not account:
        parts.setdefault("rate_gate", asdict(view))
    elif view.waiting or view.limits:
        shown = parts.setdefault("rate_gates", {})
        if len(shown) < _MOST_SHOWN:
            shown[account] = asdict(view)


def _terms(policy: Policy) -> Terms:
    """What the attempts of *policy* have of the breaker, whoever made it."""
    most, longest = policy.attempt_timeout, policy.deadline
    if longest is None:
        longest = max(most or 0.0, _UNBOUNDED)
    lease = min(longest + _MARGIN, _LONGEST_LEASE)
    config = policy.breaker
    if config is None or config.slow_rate is None:
        return Terms(lease)
    if config.slow is not None:
        return Terms(lease, config.slow)
    return Terms(lease) if most is None else Terms(lease, most * _SLOW)


def _part(known: Known[Any, T], config: C | None, key: Any, make: Callable[[C], T]) -> T | None:
    return None if config is None else known.of(key, lambda: make(config))


def _changed(name: str, clock: Clock, before: State, after: State, reason: str = "") -> None:
    write = _log.warning if after == "open" else _log.info
    write("breaker_changed", service=name, before=before, after=after, reason=reason)
    _told("breaker", name, clock, before, after, reason)


def _gate_changed(name: str, account: str, clock: Clock, before: str, after: str, reason: str) -> None:
    _told("rate gate", name, clock, before, after, f"{reason}, for {account}" if account else reason)


def _told(part: story.Part, name: str, clock: Clock, before: str, after: str, reason: str) -> None:
    story.changed(part, name, clock.wall(), before, after, reason)


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


def open_breakers() -> dict[str, tuple[float, str]]:
    """The names whose breaker has not been closed for a while, in this process: for how many seconds, and why."""
    found: dict[str, tuple[float, str]] = {}
    for guards in list(_all):
        for name, breakers in guards.breakers().items():
            for breaker in breakers:
                seconds = breaker.open_for
                if seconds is not None and seconds > found.get(name, (0.0, ""))[0]:
                    found[name] = seconds, breaker.reason
    return found


PROCESS: Final = Guards()
PROCESS._from_environment = True  # noqa: SLF001 (of this module)
