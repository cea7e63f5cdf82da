"""Jobs enqueued and drained a second, durable, and how soon an idle worker picks one up.

    python benchmarks/jobs.py [--brokers sqlite,postgresql,redis,rabbitmq] [--jobs 20000] [--peers] [--json]

What ``moorline bench`` measures: one producer, then one worker at concurrency 50, in this process, in the loop that
``moorline worker`` has (uvloop where there is one); no-op async jobs.
SQLite runs with synchronous=FULL, PostgreSQL with its default durability, Redis with ``appendfsync everysec``, as its
peer does; RabbitMQ with confirms, and quorum queues or (``rabbitmq-classic``) durable classic ones. ``--peers``
measures BullMQ on a Redis of the same kind in the same run; the first run installs it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.receive import database, redis_with_log  # noqa: E402
from tests.rabbit import RabbitServer  # noqa: E402

from moorline.cli.runner import loop_run  # noqa: E402
from moorline.jobs.appetite import MAX_AHEAD  # noqa: E402
from moorline.jobs.bench import measure  # noqa: E402
from moorline.jobs.broker import Broker  # noqa: E402
from moorline.jobs.brokers.rabbitmq import RabbitBroker  # noqa: E402
from moorline.jobs.brokers.redis import RedisBroker  # noqa: E402
from moorline.jobs.brokers.sql import SqlBroker  # noqa: E402
from moorline.jobs.completions import BATCH  # noqa: E402
from moorline.store import Store  # noqa: E402

DURABLE = {
    "sqlite": "WAL, synchronous=FULL",
    "postgresql": "synchronous_commit=on",
    "redis": "appendonly, appendfsync everysec",
    "rabbitmq": "quorum queues, publisher confirms",
    "rabbitmq-classic": "durable classic queues, publisher confirms",
}


@contextlib.contextmanager
def broker_of(kind: str) -> Iterator[Broker]:
    """An empty one on this machine."""
    if kind == "redis":
        with redis_with_log() as port, RedisBroker(f"redis://127.0.0.1:{port}/0") as broker:
            yield broker
        return
    if kind.startswith("rabbitmq"):
        with (
            RabbitServer() as server,
            RabbitBroker(f"{server.url}?queues={kind.partition('-')[2] or 'quorum'}") as rabbit,
        ):
            yield rabbit
        return
    with database(kind) as url, Store(url, auto_migrate=True) as store:
        yield SqlBroker(store)


def bullmq(count: int) -> dict[str, float]:
    """The same with BullMQ."""
    here = Path(__file__).resolve().parent / "node"
    if not (here / "node_modules" / "bullmq").exists():
        subprocess.run(["npm", "ci", "--no-audit", "--no-fund"], cwd=here, check=True, stdout=sys.stderr)
    with redis_with_log() as port:
        done = subprocess.run(
            ["node", str(here / "jobs.mjs"), str(port), str(count)], check=True, capture_output=True, text=True
        )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--brokers", default="sqlite", help="sqlite, postgresql, redis, with commas")
    parser.add_argument("--jobs", type=int, default=20_000, help="enqueued one by one, and as many in bulk")
    parser.add_argument("--peers", action="store_true", help="measure BullMQ too")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results: dict[str, Any] = {
        "machine": f"{os.cpu_count()} CPUs, {platform.machine()}, Python {platform.python_version()}",
        "batches": f"claims up to {MAX_AHEAD} ahead, results up to {BATCH}",
        "brokers": {},
    }
    for kind in options.brokers.split(","):
        with broker_of(kind) as broker:
            results["brokers"][kind] = asdict(loop_run(measure(broker, jobs=options.jobs)))
    if options.peers:
        results["brokers"]["BullMQ"] = bullmq(options.jobs)
    if options.json:
        print(json.dumps(results))
        return
    print(results["machine"], results["batches"], sep="; ")
    for kind, found in results["brokers"].items():
        ratio = ""
        if "BullMQ" in results["brokers"] and kind != "BullMQ":
            ratio = f"   drained {found['drained'] / results['brokers']['BullMQ']['drained']:.2f} of BullMQ"
        idle = ""
        if kind != "BullMQ":
            idle = f"   idle p50 {found['picked_up_p50_ms']:.1f} ms, p99 {found['picked_up_p99_ms']:.1f} ms"
        print(
            f"{kind:<11}enqueued {found['one_by_one']:>8,.0f}/s, in bulk {found['bulk']:>8,.0f}/s"
            f"   drained {found['drained']:>8,.0f}/s{idle}{ratio}   ({DURABLE.get(kind, DURABLE['redis'])})"
        )


if __name__ == "__main__":
    main()
