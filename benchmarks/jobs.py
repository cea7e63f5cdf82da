"""Jobs enqueued and drained a second, durable. ``python benchmarks/jobs.py [DATABASE_URL …]`` (default: SQLite)."""

from __future__ import annotations

import asyncio
import os
import platform
import resource
import sys
import tempfile
import time

from moorline.jobs.appetite import MAX_AHEAD
from moorline.jobs.brokers.sql import SqlBroker
from moorline.jobs.completions import BATCH
from moorline.jobs.registry import Jobs
from moorline.jobs.worker import Worker
from moorline.store import Store

COUNT = 20_000
SUBMITTERS = 50


async def noop(number: int) -> None: ...


async def measure(store: Store) -> None:
    jobs = Jobs(SqlBroker(store))
    function = jobs.function(noop)

    async def submit() -> None:
        for number in range(COUNT // SUBMITTERS):
            await function.enqueue(number)

    began = time.perf_counter()
    await asyncio.gather(*(submit() for _ in range(SUBMITTERS)))
    print(f"  enqueued one by one ({SUBMITTERS} at a time): {COUNT / (time.perf_counter() - began):10,.0f} jobs/s")
    began = time.perf_counter()
    for start in range(0, COUNT, 1000):
        await function.enqueue_many([(number,) for number in range(start, start + 1000)])
    print(f"  enqueued in bulk (1,000 a commit):    {COUNT / (time.perf_counter() - began):10,.0f} jobs/s")
    began = time.perf_counter()
    drained = await Worker(jobs).drain()
    print(f"  drained (async no-op, 50 slots):      {drained / (time.perf_counter() - began):10,.0f} jobs/s")
    assert drained == 2 * COUNT, drained
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"  peak memory of this process:          {peak:10,.0f} MB")


def fsync_setting(store: Store) -> str:
    if store.dialect == "sqlite":
        return "WAL, synchronous=FULL"
    return "synchronous_commit=" + str(store.read_sync(lambda c: c.exec_driver_sql("SHOW synchronous_commit").scalar()))


def main() -> None:
    print(f"{os.cpu_count()} CPUs, {platform.machine()}, Python {platform.python_version()}; claims up to {MAX_AHEAD}"
          f" ahead, results up to {BATCH} a batch")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        for url in sys.argv[1:] or [f"sqlite:///{folder}/bench.db"]:
            with Store(url, auto_migrate=True) as store:
                print(f"{store.dialect}: {fsync_setting(store)}")
                asyncio.run(measure(store))


if __name__ == "__main__":
    main()
