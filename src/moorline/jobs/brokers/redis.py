"""The broker on Redis or Valkey: hashes, sorted sets, and one script (``redis.lua``) for all that changes them.

Why not streams with consumer groups: here a lease is a worker's, not an entry's, jobs have priorities and are cancelled
by their id, and all that must survive a crash of the answer; a stream has none of that, so each job would need a second
record beside its entry.

One thread sends what changes anything, but for claims, which have one of their own: the answer to one is large, and is
read while the results of others are written. Only a claim that was woken by a job goes with that one. What is asked
while a thread waits for the server goes together with the next, so that concurrent ``enqueue`` and ``finish`` share
round trips, in both colours.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Final, Self, TypeVar

import msgspec

from moorline.clock import SYSTEM, Clock
from moorline.errors import ConfigurationError, Misuse, StoreError
from moorline.jobs.broker import Claimed, Completion, Keyed, Rescued, WorkerInfo
from moorline.jobs.brokers.kept import InOutbox, Nowhere
from moorline.jobs.brokers.redis_jobs import FACTS, asked, claim, told
from moorline.jobs.brokers.redis_link import Link, RedisSignals, Where
from moorline.jobs.brokers.redis_notes import RedisNotes
from moorline.jobs.brokers.redis_records import RedisRecords
from moorline.jobs.job import JobRow
from moorline.jobs.kick import Claims
from moorline.jobs.notes import Notes
from moorline.store.store import Store
from moorline.store.writer import Writer
from moorline.telemetry import logger

__all__ = ["RedisBroker"]

P = TypeVar("P")
R = TypeVar("R")

_CHANNEL: Final = "jobs"
_AT_A_TIME: Final = 5_000  # jobs of one run of the script, some tenths of a second

log = logger("jobs")


class RedisBroker(RedisRecords):
    """Keeps the contract of ``Broker`` on one Redis, by sentinels or a cluster too; see ``Where`` for the URL.

    All its keys begin with ``{prefix:jobs}:``. It connects when it is first used; ``close()`` ends its threads. What
    the server may lose is logged once (``queue_may_lose``). ``outbox`` is the store whose transactions ``within=`` may
    enqueue in; some process must run a ``Relay`` for it.

    Raises ConfigurationError for a URL that it cannot use; every method StoreUnavailable when Redis does not answer.
    """

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "moorline",
        outbox: Store | None = None,
        max_waiting: int = 10_000,
        clock: Clock = SYSTEM,
    ) -> None:
        if not prefix or not prefix.isprintable() or set(prefix) & set("{}: "):
            raise ConfigurationError(f"prefix: {prefix!r} is not a name")
        super().__init__(Nowhere() if outbox is None else InOutbox(outbox), clock)
        self.where = Where(url)
        self._prefix = f"{{{prefix}:jobs}}:"
        self.notes: Notes = RedisNotes(self._read)
        self._max_waiting = max_waiting
        self._lock = threading.Lock()
        self._threads: dict[str, Writer] = {}
        self._reading: Link | None = None
        self._signals = RedisSignals(self.where, self._prefix + "wake")
        self._told = False
        self._workers: dict[str, None] = {}  # who claims here
        self._claims = Claims()

    def __repr__(self) -> str:
        return f"RedisBroker({self.where.shown!r})"

    def home(self, *, keyed: Keyed | None = None, job: str | None = None) -> str | None:
        """See ``Broker``."""
        del keyed, job  # all in one place
        return f"{self.where.shown} {self._prefix}"

    def close(self) -> None:
        """Send what waits and disconnect. It opens again when it is used again."""
        with self._lock:
            threads, self._threads = self._threads, {}
            reading, self._reading = self._reading, None
        for thread in threads.values():
            thread.close()
        self._signals.close()
        self._signals = RedisSignals(self.where, self._prefix + "wake")
        if reading is not None:
            reading.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def ping(self) -> None:
        """Raises StoreUnavailable unless the server answers, ConfigurationError unless it can keep jobs."""
        self._link().check()

    def about(self) -> dict[str, str]:
        """What an operator should know of the server: its version, and what makes jobs durable there."""
        facts, told = self._link().facts()
        return {
            "server": f"Redis {facts.get('redis_version')}",
            "appendonly": "yes" if int(facts.get("aof_enabled", 0)) else "no",
            "appendfsync": str(told.get("appendfsync", "not told by the server")),
        }

    def clear(self) -> None:
        """Delete every job and every trace below the prefix: for who had it for a trial. Nobody may be using it."""
        self._link().clear()

    def _connect(self) -> Link:
        """For the writer's thread, each time when it needs a new connection."""
        link = Link(self.where.connect(), self._prefix)
        try:
            losses = link.check()
        except (StoreError, ConfigurationError):
            link.close()
            raise
        if losses and not self._told:
            self._told = True
            for loss in losses:
                log.warning("queue_may_lose", where=self.where.shown, what=loss)
        return link

    def _thread(self, name: str = "all") -> Writer:
        writer = self._threads.get(name)
        if writer is None:
            with self._lock:
                writer = self._threads.get(name)
                if writer is None:
                    writer = Writer(
                        self._connect, max_waiting=self._max_waiting, clock=self._clock, halves=True, apart=True
                    )
                    writer.start()
                    self._threads[name] = writer
        return writer

    def _wake(self) -> None:
        self._signals.notify(_CHANNEL)

    async def _write(self, apply: Callable[[Link, list[P]], Sequence[R | Exception]], payload: P) -> R:
        return await self._thread().submit_async(apply, payload)

    def _write_sync(self, apply: Callable[[Link, list[P]], Sequence[R | Exception]], payload: P) -> R:
        return self._thread().submit(apply, payload).result()

    def _link(self) -> Link:
        """For reading, from any thread."""
        link = self._reading
        if link is None:
            with self._lock:
                link = self._reading = self._reading or Link(self.where.connect(), self._prefix)
        return link

    async def _read(self, ask: Callable[[Link], R]) -> R:
        """In a thread, connecting included: a cluster is asked for its nodes then."""
        return await asyncio.to_thread(lambda: ask(self._link()))

    # --- enqueue

    async def enqueue(self, rows: Sequence[JobRow], *, again: bool = False) -> list[str]:
        """See ``Broker``. Rows whose ids are there are left as they are, with *again* and without."""
        del again  # it is always so
        *early, last = _parts(_checked(rows))
        ids = [id_ for part in early for id_ in await self._write(_enqueue, part)]
        stored = self._thread().submit_async(_enqueue, last)
        # An idle worker that is woken now claims right behind it, with one thread's wake-up for both.
        before = self._claims.last
        listeners = self._signals.here(_CHANNEL)
        ids += await stored
        if listeners != 1 or not self._claims.since(before):
            self._wake()
        return ids

    def enqueue_sync(self, rows: Sequence[JobRow]) -> list[str]:
        """See ``Broker``."""
        ids = [id_ for part in _parts(_checked(rows)) for id_ in self._write_sync(_enqueue, part)]
        self._wake()
        return ids

    def enqueue_within(self, connection: object, rows: Sequence[JobRow]) -> list[str]:
        """See ``Broker``: they wait in that database until they are relayed. Unique keys are looked at only then."""
        if isinstance(self._kept, Nowhere):
            raise ConfigurationError("within: jobs are kept in Redis, which has no part in that transaction")
        return self._kept.enqueue_within(connection, _checked(rows))

    # --- the worker's part

    async def claim(self, worker: WorkerInfo, limit: int, *, alone: bool = False) -> Claimed:
        """See ``Broker``."""
        self._claims.begun(alone=alone)
        beside = self._thread()
        writer = beside if beside.gathers() else self._thread("claims")
        return await writer.submit_async(self._claim, (worker, limit, alone))

    def _claim(self, link: Link, payloads: list[tuple[WorkerInfo, int, bool]]) -> list[Claimed]:
        answers = []
        for worker, limit, alone in payloads:
            now, lease = self._lease(worker)
            how = limit, "1" if alone else "", repr(worker.ageing)
            found = link.do("claim", *lease, repr(now), *how, *worker.queues)
            claims = [claim(*found[at : at + FACTS]) for at in range(1, len(found), FACTS)]
            answers.append(Claimed(claims, float(found[0]) if found[0] else None))
        return answers

    async def finish(self, completions: Sequence[Completion]) -> list[bool]:
        """See ``Broker``."""
        stored, freed = await self._write(self._finish, completions)
        if freed:
            self._wake()
        return stored

    def _finish(self, link: Link, payloads: list[Sequence[Completion]]) -> list[tuple[list[bool], bool]]:
        completions = [one for part in payloads for one in part]
        freed, *late = link.do("finish", repr(self._clock.wall()), *told(completions), *self._workers)
        if not late:
            return [([True] * len(part), freed == 1) for part in payloads]
        lost = set(zip(map(bytes.decode, late[::2]), late[1::2], strict=True))
        return [([one[:2] not in lost for one in part], freed == 1) for part in payloads]

    async def give_back(self, worker: WorkerInfo, held: Sequence[str]) -> int:
        """See ``Broker``."""
        return await self._write(_give_back, (worker.id, held))

    def heartbeat(self, worker: WorkerInfo) -> None:
        """See ``Broker``."""
        self._write_sync(self._beat, worker)

    def _beat(self, link: Link, payloads: list[WorkerInfo]) -> list[None]:
        for worker in payloads:
            link.do("beat", *self._lease(worker)[1])
        return [None] * len(payloads)

    async def leave(self, worker: WorkerInfo) -> None:
        """See ``Broker``."""
        await self._write(_leave, worker.id)
        self._workers.pop(worker.id, None)

    async def rescue(self, worker: WorkerInfo) -> Rescued:
        """See ``Broker``. No key is ever without its head here: who ends frees the next in the same step."""
        rescued = await self._write(self._rescue, worker)
        if rescued.ready or rescued.dead:
            self._wake()
        return rescued

    def _rescue(self, link: Link, payloads: list[WorkerInfo]) -> list[Rescued]:
        answers = []
        for worker in payloads:
            now, lease = self._lease(worker)
            suspects, _, *taken = link.do("rescue", *lease, repr(now), "", "", "", *worker.queues)
            states = dict(zip(map(bytes.decode, taken[::2]), taken[1::2], strict=True))
            ready = tuple(id_ for id_, state in states.items() if state == b"ready")
            dead = tuple(id_ for id_, state in states.items() if state == b"dead")
            answers.append(Rescued(ready, dead, suspects == b"1"))
        return answers

    def _lease(self, worker: WorkerInfo) -> tuple[float, tuple[str, bytes, str]]:
        now = self._clock.wall()
        self._workers[worker.id] = None
        return now, (worker.id, msgspec.json.encode(worker), repr(now + worker.lease))

    def listen(self, callback: Callable[[], None]) -> Callable[[], None]:
        """See ``Broker``."""
        return self._signals.listen(_CHANNEL, callback)


