"""The worker process that the crash tests kill. Arguments: database URL, folder of journals."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from moorline.jobs.brokers.sql import SqlBroker
from moorline.jobs.registry import Jobs
from moorline.jobs.worker import Worker
from moorline.store import Store

journal = os.open(f"{sys.argv[2]}/{os.getpid()}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)


async def innocent(number: int) -> None:
    """Note in the journal that it ran; a write to the kernel outlives the process."""
    await asyncio.sleep(0.002)
    os.write(journal, f"{number}\n".encode())


async def poison(number: int) -> None:
    """Kill the process that runs it."""
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    with Store(sys.argv[1]) as store:
        jobs = Jobs(SqlBroker(store))
        jobs.function(innocent)
        jobs.function(poison)
        asyncio.run(Worker(jobs, concurrency=10, lease=1.0, poll=0.1).run())
