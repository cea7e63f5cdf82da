"""The API of S3 as Amazon and Cloudflare speak it: ``S3Api`` is the base of both.

Facts: botocore's model of s3 (1.44), which shapes and checks every request; the cards of S3 and R2.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote, unquote

from moorline.calls.checksums import Checker, decoded, encoded, md5
from moorline.calls.service import Page, Plan, listing, operation
from moorline.calls.work import Home, Work
from moorline.errors import BadAnswer, CallError, InvalidRequest, RateLimited
from moorline.services.answers import items, optional_text, record, text
from moorline.services.limits import refused
from moorline.services.objects import attachment, content_of
from moorline.services.s3_parts import S3Parts
from moorline.services.s3_requests import conditional, number_of, quoted, stored
from moorline.services.storage.protocol import (
    Deleted,
    DeletedMany,
    Entry,
    Head,
    SignedUrl,
    Stored,
    check_key,
    check_readable,
    one_each,
)

__all__ = ["S3Api"]

_SINGLE: Final = 5 << 30
_PAGE: Final = 1000
_KEPT: Final = ("CacheControl", "ContentDisposition", "ContentEncoding", "ContentLanguage")  # by a copy
_ALGORITHMS: Final = ("CRC32", "CRC32C", "SHA1", "SHA256")


class S3Api(S3Parts):
    """The operations of S3's API on one bucket. What R2 does otherwise, its class says."""

    # One request each -------------------------------------------------------------------------------------------------

    @operation
    def put(  # type: ignore[override]  # the base's maker of PUTs, which is not for users
        self,
        /,
        key: str,
        body: bytes,
        *,
        content_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
        if_absent: bool = False,
        if_match: str | None = None,
        **extra: object,
    ) -> Plan[Stored]:
        """Write an object in one request, of at most 5 GiB; ``upload`` is for larger ones, files and streams.

        The service verifies its checksum. *if_absent* lets it be made only, *if_match* replaced only while it has that
        ETag; with either, a request that was not answered is OutcomeUnknown, as a second one would find the first's.
        *extra* are parameters of ``PutObject`` by S3's names (``StorageClass="STANDARD_IA"``).

        Raises Conflict where a condition does not hold; InvalidRequest, naming field and limit, before it is sent.
        """
        check_readable(key)
        content = content_of(body)
        if len(content) > _SINGLE:
            raise refused("body", f"has {len(content)} bytes; the limit of one request is {_SINGLE}: use upload")
        given = {**self.facts(content_type, metadata), **self.conditions(if_absent, if_match)}
        plan = self._ask("PutObject", key, {**given, **extra}, lambda answer: stored(key, answer, len(content)))
        plan = self._carrying(plan, content)
        return conditional(plan) if if_absent or if_match is not None else plan

    @operation
    def head(self, key: str) -> Plan[Head]:
        """What is known of an object: size, type, metadata, ETag, checksums. Raises NotFound, also for a missing bucket
        (an answer to HEAD has no body to tell them apart); PermissionDenied where the key may not list.
        """
        asked = {"ChecksumMode": "ENABLED"} if self.checks_crc32 else {}
        return self._ask("HeadObject", check_key(key), asked, lambda answer: self._head(key, answer), reads=True)

    @listing
    def list_objects(
        self, /, prefix: str = "", *, delimiter: str = "", after: str = "", page_size: int = _PAGE, **extra: object
    ) -> Plan[Page[Entry]]:
        """The keys that begin with *prefix*, and come after the key *after*, in the order of their bytes. With a
        *delimiter* all that goes on beyond it is one entry with ``is_prefix``. *page_size* is 1 to 1000.
        """
        if not 1 <= page_size <= _PAGE:
            raise refused("page_size", f"must be from 1 to {_PAGE}")
        asked = {
            "Prefix": prefix or None,
            "Delimiter": delimiter or None,
            "StartAfter": after or None,
            "MaxKeys": page_size,
            "EncodingType": "url",
        }
        return self._page({**asked, **extra})

    @operation
    def delete(self, /, key: str, *, if_match: str | None = None, **extra: object) -> Plan[Deleted]:  # type: ignore[override]
        """Delete an object; one that is not there is no error. With *if_match* only while it has that ETag, else
        Conflict. In a bucket with versions it leaves them, unless ``VersionId`` names one.
        """
        plan = self._ask("DeleteObject", check_key(key), {"IfMatch": if_match, **extra}, lambda _: Deleted(key))
        return plan if if_match is None else conditional(plan)

    @operation
    def check(self) -> Plan[bool]:
        """True if the key is good and may list the bucket. Raises AuthenticationFailed, PermissionDenied, NotFound."""
        return self._ask("ListObjectsV2", None, {"MaxKeys": 1}, lambda answer: "KeyCount" in answer, reads=True)

    @operation
    def _delete_batch(self, keys: list[str]) -> Plan[dict[str, str]]:
        """Delete up to 1000 keys: the codes of those that failed, by key."""
        objects = [{"Key": key} for key in keys]
        plan = self._ask("DeleteObjects", None, {"Delete": {"Objects": objects, "Quiet": True}}, _failures)
        assert plan.content is not None
        digest = {"Content-MD5": encoded(md5(plan.content))}
        return replace(plan, headers={**(plan.headers or {}), **digest}, repeatable=True)

    # Several requests -------------------------------------------------------------------------------------------------

    def delete_many(self, keys: Iterable[str]) -> Work[DeletedMany]:
        """Delete many, 1000 in a request; one result for each, in their order. A key that is not there is no error."""
        wanted = one_each(keys)

        async def begin(_home: Home) -> DeletedMany:
            errors: dict[str, CallError] = {}
            for at in range(0, len(wanted), _PAGE):
                batch = list(wanted[at : at + _PAGE])
                try:
                    codes = await self._delete_batch(batch)
                except CallError as error:
                    error.operation = "delete_many"
                    errors |= dict.fromkeys(batch, error)
                else:
                    errors |= {key: self._of_code(code) for key, code in codes.items()}
            return DeletedMany(tuple(Deleted(key, errors.get(key)) for key in wanted))

        return Work(self.name, "delete_many", begin)

    def copy(
        self,
        source: str,
        target: str,
        *,
        to_bucket: str | None = None,
        content_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
        if_absent: bool = False,
        **extra: object,
    ) -> Work[Stored]:
        """Copy an object at the service, also to the bucket *to_bucket*; nothing of it passes here. Beyond 5 GiB it is
        copied in parts. *metadata* and *content_type* replace the source's; both are kept where neither is given.

        Raises NotFound; Conflict where the source changes meanwhile, or *if_absent* and the target is there.
        """
        check_key(source, "source")
        check_readable(target)
        there = self if to_bucket is None else self._at(to_bucket)
        replaced = content_type is not None or metadata is not None

        async def begin(_home: Home) -> Stored:
            head = await self.named("copy", self.head(source))
            origin = {"CopySource": f"{self.bucket}/{quote(source, safe='/~')}", "CopySourceIfMatch": head.etag}
            facts = self.facts(content_type or head.content_type, head.metadata if metadata is None else metadata)
            facts |= {name: head.raw.get(name) for name in _KEPT}
            if head.size > self.copied_at_once:
                return await there.copied_in_parts(target, head, origin, {**facts, **extra}, if_absent=if_absent)
            given = {**origin, **(facts if replaced else {}), "MetadataDirective": "REPLACE" if replaced else "COPY"}
            return await there._copied(target, head.size, {**given, **extra}, if_absent)  # noqa: SLF001 (ours)

        return Work(self.name, "copy", begin)

    # Signed addresses -------------------------------------------------------------------------------------------------

    def presign_get(
        self,
        key: str,
        expires: int = 3600,
        *,
        filename: str | None = None,
        content_type: str | None = None,
        **extra: object,
    ) -> Work[SignedUrl]:
        """An address from which anybody may read the object for *expires* seconds, at most 7 days; shorter where it is
        signed with temporary keys, which end it. *filename* makes browsers save it under that name, *content_type*
        replaces the object's; *extra* are further parameters of ``GetObject``.
        """
        disposition = None if filename is None else attachment(filename)
        asked = {"ResponseContentDisposition": disposition, "ResponseContentType": content_type, **extra}
        return self._presigned("presign_get", "GetObject", key, expires, asked)

    def presign_put(
        self,
        key: str,
        expires: int = 3600,
        *,
        content_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
        if_absent: bool = False,
        **extra: object,
    ) -> Work[SignedUrl]:
        """An address to which anybody may write the object, with the ``headers`` that it names: the *content_type*, the
        *metadata*, and with *if_absent* the condition that nothing is there. The size is not limited by it.
        """
        check_readable(key)
        asked = {**self.facts(content_type, metadata), **self.conditions(if_absent, None), **extra}
        return self._presigned("presign_put", "PutObject", key, expires, asked)

    # What answers say -------------------------------------------------------------------------------------------------

    def _page(self, asked: Mapping[str, Any]) -> Plan[Page[Entry]]:
        def parse(answer: Mapping[str, Any]) -> Page[Entry]:
            coded = answer.get("EncodingType") == "url"
            rows = [record(one, "an object") for one in items(answer.get("Contents", []), "Contents")]
            groups = [record(one, "a prefix") for one in items(answer.get("CommonPrefixes", []), "CommonPrefixes")]
            found = [_entry(one, coded=coded) for one in rows]
            found += [Entry(_name(text(one, "Prefix"), coded=coded), is_prefix=True, raw=one) for one in groups]
            found.sort(key=lambda one: one.key.encode("utf-8", "surrogatepass"))
            if not answer.get("IsTruncated"):
                return Page(tuple(found))
            after = text(answer, "NextContinuationToken")
            if after == asked.get("ContinuationToken"):
                raise BadAnswer("the listing does not advance")
            return Page(tuple(found), self._page({**asked, "ContinuationToken": after}))

        return self._ask("ListObjectsV2", None, asked, parse, reads=True)

    def _head(self, key: str, answer: Mapping[str, Any]) -> Head:
        size, etag = answer.get("ContentLength"), optional_text(answer, "ETag")
        if not isinstance(size, int):
            raise BadAnswer("the answer does not say how long the object is")
        told: dict[str, bytes] = {}
        if answer.get("ChecksumType") != "COMPOSITE":
            for name in _ALGORITHMS:
                found = decoded(optional_text(answer, f"Checksum{name}"))
                if found is not None:
                    told[name.lower()] = found
        bare = (etag or "").strip('"')
        encrypted = answer.get("SSECustomerAlgorithm") or str(answer.get("ServerSideEncryption", "")).startswith(
            "aws:kms"
        )
        if len(bare) == 32 and not encrypted:
            with contextlib.suppress(ValueError):
                told["md5"] = bytes.fromhex(bare)
        count = bare.rpartition("-")[2] if "-" in bare else ""
        parts = answer.get("PartsCount") or (
            int(count) if count.isascii() and count.isdigit() and len(count) < 6 else None
        )
        return Head(
            key,
            size,
            etag,
            optional_text(answer, "VersionId"),
            _utc(answer.get("LastModified")),
            optional_text(answer, "ContentType"),
            self._readable(answer.get("Metadata") or {}),
            told,
            parts if isinstance(parts, int) else None,
            match=etag,
            raw={name: value for name, value in answer.items() if name != "ResponseMetadata"},
        )

    def _of_code(self, code: str) -> CallError:
        kind = RateLimited if code in self.errors.limited else self.errors.kinds.get(code, InvalidRequest)
        error = kind(f"answered {code}", code=code)
        error.service, error.operation = self.name, "delete_many"
        return error

    async def checker(self, head: Head) -> Checker:
        """By its checksums; of an object in parts the first part tells the size of all of them."""
        size = 0
        if not head.checksums and head.parts:
            with contextlib.suppress(CallError):
                size = await self._first_part(head.key, head.etag or "*")
            if not size or -(-head.size // size) != head.parts:
                size = self.part_size  # as our own uploads have it
        return Checker(head.key, head.size, head.checksums, etag=head.etag, part_size=size)

    @operation
    def _first_part(self, key: str, etag: str) -> Plan[int]:
        """How many bytes the first part of an object has."""
        asked = {"PartNumber": 1, "IfMatch": etag}
        return self._ask("HeadObject", key, asked, lambda answer: number_of(answer, "ContentLength"), reads=True)


def _utc(moment: object) -> datetime | None:
    return moment.astimezone(UTC) if isinstance(moment, datetime) else None


def _entry(row: Mapping[str, Any], *, coded: bool) -> Entry:
    etag, modified = quoted(optional_text(row, "ETag")), _utc(row.get("LastModified"))
    return Entry(_name(text(row, "Key"), coded=coded), number_of(row, "Size"), etag, modified, raw=row)


def _name(key: str, *, coded: bool) -> str:
    return unquote(key.replace("+", " ")) if coded else key


def _failures(answer: Mapping[str, Any]) -> dict[str, str]:
    rows = [record(one, "an error") for one in items(answer.get("Errors", []), "Errors")]
    return {text(one, "Key"): optional_text(one, "Code") or "InternalError" for one in rows}
