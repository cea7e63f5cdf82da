"""The wires of a download: they write the body of a good answer to a file, within the attempt, and tell a body that
broke off from one that is complete. Imported at the first download, as httpx2 is by it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, Self

from moorline.calls.effects import Expired
from moorline.calls.exchange import Exchange
from moorline.calls.ranges import Transfer
from moorline.calls.sending import ServiceRequest
from moorline.calls.timer import Timer
from moorline.calls.wires import WIRE_ERRORS, raise_if_expired, raise_translated
from moorline.errors import AttemptTimeout, CallError

if TYPE_CHECKING:
    from moorline.calls.drivers import AsyncWire, SyncWire

__all__ = ["AsyncSavingWire", "Saver", "SyncSavingWire", "Target"]

Progress = Callable[[int, int | None], None]
_WRITE: Final = 1 << 20  # bytes that are written at once
_END: Final = object()


class Target:
    """The file beside, until it has its name; it is removed when it never gets there.

    A write may go on in a thread when the task that waits for it is cancelled: who comes last closes and removes.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._parts = bytearray()
        self._stale = False  # whether what is in the file is not wanted any longer
        self._over = False
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        number, name = tempfile.mkstemp(prefix=f".{self._path.name[:100]}.", dir=self._path.parent)
        self._name: str | None = name
        self._file: IO[bytes] = os.fdopen(number, "wb", buffering=0)
        return self

    def __exit__(self, *_error: object) -> None:
        self._over = True
        self._leave()

    def take(self, part: bytes) -> bool:
        """Remember *part*; whether there is enough to write."""
        self._parts += part
        return len(self._parts) >= _WRITE

    def restart(self) -> None:
        """Forget all that was taken."""
        self._parts.clear()
        self._stale = True

    def flush(self) -> None:
        """Write what is there. Raises OSError."""
        self._alone(self._write)

    def write(self, parts: Iterable[bytes]) -> None:
        """Write *parts* as they are, behind what was taken. Raises OSError."""

        def work() -> None:
            self._write()
            for part in parts:
                self._write_all(memoryview(part))

        self._alone(work)

    def finish(self) -> None:
        """Write the rest, and give the file its name. Raises OSError."""
        self._alone(self._name_it)

    def _alone(self, work: Callable[[], None]) -> None:
        try:
            with self._lock:
                if not self._over:
                    work()
        finally:
            if self._over:
                self._leave()

    def _write(self) -> None:
        if self._stale:
            self._file.seek(0)
            self._file.truncate()
            self._stale = False
        self._write_all(memoryview(self._parts))
        self._parts = bytearray()

    def _write_all(self, view: memoryview) -> None:
        while view:
            view = view[self._file.write(view) :]

    def _name_it(self) -> None:
        self._write()
        self._file.close()
        assert self._name is not None
        os.replace(self._name, self._path)  # noqa: PTH105 (a name, not a path)
        self._name = None

    def _leave(self) -> None:
        if not self._lock.acquire(blocking=False):
            return  # the write under way does it when it is over
        try:
            self._file.close()
            name, self._name = self._name, None
            if name is not None:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name)  # noqa: PTH108 (a name, not a path)
        finally:
            self._lock.release()


