"""A day on which receiver and worker are killed with -9 again and again: nothing that was promised is lost."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.app.conftest import SECRET
from tests.processes import PATIENCE, Kept, moorline_command, so
from tests.senders import Sender, github_request
from tests.servers import free_port

from moorline import Moorline
from moorline.errors import StoreError
from moorline.jobs.broker import JobFilter

pytestmark = [pytest.mark.crash, pytest.mark.timeout(170)]

SEED = 20261123
KILLS = 16
POISONED = (4, 8)
"""Before which kills a poison job is enqueued."""
SENDERS = 6
_UNFINISHED = ("outbox", "ready", "running")


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param("postgres", marks=pytest.mark.postgres),
        pytest.param("sqlite and redis", marks=pytest.mark.redis),
    ]
)
def database_url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Of the events; in the last case the jobs wait in Redis."""
    if request.param == "postgres":
        return str(request.getfixturevalue("postgres_url"))
    if request.param != "sqlite":
        monkeypatch.setenv("MOORLINE_QUEUE_URL", request.getfixturevalue("redis_server").url)
    return f"sqlite:///{tmp_path}/day.db"


def environment(journals: Path, url: str) -> dict[str, str]:
    """Of a process of the day."""
    return {
        "MOORLINE_DATABASE_URL": url,
        "MOORLINE_WORKER__LEASE": "1.0",
        "MOORLINE_WORKER__CONCURRENCY": "10",
        "MOORLINE_LOG__LEVEL": "WARNING",
        "JOURNALS": str(journals),
        "GITHUB_WEBHOOK_SECRET": SECRET,
        **{name: os.environ[name] for name in ("MOORLINE_QUEUE_URL",) if name in os.environ},
    }


class Day:
    """The senders and the producer, and what they were promised."""

    def __init__(self, app: Moorline, port: int, journals: Path) -> None:
        self.app = app
        self.port = port
        self.journals = journals
        self.chance = random.Random(SEED)
        self.over = asyncio.Event()
        self.answered: set[str] = set()
        self.enqueued: set[int] = set()
        self.statuses: set[int] = set()
        self.innocent = app.job(name="innocent")(_innocent)
        self.poison = app.job(name="poison")(_poison)

    @contextlib.asynccontextmanager
    async def busy(self) -> AsyncIterator[None]:
        """Senders send and the producer produces, until the block ends; all of them finish what they began."""
        async with asyncio.TaskGroup() as group:
            for sender in range(SENDERS):
                group.create_task(self._send_events(sender))
            group.create_task(self._enqueue_jobs())
            try:
                yield
            finally:
                self.over.set()

    async def _send_events(self, index: int) -> None:
        sender = Sender(lambda: ("127.0.0.1", self.port))
        number = 0
        while not self.over.is_set():
            identity = f"{index}-{number}"
            async with asyncio.timeout(PATIENCE):
                await sender.deliver(github_request(identity, SECRET), pause=lambda: self.chance.uniform(0.0, 0.05))
            self.answered.add(identity)
            number += 1
            await asyncio.sleep(self.chance.uniform(0.0, 0.05))
        await sender.close()
        self.statuses |= sender.statuses.keys()

    async def _enqueue_jobs(self) -> None:
        number = 0
        while not self.over.is_set():
            with contextlib.suppress(StoreError):
                await self.innocent.enqueue(number)
                self.enqueued.add(number)
            number += 1
            await asyncio.sleep(self.chance.uniform(0.0, 0.02))

    def notes(self, kind: str) -> list[str]:
        """What handlers or jobs noted, in all processes."""
        lines = [line for file in self.journals.iterdir() for line in file.read_text().splitlines()]
        return [line.removeprefix(f"{kind} ") for line in lines if line.startswith(f"{kind} ")]

    def worked(self, pid: int) -> bool:
        """Whether that worker process did anything yet."""
        file = self.journals / str(pid)
        return bool(pid) and file.exists() and file.stat().st_size > 0

    async def settled(self) -> None:
        """Until no job waits or runs."""
        async with asyncio.timeout(PATIENCE):
            while any(state in _UNFINISHED for _, state in await self.app.jobs.broker.counts()):  # noqa: ASYNC110
                await asyncio.sleep(0.1)

    async def hit_twice(self) -> bool:
        """Whether an innocent job waits or runs that was running at two kills already."""
        which = [JobFilter(state=state, limit=10_000) for state in ("ready", "running")]
        waiting = [job for one in which for job in await self.app.jobs.broker.list(one)]
        return any(job.crashes > 1 and job.name != "poison" for job in waiting)


