"""The one place that decides what may be shown: headers, URLs, bodies, structured data and plain text.

Three rules together, because each alone misses something:

* **names**: a header, field or query key called ``*token``, ``*secret``, ``*key``, ``*signature``, ``*password``, … is
  masked;
* **shapes**: ``sk_live_…``, ``whsec_…``, ``ghp_…``, JWTs, private keys, ``Bearer …`` are masked wherever they stand;
* **live values**: each value given to :func:`register` (every ``Secret`` does it) is masked raw, URL-encoded,
  JSON-escaped and inside base64.

URLs are shown by default-deny: scheme, host, path and the *names* of the query.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import parse_qsl

from moorline import live_values
from moorline.live_values import register

__all__ = ["MASK", "SENSITIVE_HEADERS", "body", "data", "headers", "is_sensitive", "register", "text", "url"]

MASK: Final = "***"

SENSITIVE_HEADERS: Final = frozenset(
    {
        "authorization",
        "cookie",
        "proxy-authorization",
        "set-cookie",
        "stripe-signature",
        "www-authenticate",
        "x-amz-security-token",
        "x-api-key",
        "x-csrf-token",
        "x-hub-signature",
        "x-hub-signature-256",
        "x-twilio-email-event-webhook-signature",
    }
)
"""Header names, lower case, whose values are never shown. Names that :func:`is_sensitive` knows are masked as well."""

_SENSITIVE_ENDS: Final = (
    "apikey",
    "assertion",
    "authorization",
    "clientsecret",
    "cookie",
    "cookies",
    "credential",
    "credentials",
    "cvc",
    "cvv",
    "jwt",
    "passphrase",
    "passwd",
    "password",
    "passwords",
    "secret",
    "secrets",
    "sessionid",
    "signature",
    "signatures",
    "token",
    "tokens",
)
# Names that end like a secret and hold none; an operator needs to see them.
_HARMLESS: Final = frozenset(
    {
        "aggregationkey",
        "dedupkey",
        "dedupekey",
        "foreignkey",
        "idempotencykey",
        "maxtokens",
        "objectkey",
        "partitionkey",
        "primarykey",
        "publickey",
        "routingkey",
        "sortkey",
        "uniquekey",
    }
)
# A key is a word of its own ("api_key", "apiKey", "APIKEY"); the end of another is not ("monkey").
_KEY: Final = re.compile(
    r"(?:(?:^|[^A-Za-z]|(?i:access|account|api|auth|encryption|license|master|private|secret|shared|signing))(?i:keys?)"
    r"|[a-z]Keys?)[^A-Za-z]*$"
)
_SEPARATORS: Final = str.maketrans("", "", "-_ .[]")
_DEPTH: Final = 8


def is_sensitive(name: str) -> bool:
    """Whether a header, field or query key of that name holds something that may not be shown.

    Case, dashes, underscores and a trailing number (``X-Hub-Signature-256``) do not matter.
    """
    plain = name.lower().translate(_SEPARATORS).rstrip("0123456789")
    return (plain.endswith(_SENSITIVE_ENDS) or _KEY.search(name) is not None) and plain not in _HARMLESS


# --- shapes -----------------------------------------------------------------------------------------------------------

# Not inside a word ("task_test_1"), but after an escaped line end of a repr.
_EDGE: Final = r"(?:(?<![A-Za-z0-9])|(?<=\\[nrt]))"


def _shape(pattern: str) -> re.Pattern[str]:
    return re.compile(_EDGE + pattern)


# (what must be in the text at all, the shape). The first is a plain substring search, so that a clean line is cheap.
# Sources: the vendors' documentation of their key formats.
_SHAPES: Final = (
    ("k_live_", _shape(r"[sr]k_live_[A-Za-z0-9_]+")),
    ("k_test_", _shape(r"[sr]k_test_[A-Za-z0-9_]+")),
    ("whsec_", _shape(r"whsec_[A-Za-z0-9+/=_-]+")),
    ("_secret_", _shape(r"(?:pi|seti|cs|src)_[A-Za-z0-9]+_secret_[A-Za-z0-9]+")),
    ("SG.", _shape(r"SG\.[A-Za-z0-9_-]{7,}(?:\.[A-Za-z0-9_-]+)?")),
    *((f"gh{kind}_", _shape(rf"gh{kind}_[A-Za-z0-9]{{8,}}")) for kind in "oprsu"),
    ("_pat_", _shape(r"github_pat_[A-Za-z0-9_]+")),
    ("glpat-", _shape(r"glpat-[A-Za-z0-9_-]{8,}")),
    ("shpat_", _shape(r"shpat_[A-Za-z0-9_-]{8,}")),
    ("xox", _shape(r"xox[abceoprs](?:\.[a-z]+)?-[A-Za-z0-9-]{8,}")),
    ("xapp-", _shape(r"xapp-[A-Za-z0-9-]{8,}")),
    (
        "slack.com/",
        re.compile(r"(?<=hooks\.slack\.com/)(?:services|workflows|triggers|commands|actions|app)/[A-Za-z0-9/_-]+"),
    ),
    ("slack.com/", re.compile(r"(?<=files\.slack\.com/upload/v1/)[A-Za-z0-9_-]+")),
    ("/api/webhooks/", re.compile(r"(?<=/api/webhooks/)(?:[0-9]+|\*\*\*)/[A-Za-z0-9_-]+")),
    ("/bot", re.compile(r"(?<=/bot)[0-9]{6,}:[A-Za-z0-9_-]{20,}")),
    ("AKIA", _shape(r"AKIA[A-Z0-9]{12,}")),
    ("ASIA", _shape(r"ASIA[A-Z0-9]{12,}")),
    ("AIza", _shape(r"AIza[A-Za-z0-9_-]{30,}")),
    ("ya29.", _shape(r"ya29\.[A-Za-z0-9_.-]{8,}")),
    ("hvs.", _shape(r"hvs\.[A-Za-z0-9_-]{8,}")),
    ("sk-", _shape(r"sk-[A-Za-z0-9_-]{20,}")),
    ("key-", _shape(r"key-[0-9a-f]{32}")),
    ("eyJ", _shape(r"eyJ[A-Za-z0-9_-]{6,}(?:\.[A-Za-z0-9_-]*){1,4}")),
    (
        "PRIVATE KEY",
        re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL),
    ),
)
_SCHEME: Final = re.compile(r"(?i)\b(bearer|basic)(\s+|%20|\+)([A-Za-z0-9._~+/=-]{8,})")
_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s\"'<>`]+")
_NAME_HINTS: Final = ("token", "secret", "passw", "passphrase", "key", "signature", "credential", "jwt", "sessionid")
_ASSIGNMENT: Final = re.compile(
    r"(?i)(?<![\w-])([\w-]{0,60}(?:token|secret|password|passwd|passphrase|key|signature|credentials?|jwt|sessionid))"
    r"(\\?[\"']?\s*[=:]\s*)"
    r"(\\\"[^\"\\]*\\\"|\\?\"(?:[^\"\\]|\\.)*\"?|'(?:[^'\\]|\\.)*'?|[^\s\"'&,;)}\]]+)"
)
_HEADER_LINE: Final = re.compile(r"(?i)\b(authorization|cookie)(\\?[\"']?\s*[:=]\s*\\?[\"']?)([^\"'\\\r\n]+)")
_SHOWN_VALUES: Final = frozenset({"", MASK, "none", "null", "true", "false", "str", "bytes"})
_LONG: Final = 20


def _mask_scheme(match: re.Match[str]) -> str:
    scheme, space, value = match.groups()
    # "basic understanding" and "bearer certificates" are English.
    secret = _is_basic(value) if scheme.lower() == "basic" else len(value) >= _LONG or not value.isalpha()
    return f"{scheme}{space}{MASK}" if secret else match[0]


def _is_basic(value: str) -> bool:
    try:
        return b":" in base64.b64decode(value + "=" * (-len(value) % 4), validate=True)
    except (binascii.Error, ValueError):
        return False


def _mask_assignment(match: re.Match[str]) -> str:
    name, joint, value = match.groups()
    bare = value.strip("\\\"'")
    if bare.lower() in _SHOWN_VALUES or not is_sensitive(name):
        return match[0]
    # "wrong token: expected a string" is English; "password: hunter2" and {"token": "…"} are not.
    written_by_program = "=" in joint or value[0] in "\\\"'" or joint[0] in "\\\"'"
    if not written_by_program and len(bare) < _LONG and not any(letter.isdigit() for letter in bare):
        return match[0]
    quoted = value[: len(value) - len(value.lstrip("\\\"'"))]
    closing = quoted if quoted and value.endswith(quoted) and len(value) > len(quoted) else ""
    return f"{name}{joint}{quoted}{MASK}{closing}"


def text(line: str) -> str:
    """*line* without secrets: live values, known shapes, URLs, and values assigned to a sensitive name.

    Ordinary text comes back unchanged, and so does text that was redacted before.
    """
    line = live_values.mask(line, MASK)
    for hint, pattern in _SHAPES:
        if hint in line:
            line = pattern.sub(MASK, line)
    if "://" in line:
        line = _URL.sub(lambda match: _plain_url(match[0]), line)
    lowered = line.lower()
    if "bearer" in lowered or "basic" in lowered:
        line = _SCHEME.sub(_mask_scheme, line)
    if "authorization" in lowered or "cookie" in lowered:
        line = _HEADER_LINE.sub(rf"\1\2{MASK}", line)
    if any(hint in lowered for hint in _NAME_HINTS):
        line = _ASSIGNMENT.sub(_mask_assignment, line)
    return line


# --- URLs, headers, data, bodies --------------------------------------------------------------------------------------


def url(address: str) -> str:
    """*address* without userinfo, with query and fragment values masked; the path is kept, secrets in it are not."""
    return text(_plain_url(address))


def _plain_url(address: str) -> str:
    # Split by hand: urllib refuses some malformed addresses, and a malformed one must be shown safely as well.
    address, hash_sign, fragment = address.partition("#")
    address, question_mark, query = address.partition("?")
    scheme, joint, rest = address.rpartition("://") if "://" not in address else address.partition("://")
    authority, slash, path = rest.partition("/")
    if joint:
        authority = authority.rpartition("@")[2]
    query = "&".join(_masked_pair(pair) for pair in query.split("&")) if query else query
    fragment = "&".join(_masked_pair(pair) for pair in fragment.split("&")) if "=" in fragment else fragment
    return f"{scheme}{joint}{authority}{slash}{path}{question_mark}{query}{hash_sign}{fragment}"


def _masked_pair(pair: str) -> str:
    name, equals, value = pair.partition("=")
    return f"{name}={MASK}" if equals and value else pair


def headers(mapping: Mapping[str, str]) -> dict[str, str]:
    """A copy with the values of sensitive headers masked and the others passed through :func:`text`."""
    return {
        name: MASK if name.lower() in SENSITIVE_HEADERS or is_sensitive(name) else text(str(value))
        for name, value in mapping.items()
    }


def data(value: Any, *, depth: int = _DEPTH) -> Any:
    """A copy of JSON-like data: values under sensitive names masked, strings passed through :func:`text`.

    Goes eight levels deep; what lies deeper is shown as ``"..."``. Anything that is not JSON becomes its redacted text.
    """
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return text(value)
    if isinstance(value, bytes | bytearray):
        return text(bytes(value).decode("utf-8", "backslashreplace"))
    if isinstance(value, Mapping):
        return {text(str(key)): _field(str(key), item, depth) for key, item in value.items()} if depth else "..."
    if isinstance(value, list | tuple | set | frozenset):
        return [data(item, depth=depth - 1) for item in value] if depth else "..."
    return text(str(value))


def _field(name: str, value: Any, depth: int) -> Any:
    if not is_sensitive(name) or value is None or isinstance(value, bool) or value == "":
        return data(value, depth=depth - 1)
    if name.lower().endswith("tokens") and isinstance(value, int | float):
        return value  # a count
    return MASK


def body(content: bytes, content_type: str, limit: int = 2048) -> str:
    """A request or response body for a log or a page: at most *limit* characters of it, without secrets.

    JSON and forms are masked by name; other text by shape and live value; anything else is only described.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if not content:
        return ""
    render = _renderer(kind)
    if render is None:
        return f"<{len(content)} bytes of {text(kind) or 'unknown type'}>"
    return _cut(render(content, limit), limit)


