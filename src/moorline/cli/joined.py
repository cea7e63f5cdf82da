"""A transport that sends the head of an answer together with its body.

uvicorn writes the two one after the other, and uvloop sends each at once: two calls of the system, two packets, and a
sender that is woken twice. For answers as short as a webhook's that was a fifth of the whole work.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from typing import Any, Final

__all__ = ["Joined"]

_SHORT: Final = 16_384  # bytes that are copied to be sent at once


class Joined:
    """*transport*, where what is written first in a turn of the loop waits for what follows it, or the turn's end.

    No subclass of ``asyncio.Transport``, all of whose methods would be in the way of the transport's own.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._write = transport.write
        self._loop = loop
        self._held: bytes | None = None
        self.is_closing = transport.is_closing  # asked for each request
        self.resume_reading = transport.resume_reading

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send the data, with what was held before it; or hold it for a moment."""
        held = self._held
        if held is None:
            if len(data) < _SHORT:
                self._held = bytes(data)  # who wrote it may fill a buffer anew before it is sent
                self._loop.call_soon(self._end_turn)
            else:
                self._write(data)
        elif len(data) < _SHORT:
            self._held = None
            self._write(b"".join((held, data)))
        else:
            self.flush()
            self._write(data)

    def writelines(self, data: Iterable[bytes | bytearray | memoryview]) -> None:
        """As ``write``, of all of them."""
        self.write(b"".join(data))

    def write_eof(self) -> None:
        """Send what is held, then the end."""
        self.flush()
        self._transport.write_eof()

    def _end_turn(self) -> None:
        with contextlib.suppress(RuntimeError):  # uvloop's, where the connection was lost since: nobody waits for it
            self.flush()

    def flush(self) -> None:
        """Send what is held."""
        held, self._held = self._held, None
        if held is not None:
            self._write(held)

    def close(self) -> None:
        """Send what is held, then close."""
        self.flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
