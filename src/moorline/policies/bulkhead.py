"""The bulkhead: a limit of attempts in flight, with a bounded queue in front of it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from moorline.policies.checks import check_count

__all__ = ["Bulkhead", "BulkheadState", "Ticket", "Wake"]

Wake = Callable[[], bool | None]
"""Tells who waits that it is time; called on whatever thread. False: nobody waits any longer."""


@dataclass(frozen=True, slots=True)
class Bulkhead:
    """At most *limit* attempts in flight to a service; *queue* more may wait for a slot, any beyond are refused at
    once.

    Raises ConfigurationError naming the field.
    """

    limit: int
    queue: int = 0

    def __post_init__(self) -> None:
        check_count("Bulkhead", "limit", self.limit)
        check_count("Bulkhead", "queue", self.queue, least=0)


class Ticket:
    """A place in the bulkhead or in its queue. ``leave()`` gives it up, in whichever of the two it is; once."""

    __slots__ = ("_left", "_owner", "_wake", "granted")

    def __init__(self, owner: BulkheadState) -> None:
        self._owner = owner
        self._wake: Wake | None = None
        self._left = False
        self.granted = False

    def when_granted(self, wake: Wake) -> None:
        """Call *wake* as soon as the slot is ours; at once if it is already."""
        with self._owner._lock:  # noqa: SLF001 (one machine in two classes)
            if not self.granted:
                self._wake = wake
                return
        wake()

    def leave(self) -> None:
        """Give the slot to who waits longest, or leave the queue."""
        self._owner._leave(self)  # noqa: SLF001


class BulkheadState:
    """The machine: safe between threads, first come first served, does no I/O."""

    __slots__ = ("__weakref__", "_busy", "_lock", "_waiting", "config")

    def __init__(self, config: Bulkhead) -> None:
        self.config = config
        self._lock = threading.Lock()
        self._busy = 0
        self._waiting: deque[Ticket] = deque()

    @property
    def busy(self) -> int:
        """Slots that are taken."""
        return self._busy

    @property
    def waiting(self) -> int:
        """Callers in the queue."""
        return len(self._waiting)

    def enter(self) -> Ticket | None:
        """A ticket, whose ``granted`` says whether the slot is ours already; None when the queue is full as well."""
        ticket = Ticket(self)
        with self._lock:
            if self._busy < self.config.limit:
                self._busy += 1
                ticket.granted = True
            elif len(self._waiting) < self.config.queue:
                self._waiting.append(ticket)
            else:
                return None
        return ticket

    def _leave(self, ticket: Ticket) -> None:
        leaving: Ticket | None = ticket
        while leaving is not None:
            leaving = self._hand_on(leaving)

    def _hand_on(self, ticket: Ticket) -> Ticket | None:
        """Free what *ticket* has. Returns the heir of its slot where that has gone away, and must leave as well."""
        with self._lock:
            if ticket._left:  # noqa: SLF001
                return None
            ticket._left = True  # noqa: SLF001
            if not ticket.granted:
                self._waiting.remove(ticket)
                return None
            if not self._waiting:
                self._busy -= 1
                return None
            heir = self._waiting.popleft()
            heir.granted = True
            wake = heir._wake  # noqa: SLF001
        return heir if wake is not None and wake() is False else None
