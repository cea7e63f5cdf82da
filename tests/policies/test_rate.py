from __future__ import annotations

import heapq
import math
import threading

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.policies.limited_server import (
    Bucket,
    DrippingBucket,
    FixedWindow,
    ForgetfulWindow,
    Server,
    SlidingWindow,
    World,
)

from moorline.clock import ManualClock
from moorline.policies.allowance import Reading
from moorline.policies.gate import Gate
from moorline.policies.lane import Pass
from moorline.policies.rate import RateLimit


def gate_of(*quotas: RateLimit, apart: bool = False) -> tuple[Gate, ManualClock]:
    clock = ManualClock()
    return Gate(clock.monotonic, quotas, apart=apart), clock


def passed(gate: Gate, longest: float = 60.0, **options) -> bool:
    """Whether a call passes at once; otherwise its place is given up again."""
    held = gate.take(longest, **options)
    if held.wait:
        gate.give_back(held)
    return held.ok and not held.wait


# Our own quotas ------------------------------------------------------------------------------------------------------


def test_a_gate_that_restricts_nothing_is_free():
    """Without quotas and before any word of the service a call needs not even ask."""
    gate, _ = gate_of()
    assert gate.free
    assert gate.take(0.0).ok is True
    assert not gate_of(RateLimit(5))[0].free


def test_several_windows():
    """With 10 a second and 25 a minute, the first second lets 10 through and the first minute 25."""
    gate, clock = gate_of(RateLimit(10), RateLimit(25, per=60.0))
    counts = []
    for _ in range(3):
        counts.append(sum(passed(gate) for _ in range(30)))
        clock.advance(1)
    assert counts == [10, 10, 5]
    assert passed(gate)  # 1.2 came back in 3 s
    assert gate.take(60.0).why == "our own rate limit of 25 in 60 s"


def test_a_burst_of_its_own():
    """A burst smaller than the limit is all that may come at once."""
    gate, clock = gate_of(RateLimit(10, burst=2))
    assert [passed(gate) for _ in range(3)] == [True, True, False]
    clock.advance(0.1)
    assert [passed(gate) for _ in range(2)] == [True, False]


def test_costs():
    """A call that costs 7 leaves 3 of 10, and one that costs more than the quota holds waits for all of it."""
    gate, clock = gate_of(RateLimit(10))
    assert passed(gate, cost=7)
    assert not passed(gate, cost=4)
    assert passed(gate, cost=3)
    clock.advance(1)
    assert passed(gate, cost=25)
    assert gate.take(60.0).wait == pytest.approx(1.6)


def test_what_was_not_used_is_given_back():
    """A call that never left gives its share back, once."""
    gate, _ = gate_of(RateLimit(1, per=10.0))
    held = gate.take(1.0)
    gate.give_back(held)
    gate.give_back(held)
    assert [passed(gate) for _ in range(2)] == [True, False]


def test_a_wait_beyond_the_longest_is_refused():
    """Who would wait as long as the caller may or longer is refused at once, with the time and the reason, and holds no place."""
    gate, _ = gate_of(RateLimit(1, per=10.0))
    assert passed(gate)
    held = gate.take(10.0)
    assert (held.ok, held.why, gate.waiting) == (False, "our own rate limit of 1 in 10 s", 0)
    assert held.wait == pytest.approx(10)
    assert gate.take(10.1).ok


# Waiting -------------------------------------------------------------------------------------------------------------


def test_waiters_pass_in_the_order_of_their_coming():
    """Three who wait are told times one after the other, pass in this order, and a newcomer does not overtake them."""
    gate, clock = gate_of(RateLimit(1))
    assert passed(gate)
    held = [gate.take(60.0) for _ in range(3)]
    assert [each.wait for each in held] == pytest.approx([1, 2, 3])
    clock.advance(1)
    assert gate.take(60.0).wait == pytest.approx(3)  # the fourth in the queue
    assert gate.again(held[1], 60.0).wait == pytest.approx(1)
    assert gate.again(held[0], 60.0).wait == 0
    clock.advance(1)
    assert gate.again(held[2], 60.0).wait == pytest.approx(1)
    assert gate.again(held[1], 60.0).wait == 0