async def _innocent(number: int) -> None: ...


async def _poison(number: int) -> None: ...


async def kill_in_turn(day: Day, receiver: Kept, worker: Kept) -> None:
    """Kill one, then the other, each at a random moment after it did something; poison comes in between."""
    moments = random.Random(SEED)
    for turn in range(KILLS):
        if turn in POISONED:
            await day.poison.enqueue(turn)
        if turn % 2:
            await _kill_worker(day, worker, moments)
        else:
            before = len(day.answered)
            await so(lambda count=before: len(day.answered) > count + SENDERS)  # type: ignore[misc]
            await asyncio.sleep(moments.uniform(0.0, 0.4))
            assert receiver.kill(receiver.pid)


async def _kill_worker(day: Day, worker: Kept, moments: random.Random) -> None:
    while True:
        await so(lambda: day.worked(worker.pid))
        pid = worker.pid
        await asyncio.sleep(moments.uniform(0.0, 0.4))
        while await day.hit_twice():  # noqa: ASYNC110
            # A third hit of ours would make it dead, and rightly: nothing tells it from poison.
            await asyncio.sleep(0.01)
        if worker.kill(pid):  # unless poison was faster
            return


async def test_a_day_of_crashes_loses_nothing(database_url: str, tmp_path: Path) -> None:
    """After 16 kills: each event answered 2xx was handled, none is stored twice, no job is lost, only poison is dead."""
    journals = tmp_path / "journals"
    journals.mkdir()
    port = free_port()
    serve = moorline_command("serve", "crash_app:app", "--port", str(port))
    work = moorline_command("worker", "crash_app:app")
    here, told = Path(__file__).parent, environment(journals, database_url)
    async with Moorline(database_url) as app:
        day = Day(app, port, journals)
        async with (
            Kept(serve, cwd=here, environment=told) as receiver,
            Kept(work, cwd=here, environment=told) as worker,
        ):
            async with day.busy():
                await kill_in_turn(day, receiver, worker)
            await day.settled()
        killed = -signal.SIGKILL
        assert receiver.exits == [killed] * (KILLS // 2) + [0]
        # Poison kills besides: each one up to three times, and less often where our kill met it.
        assert set(worker.exits[:-1]) == {killed}
        assert KILLS // 2 < len(worker.exits[:-1]) <= KILLS // 2 + 3 * len(POISONED)
        assert worker.exits[-1] == 0
        await assert_kept(day)


async def assert_kept(day: Day) -> None:
    """The promises, read from the database and from what the processes noted."""
    broker = day.app.jobs.broker
    rows = await day.app.store.read(lambda c: c.exec_driver_sql("SELECT sender_id FROM events").fetchall())
    stored = [key.removeprefix("1:") for (key,) in rows]
    handled = set(day.notes("event"))
    assert day.statuses <= {0, 200, 503}
    assert len(day.answered) > KILLS * SENDERS
    assert len(stored) == len(set(stored))
    assert day.answered <= set(stored)
    assert handled == set(stored)
    ran = {int(number) for number in day.notes("job")}
    assert len(day.enqueued) > KILLS
    assert day.enqueued <= ran
    dead = await broker.list(JobFilter(state="dead"))
    assert [(job.name, job.reason, job.crashes) for job in dead] == [("poison", "crashed", 3)] * len(POISONED)
    assert await broker.counts() == {
        ("default", "dead"): len(POISONED),
        ("default", "done"): len(stored) + len(ran),
    }
