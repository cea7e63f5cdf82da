"""How the jobs of a carrier end: what is done is settled, and of what is not, what follows is sent first."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Final, Self

from moorline.clock import Clock
from moorline.jobs.broker import Completion
from moorline.jobs.brokers.carried_records import Held, Records
from moorline.jobs.brokers.carrier import Carrier, Letter, Taken
from moorline.jobs.brokers.kept import Keeper
from moorline.jobs.brokers.parcel import Parcel
from moorline.store.writer import Writer

__all__ = ["Ends"]

_MOST_LATE: Final = 10_000


class _Nothing:
    """What the writer threads take for a connection: the carrier has its own."""

    def begin(self) -> Self:
        return self

    def commit(self) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def close(self) -> None:
        pass


class Ends(Records):
    """The end of a claim, and the threads that wait for the carrier."""

    def __init__(self, carrier: Carrier, kept: Keeper, queues: set[str], clock: Clock, max_waiting: int) -> None:
        super().__init__(carrier, kept, queues, clock)
        self._max_waiting = max_waiting
        self._lock = threading.Lock()
        self._threads: dict[str, Writer] = {}
        self._ending: set[str] = set()  # held, and what follows is being sent
        self._settled: set[tuple[str, int]] = set()  # id and deliveries of what is done, and will be said again
        self._late: dict[str, Completion] = {}

    def _thread(self, name: str) -> Writer:
        with self._lock:
            writer = self._threads.get(name)
            if writer is None:
                writer = self._threads[name] = Writer(
                    _Nothing, max_waiting=self._max_waiting, clock=self._clock, apart=True
                )
                writer.start()
            return writer

    async def finish(self, completions: Sequence[Completion]) -> list[bool]:
        """See ``Broker``."""
        before = {one.id for one in completions if self._settled and one[:2] in self._settled}
        mine = [one for one in completions if one.id in self._held and one.id not in before]
        stored = await self._stored(mine)
        if len(mine) == len(completions):
            return stored
        ours = dict(zip((one.id for one in mine), stored, strict=True)) | dict.fromkeys(before, True)
        kept = iter(await self._kept.finish([one for one in completions if one.id not in ours]))
        self._settled.difference_update([one[:2] for one in completions])
        return [ours[one.id] if one.id in ours else next(kept) for one in completions]

    async def _stored(self, mine: Sequence[Completion]) -> list[bool]:
        """What is done needs nothing sent, and stands behind nothing that is: a server that is short of memory takes
        nothing more until something is settled.
        """
        done = [one for one in mine if one.state == "done"]
        others = [one for one in mine if one.state != "done"]
        settled = await self._thread("ends").submit_async(self._finish, done) if done else []
        if not others:
            return settled
        try:
            followed = await self._thread("all").submit_async(self._finish, others)
        except BaseException:  # all of them are said once more
            self._settled.update(one[:2] for one, heard in zip(done, settled, strict=True) if heard)
            raise
        first, second = iter(settled), iter(followed)
        return [next(first if one.state == "done" else second) for one in mine]

    def _finish(self, _: Any, payloads: list[list[Completion]]) -> list[list[bool]]:
        letters: list[Letter] = []
        ended: list[Held] = []
        answers: list[list[bool]] = []
        for part in payloads:
            answers.append([])
            for one in part:
                held = self._held.get(one.id)
                heard = held is not None and held.parcel.deliveries == one.deliveries
                if held is not None and heard and not self.carrier.holds(held.taken):
                    self._too_late(one)
                    heard = False
                elif held is not None and heard:
                    if one.state != "done":
                        letters += self._what_follows(held.parcel.after(one), one, held.taken)
                    ended.append(held)
                answers[-1].append(heard)
        ending = {one.parcel.id for one in ended}
        self._ending |= ending
        try:
            self._send(letters)
            self.carrier.settle([one.taken for one in ended])
            for done in ended:
                if self._held.get(done.parcel.id) is done:  # what followed may have been claimed already
                    del self._held[done.parcel.id]
        finally:
            self._ending -= ending
        return answers

    def _too_late(self, end: Completion) -> None:
        """It was cut off from us while it ran. If it comes back to us, it need not run again."""
        self._held.pop(end.id, None)
        if len(self._late) >= _MOST_LATE:
            self._late.pop(next(iter(self._late)))
        self._late[end.id] = end

    def _what_follows(self, parcel: Parcel, end: Completion, taken: Taken) -> list[Letter]:
        now = self._clock.wall()
        if end.state == "ready":
            return [parcel.letter(now, follows=taken)]
        if end.state == "dead":
            parcel.finished_at = now
            return [parcel.letter(now, dead=True, follows=taken)]
        return []
