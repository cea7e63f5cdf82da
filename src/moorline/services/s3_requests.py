"""Requests of S3's API: their shapes, their signatures, their errors; and how obstore is told of the bucket.

Facts: botocore's model of s3, ``auth.py`` and ``serialize.py`` (1.44); the cards of S3 and R2.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final, Self, TypeVar
from urllib.parse import quote, urlsplit

from moorline.calls.aws import AwsErrors, AwsService
from moorline.calls.aws_keys import Pair
from moorline.calls.checksums import crc32, encoded, md5
from moorline.calls.exchange import Exchange
from moorline.calls.service import Plan
from moorline.calls.upload import Upload
from moorline.calls.work import Work
from moorline.errors import (
    AuthenticationFailed,
    BadAnswer,
    CallError,
    Conflict,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    ServiceUnavailable,
)
from moorline.secrets.secret import Secret
from moorline.services.answers import optional_text
from moorline.services.limits import plain, refused
from moorline.services.object_reading import need_obstore
from moorline.services.objects import Objects
from moorline.services.storage.protocol import SignedUrl, Stored, check_expiry, check_key, check_metadata

__all__ = [
    "CAME_BETWEEN",
    "S3_KINDS",
    "S3_RETRIED",
    "S3Errors",
    "S3Requests",
    "conditional",
    "number_of",
    "quoted",
    "stored",
    "streamed",
]

UNSIGNED: Final = "UNSIGNED-PAYLOAD"
T = TypeVar("T")
_HASH: Final = "X-Amz-Content-SHA256"
_WHOLE: Final = 1 << 20  # a body up to this size is signed, and can be enqueued; a larger one is streamed
_ELSEWHERE: Final = (301, 307)
_MISSIGNED: Final = (None, "AuthorizationHeaderMalformed")  # of a 400; an answer to HEAD has no code
_REGION: Final = re.compile(r"[a-z]{2,}(-[a-z]+)+-[0-9]+")
_NAMED_REGION: Final = re.compile(rb"<Region>([a-z0-9-]{1,40})</Region>")
_REQUEST: Final = re.compile(rb"<RequestId>([!-;=?-~]{1,100})</RequestId>")

# What S3 says beside AWS's common errors.
S3_KINDS: Final[dict[str, type[CallError]]] = {
    **dict.fromkeys(("NoSuchBucket", "NoSuchKey", "NoSuchUpload", "NoSuchVersion"), NotFound),
    **dict.fromkeys(
        ("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "Unauthorized"), AuthenticationFailed
    ),
    **dict.fromkeys(("RequestTimeTooSkewed", "AuthorizationHeaderMalformed"), AuthenticationFailed),
    **dict.fromkeys(
        ("AccessDenied", "AllAccessDisabled", "NotEntitled", "ObjectLockedByBucketPolicy"), PermissionDenied
    ),
    **dict.fromkeys(
        ("PreconditionFailed", "ConditionalRequestConflict", "OperationAborted", "BucketAlreadyExists"), Conflict
    ),
    **dict.fromkeys(("InternalError", "ServiceUnavailable", "RequestTimeout"), ServiceUnavailable),
    **dict.fromkeys(("BadDigest", "IncompleteBody", "InvalidPart", "InvalidObjectState"), InvalidRequest),
}
# Codes after which the same request is worth another try: the content was spoilt on its way, or the service is at fault
# (also in a 200, whose status says nothing).
S3_RETRIED: Final = frozenset(
    {"BadDigest", "IncompleteBody", "InternalError", "OperationAborted", "RequestTimeout", "ServiceUnavailable"}
)
# Another write of the object came between, and a write with a condition was not done. At the end of an upload in parts
# it ends that upload.
CAME_BETWEEN: Final = "ConditionalRequestConflict"
_UNDONE: Final = frozenset({CAME_BETWEEN, "OperationAborted"})


def _hidden(exchange: Exchange) -> str | None:
    """The code of an error in a 200: copies and the end of an upload in parts may fail after the head was sent."""
    body = exchange.body[:2000].lstrip() if exchange.status == 200 else b""
    if not body.startswith((b"<?xml", b"<Error")) or b"<Error>" not in body:
        return None
    head, _, rest = body.partition(b"<Error>")
    if b"<" in head.replace(b"<?xml", b""):
        return None  # within another element: one of DeleteObjects
    code, closed, _ = rest.partition(b"<Code>")[2].partition(b"</Code>")
    return code.decode("utf-8", "replace")[:100] if closed else "InternalError"


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Errors(AwsErrors):
    """S3's errors; ``x-amz-request-id`` names the request."""

    model: str = "s3"
    request_id: str = "header:x-amz-request-id"

    def error(self, exchange: Exchange) -> CallError:
        """As for all of AWS; of a bucket that is elsewhere it says where."""
        found = AwsErrors.error(self, exchange)
        region = _region_of(exchange)
        elsewhere = exchange.status in _ELSEWHERE or (exchange.status == 400 and found.code in _MISSIGNED)
        if elsewhere and region is not None and f".{region}." not in urlsplit(exchange.url).netloc:
            context: Any = {"status": found.status, "code": found.code, "request_id": found.request_id}
            return InvalidRequest(f"the bucket is in {region}, and was asked for in another region", **context)
        return found

    def request_id_of(self, exchange: Exchange) -> str | None:
        """From the header; from the body of an error of which obstore shows no headers."""
        found = AwsErrors.request_id_of(self, exchange)
        if found is None and exchange.status > 299 and (said := _REQUEST.search(exchange.body[:5000])):
            found = said[1].decode("ascii")
        return found


