"""Companions: what runs for as long as a worker does."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tests.jobs.brokers import opened

from moorline.clock import ManualClock
from moorline.errors import StoreUnavailable
from moorline.jobs.companions import Companion
from moorline.jobs.registry import Jobs
from moorline.jobs.worker import Worker


async def test_a_companion_that_fails_is_begun_again_and_harms_nobody(tmp_path: Path, caplog: Any):
    """Whatever it raises, or if it ends: a line with its name, longer and longer pauses, and jobs and others go on."""
    runs: list[str] = []
    ran: list[int] = []
    enough, other = asyncio.Event(), asyncio.Event()
    clock = ManualClock()
    pauses: list[float] = []
    asleep = clock.asleep

    async def counted(seconds: float) -> None:
        if asyncio.current_task() in failing:
            pauses.append(seconds)
        await asleep(seconds)

    clock.asleep = counted  # type: ignore[method-assign]
    failing: set[Any] = set()

    async def fails(worker: str) -> None:
        failing.add(asyncio.current_task())
        runs.append(worker)
        if len(runs) == 1:
            raise StoreUnavailable("away")
        if len(runs) == 2:
            raise ValueError("a bug")
        if len(runs) == 3:
            return
        enough.set()
        await asyncio.Event().wait()

    async def stays(_: str) -> None:
        other.set()
        await asyncio.Event().wait()

    with opened(f"sqlite:///{tmp_path}/jobs.db") as broker:
        jobs = Jobs(broker)

        async def work(number: int) -> None:
            ran.append(number)
            worker.stop()

        worker = Worker(jobs, clock=clock, companions=[Companion("fails", fails), Companion("stays", stays)])
        task = asyncio.ensure_future(worker.run(signals=False))
        async with asyncio.timeout(10):
            await enough.wait()
            await other.wait()
            assert set(runs) == {worker.id}
            await jobs.function(work).enqueue(1)
            await task
    assert ran == [1]
    assert len(runs) == 4
    assert [low <= pause <= 2 * low for low, pause in zip((0.25, 0.5, 1.0), pauses, strict=True)] == [True] * 3
    lines = [record.getMessage() for record in caplog.records if "companion_" in record.getMessage()]
    assert len(lines) == 3
    assert [word in line for word, line in zip(("away", "ValueError", "companion_ended"), lines, strict=True)] == [
        True
    ] * 3


@pytest.mark.parametrize("how", ["stop", "cancel"])
async def test_a_companion_ends_before_its_worker(tmp_path: Path, how: str):
    """It is cancelled once, and waited for while it takes leave."""
    told: list[str] = []
    running = asyncio.Event()

    async def stays(_: str) -> None:
        running.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            told.append("companion")

    with opened(f"sqlite:///{tmp_path}/jobs.db") as broker:
        worker = Worker(Jobs(broker), companions=[Companion("stays", stays)])
        task = asyncio.ensure_future(worker.run(signals=False))
        async with asyncio.timeout(10):
            await running.wait()
            if how == "stop":
                worker.stop()
                await task
            else:
                task.cancel()
                ended, _ = await asyncio.wait({task}, timeout=8)  # once is enough
                assert ended == {task}
                assert task.cancelled()
        told.append("worker")
    assert told == ["companion", "worker"]
