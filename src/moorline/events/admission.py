"""Refusing what cannot be taken in time, before its body is read and checked: a 503 costs a fraction of a 200.

What waits shows in two places. In the database's queue, which is asked. And in front of the event loop: all requests
that arrived while it was busy are begun in one turn of it, so how long this turn has lasted is how long its later ones
have waited at least; and as long again they will wait for the answers. (What they waited in the turn before is left out
on purpose: who refuses for that refuses ever more, and stores next to nothing while the load lasts.)
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from moorline.clock import SYSTEM
from moorline.errors import StoreOverloaded
from moorline.telemetry import logger

if TYPE_CHECKING:
    from moorline.clock import Clock
    from moorline.events.inbox import Inbox

__all__ = ["Admission", "Overloads"]

FEW: Final = 32
"""Requests that one turn of the loop takes however long it lasts: the machine may have slept."""
_REPORT: Final = 1.0  # seconds between two lines in the log, which would otherwise be most of the work

log = logger("events")


class Admission:
    """For the receiver of one event loop."""

    def __init__(self, inbox: Inbox, clock: Clock = SYSTEM) -> None:
        self._inbox = inbox
        self._clock = clock
        self._turned = 0.0
        self._taken = 0
        self._overloads = Overloads()

    def check(self) -> None:
        """Raises StoreOverloaded when a request that is begun now could not be answered in time."""
        now = self._clock.monotonic()
        if not self._taken:
            self._turned = now
            asyncio.get_running_loop().call_soon(self._turn)
        self._taken += 1
        spent = 2 * (now - self._turned) if self._taken > FEW else 0.0
        try:
            self._inbox.admit(spent)
        except StoreOverloaded as error:
            self._overloads.report(error, now)
            raise

    def _turn(self) -> None:
        self._taken = 0


class Overloads:
    """What was refused for overload, as a line in the log a second in place of one for each request."""

    def __init__(self) -> None:
        self._refused = 0
        self._reported = float("-inf")

    def report(self, error: StoreOverloaded, now: float) -> None:
        """One more; ``now`` is monotonic seconds."""
        self._refused += 1
        if now - self._reported >= _REPORT:
            log.warning("receiver_overloaded", refused=self._refused, reason=str(error))
            self._refused, self._reported = 0, now
