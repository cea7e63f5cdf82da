"""What callers hold of a gate: their pass; and a lane: what limits some of a service's operations, and who waits."""

from __future__ import annotations

from typing import Literal

from moorline.policies.allowance import Allowance
from moorline.policies.bulkhead import Wake

__all__ = ["Lane", "Pass"]


class Pass:
    """The answer of a gate to one caller. ``ok`` and no ``wait``: send now, and settle it with ``Gate.heed`` or
    ``give_back``. ``ok`` and a ``wait`` in seconds: sleep so long, then ask ``Gate.again``; the place in the queue is
    kept meanwhile, and given up with ``give_back``; a wait that is longer than was asked for is a cautious guess, so
    ask again when the time is over. Not ``ok``: refused, ``wait`` says when it would be our turn. ``why`` is the reason
    of a wait or a refusal.

    Instead of sleeping one may wait for ``granted``, as for a bulkhead's ticket, with ``wait`` as the limit: it means
    that it is worth to ask again earlier, because somebody left the queue or the service brought good news.
    """

    __slots__ = ("at", "cost", "granted", "lane", "ok", "refused", "state", "until", "wait", "wake", "why")

    def __init__(self, lane: Lane, cost: float) -> None:
        self.lane = lane
        self.cost = cost
        self.ok = True
        self.wait = 0.0
        self.why = ""
        self.at = 0.0  # when it was let through
        self.granted = False
        self.refused = False  # by the service, whose readings tell which limit it was
        self.state: Literal["new", "waiting", "out", "over"] = "new"
        self.until = 0.0  # while it waits: when it means to ask again
        self.wake: Wake | None = None

    def when_granted(self, wake: Wake) -> None:
        """Call *wake* as soon as it is worth to ask again; at once if it is already."""
        self.wake = wake
        if self.granted:
            wake()

    def wake_up(self) -> bool:
        """It is worth to ask again; whether anybody may still do so. The gate calls it, outside of its lock."""
        self.granted = True
        wake = self.wake
        return wake is None or wake() is not False

    def __repr__(self) -> str:
        return f"<Pass {self.state}{f', {self.wait:.3g} s: {self.why}' if self.wait else ''}>"


class Lane:
    """What limits some of a service's operations, and who of them waits. The lane without a name holds for all."""

    __slots__ = ("allowances", "chain", "closed", "flying", "name", "queued", "waiting")

    def __init__(self, name: str, common: Lane | None = None) -> None:
        self.name = name
        self.chain: tuple[Lane, ...] = (self,) if common is None else (common, self)  # all that hold for its calls
        self.allowances: dict[str, Allowance] = {}
        self.closed = 0.0  # until when
        self.flying = 0.0  # cost of what is on its way
        self.queued = 0.0  # cost of those who wait
        self.waiting: dict[Pass, None] = {}  # in the order of their coming
