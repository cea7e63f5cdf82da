from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorline.clock import ManualClock
from moorline.errors import ConfigurationError
from moorline.policies.breaker import Breaker
from moorline.policies.bulkhead import Bulkhead, BulkheadState
from moorline.policies.policy import Policy
from moorline.policies.rate import RateLimit
from moorline.policies.retry import Retry, RetryBudget


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


def test_bulkhead_passes_over_who_is_gone():
    """A slot goes past those who no longer wait to the first who does."""
    state: Any = BulkheadState(Bulkhead(1, queue=3))
    first, *gone, last = (state.enter() for _ in range(4))
    for each in gone:
        each.when_granted(lambda: False)
    first.leave()
    assert (last.granted, state.busy, state.waiting) == (True, 1, 0)
    gone[0].leave()
    assert state.busy == 1
    last.leave()
    assert state.busy == 0


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
