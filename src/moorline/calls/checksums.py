"""Checksums of contents that are read in parts, and the sum of sums where an object was written in parts.

CRC-32 and the hashes are the standard library's. CRC-32C is google-crc32c's where that is installed; else it is
computed here, for short contents only, as Python takes a second for a few MiB.
"""

from __future__ import annotations

import base64
import hashlib
import re
import zlib
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Final, Protocol

from moorline.errors import BadAnswer

__all__ = ["Checker", "combined_crc32", "crc32", "crc32c", "md5", "mismatch"]

_HEX_PARTS: Final = re.compile(r'"?([0-9a-f]{32})-([0-9]{1,5})"?')
_POLYNOMIAL: Final = 0xEDB88320  # CRC-32's, with its bits reversed
_CASTAGNOLI: Final = 0x82F63B78
_SHORT: Final = 4 << 20
_FASTEST_FIRST: Final = ("crc32", "sha256", "sha1", "md5", "crc32c")


class _Sum(Protocol):
    def update(self, part: bytes, /) -> Any: ...
    def digest(self) -> bytes: ...


class _Crc:
    def __init__(self, step: Callable[[bytes, int], int]) -> None:
        self._step, self._value = step, 0

    def update(self, part: bytes, /) -> None:
        self._value = self._step(part, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(4, "big")


def mismatch(algorithm: str, key: str) -> BadAnswer:
    """The error for bytes that are not those that were stored."""
    return BadAnswer(f"the {algorithm} of {key[:100]!r} does not fit what came", code="checksum_mismatch")


def crc32(data: bytes) -> bytes:
    """The CRC-32 as S3 has it: four bytes, the highest first."""
    return zlib.crc32(data).to_bytes(4, "big")


def crc32c(data: bytes) -> bytes:
    """The CRC-32C as Google has it."""
    return _crc32c_step()(data, 0).to_bytes(4, "big")


def md5(data: bytes) -> bytes:
    """The MD5, which proves nothing against who means it, and is what stores know."""
    return hashlib.md5(data, usedforsecurity=False).digest()


class Checker:
    """Holds what is read against what a service knows of it: ``update`` with each part, then ``finish``.

    *checksums* are of the whole content; the fastest that can be computed is taken. Without one, an *etag* that ends in
    a number of parts may be the MD5 of the parts' MD5s, if all had *part_size* bytes: that it is so is no promise of
    the services, so a fit proves the content, and a misfit nothing.
    """

    def __init__(
        self, key: str, size: int, checksums: Mapping[str, bytes], *, etag: str | None = None, part_size: int = 0
    ) -> None:
        self._key = key
        self._expected = b""
        self._parts: _PartSums | None = None
        self.algorithm: str | None = None
        self._sum: _Sum | None = None
        for name in _FASTEST_FIRST:
            if name in checksums and (name != "crc32c" or size <= _SHORT or _google() is not None):
                self.algorithm, self._expected, self._sum = name, checksums[name], _made(name)
                return
        found = _HEX_PARTS.fullmatch(etag or "")
        if found is not None and part_size and -(-size // part_size) == int(found[2]):
            self._expected, self._parts = bytes.fromhex(found[1]), _PartSums(part_size)

    def update(self, part: bytes) -> None:
        """The next bytes."""
        if self._sum is not None:
            self._sum.update(part)
        elif self._parts is not None:
            self._parts.update(part)

    def finish(self) -> str | None:
        """The algorithm that proved the content; None where there was none. Raises BadAnswer for a misfit."""
        if self._parts is not None:
            return "md5 of parts" if self._parts.digest() == self._expected else None
        if self._sum is not None and self._sum.digest() != self._expected:
            raise mismatch(str(self.algorithm), self._key)
        return self.algorithm


class _PartSums:
    """The MD5 of the MD5s of parts of one size."""

    def __init__(self, size: int) -> None:
        self._size = self._left = size
        self._sums: list[bytes] = []
        self._sum = hashlib.md5(usedforsecurity=False)
        self._any = False

    def update(self, part: bytes) -> None:
        view = memoryview(part)
        while view:
            piece, view = view[: self._left], view[self._left :]
            self._sum.update(piece)
            self._any = True
            self._left -= len(piece)
            if not self._left:
                self._end()

    def _end(self) -> None:
        self._sums.append(self._sum.digest())
        self._sum, self._left, self._any = hashlib.md5(usedforsecurity=False), self._size, False

    def digest(self) -> bytes:
        if self._any:
            self._end()
        return md5(b"".join(self._sums))


def _made(name: str) -> _Sum:
    if name == "crc32":
        return _Crc(zlib.crc32)
    if name == "crc32c":
        return _Crc(_crc32c_step())
    return hashlib.new(name, usedforsecurity=False)


def decoded(text: str | None) -> bytes | None:
    """What a checksum in base64 stands for; None for none, and for the sum of parts' sums (``…-3``)."""
    try:
        return base64.b64decode(text, validate=True) if text else None
    except ValueError:
        return None


def encoded(checksum: bytes) -> str:
    """A checksum in base64."""
    return base64.b64encode(checksum).decode("ascii")


# CRC-32 of two contents one after the other, as zlib's crc32_combine: multiplications of polynomials modulo CRC-32's.


def _times(a: int, b: int) -> int:
    mask, product = 1 << 31, 0
    while True:
        if a & mask:
            product ^= b
            if not a & (mask - 1):
                return product
        mask >>= 1
        b = (b >> 1) ^ _POLYNOMIAL if b & 1 else b >> 1


@cache
def _zeros(count: int) -> int:
    """X to the power of 8 * *count*: what that many bytes of zeros do."""
    power, square, left = 1 << 31, 1 << 23, count
    while left:
        if left & 1:
            power = _times(square, power)
        square = _times(square, square)
        left >>= 1
    return power


def combined_crc32(parts: list[tuple[bytes, int]]) -> bytes:
    """The CRC-32 of a content, of the CRC-32s and sizes of its parts in their order."""
    total = 0
    for one, size in parts:
        total = (_times(_zeros(size), total) if total else 0) ^ int.from_bytes(one, "big")
    return total.to_bytes(4, "big")


@cache
def _google() -> Any:
    try:
        import google_crc32c  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        return None
    return google_crc32c


@cache
def _crc32c_step() -> Callable[[bytes, int], int]:
    fast = _google()
    if fast is not None:
        return lambda data, before: int(fast.extend(before, bytes(data)))
    table = _table()

    def step(data: bytes, before: int) -> int:
        value = before ^ 0xFFFFFFFF
        for byte in data:
            value = table[(value ^ byte) & 0xFF] ^ (value >> 8)
        return value ^ 0xFFFFFFFF

    return step


@cache
def _table() -> list[int]:
    found = []
    for number in range(256):
        value = number
        for _ in range(8):
            value = (value >> 1) ^ _CASTAGNOLI if value & 1 else value >> 1
        found.append(value)
    return found