def test_the_place_of_a_cancelled_waiter_is_the_next_ones():
    """When the first of the queue gives up, the second is woken and has its time."""
    gate, clock = gate_of(RateLimit(1))
    assert passed(gate)
    first, second = gate.take(60.0), gate.take(60.0)
    woken: list[str] = []
    second.when_granted(lambda: woken.append("second"))
    gate.give_back(first)
    assert woken == ["second"]
    assert gate.again(second, 60.0).wait == pytest.approx(1)
    clock.advance(1)
    assert gate.again(second, 60.0).wait == 0
    assert gate.waiting == 0


def test_a_waiter_whose_time_is_up_is_refused():
    """Who asks again with less time than it would still take is refused and out of the queue."""
    gate, _ = gate_of(RateLimit(1, per=10.0))
    assert passed(gate)
    held = gate.take(60.0)
    assert not gate.again(held, 5.0).ok
    assert gate.waiting == 0


def test_waiting_is_visible():
    """Operators see how many wait, for how long and why."""
    gate, clock = gate_of(RateLimit(1))
    assert gate.snapshot().waiting == 0
    passed(gate)
    gate.take(60.0)
    gate.take(60.0)
    clock.advance(0.25)
    view = gate.snapshot()
    assert (view.waiting, view.why) == (2, "our own rate limit of 1 a second")
    assert view.seconds == pytest.approx(0.75)
    assert view.limits == ("our own rate limit of 1 a second",)
    assert "2 waiting" in repr(gate)


def test_threads_share_a_gate():
    """Of 400 threads' calls at one moment exactly as many pass as the quota allows."""
    gate, _ = gate_of(RateLimit(100, per=1000.0))
    ends: list[bool] = []
    start = threading.Barrier(8)

    def ask():
        start.wait(10)
        ends.extend(gate.take(0.0).ok for _ in range(50))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert (len(ends), sum(ends)) == (400, 100)


# What the service says -----------------------------------------------------------------------------------------------


def test_closed_as_long_as_the_service_asked():
    """After a Retry-After of 5 s nobody passes for 5 s; a shorter one does not shorten it; then the gate is free again."""
    gate, clock = gate_of()
    gate.close(5)
    gate.close(1)
    held = gate.take(60.0)
    assert held.why == "the service asked to wait"
    assert held.wait == pytest.approx(5)
    clock.advance(5)
    assert gate.again(held, 60.0).wait == 0
    gate.heed((), held)
    assert gate.free


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.nan])
def test_nonsense_closes_nothing(seconds):
    """A closing for no time, a negative one or NaN is none; an infinite one ends within a year."""
    gate, _ = gate_of()
    gate.close(seconds)
    assert gate.free
    gate.close(math.inf)
    assert gate.take(0.0).wait <= 366 * 86400


@pytest.mark.parametrize(
    "reading",
    [
        Reading(-1),
        Reading(math.nan),
        Reading(math.inf),
        Reading(1, math.nan),
        Reading(1, 5, -1),
        Reading(1, 5, math.inf),
        Reading(0, 5, 1, math.nan),
        Reading(0, 1e300),
    ],
)
def test_readings_that_cannot_be_true(reading):
    """A reading with a number that no limit has is ignored."""
    gate, _ = gate_of()
    gate.heed((reading,))
    assert gate.free


def test_plenty_slows_nobody_down():
    """With 4,900 of 5,000 left, calls need not ask."""
    gate, _ = gate_of()
    gate.heed((Reading(4900, 5000, 3000),))
    assert gate.free


def test_what_is_in_flight_counts():
    """With 3 left, three pass and the fourth waits for the reset, though no further answer has come."""
    gate, clock = gate_of()
    gate.heed((Reading(3, 10, 30),))
    held = [gate.take(60.0) for _ in range(4)]
    assert [each.wait for each in held] == pytest.approx([0, 0, 0, 30])
    assert held[3].why == "the service allows 0 more calls in 30 s"
    clock.advance(30)
    assert gate.again(held[3], 60.0).wait == 0


