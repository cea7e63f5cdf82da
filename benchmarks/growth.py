"""The receive rate with 10 thousand, 100 thousand and a million events stored, each with the done job of its handler.

    python benchmarks/growth.py [--levels 10000,100000,1000000] [--seconds 5] [--database sqlite,postgresql] [--json]

The stored events are made by the database itself, with bodies of some 500 bytes and random delivery ids; then signed
bodies of 7 kB are received as in receive.py, over 50 connections. ``--levels …,10000000`` takes some 15 GB and minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import sqlalchemy as sa

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.receive import database, measure, running_server  # noqa: E402

from moorline.store import Store  # noqa: E402

LEVELS = "10000,100000,1000000"
BODY = json.dumps({"ref": "refs/heads/main", "text": "x" * 465})
HEADERS = json.dumps(
    {"x-github-event": "push", "x-hub-signature-256": "sha256=" + "0" * 64, "user-agent": "GitHub-Hookshot"}
)
STEP = 500_000
"""Rows a transaction."""
BEGAN = 1_700_000_000.0

EVENTS = "INSERT INTO events (id, service, delivery_key, type, received_at, headers, body) "
JOBS = (
    "INSERT INTO jobs (id, name, queue, priority, payload, state, run_at, attempts, max_attempts, deliveries, event_id,"
    " created_at, finished_at) "
)
# The numbers :first to :last, one row each; ids sort by time as ours do, delivery ids are random as GitHub's are.
NUMBERS = {
    "sqlite": "(WITH RECURSIVE n(i) AS (SELECT :first UNION ALL SELECT i + 1 FROM n WHERE i < :last) SELECT i FROM n)",
    "postgresql": "(SELECT i FROM generate_series(CAST(:first AS bigint), CAST(:last AS bigint)) AS i) AS n",
}
ID = {"sqlite": "printf('%032x', i)", "postgresql": "lpad(to_hex(i), 32, '0')"}
RANDOM = {"sqlite": "lower(hex(randomblob(16)))", "postgresql": "gen_random_uuid()"}
BYTES = {"sqlite": "CAST({} AS BLOB)", "postgresql": "convert_to({}, 'UTF8')"}


def statements(kind: str) -> tuple[str, str]:
    """What makes the events, and what makes their jobs."""
    time_, id_ = ":began + i / 1000.0", ID[kind]
    body, payload = BYTES[kind].format(":body"), BYTES[kind].format(id_)
    events = f"SELECT {id_}, 'github', '1:' || {RANDOM[kind]}, 'push', {time_}, :headers, {body} FROM {NUMBERS[kind]}"
    jobs = (
        f"SELECT {id_}, 'event.handler', 'default', 5, {payload}, 'done', {time_}, 1, 6, 1, {id_}, {time_}, {time_}"
        f" FROM {NUMBERS[kind]}"
    )
    return EVENTS + events, JOBS + jobs


def fill(url: str, level: int) -> float:
    """Store events until there are so many; the seconds that it took."""
    began = time.perf_counter()
    with Store(url, auto_migrate=True) as store:
        sqlite = store.dialect == "sqlite"
        there = store.read_sync(lambda c: int(c.exec_driver_sql("SELECT count(*) FROM events").scalar_one()))
    engine = sa.create_engine(store.url)
    events, jobs = statements(store.dialect)
    while there < level:
        last = min(level, there + STEP)
        values = {"first": there + 1, "last": last, "began": BEGAN}
        with engine.begin() as connection:
            if sqlite:
                connection.exec_driver_sql("PRAGMA synchronous = OFF")
            connection.execute(sa.text(events), {**values, "headers": HEADERS, "body": BODY})
            connection.execute(sa.text(jobs), values)
        there = last
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)" if sqlite else "CHECKPOINT")
    engine.dispose()
    return time.perf_counter() - began


def size(url: str) -> float:
    """Gigabytes of the database."""
    with Store(url, auto_migrate=False) as store:
        query = "SELECT pg_database_size(current_database())"
        if store.dialect == "sqlite":
            query = "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()"
        return store.read_sync(lambda c: int(c.exec_driver_sql(query).scalar_one())) / 1e9


def curve(kind: str, levels: list[int], seconds: float, *, quiet: bool) -> list[dict[str, Any]]:
    """One row for each level."""
    rows = []
    with database(kind) as url:
        for level in levels:
            took = fill(url, level)
            with running_server(url) as (port, _):
                found = measure(port, "/webhooks/github", seconds, 50)
            row = {"stored": level, "gigabytes": round(size(url), 2), "filled_in_s": round(took, 1), **found}
            rows.append(row)
            if not quiet:
                print(
                    f"{kind:<11}{level:>11,} stored  {row['gigabytes']:>6.2f} GB  {found['events_per_second']:>7,}"
                    f" events/s  p50 {found['p50_ms']:>7.2f} ms  p99 {found['p99_ms']:>7.2f} ms"
                    f"  failed {found['failed']}  (filled in {took:.0f} s)",
                    flush=True,
                )
    return rows


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--levels", default=LEVELS, help=f"numbers of stored events with commas (default {LEVELS})")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--database", default="sqlite,postgresql", help="sqlite, postgresql, or both with a comma")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    levels = sorted(int(level) for level in options.levels.split(","))
    kinds = options.database.split(",")
    results = {kind: curve(kind, levels, options.seconds, quiet=options.json) for kind in kinds}
    if options.json:
        machine = f"{os.cpu_count()} CPUs, {platform.machine()}, Python {platform.python_version()}"
        print(json.dumps({"machine": machine, **results}))
    if any(row["failed"] for rows in results.values() for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
