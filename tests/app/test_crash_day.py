"""A day on which receiver and worker are killed with -9 again and again: nothing that was promised is lost."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Self

import pytest
from tests.app.conftest import SECRET
from tests.servers import free_port

from moorline import Moorline
from moorline.errors import StoreError
from moorline.jobs.broker import JobFilter
from moorline.services import GitHub

pytestmark = [pytest.mark.crash, pytest.mark.timeout(170)]

SEED = 20261123
KILLS = 16
POISONED = (4, 8)
"""Before which kills a poison job is enqueued."""
SENDERS = 6
PATIENCE = 45.0
"""Seconds that any one step may take on a machine that does much else."""


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/day.db"
    return str(request.getfixturevalue("postgres_url"))


class Kept:
    """One command of moorline, started anew whenever it ends, as a supervisor does it."""

    def __init__(self, journals: Path, url: str, *arguments: str) -> None:
        self._command = [sys.executable, "-m", "moorline.cli", *arguments]
        clean = {name: value for name, value in os.environ.items() if not name.startswith("MOORLINE_")}
        self._environment = clean | {
            "MOORLINE_DATABASE_URL": url,
            "MOORLINE_WORKER__LEASE": "1.0",
            "MOORLINE_WORKER__CONCURRENCY": "10",
            "MOORLINE_LOG__LEVEL": "WARNING",
            "JOURNALS": str(journals),
            "GITHUB_WEBHOOK_SECRET": SECRET,
        }
        self.process: asyncio.subprocess.Process | None = None
        self.exits: list[int] = []
        self._stopping = False
        self._keeper: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._keeper = asyncio.create_task(self._keep())
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Ask it to stop, as a deployment does."""
        assert self._keeper is not None
        self._stopping = True
        if self.process is not None and self.process.returncode is None:
            self.process.terminate()
            try:
                await asyncio.wait_for(asyncio.shield(self._keeper), PATIENCE)
            except TimeoutError:
                self.process.kill()
        await self._keeper

    async def _keep(self) -> None:
        while not self._stopping:
            self.process = await asyncio.create_subprocess_exec(
                *self._command, cwd=Path(__file__).parent, env=self._environment
            )
            self.exits.append(await self.process.wait())

    @property
    def pid(self) -> int:
        """Of the present process; 0 between two."""
        return 0 if self.process is None or self.process.returncode is not None else self.process.pid

    def kill(self, pid: int) -> bool:
        """``kill -9`` that process; False if it is gone already."""
        if pid != self.pid or self.process is None:
            return False
        try:
            self.process.kill()
        except ProcessLookupError:
            return False
        return True


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

    async def _send_events(self, sender: int) -> None:
        number = 0
        while not self.over.is_set():
            identity = f"{sender}-{number}"
            async with asyncio.timeout(PATIENCE):
                while not await self._delivered(identity):  # noqa: ASYNC110 -- comes again with the same id, as senders do
                    await asyncio.sleep(self.chance.uniform(0.0, 0.05))
            self.answered.add(identity)
            number += 1
            await asyncio.sleep(self.chance.uniform(0.0, 0.05))

    async def _delivered(self, identity: str) -> bool:
        body = b'{"delivery":"%s","padding":"%s"}' % (identity.encode(), b"x" * 3000)
        headers = {
            **GitHub.webhooks.sign(body, SECRET),
            "Host": "day",
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "X-GitHub-Hook-ID": "1",
            "X-GitHub-Delivery": identity,
            "X-GitHub-Event": "push",
            "Connection": "close",
        }
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        try:
            writer.write(f"POST /webhooks/github HTTP/1.1\r\n{head}\r\n".encode() + body)
            line = await reader.readline()
        except OSError:
            return False
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        if line.count(b" ") < 2 or not line.endswith(b"\n"):
            return False
        status = int(line.split()[1])
        self.statuses.add(status)
        return 200 <= status < 300

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
            while any(state in ("ready", "running") for _, state in await self.app.jobs.broker.counts()):  # noqa: ASYNC110
                await asyncio.sleep(0.1)

    async def hit_twice(self) -> bool:
        """Whether an innocent job waits or runs that was running at two kills already."""
        which = [JobFilter(state=state, limit=10_000) for state in ("ready", "running")]
        waiting = [job for one in which for job in await self.app.jobs.broker.list(one)]
        return any(job.crashes > 1 and job.name != "poison" for job in waiting)


async def _innocent(number: int) -> None: ...


async def _poison(number: int) -> None: ...


async def so(condition: Callable[[], Any]) -> None:
    """Until a fact about other processes, which can be seen only by looking."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


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
    async with Moorline(database_url) as app:
        day = Day(app, port, journals)
        async with (
            Kept(journals, database_url, "serve", "crash_app:app", "--port", str(port)) as receiver,
            Kept(journals, database_url, "worker", "crash_app:app") as worker,
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
    rows = await day.app.store.read(lambda c: c.exec_driver_sql("SELECT delivery_key FROM events").fetchall())
    stored = [key.removeprefix("1:") for (key,) in rows]
    handled = set(day.notes("event"))
    assert day.statuses <= {200, 503}
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
