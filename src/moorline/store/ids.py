"""Identifiers that sort by the time of their making: 48 bits of milliseconds, 16 of a counter, 64 random, in hex."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Final

__all__ = ["made_at", "new_id"]

_NOISE: Final = 16  # digits


def _maker() -> Callable[[float], str]:
    lock = threading.Lock()
    last_ms = 0
    stamp = ""
    counter = 0
    pool = ""
    place = 0

    def make(now: float) -> str:
        nonlocal last_ms, stamp, counter, pool, place
        with lock:
            ms = int(now * 1000)
            # Ids of one process stay in order even if the clock steps back, or if 65,536 are made within a millisecond.
            if ms > last_ms:
                last_ms, stamp, counter = ms, f"{ms:012x}", 0
            elif counter == 0xFFFF:
                last_ms, stamp, counter = last_ms + 1, f"{last_ms + 1:012x}", 0
            else:
                counter += 1
            if place == len(pool):
                pool, place = os.urandom(2048).hex(), 0
            place += _NOISE
            return f"{stamp}{counter:04x}{pool[place - _NOISE : place]}"

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


def made_at(id: str) -> float:
    """When that identifier was made, in seconds since the epoch."""
    return int(id[:12], 16) / 1000
