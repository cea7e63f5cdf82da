"""What RabbitMQ has pushed to a worker: taken there, not yet asked for here."""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from moorline.clock import Clock
from moorline.jobs.broker import WorkerInfo
from moorline.jobs.brokers.carrier import WAITING, Kind, Lane, Taken, Turns
from moorline.jobs.brokers.rabbit_lanes import Lanes
from moorline.jobs.brokers.rabbit_link import Channel, Link

__all__ = ["Intake"]

_AHEAD: Final = 1.5  # times what is needed, once a worker takes more than a few hundred: it is quick
_FEW: Final = 200
_MOST: Final = 5_000
_MOST_PUSHED: Final = 65_535  # the largest prefetch
_SHARE: Final = 4  # a busy worker holds that part of its prefetch back, in each of the high and low lanes
_STALE: Final = 1.0  # seconds that a message may wait here while other workers may be idle


class Intake:
    """One worker's channel. About as many messages are pushed as it has asked for, those it runs counted.

    Its coroutines run on the link's loop; ``pop`` and ``wait`` may be called from any thread.
    """

    def __init__(
        self,
        link: Link,
        lanes: Lanes,
        worker: WorkerInfo,
        wake: Callable[[], None],
        clock: Clock,
        innocent: set[bytes],
    ) -> None:
        """*innocent* are digests of what was pushed here before and never handed out: no worker died with it."""
        self._link = link
        self._lanes = lanes
        self._wake = wake
        self._clock = clock
        self._innocent = innocent
        self.queues = worker.queues
        self.served = [Lane(queue, kind) for kind in WAITING for queue in worker.queues]
        self._buffers: dict[Kind, deque[Taken]] = {kind: deque() for kind in WAITING}
        self.turns = Turns(worker.ageing)
        self._came = threading.Condition()
        self._sought = 0  # how many somebody waits for
        self._since = 0.0  # when the first of what is here came
        self._channel: Channel | None = None
        self._prefetch = 0
        self._cancelled = False
        self.out = 0  # handed out and not settled
        self.emptied = False
        """Whether the last ``pop`` took what was here: listeners are told of what comes after it."""

    @property
    def lost(self) -> bool:
        """Whether the server has given to others what was taken here."""
        return self._link.lost or (self._channel is not None and self._channel.lost)

    def __len__(self) -> int:
        return sum(map(len, self._buffers.values()))

    def wants(self, limit: int) -> bool:
        """Whether ``want`` has something to do. Not while there is something here and room for more: it takes time."""
        return self._cancelled or (self.out + limit > self._prefetch and not (self and self.out <= self._prefetch // 2))

    async def want(self, limit: int) -> None:
        """See that so many may be here besides those that are out."""
        if self._cancelled:
            self._cancelled = False
            await self._stop()
            await self._lanes.deleted()
            await self._declare(await self._open())
        needed = self.out + limit
        if needed > _FEW:
            needed = min(int(needed * _AHEAD), max(_MOST, needed))
        await self._consume(min(needed, _MOST_PUSHED) - self._prefetch)

    async def _open(self) -> Channel:
        if self._channel is None:
            channel = await self._link.channel(self._rouse)
            channel.raw.add_on_cancel_callback(self._on_cancel)
            await self._declare(channel)
            self._channel = channel
        return self._channel

    async def _declare(self, channel: Channel) -> None:
        lanes = {*self.served, *(Lane(queue, "suspects") for queue in self.queues)}
        await self._lanes.declare(channel, lanes, delayed=False)

    def _on_cancel(self, _: Any) -> None:
        """The server has ended a consumer: somebody deleted its queue, or it has moved to another node."""
        self._cancelled = True
        self._wake()

    async def _consume(self, more: int) -> None:
        """Have *more* pushed than until now, by consumers that are added: the prefetch of one never changes."""
        channel = await self._open()
        raw = channel.raw
        for lane in self.served if more > 0 else ():
            prefetch = more if lane.kind == "normal" else max(more // _SHARE, 1)
            await channel.answer(raw.basic_qos, prefetch_count=prefetch)
            await channel.answer(raw.basic_consume, self._lanes.name(lane), self._receiver(lane))
        self._prefetch += max(more, 0)

    async def _stop(self) -> None:
        """Have nothing more pushed."""
        if self._channel is not None:
            await self._channel.end_consumers()
        self._prefetch = 0

    def _receiver(self, lane: Lane) -> Callable[[Any, Any, Any, bytes], None]:
        buffer = self._buffers[lane.kind]

        def receive(_: Any, method: Any, __: Any, body: bytes) -> None:
            again = method.redelivered
            if again and self._innocent and (digest := _digest(body)) in self._innocent:
                self._innocent.discard(digest)
                again = False
            buffer.append(Taken(lane, body, again, (self, method.delivery_tag), self._lanes.counts))
            if len(self) <= 1:  # counted now: what was here before may have been taken meanwhile, by who heard of that
                self._since = self._clock.monotonic()
                self._wake()
            if self._sought and len(self) >= self._sought:
                self._rouse()

        return receive

    async def waiting(self) -> int:
        """How many are in the queues and not pushed yet. What was pushed before they were counted is here now: the
        answer comes behind it, on the same channel.
        """
        channel = await self._open()
        count = 0
        for lane in self.served:
            answer = await channel.answer(channel.raw.queue_declare, self._lanes.name(lane), passive=True)
            count += answer.method.message_count
        return count

    def pop(self, limit: int) -> list[Taken]:
        """Up to *limit* of what is here."""
        taken: list[Taken] = []
        for kind in self.turns.kinds:
            buffer = self._buffers[kind]
            while buffer and len(taken) < limit:
                taken.append(buffer.popleft())
        self.out += len(taken)
        self.emptied = bool(taken) and not self
        return taken

    def wait(self, count: int, seconds: float) -> None:
        """Until so many are here, as far as so many may be, or the channel is lost."""
        self._sought = min(count, self._prefetch - self.out)
        with self._came:
            self._came.wait_for(lambda: len(self) >= self._sought or self.lost, seconds)
        self._sought = 0

    def _rouse(self) -> None:
        with self._came:
            self._came.notify_all()

    def digests(self) -> list[bytes]:
        """Of what waits here, and was not before with a worker that died."""
        return [_digest(one.body) for buffer in self._buffers.values() for one in list(buffer) if not one.again]

    def here(self) -> dict[Lane, int]:
        """How many wait here, of each lane."""
        counts: dict[Lane, int] = {}
        for buffer in self._buffers.values():
            for one in list(buffer):
                counts[one.lane] = counts.get(one.lane, 0) + 1
        return counts

    async def suspect(self) -> Taken | None:
        """One of the suspects."""
        channel = await self._open()
        for queue in self.queues:
            lane = Lane(queue, "suspects")
            got = await channel.get(self._lanes.name(lane))
            if got is not None:
                method, body = got
                self.out += 1
                return Taken(lane, body, method.redelivered, (self, method.delivery_tag), self._lanes.counts)
        return None

    def settle(self, tags: Sequence[int]) -> None:
        """Acknowledge them, soon."""
        self.out -= len(tags)
        self._link.tell(lambda: self._acknowledge(tags))

    def _acknowledge(self, tags: Sequence[int]) -> None:
        if self._channel is not None and not self._channel.lost:
            for tag in tags:
                self._channel.raw.basic_ack(tag)

    @property
    def stale(self) -> bool:
        """Whether something has waited here for too long: the worker is busy, and others may not be."""
        return bool(self) and self._clock.monotonic() - self._since >= _STALE

    async def spare(self, *, last: bool) -> list[Taken]:
        """All that waits here. It is pushed no more than it runs from now; with *last*, nothing."""
        if self._channel is None or self._channel.lost:
            return []
        await self._stop()
        if not last:
            await self._consume(max(self.out, 1))
        return self.pop(len(self))

    async def close(self) -> None:
        """What is out is given to others."""
        if self._channel is not None:
            await self._channel.close()


def _digest(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=16).digest()
