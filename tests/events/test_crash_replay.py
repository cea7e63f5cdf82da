"""A replay whose process is killed with -9 again and again goes on and enqueues nothing twice."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest
from tests.events.stored import add_all, pull
from tests.warm import Warm

from moorline.events import Inbox
from moorline.events.selection import Selection
from moorline.services import GitHub
from moorline.store.store import Store

EVENTS = 400


@pytest.mark.crash
@pytest.mark.timeout(180)
def test_a_killed_replay_goes_on_and_repeats_nothing(database_url: str):
    """Killed after random pages until it is done: two jobs for each event, in the order of arrival, and an exact count."""
    chance = random.Random(20261127)
    with Store(database_url, auto_migrate=True) as store:
        ids = add_all(Inbox(store), [pull(n) for n in range(EVENTS)])
        inbox = Inbox(store)
        for name in ("one", "two"):
            inbox.handlers.on(GitHub, "*", name=name)(len)
        started = inbox.replays.start_sync(Selection(), actor="crash test")
    kills = 0
    while kills < 100:
        command = [sys.executable, str(Path(__file__).with_name("crash_replay.py")), database_url, started.id]
        with Warm(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            lines = chance.randint(1, 25)
            read = [line for _, line in zip(range(lines), process.stdout, strict=False)]
            process.kill()
        kills += 1
        if read and int(read[-1]) == EVENTS:
            break
    assert kills > 2
    with Store(database_url, auto_migrate=False) as store:
        query = "SELECT event_id, name FROM jobs ORDER BY id"
        jobs = [tuple(row) for row in store.read_sync(lambda c: c.exec_driver_sql(query).fetchall())]
        assert jobs == [(id_, f"event:{name}") for id_ in ids for name in ("one", "two")]
        ended = Inbox(store).replays.get_sync(started.id)
        assert (ended.state, ended.events, ended.jobs) == ("done", EVENTS, 2 * EVENTS)
