"""The page of what each broker guarantees, read off the conformance suites that the tests run for it."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

SURVIVES = {
    "SQLite": "all (synchronous=FULL)",
    "PostgreSQL": "all (its default)",
    "Redis": "all with `appendfsync always`; with `everysec` all but the last second",
    "Redis Cluster": "as Redis; a failover loses what the replica had not got",
    "RabbitMQ": "all with `?queues=classic`; quorum queues are for a cluster (not tested here)",
    "SQS": "all, by its own promise",
    "SQS FIFO": "as SQS",
}
"""What of that which was acknowledged is there after the machine lost its power."""


def brokers_page() -> str:
    """One row for each promise, one column for each broker; a promise is a test, and CI runs it on the real server."""
    sys.path.insert(0, str(ROOT))
    from tests.jobs.carried import CarriedConformance
    from tests.jobs.conformance import BrokerConformance, RecordConformance
    from tests.jobs.grouping import GroupConformance
    from tests.jobs.noting import NotesConformance
    from tests.jobs.ordering import KnownIds, OrderConformance
    from tests.jobs.test_rabbit_broker import TestRabbitBroker
    from tests.jobs.test_redis_broker import TestRedisBroker, TestRedisClusterBroker
    from tests.jobs.test_sql_broker import TestSqlBroker
    from tests.jobs.test_sqs_broker import TestOnMoto
    from tests.jobs.test_sqs_fifo import TestFifoOnMoto

    brokers: dict[str, type] = {
        "SQLite": TestSqlBroker,
        "PostgreSQL": TestSqlBroker,
        "Redis": TestRedisBroker,
        "Redis Cluster": TestRedisClusterBroker,
        "RabbitMQ": TestRabbitBroker,
        "SQS": TestOnMoto,
        "SQS FIFO": TestFifoOnMoto,
    }
    lines = [
        "# Brokers",
        "",
        "What holds for jobs, wherever they wait. Each row is a test of the suite that every broker",
    ]
    lines += ["inherits; a column says yes where that test runs against the real server in CI.", ""]
    lines += [f"| | {' | '.join(brokers)} |", f"| --- |{' --- |' * len(brokers)}"]
    lines.append(f"| **kept when the power fails** | {' | '.join(SURVIVES[name] for name in brokers)} |")
    suites = {
        "jobs": BrokerConformance,
        "records of jobs": RecordConformance,
        "order keys": OrderConformance,
        "known ids": KnownIds,
        "progress, results, stopping": NotesConformance,
        "what only carries": CarriedConformance,
    }
    for title, suite in suites.items():
        lines.append(f"| **{title}** |{' |' * len(brokers)}")
        for name, said in _promises(suite):
            no = "-" if suite is CarriedConformance else "no"
            same = (suite, GroupConformance) if suite is OrderConformance else (suite,)
            cells = ["yes" if any(_inherits(kind, one, name) for one in same) else no for kind in brokers.values()]
            lines.append(f"| {said} | {' | '.join(cells)} |")
    lines += [
        "",
        "SQLite, PostgreSQL and Redis also pass the random walks (states, order keys); they and RabbitMQ the tests",
        "that kill workers with -9 under load. SQS is an emulator here (moto). A dash: the question does not arise.",
        "Order keys of RabbitMQ and standard SQS are in the database; in SQS FIFO they are message groups, whose tests",
        "see who comes next and not who is blocked, and a place is kept for twelve hours.",
        "A step of priority is a head start of `worker.ageing` seconds: lanes (a queue and a priority) are emptied in",
        "the order of when their oldest job was due, plus that for each step; 0 makes priorities strict. RabbitMQ and",
        "SQS do not tell how old what waits is: there, of ten takes that brought all that a worker asked for, the",
        "fifth begins with priority 5, the tenth with 6 to 9, and the others with 0 to 4.",
        "At least once means that a job may run twice; so write it to bear that.",
    ]
    return "\n".join(lines) + "\n"


def _promises(suite: type) -> Iterator[tuple[str, str]]:
    for name, test in vars(suite).items():
        if name.startswith("test_"):
            words = name.removeprefix("test_").replace("_", " ")
            yield name, f"{words[0].upper()}{words[1:]}. {' '.join((inspect.getdoc(test) or '').split())}"


def _inherits(kind: Any, suite: type, name: str) -> bool:
    return issubclass(kind, suite) and getattr(kind, name, None) is getattr(suite, name, suite)
