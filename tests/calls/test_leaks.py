"""Thousands of requests are cancelled in each place where they hold something, and nothing of them is left.

MOORLINE_TEST_FULL=1 cancels ten thousand in each place. What one of them leaves is seen either way: nothing may be left.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.calls import fault_server
from tests.calls.fault_server import FaultServer
from tests.calls.ledger import Ledger

from moorline import Upload, errors
from moorline.calls.clients import Clients
from moorline.calls.guards import Guards
from moorline.policies.breaker import Breaker, BreakerState
from moorline.policies.bulkhead import Bulkhead
from moorline.policies.policy import Policy
from moorline.policies.rate import RateLimit
from moorline.transport import AsyncTransport

EACH = 5_000 if os.environ.get("MOORLINE_TEST_FULL") else 2_000  # of plain requests and of Calls
AT_ONCE = 50
HALF_OPEN = 8  # of so many rounds one
# A pool and a bulkhead that are smaller than what comes at once, so that some are cancelled in their queues; a quota
# that never binds but is counted; and a breaker that only leaves closed when it is told to.
POLICY = Policy(
    deadline=30,
    attempt_timeout=20,
    retry=None,
    breaker=Breaker(failures=1_000_000, probes=30, rate=None, slow_rate=None),
    rate=RateLimit(1_000_000),
    bulkhead=Bulkhead(40, queue=20),
)


async def endless() -> AsyncIterator[bytes]:
    """An upload that goes on until somebody stops it."""
    while True:
        yield b"x" * 65_536
        await asyncio.sleep(0)


class Plain:
    """Requests of a plain client."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.transport = AsyncTransport(POLICY, name="plain", guards=Guards())
        assert self.transport._one is not None
        self.guard: Any = self.transport._one.guard
        self.clients = self.transport._clients
        self.client = httpx2.AsyncClient(transport=self.transport)

    async def get(self) -> None:
        await self.client.get(self.url)

    async def send(self) -> None:
        await self.client.post(self.url, content=endless())

    async def stream(self) -> None:
        async with self.client.stream("GET", self.url) as response:
            async for _part in response.aiter_bytes():
                pass

    async def aclose(self) -> None:
        await self.client.aclose()


class Calls:
    """Calls of a service."""

    def __init__(self, url: str) -> None:
        self.service = Ledger("key", base_url=url, policy=POLICY, guards=Guards())
        self.clients = self.service._wires._clients = Clients()
        self.guard: Any = self.service._guard(self.service.base_url, POLICY)

    async def get(self) -> None:
        await self.service.read("x")

    async def send(self) -> None:
        await self.service.request("PUT", "/files/1", upload=Upload(endless()))

    async def stream(self) -> None:
        async with self.service.read("x").stream() as answer:
            async for _part in answer:
                pass

    async def aclose(self) -> None:
        await self.service.aclose()


async def cancel_all(work: Callable[[], Coroutine[Any, Any, None]], breaker: BreakerState) -> None:
    """Begin and cancel tasks of *work*, some twice, some at once, some after a while, until it was EACH of them. In
    some rounds the breaker is half open: those who pass are its probes, and the others are refused.
    """
    dice = random.Random(20)
    cancelled = probes = rounds = 0
    while cancelled < EACH:
        rounds += 1
        half_open = rounds % HALF_OPEN == 0
        if half_open:
            breaker.follow(1e-9, "so that the next ones are probes")
        tasks = [asyncio.create_task(work()) for _ in range(AT_ONCE)]
        for _ in range(dice.choice((0, 1, 3, 8, 20))):
            await asyncio.sleep(0)
        await asyncio.sleep(dice.choice((0, 0, 0.002, 0.01)))
        probes += breaker.snapshot().probes
        for task in tasks:
            task.cancel()
        if dice.random() < 0.3:
            await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        refused = [each for each in ends if half_open and isinstance(each, errors.CircuitOpen)]
        assert all(isinstance(each, asyncio.CancelledError) for each in ends if each not in refused), ends
        cancelled += AT_ONCE - len(refused)
        if half_open:
            assert breaker.snapshot().probes == 0
            breaker.force(None)
    assert probes > EACH / 100


async def nothing_left(guard: Any, clients: Clients) -> None:
    """No slot, place, lease, pass, task or connection that is in use."""
    for _ in range(200):  # closing a connection takes the loop a few turns
        await asyncio.sleep(0)
    pool: Any = (await clients.for_loop())._pool
    busy = [each for each in pool.connections if not each.is_idle() and not each.is_closed()]
    assert (pool._requests, busy) == ([], [])
    assert (guard.bulkhead.busy, guard.bulkhead.waiting) == (0, 0)
    assert guard.admission.under_way == 0
    assert (guard.gate.waiting, guard.gate.snapshot().in_flight) == (0, 0)
    assert asyncio.all_tasks() == {asyncio.current_task()}


def descriptors() -> int:
    """How many files and sockets this process has open; 0 where nobody says."""
    open_ones = Path("/proc/self/fd")
    return len(list(open_ones.iterdir())) if open_ones.exists() else 0


# Where they are cancelled: what the server does, the scheme that is spoken to it, and what is asked of it.
PLACES = {
    "connecting": (fault_server.silent, "https:", "get"),  # in the handshake, which it takes for half a request
    "sending": (fault_server.silent, "http:", "send"),
    "waiting": (fault_server.silent, "http:", "get"),
    "streaming": (fault_server.stalled_body, "http:", "stream"),
}


@pytest.mark.timeout(180)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", [Plain, Calls])
async def test_thousands_cancelled(kind, place):
    """Half of them plain requests, half Calls: some are in the queues of pool and bulkhead, some are probes."""
    behaviour, scheme, deed = PLACES[place]
    before = descriptors()
    with FaultServer(behaviour) as server:
        made = kind(server.url.replace("http:", scheme))
        await cancel_all(getattr(made, deed), made.guard.breaker)
        await nothing_left(made.guard, made.clients)
        await made.aclose()
    assert descriptors() == before
