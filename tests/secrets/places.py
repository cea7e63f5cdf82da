"""A source that is told what it holds, for tests of what is kept of one."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import ClassVar

from moorline.clock import ManualClock
from moorline.secrets.locker import Secrets
from moorline.secrets.secret import Secret
from moorline.secrets.sources.base import Address, Content, Source

__all__ = ["Told", "among", "texts"]


class Told(Source):
    """Gives ``contents[unit]``, or raises ``failure``; counts the fetches, and waits for ``gate`` if there is one."""

    scheme: ClassVar[str] = "told"
    ttl: ClassVar[float] = 100.0
    look: ClassVar[float | None] = 1.0

    def __init__(self, **values: str) -> None:
        super().__init__(Address("told", ""))
        self.contents: dict[str, Sequence[Content]] = {
            name: (Content("1", text=value),) for name, value in values.items()
        }
        self.failure: Exception | None = None
        self.fetches = 0
        self.mark: object = None
        self.gate: threading.Event | None = None
        self.begun = threading.Event()

    def put(self, **values: str) -> None:
        """Hold other values, as the versions that follow."""
        self.contents |= {name: (Content(str(self.fetches + 1), text=value),) for name, value in values.items()}

    def fetch(self, unit: str) -> Sequence[Content]:
        self.fetches += 1
        self.begun.set()
        if self.gate is not None:
            assert self.gate.wait(20)
        if self.failure is not None:
            raise self.failure
        return self.contents.get(unit, ())

    def stamp(self, unit: str) -> object:
        return self.mark


def among(source: Source, clock: ManualClock | None = None, *, keep: float = 86_400.0) -> Secrets:
    """Secrets that are looked for in *source* alone, and tended by hand."""
    held = Secrets(clock=clock or ManualClock(), background=False)
    held.configure([f"{source.scheme}:"], keep=keep)
    held.attach(source)
    return held


def texts(found: Sequence[Secret]) -> list[str]:
    """What they are."""
    return [one.reveal() for one in found]
