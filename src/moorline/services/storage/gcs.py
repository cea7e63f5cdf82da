"""Google Cloud Storage: objects in a bucket, by the JSON API; signed addresses and what obstore reads by the XML API.

Facts: services/storage/gcs.md; contract: gcs.json.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, ClassVar, Final
from urllib.parse import quote

from moorline.calls.checksums import encoded, md5
from moorline.calls.exchange import Exchange
from moorline.calls.service import Endpoints, Page, Parameter, Plan, listing, operation
from moorline.calls.tokens import KeyFile, ServiceAccount, key_file
from moorline.calls.upload import Upload
from moorline.calls.work import Home, Work
from moorline.errors import (
    AuthenticationFailed,
    BadAnswer,
    CallError,
    Conflict,
    NotFound,
    PermissionDenied,
    ServiceUnavailable,
)
from moorline.identity.vendors import google
from moorline.secrets.secret import Secret
from moorline.services.answers import flag, items, optional_text, record, text
from moorline.services.google_keys import ServiceAccountKeys
from moorline.services.google_objects import (
    GoogleErrors,
    entry_of,
    head_of,
    persisted,
    related,
    resource_of,
    stored_of,
)
from moorline.services.limits import plain, refused
from moorline.services.object_reading import need_obstore
from moorline.services.object_sessions import send_session
from moorline.services.object_sources import PartsOf, UploadTask
from moorline.services.objects import Objects, attachment, content_of
from moorline.services.storage.protocol import (
    Deleted,
    DeletedMany,
    Entry,
    Head,
    SignedUrl,
    Stored,
    check_expiry,
    check_key,
    check_metadata,
    check_readable,
    one_each,
)

__all__ = ["GCS"]

_EMULATOR: Final = "STORAGE_EMULATOR_HOST"
_SCOPE: Final = "https://www.googleapis.com/auth/devstorage.read_write"
_READ: Final = "https://www.googleapis.com/auth/devstorage.read_only"
_FULL: Final = "https://www.googleapis.com/auth/devstorage.full_control"
_BUCKET: Final = r"[a-z0-9][a-z0-9._\-]{1,220}[a-z0-9]"
_PAGE: Final = 1000
_CHUNK: Final = 1 << 18  # what a part of an upload is a multiple of
_GENERATION: Final = re.compile(r"[0-9]{1,19}", re.ASCII)
_METADATA: Final = 8192
_WIDTH: Final = 16
_MOST_REWRITES: Final = 10_000


@cache
def _nobody() -> Secret:
    """What an emulator takes for a token. A word that is masked from then on: only where there is an emulator."""
    return Secret("anonymous", name="what an emulator takes for a token")


class GCS(Objects, ServiceAccountKeys):
    """Objects by Google Cloud Storage, in one *bucket*.

    The credential is the key file of a service account, as JSON or as a path; of its keys several may be in use at
    once, so that they are rotated without a gap: add, deploy, delete. It signs addresses, too. An emulator is asked
    where ``STORAGE_EMULATOR_HOST`` names one, without a credential.

    A version of a content is its generation, a number: ``Stored.match`` and ``Head.match`` have it, and *if_match*
    takes it. An object's ETag changes with its metadata as well. A write with a condition that was not answered is not
    sent again by itself. Google asks for at most one write a second to the same key (429).

    Facts: services/storage/gcs.md; contract: gcs.json.
    """

    name = "gcs"
    docs = "services/storage/gcs.md, gcs.json"
    endpoints = Endpoints("https://storage.googleapis.com")
    credentials = KeyFile(env="GOOGLE_APPLICATION_CREDENTIALS", service="gcs")
    tokens = ServiceAccount(_SCOPE)
    # For a user's own buckets. Addresses cannot be signed with a user's token.
    oauth = google(
        _READ,
        implies={_FULL: (_SCOPE,), _SCOPE: (_READ,)},
        stand_in="gcs",
    )
    bucket = Parameter("GCS_BUCKET", sandbox="moorline-sandbox", like=_BUCKET)
    errors = GoogleErrors(
        code="code",
        message="message",
        request_id="header:x-guploader-uploadid",
        limited=frozenset({"rateLimitExceeded", "userRateLimitExceeded", "SlowDown", "TooManyRequests"}),
        kinds={
            "AccessDenied": PermissionDenied,
            "AuthenticationRequired": AuthenticationFailed,
            "ExpiredToken": AuthenticationFailed,
            "InternalError": ServiceUnavailable,
            "PreconditionFailed": Conflict,
            "authError": AuthenticationFailed,
            "backendError": ServiceUnavailable,
            "conditionNotMet": Conflict,
            "forbidden": PermissionDenied,
            "insufficientPermissions": PermissionDenied,
            "notFound": NotFound,
        },
    )
    part_size = 8 << 20
    least_part = _CHUNK
    lacks: ClassVar[Mapping[str, str]] = {
        "webhooks": "notifications of a bucket go to Pub/Sub, whose push is a service of its own"
    }
    usage: ClassVar[str] = """
