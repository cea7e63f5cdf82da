"""RabbitMQ and the workers on it are killed under load: no job is lost, and only poison dies."""

from __future__ import annotations

import asyncio
import contextlib
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.jobs.rabbit import own_url, rabbit_broker
from tests.rabbit import RabbitServer
from tests.warm import Warm

from moorline.errors import StoreUnavailable
from moorline.jobs.broker import JobFilter
from moorline.jobs.registry import JobFunction, Jobs

pytestmark = [pytest.mark.crash, pytest.mark.rabbitmq, pytest.mark.timeout(180)]

KILLS = 8
POISON = 2
SCRIPT = Path(__file__).with_name("crash_worker.py")


async def innocent(number: int) -> None: ...


async def poison(number: int) -> None: ...


def start(url: str, journals: Path) -> subprocess.Popen[bytes]:
    return Warm([sys.executable, str(SCRIPT), url, str(journals)])


def ran(journals: Path) -> set[int]:
    return {int(line) for file in journals.iterdir() for line in file.read_text().split()}


async def test_killed_workers_lose_nothing(rabbit_url: str, tmp_path: Path) -> None:
    """Every job ran, or was hit by three kills as poison is: nothing tells it from that."""
    moments = random.Random(20261128)
    tmp_path.joinpath("journals").mkdir()
    url = own_url(rabbit_url)
    known: dict[str, int] = {}
    with rabbit_broker(url) as broker:
        jobs = Jobs(broker)
        good, bad = jobs.function(innocent), jobs.function(poison)
        await bad.enqueue_many([(number,) for number in range(POISON)])
        process = start(url, tmp_path / "journals")
        numbers = kills = 0
        until = time.monotonic() + 150
        try:
            while kills < KILLS:
                assert time.monotonic() < until
                handles = await good.enqueue_many([(numbers + offset,) for offset in range(200)])
                known |= {handle.id: numbers + place for place, handle in enumerate(handles)}
                numbers += 200
                await asyncio.sleep(moments.uniform(0.6, 1.4))
                if process.poll() is None:
                    process.kill()
                    kills += 1
                process.wait()
                process = start(url, tmp_path / "journals")
            while True:
                assert time.monotonic() < until, await broker.counts()
                dead = await broker.list(JobFilter(state="dead", limit=100))
                lost = set(known.values()) - ran(tmp_path / "journals") - {known.get(job.id) for job in dead}
                if not lost and sum(job.name == "poison" for job in dead) == POISON:
                    break
                if process.poll() is not None:
                    process = start(url, tmp_path / "journals")
                await asyncio.sleep(0.1)
        finally:
            process.terminate()
            process.wait(30)
        assert {(job.reason, job.crashes) for job in dead} == {("crashed", 3)}


@pytest.mark.parametrize(("kind", "end"), [("classic", RabbitServer.kill), ("quorum", RabbitServer.stop)])
async def test_a_server_that_ends_has_its_jobs_when_it_is_back(
    kind: str, end: Callable[[RabbitServer], None], tmp_path: Path
) -> None:
    """After ``kill -9`` with classic queues; with quorum queues after an orderly end (3.10 needs more than one node for
    the other). Meanwhile enqueueing raises StoreUnavailable, and workers wait.
    """
    journals = tmp_path / "journals"
    journals.mkdir()
    with RabbitServer() as server:
        url = own_url(server.url, f"&queues={kind}")
        with contextlib.ExitStack() as opened:
            good = Jobs(opened.enter_context(rabbit_broker(url))).function(innocent)
            process = start(url, journals)
            opened.callback(process.wait)
            opened.callback(process.kill)
            acknowledged = await _enqueue_until(good, server, end, journals)
            server.start()
            async with asyncio.timeout(60):
                while missing := acknowledged - ran(journals):
                    await asyncio.sleep(0.1)
                    assert process.poll() is None, sorted(missing)[:20]
                while True:
                    with contextlib.suppress(StoreUnavailable):
                        await good.enqueue(1_000_000)
                        break
                while 1_000_000 not in ran(journals):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)


async def _enqueue_until(
    good: JobFunction[[int], Any], server: RabbitServer, end: Callable[[RabbitServer], None], journals: Path
) -> set[int]:
    """What was acknowledged before the server ended, while a worker was at it."""
    acknowledged: set[int] = set()
    number = 0
    ending: asyncio.Task[None] | None = None
    while True:
        if ending is None and len(ran(journals)) > 300:
            ending = asyncio.create_task(asyncio.to_thread(end, server))
        part = range(number, number + 50)
        number += 50
        try:
            await good.enqueue_many([(one,) for one in part])
        except StoreUnavailable:
            break
        acknowledged |= set(part)
    assert ending is not None
    await ending
    return acknowledged
