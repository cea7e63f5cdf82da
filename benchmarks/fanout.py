"""Calls a second with 50 under way at a time, from one process to a server on loopback: moorline's whole pipeline on
each of its wires, beside Node's undici under cockatiel (retry, circuit breaker, bulkhead, timeouts).

Each contestant is a process of its own and has its turns in one run; the machine's speed is in all of them, so read
the ratios. The first run installs the peer: ``npm ci`` in benchmarks/node.

Run: python benchmarks/fanout.py
"""

from __future__ import annotations

import asyncio
import gc
import shutil
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

CONCURRENCY, ROUNDS = 50, 5
CALLS = {"httpx2": 2_500, "aiohttp": 15_000, "pyreqwest": 15_000, "undici + cockatiel": 30_000}
HERE = Path(__file__).resolve().parent
ANSWER = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 12\r\n\r\n{"id":"b_1"}'


# The server: the least that answers, so that the clients are what is measured -----------------------------------------


class Answering(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport, self.rest = transport, b""

    def data_received(self, data):
        *heads, self.rest = (self.rest + data).split(b"\r\n\r\n")
        if heads:
            self.transport.write(ANSWER * len(heads))


async def serve(port):
    server = await asyncio.get_running_loop().create_server(Answering, "127.0.0.1", port)
    print("up", flush=True)
    await server.serve_forever()


# Ours -----------------------------------------------------------------------------------------------------------------


async def ours(wire, url, calls):
    from moorline.calls.service import BearerKey, Endpoints, Service, operation

    class Bench(Service):
        name, category = "bench", "business"
        endpoints = Endpoints(url)
        credentials = BearerKey(env="BENCH_KEY")

        @operation
        def read(self):
            return self.get("/bookings/b_1", parse=lambda exchange: exchange.data["id"])

    service = Bench("key", wire=wire)

    async def some(each):
        for _ in range(each):
            assert await service.read() == "b_1"

    async def all_of(number):
        await asyncio.gather(*(some(-(-number // CONCURRENCY)) for _ in range(CONCURRENCY)))

    await all_of(calls // 5)
    gc.collect()
    gc.freeze()
    began = time.perf_counter()
    await all_of(calls)
    print(calls / (time.perf_counter() - began))


# The run --------------------------------------------------------------------------------------------------------------


def turn(name, url):
    if name in ("httpx2", "aiohttp", "pyreqwest"):
        command = [sys.executable, __file__, name, url]
    else:
        command = ["node", str(HERE / "node" / "fanout.mjs"), f"{url}/bookings/b_1", str(CALLS[name]), str(CONCURRENCY)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main():
    if shutil.which("node") is None:
        sys.exit("node is not installed: there is no peer to measure")
    if not (HERE / "node" / "node_modules").exists():
        subprocess.run(["npm", "ci", "--no-audit", "--no-fund"], cwd=HERE / "node", check=True, stdout=sys.stderr)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    server = subprocess.Popen([sys.executable, __file__, "serve", str(port)], stdout=subprocess.PIPE)
    try:
        server.stdout.readline()
        url = f"http://127.0.0.1:{port}"
        speeds = {name: [] for name in CALLS}
        for _ in range(ROUNDS):
            for name, known in speeds.items():
                known.append(turn(name, url))
    finally:
        server.terminate()
        server.wait()
    peer = statistics.median(speeds["undici + cockatiel"])
    print(f"{'':20}  calls/s   best   against undici + cockatiel (medians of {ROUNDS})")
    for name, known in speeds.items():
        print(f"{name:20} {statistics.median(known):8.0f} {max(known):8.0f}   {statistics.median(known) / peer:5.2f} x")


if __name__ == "__main__":
    import uvloop

    if sys.argv[1:2] == ["serve"]:
        uvloop.run(serve(int(sys.argv[2])))
    elif sys.argv[1:]:
        uvloop.run(ours(sys.argv[1], sys.argv[2], CALLS[sys.argv[1]]))
    else:
        main()