def _renderer(kind: str) -> Callable[[bytes, int], str] | None:
    if kind == "application/json" or kind.endswith("+json"):
        return _json_body
    if kind == "application/x-www-form-urlencoded":
        return _form_body
    if kind.startswith("text/") or kind.endswith(("/xml", "+xml", "/javascript")):
        return _text_body
    return None


# A body larger than this many times the limit is not parsed for the sake of a log line.
_PARSED: Final = 64


def _json_body(content: bytes, limit: int) -> str:
    if len(content) > limit * _PARSED:
        return _text_body(content, limit)
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError):
        return _text_body(content, limit)
    return json.dumps(data(parsed), ensure_ascii=False, separators=(",", ":"))


def _form_body(content: bytes, limit: int) -> str:
    if len(content) > limit * _PARSED:
        return f"<{len(content)} bytes of form>"
    pairs = parse_qsl(content.decode("utf-8", "replace"), keep_blank_values=True)
    return "&".join(f"{text(name)}={MASK if value and is_sensitive(name) else text(value)}" for name, value in pairs)


def _text_body(content: bytes, limit: int) -> str:
    # What is left out may begin in the middle of a secret, whose first half would not be recognised: read on far enough
    # for the longest, and show nothing of that end.
    margin = max(live_values.longest(), 512)
    window = content[: limit * 4 + margin].decode("utf-8", "replace")
    return text(window if len(content) <= limit * 4 + margin else window[: max(len(window) - margin, 0)])


def _cut(shown: str, limit: int) -> str:
    return shown if len(shown) <= limit else shown[:limit] + f"... ({len(shown)} characters)"