def _region_of(exchange: Exchange) -> str | None:
    """Where the bucket is, by the header, else by the body of an error; as botocore looks for it (``utils.py``)."""
    region = exchange.header("x-amz-bucket-region")
    if region is None and (said := _NAMED_REGION.search(exchange.body[:5000])):
        region = said[1].decode("ascii")
    return region if region is not None and _REGION.fullmatch(region) else None


S3_ERRORS: Final = S3Errors(
    kinds=S3_KINDS, limited=frozenset({"SlowDown", "TooManyRequests"}), retry=S3_RETRIED, failed=_hidden
)


class S3Requests(Objects, AwsService):
    """How S3's API is asked."""

    model = "s3"
    errors = S3_ERRORS
    metadata_bytes: ClassVar[int] = 2048
    checks_crc32: ClassVar[bool] = True  # whether the service holds CRC-32s of whole objects

    def _presigned(self, name: str, shape: str, key: str, expires: int, asked: Mapping[str, Any]) -> Work[SignedUrl]:
        check_expiry(expires)
        plan = self._ask(shape, check_key(key), asked, lambda _: None)
        headers = {name: value for name, value in (plan.headers or {}).items() if name != "Accept"}

        def make() -> SignedUrl:
            from botocore.auth import S3SigV4QueryAuth
            from botocore.awsrequest import AWSRequest
            from botocore.credentials import Credentials

            request = AWSRequest(method=plan.method, url=self.base_url + plan.path, headers=headers)
            keys = Credentials(*self.keys_of(self.key()))
            self.sign(request, S3SigV4QueryAuth(keys, "s3", self.region, expires=expires))
            return SignedUrl(plan.method, request.url, int(self.clock.wall()) + expires, headers)

        return self._signing(name, make)

    # What requests are made of ----------------------------------------------------------------------------------------

    def _ask(
        self,
        shape: str,
        key: str | None,
        parameters: Mapping[str, Any],
        parse: Callable[[Mapping[str, Any]], Any],
        *,
        reads: bool = False,
        name: str = "",  # noqa: ARG002 (says in the code which operation it is of)
    ) -> Plan[Any]:
        given = {"Bucket": self.bucket, **({} if key is None else {"Key": key}), **parameters}
        plan = self.ask(shape, given, parse, reads=reads)
        if not self._bucket_in_host:
            return plan
        return replace(plan, path=_without_bucket(plan.path, self.bucket))

    @property
    def _bucket_in_host(self) -> bool:
        """Whether the address names the bucket already."""
        return False

    def _at(self, bucket: str) -> Self:
        """The same service for another bucket."""
        import copy

        other = copy.copy(self)
        type(self).bucket.checked(self.name, bucket, "the argument")
        other.parameters = {**self.parameters, "bucket": bucket}
        other._known_guard = other._stored = None  # noqa: SLF001 (ours)
        return other

    def facts(self, content_type: str | None, metadata: Mapping[str, str] | None) -> dict[str, Any]:
        """The parameters of what is written. Raises InvalidRequest."""
        found = self._written(check_metadata(metadata, self.metadata_bytes, ascii_only=self.ascii_only))
        kind = None if content_type is None else plain("content_type", content_type)
        return {"ContentType": kind, "Metadata": found or None}

    ascii_only: ClassVar[bool] = True

    def _written(self, metadata: dict[str, str]) -> dict[str, str]:
        """Metadata as it goes over the wire."""
        return metadata

    def _readable(self, metadata: Mapping[str, str]) -> dict[str, str]:
        """Metadata as it was meant."""
        return dict(metadata)

    def conditions(self, if_absent: bool, if_match: str | None) -> dict[str, Any]:  # noqa: FBT001
        """The parameters of a write that depends on what is there. Raises InvalidRequest."""
        if if_absent and if_match is not None:
            raise refused("if_match", "is of an object that is there, and if_absent is not")
        return {"IfNoneMatch": "*" if if_absent else None, "IfMatch": if_match}

    def _carrying(self, plan: Plan[Stored], content: bytes) -> Plan[Stored]:
        """*plan* with its body and the checksum that the service verifies."""
        headers = {**(plan.headers or {}), **self._checksum_header(content)}
        if len(content) > _WHOLE:
            return streamed(replace(plan, headers=headers), content)
        return replace(plan, headers=headers, content=content)

    def _checksum_header(self, content: bytes) -> dict[str, str]:

        if self.checks_crc32:
            return {"x-amz-checksum-crc32": encoded(crc32(content))}
        return {"Content-MD5": encoded(md5(content))}

    # Reading ----------------------------------------------------------------------------------------------------------

    def match_of(self, etag: str | None, version: str | None) -> str | None:  # noqa: ARG002 (which names another thing)
        """The ETag."""
        return etag

    def same_version(self, etag: str | None, version: str | None) -> dict[str, Any]:
        """By its ETag; a version that S3 gave, too."""
        found: dict[str, Any] = {} if etag is None else {"if_match": etag}
        return found if version in (None, "null") else {**found, "version": version}

    def _store(self, key: Secret) -> Any:
        need_obstore(self.name)
        from obstore.store import S3Store

        pair = self.keys_of(key)
        keys: Any = {
            "access_key_id": pair.access_key,
            "secret_access_key": pair.secret_key,
            "token": pair.token,
            "expires_at": None,
        }
        base = self.base_url
        return S3Store(
            self.bucket,
            # Everything that obstore would otherwise look for in the environment.
            endpoint=base,
            aws_endpoint_url_s3=base,  # which goes before the other
            region=self.region,
            virtual_hosted_style_request=self._bucket_in_host,
            skip_signature=False,
            s3_express=False,
            request_payer=False,
            client_options=self.client_options(),
            retry_config={"max_retries": 0},
            credential_provider=lambda: keys,
        )

    # Signing ----------------------------------------------------------------------------------------------------------

    def _signer(self, pair: Pair) -> Any:
        from botocore.credentials import Credentials

        return _signer_class()(Credentials(*pair), "s3", self.region)


