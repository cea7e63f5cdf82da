"""Cloudflare R2: objects in a bucket, by S3's API with rules of its own.

Facts: services/storage/r2.md; contract: none, it is botocore's model of s3.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from typing import Any, ClassVar, Final

from moorline.calls.aws_keys import Pair
from moorline.calls.service import BearerKey, Endpoints, Parameter
from moorline.errors import AuthenticationFailed, ConfigurationError, InvalidRequest
from moorline.services.s3_api import S3Api
from moorline.services.s3_requests import S3_KINDS, S3_RETRIED, S3Errors

__all__ = ["R2"]

_BUCKET: Final = r"[a-z0-9][a-z0-9\-]{1,61}[a-z0-9]"
_CODED: Final = re.compile(r"=\?[\w-]+\?[BbQq]\?")
_WHEN_EXPIRED: Final = {"ExpiredRequest": AuthenticationFailed, "InvalidObjectName": InvalidRequest}


class R2(S3Api):
    """Objects by Cloudflare R2, in one *bucket* of *account_id*. The key is an API token's: its id is the
    *access_key_id*, the SHA-256 of its value the secret; any number of tokens may be good at once, so that one is
    rotated without a gap. *jurisdiction* is ``eu`` or ``fedramp`` for a bucket that was made there.

    Otherwise than S3: the region is ``auto``; all parts of an upload but the last have one size (as ours do); a limit
    is a 429, one write a second for each key; conditions are judged when an upload in parts begins, too; metadata may
    be any text. An object's ETag is the MD5 of one that was not written in parts; no CRC-32 of a whole is asked for,
    as R2 has none.

    Facts: services/storage/r2.md
    """

    name = "r2"
    docs = "services/storage/r2.md"
    endpoints = Endpoints("https://r2.cloudflarestorage.com")  # before it stands the account
    credentials = BearerKey(env="R2_SECRET_ACCESS_KEY", sandbox="sandbox/secret+key")
    access_key_id = Parameter("R2_ACCESS_KEY_ID", sandbox="AKIASANDBOX000000000")
    account_id = Parameter("R2_ACCOUNT_ID", sandbox="0" * 32, like="[0-9a-f]{32}")
    jurisdiction = Parameter("R2_JURISDICTION", like="eu|fedramp", default="")
    bucket = Parameter("R2_BUCKET", sandbox="moorline-sandbox", like=_BUCKET)
    errors = S3Errors(
        kinds={**S3_KINDS, **_WHEN_EXPIRED},
        limited=frozenset({"SlowDown", "TooManyRequests"}),
        retry=S3_RETRIED,
        failed=S3Api.errors.failed,
    )
    metadata_bytes = 8192
    checks_crc32 = False
    ascii_only = False
    lacks: ClassVar[Mapping[str, str]] = {
        "webhooks": "notifications of a bucket go to Cloudflare Queues, and not over HTTP"
    }
    usage: ClassVar[str] = """
from moorline.services import R2

r2 = R2()
r2.put("reports/a.json", b"{}", content_type="application/json", metadata={"owner": "Müller"}).result()
print(r2.get("reports/a.json").result().verified, [one.key for one in r2.list_objects("reports/")])
print(r2.presign_put("uploads/b.png", 600, content_type="image/png", if_absent=True).result())
"""

    def _endpoint(self) -> str:
        place = f".{self.jurisdiction}" if self.jurisdiction else ""
        return f"https://{self.account_id}{place}.r2.cloudflarestorage.com"

    def _checked_region(self, region: str | None) -> str | None:
        if region not in (None, "auto"):
            raise ConfigurationError("r2.region is auto, and cannot be another")
        return None

    @property
    def region(self) -> str:
        """``auto``, always."""
        return "auto"

    def own_keys(self) -> Pair | None:
        """The token's, which no tool of AWS's would find."""
        token = None if self._session_token is None else self._session_token.reveal()
        return Pair(self.access_key_id, self.secret().reveal(), token)

    def _early(self, conditions: Mapping[str, Any]) -> dict[str, str]:
        names = {"IfNoneMatch": "If-None-Match", "IfMatch": "If-Match"}
        return {names[name]: value for name, value in conditions.items() if value is not None}

    def _copy_conditions(self, if_absent: bool) -> tuple[dict[str, Any], dict[str, str]]:  # noqa: FBT001
        return {}, ({"cf-copy-destination-if-none-match": "*"} if if_absent else {})

    def _written(self, metadata: dict[str, str]) -> dict[str, str]:
        from email.header import Header

        return {
            name: value if value.isascii() else Header(value, "utf-8", maxlinelen=10**6).encode()
            for name, value in metadata.items()
        }

    def _readable(self, metadata: Mapping[str, str]) -> dict[str, str]:
        return {name: _decoded(value) if _CODED.search(value) else value for name, value in metadata.items()}


def _decoded(value: str) -> str:
    """What RFC 2047 says; the text itself where that is nothing."""
    try:
        return str(make_header(decode_header(value)))
    except (HeaderParseError, LookupError, UnicodeError, ValueError):
        return value