def _checked(rows: Sequence[JobRow]) -> Sequence[JobRow]:
    for row in rows:
        if row.unique_key is not None and row.order_key is not None:
            raise Misuse("a job has either a unique key or an order key")
    return rows


def _parts(rows: Sequence[JobRow]) -> list[Sequence[JobRow]]:
    """What is stored at a time: nobody else is served meanwhile, and the answer must come before we give it up."""
    return [rows[at : at + _AT_A_TIME] for at in range(0, len(rows), _AT_A_TIME)] or [rows]


def _enqueue(link: Link, payloads: list[Sequence[JobRow]]) -> list[list[str]]:
    rows = [row for part in payloads for row in part]
    ids = [row.id for row in rows]
    if rows:
        others = link.do("enqueue", *asked(rows))
        for place, id_ in zip(others[::2], others[1::2], strict=True):
            ids[place - 1] = id_.decode()
    left = iter(ids)
    return [list(islice(left, len(part))) for part in payloads]


def _give_back(link: Link, payloads: list[tuple[str, Sequence[str]]]) -> list[int]:
    return [link.do("give_back", worker, *held) for worker, held in payloads]


def _leave(link: Link, payloads: list[str]) -> list[None]:
    for worker in payloads:
        link.do("leave", worker)
    return [None] * len(payloads)
