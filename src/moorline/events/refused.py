"""Answers to what is not taken, and the bound of what is taken at a time."""

from __future__ import annotations

import threading
from typing import Final

from moorline.events.delivery import Reply

__all__ = ["CLOSE", "ERRORS", "MOST_HELD", "Held", "Portion", "Refused"]

MOST_HELD: Final = 256 * 1024 * 1024
"""Bytes of bodies that a process holds at a time, beside those that come in one piece (some 64 kB each)."""

ERRORS: Final = {
    400: b'{"error":"unusable event"}',
    401: b'{"error":"unauthorized"}',
    403: b'{"error":"forbidden"}',
    404: b'{"error":"not found"}',
    405: b'{"error":"method not allowed"}',
    408: b'{"error":"request timeout"}',
    413: b'{"error":"body too large"}',
    415: b'{"error":"unsupported media type"}',
    503: b'{"error":"try again later"}',
}
CLOSE: Final = ("connection", "close")


class Refused(Exception):
    """The answer is this status; ``reason`` is for the operator. ``forged`` when the signature was not good."""

    def __init__(self, status: int, reason: str, *headers: tuple[str, str], forged: bool = False) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.headers = headers
        self.forged = forged
        self.body: bytes | None = None

    @property
    def reply(self) -> Reply:
        """What the sender sees of it."""
        return Reply(self.status, ERRORS[self.status], headers=self.headers)


class Held:
    """How many bytes of bodies are in memory, over all connections; threads share it."""

    def __init__(self, most: int = MOST_HELD) -> None:
        self._most = most
        self._bytes = 0
        self._lock = threading.Lock()

    @property
    def bytes(self) -> int:
        """What is held now."""
        return self._bytes

    def change(self, more: int) -> None:
        """Hold so many bytes more, or fewer. Raises Refused (503) when that would be too many."""
        with self._lock:
            if more > 0 and self._bytes + more > self._most:
                raise Refused(503, f"{self._bytes} bytes of bodies are held already", ("retry-after", "1"))
            self._bytes += more


class Portion:
    """What one request holds, until ``release``."""

    __slots__ = ("_held", "_size")

    def __init__(self, held: Held) -> None:
        self._held = held
        self._size = 0

    def add(self, size: int) -> None:
        """Raises Refused (503)."""
        self._held.change(size)
        self._size += size

    def release(self) -> None:
        """Give all of it back; a second time is harmless."""
        if self._size:
            self._held.change(-self._size)
            self._size = 0