from moorline.services import GCS

gcs = GCS()
gcs.put("reports/a.json", b"{}", content_type="application/json", metadata={"owner": "42"}).result()
print(gcs.get("reports/a.json").result().verified, [one.key for one in gcs.list_objects("reports/")])
print(gcs.presign_get("reports/a.json", 600, filename="report.json").result())
"""

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
        """Write an object in one request; ``upload`` is for large ones, files and streams.

        Google verifies its MD5. *if_absent* lets it be made only, *if_match* replaced only while it has that
        generation; with either, a request that was not answered is OutcomeUnknown, as a second one would find the
        first's. *extra* are fields of the object by Google's names (``storageClass="NEARLINE"``).

        Raises Conflict where a condition does not hold; InvalidRequest, naming field and limit, before it is sent.
        """
        content = content_of(body)
        given = {**self.facts(key, content_type, metadata), **extra, "md5Hash": encoded(md5(content))}
        query = {"uploadType": "multipart", **self.conditions(if_absent, if_match)}
        kind = content_type or "application/octet-stream"
        whole, boundary = related(given, content, kind)
        return Plan(
            "POST",
            f"/upload/storage/v1/b/{self.bucket}/o",
            lambda answer: stored_of(key, answer.data),
            query=query,
            headers={"Content-Type": f"multipart/related; boundary={boundary}"},
            repeatable=not (if_absent or if_match is not None),  # a second one of the same content does no harm
            **({"content": whole} if len(whole) <= 1 << 20 else {"upload": Upload(whole)}),
        )

    @operation
    def head(self, key: str) -> Plan[Head]:
        """What is known of an object: size, type, metadata, generation, checksums. Raises NotFound; PermissionDenied
        for one that is not there, too, where the key may not list.
        """
        return Plan("GET", self._path(check_key(key)), lambda answer: head_of(key, answer.data))

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
            "prefix": prefix or None,
            "delimiter": delimiter or None,
            "startOffset": after or None,  # which is the first one, not the one before
            "maxResults": page_size,
        }
        return self._page({**asked, **extra}, after)

    @operation
    def delete(self, key: str, *, if_match: str | None = None) -> Plan[Deleted]:  # type: ignore[override]
        """Delete an object; one that is not there is no error. With *if_match* only while it has that generation, else
        Conflict.
        """

        def gone(error: CallError) -> Deleted | None:
            there = isinstance(error, NotFound) and "bucket does not exist" not in error.message
            return Deleted(key) if there else None

        return Plan(
            "DELETE",
            self._path(check_key(key)),
            lambda _: Deleted(key),
            query=self.conditions(False, if_match),
            blank=True,
            accept=gone,
            repeatable=if_match is None,
        )

    @operation
    def check(self) -> Plan[bool]:
        """True if the key is good and may list the bucket. Raises AuthenticationFailed, PermissionDenied, NotFound."""
        path = f"/storage/v1/b/{self.bucket}/o"
        return Plan("GET", path, lambda answer: bool(record(answer.data)), query={"maxResults": 1})

    # Several requests -------------------------------------------------------------------------------------------------

    def delete_many(self, keys: Iterable[str]) -> Work[DeletedMany]:
        """Delete many, one request each, 16 at a time; one result for each, in their order. A key that is not there is
        no error.
        """
        import asyncio

        wanted = one_each(keys)

        async def begin(_home: Home) -> DeletedMany:
            slots = asyncio.Semaphore(_WIDTH)

            async def one(key: str) -> Deleted:
                async with slots:
                    try:
                        return await self.delete(key)
                    except CallError as error:
                        error.operation = "delete_many"
                        return Deleted(key, error)

            return DeletedMany(tuple(await asyncio.gather(*map(one, wanted))))

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
        """Copy an object at the service, also to the bucket *to_bucket*; nothing of it passes here. A large one takes
        several requests. *metadata* and *content_type* replace the source's; both are kept where neither is given.

        Raises NotFound; Conflict where the source changes meanwhile, or *if_absent* and the target is there.
        """
        check_key(source, "source")
        check_readable(target)
        if to_bucket is not None:
            type(self).bucket.checked(self.name, to_bucket, "to_bucket")
        bucket = to_bucket or self.bucket

        async def begin(_home: Home) -> Stored:
            given: dict[str, Any] = dict(extra)
            head = await self.named("copy", self.head(source))
            if content_type is not None or metadata is not None or extra:
                kept = head.metadata if metadata is None else metadata
                given |= self.facts(target, content_type or head.content_type, kept)
                del given["name"]
            token: str | None = None
            for _ in range(_MOST_REWRITES):
                call = self._rewrite(source, target, bucket, head.version or "", token, given, if_absent)
                answer = record(await self.named("copy", call))
                if flag(answer, "done"):
                    return stored_of(target, answer.get("resource"))
                token = text(answer, "rewriteToken")
            raise BadAnswer("the copy does not come to an end", service=self.name, operation="copy")

        return Work(self.name, "copy", begin)

    @operation
    def _rewrite(
        self,
        source: str,
        target: str,
        bucket: str,
        generation: str,
        token: str | None,
        given: dict[str, Any],
        if_absent: bool,  # noqa: FBT001
    ) -> Plan[Any]:
        """One step of a copy."""
        query = {
            "ifSourceGenerationMatch": generation or None,
            "rewriteToken": token,
            **self.conditions(if_absent, None),
        }
        path = f"{self._path(source)}/rewriteTo/b/{bucket}/o/{quote(target, safe='')}"
        body = {"json": given} if given else {"content": b""}
        return Plan("POST", path, lambda answer: answer.data, query=query, repeatable=not if_absent, **body)

    # Uploads in parts -------------------------------------------------------------------------------------------------

    async def _upload(self, parts: PartsOf, task: UploadTask) -> Stored:
        if task.part_size % _CHUNK:
            raise refused("part_size", f"must be a multiple of {_CHUNK} bytes")
        return await send_session(self, parts, task)

    @operation
    def _begin_session(self, key: str, given: dict[str, Any], query: dict[str, Any], size: int | None) -> Plan[str]:
        """Begin an upload: the address to which its content goes. Nobody sees an object before its end."""
        told = {"X-Upload-Content-Length": str(size)} if size is not None else {}
        kind = {"X-Upload-Content-Type": str(given["contentType"])} if "contentType" in given else {}

        def parse(answer: Exchange) -> str:
            found = answer.header("location")
            if not found:
                raise BadAnswer("the answer names no address for the content")
            return found

        return Plan(
            "POST",
            f"/upload/storage/v1/b/{self.bucket}/o",
            parse,
            json=given,
            query={"uploadType": "resumable", "name": key, **query},
            headers={**told, **kind},
            blank=True,
            text=True,
            repeatable=True,
        )

    @operation
    def _send_chunk(self, session: str, body: bytes, span: str) -> Plan[Any]:
        """Send a part: how many bytes are there, or the object where that was the last."""
        return Plan(
            "PUT",
            session,
            resource_of,
            headers={"Content-Range": span, "Content-Type": "application/octet-stream"},
            text=True,
            accept=persisted,
            **({"upload": Upload(body)} if body else {"content": b""}),
        )

    @staticmethod
    def stored(key: str, resource: Mapping[str, Any]) -> Stored:
        """What an answer says of the object that a write made."""
        return stored_of(key, resource)

    @operation
    def _end_session(self, session: str) -> Plan[bool]:
        """Take an upload back: 499, as if the client had gone."""
        return Plan(
            "DELETE", session, lambda _: True, text=True, accept=lambda error: error.status in (404, 410, 499) or None
        )

    # Signed addresses -------------------------------------------------------------------------------------------------

    _signs_with_fetched = False  # but with the private key

    def presign_get(
        self,
        key: str,
        expires: int = 3600,
        *,
        filename: str | None = None,
        content_type: str | None = None,
        **extra: str,
    ) -> Work[SignedUrl]:
        """An address from which anybody may read the object for *expires* seconds, at most 7 days. *filename* makes
        browsers save it under that name, *content_type* replaces the object's; *extra* are further parameters of the
        query (``generation="…"``).
        """
        query = dict(extra)
        if filename is not None:
            query["response-content-disposition"] = attachment(filename)
        if content_type is not None:
            query["response-content-type"] = plain("content_type", content_type)
        check_expiry(expires)
        check_key(key)
        return self._signing("presign_get", lambda: self._signed("GET", key, expires, {}, query))

    def presign_put(
        self,
        key: str,
        expires: int = 3600,
        *,
        content_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
        if_absent: bool = False,
    ) -> Work[SignedUrl]:
        """An address to which anybody may write the object, with the ``headers`` that it names: the *content_type*, the
        *metadata*, and with *if_absent* the condition that nothing is there. The size is not limited by it.
        """
        check_readable(key)
        check_expiry(expires)
        told = check_metadata(metadata, _METADATA)  # headers are ASCII
        headers = {f"x-goog-meta-{name}": value for name, value in told.items()}
        if content_type is not None:
            headers["content-type"] = plain("content_type", content_type)
        if if_absent:
            headers["x-goog-if-generation-match"] = "0"
        return self._signing("presign_put", lambda: self._signed("PUT", key, expires, headers, {}))

    def _signed(
        self, method: str, key: str, expires: int, headers: Mapping[str, str], query: Mapping[str, str]
    ) -> SignedUrl:
        from moorline.services.google_signing import signed_url

        account = key_file(self.secret(), self.name)
        now = int(self.clock.wall())
        address = f"{self.base_url}/{self.bucket}/{quote(key, safe='/~')}"
        url = signed_url(account, method, address, now, expires, headers, query)
        return SignedUrl(method, url, now + expires, headers)

    # What requests are made of ----------------------------------------------------------------------------------------

    def _path(self, key: str) -> str:
        return f"/storage/v1/b/{self.bucket}/o/{quote(key, safe='')}"

    def facts(self, key: str, content_type: str | None, metadata: Mapping[str, str] | None) -> dict[str, Any]:
        """The fields of what is written. Raises InvalidRequest."""
        found: dict[str, Any] = {"name": check_readable(key)}
        if content_type is not None:
            found["contentType"] = plain("content_type", content_type)
        # JSON could carry more; but obstore reads no object whose metadata is in other letters (0.12.1, tried).
        told = check_metadata(metadata, _METADATA)
        return found | ({"metadata": told} if told else {})

    def conditions(self, if_absent: bool, if_match: str | None) -> dict[str, Any]:  # noqa: FBT001
        """The query of a write that depends on what is there. Raises InvalidRequest."""
        if if_absent and if_match is not None:
            raise refused("if_match", "is of an object that is there, and if_absent is not")
        if if_match is not None and not _GENERATION.fullmatch(if_match):
            raise refused("if_match", "must be a generation, as Stored.match and Head.match have it")
        return {"ifGenerationMatch": "0" if if_absent else if_match}

    def _page(self, asked: Mapping[str, Any], after: str) -> Plan[Page[Entry]]:
        def parse(exchange: Exchange) -> Page[Entry]:
            answer = record(exchange.data)
            rows = [record(one, "an object") for one in items(answer.get("items", []), "items")]
            found = [entry_of(one) for one in rows if one.get("name") != after]
            groups = items(answer.get("prefixes", []), "prefixes")
            found += [Entry(one, is_prefix=True) for one in groups if isinstance(one, str)]
            found.sort(key=lambda one: one.key.encode("utf-8", "surrogatepass"))
            token = optional_text(answer, "nextPageToken")
            if token and token == asked.get("pageToken"):
                raise BadAnswer("the listing does not advance")
            return Page(tuple(found), self._page({**asked, "pageToken": token}, after) if token else None)

        return Plan("GET", f"/storage/v1/b/{self.bucket}/o", parse, query=asked)

    # Reading, and where -----------------------------------------------------------------------------------------------

    def match_of(self, etag: str | None, version: str | None) -> str | None:  # noqa: ARG002 (it changes with the metadata)
        """The generation."""
        return version

    def same_version(self, etag: str | None, version: str | None) -> dict[str, Any]:  # noqa: ARG002 (it says less)
        """By its generation."""
        return {} if version is None else {"version": version}

    def _store(self, key: Secret) -> Any:
        need_obstore(self.name)
        from obstore.store import GCSStore

        base = self.base_url
        token: Any = {"token": key.reveal(), "expires_at": None}
        options: Any = {
            **self.client_options(),
            # What was stored compressed comes as it was stored, so that its checksum and its ranges are its own.
            "default_headers": {"Accept-Encoding": "gzip"},
        }
        return GCSStore(
            self.bucket,
            base_url=base,
            skip_signature=False,
            client_options=options,
            retry_config={"max_retries": 0},
            credential_provider=lambda: token,
        )

    def without_token(self) -> Secret | None:
        """An emulator asks for none."""
        return _nobody() if self.emulated else None

    @property
    def emulated(self) -> bool:
        """Whether the environment names an emulator, and nothing else is said."""
        return bool(os.environ.get(_EMULATOR)) and self._base_url is None and not self.in_sandbox

    def _endpoint(self) -> str:
        if not self.emulated:
            return super()._endpoint()
        from moorline.calls.dialects import base_address

        told = os.environ[_EMULATOR]
        return base_address(told if "://" in told else f"http://{told}", _EMULATOR)
