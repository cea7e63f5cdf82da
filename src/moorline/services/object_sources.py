"""What an upload reads, in parts of one size, and what it remembers of them in a file, for another process to go on."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, Final

from moorline.calls.work import Home, Progress
from moorline.errors import ConfigurationError, Misuse

__all__ = ["Memory", "PartsOf", "UploadTask", "memory_path"]

_VERSION: Final = 1
_LONGEST: Final = 16 << 20  # bytes of a state file: 10,000 parts have about 1 MiB


class PartsOf:
    """A source, read from its beginning: a path, a file opened for bytes (from where it stands), bytes, or an iterable
    or async iterable of bytes. ``size`` is None where only the end will tell.

    Raises ConfigurationError for anything else, and OSError for a path that cannot be read.
    """

    def __init__(self, source: Any, home: Home) -> None:
        self._home = home
        self.size: int | None = None
        self.path: Path | None = None
        self._file: IO[bytes] | None = None
        self._items: Iterator[Any] | None = None
        self._later: AsyncIterator[Any] | None = None
        self._rest = bytearray()
        self._whole: memoryview | None = None
        self._start = 0  # of a file
        if isinstance(source, (bytes, bytearray, memoryview)):
            self._view = self._whole = memoryview(source).cast("B")
            self.size = len(self._view)
            self._take = self._of_bytes
        elif isinstance(source, (str, os.PathLike)):
            self.path = Path(os.fspath(source))
            self._file = self.path.open("rb", buffering=0)
            self.size = _size_of(self._file)
            self._take = self._of_file
        elif hasattr(source, "read"):
            if hasattr(source, "encoding") or asyncio.iscoroutinefunction(source.read):
                raise ConfigurationError("upload.source must be a file opened for bytes: open(path, 'rb')")
            self._file = source
            self.size = _size_of(source)
            self._start = 0 if self.size is None else source.tell()
            self._take = self._of_file
        elif hasattr(source, "__aiter__"):
            self._later = aiter(source)
            self._take = self._of_later
        elif hasattr(source, "__iter__") and not isinstance(source, Mapping):
            self._items = iter(source)
            self._take = self._of_items
        else:
            kind = type(source).__name__
            raise ConfigurationError(
                f"upload.source must be a path, a file opened for bytes, bytes, or an iterable of bytes, not {kind}"
            )

    async def take(self, size: int) -> bytes:
        """The next *size* bytes; fewer at the end only. Raises what the source raises."""
        return await self._take(size)

    async def rewind(self) -> bool:
        """Begin again where the source began, if it can be read a second time."""
        if self._whole is not None:
            self._view = self._whole
        elif self._file is not None and self.size is not None:
            await self._home.run(self._file.seek, self._start)
        else:
            return False
        return True

    async def close(self) -> None:
        """Let the source go; a file that was given stays open."""
        if self.path is not None and self._file is not None:
            self._file.close()
        held: Any = self._items or self._later
        if hasattr(held, "close"):
            with contextlib.suppress(ValueError):  # a generator that a thread still runs
                await self._home.tell(held.close)
        elif hasattr(held, "aclose"):
            await held.aclose()

    async def _of_bytes(self, size: int) -> bytes:
        part, self._view = self._view[:size], self._view[size:]
        return bytes(part)

    async def _of_file(self, size: int) -> bytes:
        return await self._home.run(self._read, size)

    def _read(self, size: int) -> bytes:
        assert self._file is not None
        found = bytearray()
        while len(found) < size:
            part = self._file.read(size - len(found))
            if part is None:
                raise Misuse(
                    "the file of this upload is non-blocking and has no data yet; give an async iterable instead"
                )
            if not part:
                break
            if len(part) == size:
                return _bytes(part)
            found += _bytes(part)
        return bytes(found)

    async def _of_items(self, size: int) -> bytes:
        await self._home.run(self._gather, size)
        return self._cut(size)

    def _gather(self, size: int) -> None:
        assert self._items is not None
        while len(self._rest) < size:
            item = next(self._items, None)
            if item is None:
                return
            self._rest += _bytes(item)

    async def _of_later(self, size: int) -> bytes:
        assert self._later is not None
        while len(self._rest) < size:
            item = await anext(self._later, None)
            if item is None:
                break
            self._rest += _bytes(item)
        return self._cut(size)

    def _cut(self, size: int) -> bytes:
        part = bytes(memoryview(self._rest)[:size])
        del self._rest[:size]
        return part


def _bytes(part: Any) -> bytes:
    if not isinstance(part, (bytes, bytearray, memoryview)):
        raise Misuse(f"the source of this upload gave {type(part).__name__}, not bytes")
    return part if isinstance(part, bytes) else bytes(part)


def _size_of(file: Any) -> int | None:
    """How many bytes are left in it; None for a pipe."""
    if not (hasattr(file, "seekable") and file.seekable()):
        return None
    here = file.tell()
    end = file.seek(0, os.SEEK_END)
    file.seek(here)
    return max(int(end) - int(here), 0)


@dataclass(slots=True)
class Memory:
    """What an upload in parts has done so far: its *upload_id* (Google: the address of its session, which lets whoever
    has it write, so that the file is its owner's only), and of each part its number, checksum and ETag.
    """

    service: str
    bucket: str
    key: str
    part_size: int
    size: int | None
    upload_id: str = ""
    parts: dict[str, list[str]] = field(default_factory=dict)
    version: int = _VERSION

    def goes_on(self, other: Memory | None) -> bool:
        """Whether *other*, which was read from a file, is of the same upload."""
        return (
            other is not None
            and bool(other.upload_id)
            and all(
                getattr(self, name) == getattr(other, name)
                for name in ("service", "bucket", "key", "part_size", "size", "version")
            )
        )

    @classmethod
    def read(cls, path: Path) -> Memory | None:
        """What stands in a file; None for none, and for one that is no such memory."""
        try:
            with path.open("rb") as file:
                found = json.loads(file.read(_LONGEST))
            parts = {str(int(number)): [str(one) for one in facts] for number, facts in found.pop("parts").items()}
            memory = cls(**found, parts=parts)
            texts = (memory.service, memory.bucket, memory.key, memory.upload_id)
            return memory if all(isinstance(one, str) for one in texts) else None
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None

    def write(self, path: Path) -> None:
        """Replace the file at once: a process that is killed leaves the last whole one."""
        number, name = tempfile.mkstemp(prefix=f".{path.name[:100]}.", dir=path.parent)  # 0600
        try:
            with os.fdopen(number, "w", encoding="utf-8") as file:
                json.dump(asdict(self), file)
            os.replace(name, path)  # noqa: PTH105 (a name, not a path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)  # noqa: PTH108 (likewise)
            raise


class UploadTask:
    """What an upload was asked for."""

    __slots__ = (
        "conditions",
        "content_type",
        "extra",
        "home",
        "key",
        "memory",
        "metadata",
        "part_size",
        "progress",
        "width",
    )

    def __init__(
        self,
        key: str,
        part_size: int,
        width: int,
        memory: Path | None,
        content_type: str | None,
        metadata: dict[str, str],
        conditions: dict[str, Any],
        extra: Mapping[str, object],
        progress: Progress | None,
        home: Home,
    ) -> None:
        self.key, self.part_size, self.width, self.memory = key, part_size, width, memory
        self.content_type, self.metadata, self.conditions, self.extra = content_type, metadata, conditions, extra
        self.progress, self.home = progress, home

    async def tell(self, done: int, total: int | None) -> None:
        """Tell of progress."""
        if self.progress is not None:
            await self.home.tell(self.progress, done, total)

    async def remember(self, memory: Memory) -> None:
        """Write down what was done."""
        if self.memory is not None:
            await asyncio.to_thread(memory.write, self.memory)

    async def forget(self) -> None:
        """It is done, or never will be: nothing is to be remembered."""
        if self.memory is not None:
            with contextlib.suppress(FileNotFoundError):
                await asyncio.to_thread(self.memory.unlink)


def memory_path(resume: bool | str | os.PathLike[str], source: Any) -> Path | None:  # noqa: FBT001 (as the caller wrote it)
    """Where an upload remembers what it has done; None where it does not. Raises ConfigurationError."""
    if resume is False:
        return None
    if resume is not True:
        return Path(os.fspath(resume))
    if isinstance(source, (str, os.PathLike)):
        path = Path(os.fspath(source))
        return path.with_name(f".{path.name}.moorline-upload")
    raise ConfigurationError("upload.resume: for a source that is no path, name the file that remembers what was done")
