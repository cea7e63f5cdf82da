"""The relay: moves the jobs of stored events to a broker that is not the inbox's database.

::

    an event and its jobs ──one commit──> outbox ──publish──> broker ──its answer──> outbox row deleted

Nothing is deleted that the broker has not confirmed. What was published and could not be deleted (a crash, a lost
answer) is published again under the same job ids: at least once. Jobs are published oldest first, in the order of their
ids, a batch after the other, so those of one order key come in their order. What a person calls off between being read
and being deleted is called off at the broker, if it has not begun there.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
from typing import TYPE_CHECKING, Final, NamedTuple

from moorline.errors import ConfigurationError, JobNotFound, JobStateError, Misuse, StoreError
from moorline.jobs.brokers.sql_insert import states_of
from moorline.jobs.brokers.sql_outbox import OUTBOX, Backlog, backlog, oldest, remove
from moorline.policies.retry import Retry
from moorline.store.ids import new_id
from moorline.store.leases import Lease, take_leases
from moorline.telemetry import logger

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moorline.clock import Clock
    from moorline.jobs.broker import Broker
    from moorline.jobs.job import JobRow
    from moorline.store.store import Store

__all__ = ["Backlog", "Relay", "Relayed"]

BATCH: Final = 200
LEASE: Final = 10.0
_NAME: Final = "relay"
_POLL: Final = 1.0  # seconds: a lost wake-up costs no more
_MOST: Final = 10_000
_BACKOFF: Final = Retry(base=0.2, cap=10.0, jitter="equal")

log = logger("events")


class Relayed(NamedTuple):
    """How many jobs one batch moved; ``elsewhere`` if there were some and another relay has the lease."""

    jobs: int
    elsewhere: bool = False


class Relay:
    """Publishes the jobs of *store*'s outbox to *broker*, ``batch`` at a time. Give it to the ``Inbox`` too.

    Any number of processes may ``run`` one for the same store: one of them works, and another takes over when its lease
    of ``lease`` seconds is out (or at once, when it stops). The lease only keeps work from being done twice; nothing is
    lost where two overlap. Raises ConfigurationError naming the argument.
    """

    def __init__(
        self,
        store: Store,
        broker: Broker,
        *,
        batch: int = BATCH,
        lease: float = LEASE,
        clock: Clock | None = None,
        seed: int | None = None,
    ) -> None:
        _check(batch, lease)
        theirs: Store | None = getattr(broker, "store", None)
        if theirs is store or (theirs is not None and theirs.url == store.url):
            raise ConfigurationError("broker: it keeps its jobs in the database that they are relayed from")
        self.store = store
        self._broker = broker
        self._batch = batch
        self._lease = lease
        self._clock = store.clock if clock is None else clock
        self._chance = random.Random(seed)
        self._id = new_id(self._clock.wall())
        self._renew_at = -math.inf  # by the monotonic clock; until then the lease is ours
        self._published: list[str] = []  # confirmed by the broker, not yet deleted
        self._sent: set[str] = set()  # given to the broker, with whatever answer, and not looked after
        self._wake = asyncio.Event()
        self._stop = asyncio.Event()
        self._active = False

    async def run(self) -> int:
        """Relay until ``stop()``; how many jobs. While the broker or the database is away it waits, and tries again.

        Raises Misuse when the store is not open, ConfigurationError when the broker keeps its jobs in that very store.
        """
        if self._active:
            raise Misuse("this relay runs already")
        self._active = True
        self._wake, self._stop = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()
        unlisten = self.store.listen(OUTBOX, lambda: _wake(loop, self._wake))
        log.info("relay_started", relay=self._id)
        total = 0
        try:
            total = await self._relay_until_stopped()
        finally:
            unlisten()
            self._active = False
            await self._release()
            log.info("relay_stopped", relay=self._id, jobs=total)
        return total

    def stop(self) -> None:
        """Finish the batch that is under way and end ``run``. Call it on its loop."""
        self._stop.set()
        self._wake.set()

    async def run_once(self) -> Relayed:
        """Publish one batch, then delete it.

        Raises StoreUnavailable when the database or the broker is away, or what the broker raised: the batch stays.
        """
        if self._published:
            await self._delete_published()
        rows = await self.store.read(oldest, self._batch)
        if rows and self._clock.monotonic() >= self._renew_at:
            if not await self._take():
                return Relayed(0, elsewhere=True)
            rows = await self.store.read(oldest, self._batch)  # who had the lease before may have moved some
        if rows:
            self._sent.update(row.id for row in rows)
            await self._publish(rows)
            self._published = [row.id for row in rows]
            await self._delete_published()
        elif self._sent:
            await self._look_after(set())
        return Relayed(len(rows))

    async def backlog(self) -> Backlog:
        """What waits to be relayed."""
        return await self.store.read(backlog)

    def backlog_sync(self) -> Backlog:
        """As ``backlog``, blocking."""
        return self.store.read_sync(backlog)

    async def _relay_until_stopped(self) -> int:
        total = failures = 0
        while not self._stop.is_set():
            self._wake.clear()
            try:
                moved = await self.run_once()
            except (Misuse, ConfigurationError):  # time does not mend those
                raise
            except Exception as error:  # noqa: BLE001 -- whatever it is, the rows stay and are tried again
                failures += 1
                pause = _BACKOFF.delay(failures, self._chance.random)
                await self._failed(error, failures, pause)
                await self._pause(pause, self._stop)
                continue
            if failures:
                log.info("relay_recovered", relay=self._id, failures=failures)
            failures = 0
            total += moved.jobs
            if moved.elsewhere:
                await self._pause(self._lease / 4, self._stop)
            elif moved.jobs < self._batch and not self._stop.is_set():
                await self._pause(_POLL, self._wake)
        return total

    async def _publish(self, rows: Sequence[JobRow]) -> None:
        """Returns after the broker has them for good. The lease is kept meanwhile, however long it takes."""
        keeping = asyncio.create_task(self._keep_lease())
        try:
            await self._broker.enqueue(rows, again=True)
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)

    async def _delete_published(self) -> None:
        deleted = await self.store.write(remove, self._published)
        published, self._published = set(self._published), []
        if deleted == len(self._sent):
            self._sent.clear()
        else:
            await self._look_after(published)

    async def _look_after(self, published: set[str]) -> None:
        """Call those off at the broker that were called off here after it may have got them."""
        states = await self.store.read(states_of, sorted(self._sent))
        for job_id in [job_id for job_id, state in states.items() if state == "cancelled"]:
            try:
                await self._broker.cancel(job_id, reason="called off before it was relayed")
            except (JobNotFound, JobStateError) as error:
                if job_id in published:  # of others the broker need not have heard
                    log.warning("job_called_off_too_late", relay=self._id, job=job_id, error=str(error))
            self._sent.discard(job_id)
        self._sent &= {job_id for job_id, state in states.items() if state == "outbox"}

    async def _keep_lease(self) -> None:
        while True:
            await self._clock.asleep(self._lease / 3)
            with contextlib.suppress(StoreError):  # the next batch asks for it again
                await self._take()

    async def _take(self) -> bool:
        asked = self._clock.monotonic()
        ours = await self.store.write(take_leases, Lease(_NAME, self._id, self._clock.wall(), self._lease))
        self._renew_at = asked + self._lease / 2 if ours else -math.inf
        return ours

    async def _release(self) -> None:
        """Let another one take over at once."""
        if self._renew_at > -math.inf:
            self._renew_at = -math.inf
            with contextlib.suppress(StoreError):  # it ends by itself
                await self.store.write(take_leases, Lease(_NAME, self._id, self._clock.wall(), 0.0))

    async def _failed(self, error: Exception, failures: int, pause: float) -> None:
        waiting = None
        with contextlib.suppress(StoreError):
            waiting = (await self.backlog()).jobs
        log.warning("relay_failed", error=repr(error), failures=failures, backlog=waiting, again_in=round(pause, 2))

    async def _pause(self, seconds: float, until: asyncio.Event) -> None:
        """At most that long by the clock, and no longer than until the event."""
        tasks = [asyncio.ensure_future(self._clock.asleep(seconds)), asyncio.ensure_future(until.wait())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def _check(batch: object, lease: object) -> None:
    if isinstance(batch, bool) or not isinstance(batch, int) or not 1 <= batch <= _MOST:
        raise ConfigurationError(f"batch: expected 1 to {_MOST:,} jobs, got {batch!r}")
    if isinstance(lease, bool) or not isinstance(lease, int | float) or not 0 < lease < math.inf:
        raise ConfigurationError(f"lease: expected a positive number of seconds, got {lease!r}")


def _wake(loop: asyncio.AbstractEventLoop, wake: asyncio.Event) -> None:
    if not wake.is_set():
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody sleeps there any more
            loop.call_soon_threadsafe(wake.set)
