"""The receiver is killed with -9 at random moments under load; what it answered 2xx is kept, once, with its jobs."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.senders import Sender, github_request
from tests.warm import Warm

from moorline.store.store import Store

KILLS = 15
SENDERS = 12


class Receiver:
    """The process, started anew after each kill; ``port`` is None while it is away."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.port: int | None = None
        self.process: subprocess.Popen[str] | None = None

    async def start(self) -> None:
        """Start it and wait until it listens."""
        command = [sys.executable, str(Path(__file__).with_name("crash_receiver.py")), self.url]
        self.process = Warm(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.port = int(await asyncio.to_thread(self.process.stdout.readline))

    def kill(self) -> None:
        """``kill -9``."""
        assert self.process is not None
        assert self.process.stdout is not None
        self.port = None
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


async def send_for_ever(receiver: Receiver, index: int, answered: list[str], stop: asyncio.Event) -> None:
    """Send event after event; one that was not answered 200 is sent again, as senders do."""
    sender = Sender(lambda: None if receiver.port is None else ("127.0.0.1", receiver.port))
    number = 0
    while not stop.is_set():
        identity = f"{index}-{number}"
        await sender.deliver(github_request(identity, "crash"), pause=lambda: 0.01)
        answered.append(identity)
        number += 1
    await sender.close()


@pytest.mark.crash
@pytest.mark.timeout(180)
async def test_what_was_answered_is_kept_once_with_its_jobs(database_url: str):
    """After 15 kills at random moments: every event answered 200 is stored, none twice, each with exactly its two jobs."""
    chance = random.Random(20261123)
    receiver = Receiver(database_url)
    answered: list[str] = []
    stop = asyncio.Event()
    await receiver.start()
    tasks = [asyncio.ensure_future(send_for_ever(receiver, n, answered, stop)) for n in range(SENDERS)]
    try:
        for _ in range(KILLS):
            before = len(answered)
            while len(answered) == before:  # noqa: ASYNC110 -- never kill one that has not worked yet
                await asyncio.sleep(0.005)
            await asyncio.sleep(chance.uniform(0.0, 0.3))
            receiver.kill()
            await receiver.start()
        await asyncio.sleep(0.2)
    finally:
        stop.set()
        await asyncio.wait(tasks, timeout=20)
        receiver.kill()
    for task in tasks:
        await task
    assert len(answered) > KILLS
    with Store(database_url, auto_migrate=False) as store:
        assert_kept(lambda query: store.read_sync(lambda c: c.exec_driver_sql(query).fetchall()), answered)


def assert_kept(rows: Callable[[str], Any], answered: list[str]) -> None:
    """The facts, read from the database as it is."""
    stored = [key.removeprefix("1:") for (key,) in rows("SELECT sender_id FROM events")]
    assert len(stored) == len(set(stored))
    assert set(answered) <= set(stored)
    # What was stored and not answered is at most the one that each sender was sending.
    assert len(set(stored) - set(answered)) <= SENDERS
    jobs = rows("SELECT event_id, count(*), count(DISTINCT name) FROM jobs GROUP BY event_id")
    assert {tuple(counts) for _, *counts in jobs} == {(2, 2)}
    assert {event for event, *_ in jobs} == {event for (event,) in rows("SELECT id FROM events")}
