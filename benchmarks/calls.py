"""Microseconds that the pipeline adds to an httpx2 call on a mock transport, beside what others take for the same, and
what `import moorline` costs.

The peers do a part of it: retry, breaker, rate limit and timeouts, no idempotency, no redaction, no budget. All are
measured in one run, in turns; the machine's speed is in all of them, so read the ratios.

Run: python benchmarks/calls.py
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time

import aiolimiter
import httpware
import httpx2
import nopanic
import purgatory
import tenacity

from moorline.calls.guards import Guards
from moorline.calls.service import BearerKey, Endpoints, Service, operation
from moorline.transport import AsyncTransport, Transport

CALLS, ROUNDS = 200, 25
URL = "https://bench.example/x"


class Bench(Service):
    name, category = "bench", "business"
    endpoints = Endpoints("https://bench.example")
    credentials = BearerKey(env="BENCH_KEY")

    @operation
    def read(self):
        return self.get("/x", parse=lambda exchange: exchange.data)


def answer(_request):
    return httpx2.Response(200, content=b'{"a":1}', headers={"content-type": "application/json"})


MOCK = httpx2.MockTransport(answer)
SERVICE = Bench("key", wire=MOCK, guards=Guards())


# Blocking: a function that gives another one, which does a call and reads its answer ----------------------------------


def bare():
    client = httpx2.Client(transport=MOCK)
    return lambda: client.get(URL).json()


def piped():
    client = httpx2.Client(transport=Transport(wire=MOCK))
    return lambda: client.get(URL).json()


def a_call():
    return lambda: SERVICE.read().result()


def tenacious():
    """tenacity + purgatory; aiolimiter has no blocking form, and no timeout beyond httpx2's own."""
    client = httpx2.Client(transport=MOCK)
    breaker = purgatory.SyncCircuitBreakerFactory()

    @tenacity.retry(stop=tenacity.stop_after_attempt(6), wait=tenacity.wait_random_exponential(1, 60))
    @breaker("bench")
    def get():
        return client.get(URL).json()

    return get


def with_httpware():
    layers = [httpware.Retry(), httpware.Bulkhead(max_concurrent=100), httpware.CircuitBreaker()]
    client = httpware.Client(httpx2_client=httpx2.Client(transport=MOCK), middleware=layers)
    return lambda: client.get(URL).json()


def with_nopanic():
    """Without its timeouts, which take a thread for each blocking call."""
    client = httpx2.Client(transport=MOCK)
    guard = nopanic.compose(
        nopanic.retry(attempts=6, budget=nopanic.RetryBudget(ratio=0.2)),
        nopanic.circuit_breaker(),
        nopanic.rate_limit(1_000_000, per=1.0),
        nopanic.bulkhead(100),
    )
    return guard(lambda: client.get(URL).json())


# On the loop ----------------------------------------------------------------------------------------------------------


async def bare_async():
    client = httpx2.AsyncClient(transport=MOCK)

    async def get():
        return (await client.get(URL)).json()

    return get


async def piped_async():
    client = httpx2.AsyncClient(transport=AsyncTransport(wire=MOCK))

    async def get():
        return (await client.get(URL)).json()

    return get


async def a_call_async():
    async def get():
        return await SERVICE.read()

    return get


async def tenacious_async():
    """tenacity + purgatory + aiolimiter, with a deadline and a timeout for each attempt."""
    client = httpx2.AsyncClient(transport=MOCK)
    breaker = purgatory.AsyncCircuitBreakerFactory()
    limiter = aiolimiter.AsyncLimiter(1_000_000, 1)

    @tenacity.retry(stop=tenacity.stop_after_attempt(6), wait=tenacity.wait_random_exponential(1, 60))
    @breaker("bench")
    async def get():
        async with limiter, asyncio.timeout(10):
            return (await client.get(URL)).json()

    async def bounded():
        async with asyncio.timeout(30):
            return await get()

    return bounded


async def with_httpware_async():
    layers = [
        httpware.AsyncTimeout(timeout=30),
        httpware.AsyncRetry(),
        httpware.AsyncBulkhead(max_concurrent=100),
        httpware.AsyncCircuitBreaker(),
    ]
    client = httpware.AsyncClient(httpx2_client=httpx2.AsyncClient(transport=MOCK), middleware=layers)

    async def get():
        return (await client.get(URL)).json()

    return get


async def with_nopanic_async():
    client = httpx2.AsyncClient(transport=MOCK)
    guard = nopanic.compose(
        nopanic.retry(attempts=6, budget=nopanic.RetryBudget(ratio=0.2)),
        nopanic.circuit_breaker(),
        nopanic.rate_limit(1_000_000, per=1.0),
        nopanic.bulkhead(100),
        nopanic.timeout(10.0),
    )

    @guard
    async def get():
        return (await client.get(URL)).json()

    async def bounded():
        async with nopanic.deadline(30.0):
            return await get()

    return bounded


# Measuring ------------------------------------------------------------------------------------------------------------


def blocking_rounds(makers):
    calls = [make() for make in makers]
    best = [float("inf")] * len(calls)
    for _ in range(ROUNDS):
        for place, call in enumerate(calls):
            begun = time.perf_counter()
            for _ in range(CALLS):
                call()
            best[place] = min(best[place], time.perf_counter() - begun)
    return [seconds / CALLS * 1e6 for seconds in best]


async def loop_rounds(makers):
    calls = [await make() for make in makers]
    best = [float("inf")] * len(calls)
    for _ in range(ROUNDS):
        for place, call in enumerate(calls):
            begun = time.perf_counter()
            for _ in range(CALLS):
                await call()
            best[place] = min(best[place], time.perf_counter() - begun)
    return [seconds / CALLS * 1e6 for seconds in best]


def show(colour, makers, results):
    base = results[0]
    for make, micros in zip(makers, results, strict=True):
        name = make.__name__.removesuffix("_async").replace("_", " ")
        print(f"{colour:6} {name:16} {micros:7.1f} µs  {micros - base:+7.1f} µs  {micros / base:5.2f} x bare httpx2")


def import_ms():
    def once(code):
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return time.perf_counter() - begun

    return (min(once("import moorline") for _ in range(9)) - min(once("pass") for _ in range(9))) * 1000


def main():
    sync = (bare, piped, a_call, tenacious, with_httpware, with_nopanic)
    show("sync", sync, blocking_rounds(sync))
    loop = (bare_async, piped_async, a_call_async, tenacious_async, with_httpware_async, with_nopanic_async)
    show("async", loop, asyncio.run(loop_rounds(loop)))
    print(f"import moorline {import_ms():.1f} ms")


if __name__ == "__main__":
    main()
