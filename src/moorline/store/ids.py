"""Identifiers that sort by the time of their making: 48 bits of milliseconds, 16 of a counter, 64 random, in hex."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

__all__ = ["new_id"]


def _maker() -> Callable[[float], str]:
    lock = threading.Lock()
    last_ms = 0
    counter = 0
    pool = b""

    def make(now: float) -> str:
        nonlocal last_ms, counter, pool
        with lock:
            ms = int(now * 1000)
            # Ids of one process stay in order even if the clock steps back, or if 65,536 are made within a millisecond.
            if ms > last_ms:
                last_ms, counter = ms, 0
            elif counter == 0xFFFF:
                last_ms, counter = last_ms + 1, 0
            else:
                counter += 1
            if len(pool) < 8:
                pool = os.urandom(2048)
            noise, pool = pool[:8], pool[8:]
            return f"{last_ms:012x}{counter:04x}{noise.hex()}"

    return make


_make = _maker()


def _reset_after_fork() -> None:
    # A child that kept the parent's random bytes would repeat the parent's ids.
    global _make  # noqa: PLW0603 -- a fork reaches only globals
    _make = _maker()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_after_fork)


def new_id(now: float) -> str:
    """A new identifier of 32 hex digits; ``now`` is seconds since the epoch."""
    return _make(now)
