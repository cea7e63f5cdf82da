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

CALLS, ROUNDS = 1000, 7


class Bench(Service):
    name, category = "bench", "business"
    endpoints = Endpoints("https://bench.example")
    credentials = BearerKey(env="BENCH_KEY")

    @operation
    def read(self):
        return self.get("/x", parse=lambda exchange: exchange.data)


def answer(_request):
    return httpx2.Response(200, content=b'{"a":1}', headers={"content-type": "application/json"})


def best(timed):
    return min(timed() for _ in range(ROUNDS)) / CALLS * 1e6


def blocking(transport):
    with httpx2.Client(transport=transport) as client:

        def timed():
            begun = time.perf_counter()
            for _ in range(CALLS):
                client.get("https://bench.example/x").json()
            return time.perf_counter() - begun

        return best(timed)


def on_loop(transport):
    async def timed():
        async with httpx2.AsyncClient(transport=transport) as client:
            begun = time.perf_counter()
            for _ in range(CALLS):
                (await client.get("https://bench.example/x")).json()
            return time.perf_counter() - begun

    return best(lambda: asyncio.run(timed()))


def service_blocking(service):
    def timed():
        begun = time.perf_counter()
        for _ in range(CALLS):
            service.read().result()
        return time.perf_counter() - begun

    return best(timed)


def service_on_loop(service):
    async def timed():
        begun = time.perf_counter()
        for _ in range(CALLS):
            await service.read()
        return time.perf_counter() - begun

    return best(lambda: asyncio.run(timed()))


def import_ms():
    def once(code):
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return time.perf_counter() - begun

    return (min(once("import moorline") for _ in range(9)) - min(once("pass") for _ in range(9))) * 1000


def main():
    mock = httpx2.MockTransport(answer)
    service = Bench("key", wire=mock, guards=Guards())
    for colour, bare, piped, ours in (
        ("sync", blocking(mock), blocking(Transport(wire=mock)), service_blocking(service)),
        ("async", on_loop(mock), on_loop(AsyncTransport(wire=mock)), service_on_loop(service)),
    ):
        print(
            f"{colour:6} bare httpx2 {bare:6.1f} µs   with transport {piped:6.1f} µs ({piped - bare:+.1f})   "
            f"a service's Call {ours:6.1f} µs ({ours - bare:+.1f})"
        )
    print(f"import moorline {import_ms():.1f} ms")


if __name__ == "__main__":
    main()
