"""``Upload``: the body of a request that is sent in parts, from a file or from whatever makes bytes; never whole in
memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import IO, Any, Final, Self

from moorline.calls.dialects import check_header
from moorline.errors import ConfigurationError, Misuse
from moorline.policies.checks import check_count

__all__ = ["Reading", "SourceFailed", "Upload"]

Progress = Callable[[int, int | None], None]
_PART: Final = 1 << 16  # bytes that are given to the wire at once
_READ: Final = 1 << 20  # bytes that are read from a file at once
_END: Final = object()
_ANY_TYPE: Final = "application/octet-stream"


class SourceFailed(Exception):
    """What the source of an upload raised, as ``error``: it is the caller's own, and no failure of the wire."""

    def __init__(self, error: Exception) -> None:
        super().__init__(type(error).__name__)
        self.error = error


class Upload:
    """A body to send: give it as ``upload`` to ``Service.request`` or to a Plan.

    *source* is a path (a ``str`` is one), a file opened for reading bytes, bytes, or an iterable or async iterable of
    bytes. *size* is its length in bytes, found out for files and bytes; without one the body is sent in chunks.
    *content_type* is guessed from a path's name. *progress* is told the bytes that the wire took so far and the size
    (None if unknown); a retry begins again at 0.

    Paths, seekable files, bytes and what can be iterated again are sent again by a retry, from where they began.
    Iterators and generators are read once: such a request is repeated only if nothing of it was read. What the source
    raises is raised to the caller as it is, and counts neither for nor against the service.

    Raises ConfigurationError naming the argument, and OSError for a path that cannot be read.
    """

    __slots__ = (
        "_lock",
        "_progress",
        "_source",
        "_start",
        "_used",
        "asynchronous",
        "content_type",
        "rewindable",
        "size",
    )

    def __init__(
        self,
        source: Any,
        *,
        size: int | None = None,
        content_type: str | None = None,
        progress: Progress | None = None,
    ) -> None:
        if size is not None:
            check_count("Upload", "size", size, least=0)
        if progress is not None and not callable(progress):
            raise ConfigurationError(f"Upload.progress must be a function, not {type(progress).__name__}")
        self._source = os.fspath(source) if isinstance(source, os.PathLike) else source
        self._progress = progress
        self._start = 0
        self._used = False
        self._lock = threading.Lock()
        self.asynchronous = False
        self.rewindable = True
        self.size = size if size is not None else self._measured()
        self._look()
        self.content_type = content_type or _guessed(self._source)
        check_header("Upload.content_type", "Content-Type", self.content_type)

    def __repr__(self) -> str:
        size = "unknown size" if self.size is None else f"{self.size} bytes"
        return f"<Upload of {size}, {self.content_type}>"

    @property
    def replayable(self) -> bool:
        """Whether it can be sent from its start."""
        return self.rewindable or not self._used

    def begin(self, *, blocking: bool) -> Reading:
        """The parts for one attempt. Raises Misuse where they cannot be had, OSError for a file that is gone."""
        if blocking and self.asynchronous:
            raise Misuse("this Upload has an async source; use `await` on the Call, not .result()")
        if not self.replayable:
            raise Misuse("the source of this Upload can be read once, and was; give a path, a file or a list instead")
        return Reading(self, self._opened(), self._progress)

    def read_once(self) -> None:
        """The first part is taken. For Reading."""
        self._used = True

    # The kinds of sources --------------------------------------------------------------------------------------------

    def _measured(self) -> int | None:
        source = self._source
        if isinstance(source, (bytes, bytearray, memoryview)):
            return memoryview(source).nbytes
        if isinstance(source, str):
            facts = os.stat(source)  # noqa: PTH116 (a name, not a path)
            if stat.S_ISDIR(facts.st_mode):
                raise IsADirectoryError(f"Upload: {source!r} is a directory")
            return facts.st_size if stat.S_ISREG(facts.st_mode) else None
        if hasattr(source, "read") and _seekable(source):
            here = source.tell()
            end = source.seek(0, os.SEEK_END)
            source.seek(here)
            return max(int(end) - int(here), 0)
        return None

    def _look(self) -> None:
        """Find out what the source is. Raises ConfigurationError."""
        source = self._source
        if isinstance(source, (bytes, bytearray, memoryview)):
            return
        if isinstance(source, str):
            self.rewindable = stat.S_ISREG(os.stat(source).st_mode)  # noqa: PTH116 (a pipe is read once)
        elif hasattr(source, "read"):
            if hasattr(source, "encoding") or asyncio.iscoroutinefunction(source.read):
                raise ConfigurationError("Upload.source must be a file opened for bytes: open(path, 'rb')")
            self.rewindable = _seekable(source)
            self._start = source.tell() if self.rewindable else 0
        elif hasattr(source, "__aiter__"):
            self.asynchronous, self.rewindable = True, not hasattr(source, "__anext__")
        elif hasattr(source, "__iter__") and not isinstance(source, dict):
            self.rewindable = not hasattr(source, "__next__")
        else:
            kind = type(source).__name__
            raise ConfigurationError(
                f"Upload.source must be a path, a file, bytes, or an iterable of bytes, not {kind}"
            )

    def _opened(self) -> Any:
        """The source as an iterator of one attempt."""
        source = self._source
        if isinstance(source, (bytes, bytearray, memoryview)):
            return iter((memoryview(source).cast("B"),))
        if isinstance(source, str):
            file = open(source, "rb", buffering=0) if self.rewindable else None  # noqa: PTH123, SIM115 (see _File)
            return _File(source, file, None, self.size, threading.Lock())
        if hasattr(source, "read"):
            start = self._start if self.rewindable else None
            return _File(None, source, start, self.size, self._lock)
        return aiter(source) if self.asynchronous else iter(source)


