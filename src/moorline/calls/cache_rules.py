"""The rules of RFC 9111 for a private cache, as pure functions: may it be stored, is it fresh, how is it validated.

Stricter than it must be where that protects an API's caller: no heuristic freshness (section 4.2.2 allows to guess;
an answer about somebody's account is no picture), nothing stale is ever given, only plain 200s are stored.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from moorline.calls.exchange import Exchange

__all__ = [
    "age_at_arrival",
    "conditions",
    "directives",
    "freshened",
    "lifetime",
    "same_entity",
    "storable",
    "stored_headers",
    "storing",
    "wanted",
]

_DIRECTIVE: Final = re.compile(r'([!#$%&\'*+.^_`|~\w-]+)(?:\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]*)))?')
_LONGEST: Final = 2**31  # RFC 9111 section 1.2.2: larger numbers are this one
_DIGITS: Final = re.compile(r"\d+")
# Section 3.1; Set-Cookie besides, because we keep no cookies and it is a secret.
_NEVER_STORED: Final = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authentication-info",
        "proxy-authorization",
        "proxy-connection",
        "set-cookie",
        "te",
        "transfer-encoding",
        "upgrade",
    }
)
# Section 3.2: these describe the body, which a 304 does not bring.
_OF_THE_BODY: Final = frozenset({"content-encoding", "content-length", "content-range", "content-type", "etag"})
_CONDITIONS: Final = frozenset({"if-match", "if-modified-since", "if-none-match", "if-range", "if-unmodified-since"})

Headers = Mapping[str, str]


def directives(headers: Headers) -> dict[str, str | None]:
    """The directives of ``Cache-Control``, names in lower case. Of one that is repeated the smaller number counts."""
    found: dict[str, str | None] = {}
    for name, quoted, bare in _DIRECTIVE.findall(headers.get("cache-control", "")):
        value, known = quoted or bare or None, name.lower()
        if known in found and value is not None:
            value = min(value, found[known] or value, key=_number)
        found[known] = value
    return found


def _number(text: str | None) -> int:
    """Delta seconds; what is none counts as 0, which is stale (section 4.2.1)."""
    return min(int(text[:12]), _LONGEST) if text is not None and _DIGITS.fullmatch(text) else 0


def storing(headers: Headers) -> bool:
    """Whether a GET with these request *headers* (lower case) goes through the cache at all: it does not if it says
    ``no-store``, wants a part, or brings conditions of its own.
    """
    return not (_CONDITIONS & headers.keys() or "range" in headers or "no-store" in directives(headers))


def storable(answer: Exchange) -> bool:
    """Whether *answer* to a GET may be kept, and is worth it: a whole 200 that can be validated later, or is fresh."""
    said = directives(answer.headers)
    if answer.status != 200 or "no-store" in said or "*" in answer.headers.get("vary", ""):
        return False
    return bool(conditions(answer.headers)) or lifetime(answer.headers, 0.0) > 0


def lifetime(headers: Headers, arrived: float) -> float:
    """Seconds for which an answer is fresh (section 4.2.1), from ``max-age`` or ``Expires``; 0 if it says neither.

    ``s-maxage`` is for shared caches. *arrived* (epoch seconds) stands in for a missing ``Date``.
    """
    said = directives(headers)
    if "no-cache" in said:
        return 0.0
    if "max-age" in said:
        return float(_number(said["max-age"]))
    until = _date(headers.get("expires"))
    if until is None:
        return 0.0
    given = _date(headers.get("date"))
    return max(until - (arrived if given is None else given), 0.0)


def age_at_arrival(headers: Headers, asked: float, arrived: float) -> float:
    """The age that an answer had when it came (section 4.2.3): *asked* and *arrived* are epoch seconds."""
    given = _date(headers.get("date"))
    apparent = 0.0 if given is None else max(arrived - given, 0.0)
    return max(apparent, _number(headers.get("age")) + max(arrived - asked, 0.0))


def wanted(headers: Headers, age: float, fresh_for: float) -> bool:
    """Whether an answer of that *age* satisfies the request's own ``Cache-Control`` (section 5.2.1), and is fresh."""
    said = directives(headers)
    if "no-cache" in said or ("cache-control" not in headers and "no-cache" in headers.get("pragma", "")):
        return False
    if "max-age" in said and age > _number(said["max-age"]):
        return False
    return fresh_for > age + (_number(said["min-fresh"]) if "min-fresh" in said else 0)


def conditions(headers: Headers) -> dict[str, str]:
    """The request headers that ask whether the stored answer with these *headers* still holds (section 4.3.1)."""
    asked = {"If-None-Match": headers.get("etag"), "If-Modified-Since": headers.get("last-modified")}
    return {name: value for name, value in asked.items() if value}


def same_entity(stored: Headers, validated: Headers) -> bool:
    """Whether a 304 speaks of the stored answer (section 4.3.4): it names the same entity, or none."""
    ours, theirs = stored.get("etag"), validated.get("etag")
    if theirs is not None:
        return ours is not None and ours.removeprefix("W/") == theirs.removeprefix("W/")
    changed = validated.get("last-modified")
    return changed is None or changed == stored.get("last-modified")


def stored_headers(headers: Headers) -> dict[str, str]:
    """*headers* without those that belong to one connection, or are named by ``Connection`` and ``no-cache="…"``."""
    named = f"{headers.get('connection', '')},{directives(headers).get('no-cache') or ''}"
    left_out = _NEVER_STORED | {name.strip().lower() for name in named.split(",")}
    return {name: text for name, text in headers.items() if name not in left_out}


def freshened(stored: Headers, validated: Headers) -> dict[str, str]:
    """The headers of a stored answer after a 304 with those headers (section 3.2)."""
    newer = {name: text for name, text in stored_headers(validated).items() if name not in _OF_THE_BODY}
    return {**stored, **newer}


def _date(text: str | None) -> float | None:
    if not text:
        return None
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
