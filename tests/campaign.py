"""A campaign of ``kill -9``: senders send, random processes are killed, and at the end promises and books are compared.

Each event is sent until it is answered 2xx, and books its amount in a ledger (``tests/app/ledger_app.py``).
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.processes import PATIENCE, Kept, moorline_command, so
from tests.senders import Address, Sender, github_request
from tests.servers import free_port

from moorline.store import Store

__all__ = ["Books", "Campaign", "Crowd", "Ledger", "Plan", "compared"]

SECRET = "campaign-webhook-secret"
APP_FOLDER = Path(__file__).parent / "app"
EARLY = 0.1
"""How many of the kills do not wait until their process did anything: they meet it while it starts."""

STAY = 8
"""How many events a sender gives to one receiver before it turns to the next."""


class Ledger:
    """The books that the handlers keep, in a folder; see ``tests/app/ledger_app.py``."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "ledger.db"
        self.journals = folder / "journals"
        self.journals.mkdir()
        with self._open() as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("CREATE TABLE booked (delivery TEXT PRIMARY KEY, runs INTEGER NOT NULL)")
            connection.execute("CREATE TABLE account (total INTEGER NOT NULL, entries INTEGER NOT NULL)")
            connection.execute("INSERT INTO account VALUES (0, 0)")

    def environment(self, url: str, **more: str) -> dict[str, str]:
        """Of a process that runs the application."""
        return {
            "MOORLINE_DATABASE_URL": url,
            "MOORLINE_WORKER__LEASE": "1.0",
            "MOORLINE_LOG__LEVEL": "ERROR",
            "MOORLINE_TAP": "false",
            "GITHUB_WEBHOOK_SECRET": SECRET,
            "LEDGER": str(self.path),
            "JOURNALS": str(self.journals),
            **more,
        }

    def worked(self, pid: int) -> bool:
        """Whether that worker process booked anything yet."""
        return bool(pid) and (self.journals / str(pid)).exists()

    def account(self) -> tuple[int, int]:
        """The sum of what was booked, and of how many events."""
        with self._open() as connection:
            total, entries = connection.execute("SELECT total, entries FROM account").fetchone()
            return int(total), int(entries)

    def booked(self) -> dict[str, int]:
        """How often the handler ran, by delivery."""
        with self._open() as connection:
            return dict(connection.execute("SELECT delivery, runs FROM booked"))

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with contextlib.closing(sqlite3.connect(self.path, isolation_level=None, timeout=30)) as connection:
            yield connection


def _amount(number: int) -> int:
    return number % 97 + 1


