"""Uploads in parts, as S3's API has them: several at a time, remembered in a file, completed once and for all."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from moorline.calls.checksums import combined_crc32, crc32, encoded, md5
from moorline.errors import Conflict, NotFound
from moorline.services.limits import refused
from moorline.services.object_sources import Memory, PartsOf, UploadTask
from moorline.services.s3_requests import CAME_BETWEEN

if TYPE_CHECKING:
    from moorline.services.s3_parts import S3Parts
    from moorline.services.storage.protocol import Stored

__all__ = ["again_if_overtaken", "send_parts"]

_MOST: Final = 10_000


@dataclass(slots=True)
class _Part:
    number: int
    size: int
    checksum: bytes  # CRC-32 where the service holds such, else MD5
    etag: str = ""


@dataclass(slots=True)
class _State:
    """One upload under way."""

    service: S3Parts
    task: UploadTask
    memory: Memory
    parts: list[_Part] = field(default_factory=list)
    done: int = 0
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def finished(self, part: _Part, etag: str) -> None:
        """The service has *part*."""
        part.etag = etag
        self.memory.parts[str(part.number)] = [part.checksum.hex(), etag]
        async with self.writing:
            await self.task.remember(self.memory)
        self.done += part.size
        await self.task.tell(self.done, self.memory.size)


async def send_parts(
    service: S3Parts, source: PartsOf, task: UploadTask, first: bytes, conditions: Mapping[str, Any]
) -> Stored:
    """Upload *source*, of which *first*, the first part, was taken already; all of it again where the upload was
    overtaken, if the source can be read a second time.
    """
    if source.size is not None and source.size > _MOST * task.part_size:
        raise refused("part_size", f"of {task.part_size} bytes makes more than {_MOST} parts of {source.size} bytes")
    taken = [first]

    async def once() -> Stored:
        begun = taken.pop() if taken else await source.take(task.part_size)
        return await _sent(service, source, task, begun, conditions)

    return await again_if_overtaken(service, once, source.rewind)


async def again_if_overtaken(
    service: S3Parts, once: Callable[[], Awaitable[Stored]], rewind: Callable[[], Awaitable[bool]]
) -> Stored:
    """What *once* stored in parts, as often as the policy retries where it was overtaken: of such an upload nothing can
    be used again. *rewind* says whether *once* can be asked again.
    """
    retry, failures = service.policy.retry, 0
    while True:
        try:
            return await once()
        except Conflict as error:
            if not _overtaken(error):
                raise
            failures += 1
            error.retryable = True  # nothing was stored
            if retry is None or failures > retry.retries or not await rewind():
                raise
        await service.clock.asleep(retry.delay(failures, random.random))


def _overtaken(error: BaseException) -> bool:
    """Whether another write came between an upload with a condition and its end."""
    return isinstance(error, Conflict) and error.code == CAME_BETWEEN


async def _sent(
    service: S3Parts, source: PartsOf, task: UploadTask, first: bytes, conditions: Mapping[str, Any]
) -> Stored:
    memory, kept = await _begun(service, source, task, conditions)
    state = _State(service, task, memory)
    try:
        await _send_all(state, source, first, kept)
        stored = await _complete(state, conditions)
    except BaseException as error:
        if task.memory is None or _overtaken(error):
            await service.give_up(task.key, memory.upload_id)
            await task.forget()
        raise
    await task.forget()
    return stored


async def _begun(
    service: S3Parts, source: PartsOf, task: UploadTask, conditions: Mapping[str, Any]
) -> tuple[Memory, dict[int, str]]:
    """The upload to go on with, and the ETags of the parts that it has; else a new one."""
    memory = Memory(service.name, service.bucket, task.key, task.part_size, source.size)
    before = None if task.memory is None else await asyncio.to_thread(Memory.read, task.memory)
    if before is not None and memory.goes_on(before):
        try:
            pages = service._list_parts(task.key, before.upload_id)  # noqa: SLF001
            kept = {number: etag async for number, etag, size in pages}
        except NotFound:  # it was completed, taken back, or is too old
            pass
        else:
            return before, kept
    facts = service.facts(task.content_type, task.metadata)
    sums = {"ChecksumAlgorithm": "CRC32", "ChecksumType": "FULL_OBJECT"} if service.checks_crc32 else {}
    begin = service._begin_parts(task.key, {**facts, **sums, **task.extra}, dict(conditions))  # noqa: SLF001
    memory.upload_id = await service.named("upload", begin)
    await task.remember(memory)
    return memory, {}


async def _send_all(state: _State, source: PartsOf, first: bytes, kept: Mapping[int, str]) -> None:
    """Read the source, and send of it what the service has not; *width* parts at a time."""
    task, checksum = state.task, crc32 if state.service.checks_crc32 else md5
    slots = asyncio.Semaphore(task.width)
    sending: set[asyncio.Task[None]] = set()
    data = first
    try:
        while data:
            if len(state.parts) == _MOST:
                raise refused("part_size", f"of {task.part_size} bytes makes more than {_MOST} parts")
            part = _Part(len(state.parts) + 1, len(data), await asyncio.to_thread(checksum, data))
            state.parts.append(part)
            known = state.memory.parts.get(str(part.number))
            if known == [part.checksum.hex(), kept.get(part.number)]:
                await state.finished(part, known[1])
            else:
                await slots.acquire()
                if any(one.done() and one.exception() for one in sending):
                    break
                one = asyncio.create_task(_send(state, part, data, slots))
                sending.add(one)
            data = await source.take(task.part_size)
        for ended in asyncio.as_completed(sending):
            await ended
    finally:
        for one in sending:
            one.cancel()
        await asyncio.gather(*sending, return_exceptions=True)


async def _send(state: _State, part: _Part, data: bytes, slots: asyncio.Semaphore) -> None:
    service, task = state.service, state.task
    checksum = {"ChecksumCRC32" if service.checks_crc32 else "ContentMD5": encoded(part.checksum)}
    try:
        call = service._send_part(task.key, state.memory.upload_id, part.number, data, checksum)  # noqa: SLF001
        etag = await service.named("upload", call.using(timeout=None))
        await state.finished(part, etag)
    finally:
        slots.release()


async def _complete(state: _State, conditions: Mapping[str, Any]) -> Stored:
    """Make the object. An answer that was lost makes the next request find no upload, or the object that the first one
    made: then that is ours, if its ETag is that of our parts (where the service makes it of them).
    """
    service, task, parts = state.service, state.task, state.parts
    size = sum(part.size for part in parts)
    rows: list[dict[str, Any]] = [{"PartNumber": part.number, "ETag": part.etag} for part in parts]
    given = dict(conditions)
    if service.checks_crc32:
        for row, part in zip(rows, parts, strict=True):
            row["ChecksumCRC32"] = encoded(part.checksum)
        given["ChecksumCRC32"] = encoded(combined_crc32([(part.checksum, part.size) for part in parts]))
        given["ChecksumType"] = "FULL_OBJECT"
    call = service._end_parts(task.key, state.memory.upload_id, rows, size, given)  # noqa: SLF001
    try:
        return await service.named("upload", call)
    except (NotFound, Conflict) as error:
        if len(error.attempts) < 2:
            raise
        head = await service.head(task.key)
        if head.etag != _etag_of(parts):
            raise
        from moorline.services.storage.protocol import Stored

        return Stored(task.key, head.etag, head.version, size, match=head.match, raw=head.raw)


def _etag_of(parts: list[_Part]) -> str | None:
    """The ETag of an object that is made of *parts*, where theirs are MD5s."""
    try:
        whole = b"".join(bytes.fromhex(part.etag.strip('"')) for part in parts)
    except ValueError:
        return None
    return f'"{md5(whole).hex()}-{len(parts)}"'
