"""The order of lanes: by priority and age, and by turns where nobody can tell the age."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorline.errors import ConfigurationError
from moorline.jobs.ageing import AGEING, due_lanes
from moorline.jobs.brokers.carrier import WAITING, Turns
from moorline.jobs.brokers.sql import SqlBroker
from moorline.jobs.job import LOWEST_PRIORITY
from moorline.jobs.registry import Jobs
from moorline.jobs.worker import Worker
from moorline.settings import WorkerSettings
from moorline.store import Store

NOW = 1_800_000_000.0
LANES = st.lists(
    st.tuples(
        st.sampled_from(["a", "b"]), st.integers(0, LOWEST_PRIORITY), st.none() | st.floats(NOW - 10_000, NOW + 100)
    ),
    unique_by=lambda lane: lane[:2],
)


@given(LANES, st.floats(0.1, 10_000))
def test_lanes_go_by_the_age_of_their_heads_less_the_head_start(
    heads: list[tuple[str, int, float | None]], ageing: float
) -> None:
    """Those in which something is due, each once; whoever waits longer than all head starts goes before the younger."""
    when = {(queue, priority): at for queue, priority, at in heads if at is not None}
    order = due_lanes(heads, NOW, ageing)
    assert sorted(order) == sorted(lane for lane, at in when.items() if at <= NOW)
    for before, after in itertools.pairwise(order):
        assert when[before] + before[1] * ageing <= when[after] + after[1] * ageing
        assert not when[after] < when[before] - (LOWEST_PRIORITY + 0.001) * ageing


@given(LANES)
def test_with_no_ageing_priorities_are_strict(heads: list[tuple[str, int, float | None]]) -> None:
    """However long the others wait; of one priority the queue that has waited longer goes first."""
    when = {(queue, priority): at for queue, priority, at in heads}
    order = due_lanes(heads, NOW, 0.0)
    assert order == sorted(order, key=lambda lane: (lane[1], when[lane]))


@given(st.lists(st.booleans(), max_size=60))
def test_of_ten_full_takes_each_lane_comes_first_at_least_once(takes: list[bool]) -> None:
    """And nine times of ten the high lanes go before the low ones; takes that leave nothing behind do not count."""
    turns, strict = Turns(AGEING), Turns(0.0)
    firsts: list[str] = []
    for full in takes:
        assert sorted(turns.kinds) == sorted(WAITING)
        assert strict.kinds == WAITING
        if full:
            firsts.append(turns.kinds[0])
        turns.took(full=full)
        strict.took(full=full)
    for start in range(len(firsts) - 9):
        part = firsts[start : start + 10]
        assert (part.count("high"), part.count("normal"), part.count("low")) == (8, 1, 1)


@pytest.mark.parametrize(("ageing", "first"), [(60.0, "old"), (0.0, "urgent")])
async def test_a_worker_is_told_how_jobs_age(store: Store, ageing: float, first: str) -> None:
    """By an argument, in seconds; the default of the settings is that of the worker."""
    ran: list[str] = []
    jobs = Jobs(SqlBroker(store))

    def job(name: str) -> None:
        ran.append(name)

    function = jobs.function(job)
    now = store.clock.wall()
    await function.using(priority=9, at=now - 700).enqueue("old")
    await function.using(priority=0, at=now - 1).enqueue("urgent")
    assert await Worker(jobs, concurrency=1, ageing=ageing).drain() == 2
    assert (len(ran), ran[0]) == (2, first)
    assert WorkerSettings().ageing == AGEING


@pytest.mark.parametrize("ageing", [-1.0, float("nan"), float("inf")])
def test_nonsense_is_named(store: Store, ageing: float) -> None:
    """When the worker is made."""
    with pytest.raises(ConfigurationError, match="ageing"):
        Worker(Jobs(SqlBroker(store)), ageing=ageing)
