"""What waiting jobs cost: the drain rate and the latency of enqueueing with 1 thousand to a million due jobs waiting.

    python benchmarks/depth.py [--levels 1000,10000,…] [--sample 20000] [--database sqlite,postgresql] [--json]

The waiting jobs are made by the database itself. Then, with nothing else going on, single jobs are enqueued, and one
worker at concurrency 50 drains a sample of the no-op jobs; with fewer than that, all of them, again and again. SQLite
runs with synchronous=FULL, PostgreSQL with its default durability. ``--levels …,5000000`` takes some 3 GB and minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import sqlalchemy as sa

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.growth import ID, NUMBERS, STEP, size  # noqa: E402
from benchmarks.receive import database  # noqa: E402

from moorline.jobs.brokers.sql import SqlBroker  # noqa: E402
from moorline.jobs.registry import Jobs  # noqa: E402
from moorline.jobs.worker import Worker  # noqa: E402
from moorline.store import Store  # noqa: E402

LEVELS = "1000,10000,100000,1000000"
ENQUEUED = 300
JOBS = (
    "INSERT INTO jobs (id, name, queue, priority, payload, state, run_at, max_attempts, created_at)"
    " SELECT {id}, 'noop', 'default', 5, :payload, 'ready', :began + i / 1000.0, 6, :began + i / 1000.0 FROM {numbers}"
)
BEGAN = 1_600_000_000.0


class Counted:
    """A no-op job that tells when it has run so often."""

    def __init__(self, jobs: Jobs) -> None:
        self.jobs = jobs
        self.function = jobs.function(self.noop, name="noop")
        self.left = 0
        self.over = asyncio.Event()

    async def noop(self, number: int) -> None:
        del number
        self.left -= 1
        if self.left <= 0:
            self.over.set()

    async def drained(self, times: int) -> tuple[int, float]:
        """How many ended, and in how many seconds, until so many have run."""
        self.left = times
        self.over = asyncio.Event()
        began = time.perf_counter()
        worker = Worker(self.jobs)
        running = asyncio.create_task(worker.run(signals=False))
        await self.over.wait()
        worker.stop()
        return await running, time.perf_counter() - began

    async def enqueued(self, times: int) -> list[float]:
        """Seconds of each, sorted."""
        found = []
        for number in range(times):
            began = time.perf_counter()
            await self.function.enqueue(number)
            found.append(time.perf_counter() - began)
        return sorted(found)


class Depth:
    """Jobs that wait in one database."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._engine = sa.create_engine(store.url)
        self._statement = sa.text(JOBS.format(id=ID[store.dialect], numbers=NUMBERS[store.dialect]))
        self._made = 0
        self.counted = Counted(Jobs(SqlBroker(store)))

    def fill(self, level: int) -> None:
        """Make jobs until so many wait."""
        payload = self.counted.function.row(1).payload
        wanted = self._made + level - self._store.read_sync(waiting)
        while self._made < wanted:
            last = min(wanted, self._made + STEP)
            with self._engine.begin() as connection:
                connection.execute(
                    self._statement, {"first": self._made + 1, "last": last, "began": BEGAN, "payload": payload}
                )
            self._made = last
        with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            sqlite = self._store.dialect == "sqlite"
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)" if sqlite else "CHECKPOINT")

    async def measure(self, level: int, sample: int) -> dict[str, float]:
        """Jobs a second, and milliseconds, with so many waiting."""
        self.fill(level)
        latencies = await self.counted.enqueued(ENQUEUED)
        ended, took = 0, 0.0
        while ended < sample:
            if ended:
                self.fill(level)
            count, seconds = await self.counted.drained(min(level, sample - ended))
            ended, took = ended + count, took + seconds
        return {
            "drained": round(ended / took),
            "enqueue_p50_ms": round(latencies[len(latencies) // 2] * 1e3, 2),
            "enqueue_p99_ms": round(latencies[len(latencies) * 99 // 100] * 1e3, 2),
        }

    def close(self) -> None:
        """Disconnect."""
        self._engine.dispose()


def waiting(connection: sa.Connection) -> int:
    """How many jobs are due, and not taken."""
    return int(connection.exec_driver_sql("SELECT count(*) FROM jobs WHERE state = 'ready'").scalar_one())


def curve(kind: str, levels: list[int], sample: int, *, quiet: bool) -> list[dict[str, Any]]:
    """One row for each level."""
    rows = []
    with database(kind) as url, Store(url, auto_migrate=True) as store:
        depth = Depth(store)
        for level in levels:
            found = asyncio.run(depth.measure(level, sample))
            row: dict[str, Any] = {"waiting": level, "gigabytes": round(size(url), 2), **found}
            rows.append(row)
            if not quiet:
                print(
                    f"{kind:<11}{level:>11,} waiting  {row['gigabytes']:>6.2f} GB  drained {found['drained']:>7,}/s"
                    f"  enqueue p50 {found['enqueue_p50_ms']:>6.2f} ms  p99 {found['enqueue_p99_ms']:>6.2f} ms",
                    flush=True,
                )
        depth.close()
    return rows


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--levels", default=LEVELS, help=f"numbers of waiting jobs with commas (default {LEVELS})")
    parser.add_argument("--sample", type=int, default=20_000, help="jobs drained at each level, at least")
    parser.add_argument("--database", default="sqlite,postgresql", help="sqlite, postgresql, or both with a comma")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    levels = sorted(int(level) for level in options.levels.split(","))
    kinds = options.database.split(",")
    results = {kind: curve(kind, levels, options.sample, quiet=options.json) for kind in kinds}
    if options.json:
        machine = f"{os.cpu_count()} CPUs, {platform.machine()}, Python {platform.python_version()}"
        print(json.dumps({"machine": machine, **results}))


if __name__ == "__main__":
    main()
