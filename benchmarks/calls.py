"""Microseconds that the pipeline adds to an httpx2 call on a mock transport, and what `import moorline` costs.

Run: python benchmarks/calls.py
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time

import httpx2

from moorline.calls.guards import Guards
from moorline.calls.service import BearerKey, Endpoints, Service, operation
from moorline.transport import AsyncTransport, Transport

CALLS, ROUNDS = 300, 25


class Bench(Service):
    name, category = "bench", "business"
    endpoints = Endpoints("https://bench.example")
    credentials = BearerKey(env="BENCH_KEY")

    @operation
    def read(self):
        return self.get("/x", parse=lambda exchange: exchange.data)


def answer(_request):
    return httpx2.Response(200, content=b'{"a":1}', headers={"content-type": "application/json"})


def blocking(transport):
    with httpx2.Client(transport=transport) as client:
        begun = time.perf_counter()
        for _ in range(CALLS):
            client.get("https://bench.example/x").json()
        return time.perf_counter() - begun


async def on_loop(transport):
    async with httpx2.AsyncClient(transport=transport) as client:
        begun = time.perf_counter()
        for _ in range(CALLS):
            (await client.get("https://bench.example/x")).json()
        return time.perf_counter() - begun


def service_blocking(service):
    begun = time.perf_counter()
    for _ in range(CALLS):
        service.read().result()
    return time.perf_counter() - begun


async def service_on_loop(service):
    begun = time.perf_counter()
    for _ in range(CALLS):
        await service.read()
    return time.perf_counter() - begun


def microseconds(*timed):
    """The best round of each, taken in turns, so that what else the machine does meets all of them alike."""
    rounds = [[each() for each in timed] for _ in range(ROUNDS)]
    return [min(column) / CALLS * 1e6 for column in zip(*rounds, strict=True)]


def import_ms():
    def once(code):
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return time.perf_counter() - begun

    return (min(once("import moorline") for _ in range(9)) - min(once("pass") for _ in range(9))) * 1000


def main():
    mock = httpx2.MockTransport(answer)
    service = Bench("key", wire=mock, guards=Guards())
    sync = microseconds(
        lambda: blocking(mock), lambda: blocking(Transport(wire=mock)), lambda: service_blocking(service)
    )
    loop = microseconds(
        lambda: asyncio.run(on_loop(mock)),
        lambda: asyncio.run(on_loop(AsyncTransport(wire=mock))),
        lambda: asyncio.run(service_on_loop(service)),
    )
    for colour, (bare, piped, ours) in (("sync", sync), ("async", loop)):
        print(
            f"{colour:6} bare httpx2 {bare:6.1f} µs   with transport {piped:6.1f} µs ({piped - bare:+.1f})   "
            f"a service's Call {ours:6.1f} µs ({ours - bare:+.1f})"
        )
    print(f"import moorline {import_ms():.1f} ms")


if __name__ == "__main__":
    main()