class Crowd:
    """Senders that share the events among them, each one sent until it is answered 2xx.

    ``answered`` has the amounts of those that were, by delivery; ``allowed`` is how many may be sent by now.
    """

    def __init__(
        self, events: int, addresses: Sequence[Address], *, senders: int, seed: int, patience: float = 10.0,
        source: str | None = None,
    ) -> None:  # fmt: skip
        self.answered: dict[str, int] = {}
        self.allowed = events
        self.by_address: Counter[Address] = Counter()
        self._chance = random.Random(seed)
        self._numbers = iter(range(events))
        self._addresses = addresses
        self._senders = [Sender(self._home(index), patience=patience, source=source) for index in range(senders)]

    def _home(self, index: int) -> Callable[[], Address]:
        # Who was not answered tries the next receiver; the others change now and then, so that none has all senders.
        def choose() -> Address:
            statuses = self._senders[index].statuses
            return self._addresses[(index + statuses[0] + statuses[200] // STAY) % len(self._addresses)]

        return choose

    @property
    def waits(self) -> bool:
        """Whether all that may be sent was answered."""
        return len(self.answered) >= self.allowed

    @property
    def statuses(self) -> Counter[int]:
        """Of all answers; 0 stands for none."""
        return sum((sender.statuses for sender in self._senders), Counter[int]())

    async def send(self) -> None:
        """Send all of them."""
        async with asyncio.TaskGroup() as group:
            for sender in self._senders:
                group.create_task(self._send(sender))

    async def _send(self, sender: Sender) -> None:
        for number in self._numbers:
            while number >= self.allowed:  # noqa: ASYNC110 -- the kills are behind
                await asyncio.sleep(0.01)
            identity, amount = f"event-{number}", _amount(number)
            request = github_request(identity, SECRET, amount=amount)
            at = await sender.deliver(request, pause=lambda: self._chance.uniform(0.0, 0.05))
            self.answered[identity] = amount
            self.by_address[at] += 1
        await sender.close()


@dataclass(frozen=True, slots=True)
class Books:
    """What was promised, what is stored and what was booked, compared. ``problems`` is empty when all is well."""

    answered: int
    stored: int
    booked: int
    duplicates: int
    """Deliveries that came again after they were stored."""
    runs: int
    """How often handlers ran: more than ``booked`` where a process died between the effect and its note."""
    problems: tuple[str, ...]


def compared(url: str, ledger: Ledger, answered: dict[str, int]) -> Books:
    """Read database and ledger as they are."""
    with Store(url, auto_migrate=False) as store:

        def rows(query: str) -> list[tuple[object, ...]]:
            return store.read_sync(lambda c: [tuple(row) for row in c.exec_driver_sql(query).fetchall()])

        keys = [str(key).removeprefix("1:") for (key,) in rows("SELECT sender_id FROM events")]
        duplicates = int(str(rows("SELECT coalesce(sum(duplicates), 0) FROM events")[0][0]))
        jobs = {str(state): int(str(count)) for state, count in rows("SELECT state, count(*) FROM jobs GROUP BY state")}
    stored, runs = set(keys), ledger.booked()
    total, entries = ledger.account()
    facts = {
        "acknowledged and not stored": len(answered.keys() - stored),
        "acknowledged and not handled": len(answered.keys() - runs.keys()),
        "handled and never stored": len(runs.keys() - stored),
        "stored twice": len(keys) - len(stored),
        "stored and not handled": len(stored - runs.keys()),
        "entries beside the booked events": abs(entries - len(runs)),
        "amount booked twice or not at all": abs(total - sum(_amount(int(one.rpartition("-")[2])) for one in runs)),
        "jobs that did not end well": sum(count for state, count in jobs.items() if state != "done"),
        "jobs missing or too many": abs(sum(jobs.values()) - len(stored)),
    }
    problems = tuple(f"{name}: {count}" for name, count in facts.items() if count)
    return Books(len(answered), len(stored), len(runs), duplicates, sum(runs.values()), problems)


@dataclass(frozen=True, slots=True)
class Plan:
    """The size of a campaign; the same seed makes the same choices."""

    events: int = 50_000
    kills: int = 200
    seed: int = 20261127
    senders: int = 24
    receivers: int = 2
    workers: int = 2


@dataclass
class Campaign:
    """One campaign against the database at ``url``; ``say`` is told how it goes."""

    url: str
    plan: Plan
    folder: Path
    say: Callable[[str], None] = print
    kills: Counter[str] = field(default_factory=Counter)

    async def run(self) -> Books:
        """Send, kill, wait until all is handled, compare."""
        plan = self.plan
        self.ledger = Ledger(self.folder)
        self._store = Store(self.url, auto_migrate=True).open()
        self._chance = random.Random(plan.seed)
        addresses = [("127.0.0.1", free_port()) for _ in range(plan.receivers)]
        self.crowd = Crowd(plan.events, addresses, senders=plan.senders, seed=plan.seed)
        self._began = time.monotonic()
        try:
            async with contextlib.AsyncExitStack() as stack:
                self._receivers = {
                    address: await stack.enter_async_context(
                        self._kept("serve", "ledger_app:app", "--port", str(address[1]))
                    )
                    for address in addresses
                }
                self._workers = [
                    await stack.enter_async_context(self._kept("worker", "ledger_app:app")) for _ in range(plan.workers)
                ]
                async with asyncio.TaskGroup() as group:
                    group.create_task(self.crowd.send())
                    group.create_task(self._kill_all())
                self.sent_in = time.monotonic() - self._began
                await so(self._settled, seconds=120 + plan.events / 100)
        finally:
            self._store.close()
        self.seconds = time.monotonic() - self._began
        return compared(self.url, self.ledger, self.crowd.answered)

    def _kept(self, *arguments: str) -> Kept:
        environment = self.ledger.environment(self.url)
        return Kept(moorline_command(*arguments), cwd=APP_FOLDER, environment=environment)

    async def _kill_all(self) -> None:
        """Spread over the events: a kill waits for its share of them, and they wait for it."""
        share = self.plan.events / self.plan.kills
        for number in range(self.plan.kills):
            self.crowd.allowed = min(self.plan.events, int((number + 1.5) * share) + 1)
            due = int(number * share)
            await so(lambda due=due: self._progress() >= due, seconds=10 * PATIENCE)  # type: ignore[misc]
            kind = self._chance.choice(("receiver", "worker"))
            await (self._kill_receiver() if kind == "receiver" else self._kill_worker())
            self.kills[kind] += 1
            if (number + 1) % max(1, self.plan.kills // 20) == 0:
                seconds = time.monotonic() - self._began
                self.say(
                    f"  {seconds:6.0f} s  {number + 1:4} kills  {len(self.crowd.answered):7,} acknowledged"
                    f"  {self.ledger.account()[1]:7,} booked"
                )
        self.crowd.allowed = self.plan.events

    def _progress(self) -> int:
        """Of senders and handlers, whichever is behind; handlers may be so by a backlog that stays one."""
        return min(len(self.crowd.answered), self.ledger.account()[1] + 2_000)

    async def _kill_receiver(self) -> None:
        address = self._chance.choice(list(self._receivers))
        victim, early = self._receivers[address], self._chance.random() < EARLY
        before = self.crowd.by_address[address]
        if not early:
            await so(lambda: victim.pid and (self.crowd.by_address[address] > before or self.crowd.waits))
        await asyncio.sleep(self._chance.uniform(0.0, 0.2))
        await so(lambda: victim.kill(victim.pid))

    async def _kill_worker(self) -> None:
        victim, early = self._chance.choice(self._workers), self._chance.random() < EARLY
        if not early:
            await so(lambda: self.ledger.worked(victim.pid) or self._idle())
        await asyncio.sleep(self._chance.uniform(0.0, 0.2))
        # A third hit of ours would make a job dead, and rightly: nothing tells it from one that kills its worker.
        await so(lambda: not self._count("state IN ('ready', 'running') AND crashes > 1"))
        await so(lambda: victim.kill(victim.pid))

    def _idle(self) -> bool:
        """Whether there is nothing to do for a worker that has yet to do something."""
        return not self._count("state IN ('ready', 'running')")

    def _settled(self) -> bool:
        return len(self.crowd.answered) == self.plan.events and self._idle()

    def _count(self, which: str) -> int:
        query = f"SELECT count(*) FROM (SELECT 1 FROM jobs WHERE {which} LIMIT 1) AS any_job"
        return int(self._store.read_sync(lambda connection: connection.exec_driver_sql(query).scalar_one()))
