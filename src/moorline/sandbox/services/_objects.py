"""What the stand-ins of storage share: objects in memory, up to a limit; ranges, listings, writes to a key."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any, Final

from moorline.sandbox.standin import Surroundings

__all__ = ["BUCKETS", "Bucket", "Full", "Kept", "Listing", "cut", "hashed", "http_date", "md5_of"]

BUCKETS: Final = ("moorline-sandbox", "moorline-sandbox-2")
_MOST: Final = 512 << 20  # bytes of all objects and parts
_LIMITED: Final = "limited/"
_RANGE: Final = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})", re.ASCII)


class Full(Exception):
    """The sandbox holds no more."""


@dataclass(slots=True)
class Kept:
    """An object: its content, and what its service keeps beside."""

    body: bytes
    etag: str
    modified: float
    generation: int
    content_type: str
    metadata: Mapping[str, str]
    headers: Mapping[str, str] = field(default_factory=dict)
    parts: tuple[int, ...] = ()
    metageneration: int = 1

    def shown(self) -> dict[str, Any]:
        """The facts of it, for the state."""
        return {
            "size": len(self.body),
            "etag": self.etag,
            "content_type": self.content_type,
            "metadata": dict(self.metadata),
            "generation": self.generation,
        }


@dataclass(frozen=True, slots=True)
class Listing:
    """A page: names of objects and of prefixes in one order, and where the next one begins."""

    keys: tuple[str, ...]
    prefixes: tuple[str, ...]
    after: str | None


class Bucket:
    """The objects of a bucket by their keys. *used* is what all buckets of a stand-in hold, in bytes."""

    def __init__(self, around: Surroundings, used: list[int]) -> None:
        self._around = around
        self._used = used
        self._written: dict[str, float] = {}
        self._last = 0
        self.objects: dict[str, Kept] = {}

    def generation(self) -> int:
        """A number that only grows, of microseconds."""
        self._last = max(self._last + 1, int(self._around.clock.wall() * 1_000_000))
        return self._last

    def limited(self, key: str) -> bool:
        """Whether this write comes too soon. The sandbox's own: keys that begin with ``limited/`` may be written once a
        second, as all are at R2 and Google.
        """
        if not key.startswith(_LIMITED):
            return False
        now = self._around.clock.monotonic()
        if now - self._written.get(key, -1.0) < 1.0:
            return True
        self._written[key] = now
        return False

    def room(self, size: int) -> None:
        """Raises Full where *size* more bytes are too many."""
        if self._used[0] + size > _MOST:
            raise Full

    def hold(self, size: int) -> None:
        """Count bytes that are held, or (below 0) no longer."""
        self._used[0] += size

    def write(self, key: str, kept: Kept) -> None:
        """Put an object in its place. Raises Full."""
        before = self.objects.get(key)
        more = len(kept.body) - (len(before.body) if before else 0)
        self.room(more)
        self.hold(more)
        self.objects[key] = kept

    def remove(self, key: str) -> None:
        """Take an object away, if there is one."""
        gone = self.objects.pop(key, None)
        if gone is not None:
            self.hold(-len(gone.body))

    def listed(self, prefix: str, delimiter: str, after: str, most: int, *, inclusive: bool = False) -> Listing:
        """The names after *after*, at most *most*, prefixes counted as one each."""
        keys: list[str] = []
        prefixes: list[str] = []
        last = ""
        names = sorted((name for name in self.objects if name.startswith(prefix)), key=lambda name: name.encode())
        for name in names:
            at = name.find(delimiter, len(prefix)) if delimiter else -1
            group = name[: at + len(delimiter)] if at >= 0 else ""
            said = group or name
            if (
                said.encode() < after.encode()
                or (said == after and not inclusive)
                or (prefixes and group == prefixes[-1])
            ):
                continue
            if len(keys) + len(prefixes) == most:
                return Listing(tuple(keys), tuple(prefixes), last)
            (prefixes if group else keys).append(said)
            last = said
        return Listing(tuple(keys), tuple(prefixes), None)

    def shown(self) -> dict[str, Any]:
        """The objects, for the state."""
        return {key: kept.shown() for key, kept in sorted(self.objects.items())}


def cut(body: bytes, asked: str | None) -> tuple[int, int] | None:
    """The first byte and the one behind the last that a ``Range`` asks for; all where it asks for none that is known.
    None where there are none such.
    """
    found = _RANGE.fullmatch(asked or "")
    if found is None or not (found[1] or found[2]):
        return 0, len(body)
    if not found[1]:
        size = int(found[2])
        return (max(len(body) - size, 0), len(body)) if size and body else None
    first = int(found[1])
    last = min(int(found[2]), len(body) - 1) if found[2] else len(body) - 1
    return (first, last + 1) if first <= last else None


def md5_of(content: bytes) -> bytes:
    """The MD5."""
    return hashlib.md5(content, usedforsecurity=False).digest()


def hashed(parts: Iterable[bytes]) -> str:
    """The ETag of an object in parts, by the MD5s of these."""
    sums = list(parts)
    return f'"{md5_of(b"".join(sums)).hex()}-{len(sums)}"'


def http_date(seconds: float) -> str:
    """A time as HTTP has it."""
    return formatdate(seconds, usegmt=True)
