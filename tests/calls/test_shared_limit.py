"""Four real processes against one real server that allows a hundred calls and no more, over one Redis.

What a window costs that begins anew is measured in simulated time (tests/policies/test_rate.py): here nothing depends
on how late a busy machine lets a call arrive.
"""

from __future__ import annotations

import subprocess
import sys

from tests.calls.fault_server import FaultServer
from tests.calls.limited_service import ALLOWED, Limited
from tests.policies.limited_server import Quota
from tests.warm import Warm

PROCESSES = 4
PROCESS = """
import asyncio, sys
import httpx2
from moorline.calls.guards import Guards
from moorline.calls.shared_store import SharedStore
from moorline.errors import RateLimited
from moorline.policies.policy import Policy
from moorline.transport import AsyncTransport

url, shared, first = sys.argv[1], sys.argv[2], sys.argv[3] == "0"
guards = Guards(shared=SharedStore(shared, patience=10.0) if shared else None)  # a busy machine is no lost server

async def main():
    transport = AsyncTransport(Policy(deadline=60), name="metered", guards=guards)
    async with httpx2.AsyncClient(transport=transport) as client:
        if first:
            await client.get(url)
        print("ready", flush=True)
        sys.stdin.readline()

        async def worker():
            try:
                while True:
                    await client.get(url)
            except RateLimited:  # given up, by the service or before it was sent
                pass

        await asyncio.gather(*(worker() for _ in range(12)))

asyncio.run(main())
"""


def run_all(shared: str) -> Quota:
    """What the server saw of all processes until each of their workers gave up. They begin at the same moment."""
    quota = Quota(ALLOWED, 3600.0, "x")
    with FaultServer(Limited(quota)) as server:
        command = [sys.executable, "-c", PROCESS, server.url, shared]
        workers = [
            Warm([*command, str(number)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) for number in range(PROCESSES)
        ]
        for worker in workers:
            assert worker.stdout is not None
            assert worker.stdout.readline() == b"ready\n"
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write(b"go\n")
            worker.stdin.flush()
        for worker in workers:
            worker.communicate(timeout=120)
            assert worker.returncode == 0
    return quota


def test_four_processes_share_a_limit(redis_server):
    """Three of them have heard nothing of the limit. Together they use it up, and are refused at most 3 calls in a
    hundred (none, as a rule); each by itself runs into it.
    """
    alone, together = run_all(""), run_all(redis_server.url)
    assert together.served == ALLOWED
    assert together.refused <= 0.03 * ALLOWED
    assert alone.served == ALLOWED
    assert alone.refused > together.refused
