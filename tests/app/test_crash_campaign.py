"""The campaign of ``benchmarks/crash.py``, smaller: receivers and workers die at random, and the books balance."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.campaign import Campaign, Plan

pytestmark = [pytest.mark.crash, pytest.mark.timeout(170)]


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
async def test_what_was_acknowledged_is_booked_once(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """After 20 kills of two receivers and two workers: each of 2,000 events is acknowledged, stored and booked once."""
    url = f"sqlite:///{tmp_path}/moorline.db" if kind == "sqlite" else request.getfixturevalue("postgres_url")
    campaign = Campaign(url, Plan(events=2_000, kills=20), tmp_path, say=lambda line: None)
    books = await campaign.run()
    assert books.problems == ()
    assert (books.answered, books.stored, books.booked) == (2_000, 2_000, 2_000)
    assert campaign.kills.total() == 20
    assert set(campaign.crowd.statuses) <= {0, 200, 503}