class _File:
    """A file in large parts. Its reads may go on in a thread when the attempt is over already: they share a lock with
    those of the next attempt, and the last one closes.

    With a *path* the file is ours to close, and to open where that may take long (a pipe waits for its other end).
    """

    def __init__(
        self, path: str | None, file: IO[bytes] | None, at: int | None, size: int | None, lock: threading.Lock
    ) -> None:
        self._path = path
        self._file = file
        self._at = at
        self._left = size
        self._lock = lock
        self._over = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        with self._lock:
            if self._over:
                raise StopIteration
            if self._file is None:
                assert self._path is not None
                self._file = open(self._path, "rb", buffering=0)  # noqa: PTH123, SIM115 (closed by the last to use it)
            try:
                return self._read(self._file)
            finally:
                self._close_if_over()

    def _close_if_over(self) -> None:
        if self._over and self._path is not None and self._file is not None:
            self._file.close()

    def _read(self, file: IO[bytes]) -> bytes:
        most = _READ if self._left is None else min(_READ, self._left)  # what is added meanwhile is not sent
        if most == 0:
            raise StopIteration
        if self._at is not None:
            file.seek(self._at)
        part = file.read(most)
        if part is None:
            raise Misuse("the file of this Upload is non-blocking and has no data yet; give an async iterable instead")
        if not part:
            raise StopIteration
        if self._at is not None:
            self._at += len(part)
        if self._left is not None:
            self._left -= len(part)
        return part

    def close(self) -> None:
        """No more is wanted."""
        self._over = True
        if self._lock.acquire(blocking=False):  # else the read under way closes
            try:
                self._close_if_over()
            finally:
                self._lock.release()


class Reading:
    """The parts of an upload for one attempt, at most 64 KiB each, for ``for`` and ``async for``. On the event loop a
    source that may block is asked in a thread. ``close`` or ``aclose`` it at the end.

    Raises SourceFailed with what the source raised, or with Misuse for parts that are no bytes, or not *size* in all.
    """

    __slots__ = ("_parts", "_progress", "_sent", "_upload")

    def __init__(self, upload: Upload, parts: Any, progress: Progress | None) -> None:
        self._upload = upload
        self._parts = parts
        self._progress = progress
        self._sent = 0

    def __iter__(self) -> Iterator[bytes]:
        self._upload.read_once()
        while (part := self._asked(_END)) is not _END:
            yield from self._slices(part)
        self._complete()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        upload = self._upload
        upload.read_once()
        while True:
            if upload.asynchronous:
                part = await self._awaited()
            else:
                part = await asyncio.to_thread(self._asked, _END)
            if part is _END:
                break
            for piece in self._slices(part):
                yield piece
        self._complete()

    def close(self) -> None:
        """Let the source go, unless nothing was taken and it is still wanted."""
        if hasattr(self._parts, "close") and not self._kept:
            with contextlib.suppress(ValueError):  # a generator that a thread still runs; it ends by itself
                self._parts.close()

    async def aclose(self) -> None:
        """As ``close``, on the event loop."""
        if not self._upload.asynchronous:
            self.close()
        elif hasattr(self._parts, "aclose") and not self._kept:
            await self._parts.aclose()

    @property
    def _kept(self) -> bool:
        return not self._upload.rewindable and self._upload.replayable

    def _asked(self, end: object) -> Any:
        try:
            return next(self._parts, end)
        except Exception as error:
            raise SourceFailed(error) from error

    async def _awaited(self) -> Any:
        try:
            return await anext(self._parts, _END)
        except Exception as error:
            raise SourceFailed(error) from error

    def _slices(self, part: Any) -> Iterator[bytes]:
        if not isinstance(part, (bytes, bytearray, memoryview)):
            raise SourceFailed(Misuse(f"the source of this Upload gave {type(part).__name__}, not bytes"))
        view = memoryview(part).cast("B")
        size = self._upload.size
        if size is not None and self._sent + len(view) > size:
            raise SourceFailed(Misuse(f"the source of this Upload gave more than its size of {size} bytes"))
        for start in range(0, len(view), _PART):
            piece = bytes(view[start : start + _PART])
            yield piece
            self._sent += len(piece)
            if self._progress is not None:
                self._told(self._progress, size)

    def _told(self, progress: Progress, size: int | None) -> None:
        try:
            progress(self._sent, size)
        except Exception as error:
            raise SourceFailed(error) from error

    def _complete(self) -> None:
        size = self._upload.size
        if size is not None and self._sent < size:
            raise SourceFailed(Misuse(f"the source of this Upload gave {self._sent} bytes of its size of {size}"))


def _seekable(file: Any) -> bool:
    return bool(hasattr(file, "seekable") and file.seekable())


def _guessed(source: Any) -> str:
    if not isinstance(source, str):
        return _ANY_TYPE
    import mimetypes

    kind, encoding = mimetypes.guess_type(source)
    return kind if kind is not None and encoding is None else _ANY_TYPE
