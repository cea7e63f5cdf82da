"""SIGTERM and SIGINT, for as long as a worker runs."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator

__all__ = ["handled"]


@contextlib.contextmanager
def handled(on_signal: Callable[[], None]) -> Iterator[None]:
    """Each of the two calls *on_signal* on the running loop, until the block ends."""
    loop = asyncio.get_running_loop()
    taken = []
    for number in (signal.SIGTERM, signal.SIGINT):
        # Only the main thread may; elsewhere whoever owns the process calls stop().
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            loop.add_signal_handler(number, on_signal)
            taken.append(number)
    try:
        yield
    finally:
        for number in taken:
            loop.remove_signal_handler(number)
