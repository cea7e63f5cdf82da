"""What only one process at a time does."""

from __future__ import annotations

from pathlib import Path

import pytest

from moorline.store import Store
from moorline.store.leases import Lease, take_leases


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(f"sqlite:///{tmp_path}/a.db")


def taken(store: Store, holder: str, now: float) -> bool:
    return store.write_sync(take_leases, Lease("chore", holder, now, 30.0))


def test_one_has_it_until_its_time_is_over(store: Store) -> None:
    """Its holder may extend it, and others have it after that."""
    with store:
        assert taken(store, "a", 1_000.0)
        assert not taken(store, "b", 1_029.0)
        assert taken(store, "a", 1_029.0)
        assert not taken(store, "b", 1_058.0)
        assert taken(store, "b", 1_059.0)


def test_a_clock_that_was_ahead_holds_nobody_up(store: Store) -> None:
    """Taken two hours ahead of the time, it would last for two hours; a clock that is a little ahead is heard."""
    with store:
        assert taken(store, "a", 8_200.0)
        assert taken(store, "b", 1_000.0)
        assert taken(store, "a", 1_040.0)
        assert not taken(store, "b", 1_030.0)
