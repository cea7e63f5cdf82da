"""The shared state of each host, where a client gives no name: one that is down must not stop the others."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final, TypeVar

from moorline.calls.guards import Guard, Guards
from moorline.policies.policy import Policy

__all__ = ["ByHost", "guards_by_host"]

K = TypeVar("K")
V = TypeVar("V")

_MOST: Final = 1000


class ByHost(dict[K, V]):
    """What *make* gives for each key, at its first use. A known key costs one look-up and no call.

    At least the *most* keys that were used last are kept, and never twice as many. Safe between threads.
    """

    def __init__(self, make: Callable[[K], V], most: int = _MOST) -> None:
        super().__init__()
        self._make = make
        self._most = most
        self._older: dict[K, V] = {}
        self._lock = threading.Lock()

    def __missing__(self, key: K) -> V:
        with self._lock:
            found = self.get(key) or self._older.pop(key, None) or self._make(key)
            if len(self) >= self._most:
                self._older = dict(self)
                self.clear()
            self[key] = found
            return found


def guards_by_host(guards: Guards, policy: Policy) -> ByHost[str, Guard]:
    """The state of *guards* by the name of a host."""
    return ByHost(lambda name: guards.guard(name, policy))
