"""A carrier in memory, whose server does what servers may: it redelivers, reorders, delivers twice, answers nobody.

Of two kinds. ``connection`` is RabbitMQ's: a message is with a worker's channel, and comes again when that is lost.
``visibility`` is SQS's: it is hidden for a time, and comes again after that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar, cast

from moorline.clock import ManualClock
from moorline.errors import StoreUnavailable
from moorline.jobs.broker import WorkerInfo
from moorline.jobs.brokers.carrier import WAITING, Kind, Lane, Letter, Taken, Turns

__all__ = ["Fault", "MemoryCarrier", "MemoryServer", "Message", "Style"]

R = TypeVar("R")

Style = Literal["connection", "visibility"]
Fault = Literal["before", "partly", "after", "dies", "dies after", "loses", "sleeps"]
"""What happens at a request: it is not sent, carried out in part, or its answer is lost; the same, and the process is
gone; the connection is lost before it; or so much time is."""

_KINDS: tuple[Kind, ...] = (*WAITING, "suspects", "dead")


@dataclass(eq=False)
class Message:
    """One that was sent. ``grip`` is who has it, if not everybody may."""

    lane: Lane
    id: str
    body: bytes
    due: float
    received: int = 0
    grip: Grip | None = None


@dataclass(eq=False)
class Grip:
    """What was taken, until then; a carrier's or a worker's channel may be lost before."""

    message: Message
    owner: str
    until: float
    lost: bool = False


class MemoryServer:
    """What is left when all clients are gone. ``posted``, ``redelivered`` and ``gone`` are told what happens to jobs,
    ``doubled`` the ids of those that may be there once more than somebody believes.
    """

    def __init__(self, style: Style, clock: ManualClock, lease: float, *, sure: bool = True) -> None:
        self.style = style
        self.clock = clock
        self.lease = lease
        self.sure = sure or style == "visibility"
        self.messages: list[Message] = []
        self.backwards = False
        self.twice = False  # the next that is taken is one that somebody has, if there is one
        self.posted: Callable[[Letter], None] = lambda _: None
        self.redelivered: Callable[[Message], None] = lambda _: None
        self.gone: Callable[[Message], None] = lambda _: None
        self.doubled: Callable[[Sequence[str]], None] = lambda _: None

    def put(self, letters: Sequence[Letter]) -> None:
        for one in letters:
            self.posted(one)
            self.messages.append(Message(one.lane, one.id, one.body, self.clock.wall() + one.delay))

    def free(self, message: Message) -> bool:
        """Whether anybody may have it."""
        grip = message.grip
        return grip is None or grip.lost or (self.style == "visibility" and grip.until <= self.clock.monotonic())

    def get(self, lane: Lane, limit: int, owner: str, *, count: bool = True) -> list[tuple[Message, Grip, bool]]:
        """Up to *limit* of a lane that are due and nobody has; with whether it comes again."""
        found = [one for one in self.messages if one.lane == lane and one.due <= self.clock.wall()]
        chosen = [one for one in found if self.free(one)]
        if self.twice and count and self.style == "visibility":
            self.twice = False
            chosen = [one for one in found if not self.free(one)][:1] + chosen
        taken = []
        for one in (chosen[::-1] if self.backwards else chosen)[:limit]:
            again = one.received > 0
            if again and count:
                self.doubled([one.id])
                self.redelivered(one)
            one.received += count
            one.grip = Grip(one, owner, self.clock.monotonic() + self.lease)
            taken.append((one, one.grip, again))
        return taken

    def delete(self, grip: Grip) -> None:
        """Only the last one who got it may."""
        if grip.message in self.messages and grip.message.grip is grip and not grip.lost:
            self.messages.remove(grip.message)
            self.gone(grip.message)

    def lose(self, owner: Callable[[str], bool]) -> None:
        """The connections of those are lost."""
        if self.style == "connection":
            for one in self.messages:
                if one.grip is not None and owner(one.grip.owner):
                    one.grip.lost = True


@dataclass
class _Buffer:
    """What was pushed to a worker and not asked for."""

    turns: Turns
    waiting: list[Taken] = field(default_factory=list)


class MemoryCarrier:
    """One process's. At its request number *countdown* (from 0) the *fault* happens, once."""

    longest_delay = 4.0
    largest = 1_000_000
    groups = False
    shown = home = "memory"

    def __init__(self, server: MemoryServer, name: str) -> None:
        self.server = server
        self.name = name
        self.dead = False
        self.countdown = 0
        self.fault: Fault | None = None
        self._buffers: dict[str, _Buffer] = {}
        self._innocent: set[int] = set()

    def lose(self) -> None:
        """The connection, and with it, if that is the style, all that is out."""
        if self.server.style == "connection":
            self._innocent.update(id(_grip(one).message) for buffer in self._buffers.values() for one in buffer.waiting)
            self._buffers.clear()
        self.server.lose(lambda owner: owner.startswith(self.name))

    def _owner(self, worker: WorkerInfo) -> str:
        return f"{self.name} {worker.id}"

    def _asked(self, whole: Callable[[], R], *, ids: Sequence[str] = (), half: Callable[[], R] | None = None) -> R:
        """Do it, unless now is the time for the fault; *half* is a part of it."""
        fault, self.countdown = self.fault if self.countdown == 0 else None, self.countdown - 1
        if self.dead:
            raise StoreUnavailable("this process is gone")
        if fault is None:
            return whole()
        self.fault = None
        if fault == "loses":
            self.lose()
            return whole()
        if fault == "sleeps":
            self.server.clock.advance(self.server.lease + 1)
            return whole()
        self.dead = fault.startswith("dies")
        if fault in {"partly", "after", "dies after"}:
            self.server.doubled(ids)
        if fault in {"after", "dies after"}:
            whole()
        if fault == "partly" and half is not None:
            half()
        raise StoreUnavailable("the server did not answer")

    # --- as ``Carrier``

    def check(self, queue: str) -> None:
        """Any will do."""

    def post(self, letters: Sequence[Letter]) -> None:
        put, ids = self.server.put, [one.id for one in letters]
        self._asked(lambda: put(letters), ids=ids, half=lambda: put(letters[: (len(letters) + 1) // 2]))

    def _buffer(self, worker: WorkerInfo) -> _Buffer:
        return self._buffers.setdefault(worker.id, _Buffer(Turns(worker.ageing)))

    def _got(self, lane: Lane, limit: int, worker: WorkerInfo) -> list[Taken]:
        taken = []
        before = {id(one): one.grip for one in self.server.messages}
        for message, grip, again in self.server.get(lane, limit, self._owner(worker)):
            old = before[id(message)]
            if self.server.style == "visibility" and old is not None and self._has(old):
                old.until, message.grip = grip.until, old  # delivered twice to one is one, as in ``Out``
                continue
            innocent = id(message) in self._innocent
            self._innocent.discard(id(message))
            taken.append(Taken(lane, message.body, again and not innocent, grip, self.server.sure))
        return taken

    def _has(self, grip: Grip) -> bool:
        return grip.owner.startswith(self.name) and not grip.lost and grip.until > self.server.clock.monotonic()

    def push(self, worker: WorkerInfo, limit: int) -> None:
        """What is in its lanes goes to it unasked."""
        for queue in worker.queues:
            for kind in WAITING:
                self._buffer(worker).waiting += self._got(Lane(queue, kind), limit, worker)

    def at_hand(self, worker: WorkerInfo, limit: int) -> list[Taken]:
        waiting = self._buffer(worker).waiting
        taken = [waiting.pop(0) for _ in range(min(limit, len(waiting)))]
        return [one for one in taken if self.holds(one)]

    def take(self, worker: WorkerInfo, limit: int) -> list[Taken]:
        buffer = self._buffer(worker)

        def whole() -> list[Taken]:
            taken = [buffer.waiting.pop(0) for _ in range(min(limit, len(buffer.waiting)))]
            taken = [one for one in taken if self.holds(one)]
            for kind in buffer.turns.kinds:
                for queue in worker.queues:
                    taken += self._got(Lane(queue, kind), limit - len(taken), worker)
            buffer.turns.took(full=len(taken) >= limit)
            return taken

        if self.server.style == "connection" and self.fault in {"after", "partly"}:
            self.fault = "before"  # what was pushed stays with the channel
        return self._asked(whole)

    def take_suspect(self, worker: WorkerInfo) -> Taken | None:
        def whole() -> Taken | None:
            for queue in worker.queues:
                for one in self._got(Lane(queue, "suspects"), 1, worker):
                    return one
            return None

        return self._asked(whole)

    def suspects(self, worker: WorkerInfo) -> bool:
        lanes = [Lane(queue, "suspects") for queue in worker.queues]
        return self._asked(lambda: any(one.lane in lanes and self.server.free(one) for one in self.server.messages))

    def settle(self, taken: Sequence[Taken]) -> None:
        grips = [_grip(one) for one in taken]

        def delete(those: Sequence[Grip]) -> None:
            for one in those:
                self.server.delete(one)
                one.until = -math.inf

        half = grips[: (len(grips) + 1) // 2]
        if self.server.style == "connection" and self.countdown == 0 and self.fault in {"before", "partly", "after"}:
            fault, self.fault = self.fault, None
            delete({"before": [], "partly": half, "after": grips}[fault])  # nobody is told what did not arrive
            self.lose()
        elif grips:
            self._asked(lambda: delete(grips), half=lambda: delete(half))

    def holds(self, taken: Taken) -> bool:
        grip = _grip(taken)
        if self.server.style == "connection":
            return not grip.lost
        return grip.until > self.server.clock.monotonic()

    def keep(self, taken: Sequence[Taken]) -> None:
        def whole() -> None:
            for one in map(_grip, taken):
                if self.server.style == "visibility" and one.until > self.server.clock.monotonic():
                    ours = one.message.grip is one
                    one.until = self.server.clock.monotonic() + self.server.lease if ours else -math.inf

        self._asked(whole)

    def spare(self, worker: WorkerInfo, *, last: bool = False) -> list[Taken]:
        del last
        buffer = self._buffer(worker)

        def whole() -> list[Taken]:
            spare, buffer.waiting = [one for one in buffer.waiting if self.holds(one)], []
            return spare

        return self._asked(whole)

    def dismiss(self, worker: WorkerInfo) -> None:
        self._buffers.pop(worker.id, None)
        theirs = [one for one in self.server.messages if one.grip and one.grip.owner == self._owner(worker)]

        def whole() -> None:
            for one in theirs:
                if one.grip is not None:
                    one.grip.lost, one.grip.until = True, -math.inf

        self._asked(whole)

    def waiting(self, queues: Sequence[str]) -> dict[Lane, int]:
        counts = {Lane(queue, kind): 0 for queue in queues for kind in _KINDS}
        for one in self.server.messages:
            if self.server.free(one):
                counts[one.lane] += 1
        return self._asked(lambda: counts)

    def look(self, lane: Lane, limit: int, choose: Callable[[Sequence[Taken]], Sequence[Taken]]) -> list[Taken]:
        def whole() -> list[Taken]:
            got = self.server.get(lane, limit, f"{self.name} looks", count=False)
            return [Taken(lane, message.body, again, grip) for message, grip, again in got]

        found = self._asked(whole)
        try:
            self.settle(choose(found))
        finally:
            for one in found:
                _grip(one).lost = True
        return found

    def listen(self, callback: Callable[[], None]) -> Callable[[], None]:
        del callback
        return lambda: None

    def about(self) -> dict[str, str]:
        return {}

    def remove(self, queue: str) -> None:
        self.server.messages = [one for one in self.server.messages if one.lane.queue != queue]

    def close(self) -> None:
        if not self.dead:
            self.lose()


def _grip(taken: Taken) -> Grip:
    return cast("Grip", taken.handle)
