"""Google Cloud Storage's stand-in: the JSON API, sessions of uploads, and of the XML API what signed addresses need and
what obstore reads.

Facts: services/storage/gcs.md and gcs.json. ``POST /gcs/token`` takes the JWT of a key file, see ``_google``.
A signed address is verified with the key of the account that signed it, which is known from its first token on. There
are two buckets, ``moorline-sandbox`` and ``moorline-sandbox-2``. The sandbox's own: keys that begin with ``limited/``
may be written once a second (429), and a copy of more than 1 MiB takes a step for each MiB.

Accounts are connected at ``/o/oauth2/v2/auth``, by the client ``sandbox-client``: see :mod:`._oauth`.
They are ``acme`` and ``globex``, which share what is stored.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import parse_qsl, quote, urlsplit

from moorline.calls.checksums import crc32c
from moorline.errors import ConfigurationError
from moorline.sandbox.services._google import GoogleTokens
from moorline.sandbox.services._oauth import Accounts, Person, bearer
from moorline.sandbox.services._objects import BUCKETS, Bucket, Full, Kept, cut, http_date, md5_of
from moorline.sandbox.standin import Answer, Ask, Emission, Registration, Signed, Surroundings

__all__ = ["STAND_IN"]

_SCOPE: Final = "https://www.googleapis.com/auth/devstorage.read_write"
_CHUNK: Final = 1 << 18
_STEP: Final = 1 << 20
_SHORT: Final = 1 << 20  # of which a CRC-32C is computed; it takes Python a fifth of a second
_SPAN: Final = re.compile(r"bytes (?:([0-9]+)-([0-9]+)|\*)/([0-9]+|\*)", re.ASCII)
_FIELDS: Final = frozenset(
    {
        "cacheControl",
        "contentDisposition",
        "contentEncoding",
        "contentLanguage",
        "contentType",
        "crc32c",
        "md5Hash",
        "metadata",
        "name",
        "storageClass",
    }
)
_REASONS: Final = {400: "invalid", 401: "authError", 403: "forbidden", 404: "notFound", 412: "conditionNotMet"}


class _Refused(Exception):
    def __init__(self, status: int, message: str, reason: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.reason = status, message, reason or _REASONS.get(status, "backendError")

    def answer(self, *, xml: bool) -> Answer:
        if xml:
            code = {404: "NoSuchKey", 412: "PreconditionFailed", 403: "AccessDenied", 416: "InvalidRange"}.get(
                self.status, self.reason
            )
            inner = f"<Code>{code}</Code><Message>{self.message}</Message>"
            text = f"<?xml version='1.0' encoding='UTF-8'?><Error>{inner}</Error>"
            return Answer(self.status, text.encode(), {"content-type": "application/xml; charset=UTF-8"})
        one = {"message": self.message, "domain": "global", "reason": self.reason}
        return Answer(self.status, {"error": {"code": self.status, "message": self.message, "errors": [one]}})


@dataclass(slots=True)
class _Session:
    bucket: str
    key: str
    fields: Mapping[str, Any]
    query: Mapping[str, str]
    body: bytearray = field(default_factory=bytearray)
    done: Mapping[str, Any] | None = None


_PEOPLE = (
    Person("acme", "Ada of Acme", {"sub": "110000000000000000001", "email": "ada@acme.example"}),
    Person("globex", "Hank of Globex", {"sub": "110000000000000000002", "email": "hank@globex.example"}),
)


class GCSStandIn:
    """Two buckets of one project, and Google's token endpoint."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._tokens = GoogleTokens(around, _SCOPE)
        self._accounts = Accounts(
            around,
            "Google",
            _PEOPLE,
            authorize="/o/oauth2/v2/auth",
            token="/token",
            revoke="/revoke",
            device="/device/code",
            shared=True,
            prefix="ya29.",
        )
        used = [0]
        self._buckets = {name: Bucket(around, used) for name in BUCKETS}
        self._sessions: dict[str, _Session] = {}
        self._copies: dict[str, int] = {}

    async def handle(self, ask: Ask) -> Answer:
        """Answer one request."""
        connected = self._accounts.answer(ask)
        if connected is not None:
            return connected
        if (ask.method, ask.path) == ("POST", "/token"):
            return self._tokens.give(ask)
        keys = self._tokens.managed(ask)
        if keys is not None:
            return keys
        held = self._accounts.allowed(bearer(ask))
        if ask.path == "/v1/userinfo":
            return Answer(401, {"error": "invalid_token"}) if held is None else Answer(200, dict(held[0].claims))
        xml = not ask.path.startswith(("/storage/v1/", "/upload/storage/v1/"))
        try:
            query = dict(parse_qsl(ask.query, keep_blank_values=True))
            if "X-Goog-Signature" in query and xml:
                self._check_signed(ask, query)
            elif "upload_id" not in query and held is None and not self._tokens.known(ask):
                raise _Refused(401, "Invalid Credentials")  # noqa: TRY301 (one place answers it)
            await ask.work()
            answer = self._xml(ask, query) if xml else self._json(ask, query)
        except Full:
            answer = _Refused(507, "The sandbox holds no more").answer(xml=xml)
        except _Refused as refused:
            answer = refused.answer(xml=xml)
        return Answer(
            answer.status, answer.content, {**answer.headers, "x-guploader-uploadid": self._around.id("", 20)}
        )

    def snapshot(self) -> dict[str, Any]:
        """The objects of each bucket, and the sessions that are open."""
        sessions = {
            name: {"key": one.key, "size": len(one.body)} for name, one in self._sessions.items() if not one.done
        }
        return {"buckets": {name: bucket.shown() for name, bucket in self._buckets.items()}, "sessions": sessions}

    def failure(self, status: int) -> Answer:
        """Google's error body for an injected status."""
        reason = "rateLimitExceeded" if status == 429 else "backendError"
        return _Refused(status, "Please try again.", reason).answer(xml=False)

    def sample(self, event: str) -> bytes:
        """None are sent."""
        raise ConfigurationError("'event': GCS sends no webhooks")

    def sign(self, emission: Emission, *, url: str, secrets: tuple[str, ...], hook_id: str, broken: bool) -> Signed:
        """None are sent."""
        raise ConfigurationError("'service': GCS sends no webhooks")

    # -- the JSON API ------------------------------------------------------------------------------------------------

    def _json(self, ask: Ask, query: Mapping[str, str]) -> Answer:
        path = ask.path
        if found := re.fullmatch(r"/upload/storage/v1/b/([^/]+)/o", path):
            return self._upload(ask, found[1], query)
        if (found := re.fullmatch(r"/storage/v1/b/([^/]+)/o", path)) and ask.method == "GET":
            return self._list(self._bucket(found[1]), query)
        if found := re.fullmatch(r"/storage/v1/b/([^/]+)/o/(.+)/rewriteTo/b/([^/]+)/o/(.+)", path, re.DOTALL):
            return self._rewrite(ask, query, *found.groups())
        if found := re.fullmatch(r"/storage/v1/b/([^/]+)/o/(.+)", path, re.DOTALL):
            bucket, key = self._bucket(found[1]), found[2]
            if ask.method == "GET":
                return Answer(200, self._resource(found[1], key, self._there(found[1], key)))
            if ask.method == "DELETE":
                self._there(found[1], key)
                self._conditions(bucket, key, query)
                self._limit(bucket, key)
                bucket.remove(key)
                return Answer(204)
        raise _Refused(404, "Not Found")

    def _upload(self, ask: Ask, name: str, query: Mapping[str, str]) -> Answer:
        bucket = self._bucket(name)
        kind = query.get("uploadType")
        if "upload_id" in query:
            return self._session(ask, query["upload_id"])
        if kind == "multipart":
            fields, body = _parts(ask)
        elif kind == "media":
            fields, body = {"name": query.get("name"), "contentType": ask.headers.get("content-type")}, ask.body
        elif kind == "resumable":
            fields, body = _object(ask.body or b"{}"), b""
        else:
            raise _Refused(400, "Invalid uploadType")
        _check_fields(fields)
        key = fields.get("name") or query.get("name")
        if not isinstance(key, str) or not 0 < len(key.encode()) <= 1024:
            raise _Refused(400, "Required parameter: name", "required")
        self._conditions(bucket, key, query)
        if kind == "resumable":
            session = self._around.id("", 40)
            self._sessions[session] = _Session(name, key, fields, dict(query))
            location = f"{ask.base}/upload/storage/v1/b/{name}/o?uploadType=resumable&upload_id={session}"
            return Answer(200, None, {"location": location})
        return Answer(200, self._written(name, key, fields, body))

    def _session(self, ask: Ask, name: str) -> Answer:
        session = self._sessions.get(name)
        if session is None:
            raise _Refused(404, "The upload session does not exist")
        bucket = self._buckets[session.bucket]
        if ask.method == "DELETE":
            bucket.hold(-len(self._sessions.pop(name).body))
            return Answer(499)
        if session.done is not None:
            return Answer(200, session.done)
        found = _SPAN.fullmatch(ask.headers.get("content-range", ""))
        if found is None and ask.headers.get("content-range"):
            raise _Refused(400, "Invalid Content-Range header")
        total = None if found is None or found[3] == "*" else int(found[3])
        if found is None or found[1] is not None:
            self._more(
                session, bucket, ask.body, int(found[1]) if found else 0, last=total is not None or found is None
            )
        if found is not None and (total is None or len(session.body) < total):
            held = len(session.body)
            return Answer(308, None, {"range": f"bytes=0-{held - 1}"} if held else {})
        self._conditions(bucket, session.key, session.query)
        body = bytes(session.body)
        bucket.hold(-len(body))
        session.body.clear()
        session.done = self._written(session.bucket, session.key, session.fields, body)
        return Answer(200, session.done)

    def _more(self, session: _Session, bucket: Bucket, body: bytes, start: int, *, last: bool) -> None:
        held = len(session.body)
        if start > held:
            raise _Refused(400, "The Content-Range begins beyond what was persisted")
        if not last and len(body) % _CHUNK:
            raise _Refused(400, f"Chunks but the last are multiples of {_CHUNK} bytes")
        rest = body[held - start :]  # what is persisted already is not written again
        bucket.room(len(rest))
        bucket.hold(len(rest))
        session.body += rest

    def _written(self, name: str, key: str, fields: Mapping[str, Any], body: bytes) -> dict[str, Any]:
        bucket = self._buckets[name]
        told = fields.get("md5Hash")
        if told is not None and told != base64.b64encode(md5_of(body)).decode():
            raise _Refused(400, f"Provided MD5 hash {told!r} doesn't match calculated MD5 hash.")
        told = fields.get("crc32c")
        if told is not None and told != base64.b64encode(crc32c(body)).decode():
            raise _Refused(400, f"Provided CRC32C {told!r} doesn't match calculated CRC32C.")
        self._limit(bucket, key)
        generation = bucket.generation()
        etag = base64.b64encode(generation.to_bytes(8, "big")).decode()
        kind = fields.get("contentType") or "application/octet-stream"
        kept = Kept(
            body, etag, self._around.clock.wall(), generation, kind, fields.get("metadata") or {}, _others(fields)
        )
        bucket.write(key, kept)
        return self._resource(name, key, kept)

    def _rewrite(self, ask: Ask, query: Mapping[str, str], name: str, key: str, to: str, target: str) -> Answer:
        kept, bucket = self._there(name, key), self._bucket(to)
        wanted = query.get("ifSourceGenerationMatch")
        if wanted is not None and wanted != str(kept.generation):
            raise _Refused(412, "At least one of the pre-conditions you specified did not hold.")
        self._conditions(bucket, target, query)
        token = query.get("rewriteToken")
        done = self._copies.pop(token, 0) if token else 0
        done = min(done + _STEP, len(kept.body))
        size = str(len(kept.body))
        answer = {"kind": "storage#rewriteResponse", "totalBytesRewritten": str(done), "objectSize": size}
        if done < len(kept.body):
            following = self._around.id("", 30)
            self._copies[following] = done
            return Answer(200, {**answer, "done": False, "rewriteToken": following})
        given = _object(ask.body) if ask.body else {}
        _check_fields(given)
        fields = {"contentType": kept.content_type, "metadata": kept.metadata, **kept.headers, **given}
        return Answer(200, {**answer, "done": True, "resource": self._written(to, target, fields, kept.body)})

    def _list(self, bucket: Bucket, query: Mapping[str, str]) -> Answer:
        most = min(int(query.get("maxResults") or 1000), 1000)
        after, inclusive = query.get("startOffset", ""), True
        if token := query.get("pageToken"):
            after, inclusive = base64.urlsafe_b64decode(token).decode(), False
        found = bucket.listed(query.get("prefix", ""), query.get("delimiter", ""), after, most, inclusive=inclusive)
        name = next(one for one, held in self._buckets.items() if held is bucket)
        answer: dict[str, Any] = {"kind": "storage#objects"}
        if found.keys:
            answer["items"] = [self._resource(name, key, bucket.objects[key]) for key in found.keys]
        if found.prefixes:
            answer["prefixes"] = list(found.prefixes)
        if found.after:
            answer["nextPageToken"] = base64.urlsafe_b64encode(found.after.encode()).decode()
        return Answer(200, answer)

    def _resource(self, name: str, key: str, kept: Kept) -> dict[str, Any]:
        at = datetime.fromtimestamp(kept.modified, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        found: dict[str, Any] = {
            "kind": "storage#object",
            "id": f"{name}/{key}/{kept.generation}",
            "name": key,
            "bucket": name,
            "generation": str(kept.generation),
            "metageneration": str(kept.metageneration),
            "contentType": kept.content_type,
            "size": str(len(kept.body)),
            "md5Hash": base64.b64encode(md5_of(kept.body)).decode(),
            "etag": kept.etag,
            "timeCreated": at,
            "updated": at,
            "storageClass": "STANDARD",
            **kept.headers,
        }
        if len(kept.body) <= _SHORT:
            found["crc32c"] = base64.b64encode(crc32c(kept.body)).decode()
        return found | ({"metadata": dict(kept.metadata)} if kept.metadata else {})

    # -- the XML API -------------------------------------------------------------------------------------------------

    def _xml(self, ask: Ask, query: Mapping[str, str]) -> Answer:
        name, _, key = ask.path.lstrip("/").partition("/")
        bucket = self._bucket(name)
        if ask.method == "PUT" and key:
            told = ask.headers.get("x-goog-if-generation-match")
            self._conditions(bucket, key, {} if told is None else {"ifGenerationMatch": told})
            metadata = {one[12:]: value for one, value in ask.headers.items() if one.startswith("x-goog-meta-")}
            fields = {"contentType": ask.headers.get("content-type"), "metadata": metadata}
            made = self._written(name, key, fields, ask.body)
            return Answer(200, None, {"x-goog-generation": made["generation"], "etag": f'"{md5_of(ask.body).hex()}"'})
        if ask.method not in ("GET", "HEAD") or not key:
            raise _Refused(400, "The requested method is not supported here")
        kept = self._there(name, key)
        if query.get("generation", str(kept.generation)) != str(kept.generation):
            raise _Refused(404, f"No such object: {name}/{key}")
        headers = {
            "etag": f'"{md5_of(kept.body).hex()}"',
            "x-goog-generation": str(kept.generation),
            "last-modified": http_date(kept.modified),
            "content-type": query.get("response-content-type", kept.content_type),
            "accept-ranges": "bytes",
            **{f"x-goog-meta-{one}": value for one, value in kept.metadata.items()},
        }
        if "response-content-disposition" in query:
            headers["content-disposition"] = query["response-content-disposition"]
        span = cut(kept.body, ask.headers.get("range"))
        if span is None:
            raise _Refused(416, "The requested range cannot be satisfied.")
        if "range" in ask.headers:
            headers["content-range"] = f"bytes {span[0]}-{span[1] - 1}/{len(kept.body)}"
        return Answer(206 if "range" in ask.headers else 200, kept.body[span[0] : span[1]], headers)

    def _check_signed(self, ask: Ask, query: dict[str, str]) -> None:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import padding

        signature = query.pop("X-Goog-Signature")
        email, _, scope = query.get("X-Goog-Credential", "").partition("/")
        stamp, seconds = query.get("X-Goog-Date", ""), query.get("X-Goog-Expires", "")
        key = self._tokens.keys.get(email)
        names = query.get("X-Goog-SignedHeaders", "").split(";")
        if query.get("X-Goog-Algorithm") != "GOOG4-RSA-SHA256" or not seconds.isdecimal() or key is None:
            raise _Refused(400, "The signing account is not known here: fetch a token with it first", "InvalidArgument")
        if not 1 <= int(seconds) <= 604_800 or "host" not in names:
            raise _Refused(400, "Invalid argument.", "InvalidArgument")
        lines = [
            ask.method,
            urlsplit(ask.base).path + quote(ask.path, safe="/~"),
            "&".join(sorted(f"{quote(one, safe='~')}={quote(value, safe='~')}" for one, value in query.items())),
            *(f"{one}:{' '.join(ask.headers.get(one, '').split())}" for one in names),
            "",
            ";".join(names),
            "UNSIGNED-PAYLOAD",
        ]
        digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
        text = f"GOOG4-RSA-SHA256\n{stamp}\n{scope}\n{digest}"
        try:
            key.verify(bytes.fromhex(signature), text.encode(), padding.PKCS1v15(), hashes.SHA256())
            begun = datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
        except (InvalidSignature, ValueError):
            raise _Refused(403, "Access denied.", "SignatureDoesNotMatch") from None
        if self._around.clock.wall() > begun + int(seconds):
            raise _Refused(400, "The provided token has expired.", "ExpiredToken")

    # -- rules -------------------------------------------------------------------------------------------------------

    def _bucket(self, name: str) -> Bucket:
        if name not in self._buckets:
            raise _Refused(404, "The specified bucket does not exist.")
        return self._buckets[name]

    def _there(self, name: str, key: str) -> Kept:
        kept = self._bucket(name).objects.get(key)
        if kept is None:
            raise _Refused(404, f"No such object: {name}/{quote(key)}")
        return kept

    def _limit(self, bucket: Bucket, key: str) -> None:
        if bucket.limited(key):
            raise _Refused(
                429, "The object exceeded the rate limit for object mutation operations", "rateLimitExceeded"
            )

    def _conditions(self, bucket: Bucket, key: str, query: Mapping[str, str]) -> None:
        wanted = query.get("ifGenerationMatch")
        if wanted is None:
            return
        kept = bucket.objects.get(key)
        if wanted != ("0" if kept is None else str(kept.generation)):
            raise _Refused(412, "At least one of the pre-conditions you specified did not hold.")


def _object(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except ValueError:
        raise _Refused(400, "Parse Error", "parseError") from None
    if not isinstance(found, dict):
        raise _Refused(400, "Parse Error", "parseError")
    return found


def _check_fields(fields: Mapping[str, Any]) -> None:
    for name, value in fields.items():
        if name not in _FIELDS:
            raise _Refused(400, f"Unknown field: {name}")
        if name == "metadata":
            if not isinstance(value, Mapping) or not all(isinstance(one, str) for one in value.values()):
                raise _Refused(400, "Invalid metadata")
        elif value is not None and not isinstance(value, str):
            raise _Refused(400, f"Invalid value for: {name}")


def _others(fields: Mapping[str, Any]) -> dict[str, str]:
    ours = ("contentType", "crc32c", "md5Hash", "metadata", "name")
    return {name: str(value) for name, value in fields.items() if name not in ours and value is not None}


def _parts(ask: Ask) -> tuple[dict[str, Any], bytes]:
    """The fields and the content of a ``multipart/related`` body."""
    found = re.fullmatch(r'multipart/related; boundary="?([^"]+)"?', ask.headers.get("content-type", ""))
    if found is None:
        raise _Refused(400, "Malformed multipart body.", "badContent")
    line = b"--" + found[1].encode("latin-1")
    pieces = ask.body.split(line)
    if len(pieces) != 4 or pieces[3].strip() != b"--":
        raise _Refused(400, "Malformed multipart body.", "badContent")
    heads = [piece.removeprefix(b"\r\n").partition(b"\r\n\r\n") for piece in pieces[1:3]]
    fields = _object(heads[0][2].removesuffix(b"\r\n"))
    told = re.search(rb"content-type: *([^\r\n]+)", heads[1][0], re.IGNORECASE)
    if told is not None:
        fields.setdefault("contentType", told[1].decode("latin-1"))
    return fields, heads[1][2].removesuffix(b"\r\n")


STAND_IN = Registration(name="gcs", make=GCSStandIn)
