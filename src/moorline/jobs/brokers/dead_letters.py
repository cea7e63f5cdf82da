"""The dead letters of a carrier, which can be looked through, and not looked up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Final

from moorline.jobs.brokers.carrier import Carrier, Lane, Taken
from moorline.jobs.brokers.parcel import Parcel, unpacked

__all__ = ["Dead", "DeadLetters"]

_LOOK: Final = 10_000  # that are looked through in each queue


Dead = tuple[Taken, Parcel]
"""A dead letter, and what is in it."""


class DeadLetters:
    """Of those *queues*, a set that grows. The 10,000 first of each are seen."""

    def __init__(self, carrier: Carrier, queues: Iterable[str]) -> None:
        self._carrier = carrier
        self._queues = queues

    async def one(self, job_id: str) -> Parcel | None:
        """That one."""
        return (await self.some([job_id])).get(job_id)

    async def some(
        self, job_ids: Collection[str], then: Callable[[Sequence[Dead]], Sequence[Dead]] | None = None
    ) -> dict[str, Parcel]:
        """By their ids, those that are there. What *then* gives, having made durable what follows, is deleted.

        Of a job that is there twice the letter that died last counts; the others are deleted with it.
        """
        found: dict[str, Parcel] = {}
        for queue in sorted(self._queues):
            left = set(job_ids) - found.keys()
            if left:
                found |= await asyncio.to_thread(self._in, queue, left, then)
        return found

    def _in(
        self, queue: str, job_ids: set[str], then: Callable[[Sequence[Dead]], Sequence[Dead]] | None
    ) -> dict[str, Parcel]:
        found: dict[str, Parcel] = {}

        def choose(taken: Sequence[Taken]) -> list[Taken]:
            mine = sorted(
                ((one, parcel) for one, parcel in _parcels(taken) if parcel.id in job_ids),
                key=lambda dead: dead[1].finished_at or 0.0,
            )
            last = {parcel.id: (one, parcel) for one, parcel in mine}
            found.update({id_: parcel for id_, (_, parcel) in last.items()})
            gone = {parcel.id for _, parcel in then(list(last.values()))} if then is not None and last else ()
            return [one for one, parcel in mine if parcel.id in gone]

        self._carrier.look(Lane(queue, "dead"), _LOOK, choose)
        return found

    async def all(self, queue: str | None) -> list[Parcel]:
        """Of one queue, or of each."""
        parcels: list[Parcel] = []
        for name in sorted(self._queues) if queue is None else [queue]:
            taken = await asyncio.to_thread(self._carrier.look, Lane(name, "dead"), _LOOK, lambda _: [])
            parcels += [parcel for _, parcel in _parcels(taken)]
        return parcels


def _parcels(taken: Sequence[Taken]) -> Iterator[tuple[Taken, Parcel]]:
    for one in taken:
        parcel = unpacked(one.body)
        if parcel is not None:
            yield one, parcel