class Saver:
    """Where the bytes go, and what they mean: the part of the wires that does not wait. *named* gives the service's own
    id of a request, *restarted* is told that all comes again though the rest was asked for.
    """

    def __init__(
        self,
        transfer: Transfer,
        target: Target,
        progress: Progress | None,
        named: Callable[[Exchange], str | None],
        restarted: Callable[[], None],
    ) -> None:
        self.transfer = transfer
        self.target = target
        self._progress = progress
        self._named = named
        self._restarted = restarted

    def begin(self, answer: Exchange) -> None:
        """The head of a good answer is here. Raises BadAnswer when its body is not what was asked for."""
        transfer = self.transfer
        before, asked = transfer.size, transfer.offset
        try:
            goes_on = transfer.begin(answer.status, answer.headers, answer.url)
        except CallError as error:
            raise self._of(answer, error) from None
        if goes_on:
            return
        self.target.restart()
        if asked:
            self._restarted()
        if before and self._progress is not None:
            self._progress(0, transfer.total)

    def take(self, answer: Exchange, part: bytes) -> bool:
        """A part of the body; whether there is enough to write. Raises BadAnswer, and what *progress* raises."""
        transfer = self.transfer
        try:
            transfer.took(len(part))
        except CallError as error:
            raise self._of(answer, error) from None
        if self._progress is not None:
            self._progress(transfer.size, transfer.total)
        return self.target.take(part)

    def end(self, answer: Exchange) -> None:
        """The body is over. Raises BadAnswer where that is not all."""
        try:
            self.transfer.end()
        except CallError as error:
            raise self._broke(answer, error) from None

    def broken(self, answer: Exchange, request: ServiceRequest, error: BaseException) -> CallError:
        """What a failure of the wire within the body means."""
        try:
            raise_translated(error, in_body=True)
        except CallError as translated:
            if isinstance(translated, AttemptTimeout) and request.patience is not None:
                translated.message = f"nothing came for {request.patience:g} s"
            return self._broke(answer, translated)

    def _broke(self, answer: Exchange, error: CallError) -> CallError:
        error.message = f"the body broke off after {self.transfer}: {error.message}"
        return self._of(answer, error)

    def _of(self, answer: Exchange, error: CallError) -> CallError:
        error.status, error.request_id = answer.status, self._named(answer)
        return error


class AsyncSavingWire:
    """Saves the bodies of what an async wire of a service answers."""

    def __init__(self, wire: AsyncWire, saver: Saver) -> None:
        self._wire = wire
        self._saver = saver

    async def send(self, request: ServiceRequest, timeout: float | None) -> Exchange:
        """The answer, its body saved. Raises as the wire does, and OSError for a file that cannot be written."""
        until = None if timeout is None else time.monotonic() + timeout
        answer: Exchange = await self._wire.send(request, timeout)
        if answer.open is None:
            return answer
        timer = Timer(None if until is None else max(until - time.monotonic(), 0.0))
        try:
            self._saver.begin(answer)
            with timer:
                await self._save(request, answer, until)
        except TimeoutError:
            if timer.expired:
                raise Expired(sent=True) from None
            raise
        finally:
            await answer.open.aclose()
        return answer

    async def _save(self, request: ServiceRequest, answer: Exchange, until: float | None) -> None:
        saver = self._saver
        async with contextlib.aclosing(answer.open.aiter_bytes()) as parts:
            while True:
                try:
                    part: Any = await anext(parts, _END)
                except WIRE_ERRORS as error:
                    if saver.transfer.complete:
                        break
                    raise saver.broken(answer, request, error) from error
                if part is _END:
                    break
                _check(until)
                if saver.take(answer, part):
                    await asyncio.to_thread(saver.target.flush)
        saver.end(answer)

    async def discard(self, answer: Exchange) -> None:
        """Close what was not read."""
        await self._wire.discard(answer)


class SyncSavingWire:
    """The same, blocking: each wait on the socket ends when the attempt must."""

    def __init__(self, wire: SyncWire, saver: Saver) -> None:
        self._wire = wire
        self._saver = saver

    def send(self, request: ServiceRequest, timeout: float | None) -> Exchange:
        """The answer, its body saved."""
        until = None if timeout is None else time.monotonic() + timeout
        answer: Exchange = self._wire.send(request, timeout)
        if answer.open is None:
            return answer
        try:
            self._saver.begin(answer)
            self._save(request, answer, until)
        finally:
            answer.open.close()
        return answer

    def _save(self, request: ServiceRequest, answer: Exchange, until: float | None) -> None:
        saver = self._saver
        with contextlib.closing(answer.open.iter_bytes()) as parts:
            while True:
                try:
                    part: Any = next(parts, _END)
                except WIRE_ERRORS as error:
                    if saver.transfer.complete:
                        break
                    broken = saver.broken(answer, request, error)
                    raise_if_expired(broken, until)
                    raise broken from error
                if part is _END:
                    break
                _check(until)
                if saver.take(answer, part):
                    saver.target.flush()
        saver.end(answer)

    def discard(self, answer: Exchange) -> None:
        """Close what was not read."""
        self._wire.discard(answer)


def _check(until: float | None) -> None:
    """Data that is always there at once never lets a timer ring."""
    if until is not None and time.monotonic() >= until:
        raise Expired(sent=True)
