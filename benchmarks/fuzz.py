"""Feed half a million broken deliveries to the receiver and to verify(): no exception, no 5xx but 503, no memory kept.

    python benchmarks/fuzz.py [--inputs 500000] [--seed N] [--json]

The inputs are mutations of a valid delivery of every service that has webhooks, a third of them signed anew after the
change. Half go to the ASGI receiver over a store that keeps nothing, half to `moorline.events.verify`. Exit code 1 at
the first input that breaks anything; it is printed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import platform
import resource
import socket
import sys
import time
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.fuzzing import Broken, Mutator, Target, seeds  # noqa: E402

WARM = 20_000
"""Inputs before memory is looked at: caches fill."""
SAMPLE = 20_000
"""Inputs at the end during which every allocation is traced."""


def _no_network(*_args: object, **_options: object) -> NoReturn:
    raise OSError("there is no network in a fuzzing run")


async def feed(target: Target, mutator: Mutator, count: int, services: Counter[str]) -> int:
    """So many inputs; how many `verify` accepted."""
    accepted = 0
    for number in range(count):
        given = mutator.next()
        services[given.service] += 1
        if number % 2:
            await target.receive(given)
        else:
            accepted += target.verify(given)
    return accepted


async def run(inputs: int, seed: int) -> dict[str, Any]:
    """Warm up, measure, trace."""
    target, found = Target(), seeds()
    mutator, services = Mutator(seed, found), Counter[str]()
    warm = min(WARM, inputs // 4)
    sample = min(SAMPLE, inputs // 4)
    accepted = await feed(target, mutator, warm, services)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    accepted += await feed(target, mutator, inputs - warm - sample, services)
    took = time.perf_counter() - began
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    tracemalloc.start()
    start = tracemalloc.get_traced_memory()[0]
    accepted += await feed(target, mutator, sample, services)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return {
        "inputs": inputs,
        "services": len(services),
        "inputs_per_second": round((inputs - warm - sample) / took),
        "accepted_by_verify": accepted,
        "statuses": {str(status): target.statuses[status] for status in sorted(target.statuses)},
        "resident_peak_growth_mb": round(grown / 1024, 1),
        "traced_kept_kb": round((kept - start) / 1024),
        "traced_peak_kb": round(peak / 1024),
    }


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=500_000)
    parser.add_argument("--seed", type=int, default=20261127)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    socket.getaddrinfo = socket.create_connection = _no_network
    logging.disable(logging.CRITICAL)
    try:
        found = asyncio.run(run(options.inputs, options.seed))
    except Broken as broken:
        print(str(broken)[:5000], file=sys.stderr)
        raise SystemExit(1) from broken
    found["machine"] = f"{os.cpu_count()} CPUs, {platform.machine()}, Python {platform.python_version()}"
    if options.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name:<26}{value}")


if __name__ == "__main__":
    main()
