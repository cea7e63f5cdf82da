"""How long a write would wait is estimated from what waits and from how long commits took."""

from __future__ import annotations

from pathlib import Path

import pytest

from moorline.errors import StoreOverloaded
from moorline.store import Store
from moorline.store.pressure import LARGE, STALLED, Pressure


def after(*groups: tuple[int, float]) -> Pressure:
    """It has seen groups of so many writes that took so many seconds."""
    pressure = Pressure()
    for writes, seconds in groups:
        pressure.began(writes, 100.0)
        pressure.ended(100.0 + seconds)
    return pressure


def test_nothing_is_known_at_first() -> None:
    """Before the first large group any queue is taken for a short one."""
    assert Pressure().wait(5_000, 0.0) == 0.0


def test_the_queue_waits_for_what_stands_before_it() -> None:
    """Groups of 100 in 0.1 s: each write costs 1 ms, so 300 others are 0.3 s."""
    assert after((100, 0.1)).wait(300, 101.0) == pytest.approx(0.3)


def test_the_commit_itself_is_no_queue() -> None:
    """What single writes take, however long, says nothing about many: they share a commit."""
    slow_disk = after(*[(1, 0.2)] * 20)
    assert slow_disk.wait(1_000, 101.0) == 0.0
    slow_disk.began(100, 200.0)
    slow_disk.ended(200.25)
    assert slow_disk.wait(100, 201.0) == pytest.approx(0.0625, abs=0.01)


def test_few_may_wait_at_any_time() -> None:
    """However slow the writes are, a queue of fewer than a large group is taken."""
    assert after((LARGE, 60.0)).wait(LARGE - 1, 200.0) == 0.0
    assert after((LARGE, 60.0)).wait(LARGE, 200.0) > 1.0


def test_the_group_that_is_being_written_counts_for_what_is_left_of_it() -> None:
    """200 ms of work begun 50 ms ago, and 100 writes behind it: 250 ms."""
    pressure = after((100, 0.1))
    pressure.began(200, 300.0)
    assert pressure.wait(100, 300.05) == pytest.approx(0.25)


def test_a_group_that_is_slower_than_expected_tells_so_while_it_is_written() -> None:
    """The estimate does not wait for the end of a group that already took longer than it should."""
    pressure = after((100, 0.1))
    pressure.began(100, 300.0)
    assert pressure.wait(100, 301.0) == pytest.approx(1.0)


def test_a_commit_that_stands_still_lets_nothing_wait() -> None:
    """Behind a commit that lasts 2 s too long everything is refused, and after it nothing is."""
    pressure = after((1, 0.01))
    pressure.began(1, 300.0)
    assert pressure.wait(0, 300.0 + STALLED) == 0.0
    assert pressure.wait(0, 300.1 + STALLED) == float("inf")
    pressure.ended(310.0)
    assert pressure.wait(0, 310.0) == 0.0


def test_it_follows_a_change_of_pace() -> None:
    """Writes that became ten times as quick are believed after some groups."""
    pressure = after((100, 1.0), *[(100, 0.1)] * 12)
    assert pressure.wait(100, 101.0) == pytest.approx(0.1, rel=0.2)


def test_a_write_that_would_wait_too_long_is_refused_with_a_time(tmp_path: Path) -> None:
    """StoreOverloaded says when to come again; a write that names no limit waits."""
    with Store(f"sqlite:///{tmp_path}/x.db") as store:
        pressure = store._writer._pressure  # type: ignore[union-attr]
        pressure.began(1, store.clock.monotonic() - 60)
        with pytest.raises(StoreOverloaded) as caught:
            store.admit(0.25)
        assert caught.value.retry_after == 5.0
        assert store.write_sync(lambda connection, payloads: payloads, "waits") == "waits"
        store.admit(0.25)