def test_readings_that_overtake_one_another():
    """The answer of an earlier call that comes late does not give back what is spent."""
    gate, clock = gate_of()
    gate.heed((Reading(5, 10, 30),))
    one, two = gate.take(1.0), gate.take(1.0)
    clock.advance(0.1)
    gate.heed((Reading(0, 10, 29.9),), two)
    gate.heed((Reading(4, 10, 29.9),), one)
    assert gate.take(60.0).wait == pytest.approx(29.9)


def test_the_last_calls_are_spread():
    """When the last fifth of a limit is reached, calls come one after the other, at most a second apart."""
    gate, _ = gate_of()
    gate.heed((Reading(10, 100, 5),))
    waits = [gate.take(60.0).wait for _ in range(4)]
    assert waits == pytest.approx([0, 0.5, 1.06, 1.61], abs=0.1)
    gate, _ = gate_of()
    gate.heed((Reading(10, 100, 3000),))
    assert [gate.take(60.0).wait for _ in range(3)] == pytest.approx([0, 1, 2])


def test_no_herd_after_a_reset():
    """When a limit is renewed one call finds out, and what it is told lets the others through."""
    gate, clock = gate_of()
    gate.heed((Reading(0, 100, 10, 60),))
    clock.advance(10)
    probe = gate.take(60.0)
    others = [gate.take(60.0) for _ in range(20)]
    assert probe.wait == 0
    assert others[0].wait == pytest.approx(0.6)
    woken: list[int] = []
    others[0].when_granted(lambda: woken.append(0))
    clock.advance(0.1)
    gate.heed((Reading(99, 100, 60, 60),), probe)
    assert woken == [0]
    assert {gate.again(each, 60.0).wait for each in others} == {0}


def test_who_is_gone_leaves_the_queue():
    """Who waits and is gone holds up nobody: found out when it is its turn, or when that is over."""
    gate, clock = gate_of(RateLimit(1, burst=1))
    first = gate.take(60.0)
    gone = [gate.take(60.0) for _ in range(2)]
    for each in gone:
        each.when_granted(lambda: False)
    last = gate.take(60.0)
    clock.advance(3)
    gate.again(last, 60.0)
    assert (gate.waiting, last.granted) == (1, True)
    assert not gate.again(last, 60.0).wait
    gone[0].when_granted(lambda: False)
    gate.give_back(gone[0])
    gate.heed((), first)
    assert gate.waiting == 0


@pytest.mark.parametrize("passes", [0.0, 1.3])
def test_caution_refuses_nobody(passes):
    """What a reset gives back is tried out slowly, but who has time for it is not refused: it may give back all."""
    gate, clock = gate_of()
    gate.heed((Reading(9, 100, 1.25),))
    clock.advance(passes)
    held = [gate.take(5.0) for _ in range(60)]
    assert all(each.ok for each in held)
    assert held[-1].wait > 5
    assert not gate.take(0.0).ok


def test_a_queue_that_no_reset_serves_in_time():
    """After a reset the 150 calls that wait for a limit of 100 need one more: who has no time for it is refused."""
    gate, clock = gate_of()
    gate.heed((Reading(0, 100, 1.0, 60),))
    clock.advance(1.0)
    assert [gate.take(30.0).ok for _ in range(150)].count(True) == 101  # one has passed, and tries it out


def test_even_at_best_too_late():
    """With 100 in 60 s, of which none is left, the 101st in the queue has no chance within a minute."""
    gate, _ = gate_of()
    gate.heed((Reading(0, 100, 30, 60),))
    assert all(gate.take(31.0).ok for _ in range(100))
    refused = gate.take(31.0)
    assert not refused.ok
    assert refused.wait >= 90


def test_what_others_use_is_no_sliding_window():
    """A window of 2 s that has just begun anew by its own account does so, however much of it others have used."""
    gate, clock = gate_of()
    gate.heed((Reading(99, 100, 1.8),))
    clock.advance(0.5)
    for number, held in enumerate([gate.take(60.0) for _ in range(25)]):
        gate.heed((Reading(60 - number, 100, 1.3),), held)
    clock.advance(1.31)
    tries = gate.take(60.0)
    clock.advance(0.1)
    gate.heed((Reading(60, 100, 1.9),), tries)
    assert gate.known_of(Reading(60, 100, 1.9)) == ("", 0.0, False)


