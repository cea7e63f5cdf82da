"""Signatures of S3: in a header, or in the query of an address. Only the sandbox's own key pair is known."""

from __future__ import annotations

import hashlib
import hmac
import re
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from moorline.calls.aws_keys import need_botocore
from moorline.sandbox.services._aws import AccessKeys, Refused
from moorline.sandbox.standin import Ask, Surroundings

__all__ = ["authorise"]

_AUTHORIZATION: Final = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/]+)/([0-9]{8})/([a-z0-9-]+)/s3/aws4_request, ?"
    r"SignedHeaders=([a-z0-9;-]+), ?Signature=([0-9a-f]{64})"
)
_CREDENTIAL: Final = re.compile(r"([^/]+)/([0-9]{8})/([a-z0-9-]+)/s3/aws4_request")
_DATE: Final = "%Y%m%dT%H%M%SZ"
_SKEW: Final = 15 * 60
_WEEK: Final = 604_800
_UNSIGNED: Final = "UNSIGNED-PAYLOAD"
_WRONG: Final = (
    "The request signature we calculated does not match the signature you provided. Check your key and signing method."
)
_IN_QUERY: Final = ("Algorithm", "Credential", "Date", "Expires", "SignedHeaders", "Signature")


def authorise(ask: Ask, around: Surroundings, keys: AccessKeys, *, region: str | None, expired: Refused) -> None:
    """Raises Refused unless the request is signed with one of *keys*, now; *expired* for an address whose time is
    over. *region* is the only one that is taken, if given.
    """
    need_botocore("the sandbox's S3")
    query = dict(parse_qsl(ask.query, keep_blank_values=True))
    if "X-Amz-Signature" in query:
        _in_query(ask, query, around, keys, region, expired)
        return
    header = ask.headers.get("authorization")
    if header is None:
        raise Refused(403, "AccessDenied", "Access Denied")
    found = _AUTHORIZATION.fullmatch(header)
    stamp = ask.headers.get("x-amz-date", "")
    at = _time(stamp)
    told = ask.headers.get("x-amz-content-sha256")
    if found is None or at is None or "host" not in found[4].split(";"):
        raise Refused(400, "AuthorizationHeaderMalformed", "The authorization header is malformed.")
    if told is None:
        raise Refused(400, "InvalidRequest", "Missing required header for this request: x-amz-content-sha256")
    key, date, named, signed, signature = found.groups()
    secret = _check(keys, key, date, stamp, named, region)
    if told != _UNSIGNED and told != hashlib.sha256(ask.body).hexdigest():
        raise Refused(400, "XAmzContentSHA256Mismatch", "The provided 'x-amz-content-sha256' header does not match.")
    expected = _signature(ask, (key, secret), named, stamp, signed.split(";"), ask.query, told)
    if not hmac.compare_digest(signature, expected):
        raise Refused(403, "SignatureDoesNotMatch", _WRONG)
    if abs(at - around.clock.wall()) > _SKEW:
        raise Refused(
            403, "RequestTimeTooSkewed", "The difference between the request time and the server's is too large."
        )


def _in_query(
    ask: Ask, query: dict[str, str], around: Surroundings, keys: AccessKeys, region: str | None, expired: Refused
) -> None:
    algorithm, credential, stamp, seconds, signed, signature = (query.get(f"X-Amz-{name}", "") for name in _IN_QUERY)
    found, at = _CREDENTIAL.fullmatch(credential), _time(stamp)
    if algorithm != "AWS4-HMAC-SHA256" or found is None or at is None or not seconds.isdecimal():
        raise Refused(400, "AuthorizationQueryParametersError", "Query-string authentication needs all its parameters.")
    if not 1 <= int(seconds) <= _WEEK:
        raise Refused(
            400, "AuthorizationQueryParametersError", "X-Amz-Expires must be less than a week (in seconds) and positive"
        )
    secret = _check(keys, found[1], found[2], stamp, found[3], region)
    rest = [(name, value) for name, value in parse_qsl(ask.query, keep_blank_values=True) if name != "X-Amz-Signature"]
    pair = found[1], secret
    expected = _signature(
        ask, pair, found[3], stamp, signed.split(";"), urlencode(rest, quote_via=quote, safe="-_.~"), _UNSIGNED
    )
    if not hmac.compare_digest(signature, expected):
        raise Refused(403, "SignatureDoesNotMatch", _WRONG)
    if around.clock.wall() > at + int(seconds):
        raise expired


def _check(keys: AccessKeys, key: str, date: str, stamp: str, named: str, region: str | None) -> str:
    """The secret of that key."""
    secret = keys.secret(key)
    if secret is None:
        raise Refused(403, "InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist in our records.")
    if date != stamp[:8] or (region is not None and named != region):
        raise Refused(
            400, "AuthorizationHeaderMalformed", f"The authorization header is malformed; expecting '{region or date}'"
        )
    return secret


def _time(stamp: str) -> float | None:
    try:
        return datetime.strptime(stamp, _DATE).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None


def _signature(
    ask: Ask, pair: tuple[str, str], region: str, stamp: str, signed: list[str], query: str, payload: str
) -> str:
    """The signature that this request must have."""
    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    path = urlsplit(ask.base).path + quote(ask.path, safe="/-._~")
    url = f"https://{ask.headers.get('host', '')}{path}" + (f"?{query}" if query else "")
    headers = {name: ask.headers.get(name, "") for name in signed}
    request: Any = AWSRequest(method=ask.method, url=url, headers=headers)
    request.context["timestamp"] = stamp
    signer: Any = S3SigV4Auth(Credentials(*pair), "s3", region)
    canonical = signer.canonical_request(request)
    # The hash of the content, which is in a header, or (of an address) is not known.
    canonical = canonical[: canonical.rindex("\n") + 1] + payload
    found: str = signer.signature(signer.string_to_sign(request, canonical), request)
    return found
