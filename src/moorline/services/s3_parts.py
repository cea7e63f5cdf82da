"""Objects in parts, by S3's API: uploads and copies of any size.

Facts: botocore's model of s3 (1.44); the cards of S3 and R2.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from moorline.calls.service import Page, Plan, listing, operation
from moorline.errors import BadAnswer, CallError
from moorline.services.answers import items, optional_text, record, text
from moorline.services.object_parts import again_if_overtaken, send_parts
from moorline.services.object_sources import PartsOf, UploadTask
from moorline.services.s3_requests import S3Requests, conditional, number_of, quoted, stored, streamed
from moorline.services.storage.protocol import Head, Stored

if TYPE_CHECKING:
    from moorline.calls.call import Call

__all__ = ["S3Parts"]

_SINGLE = 5 << 30


class S3Parts(S3Requests):
    """What is written in parts."""

    def put(self, /, key: str, body: bytes, **options: Any) -> Call[Stored]:  # type: ignore[override]
        """In one request."""
        raise NotImplementedError

    # Uploads in parts -------------------------------------------------------------------------------------------------

    async def _upload(self, parts: PartsOf, task: UploadTask) -> Stored:
        first = await parts.take(task.part_size)
        if len(first) < task.part_size:
            given: Any = {**task.conditions, **task.extra}
            call = self.put(task.key, first, content_type=task.content_type, metadata=task.metadata, **given)
            stored = await self.named("upload", call.using(timeout=None))
            await task.tell(len(first), len(first))
            return stored
        return await send_parts(self, parts, task, first, self.conditions(**task.conditions))

    @operation
    def _begin_parts(self, key: str, given: dict[str, Any], conditions: dict[str, Any]) -> Plan[str]:
        """Begin an upload in parts: its id. It makes nothing that anybody sees, so that a second one does no harm."""
        plan = self._ask("CreateMultipartUpload", key, given, lambda answer: text(answer, "UploadId"), name="upload")
        return replace(plan, headers={**(plan.headers or {}), **self._early(conditions)}, repeatable=True)

    def _early(self, conditions: Mapping[str, Any]) -> dict[str, str]:  # noqa: ARG002 (R2 takes them)
        """The headers of conditions that are judged when an upload begins; S3 judges them at its end."""
        return {}

    @operation
    def _send_part(self, key: str, upload_id: str, number: int, body: bytes, checksum: dict[str, str]) -> Plan[str]:
        """Send a part: its ETag."""
        asked = {"PartNumber": number, "UploadId": upload_id, **checksum}
        plan = self._ask("UploadPart", key, asked, lambda answer: text(answer, "ETag"), name="upload")
        return streamed(plan, body)

    @operation
    def _copy_part(self, key: str, upload_id: str, number: int, given: dict[str, Any]) -> Plan[str]:
        """Copy a part: its ETag."""
        asked = {"PartNumber": number, "UploadId": upload_id, **given}
        return self._ask(
            "UploadPartCopy",
            key,
            asked,
            lambda answer: text(record(answer.get("CopyPartResult"), "CopyPartResult"), "ETag"),
            name="copy",
        )

    @listing
    def _list_parts(self, key: str, upload_id: str) -> Plan[Page[tuple[int, str, int]]]:
        """The parts that are there: number, ETag, size."""
        return self._parts_page(key, upload_id, None)

    def _parts_page(self, key: str, upload_id: str, marker: int | None) -> Plan[Page[tuple[int, str, int]]]:
        def parse(answer: Mapping[str, Any]) -> Page[tuple[int, str, int]]:
            rows = [record(one, "a part") for one in items(answer.get("Parts", []), "Parts")]
            found = tuple((number_of(one, "PartNumber"), text(one, "ETag"), number_of(one, "Size")) for one in rows)
            if not answer.get("IsTruncated"):
                return Page(found)
            after = answer.get("NextPartNumberMarker")
            if not isinstance(after, int) or after == marker:
                raise BadAnswer("the list of parts does not advance")
            return Page(found, self._parts_page(key, upload_id, after))

        return self._ask("ListParts", key, {"UploadId": upload_id, "PartNumberMarker": marker}, parse, reads=True)

    @operation
    def _end_parts(
        self, key: str, upload_id: str, parts: list[dict[str, Any]], size: int, given: dict[str, Any]
    ) -> Plan[Stored]:
        """Make the object of its parts. A second one, after an answer that was lost, finds no upload; see
        ``object_parts``.
        """
        asked = {"UploadId": upload_id, "MultipartUpload": {"Parts": parts}, **given}
        plan = self._ask("CompleteMultipartUpload", key, asked, lambda answer: stored(key, answer, size), name="upload")
        return replace(plan, repeatable=True)

    @operation
    def _abort_parts(self, key: str, upload_id: str) -> Plan[None]:
        """Take an upload back."""
        return self._ask("AbortMultipartUpload", key, {"UploadId": upload_id}, lambda _: None)

    async def give_up(self, key: str, upload_id: str) -> None:
        """Take an upload back, if that can be done now: its parts would cost money for ever. A rule of the bucket for
        what was not completed is still wise.
        """
        with contextlib.suppress(CallError, asyncio.CancelledError):
            await asyncio.shield(asyncio.ensure_future(self._taken_back(key, upload_id)))

    async def _taken_back(self, key: str, upload_id: str) -> None:
        await self._abort_parts(key, upload_id).using(timeout=10.0)

    # Copies --------------------------------------------------------------------------------------------------

    copied_at_once: int = _SINGLE
    copied_part: int = 512 << 20

    @operation
    def _copied(self, key: str, size: int, given: dict[str, Any], if_absent: bool) -> Plan[Stored]:  # noqa: FBT001
        """The copy in one request."""
        asked, headers = self._copy_conditions(if_absent)
        plan = self._ask("CopyObject", key, {**given, **asked}, lambda answer: _copied(key, size, answer), name="copy")
        plan = replace(plan, headers={**(plan.headers or {}), **headers}, repeatable=True)
        return conditional(plan) if if_absent else plan

    def _copy_conditions(self, if_absent: bool) -> tuple[dict[str, Any], dict[str, str]]:  # noqa: FBT001
        """How a copy is told not to replace anything: parameters, and headers that the model does not know."""
        return ({"IfNoneMatch": "*"} if if_absent else {}), {}

    async def copied_in_parts(
        self, key: str, head: Head, origin: Mapping[str, Any], given: Mapping[str, Any], *, if_absent: bool
    ) -> Stored:
        """A copy beyond what one request may copy; made again where it was overtaken."""

        async def once() -> Stored:
            return await self._copied_once(key, head, origin, given, if_absent=if_absent)

        async def rewind() -> bool:
            return True

        return await again_if_overtaken(self, once, rewind)

    async def _copied_once(
        self, key: str, head: Head, origin: Mapping[str, Any], given: Mapping[str, Any], *, if_absent: bool
    ) -> Stored:
        size = max(self.copied_part, -(-head.size // 10_000))
        upload_id = await self._begin_parts(key, dict(given), {})
        try:
            starts = range(0, head.size, size)
            slots = asyncio.Semaphore(4)

            async def one(number: int, start: int) -> dict[str, Any]:
                async with slots:
                    span = f"bytes={start}-{min(start + size, head.size) - 1}"
                    etag = await self._copy_part(key, upload_id, number, {**origin, "CopySourceRange": span})
                return {"PartNumber": number, "ETag": etag}

            parts = await asyncio.gather(*(one(number, start) for number, start in enumerate(starts, 1)))
            return await self._end_parts(
                key, upload_id, list(parts), head.size, {"IfNoneMatch": "*"} if if_absent else {}
            )
        except BaseException:
            await self.give_up(key, upload_id)
            raise


def _copied(key: str, size: int, answer: Mapping[str, Any]) -> Stored:
    told = record(answer.get("CopyObjectResult", {}), "CopyObjectResult")
    etag = quoted(optional_text(told, "ETag"))
    return Stored(key, etag, optional_text(answer, "VersionId"), size, match=etag, raw=dict(told))