def test_a_lost_pass_is_forgotten():
    """Who never settles its pass holds its share for a minute at most."""
    gate, clock = gate_of()
    gate.heed((Reading(1, 10, 3000),))
    assert passed(gate)
    clock.advance(59)
    assert not passed(gate)
    clock.advance(2)
    assert passed(gate)


def test_buckets_of_a_service():
    """A limit of GitHub's search holds back the operations that were answered with it, and no other."""
    gate, _ = gate_of()
    gate.heed((Reading(40, 50, 3000, None, "core"),), operation="issues")
    gate.heed((Reading(0, 30, 20, None, "search"),), operation="search")
    assert passed(gate, operation="issues")
    assert gate.take(60.0, 1.0, "search").wait == pytest.approx(20)
    assert passed(gate, operation="unknown")
    assert any(text.startswith("search: the service allows 0") for text in gate.snapshot().limits)


def test_operations_apart():
    """Where each method has its own limit, Retry-After closes it for that method, and readings are its own."""
    gate, _ = gate_of(apart=True)
    gate.close(30, "chat.postMessage")
    gate.heed((Reading(0, 20, 7),), operation="conversations.list")
    assert gate.take(60.0, 1.0, "chat.postMessage").wait == pytest.approx(30)
    assert gate.take(60.0, 1.0, "conversations.list").wait == pytest.approx(7)
    assert passed(gate, operation="users.info")


def test_names_from_outside_have_a_bound():
    """A service that names a new bucket with every answer does not fill the memory."""
    gate, _ = gate_of()
    for number in range(3000):
        gate.heed((Reading(5, 10, 30, None, f"bucket-{number}"),), operation=f"operation-{number}")
    assert len(gate._lanes) < 1100
    assert len(gate._where) < 1100


def test_a_limit_that_is_not_spoken_of_any_more():
    """What the service has stopped to say is forgotten, and the gate is free again."""
    gate, clock = gate_of()
    gate.heed((Reading(5, 10, 30, 60),))
    clock.advance(300)
    for _ in range(12):
        held = gate.take(60.0)
        gate.heed((), held)
        clock.advance(10)
    assert gate.free


def test_a_refusal_that_nothing_spoke_of():
    """A 429 without any header slows down to a few calls a second, which then become more; a burst of them counts once."""
    gate, clock = gate_of()
    gate.limited()
    for _ in range(49):
        gate.limited()
    assert not gate.free
    counts = []
    for _ in range(6):
        counts.append(0)
        for _ in range(100):
            clock.advance(0.01)
            counts[-1] += passed(gate)
    assert counts[0] <= 3
    assert counts == sorted(counts)
    assert counts[-1] > 20
    rate = counts[-1]
    held = gate.take(60.0)
    gate.limited(held)
    clock.advance(1)
    assert sum(passed(gate) for _ in range(100)) < rate


@pytest.mark.parametrize("counted", [True, False])
def test_a_refusal_for_another_limit_than_the_one_spoken_of(counted):
    """A refusal with 4,000 calls left, such as GitHub's secondary limit, is one that nothing spoke of: it slows down."""
    gate, clock = gate_of()
    plenty = Reading(4000, 5000, 3000)
    gate.heed((plenty,))
    held = gate.take(60.0) if counted else None
    gate.limited(held, known=True)
    gate.heed((plenty,), held)
    assert not gate.free
    clock.advance(1)
    assert sum(passed(gate) for _ in range(50)) <= 2


# Services that limit, in simulated time ------------------------------------------------------------------------------

ALLOWED = 100  # calls a window


def simulated(kind: type[Server], window: float, dialect: str, **options) -> tuple[float, float]:
    """The share of refused calls, and of what the service allows that was used."""
    seconds = max(8 * window, 20.0)
    server = World(kind(ALLOWED, window, dialect), **options).run(seconds)
    return server.refused / (server.served + server.refused), server.served * window / (seconds * ALLOWED)


