"""A worker process for the tests of order. Arguments: broker URL, folder of journals.

Each job notes in a file of its key when it begins and when it ends; a write to the kernel outlives the process.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from moorline.jobs.registry import Jobs
from moorline.jobs.worker import Worker


async def step(key: str, number: int) -> None:
    """Begin, let others run, end."""
    journal = os.open(f"{sys.argv[2]}/{key}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        os.write(journal, f"begin {number} {os.getpid()}\n".encode())
        await asyncio.sleep(0.002)
        os.write(journal, f"end {number} {os.getpid()}\n".encode())
    finally:
        os.close(journal)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from tests.jobs.brokers import opened

    with opened(sys.argv[1], migrate=False) as broker:
        jobs = Jobs(broker)
        jobs.function(step)
        asyncio.run(Worker(jobs, concurrency=10, lease=1.0, poll=0.1, quarantine=0.1).run())
