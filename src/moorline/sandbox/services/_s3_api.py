"""S3's API as the stand-ins of S3 and R2 speak it; :class:`Rules` says where they differ.

Facts: services/storage/s3.md and r2.md, botocore's model of s3; wordings of messages as AWS's examples have them, else
unconfirmed. There are two buckets, ``moorline-sandbox`` and ``moorline-sandbox-2``. The sandbox's own: keys that begin
with ``limited/`` may be written once a second.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import quote, unquote
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

from moorline.errors import ConfigurationError
from moorline.sandbox.services._aws import AccessKeys, Refused
from moorline.sandbox.services._objects import BUCKETS, Bucket, Full, Kept, cut, hashed, http_date, md5_of
from moorline.sandbox.services._s3_auth import authorise
from moorline.sandbox.standin import Answer, Ask, Emission, Signed, Surroundings

__all__ = ["Rules", "S3StandIn"]

_LEAST: Final = 5 << 20
_MOST_PARTS: Final = 10_000
_SPACE: Final = "http://s3.amazonaws.com/doc/2006-03-01/"
_KEPT: Final = ("cache-control", "content-disposition", "content-encoding", "content-language")
_SUMS: Final[dict[str, Callable[[bytes], bytes]]] = {
    "crc32": lambda body: zlib.crc32(body).to_bytes(4, "big"),
    "sha1": lambda body: hashlib.sha1(body, usedforsecurity=False).digest(),
    "sha256": lambda body: hashlib.sha256(body).digest(),
}
_PRECONDITION: Final = "At least one of the pre-conditions you specified did not hold"


@dataclass(frozen=True, slots=True)
class Rules:
    """What differs: the *region* that alone is taken, what a limit and an address whose time is over are answered with,
    whether all parts must have one size, how many bytes metadata may have, and what conditions a write may have.
    """

    name: str
    region: str | None
    limited: tuple[int, str]
    expired: tuple[int, str, str]
    equal_parts: bool
    metadata_bytes: int
    wide_conditions: bool
    part_numbers: bool
    request_ids: bool


@dataclass(slots=True)
class _Upload:
    bucket: str
    key: str
    content_type: str
    metadata: Mapping[str, str]
    headers: Mapping[str, str]
    full_crc: bool
    parts: dict[int, tuple[bytes, str]] = field(default_factory=dict)


class S3StandIn:
    """Two buckets of one account."""

    def __init__(self, around: Surroundings, rules: Rules) -> None:
        self._around = around
        self._rules = rules
        used = [0]
        self._buckets = {name: Bucket(around, used) for name in BUCKETS}
        self._uploads: dict[str, _Upload] = {}
        self._keys = AccessKeys(around)

    async def handle(self, ask: Ask) -> Answer:
        """Answer one request."""
        keys = self._keys.managed(ask) if self._rules.name == "S3" else None
        if keys is not None:
            return keys
        headers = {"x-amz-request-id": self._around.id("", 16)}
        try:
            expired = Refused(*self._rules.expired)
            authorise(ask, self._around, self._keys, region=self._rules.region, expired=expired)
            await ask.work()
            answer = self._routed(ask)
        except Full:
            answer = self._error(Refused(507, "InsufficientStorage", "The sandbox holds no more"), ask, headers)
        except Refused as refused:
            answer = self._error(refused, ask, headers)
        return Answer(answer.status, answer.content, {**answer.headers, **headers})

    def snapshot(self) -> dict[str, Any]:
        """The objects of each bucket, and the uploads that are under way."""
        uploads = {
            name: {"key": one.key, "parts": {str(number): len(body) for number, (body, _) in one.parts.items()}}
            for name, one in self._uploads.items()
        }
        return {"buckets": {name: bucket.shown() for name, bucket in self._buckets.items()}, "uploads": uploads}

    def failure(self, status: int) -> Answer:
        """The error body for an injected status."""
        codes = {409: "ConditionalRequestConflict", 429: "TooManyRequests", 500: "InternalError"}
        code = {**codes, 503: self._rules.limited[1]}.get(status, "ServiceUnavailable")
        if status == 503 and self._rules.limited[0] != 503:
            code = "ServiceUnavailable"
        text = f"<Error><Code>{code}</Code><Message>Please try again.</Message></Error>"
        return Answer(status, text.encode(), {"content-type": "application/xml"})

    def sample(self, event: str) -> bytes:
        """None are sent."""
        raise ConfigurationError(f"'event': {self._rules.name} sends no webhooks")

    def sign(self, emission: Emission, *, url: str, secrets: tuple[str, ...], hook_id: str, broken: bool) -> Signed:
        """None are sent."""
        raise ConfigurationError(f"'service': {self._rules.name} sends no webhooks")

    def _error(self, error: Refused, ask: Ask, headers: Mapping[str, str]) -> Answer:
        if ask.method == "HEAD":
            return Answer(error.status)
        more = ""
        if self._rules.request_ids:
            more = f"<Resource>{escape(ask.path)}</Resource><RequestId>{headers['x-amz-request-id']}</RequestId>"
        text = (
            f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{escape(error.code)}</Code>'
            f"<Message>{escape(error.message)}</Message>{more}</Error>"
        )
        return Answer(error.status, text.encode(), {"content-type": "application/xml"})

    # -- which operation ---------------------------------------------------------------------------------------------

    def _routed(self, ask: Ask) -> Answer:
        name, _, key = ask.path.lstrip("/").partition("/")
        bucket = self._buckets.get(name)
        if bucket is None:
            raise Refused(404, "NoSuchBucket", "The specified bucket does not exist")
        query = dict(ask.parameters)
        if not key:
            if ask.method == "GET" and query.get("list-type") == "2":
                return self._list(name, bucket, query)
            if ask.method == "POST" and "delete" in query:
                return self._delete_many(bucket, ask)
            if ask.method == "HEAD":
                return Answer(200)
            raise Refused(405, "MethodNotAllowed", "The specified method is not allowed against this resource.")
        if len(key.encode()) > 1024:
            raise Refused(400, "KeyTooLongError", "Your key is too long")
        if "uploadId" in query or "uploads" in query:
            return self._multipart(ask, name, bucket, key, query)
        if ask.method in ("GET", "HEAD"):
            return self._get(ask, bucket, key, query)
        if ask.method == "PUT":
            return self._copy(ask, bucket, key) if "x-amz-copy-source" in ask.headers else self._put(ask, bucket, key)
        if ask.method == "DELETE":
            return self._delete(ask, bucket, key)
        raise Refused(405, "MethodNotAllowed", "The specified method is not allowed against this resource.")

    # -- single objects ----------------------------------------------------------------------------------------------

    def _get(self, ask: Ask, bucket: Bucket, key: str, query: Mapping[str, str]) -> Answer:
        kept = self._there(bucket, key)
        wanted, unwanted = ask.headers.get("if-match"), ask.headers.get("if-none-match")
        if wanted is not None and not _named(wanted, kept.etag):
            raise Refused(412, "PreconditionFailed", _PRECONDITION)
        if unwanted is not None and _named(unwanted, kept.etag):
            return Answer(304, None, {"etag": kept.etag})
        headers = self._headers(kept)
        for name, value in query.items():
            if name.startswith("response-"):
                headers[name.removeprefix("response-")] = value
        if ask.headers.get("x-amz-checksum-mode") != "ENABLED":
            headers = {name: value for name, value in headers.items() if not name.startswith("x-amz-checksum-")}
        span = cut(kept.body, ask.headers.get("range"))
        status = 206 if "range" in ask.headers else 200
        if "partNumber" in query and kept.parts and self._rules.part_numbers:
            first = sum(kept.parts[: int(query["partNumber"]) - 1])
            span, status = (first, first + kept.parts[int(query["partNumber"]) - 1]), 206
            headers["x-amz-mp-parts-count"] = str(len(kept.parts))
        if span is None:
            raise Refused(416, "InvalidRange", "The requested range is not satisfiable")
        if status == 206:
            headers["content-range"] = f"bytes {span[0]}-{span[1] - 1}/{len(kept.body)}"
        return Answer(status, kept.body[span[0] : span[1]], headers)

    def _headers(self, kept: Kept) -> dict[str, str]:
        return {
            "etag": kept.etag,
            "last-modified": http_date(kept.modified),
            "accept-ranges": "bytes",
            "content-type": kept.content_type,
            **{f"x-amz-meta-{name}": value for name, value in kept.metadata.items()},
            **kept.headers,
        }

    def _put(self, ask: Ask, bucket: Bucket, key: str) -> Answer:
        self._check_length(ask)
        self._conditions(ask, bucket, key)
        sums = self._sums(ask)
        self._limit(bucket, key)
        kept = self._made(bucket, ask.headers, ask.body, f'"{md5_of(ask.body).hex()}"', sums)
        bucket.write(key, kept)
        return Answer(200, None, {"etag": kept.etag, **sums})

    def _made(
        self,
        bucket: Bucket,
        headers: Mapping[str, str],
        body: bytes,
        etag: str,
        sums: Mapping[str, str],
        parts: tuple[int, ...] = (),
    ) -> Kept:
        metadata = {name[11:]: value for name, value in headers.items() if name.startswith("x-amz-meta-")}
        if sum(len(name) + len(value) for name, value in metadata.items()) > self._rules.metadata_bytes:
            raise Refused(400, "MetadataTooLarge", "Your metadata headers exceed the maximum allowed metadata size")
        more = {name: headers[name] for name in _KEPT if name in headers} | dict(sums)
        kind = headers.get("content-type", "binary/octet-stream")
        return Kept(body, etag, self._around.clock.wall(), bucket.generation(), kind, metadata, more, parts)

    def _delete(self, ask: Ask, bucket: Bucket, key: str) -> Answer:
        wanted = ask.headers.get("if-match")
        if wanted is not None:
            kept = self._there(bucket, key)
            if not _named(wanted, kept.etag):
                raise Refused(412, "PreconditionFailed", _PRECONDITION)
        self._limit(bucket, key)
        bucket.remove(key)
        return Answer(204)

    def _delete_many(self, bucket: Bucket, ask: Ask) -> Answer:
        if "content-md5" not in ask.headers and not self._sums(ask):
            raise Refused(400, "InvalidRequest", "Missing required header for this request: Content-MD5")
        self._sums(ask)
        root = _xml(ask.body)
        keys = [found.text or "" for found in root.iterfind("{*}Object/{*}Key")]
        if not 0 < len(keys) <= 1000:
            raise Refused(400, "MalformedXML", "The XML you provided was not well-formed or has not 1 to 1000 keys")
        quiet = (root.findtext("{*}Quiet") or "") == "true"
        rows = []
        for key in keys:
            if bucket.limited(key):
                rows.append(f"<Error><Key>{escape(key)}</Key><Code>{self._rules.limited[1]}</Code></Error>")
                continue
            bucket.remove(key)
            rows += [] if quiet else [f"<Deleted><Key>{escape(key)}</Key></Deleted>"]
        return _answer("DeleteResult", "".join(rows))

    def _copy(self, ask: Ask, bucket: Bucket, key: str) -> Answer:
        kept = self._source(ask)
        if (
            self._rules.wide_conditions
            and ask.headers.get("cf-copy-destination-if-none-match") == "*"
            and key in bucket.objects
        ):
            raise Refused(412, "PreconditionFailed", _PRECONDITION)
        self._conditions(ask, bucket, key)
        self._limit(bucket, key)
        if ask.headers.get("x-amz-metadata-directive", "COPY") == "REPLACE":
            sums = {name: value for name, value in kept.headers.items() if name.startswith("x-amz-checksum-")}
            made = self._made(bucket, ask.headers, kept.body, kept.etag, sums)
        else:
            made = Kept(
                kept.body,
                kept.etag,
                self._around.clock.wall(),
                bucket.generation(),
                kept.content_type,
                kept.metadata,
                kept.headers,
            )
        if kept.parts:  # a copy in one request is one part
            made.etag, made.parts = f'"{md5_of(kept.body).hex()}"', ()
        bucket.write(key, made)
        return _answer("CopyObjectResult", f"<ETag>{escape(made.etag)}</ETag><LastModified>{_iso(made)}</LastModified>")

    def _source(self, ask: Ask) -> Kept:
        name, _, key = unquote(ask.headers["x-amz-copy-source"].partition("?")[0]).lstrip("/").partition("/")
        if name not in self._buckets:
            raise Refused(404, "NoSuchBucket", "The specified bucket does not exist")
        kept = self._there(self._buckets[name], key)
        wanted = ask.headers.get("x-amz-copy-source-if-match")
        if wanted is not None and not _named(wanted, kept.etag):
            raise Refused(412, "PreconditionFailed", _PRECONDITION)
        return kept

    def _there(self, bucket: Bucket, key: str) -> Kept:
        kept = bucket.objects.get(key)
        if kept is None:
            raise Refused(404, "NoSuchKey", "The specified key does not exist.")
        return kept

    # -- rules of writes ---------------------------------------------------------------------------------------------

    def _check_length(self, ask: Ask) -> None:
        if "content-length" not in ask.headers:
            raise Refused(411, "MissingContentLength", "You must provide the Content-Length HTTP header.")

    def _limit(self, bucket: Bucket, key: str) -> None:
        if bucket.limited(key):
            raise Refused(*self._rules.limited, "Please reduce your request rate.")

    def _conditions(self, ask: Ask, bucket: Bucket, key: str) -> None:
        kept = bucket.objects.get(key)
        wanted, unwanted = ask.headers.get("if-match"), ask.headers.get("if-none-match")
        if unwanted is not None:
            if unwanted != "*" and not self._rules.wide_conditions:
                raise Refused(
                    501, "NotImplemented", "A header you provided implies functionality that is not implemented"
                )
            if kept is not None and _named(unwanted, kept.etag):
                raise Refused(412, "PreconditionFailed", _PRECONDITION)
        if wanted is not None:
            if kept is None:
                raise Refused(404, "NoSuchKey", "The specified key does not exist.")
            if not _named(wanted, kept.etag):
                raise Refused(412, "PreconditionFailed", _PRECONDITION)
        since, until = _moment(ask, "if-modified-since"), _moment(ask, "if-unmodified-since")
        if self._rules.wide_conditions and kept is not None:
            changed = int(kept.modified)
            if (until is not None and changed > until) or (since is not None and changed <= since):
                raise Refused(412, "PreconditionFailed", _PRECONDITION)

    def _sums(self, ask: Ask) -> dict[str, str]:
        """The checksums that came, verified. Raises Refused."""
        told = ask.headers.get("content-md5")
        if told is not None and _decoded(told, "Content-MD5") != md5_of(ask.body):
            raise Refused(400, "BadDigest", "The Content-MD5 you specified did not match what we received.")
        found = {}
        for name, make in _SUMS.items():
            header = f"x-amz-checksum-{name}"
            if header in ask.headers:
                if _decoded(ask.headers[header], header) != make(ask.body):
                    raise Refused(400, "BadDigest", f"The {name.upper()} you specified did not match what we received.")
                found[header] = ask.headers[header]
        return found

    # -- listings ----------------------------------------------------------------------------------------------------

    def _list(self, name: str, bucket: Bucket, query: Mapping[str, str]) -> Answer:
        most = min(int(query.get("max-keys") or 1000), 1000)
        token = query.get("continuation-token")
        after = query.get("start-after", "")
        if token is not None:
            try:
                after = base64.urlsafe_b64decode(token).decode()
            except ValueError:
                raise Refused(400, "InvalidArgument", "The continuation token provided is incorrect") from None
        found = bucket.listed(query.get("prefix", ""), query.get("delimiter", ""), after, most)
        coded = query.get("encoding-type") == "url"

        def shown(text: str) -> str:
            return quote(text, safe="/-_.*") if coded else escape(text)

        rows = [
            f"<Contents><Key>{shown(key)}</Key><LastModified>{_iso(kept)}</LastModified><ETag>{escape(kept.etag)}</ETag>"
            f"<Size>{len(kept.body)}</Size><StorageClass>STANDARD</StorageClass></Contents>"
            for key, kept in ((key, bucket.objects[key]) for key in found.keys)
        ]
        rows += [f"<CommonPrefixes><Prefix>{shown(one)}</Prefix></CommonPrefixes>" for one in found.prefixes]
        head = f"<Name>{name}</Name><Prefix>{shown(query.get('prefix', ''))}</Prefix><MaxKeys>{most}</MaxKeys>"
        head += f"<KeyCount>{len(rows)}</KeyCount><IsTruncated>{'true' if found.after else 'false'}</IsTruncated>"
        if coded:
            head += "<EncodingType>url</EncodingType>"
        if found.after:
            following = base64.urlsafe_b64encode(found.after.encode()).decode()
            head += f"<NextContinuationToken>{following}</NextContinuationToken>"
        return _answer("ListBucketResult", head + "".join(rows))

    # -- uploads in parts --------------------------------------------------------------------------------------------

    def _multipart(self, ask: Ask, name: str, bucket: Bucket, key: str, query: Mapping[str, str]) -> Answer:
        if ask.method == "POST" and "uploads" in query:
            return self._begin(ask, name, bucket, key)
        upload = self._uploads.get(query.get("uploadId", ""))
        if upload is None or (upload.bucket, upload.key) != (name, key):
            raise Refused(404, "NoSuchUpload", "The specified upload does not exist.")
        if ask.method == "PUT":
            return self._part(ask, bucket, upload, query)
        if ask.method == "GET":
            return self._list_parts(upload, query)
        if ask.method == "POST":
            return self._complete(ask, bucket, query["uploadId"], upload)
        if ask.method == "DELETE":
            self._drop(bucket, query["uploadId"])
            return Answer(204)
        raise Refused(405, "MethodNotAllowed", "The specified method is not allowed against this resource.")

    def _begin(self, ask: Ask, name: str, bucket: Bucket, key: str) -> Answer:
        if self._rules.wide_conditions:
            self._conditions(ask, bucket, key)
        kept = self._made(bucket, ask.headers, b"", "", {})
        full = (ask.headers.get("x-amz-checksum-algorithm"), ask.headers.get("x-amz-checksum-type")) == (
            "CRC32",
            "FULL_OBJECT",
        )
        if full and not self._rules.part_numbers:
            raise Refused(501, "NotImplemented", "The checksum type is not supported for this algorithm")
        upload_id = self._around.id("", 32)
        self._uploads[upload_id] = _Upload(name, key, kept.content_type, kept.metadata, kept.headers, full)
        inner = f"<Bucket>{name}</Bucket><Key>{escape(key)}</Key><UploadId>{upload_id}</UploadId>"
        return _answer("InitiateMultipartUploadResult", inner)

    def _part(self, ask: Ask, bucket: Bucket, upload: _Upload, query: Mapping[str, str]) -> Answer:
        number = int(query.get("partNumber") or 0)
        if not 1 <= number <= _MOST_PARTS:
            raise Refused(400, "InvalidArgument", "Part number must be an integer between 1 and 10000, inclusive")
        copied = "x-amz-copy-source" in ask.headers
        if copied:
            span = re.fullmatch(r"bytes=(\d+)-(\d+)", ask.headers.get("x-amz-copy-source-range", ""))
            whole = self._source(ask).body
            body = whole[int(span[1]) : int(span[2]) + 1] if span else whole
            sums: Mapping[str, str] = {}
        else:
            self._check_length(ask)
            body, sums = ask.body, self._sums(ask)
        before = upload.parts.get(number)
        more = len(body) - (len(before[0]) if before else 0)
        bucket.room(more)
        bucket.hold(more)
        etag = f'"{md5_of(body).hex()}"'
        upload.parts[number] = (body, etag)
        if copied:
            return _answer("CopyPartResult", f"<ETag>{escape(etag)}</ETag>")
        return Answer(200, None, {"etag": etag, **sums})

    def _list_parts(self, upload: _Upload, query: Mapping[str, str]) -> Answer:
        after, most = int(query.get("part-number-marker") or 0), min(int(query.get("max-parts") or 1000), 1000)
        numbers = sorted(number for number in upload.parts if number > after)
        rows = [
            f"<Part><PartNumber>{number}</PartNumber><ETag>{escape(upload.parts[number][1])}</ETag>"
            f"<Size>{len(upload.parts[number][0])}</Size></Part>"
            for number in numbers[:most]
        ]
        more = len(numbers) > most
        head = f"<IsTruncated>{'true' if more else 'false'}</IsTruncated>"
        if more:
            head += f"<NextPartNumberMarker>{numbers[most - 1]}</NextPartNumberMarker>"
        return _answer("ListPartsResult", head + "".join(rows))

    def _complete(self, ask: Ask, bucket: Bucket, upload_id: str, upload: _Upload) -> Answer:
        rows = [
            (int(one.findtext("{*}PartNumber") or 0), (one.findtext("{*}ETag") or "").strip('"'))
            for one in _xml(ask.body).iterfind("{*}Part")
        ]
        if not rows or [number for number, _ in rows] != sorted({number for number, _ in rows}):
            raise Refused(400, "InvalidPartOrder", "The list of parts was not in ascending order.")
        if any(number not in upload.parts or upload.parts[number][1].strip('"') != etag for number, etag in rows):
            raise Refused(400, "InvalidPart", "One or more of the specified parts could not be found.")
        bodies = [upload.parts[number][0] for number, _ in rows]
        if any(len(body) < _LEAST for body in bodies[:-1]):
            raise Refused(400, "EntityTooSmall", "Your proposed upload is smaller than the minimum allowed size")
        if self._rules.equal_parts and (
            len({len(body) for body in bodies[:-1]}) > 1 or len(bodies[-1]) > len(bodies[0])
        ):
            raise Refused(400, "InvalidPart", "All non-trailing parts must have the same length.")
        self._conditions(ask, bucket, upload.key)
        self._limit(bucket, upload.key)
        body = b"".join(bodies)
        crc = base64.b64encode(_SUMS["crc32"](body)).decode()
        if upload.full_crc and ask.headers.get("x-amz-checksum-crc32", crc) != crc:
            raise Refused(400, "BadDigest", "The CRC32 you specified did not match the calculated checksum.")
        sums = {"x-amz-checksum-crc32": crc, "x-amz-checksum-type": "FULL_OBJECT"} if upload.full_crc else {}
        etag = hashed(md5_of(one) for one in bodies)
        made = Kept(
            body,
            etag,
            self._around.clock.wall(),
            bucket.generation(),
            upload.content_type,
            upload.metadata,
            {**upload.headers, **sums},
            tuple(map(len, bodies)),
        )
        self._drop(bucket, upload_id)
        bucket.write(upload.key, made)
        inner = f"<Bucket>{upload.bucket}</Bucket><Key>{escape(upload.key)}</Key><ETag>{escape(etag)}</ETag>"
        return _answer("CompleteMultipartUploadResult", inner)

    def _drop(self, bucket: Bucket, upload_id: str) -> None:
        gone = self._uploads.pop(upload_id)
        bucket.hold(-sum(len(body) for body, _ in gone.parts.values()))


def _named(asked: str, etag: str) -> bool:
    """Whether a condition speaks of that ETag."""
    return asked.strip() == "*" or etag.strip('"') in {one.strip().strip('"') for one in asked.split(",")}


def _moment(ask: Ask, header: str) -> float | None:
    try:
        return parsedate_to_datetime(ask.headers[header]).timestamp() if header in ask.headers else None
    except ValueError:
        return None


def _decoded(text: str, header: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise Refused(400, "InvalidDigest", f"The {header} you specified is not valid.") from None


def _xml(body: bytes) -> ET.Element:
    if b"<!" in body[:200]:  # no DTD: the sandbox expands no entities
        raise Refused(400, "MalformedXML", "The XML you provided was not well-formed")
    try:
        return ET.fromstring(body)  # noqa: S314 (see above; and it is the caller's own machine)
    except ET.ParseError:
        raise Refused(400, "MalformedXML", "The XML you provided was not well-formed") from None


def _iso(kept: Kept) -> str:
    return datetime.fromtimestamp(kept.modified, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def _answer(name: str, inner: str) -> Answer:
    text = f'<?xml version="1.0" encoding="UTF-8"?>\n<{name} xmlns="{_SPACE}">{inner}</{name}>'
    return Answer(200, text.encode(), {"content-type": "application/xml"})
