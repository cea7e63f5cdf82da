from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from moorline.clock import ManualClock
from moorline.errors import ConfigurationError
from moorline.policies.breaker import Breaker, BreakerState, Terms

STRICT: dict[str, Any] = {"rate": None, "slow_rate": None}


SLOW = Terms(slow=8.0)


def machine(clock: ManualClock, **config: Any) -> Any:
    return BreakerState(Breaker(**config), clock.monotonic)


def tripped(clock: ManualClock, **config: Any) -> Any:
    breaker = machine(clock, **config)
    for _ in range(breaker.config.failures):
        breaker.admit().failure()
    return breaker


def close(breaker: Any) -> None:
    for _ in range(breaker.config.successes):
        breaker.admit().success()


# When it opens --------------------------------------------------------------------------------------------------------


def test_failures_in_a_row():
    """Five failures in a row open it; a success between them begins the row anew."""
    breaker = machine(ManualClock(), **STRICT)
    for worked in (False, False, False, False, True, False, False, False, False):
        permit = breaker.admit()
        permit.success() if worked else permit.failure()
    assert breaker.state == "closed"
    breaker.admit().failure()
    assert (breaker.state, breaker.reason) == ("open", "5 failures in a row")


@pytest.mark.parametrize(
    ("failed", "calls", "state"), [(5, 10, "open"), (4, 10, "closed"), (4, 8, "closed"), (6, 10, "open")]
)
def test_the_share_of_failures(failed, calls, state):
    """Half of at least ten calls in 60 s open it, fewer calls or a smaller share do not."""
    breaker = machine(ManualClock(), failures=100)
    for number in range(calls):
        permit = breaker.admit()
        permit.failure() if number < failed else permit.success()
    assert breaker.state == state
    if state == "open":
        assert breaker.reason == f"{failed} of 10 calls failed in 60 s"


def test_the_success_that_makes_up_the_minimum_may_open_it():
    """Ten calls with five failures open it in whatever order they came, also when the tenth is good."""
    breaker = machine(ManualClock(), failures=100)
    for number in range(10):
        permit = breaker.admit()
        permit.failure() if number % 2 == 0 else permit.success()
    assert breaker.state == "open"


@pytest.mark.parametrize(("seconds", "state"), [(50, "open"), (61, "closed")])
def test_the_window_slides(seconds, state):
    """Failures count for the window and not beyond it."""
    clock = ManualClock()
    breaker = machine(clock, failures=100, window=60)
    for _ in range(5):
        breaker.admit().failure()
    clock.advance(seconds)
    for _ in range(5):
        breaker.admit().success()
    assert breaker.state == state


@pytest.mark.parametrize(("slow", "state"), [(5, "open"), (4, "closed")])
def test_slow_calls(slow, state):
    """Half of at least ten calls slower than the threshold open it, though all of them worked."""
    breaker = machine(ManualClock())
    for number in range(10):
        breaker.admit(SLOW).success(8.1 if number < slow else 8.0)
    assert breaker.state == state
    assert ("slower than 8 s" in breaker.reason) == (state == "open")


def test_what_is_slow_depends_on_the_attempt():
    """Attempts of several policies share a breaker, and each is held against the threshold of its own."""
    breaker = machine(ManualClock())
    for number in range(20):
        breaker.admit(Terms(slow=(1.0, 8.0)[number % 2])).success((0.9, 7.0)[number % 2])
    assert (breaker.state, breaker.snapshot().slow) == ("closed", 0)
    for _ in range(20):
        breaker.admit(Terms(slow=1.0)).success(1.1)
    assert breaker.reason == "20 of 40 calls were slower than 1 s"


def test_ignored_results_count_nowhere():
    """What was cancelled, rate-limited or never sent neither fails, works, nor makes up the minimum."""
    breaker = machine(ManualClock(), failures=2)
    for _ in range(50):
        breaker.admit().ignore()
    breaker.admit().failure()
    assert (breaker.state, breaker.snapshot().calls) == ("closed", 1)


# When it closes -------------------------------------------------------------------------------------------------------