@pytest.mark.parametrize("window", [1.0, 10.0, 60.0])
@pytest.mark.parametrize("dialect", ["x", "ietf"])
@pytest.mark.parametrize("kind", [FixedWindow, SlidingWindow, Bucket])
def test_fifty_workers_against_a_hundred_a_window(kind, dialect, window):
    """Where the answers speak of the limit, at most 1 % of 50 workers' calls are refused, and 90 % of the limit is used."""
    refused, used = simulated(kind, window, dialect)
    assert refused <= 0.01
    # A sliding window of one second whose reset is written in whole seconds leaves half of it unknown.
    assert used >= (0.6 if (kind, dialect, window) == (SlidingWindow, "x", 1.0) else 0.89)


@pytest.mark.parametrize("kind", [ForgetfulWindow, DrippingBucket])
def test_resets_that_mean_something_else(kind):
    """A reset that is when all or when the next comes back is no reason for more refusals, where the window is named."""
    refused, used = simulated(kind, 10.0, "ietf")
    assert refused <= 0.01
    assert used >= 0.9


@pytest.mark.parametrize("kind", [FixedWindow, SlidingWindow, Bucket])
def test_nothing_but_refusals(kind):
    """Where only a 429 with Retry-After speaks of the limit, the rate is found: one of ten calls or fewer is refused."""
    refused, used = simulated(kind, 10.0, "")
    assert refused <= 0.1
    assert used >= 0.85


@pytest.mark.parametrize("kind", [FixedWindow, SlidingWindow, Bucket])
def test_four_processes_that_know_nothing_of_each_other(kind):
    """Four gates that share a limit find their parts of it: one of five calls or fewer is refused."""
    refused, used = simulated(kind, 10.0, "x", gates=4)
    assert refused <= 0.2
    assert used >= 0.85


def test_callers_who_only_sleep():
    """Those who sleep their time and cannot be woken are refused as seldom."""
    refused, used = simulated(FixedWindow, 10.0, "x", wakes=False)
    assert refused <= 0.01
    assert used >= 0.9


def test_few_calls_are_not_slowed_down():
    """Two workers that use a third of the limit never wait."""
    world = World(FixedWindow(ALLOWED, 10.0, "x"))
    server = world.run(60.0, workers=2, pause=0.5)
    assert server.refused == 0
    assert server.served >= 2 * 60 / 0.72 - 4


# Properties ----------------------------------------------------------------------------------------------------------


class Quotas(RuleBasedStateMachine):
    """Callers that come, wait, cancel, and are answered, against the bound of each quota's bucket."""

    @initialize(
        quotas=st.lists(
            st.builds(RateLimit, st.integers(1, 5), st.sampled_from([0.5, 1.0, 7.0]), st.none() | st.integers(1, 8)),
            min_size=1,
            max_size=3,
            unique=True,
        )
    )
    def begin(self, quotas):
        self.clock = ManualClock()
        self.quotas = quotas
        self.gate = Gate(self.clock.monotonic, quotas)
        self.waiting: list[Pass] = []
        self.out: list[Pass] = []
        self.log: list[tuple[float, float]] = []
        self.came = 0

    def let(self, held: Pass) -> None:
        self.out.append(held)
        self.log.append((self.clock.monotonic(), held.cost))

    @rule(cost=st.sampled_from([1.0, 1.0, 1.0, 0.5, 2.0]), longest=st.sampled_from([0.0, 1.0, 5.0, math.inf]))
    def come(self, cost, longest):
        held = self.gate.take(longest, cost)
        if not held.ok:
            assert held.wait >= longest
            assert held.why
        elif held.wait:
            assert held.wait < longest
            self.waiting.append(held)
        else:
            self.let(held)

    @rule(seconds=st.sampled_from([0.01, 0.2, 1.0, 3.0]))
    def time_passes(self, seconds):
        self.clock.advance(seconds)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def ask_again(self, data):
        held = data.draw(st.sampled_from(self.waiting))
        self.gate.again(held, math.inf)
        if not held.wait:
            self.waiting.remove(held)
            self.let(held)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def cancel(self, data):
        held = data.draw(st.sampled_from(self.waiting))
        self.waiting.remove(held)
        self.gate.give_back(held)

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def answered(self, data):
        held = data.draw(st.sampled_from(self.out))
        self.out.remove(held)
        self.gate.heed((), held)

    @rule(seconds=st.sampled_from([0.5, 2.0]))
    def told_to_wait(self, seconds):
        self.gate.close(seconds)

    @invariant()
    def no_window_holds_more_than_its_quota(self):
        for quota in getattr(self, "quotas", ()):
            burst = quota.limit if quota.burst is None else quota.burst
            for first, (begin, _) in enumerate(self.log):
                spent = 0.0
                for at, cost in self.log[first:]:
                    spent += cost
                    # A cost above the burst leaves a debt, which the next ones pay.
                    assert spent <= max(burst, cost) + (at - begin) * quota.limit / quota.per + 1e-3 + cost

    @invariant()
    def it_knows_who_waits(self):
        if hasattr(self, "gate"):
            assert self.gate.waiting == len(self.waiting)

    def teardown(self):
        """Never stuck: all who wait pass when they sleep as they are told."""
        for held in list(getattr(self, "waiting", ())):
            for _ in range(50):
                if not held.wait:
                    break
                self.clock.advance(held.wait)
                self.gate.again(held, math.inf)
            assert not held.wait
        if hasattr(self, "gate"):
            assert self.gate.waiting == 0


