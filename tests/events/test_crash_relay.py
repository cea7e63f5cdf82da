"""Relays are killed with -9 at random moments under load; what was committed arrives, once, in its order."""

from __future__ import annotations

import asyncio
import functools
import random
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.events.relaying import relayed
from tests.events.stored import pull
from tests.processes import Kept, so
from tests.servers import RunningPostgres

from moorline.events import Inbox, Relay
from moorline.jobs.brokers.sql import SqlBroker
from moorline.store.store import Store

ROOT = Path(__file__).resolve().parents[2]
KILLS = 12
LANES = 4


def read(store: Store, query: str) -> list[Any]:
    """Rows of the database as it is."""
    return [tuple(row) for row in store.read_sync(lambda c: c.exec_driver_sql(query).fetchall())]


async def receive(inbox: Inbox, numbers: Any, stop: asyncio.Event) -> int:
    """Store event after event; how many."""
    stored = 0
    while not stop.is_set():
        number = next(numbers)
        await inbox.add(pull(number, lane=f"l{number % LANES}"))
        stored += 1
        await asyncio.sleep(0.03)
    return stored


@pytest.mark.crash
@pytest.mark.postgres
@pytest.mark.timeout(180)
async def test_killed_relays_lose_nothing(database_url: str, postgres_server: RunningPostgres):
    """Two receivers, two relays, 12 kills: each committed job is in the target exactly once, and none is left behind."""
    chance = random.Random(20261128)
    to = postgres_server.create_database()
    with Store(to, auto_migrate=True) as target, Store(database_url, auto_migrate=True) as store:
        with Store(database_url, auto_migrate=False) as away:
            command = [sys.executable, str(Path(__file__).with_name("crash_relay.py")), database_url, to]
            stop, numbers = asyncio.Event(), iter(range(10**9))
            inboxes = [relayed(one, Relay(one, SqlBroker(target))) for one in (store, away)]
            receivers = [asyncio.create_task(receive(inbox, numbers, stop)) for inbox in inboxes]
            python = {"PYTHONPATH": str(ROOT / "src")}
            async with (
                Kept(command, cwd=ROOT, environment=python) as one,
                Kept(command, cwd=ROOT, environment=python) as two,
            ):
                for _ in range(KILLS):
                    await so(functools.partial(more, target, moved(target)))
                    await asyncio.sleep(chance.uniform(0.0, 0.15))
                    for victim in chance.sample([one, two], chance.choice([1, 2])):
                        victim.kill(victim.pid)
                stop.set()
                stored = sum(await asyncio.gather(*receivers))
                await so(lambda: read(store, "SELECT count(*) FROM jobs") == [(0,)])
        events = read(store, "SELECT id FROM events ORDER BY id")
        jobs = read(
            target, "SELECT event_id, count(*), count(DISTINCT name) FROM jobs GROUP BY event_id ORDER BY event_id"
        )
        assert len(events) == stored > KILLS
        assert jobs == [(id_, 2, 2) for (id_,) in events]
        # The first of each order is its head: none was overtaken.
        ordered = read(target, "SELECT order_key, state, id FROM jobs WHERE order_key IS NOT NULL ORDER BY id")
        firsts = list({key: (state, id_) for key, state, id_ in reversed(ordered)}.values())
        assert [state for state, _ in firsts] == ["ready"] * LANES
        assert {state for _, state, id_ in ordered if ("ready", id_) not in firsts} == {"blocked"}
    postgres_server.drop_database(to)


def more(target: Store, before: int) -> bool:
    """Whether it has more jobs now."""
    return moved(target) > before


def moved(target: Store) -> int:
    """How many jobs the target has."""
    return int(read(target, "SELECT count(*) FROM jobs")[0][0])