def test_two_of_two_probes_close_it():
    """After 30 s probes are let through one after the other; the second good one closes it."""
    clock = ManualClock()
    breaker = tripped(clock)
    assert (breaker.state, breaker.admit(), breaker.wait()) == ("open", None, 30)
    clock.advance(30)
    first = breaker.admit()
    assert (breaker.state, breaker.admit()) == ("half_open", None)
    first.success()
    second = breaker.admit()
    assert (breaker.state, breaker.admit()) == ("half_open", None)
    second.success()
    assert (breaker.state, breaker.reason) == ("closed", "2 probes worked")


def test_a_probe_that_fails_opens_it_again():
    """One bad probe opens it for another 30 s, also after a good one."""
    clock = ManualClock()
    breaker = tripped(clock)
    clock.advance(30)
    breaker.admit().success()
    breaker.admit().failure(1.5)
    assert (breaker.state, breaker.wait()) == ("open", 30)
    assert breaker.reason == "probe failed: no good answer after 1.5 s"


def test_slow_probes():
    """A slow probe closes a breaker that failures opened, and not one that slowness opened."""
    clock = ManualClock()
    breaker = tripped(clock)
    clock.advance(30)
    for _ in range(2):
        breaker.admit(SLOW).success(9.0)
    assert breaker.state == "closed"
    for _ in range(10):
        breaker.admit(SLOW).success(9.0)
    assert breaker.state == "open"
    clock.advance(30)
    breaker.admit(SLOW).success(9.0)
    assert (breaker.state, "slower than 8 s" in breaker.reason) == ("open", True)


