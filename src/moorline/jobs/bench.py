"""How many jobs a second a broker takes and one worker runs, and how soon an idle worker picks one up.

No-op async jobs of one queue, enqueued and run in this process. ``moorline bench`` and ``benchmarks/jobs.py`` print it.
They run it in the loop that ``moorline worker`` has.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

from moorline.errors import ConfigurationError
from moorline.jobs.broker import Broker
from moorline.jobs.registry import Jobs
from moorline.jobs.worker import Worker

__all__ = ["BULK", "STEPS", "Figures", "Progress", "measure", "picked_up"]

BULK: Final = 1_000
"""Jobs of one ``enqueue_many``."""
STEPS: Final = ("enqueued one by one", "enqueued in bulk", "drained", "picked up when idle")
"""What is measured, in this order."""

_MOST_PICKED: Final = 300
_FEWEST_PICKED: Final = 20
_SETTLED: Final = 0.5  # seconds until a worker that has started is idle
_IDLE: Final = 0.02  # seconds between two jobs, so that it is idle again: the result of the one before is stored too
_KEEP: Final = 3e9  # seconds: what others keep is not ours to prune

Progress = Callable[[str, int, int], None]
"""Is told the step, how many of its jobs are done, and of how many."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Jobs a second, and milliseconds. ``enqueue``: one ``enqueue`` with nothing beside it, until it is durable.
    ``picked_up``: from the call of ``enqueue`` to the job's first line.
    """

    one_by_one: float
    bulk: float
    drained: float
    enqueue_p50_ms: float
    enqueue_p99_ms: float
    picked_up_p50_ms: float
    picked_up_p99_ms: float


async def measure(
    broker: Broker,
    *,
    jobs: int = 5_000,
    concurrency: int = 50,
    queue: str = "default",
    progress: Progress = lambda *_: None,
) -> Figures:
    """Enqueue *jobs* one by one, *concurrency* at a time, and as many in bulk; drain them with one worker of that
    concurrency; then time single jobs. All are run when it returns; cancelled, it stops its worker first.

    Raises ConfigurationError for a number that is not positive, and what enqueueing raises (StoreUnavailable, …).
    """
    for name, number in {"jobs": jobs, "concurrency": concurrency}.items():
        if number < 1:
            raise ConfigurationError(f"{name}: {number!r} is not a positive number")
    rates = await _rates(broker, jobs, concurrency, queue, progress)
    count = min(max(jobs // 10, _FEWEST_PICKED), _MOST_PICKED)
    return Figures(*rates, *await picked_up(broker, count=count, queue=queue, progress=progress))


class _Counted:
    """A no-op job that tells when it has run so often."""

    def __init__(self, times: int, progress: Progress) -> None:
        self.over = asyncio.Event()
        self._ran = 0
        self._times = times
        self._progress = progress

    async def noop(self, number: int) -> None:
        del number
        self._ran += 1
        _tell(self._progress, 2, self._ran, self._times)
        if self._ran == self._times:
            self.over.set()


async def _rates(
    broker: Broker, count: int, concurrency: int, queue: str, progress: Progress
) -> tuple[float, float, float]:
    jobs = Jobs(broker)
    counted = _Counted(2 * count, progress)
    function = jobs.function(counted.noop, name="moorline.bench.noop", queue=queue)
    function.row(0)  # pydantic is loaded now, not while the time is taken
    numbers = iter(range(1, count + 1))

    async def submit() -> None:
        for number in numbers:
            await function.enqueue(number)
            _tell(progress, 0, number, count)

    began = time.perf_counter()
    await _all([submit() for _ in range(min(concurrency, count))])
    one_by_one = count / (time.perf_counter() - began)
    began = time.perf_counter()
    for start in range(0, count, BULK):
        end = min(start + BULK, count)
        await function.enqueue_many([(number,) for number in range(start, end)])
        progress(STEPS[1], end, count)
    bulk = count / (time.perf_counter() - began)
    began = time.perf_counter()
    worker = Worker(jobs, concurrency=concurrency, queues=(queue,), keep=_KEEP)
    drained = await _while_working(worker, counted.over.wait())
    return one_by_one, bulk, drained / (time.perf_counter() - began)


async def picked_up(
    broker: Broker, *, count: int, queue: str = "default", progress: Progress = lambda *_: None
) -> tuple[float, float, float, float]:
    """Milliseconds of single jobs, the worker idle before each: p50 and p99 of ``enqueue``, and until it is begun."""
    jobs = Jobs(broker)
    stored: list[float] = []
    found: list[float] = []
    begun = asyncio.Event()

    async def picked(at: float) -> None:
        found.append(time.perf_counter() - at)
        begun.set()

    function = jobs.function(picked, name="moorline.bench.picked", queue=queue)

    async def one_after_the_other() -> None:
        await asyncio.sleep(_SETTLED)
        for number in range(1, count + 1):
            begun.clear()
            at = time.perf_counter()
            await function.enqueue(at)
            stored.append(time.perf_counter() - at)
            await begun.wait()
            _tell(progress, 3, number, count)
            await asyncio.sleep(_IDLE)

    await _while_working(Worker(jobs, queues=(queue,), keep=_KEEP), one_after_the_other())
    return (*_quantiles(stored), *_quantiles(found))


async def _while_working(worker: Worker, deed: Coroutine[Any, Any, object]) -> int:
    """Until *deed* is over; how many jobs ended. Raises what either raises."""
    running = asyncio.ensure_future(worker.run(signals=False))
    doing = asyncio.ensure_future(deed)
    try:
        await asyncio.wait({running, doing}, return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            doing.result()
        worker.stop()
        return await running  # until the last results are stored
    finally:
        for task in (doing, running):
            task.cancel()
        await asyncio.wait({running})  # it gives back what it holds


async def _all(deeds: list[Coroutine[Any, Any, None]]) -> None:
    """All of them; when one fails, the others are cancelled."""
    tasks = [asyncio.ensure_future(deed) for deed in deeds]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


def _tell(progress: Progress, step: int, done: int, total: int) -> None:
    """Some hundred times: each costs what would be measured too."""
    if done == total or done % max(total // 100, 1) == 0:
        progress(STEPS[step], done, total)


def _quantiles(seconds: list[float]) -> tuple[float, float]:
    seconds.sort()
    return seconds[len(seconds) // 2] * 1e3, seconds[len(seconds) * 99 // 100] * 1e3
