"""Ten thousand requests are cancelled where they hold most, and nothing of them is left."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from tests.calls import fault_server
from tests.calls.fault_server import FaultServer
from tests.calls.ledger import Ledger

from moorline.calls.clients import Clients
from moorline.calls.guards import Guards
from moorline.policies.breaker import Breaker
from moorline.policies.bulkhead import Bulkhead
from moorline.policies.policy import Policy
from moorline.policies.rate import RateLimit
from moorline.transport import AsyncTransport

EACH = 2_500
AT_ONCE = 50
# A pool and a bulkhead that are smaller than what comes at once, so that some are cancelled in their queues; a quota
# that never binds but is counted; and a breaker that knows the slow ones.
POLICY = Policy(
    deadline=30,
    attempt_timeout=20,
    retry=None,
    breaker=Breaker(failures=1_000_000, rate=None, slow_rate=None),
    rate=RateLimit(1_000_000),
    bulkhead=Bulkhead(40, queue=20),
)


async def endless() -> AsyncIterator[bytes]:
    """An upload that goes on until somebody stops it."""
    while True:
        yield b"x" * 65_536
        await asyncio.sleep(0)


async def cancel_all(work: Any) -> None:
    """Begin and cancel EACH tasks of *work*, some twice, some at once, some after a while."""
    dice = random.Random(20)
    for _ in range(EACH // AT_ONCE):
        tasks = [asyncio.create_task(work()) for _ in range(AT_ONCE)]
        for _ in range(dice.choice((0, 1, 3, 8, 20))):
            await asyncio.sleep(0)
        await asyncio.sleep(dice.choice((0, 0.002, 0.02)))
        for task in tasks:
            task.cancel()
        if dice.random() < 0.3:
            await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(each, asyncio.CancelledError) for each in done), done


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
    assert guard.breaker.snapshot().probes == 0
    assert asyncio.all_tasks() == {asyncio.current_task()}


def guard_of(transport: AsyncTransport) -> Any:
    (host,) = transport._by_host.values()
    return host.guard


@pytest.mark.timeout(120)
class TestPlainTransports:
    async def test_while_connecting(self):
        """2,500 cancelled in the TLS handshake and in the pool's queue."""
        transport = AsyncTransport(POLICY)
        with FaultServer(fault_server.silent) as server:  # what it reads is no request, and it waits for more
            url = server.url.replace("http:", "https:")
            async with httpx2.AsyncClient(transport=transport) as client:
                await cancel_all(lambda: client.get(url))
                await nothing_left(guard_of(transport), transport._clients)

    async def test_while_sending(self):
        """2,500 cancelled within an upload that nobody reads."""
        transport = AsyncTransport(POLICY)
        with FaultServer(fault_server.silent) as server:
            async with httpx2.AsyncClient(transport=transport) as client:
                await cancel_all(lambda: client.post(server.url, content=endless()))
                await nothing_left(guard_of(transport), transport._clients)

    async def test_while_streaming(self):
        """2,500 cancelled within a body that stalls."""
        transport = AsyncTransport(POLICY)

        async def read(client: httpx2.AsyncClient, url: str) -> None:
            async with client.stream("GET", url) as response:
                async for _part in response.aiter_bytes():
                    pass

        with FaultServer(fault_server.stalled_body) as server:
            async with httpx2.AsyncClient(transport=transport) as client:
                await cancel_all(lambda: read(client, server.url))
                await nothing_left(guard_of(transport), transport._clients)


@pytest.mark.timeout(120)
class TestServices:
    async def test_while_waiting(self):
        """2,500 Calls cancelled while the service says nothing."""

        async def wait(service: Ledger) -> Any:
            return await service.read("x")

        with FaultServer(fault_server.silent) as server:
            service = Ledger("key", base_url=server.url, policy=POLICY, guards=Guards())
            service._wires._clients = Clients()
            await cancel_all(lambda: wait(service))
            await nothing_left(service._guard(service.base_url, POLICY), service._wires._clients)
            await service.aclose()