@pytest.mark.parametrize("probes", [1, 3])
def test_a_thousand_threads_get_no_more_than_the_probes(probes):
    """1,000 callers at once, on many threads, get so many permits and no more."""
    clock = ManualClock()
    breaker = tripped(clock, probes=probes)
    clock.advance(30)
    admitted: list[object] = []
    start = threading.Barrier(20)

    def call() -> None:
        start.wait(10)
        admitted.extend(permit for permit in (breaker.admit() for _ in range(50)) if permit)

    threads = [threading.Thread(target=call) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(admitted) == probes


async def test_a_thousand_tasks_get_one_probe():
    """1,000 tasks at once get one permit; when it is settled, one more."""
    clock = ManualClock()
    breaker = tripped(clock)
    clock.advance(30)

    async def call() -> Any:
        await asyncio.sleep(0)
        return breaker.admit()

    for _ in range(2):
        permits = [permit for permit in await asyncio.gather(*(call() for _ in range(1000))) if permit]
        assert len(permits) == 1
        permits[0].success()
    assert breaker.state == "closed"


@pytest.mark.parametrize("how", ["ignored", "lost"])
def test_a_probe_frees_its_lease(how):
    """A probe that is cancelled frees its place at once, one that never comes back when its lease ends."""
    clock = ManualClock()
    breaker = tripped(clock)
    clock.advance(30)
    probe = breaker.admit(Terms(lease=10))
    if how == "ignored":
        probe.ignore()
    else:
        assert (breaker.wait(), breaker.admit()) == (10, None)
        clock.advance(10)
    breaker.admit().success()
    breaker.admit().success()
    assert breaker.state == "closed"


def test_a_probe_that_fails_after_its_lease_opens_it():
    """A lease that is over has let another probe in; that the first failed is news all the same, once."""
    clock = ManualClock()
    breaker = tripped(clock)
    clock.advance(30)
    late = breaker.admit(Terms(lease=10))
    clock.advance(12)
    heir = breaker.admit()
    late.failure(12.0)
    assert (breaker.state, breaker.wait()) == ("open", 30)
    clock.advance(30)
    probe = breaker.admit()
    heir.failure()
    late.failure()
    assert breaker.state == "half_open"
    probe.success()
    breaker.admit().success()
    assert breaker.state == "closed"


def test_probes_that_work_after_their_leases_close_it():
    """A service whose good answers take longer than any lease gets it closed."""
    clock = ManualClock()
    breaker = tripped(clock)
    clock.advance(30)
    for _ in range(2):
        probe = breaker.admit(Terms(lease=10))
        clock.advance(12)
        probe.success(12.0)
    assert (breaker.state, breaker.reason) == ("closed", "2 probes worked")


def test_a_lease_is_that_of_the_probe():
    """Each probe is out for as long as its own policy says, whatever another policy's attempt was given before."""
    clock = ManualClock()
    breaker = tripped(clock)
    clock.advance(30)
    breaker.admit(Terms(lease=1)).ignore()
    breaker.admit(Terms(lease=20))
    clock.advance(19)
    assert (breaker.admit(), breaker.wait()) == (None, 1)
    clock.advance(1)
    assert breaker.admit()


def test_nobody_waits_for_the_end_of_a_long_lease():
    """While a probe is out, one is told to ask again after the reset: it mostly comes back long before its lease ends."""
    clock = ManualClock()
    breaker = tripped(clock, reset=2.0)
    clock.advance(2)
    breaker.admit(Terms(lease=600))
    assert breaker.wait() == 2
    clock.advance(599)
    assert breaker.wait() == 1


def test_results_from_before_the_trip_do_not_count():
    """Calls that began before it opened can neither close it, open it again, nor be counted when it closed."""
    clock = ManualClock()
    breaker = machine(clock, failures=2)
    early = [breaker.admit() for _ in range(12)]
    early[0].failure()
    early[1].failure()
    assert breaker.state == "open"
    clock.advance(30)
    probe = breaker.admit()
    early[2].failure()
    early[3].success()
    early[4].ignore()
    assert breaker.state == "half_open"
    probe.success()
    close_one = breaker.admit()
    close_one.success()
    for permit in early[5:]:
        permit.failure()
    assert (breaker.state, breaker.snapshot().calls) == ("closed", 0)


def test_settled_once():
    """A permit counts once, whatever is said of it later."""
    breaker = machine(ManualClock(), failures=2)
    permit = breaker.admit()
    for _ in range(5):
        permit.failure()
    permit.success()
    assert (breaker.state, breaker.snapshot().failures_in_a_row) == ("closed", 1)


# By hand --------------------------------------------------------------------------------------------------------------


def test_forced_by_an_operator():
    """Held open nobody passes and no wait ends it; held closed nothing opens it; freed, it begins with a clean count."""
    breaker = machine(ManualClock(), failures=2)
    breaker.force("open")
    assert (breaker.admit(), breaker.wait(), breaker.state) == (None, float("inf"), "open")
    breaker.force("closed")
    for _ in range(20):
        breaker.admit().failure()
    assert (breaker.state, breaker.reason, breaker.snapshot().forced) == ("closed", "forced by an operator", True)
    breaker.force(None)
    breaker.admit().failure()
    assert (breaker.state, breaker.snapshot().forced) == ("closed", False)
    breaker.admit().failure()
    assert breaker.state == "open"
    with pytest.raises(ConfigurationError, match="forced 'open' or 'closed'"):
        breaker.force("ajar")


def test_changes_are_told_with_their_reasons():
    """Each change of state is told once, with before, after and why."""
    clock, told = ManualClock(), []
    breaker: Any = BreakerState(Breaker(failures=1), clock.monotonic, on_change=lambda *change: told.append(change))
    breaker.admit().failure()
    clock.advance(30)
    close(breaker)
    assert told == [
        ("closed", "open", "1 failure in a row"),
        ("open", "half_open", "open for 30 s"),
        ("half_open", "closed", "2 probes worked"),
    ]


def test_a_snapshot():
    """An operator sees the counts of the window, the row, and what an open one waits for."""
    clock = ManualClock()
    breaker = machine(clock)
    breaker.admit(SLOW).success(9.0)
    breaker.admit().failure()
    found = breaker.snapshot()
    assert (found.calls, found.failed, found.slow, found.failures_in_a_row) == (2, 1, 1, 1)
    clock.advance(61)
    assert breaker.snapshot().calls == 0
    for _ in range(4):
        breaker.admit().failure()
    found = breaker.snapshot()
    assert (found.state, found.wait, found.until, found.probes) == ("open", 30, clock.monotonic() + 30, 0)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"failures": 0}, "failures"),
        ({"reset": 0}, "reset"),
        ({"probes": True}, "probes"),
        ({"rate": 0}, "rate"),
        ({"rate": 1.1}, "rate"),
        ({"slow": -1}, "slow"),
        ({"slow_rate": "half"}, "slow_rate"),
        ({"minimum": 0}, "minimum"),
        ({"window": 0}, "window"),
        ({"successes": 0}, "successes"),
    ],
)
def test_bad_fields_are_named(config, named):
    """A field that makes no sense is named."""
    with pytest.raises(ConfigurationError, match=rf"Breaker\.{named} "):
        Breaker(**config)


