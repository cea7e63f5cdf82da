"""A receiver that cannot answer in time says so before it reads the body."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from moorline.clock import ManualClock
from moorline.errors import StoreOverloaded
from moorline.events import Inbox
from moorline.events.admission import FEW, Admission
from moorline.store.store import Store


class Rooms:
    """A store whose queue is as long as one says."""

    dialect = "sqlite"

    def __init__(self) -> None:
        self.wait = 0.0

    def before_close(self, _close: object) -> None:
        """Nothing is ever closed here."""

    def admit(self, within: float) -> None:
        if self.wait > within:
            raise StoreOverloaded("full", retry_after=self.wait)


def admission(clock: ManualClock) -> tuple[Admission, Any]:
    rooms: Any = Rooms()
    return Admission(Inbox(rooms, max_wait=0.25), clock), rooms


async def test_what_waits_for_the_database_is_refused() -> None:
    """The store's estimate decides, and says when to come again."""
    checks, rooms = admission(ManualClock())
    checks.check()
    rooms.wait = 3.0
    with pytest.raises(StoreOverloaded) as caught:
        checks.check()
    assert caught.value.retry_after == 3.0


async def test_late_requests_of_a_long_turn_are_refused() -> None:
    """What is begun 0.13 s after the first of the same turn would be answered after 0.26 s; the next turn starts anew."""
    clock = ManualClock()
    checks, _ = admission(clock)
    for _ in range(FEW):
        checks.check()
    clock.advance(0.12)
    checks.check()
    clock.advance(0.01)
    with pytest.raises(StoreOverloaded):
        checks.check()
    await asyncio.sleep(0)
    checks.check()


async def test_few_requests_are_taken_however_long_the_turn() -> None:
    """A machine that slept between two requests is not overloaded."""
    clock = ManualClock()
    checks, _ = admission(clock)
    checks.check()
    clock.advance(60.0)
    checks.check()


async def test_both_waits_are_added() -> None:
    """0.1 s before the loop, twice, leave 0.05 s for the database."""
    clock = ManualClock()
    checks, rooms = admission(clock)
    for _ in range(FEW):
        checks.check()
    clock.advance(0.1)
    rooms.wait = 0.04
    checks.check()
    rooms.wait = 0.06
    with pytest.raises(StoreOverloaded):
        checks.check()


async def test_an_overload_is_logged_once_a_second(caplog: pytest.LogCaptureFixture) -> None:
    """Not once for each request: that would be most of the work."""
    clock = ManualClock()
    checks, rooms = admission(clock)
    rooms.wait = 3.0
    for seconds in (0.0, 0.4, 0.4, 0.4):
        clock.advance(seconds)
        with pytest.raises(StoreOverloaded):
            checks.check()
    assert len([record for record in caplog.records if "receiver_overloaded" in record.getMessage()]) == 2


async def test_a_refused_event_is_not_stored(tmp_path: Path) -> None:
    """``add`` asks again: what was admitted before the queue grew is refused all the same."""
    with Store(f"sqlite:///{tmp_path}/x.db") as store:
        store._writer._pressure.began(1, store.clock.monotonic() - 60)  # type: ignore[union-attr]
        with pytest.raises(StoreOverloaded):
            Inbox(store).admit()
