"""Two worker processes keep the order of each key, while jobs come from two more sides, and when they are killed."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.warm import Warm

from moorline.jobs.broker import Completion, WorkerInfo
from moorline.jobs.brokers.sql import SqlBroker
from moorline.jobs.registry import Jobs
from moorline.store import Store
from moorline.store.ids import new_id

pytestmark = [pytest.mark.crash, pytest.mark.timeout(150)]

SCRIPT = Path(__file__).with_name("ordered_worker.py")
KEYS = 12
ROUNDS = 25


async def step(key: str, number: int) -> None: ...


def start(url: str, journals: Path) -> subprocess.Popen[bytes]:
    return Warm([sys.executable, str(SCRIPT), url, str(journals)])


@contextmanager
def workers(url: str, journals: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    running = [start(url, journals) for _ in range(2)]
    try:
        yield running
    finally:
        for one in running:
            one.kill()
            one.wait(30)


async def all_done(jobs: Jobs, count: int) -> bool:
    return (await jobs.broker.counts()).get(("default", "done"), 0) == count


async def enqueue(jobs: Jobs, first: int) -> None:
    """One job for each key, *first* and the next one of it, in commits that others share."""
    function = jobs.function(step)
    await asyncio.gather(*(function.using(key=f"k{key}").enqueue(f"k{key}", first) for key in range(KEYS)))


def steps(journal: Path) -> list[tuple[str, int, int]]:
    lines = [line.split() for line in journal.read_text().splitlines()]
    return [(what, int(number), int(pid)) for what, number, pid in lines]


@pytest.mark.postgres
async def test_two_workers_and_two_senders_keep_the_order_of_each_key(
    migrated_postgres_url: str, tmp_path: Path
) -> None:
    """Each key's jobs begin after the one before has ended, in either process, and all of them run once."""
    with Store(migrated_postgres_url, auto_migrate=True) as store, Store(migrated_postgres_url) as other:
        senders = [Jobs(SqlBroker(store)), Jobs(SqlBroker(other))]
        began = time.monotonic()
        with workers(migrated_postgres_url, tmp_path):
            for number in range(ROUNDS):
                # The two senders at once: which is first in a key is the database's to say.
                await asyncio.gather(*(enqueue(jobs, 2 * number + side) for side, jobs in enumerate(senders)))
            while not await all_done(senders[0], 2 * ROUNDS * KEYS):
                assert time.monotonic() - began < 60
                await asyncio.sleep(0.05)
    pids = set()
    for key in range(KEYS):
        seen = steps(tmp_path / f"k{key}")
        assert [what for what, _, _ in seen] == ["begin", "end"] * (2 * ROUNDS)
        assert all(seen[place][1:] == seen[place + 1][1:] for place in range(0, len(seen), 2))
        numbers = [number for what, number, _ in seen if what == "end"]
        assert sorted(numbers) == list(range(2 * ROUNDS))
        # Rounds came one after the other; within one, either sender may have been first.
        assert [number // 2 for number in numbers] == [number // 2 for number in sorted(numbers)]
        pids |= {pid for _, _, pid in seen}
    assert len(pids) == 2


@pytest.mark.postgres
async def test_who_adds_and_ends_jobs_in_one_transaction_locks_nobody_in_a_ring(migrated_postgres_url: str) -> None:
    """Two processes, each ending a job of the key to which the other one adds: PostgreSQL has no deadlock to break."""

    def wait(connection: Any, payloads: list[threading.Event]) -> list[bool]:
        return [one.wait(10) for one in payloads]

    def linger(connection: Any, payloads: list[float]) -> list[float]:
        time.sleep(sum(payloads))
        return payloads

    with Store(migrated_postgres_url, auto_migrate=True) as store, Store(migrated_postgres_url) as other:
        stores = (store, other)
        both = [Jobs(SqlBroker(one)) for one in stores]
        function, theirs = (jobs.function(step) for jobs in both)
        await function.using(key="a").enqueue("a", 0)
        await function.using(key="b").enqueue("b", 0)
        now = time.time()
        ours, other_one = (
            await both[0].broker.claim(WorkerInfo(new_id(now), "host", 1, ("default",), now, 60.0), 2)
        ).jobs
        go = threading.Event()
        first: list[asyncio.Future[Any]] = [asyncio.ensure_future(one.write(wait, go)) for one in stores]
        await asyncio.sleep(0.05)
        # Now all of these wait for each writer's next transaction, in this order.
        for one, jobs, claim, mine, key in (
            (store, both[0], ours, function, "b"),
            (other, both[1], other_one, theirs, "a"),
        ):
            done = Completion(claim.id, claim.deliveries, "done", order_key=claim.order_key)
            first.append(asyncio.ensure_future(jobs.broker.finish([done])))
            await asyncio.sleep(0)
            first.append(asyncio.ensure_future(one.write(linger, 0.05)))
            await asyncio.sleep(0)
            first.append(asyncio.ensure_future(mine.using(key=key).enqueue(key, 1)._send()))
            await asyncio.sleep(0)
        go.set()
        await asyncio.gather(*first)
        counts = await both[0].broker.counts()
    assert counts == {("default", "done"): 2, ("default", "ready"): 2}
    with psycopg.connect(migrated_postgres_url.replace("+psycopg", "")) as connection:
        found = connection.execute(
            "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        ).fetchone()
    assert found == (0,)


async def test_killed_workers_keep_the_order(any_jobs: Jobs, broker_url: str, tmp_path: Path) -> None:
    """After kills at random moments a job may have begun twice, but never beside or after a later one of its key."""
    jobs = any_jobs
    chance = random.Random(20261127)
    number = 0
    began = time.monotonic()
    with workers(broker_url, tmp_path) as running:
        for _ in range(6):
            for _ in range(4):
                await enqueue(jobs, number)
                number += 1
            await asyncio.sleep(chance.uniform(0.2, 0.6))
            victim = chance.randrange(2)
            running[victim].kill()
            running[victim].wait(30)
            running[victim] = start(broker_url, tmp_path)
            # No third crash of a job: it would be taken for poison.
            await asyncio.sleep(1.5)
        while not await all_done(jobs, number * KEYS):
            assert time.monotonic() - began < 100
            await asyncio.sleep(0.05)
    for key in range(KEYS):
        seen = [(number, what) for what, number, _ in steps(tmp_path / f"k{key}")]
        assert [number for number, _ in seen] == sorted(number for number, _ in seen)
        assert {number for number, what in seen if what == "end"} == set(range(number))
