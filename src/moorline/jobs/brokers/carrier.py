"""What carries jobs and cannot look into what it carries: RabbitMQ, SQS. ``CarriedBroker`` makes a ``Broker`` of one.

A carrier has lanes, each a queue of its own. A message is in one lane until it was *settled*; whoever took it and died
loses it, and the next one who takes it is told that it comes again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Literal, NamedTuple, Protocol

from moorline.jobs.broker import WorkerInfo

__all__ = ["WAITING", "Carrier", "Kind", "Lane", "Letter", "Taken", "Turns"]

Kind = Literal["high", "normal", "low", "suspects", "dead", "ordered", "later"]
"""``high``, ``normal`` and ``low`` hold what waits; ``suspects`` what ran when its worker died. A carrier may have
others beside those: ``ordered`` for what has an order key, ``later`` for what is delayed.
"""

WAITING: Final[tuple[Kind, ...]] = ("high", "normal", "low")
"""The lanes of what waits, those that go first before the others."""

_ROUND: Final = 10
_IN_TURN: Final[dict[int, tuple[Kind, ...]]] = {4: ("normal", "high", "low"), 9: ("low", "normal", "high")}


class Turns:
    """In which order a worker's lanes are looked at, which cannot tell for how long something has waited there.

    The high ones come first; but of ten takes that brought all that they were asked for (the others left nothing
    waiting) the fifth begins with the normal ones, and the tenth with the low ones. With *ageing* 0 (see
    ``WorkerInfo``) none does.
    """

    def __init__(self, ageing: float) -> None:
        self._ages = ageing > 0
        self._full = 0

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The order for the next take."""
        return _IN_TURN.get(self._full, WAITING)

    def took(self, *, full: bool) -> None:
        """What it brought."""
        if full and self._ages:
            self._full = (self._full + 1) % _ROUND


class Lane(NamedTuple):
    """One queue of the carrier, for a queue of jobs."""

    queue: str
    kind: Kind = "normal"


class Taken(NamedTuple):
    """What was taken from a lane. ``again``: somebody had it before and did not settle it; ``sure``: that was counted,
    and is not only possible. ``handle`` is the carrier's own.
    """

    lane: Lane
    body: bytes
    again: bool
    handle: object
    sure: bool = True


class Letter(NamedTuple):
    """What is sent: a job's ``body``, under its id and name; ``delay`` is seconds until it may be taken.

    ``group`` is its order key, for a carrier that has ``groups``. A letter that ``follows`` what was taken is sent in
    its stead, before that is settled: its key's next one waits for it.
    """

    lane: Lane
    id: str
    name: str
    body: bytes
    delay: float = 0.0
    group: str | None = None
    follows: Taken | None = None


class Carrier(Protocol):
    """All methods may be called from any thread, and block. StoreUnavailable: the server does not answer.

    ``shown`` is its address without a secret, ``home`` that with what tells one application from another there;
    ``longest_delay`` the seconds that a letter may be delayed; ``largest`` the bytes that the body of one may have that
    follows; ``groups`` whether what is sent with one order key is taken one after the other.
    """

    shown: str
    home: str
    longest_delay: float
    largest: int
    groups: bool

    def check(self, queue: str) -> None:
        """Raises ConfigurationError for a name that no queue can have there."""
        ...

    def post(self, letters: Sequence[Letter]) -> None:
        """Send them; returns after they are durable. On failure some may have been sent."""
        ...

    def at_hand(self, worker: WorkerInfo, limit: int) -> list[Taken]:
        """Up to *limit* of what ``take`` would give, if that is few and here already. It does not block."""
        ...

    def take(self, worker: WorkerInfo, limit: int) -> list[Taken]:
        """Up to *limit* of what waits in the worker's queues, by ``Turns``; empty if nothing does."""
        ...

    def take_suspect(self, worker: WorkerInfo) -> Taken | None:
        """One suspect of the worker's queues."""
        ...

    def suspects(self, worker: WorkerInfo) -> bool:
        """Whether there are suspects in the worker's queues."""
        ...

    def settle(self, taken: Sequence[Taken]) -> None:
        """Delete them."""
        ...

    def holds(self, taken: Taken) -> bool:
        """Whether it is still ours: False once others may have it."""
        ...

    def keep(self, taken: Sequence[Taken]) -> None:
        """Keep others from having them for as long as a worker's lease."""
        ...

    def spare(self, worker: WorkerInfo, *, last: bool = False) -> list[Taken]:
        """What it has ready for *worker* and others could take; with *last*, all, and it takes no more."""
        ...

    def dismiss(self, worker: WorkerInfo) -> None:
        """Others may have what *worker* took and did not settle."""
        ...

    def waiting(self, queues: Sequence[str]) -> dict[Lane, int]:
        """How many messages are in the lanes of those queues, roughly: not those taken."""
        ...

    def look(self, lane: Lane, limit: int, choose: Callable[[Sequence[Taken]], Sequence[Taken]]) -> list[Taken]:
        """Look at up to *limit* messages of a lane. Those that *choose* gives are settled; all others stay."""
        ...

    def listen(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call *callback* on some thread when there may be something to take; returns the function that ends it."""
        ...

    def about(self) -> dict[str, str]:
        """What an operator should know of the server: its version, and what makes messages durable there."""
        ...

    def remove(self, queue: str) -> None:
        """Delete the lanes of that queue with all that is in them. Raises ConfigurationError if we may not."""
        ...

    def close(self) -> None:
        """Disconnect; it connects again when it is used again."""
        ...
