"""Stored bodies: as they came, compressed with zstd, or pruned. Whatever it was, reading gives the bytes that came.

They are compressed on their way to the disk, by the writing thread, all of a group in one call: each call gives the
interpreter's lock up, and waits for it again against a busy event loop (some 200 µs, where 7 kB take 11). Of JSON a
fourth remains, and not to write the rest is worth more than it costs: PostgreSQL stores 7 kB in half the time.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Final

import zstandard

from moorline.errors import StoreError

__all__ = ["COMPRESSED_OVER", "MOST_INFLATED", "PRUNED", "ZSTD", "compressed", "opened"]

ZSTD: Final = "zstd"
PRUNED: Final = "pruned"
MOST_INFLATED: Final = 256 * 1024 * 1024
"""Bytes: no body that was taken is larger (``webhooks.max_body``), so what would inflate to more is damaged."""

COMPRESSED_OVER: Final = 2048
"""Bytes: larger bodies are compressed."""

_LEVEL: Final = 1  # of JSON of some kilobytes as much remains as at 3, in three quarters of the time
_WORTH: Final = 0.9  # of the size: a body that hardly shrinks is left as it is
_AT_ONCE: Final = 4 * 1024 * 1024  # bytes of one call, and at least one body: its results take as much memory

_of_thread = threading.local()


def compressed(bodies: Sequence[bytes]) -> list[bytes | None]:
    """Each body in zstd, or None where that would not be worth it."""
    found: list[bytes | None] = []
    for part in _parts(bodies):
        if not any(part):  # which it refuses
            found += [None] * len(part)
            continue
        made = _compressor().multi_compress_to_buffer([*part])
        for place, body in enumerate(part):
            smaller = made[place]
            found.append(smaller.tobytes() if len(smaller) < len(body) * _WORTH else None)
    return found


def opened(stored: bytes | memoryview, encoding: str | None, *, limit: int = MOST_INFLATED) -> bytes:
    """The body as it came; empty for one that was pruned.

    Raises StoreError when the bytes are damaged, inflate to more than *limit*, or are in an unknown encoding.
    """
    if encoding is None:
        return bytes(stored)
    if encoding == PRUNED:
        return b""
    if encoding != ZSTD:
        raise StoreError(f"a body is stored as {encoding!r}, which this program does not know")
    try:
        announced = zstandard.frame_content_size(stored)
        if announced > limit:
            raise StoreError(f"a stored body inflates to more than {limit:,} bytes")
        if announced < 0:  # what is after its end would not be noticed
            raise StoreError("a stored body is damaged: it does not say how long it is")
        return zstandard.ZstdDecompressor().decompress(stored, read_across_frames=False, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise StoreError(f"a stored body is damaged: {error}") from error


def _parts(bodies: Sequence[bytes]) -> Iterator[list[bytes]]:
    part: list[bytes] = []
    size = 0
    for body in bodies:
        if part and size + len(body) > _AT_ONCE:
            yield part
            part, size = [], 0
        part.append(body)
        size += len(body)
    if part:
        yield part


def _compressor() -> zstandard.ZstdCompressor:
    """This thread's: making one takes as long as two bodies do."""
    found: zstandard.ZstdCompressor | None = getattr(_of_thread, "compressor", None)
    if found is None:
        found = _of_thread.compressor = zstandard.ZstdCompressor(level=_LEVEL)
    return found
