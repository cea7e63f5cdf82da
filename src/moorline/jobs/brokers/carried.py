"""The broker on a carrier (RabbitMQ, SQS): the carrier has the waiting jobs, and a database what cannot be carried.

::

    enqueue ─> carrier ─> claim ─> done:   settled
                  ^          └───> later:  sent again, then settled
                  └── retry ─ dead <────── dead: sent among the dead, then settled

Nothing is settled before what follows is durable, so a crash between the two doubles a job and loses none. What a
carrier cannot hold waits in the database and is claimed there: jobs with a unique key, and those with an order key
unless the carrier has groups (FIFO queues of SQS).

A message that comes again was with a worker that died, or was cut off: its job is a suspect, runs alone, and is dead
after ``MAX_CRASHES``. A carrier cannot find one message among many, so a job that waits there is neither shown by its
id nor called off, and one that is done leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final, Self, TypedDict

from moorline.clock import SYSTEM, Clock
from moorline.errors import ConfigurationError, StoreError
from moorline.jobs.ageing import order
from moorline.jobs.broker import MAX_CRASHES, Claimed, Completion, Keyed, Rescued, WorkerInfo
from moorline.jobs.brokers.carried_ends import Ends
from moorline.jobs.brokers.carried_records import Held
from moorline.jobs.brokers.carrier import Carrier, Letter, Taken
from moorline.jobs.brokers.kept import InDatabase, Keeper, Nowhere
from moorline.jobs.brokers.parcel import Parcel, of_row, undecodable, unpacked
from moorline.jobs.job import Claim, JobRow
from moorline.store.ids import new_id
from moorline.store.store import Store
from moorline.telemetry import logger

__all__ = ["CarriedBroker", "Options"]

_EARLY: Final = 0.005  # seconds: clocks and timers are not exact

log = logger("jobs")


class Options(TypedDict, total=False):
    """Of every broker on a carrier; see ``CarriedBroker``."""

    outbox: Store | None
    queues: Sequence[str]
    max_waiting: int


class CarriedBroker(Ends):
    """Keeps the contract of ``Broker`` on a carrier as far as one can; see above and ``docs/reference/brokers.md``.

    ``outbox`` is the database for what cannot be carried, and the one whose transactions ``within=`` may enqueue in;
    without it, unique and order keys raise ConfigurationError. Dead letters are looked for in *queues*, and in those
    that it comes to hear of. ``close()`` ends its threads; it opens again when used.
    """

    def __init__(
        self,
        carrier: Carrier,
        *,
        outbox: Store | None = None,
        queues: Sequence[str] = ("default",),
        max_waiting: int = 10_000,
        clock: Clock = SYSTEM,
    ) -> None:
        kept: Keeper = Nowhere() if outbox is None else InDatabase(outbox)
        super().__init__(carrier, kept, {"default", *queues}, clock, max_waiting)
        self._unsorted: dict[str, list[Taken]] = {}  # by worker: taken, and not moved to where they belong
        self._sorting = threading.Lock()  # held by who takes from the carrier and sorts it out

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.carrier.shown!r})"

    def home(self, *, keyed: Keyed | None = None, job: str | None = None) -> str | None:
        """See ``Broker``."""
        if job is not None:
            return self.carrier.home if job in self._held else self._kept.home()
        stays = keyed == "unique" or (keyed == "order" and not self.carrier.groups)
        return self._kept.home() if stays else self.carrier.home

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Send what waits and disconnect. It opens again when it is used again."""
        with self._lock:
            threads, self._threads = self._threads, {}
        for thread in threads.values():
            thread.close()
        self._kept.close()
        self.carrier.close()

    # --- enqueue

    async def enqueue(self, rows: Sequence[JobRow], *, again: bool = False) -> list[str]:
        """See ``Broker``. What is carried may be delivered twice when it is enqueued *again*."""
        carried, kept = self._parted(rows)
        if carried:
            await self._thread("all").submit_async(self._post, carried)
        ids = await self._kept.enqueue(kept, again=again) if kept else []
        return _together(rows, kept, ids)

    def enqueue_sync(self, rows: Sequence[JobRow]) -> list[str]:
        """See ``Broker``."""
        carried, kept = self._parted(rows)
        if carried:
            self._thread("all").submit(self._post, carried).result()
        return _together(rows, kept, self._kept.enqueue_sync(kept) if kept else [])

    def enqueue_within(self, connection: object, rows: Sequence[JobRow]) -> list[str]:
        """See ``Broker``: they wait in that database, until they are relayed or, if they stay there, claimed."""
        carried, kept = self._parted(rows)
        return _together(rows, kept, self._kept.both_within(connection, carried, kept))

    def _parted(self, rows: Sequence[JobRow]) -> tuple[list[JobRow], list[JobRow]]:
        carried: list[JobRow] = []
        kept: list[JobRow] = []
        for row in rows:
            self._hear_of(row.queue)
            if self.carrier.groups and row.order_key is not None and row.unique_key is not None:
                raise ConfigurationError(
                    "unique, key: these queues order what has a key, and what is unique is in the database: give one"
                )
            stays = row.unique_key is not None or (row.order_key is not None and not self.carrier.groups)
            (kept if stays else carried).append(row)
        if kept:
            self._kept.check()
        return carried, kept

    def _hear_of(self, queue: str) -> None:
        """Raises ConfigurationError before a relay would, which sends nothing then, and whoever looks at all queues."""
        if queue not in self._queues:
            self.carrier.check(queue)
            self._queues.add(queue)

    def _post(self, _: Any, payloads: list[list[JobRow]]) -> list[None]:
        now = self._clock.wall()
        self._send([of_row(row).letter(now) for rows in payloads for row in rows])
        return [None] * len(payloads)

    # --- the worker's part

    async def claim(self, worker: WorkerInfo, limit: int, *, alone: bool = False) -> Claimed:
        """See ``Broker``. By priority then time among what the carrier hands out; its high lanes come first."""
        for queue in worker.queues:
            self._hear_of(queue)
        claims = [] if alone else await self._at_hand(worker, limit)
        if not claims:
            take = self._claim_suspect if alone else self._claim
            claims = await self._thread("claims").submit_async(take, (worker, limit))
        room = limit - len(claims)
        kept = await self._kept.claim(worker, room, alone=alone) if room > 0 else Claimed([])
        return Claimed([*claims, *kept.jobs], kept.next_at)

    async def _at_hand(self, worker: WorkerInfo, limit: int) -> list[Claim]:
        """Of what is here already: to have the thread sort it out takes longer than to do it."""
        if worker.id in self._unsorted or not self._sorting.acquire(blocking=False):
            return []
        try:
            claims, letters, moved = self._sorted(worker, self.carrier.at_hand(worker, limit))
        finally:
            self._sorting.release()
        if moved:
            await self._thread("claims").submit_async(self._move_all, (worker, letters, moved))
        claims.sort(key=functools.partial(order, worker.ageing))
        return claims

    def _claim(self, _: Any, payloads: list[tuple[WorkerInfo, int]]) -> list[list[Claim]]:
        answers = []
        for worker, limit in payloads:
            claims: list[Claim] = []
            with self._sorting:
                while (room := limit - len(claims)) > 0:
                    taken = self._left(worker, room) or self.carrier.take(worker, room)
                    if not taken:
                        break
                    claims += self._sorted_out(worker, taken)
            claims.sort(key=functools.partial(order, worker.ageing))
            answers.append(claims)
        return answers

    def _left(self, worker: WorkerInfo, room: int) -> list[Taken]:
        """Of what could not be moved to where it belongs: it may be due by now."""
        left = [one for one in self._unsorted.pop(worker.id, ()) if self.carrier.holds(one)]
        if len(left) > room:
            self._unsorted[worker.id] = left[room:]
        return left[:room]

    def _claim_suspect(self, _: Any, payloads: list[tuple[WorkerInfo, int]]) -> list[list[Claim]]:
        answers = []
        for worker, _limit in payloads:
            claims: list[Claim] = []
            with self._sorting:
                while not claims:
                    suspect = self.carrier.take_suspect(worker)
                    if suspect is None:
                        break
                    claims = self._sorted_out(worker, [suspect])
            answers.append(claims)
        return answers

    def _sorted_out(self, worker: WorkerInfo, taken: Sequence[Taken], *, run: bool = True) -> list[Claim]:
        """Those to run; the others are sent to where they belong. Unless *run*, all are."""
        claims, letters, moved = self._sorted(worker, taken, run=run)
        self._move(worker, letters, moved)
        return claims

    def _move(self, worker: WorkerInfo, letters: Sequence[Letter], moved: Sequence[Taken]) -> None:
        if moved:
            try:
                self._send(letters)
            except BaseException:
                self._unsorted.setdefault(worker.id, []).extend(moved)  # nobody else gets them: we have them
                raise
            self.carrier.settle(moved)

    def _move_all(
        self, _: Any, payloads: list[tuple[WorkerInfo, list[Letter], list[Taken]]]
    ) -> list[StoreError | None]:
        answers: list[StoreError | None] = []
        for worker, letters, moved in payloads:
            try:
                self._move(worker, letters, moved)
            except StoreError as error:  # it is this worker's alone
                answers.append(error)
            else:
                answers.append(None)
        return answers

    def _sorted(
        self, worker: WorkerInfo, taken: Sequence[Taken], *, run: bool = True
    ) -> tuple[list[Claim], list[Letter], list[Taken]]:
        """Those to run; and what is to be sent in the stead of the others."""
        now = self._clock.wall()
        claims: list[Claim] = []
        letters: list[Letter] = []
        moved: list[Taken] = []
        for one in taken:
            parcel = unpacked(one.body)
            if parcel is None:
                strange = undecodable(one.body, one.lane.queue, new_id(now), now)
                log.error("job_undecodable", queue=one.lane.queue, bytes=len(one.body), kept_as=strange.id)
                letters.append(strange.letter(now, dead=True, follows=one))
                moved.append(one)
                continue
            if self._known(parcel, one, letters, moved):
                continue
            if one.again:
                parcel.crashed(sure=one.sure)
            elsewhere = parcel.crashes > 0 and one.lane.kind == "later"  # it runs alone
            if one.again or not run or parcel.run_at > now + _EARLY or elsewhere:
                again = one.again
                letters.append(self._after_crash(parcel, now, one) if again else parcel.letter(now, follows=one))
                moved.append(one)
                continue
            claims.append(parcel.claimed())
            self._held[parcel.id] = Held(parcel, one, worker.id)
        return claims, letters, moved

    def _known(self, parcel: Parcel, copy: Taken, letters: list[Letter], moved: list[Taken]) -> bool:
        """Whether it is a claim that a worker of ours has or had: sent twice, as by a relay that began again, or back
        after we were cut off. Then nothing crashed, and nobody else runs it. What follows a claim may come before we
        have forgotten that.
        """
        late = self._late.get(parcel.id)
        if late is not None and late.deliveries == parcel.deliveries + 1:  # it has ended, and could not say so
            parcel.claimed()
            letters += self._what_follows(parcel.after(late), late, copy)
            moved.append(copy)
            return True
        held = self._held.get(parcel.id)
        if held is None or (parcel.id in self._ending and parcel.deliveries >= held.parcel.deliveries):
            return False
        ours, later = self.carrier.holds(held.taken), parcel.deliveries >= held.parcel.deliveries
        if ours and not later:
            moved.append(copy)
            return True
        if ours:
            # Somebody may have made this one of ours, and deleted that: what is held is the later one.
            moved.append(held.taken)
        elif later:
            return False
        self._held[parcel.id] = held._replace(taken=copy)
        return True

    def _after_crash(self, parcel: Parcel, now: float, taken: Taken) -> Letter:
        if parcel.crashes < MAX_CRASHES:
            tell = log.warning if parcel.crashes else log.debug
            tell("job_suspected", job=parcel.id, name=parcel.name, crashes=parcel.crashes)
            return parcel.letter(now, follows=taken)
        log.error("job_crashed", job=parcel.id, name=parcel.name, crashes=parcel.crashes)
        parcel.reason, parcel.finished_at = "crashed", now
        return parcel.letter(now, dead=True, follows=taken)

    async def give_back(self, worker: WorkerInfo, held: Sequence[str]) -> int:
        """See ``Broker``."""
        keep = set(held)
        back = [
            Completion(one.parcel.id, one.parcel.deliveries, "ready", refund=True)
            for one in list(self._held.values())
            if one.worker == worker.id and one.parcel.id not in keep
        ]
        given = await self._thread("all").submit_async(self._finish, back) if back else []
        return sum(given) + await self._kept.give_back(worker, held)

    def heartbeat(self, worker: WorkerInfo) -> None:
        """See ``Broker``. A carrier that is away must not cost the worker what it has from the database."""
        try:
            self.carrier.keep([one.taken for one in list(self._held.values()) if one.worker == worker.id])
            self._thread("claims").submit(self._share, (worker, False)).result()
        finally:
            self._kept.heartbeat(worker)

    async def leave(self, worker: WorkerInfo) -> None:
        """See ``Broker``."""
        try:
            await self._thread("claims").submit_async(self._share, (worker, True))
        finally:
            await self._kept.leave(worker)

    def _share(self, _: Any, payloads: list[tuple[WorkerInfo, bool]]) -> list[StoreError | None]:
        """What waits for a worker that is busy or leaves is sent anew: else it would come again, as a suspect."""
        answers: list[StoreError | None] = []
        for worker, last in payloads:
            try:
                try:
                    with self._sorting:
                        self._sorted_out(worker, self.carrier.spare(worker, last=last), run=False)
                finally:
                    if last:
                        self._dismiss(worker)
            except StoreError as error:  # it is this worker's alone
                answers.append(error)
            else:
                answers.append(None)
        return answers

    def _dismiss(self, worker: WorkerInfo) -> None:
        """Others may have all that it has, and it is forgotten."""
        self._unsorted.pop(worker.id, None)
        for id_ in [id_ for id_, one in list(self._held.items()) if one.worker == worker.id]:
            self._held.pop(id_, None)
        self.carrier.dismiss(worker)

    async def rescue(self, worker: WorkerInfo) -> Rescued:
        """See ``Broker``. The carrier gives what a lost worker had to the next one; only suspects are looked for."""
        rescued = await self._kept.rescue(worker)
        suspects = await asyncio.to_thread(self.carrier.suspects, worker)
        return Rescued(rescued.ready, rescued.dead, rescued.suspects or suspects)

    async def prune(self, ended_before: float, *, limit: int = 1000) -> int:
        """See ``Broker``."""
        return await self._kept.prune(ended_before, limit=limit)

    def listen(self, callback: Callable[[], None]) -> Callable[[], None]:
        """See ``Broker``."""
        ends = contextlib.ExitStack()
        ends.callback(self.carrier.listen(callback))
        ends.callback(self._kept.listen(callback))
        return ends.close


def _together(rows: Sequence[JobRow], kept: Sequence[JobRow], ids: Sequence[str]) -> list[str]:
    """One id for each row, in their order; the kept ones may be another's."""
    answered = dict(zip((row.id for row in kept), ids, strict=True))
    return [answered.get(row.id, row.id) for row in rows]
