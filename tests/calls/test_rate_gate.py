"""Fifty real workers, through the whole pipeline, against a real server that allows a hundred calls in a window."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from tests.calls.fault_server import FaultServer
from tests.calls.limited_service import ALLOWED, WINDOW, Limited, Metered

from moorline.calls.clients import Clients
from moorline.calls.guards import Guards
from moorline.policies.policy import Policy
from moorline.transport import AsyncTransport, Transport

WORKERS = 50
WINDOWS = 4
POLICY = Policy(deadline=5)  # some windows, and less than a cautious guess of the first wait


def metered(url: str) -> Metered:
    service = Metered("key", base_url=url, policy=POLICY, guards=Guards())
    service._wires._clients = Clients()
    return service


def in_threads(work: Callable[[], Any]) -> None:
    end = time.monotonic() + WINDOW * WINDOWS
    failures: list[BaseException] = []

    def worker() -> None:
        try:
            while time.monotonic() < end:
                work()
        except BaseException as error:  # noqa: BLE001 (raised below)
            failures.append(error)

    threads = [threading.Thread(target=worker) for _ in range(WORKERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


async def in_tasks(work: Callable[[], Any]) -> None:
    end = time.monotonic() + WINDOW * WINDOWS

    async def worker() -> None:
        while time.monotonic() < end:
            await work()

    await asyncio.gather(*(worker() for _ in range(WORKERS)))


def plain_sync(url: str) -> None:
    with httpx2.Client(transport=Transport(POLICY)) as client:
        in_threads(lambda: client.get(url).raise_for_status())


def service_sync(url: str) -> None:
    service = metered(url)
    in_threads(lambda: service.read("x").result())
    service.close()


def plain_async(url: str) -> None:
    async def main() -> None:
        async with httpx2.AsyncClient(transport=AsyncTransport(POLICY)) as client:

            async def work() -> None:
                (await client.get(url)).raise_for_status()

            await in_tasks(work)

    asyncio.run(main())


def service_async(url: str) -> None:
    async def main() -> None:
        service = metered(url)

        async def work() -> None:
            await service.read("x")

        await in_tasks(work)
        await service.aclose()

    asyncio.run(main())


@pytest.mark.parametrize("workers", [plain_sync, service_sync, plain_async, service_async])
def test_fifty_workers_see_hardly_a_429(workers):
    """At most 1 % of the requests are refused, and four fifths of what the service allows are used."""
    limited = Limited()
    with FaultServer(limited) as server:
        workers(server.url)
    served, refused = limited.model.served, limited.model.refused
    assert refused <= 0.01 * (served + refused)
    assert served >= 0.8 * ALLOWED * WINDOWS