def _signer_class() -> Any:
    from botocore.auth import S3SigV4Auth

    class _Signer(S3SigV4Auth):  # type: ignore[misc,unused-ignore]
        """S3's, which signs a content that is streamed by its checksum's header alone: it is not read twice."""

        def payload(self, request: Any) -> str:
            if request.context.get("streamed"):
                return UNSIGNED
            return hashlib.sha256(request.body or b"").hexdigest()

        def _modify_request_before_signing(self, request: Any) -> None:
            request.context["streamed"] = request.headers.get(_HASH) == UNSIGNED
            super()._modify_request_before_signing(request)

    return _Signer


def conditional(plan: Plan[T]) -> Plan[T]:
    """*plan* with a condition: a second request would find what the first did, unless that was nothing."""
    return replace(plan, repeatable=False, undone=_UNDONE)


def streamed(plan: Plan[Any], body: bytes) -> Plan[Any]:
    """*plan* with a body that is sent in pieces, each of which may take its time."""
    headers = {"Content-Type": "application/octet-stream", **(plan.headers or {}), _HASH: UNSIGNED}
    return replace(plan, content=None, headers=headers, upload=Upload(body))


def _without_bucket(path: str, bucket: str) -> str:
    rest = path.removeprefix(f"/{quote(bucket)}")
    return rest if rest.startswith("/") else f"/{rest}"


def stored(key: str, answer: Mapping[str, Any], size: int) -> Stored:
    """What an answer says of the object that a write made."""
    raw = {name: value for name, value in answer.items() if name != "ResponseMetadata"}
    etag = quoted(optional_text(answer, "ETag"))
    return Stored(key, etag, optional_text(answer, "VersionId"), size, match=etag, raw=raw)


def quoted(etag: str | None) -> str | None:
    """An ETag as headers have it; some servers leave the quotes out in XML."""
    return etag if etag is None or etag.startswith(('"', "W/")) else f'"{etag}"'


def number_of(row: Mapping[str, Any], name: str) -> int:
    """A number of bytes, or of a part. Raises BadAnswer."""
    found = row.get(name)
    if isinstance(found, bool) or not isinstance(found, int) or found < 0:
        raise BadAnswer(f"{name!r} in the answer is not a number")
    return found
