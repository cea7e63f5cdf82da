"""The end of a whole call, whatever it does meanwhile; and the caller's own, which no call inside of it may pass."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import Context, ContextVar, copy_context

from moorline.clock import SYSTEM, Clock
from moorline.policies.checks import check_seconds

__all__ = ["ambient", "deadline", "remaining", "unbounded"]

# A moment on the monotonic clock. A context variable, so that tasks and ``asyncio.to_thread`` inherit it.
_ambient: ContextVar[float] = ContextVar("moorline_deadline", default=math.inf)

ambient = _ambient.get
"""The moment at which the caller's deadline ends; infinite without one."""


@contextmanager
def deadline(seconds: float, *, clock: Clock = SYSTEM) -> Iterator[None]:
    """End every call that is made in this block, and in the tasks that it starts, within *seconds* from now.

    A request handler that must answer within 2 s wraps its work in ``with deadline(2):``; each call's own deadline
    still holds where it is earlier, and a block inside of another never lengthens it. Calls fail with
    DeadlineExceeded.

    Raises ConfigurationError unless *seconds* is a positive number.
    """
    check_seconds("deadline", "seconds", seconds)
    token = _ambient.set(min(_ambient.get(), clock.monotonic() + seconds))
    try:
        yield
    finally:
        _ambient.reset(token)


def remaining(*, clock: Clock = SYSTEM) -> float | None:
    """Seconds until the deadline that surrounds this place, never negative; None without one."""
    at = _ambient.get()
    return None if math.isinf(at) else max(at - clock.monotonic(), 0.0)


def unbounded() -> Context:
    """A copy of this context in which no deadline holds: for what is begun by one, and waited for by others too."""
    context = copy_context()
    context.run(_ambient.set, math.inf)
    return context
