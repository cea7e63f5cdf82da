"""Uploads by a session, as Google has them: one part after the other, and after a failure the service says how much of
it is there. The address of a session lets whoever has it write to it, as a password would.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from moorline.calls.checksums import decoded, md5, mismatch
from moorline.errors import BadAnswer, CallError
from moorline.services.answers import optional_text
from moorline.services.object_sources import Memory, PartsOf

if TYPE_CHECKING:
    from moorline.services.object_sources import UploadTask
    from moorline.services.storage.gcs import GCS
    from moorline.services.storage.protocol import Stored

__all__ = ["send_session"]


_STATE: Final = "bytes */*"  # asks how much is there; with a total in it, it might be taken for the end


class _SourceChanged(Exception):
    """What was sent before is not what the source has now."""


async def send_session(service: GCS, source: PartsOf, task: UploadTask) -> Stored:
    """Upload *source*: what fits in one part in one request."""
    first = await source.take(task.part_size)
    if len(first) < task.part_size:
        given: Any = {**task.conditions, **task.extra}
        call = service.put(task.key, first, content_type=task.content_type, metadata=task.metadata, **given)
        stored = await service.named("upload", call.using(timeout=None))
        await task.tell(len(first), len(first))
        return stored
    memory = Memory(service.name, service.bucket, task.key, task.part_size, source.size)
    before = None if task.memory is None else await asyncio.to_thread(Memory.read, task.memory)
    persisted = 0
    if before is not None and memory.goes_on(before):
        persisted = await _gone_on(service, before) or 0
        memory = before if persisted else memory
    if not memory.upload_id:
        await _begin(service, memory, task)
    sending = _Sending(service, source, task, memory, persisted)
    try:
        resource = await sending.all(first)
    except _SourceChanged:  # nothing of it can be kept
        raise BadAnswer(
            "the source is not what it was when this upload began: delete the file that remembers it, and begin anew",
            service=service.name,
            operation="upload",
            code="source_changed",
        ) from None
    except BaseException:
        if task.memory is None:
            with contextlib.suppress(CallError, asyncio.CancelledError):
                await asyncio.shield(asyncio.ensure_future(_end(service, memory.upload_id)))
        raise
    await task.forget()
    return await _verified(service, task, sending.sum.digest(), resource)


async def _begin(service: GCS, memory: Memory, task: UploadTask) -> None:
    given = {**service.facts(task.key, task.content_type, task.metadata), **task.extra}
    query = service.conditions(**task.conditions)
    call = service._begin_session(task.key, given, query, memory.size)  # noqa: SLF001
    memory.upload_id = await service.named("upload", call)
    memory.parts = {}
    await task.remember(memory)


async def _gone_on(service: GCS, memory: Memory) -> int | None:
    """How many bytes the session has; None for one that is over or unknown."""
    try:
        found = await service._send_chunk(memory.upload_id, b"", _STATE)  # noqa: SLF001
    except (CallError, ValueError):
        return None
    return found if isinstance(found, int) else None


async def _end(service: GCS, session: str) -> None:
    await service._end_session(session).using(timeout=10.0)  # noqa: SLF001


def _total(size: int | None) -> str:
    return "*" if size is None else str(size)


class _Sending:
    """One upload under way; *persisted* bytes are there already."""

    def __init__(self, service: GCS, source: PartsOf, task: UploadTask, memory: Memory, persisted: int) -> None:
        self._service, self._source, self._task, self._memory = service, source, task, memory
        self._persisted = persisted
        self._total = memory.size
        self.sum = hashlib.md5(usedforsecurity=False)

    async def all(self, data: bytes) -> Mapping[str, Any]:
        """Send all, of which *data* is the first part; the object."""
        task, start, number = self._task, 0, 0
        while True:
            after = await self._source.take(task.part_size) if len(data) == task.part_size else b""
            number += 1
            digest = await asyncio.to_thread(self._measured, data)
            end = start + len(data)
            self._check(number, digest, end)
            if not after:
                self._total = end
            found = await self._part(data, start, last=not after)
            if isinstance(found, Mapping):
                await task.tell(end, end)
                return found
            self._memory.parts[str(number)] = [digest.hex(), ""]
            await task.remember(self._memory)
            await task.tell(end, self._total)
            start, data = end, after

    def _measured(self, data: bytes) -> bytes:
        self.sum.update(data)
        return md5(data)

    def _check(self, number: int, digest: bytes, end: int) -> None:
        """What the service has already must be of these very bytes."""
        known = self._memory.parts.get(str(number))
        if end <= self._persisted and known is not None and known[0] != digest.hex():
            raise _SourceChanged

    async def _part(self, data: bytes, start: int, *, last: bool) -> Any:
        """Send a part, or what the service has not of it: the object, or how many bytes are there."""
        service, end, failures = self._service, start + len(data), 0
        retry = service.policy.retry
        while last or self._persisted < end:
            at = min(max(self._persisted, start), end)
            rest = data[at - start :]
            span = f"bytes {at}-{end - 1}" if rest else "bytes *"
            total = str(end) if last else _total(self._memory.size)
            call = service._send_chunk(self._memory.upload_id, rest, f"{span}/{total}")  # noqa: SLF001
            try:
                found = await service.named("upload", call.using(retry=None, timeout=None))
            except CallError as error:
                if not error.retryable or retry is None or failures >= retry.retries:
                    raise
                await service.clock.asleep(retry.delay(failures + 1, random.random))
                found = await self._asked()
            if isinstance(found, Mapping):
                return found
            failures = 0 if found > at else failures + 1
            if found < start or failures > (retry.retries if retry else 0):
                raise BadAnswer(
                    f"the session has {found} bytes, of {at} before", service=service.name, operation="upload"
                )
            self._persisted = found
        return self._persisted

    async def _asked(self) -> Any:
        """How much is there, by the service."""
        service = self._service
        call = service._send_chunk(self._memory.upload_id, b"", _STATE)  # noqa: SLF001
        return await service.named("upload", call)


async def _verified(service: GCS, task: UploadTask, digest: bytes, resource: Mapping[str, Any]) -> Stored:
    """What was stored, if that is what was sent; else it is deleted again, unless another took its place meanwhile."""
    stored = service.placed(lambda: service.stored(task.key, resource), "upload")
    told = decoded(optional_text(resource, "md5Hash"))
    if told is not None and told != digest:
        with contextlib.suppress(CallError):
            await service.delete(task.key, if_match=stored.match)
        error = mismatch("md5", task.key)
        error.service, error.operation = service.name, "upload"
        raise error
    return stored
