"""Stored bodies: as they came, compressed with zstd, or pruned. Whatever it was, reading gives the bytes that came.

Large ones are compressed on their way to the disk, by the writing thread: from 16 kB on what is not written costs more
than the compressing (level 3; 100 kB were stored in 0.9 ms instead of 1.8, 25 kB in 0.5 instead of 0.6). Smaller ones
would be answered later for it (7 kB: 50 µs, as much as all else); ``retention`` compresses them when they are old.
"""

from __future__ import annotations

import sys
from typing import Final

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

from moorline.errors import StoreError

__all__ = ["COMPRESSED_AT_ONCE", "MOST_INFLATED", "PRUNED", "ZSTD", "compressed", "opened"]

ZSTD: Final = "zstd"
PRUNED: Final = "pruned"
MOST_INFLATED: Final = 256 * 1024 * 1024
"""Bytes: no body that was taken is larger (``webhooks.max_body``), so what would inflate to more is damaged."""

COMPRESSED_AT_ONCE: Final = 16 * 1024
"""Bytes from which on a body is compressed before it is stored."""

_LEVEL: Final = 3
_WORTH: Final = 0.9  # of the size: a body that hardly shrinks is left as it is


def compressed(body: bytes) -> bytes | None:
    """The body in zstd, or None when that would not be worth it."""
    smaller = zstd.compress(body, _LEVEL)
    return smaller if len(smaller) < len(body) * _WORTH else None


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
    reader = zstd.ZstdDecompressor()
    try:
        body = reader.decompress(bytes(stored), limit + 1)
    except zstd.ZstdError as error:
        raise StoreError(f"a stored body is damaged: {error}") from error
    if len(body) > limit:
        raise StoreError(f"a stored body inflates to more than {limit:,} bytes")
    if not reader.eof or reader.unused_data:
        raise StoreError("a stored body is damaged: it is cut off, or something follows it")
    return body
