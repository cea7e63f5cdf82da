"""The worker process that the crash tests kill. Arguments: broker URL, folder of journals."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from moorline.jobs.registry import Jobs
from moorline.jobs.worker import Worker

journal = os.open(f"{sys.argv[2]}/{os.getpid()}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)


async def innocent(number: int) -> None:
    """Note in the journal that it ran; a write to the kernel outlives the process."""
    await asyncio.sleep(0.002)
    os.write(journal, f"{number}\n".encode())


async def poison(number: int) -> None:
    """Kill the process that runs it."""
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from tests.jobs.brokers import opened

    with opened(sys.argv[1], migrate=False) as broker:
        jobs = Jobs(broker)
        jobs.function(innocent)
        jobs.function(poison)
        asyncio.run(Worker(jobs, concurrency=10, lease=1.0, poll=0.1).run())
