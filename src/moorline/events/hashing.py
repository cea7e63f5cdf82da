"""Hashes of bodies that keep the interpreter's lock.

hashlib gives the lock up for every piece of 2,048 bytes or more. For a body of some kilobytes the hash takes a few
microseconds, and getting the lock back from a busy writer thread many times that. So small bodies are hashed in pieces
below the limit; large ones as usual, so that others can work meanwhile.
"""

from __future__ import annotations

import hashlib
import hmac
from functools import lru_cache
from typing import Any, Final

__all__ = ["hmac_of", "sha256_of"]

_PIECE: Final = 2047
_LARGE: Final = 64 * 1024
_INNER: Final = bytes(byte ^ 0x36 for byte in range(256))
_OUTER: Final = bytes(byte ^ 0x5C for byte in range(256))


def sha256_of(body: bytes) -> str:
    """The hash in hex."""
    if not _PIECE < len(body) <= _LARGE:
        return hashlib.sha256(body).hexdigest()
    made = hashlib.sha256()
    _feed(made, body)
    return made.hexdigest()


def hmac_of(key: bytes, body: bytes, algorithm: str) -> bytes:
    """HMAC (RFC 2104) with SHA-1 or a SHA-2."""
    if not _PIECE < len(body) <= _LARGE:
        return hmac.digest(key, body, algorithm)
    inner, outer = _begun(key, algorithm)
    made = inner.copy()
    _feed(made, body)
    outer = outer.copy()
    outer.update(made.digest())
    result: bytes = outer.digest()
    return result


def _feed(made: Any, body: bytes) -> None:
    view = memoryview(body)
    for start in range(0, len(body), _PIECE):
        made.update(view[start : start + _PIECE])


@lru_cache(maxsize=256)
def _begun(key: bytes, algorithm: str) -> tuple[Any, Any]:
    """Both hashes after the key."""
    size = hashlib.new(algorithm).block_size
    if len(key) > size:
        key = hashlib.new(algorithm, key).digest()
    key = key.ljust(size, b"\0")
    return hashlib.new(algorithm, key.translate(_INNER)), hashlib.new(algorithm, key.translate(_OUTER))
