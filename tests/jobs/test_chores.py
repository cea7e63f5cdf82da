"""Chores: what a worker does beside its jobs."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from moorline.errors import StoreUnavailable
from moorline.jobs.chores import Chore, look_after
from moorline.telemetry import logger


async def test_a_chore_that_fails_is_logged_and_tried_again(caplog: Any):
    """Whatever it raises: a line with its name, and the next time comes."""
    runs: list[str] = []
    enough = asyncio.Event()

    async def run(worker: str) -> None:
        runs.append(worker)
        if len(runs) == 1:
            raise StoreUnavailable("away")
        if len(runs) == 2:
            raise ValueError("a bug")
        enough.set()

    task = asyncio.ensure_future(look_after(Chore("sweep", 0.001, run), "w1", logger("jobs"), random.Random(1)))
    await asyncio.wait_for(enough.wait(), 10)
    task.cancel()
    assert runs[:3] == ["w1"] * 3
    failed = [record.getMessage() for record in caplog.records if "chore_failed" in record.getMessage()]
    assert len(failed) == 2
    assert "away" in failed[0]
    assert "ValueError" in failed[1]