# Whatever happens -----------------------------------------------------------------------------------------------------

STEPS = ("call", "call", "call", "success", "slow", "failure", "failure", "ignore", "lose", "force", "wait")
LONGEST = 30
# One draw of bytes for a whole schedule: draws, one for each step, took ten times as long as the steps.
SCHEDULES = st.binary(min_size=4 + 2 * LONGEST, max_size=4 + 2 * LONGEST)
CONFIG: dict[str, Any] = {"failures": 2, "reset": 5.0, "minimum": 4, "window": 20.0}
TERMS = (Terms(3.0, 1.0), Terms(0.5, 0.25))


class Walk:
    """A breaker on a random schedule, with a book of its own of the probes: who is out, and until when."""

    def __init__(self, probes: int, successes: int) -> None:
        self.clock = ManualClock()
        self.config = Breaker(probes=probes, successes=successes, **CONFIG)
        self.breaker: Any = BreakerState(self.config, self.clock.monotonic)
        self.out: list[Any] = []
        self.probing: list[tuple[Any, float]] = []
        self.probes: list[Any] = []  # of this time of trying, those whose leases are over among them

    def step(self, what: str, number: int) -> None:
        if what == "call":
            self.call(TERMS[number % 2])
        elif what == "wait":
            self.clock.advance(number / 4)
        elif what == "force":
            self.breaker.force(("open", "closed", None)[number % 3])
        elif self.out:
            self.settle(self.out.pop(number % len(self.out)), what)
        if self.breaker.state != "half_open":
            self.probing.clear()
            self.probes.clear()

    def call(self, terms: Terms) -> None:
        permit, now = self.breaker.admit(terms), self.clock.monotonic()
        if permit is None:
            assert self.breaker.wait() > 0
            return
        self.out.append(permit)
        assert self.breaker.state != "open"
        if self.breaker.state == "half_open":
            self.probing = [(each, end) for each, end in self.probing if end > now]
            self.probing.append((permit, now + terms.lease))
            self.probes.append(permit)
            assert len(self.probing) <= self.config.probes

    def settle(self, permit: Any, what: str) -> None:
        if what == "lose":
            return  # never settled
        if what in ("success", "slow"):
            permit.success(2.0 if what == "slow" else 0.5)
        elif what == "failure":
            permit.failure()
            assert self.breaker.state == "open" or permit not in self.probes
        else:
            permit.ignore()
        self.probing = [(each, end) for each, end in self.probing if each is not permit]

    def recovers(self, took: float) -> None:
        """When the service works again and time has passed, so many good calls close it, whatever was before and
        however long each takes: meanwhile others ask, and get in when its lease is over.
        """
        if self.breaker.snapshot().forced:
            self.breaker.force(None)
        self.clock.advance(self.config.reset + self.config.window + TERMS[0].lease)
        for _ in range(self.config.successes):
            permit = self.breaker.admit(TERMS[0])
            assert permit is not None
            self.clock.advance(took)
            other = self.breaker.admit(TERMS[1])
            permit.success()
            if other is not None:
                self.clock.advance(took)
                other.success()
        assert (self.breaker.state, self.breaker.wait()) == ("closed", 0)


@settings(max_examples=10_000)
@given(SCHEDULES)
def test_no_schedule_leaves_it_stuck(schedule):
    """Ten thousand random schedules of calls that work, fail, are slow, cancelled, late or lost, of waits and operators:
    never are more probes out than allowed, one that fails opens it however late, and a service that works again gets it
    closed, in time or after the leases.
    """
    count, probes, successes, took, *drawn = schedule
    walk = Walk(1 + probes % 3, 1 + successes % 3)
    steps = [(STEPS[what % len(STEPS)], number % 31) for what, number in zip(drawn[::2], drawn[1::2], strict=True)]
    for step in steps[: count % (LONGEST + 1)]:
        note(f"{step}")
        walk.step(*step)
    walk.recovers((0.0, 0.4, 2.9, 3.0, 12.0, 600.0)[took % 6])
