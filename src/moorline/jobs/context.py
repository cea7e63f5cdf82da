"""What a job's function can know of its own run, and tell: ``current()``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Final

import msgspec

from moorline import redaction
from moorline.errors import ConfigurationError, Misuse

__all__ = ["JobContext", "current", "entered"]

_MESSAGE: Final = 500  # characters

Tell = Callable[[float, str], None]
"""Takes the part that is done, and a message."""


class JobContext(msgspec.Struct, frozen=True, eq=False):
    """One run of a job. ``attempt`` is 1 at first, ``max_attempts`` the last one; ``deliveries`` counts all runs, those
    of workers that died as well.
    """

    id: str
    name: str
    queue: str
    attempt: int
    max_attempts: int
    deliveries: int
    tell: Tell
    _stops: Mapping[str, str]

    def __repr__(self) -> str:
        return f"<run {self.attempt} of job {self.id} {self.name}>"

    @property
    def facts(self) -> tuple[str, str, str, int, int, int]:
        """What it is made of, but for the two that belong to this process."""
        return self.id, self.name, self.queue, self.attempt, self.max_attempts, self.deliveries

    @property
    def is_last_attempt(self) -> bool:
        """Whether a failure now is final."""
        return self.attempt >= self.max_attempts

    @property
    def stopping(self) -> bool:
        """Whether somebody asked this job to stop. Async functions are cancelled; plain ones look at this."""
        return self.id in self._stops

    def progress(self, done: float, of: float = 1.0, message: str = "") -> None:
        """Tell how far it is: ``progress(3, of=10, message="three pages")``. Written some times a second; never waits.

        Raises ConfigurationError unless 0 <= done <= of.
        """
        if not (0 <= done <= of < math.inf and of > 0):
            raise ConfigurationError(f"progress: {done!r} of {of!r} is no part of a whole")
        self.tell(done / of, redaction.text(message)[:_MESSAGE])


_CURRENT: ContextVar[JobContext] = ContextVar("moorline_job")


def current() -> JobContext:
    """The run of the job whose function calls this, in whatever thread or process. Raises Misuse outside of one."""
    try:
        return _CURRENT.get()
    except LookupError:
        raise Misuse("current() is for the functions of jobs while they run") from None


def entered(context: JobContext) -> None:
    """From here on, ``current()`` is that one: for who runs jobs, each in a context of its own."""
    _CURRENT.set(context)
