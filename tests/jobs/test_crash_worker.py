"""Workers are killed with -9 at random moments under load: no job is lost, and only poison dies."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.warm import Warm

from moorline.jobs.broker import JobFilter
from moorline.jobs.registry import Jobs

pytestmark = [pytest.mark.crash, pytest.mark.timeout(240)]

KILLS = 15
POISON = 3
SCRIPT = Path(__file__).with_name("crash_worker.py")


def start(url: str, journals: Path) -> subprocess.Popen[bytes]:
    return Warm([sys.executable, str(SCRIPT), url, str(journals)])


async def innocent(number: int) -> None: ...


async def poison(number: int) -> None: ...


async def hit_twice(jobs: Jobs) -> bool:
    """Whether an innocent job waits or runs that was running at two kills already."""
    waiting = [
        await jobs.broker.list(JobFilter(state=state, name="innocent", limit=10_000)) for state in ("ready", "running")
    ]
    return any(job.crashes > 1 for some in waiting for job in some)


async def test_killed_workers_lose_nothing_and_only_poison_dies(
    any_jobs: Jobs, broker_url: str, tmp_path: Path
) -> None:
    """After 15 kills every job ran at least once; the dead are exactly the poison, three crashes each."""
    jobs = any_jobs
    random_moments = random.Random(20261123)
    journals = tmp_path / "journals"
    journals.mkdir()
    good, bad = jobs.function(innocent), jobs.function(poison)
    numbers = 0
    kills = 0
    process = start(broker_url, journals)
    try:
        for number in range(POISON):
            await bad.enqueue(number)
        until = time.monotonic() + 180  # for a test that hangs: how long all this takes is no promise
        while kills < KILLS:
            assert time.monotonic() < until
            await good.enqueue_many([(numbers + offset,) for offset in range(200)])
            numbers += 200
            await asyncio.sleep(random_moments.uniform(0.6, 1.6))
            while await hit_twice(jobs):
                # A third hit of ours would make it dead, and rightly: nothing tells it from poison.
                assert time.monotonic() < until
                if process.poll() is not None:
                    process = start(broker_url, journals)
                await asyncio.sleep(0.2)  # a look reads all that waits, and keeps the worker from it
            if process.poll() is None:
                process.kill()
                kills += 1
            process.wait()
            process = start(broker_url, journals)
        while True:
            assert time.monotonic() < until, await jobs.broker.counts()
            counts = await jobs.broker.counts()
            if not any(counts.get(("default", state)) for state in ("ready", "running")):
                break
            if process.poll() is not None:
                process = start(broker_url, journals)
            await asyncio.sleep(0.1)
    finally:
        process.terminate()
        process.wait(30)
    ran = {int(line) for file in journals.iterdir() for line in file.read_text().split()}
    assert ran == set(range(numbers))
    dead = await jobs.broker.list(JobFilter(state="dead"))
    assert [(job.name, job.reason, job.crashes) for job in dead] == [("poison", "crashed", 3)] * POISON
    assert (await jobs.broker.counts())["default", "done"] == numbers