TestQuotas = Quotas.TestCase
TestQuotas.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


numbers = st.one_of(st.sampled_from([0.0, 1.0, 2.0, 100.0]), st.floats(0, 200))
readings = st.builds(
    Reading,
    numbers,
    st.none() | numbers,
    st.none() | numbers,
    st.none() | st.floats(0.5, 100),
    st.sampled_from(["", "", "search"]),
    st.sampled_from(["", "daily"]),
)


def happen(step, said, number, gate: Gate, clock: ManualClock, out: list[Pass], waiting: list[Pass]) -> None:
    held = None
    if step == "take":
        held = gate.take(math.inf, 1.0, "find" if number > 25 else "")
    elif step == "tick":
        clock.advance(number)
    elif step == "free":
        gate.heed(said, operation="find")
    elif step == "close":
        gate.close(number)
    elif step == "limited":
        gate.limited(out[-1] if out else None, known=bool(said))
    elif step in ("answer", "lose") and out:
        gate.heed(said if step == "answer" else (), out.pop(0), "find")
    elif step == "cancel" and waiting:
        gate.give_back(waiting.pop())
    elif step == "again" and waiting:
        held = gate.again(waiting.pop(0), math.inf)
    if held is not None:
        (waiting if held.wait else out).append(held)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["take", "answer", "free", "lose", "limited", "close", "cancel", "tick", "again"]),
            st.lists(readings, max_size=2),
            st.floats(0.01, 50),
        ),
        max_size=40,
    )
)
@example(
    [
        ("take", [], 1.0),
        ("limited", [], 1.0),
        ("take", [], 1.0),
        ("take", [], 1.0),
        ("again", [], 1.0),
        ("answer", [Reading(0.0)], 1.0),
    ]
)
def test_whatever_the_service_says_nobody_is_stuck(steps):
    """After any readings, refusals and losses, whoever sleeps as told passes within a bounded number of waits."""
    gate, clock = gate_of()
    out: list[Pass] = []
    waiting: list[Pass] = []
    for step, said, number in steps:
        happen(step, said, number, gate, clock, out, waiting)
    gate.snapshot()
    sleeping = [(clock.monotonic() + held.wait, number, held) for number, held in enumerate(waiting)]
    heapq.heapify(sleeping)
    naps = dict.fromkeys(waiting, 0)
    while sleeping:  # who wakes first asks first: nobody's place is given up while others sleep
        at, number, held = heapq.heappop(sleeping)
        clock.advance(max(at - clock.monotonic(), 0.0))
        gate.again(held, math.inf)
        if held.wait:
            naps[held] += 1
            assert naps[held] < 500
            heapq.heappush(sleeping, (clock.monotonic() + min(held.wait, 1000.0), number, held))
        else:
            gate.heed((), held)
    assert gate.waiting == 0
