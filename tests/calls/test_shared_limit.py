"""Four real processes against one real server that allows a hundred calls in two seconds, over one Redis."""

from __future__ import annotations

import subprocess
import sys
import time

from tests.calls.fault_server import FaultServer
from tests.calls.limited_service import ALLOWED, WINDOW, Limited
from tests.policies.limited_server import EPOCH

PROCESSES, SECONDS = 4, 2.5 * WINDOW
PROCESS = """
import asyncio, contextlib, sys
import httpx2
from moorline.calls.guards import Guards
from moorline.calls.shared_store import SharedStore
from moorline.errors import RateLimited
from moorline.policies.policy import Policy
from moorline.transport import AsyncTransport

url, shared, seconds, first = sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4] == "0"
guards = Guards(shared=SharedStore(shared, patience=1.0) if shared else None)  # a busy machine is no lost server

async def main():
    transport = AsyncTransport(Policy(deadline=8), name="metered", guards=guards)
    async with httpx2.AsyncClient(transport=transport) as client:
        if first:
            await client.get(url)
        print("ready", flush=True)
        sys.stdin.readline()

        async def worker():
            while True:
                try:
                    await client.get(url)
                except RateLimited:  # given up, by the service or before it was sent
                    await asyncio.sleep(0.1)

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await asyncio.gather(*(worker() for _ in range(12)))

asyncio.run(main())
"""


def run_all(shared: str) -> Limited:
    """What the server saw of all processes, which begin at the same moment."""
    limited = Limited()
    with FaultServer(limited) as server:
        command = [sys.executable, "-c", PROCESS, server.url, shared, str(SECONDS)]
        workers = [
            subprocess.Popen([*command, str(number)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            for number in range(PROCESSES)
        ]
        for worker in workers:
            assert worker.stdout is not None
            assert worker.stdout.readline() == b"ready\n"
        time.sleep(
            WINDOW - (time.time() - EPOCH) % WINDOW + WINDOW / 10
        )  # after a reset: a burst across one is too much
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write(b"go\n")
            worker.stdin.flush()
        for worker in workers:
            worker.communicate(timeout=30)
            assert worker.returncode == 0
    return limited


def test_four_processes_share_a_limit(redis_server):
    """Three of them have heard nothing of the limit. Together they are refused at most 3 % of their calls (0.3 % as a
    rule), and less often than each by itself; and they use it. A machine that was busy gets one more try.
    """
    alone = run_all("").model
    for _ in range(2):
        together = run_all(redis_server.url).model
        share = together.refused / (together.served + together.refused)
        if share <= 0.03:
            break
    assert share <= 0.03
    assert together.refused < alone.refused
    assert together.served >= 0.8 * ALLOWED * SECONDS / WINDOW
