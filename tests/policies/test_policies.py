from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorline.clock import ManualClock
from moorline.errors import ConfigurationError
from moorline.policies.breaker import Breaker, BreakerState
from moorline.policies.bulkhead import Bulkhead, BulkheadState
from moorline.policies.policy import Policy
from moorline.policies.rate import RateLimit
from moorline.policies.retry import Retry, RetryBudget


def tripped(clock: ManualClock, **config) -> Any:
    breaker: Any = BreakerState(Breaker(**config), clock.monotonic, lease=10)
    for _ in range(breaker.config.failures):
        permit = breaker.admit()
        assert permit is not None
        permit.failure()
    return breaker


def test_opens_and_recovers():
    """Five failures in a row open the breaker; after 30 s one success closes it."""
    clock = ManualClock()
    breaker = tripped(clock)
    assert breaker.state == "open"
    assert breaker.admit() is None
    assert breaker.wait() == pytest.approx(30)
    clock.advance(30.001)
    probe = breaker.admit()
    assert probe is not None
    assert breaker.admit() is None
    probe.success()
    assert breaker.state == "closed"


def test_one_probe_under_a_thousand_threads():
    """However many ask at once, one probe is let through."""
    clock = ManualClock()
    breaker = tripped(clock)
    clock.advance(31)
    admitted: list[Any] = []
    start = threading.Barrier(50)

    def ask():
        start.wait(10)
        admitted.extend(permit for permit in (breaker.admit() for _ in range(20)) if permit)

    threads = [threading.Thread(target=ask) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(admitted) == 1


@pytest.mark.parametrize("how", ["ignored", "lost"])
def test_a_probe_frees_its_lease(how):
    """A probe that is ignored, or never heard of again, makes room for the next."""
    clock = ManualClock()
    breaker = tripped(clock)
    clock.advance(31)
    probe = breaker.admit()
    assert probe is not None
    if how == "ignored":
        probe.ignore()
    else:
        clock.advance(10.001)
    heir = breaker.admit()
    assert heir is not None
    probe.failure()  # too late to count
    heir.success()
    assert breaker.state == "closed"


def test_results_from_before_the_trip_do_not_count():
    """A call that began before the breaker opened can neither close nor re-open it."""
    clock = ManualClock()
    breaker: Any = BreakerState(Breaker(failures=2), clock.monotonic)
    early = [breaker.admit() for _ in range(3)]
    for permit in early[:2]:
        permit.failure()
    clock.advance(31)
    probe = breaker.admit()
    early[2].failure()
    assert breaker.state == "half_open"
    probe.success()
    assert breaker.state == "closed"


@given(
    st.lists(st.sampled_from(["admit", "success", "failure", "ignore", "lose", "tick", "long"]), max_size=60),
    st.integers(1, 3),
)
def test_no_schedule_leaves_it_stuck(steps, probes):
    """After any schedule, a service that works again gets the breaker closed, and never are more probes out than allowed."""
    clock = ManualClock()
    breaker: Any = BreakerState(Breaker(failures=2, reset=5, probes=probes), clock.monotonic, lease=3)
    out = []
    for step in steps:
        if step == "admit":
            permit = breaker.admit()
            if permit:
                out.append(permit)
        elif step in ("tick", "long"):
            clock.advance(1 if step == "tick" else 6)
        elif out:
            permit = out.pop(0)
            if step != "lose":
                getattr(permit, step)()
        assert len(breaker._probes) <= probes
    for _ in range(20):
        clock.advance(6)
        permit = breaker.admit()
        assert permit is not None
        permit.success()
    assert breaker.state == "closed"


def test_forced():
    """An operator can hold the breaker open or closed, and free it."""
    breaker: Any = BreakerState(Breaker(), ManualClock().monotonic)
    breaker.force("open")
    assert breaker.admit() is None
    breaker.force("closed")
    assert breaker.admit()
    breaker.force(None)
    assert breaker.state == "closed"


@given(st.integers(1, 2000), st.floats(0, 1))
def test_delays_stay_within_the_cap(number, drawn):
    """No delay is negative or above the cap, however many retries there were."""
    for jitter in ("full", "equal", "none"):
        assert 0 <= Retry(jitter=jitter).delay(number, lambda: drawn) <= 60


def test_delays_double():
    """Without jitter the delays are 1, 2, 4, 8 and 16 s."""
    assert [Retry(jitter="none").delay(n, lambda: 0.5) for n in range(1, 6)] == [1, 2, 4, 8, 16]


def test_budget_bounds_a_storm():
    """Under a total outage at most a fifth of the calls, and one a second besides, are repeated."""
    clock = ManualClock()
    budget = RetryBudget(0.2, clock.monotonic)
    taken = 0
    for _ in range(1000):
        budget.call()
        taken += budget.take()
    assert taken <= 20 + 200
    clock.advance(5)
    assert sum(budget.take() for _ in range(50)) in (5, 6)


def test_bulkhead_hands_slots_on():
    """A freed slot goes to who waits longest; the queue is bounded; leaving twice frees once."""
    state: Any = BulkheadState(Bulkhead(1, queue=1))
    first, second = state.enter(), state.enter()
    assert first.granted
    assert not second.granted
    assert state.enter() is None
    woken = []
    second.when_granted(lambda: woken.append(True))
    first.leave()
    first.leave()
    assert second.granted
    assert woken == [True]
    second.leave()
    assert (state.busy, state.waiting) == (0, 0)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Policy(deadline=0), "Policy.deadline"),
        (lambda: Policy(attempt_timeout="1"), "Policy.attempt_timeout"),  # type: ignore[arg-type]
        (lambda: Policy(retry=3), "Policy.retry"),  # type: ignore[arg-type]
        (lambda: Policy(breaker=True), "Policy.breaker"),  # type: ignore[arg-type]
        (lambda: Retry(retries=-1), "Retry.retries"),
        (lambda: Retry(base=float("inf")), "Retry.base"),
        (lambda: Retry(factor=0.5), "Retry.factor"),
        (lambda: Retry(jitter="some"), "Retry.jitter"),  # type: ignore[arg-type]
        (lambda: Breaker(failures=0), "Breaker.failures"),
        (lambda: Breaker(reset=-1), "Breaker.reset"),
        (lambda: RateLimit(0), "RateLimit.limit"),
        (lambda: Bulkhead(1, queue=-1), "Bulkhead.queue"),
    ],
)
def test_bad_fields_are_named(make, named):
    """A wrong field of a policy gives an error that names it."""
    with pytest.raises(ConfigurationError, match=named):
        make()
