"""``text``: a line, a message, a traceback, a body, without the secrets in it."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterable
from typing import Final
from urllib.parse import unquote

from moorline import live_values
from moorline.redaction.assignments import INPUT, MAY_BE_NAMED, NAMED, mask_inputs, mask_named
from moorline.redaction.draft import Change, Cuts, Draft, Span, suspicious
from moorline.redaction.gate import Gate
from moorline.redaction.names import MASK, SHOWN_VALUES
from moorline.redaction.personal import mask_if_asked
from moorline.redaction.shapes import CARDS, SHAPES, mask_cards, mask_shapes

__all__ = ["CUTS", "SECRETS", "beginning", "plain_url", "shown", "text"]

_URL_MARK: Final = re.compile(r":(?://|\\/\\/)")
_URL: Final = re.compile(_URL_MARK.pattern + r"[^\s\"'<>`]+")
_SCHEME: Final = re.compile(r"\b((?i:bearer|basic))(\s+|%20|\+)([A-Za-z0-9._~+/=-]{8,})")
_HEADER_LINE: Final = re.compile(r"(?i)\b(authorization|cookie)(\\*[\"']?\s*[:=]\s*\\*[\"']?)([^\"'\\\r\n]+)")
_CODE: Final = re.compile(r"(?<=[?&])(code|state|sig)=([^&\s\"'<>]{10,})")
# Of a request for a token, in JSON, in a repr or as a form; elsewhere a code says what went wrong.
_GRANT_CODE: Final = re.compile(
    r"(?:(?<=device_)|(?<![A-Za-z0-9_]))(code)(?:(\\*[\"']\s*:\s*\\*[\"'])([^\"'\\]+)|(=)([^&\s\"']+))"
)
# Text of which each letter was written as an escape: what says so, and all that belongs to it.
_NUMBERED: Final = r"(?:\\{1,8}u00[2-7][0-9A-Fa-f]){4}"
_QUOTED: Final = r"(?:%[2-7][0-9A-Fa-f]){6}"
_ESCAPED: Final = re.compile(f"{_NUMBERED}|{_QUOTED}")
_NUMBERS: Final = re.compile(r"(?:\\{1,8}u[0-9A-Fa-f]{4}){4,}")
_NUMBER: Final = re.compile(r"u([0-9A-Fa-f]{4})")
_QUOTES: Final = re.compile(r"(?:%[0-9A-Fa-f]{2}){6,}")
_IN_SCHEME: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+.-")
_LONGEST_SCHEME: Final = 40
_LONG: Final = 20
_LONGEST: Final = 512  # of the secrets that are known by their look; what is longer is known by its beginning

_IN_URLS: Final = r":(?://|\\/\\/)[^\s\"'<>`]*[@=]"
_SCHEMES: Final = r"(?i:bearer|basic)(?:\s|[\x1c-\x1f]|%20|\+)+[A-Za-z0-9._~+/=-]{8}"
_CODES: Final = r"[?&](?:code|state|sig)="
SECRETS: Final = f"{_IN_URLS}|{_SCHEMES}|{_CODES}|grant_type|{INPUT}|{_NUMBERED}|{_QUOTED}|{CARDS}|{NAMED}|{SHAPES}"
"""What opens a gate: a superset of what the rules may change, live values apart."""

CUTS: Final = Cuts(r"[,\n>](?:(?<=>)|(?<=,)(?=[ \n\"'])|(?<=[^\s+0rRcC]\n)(?=[^\s=:%+]))", ahead=1)
"""Behind what no gate's match goes on: the end of a tag, the comma between words or fields, and the end of a line, but
for those across which a name may be assigned to, or a scheme (``Bearer``) have its value.
"""

_may_hold_secrets: Final = Gate(SECRETS)
_may_hold_urls: Final = Gate(_IN_URLS)
_may_hold_schemes: Final = Gate(_SCHEMES)


def text(line: str) -> str:
    """*line* without secrets: live values, known shapes, URLs, and values assigned to a sensitive name.

    Ordinary text comes back unchanged, and so does text that was redacted before.
    """
    line = live_values.mask(line, MASK)
    spans = suspicious(line, _may_hold_secrets, CUTS)
    if spans:
        line = shown(line, spans)
    return mask_if_asked(line)


def beginning(line: str, limit: int) -> str:
    """The first *limit* characters of *line* without secrets; not much more of it is read, however long it is.

    It is cut behind the longest secret that may begin within the limit: half of one has no known shape.
    """
    return text(line[: limit + max(live_values.longest(), _LONGEST)])[:limit]


def shown(line: str, spans: Iterable[Span] | None = None) -> str:
    """As ``text``, for a line without live values of which a gate has said that there may be something in it, and in
    which pieces (by default, in all of it).
    """
    draft = Draft(line, spans)
    _mask(draft)
    line = draft.line
    pieces = draft.pieces
    if ("u00" in pieces or "%" in pieces) and _ESCAPED.search(pieces):
        plain = _QUOTES.sub(lambda run: unquote(run[0]), _NUMBERS.sub(_unnumbered, line))
        if plain != line:
            draft = Draft(live_values.mask(plain, MASK))
            _mask(draft)
            line = line if draft.line == plain else draft.line
    return line


def _unnumbered(run: re.Match[str]) -> str:
    letters = "".join(chr(int(number, 16)) for number in _NUMBER.findall(run[0]))
    return letters.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # pairs become one


def _mask(draft: Draft) -> None:
    mask_shapes(draft)
    if draft.may_hold(_may_hold_urls):
        _mask_urls(draft)
    if draft.may_hold(_may_hold_schemes):
        _jump(draft, draft.places_in_any_case("bearer", "basic"), _SCHEME, _mask_scheme)
    if draft.may_hold(MAY_BE_NAMED):
        _jump(draft, draft.places_in_any_case("authorization", "cookie"), _HEADER_LINE, _mask_header)
    _jump(draft, draft.places("code=", "state=", "sig="), _CODE, _mask_code)
    if "grant_type" in draft.pieces:
        whole = Draft(draft.line)
        _jump(draft, whole.places("code"), _GRANT_CODE, _mask_grant_code)
    if INPUT in draft.pieces:
        mask_inputs(draft)
    mask_named(draft)
    mask_cards(draft)


def _jump(draft: Draft, places: list[int], pattern: re.Pattern[str], masked: Callable[[re.Match[str]], str]) -> None:
    """As ``pattern.sub``, which looks at each character; this goes from place to place."""
    changes: list[Change] = []
    done = 0
    for at in places:
        found = pattern.match(draft.line, at) if at >= done else None
        if found is not None:
            done = found.end()
            changes.append((at, done, masked(found)))
    draft.change(changes)


def _mask_urls(draft: Draft) -> None:
    line = draft.line
    changes: list[Change] = []
    done = 0
    for mark in draft.places("://", ":\\/\\/"):
        found = _URL.match(line, mark) if mark >= done else None
        if found is None:
            continue
        before, done = done, found.end()  # in any case: a run of marks is read once
        if "=" not in found[0] and "@" not in found[0]:  # what else there is of an address is shown
            continue
        for at in (one.start() for one in _URL_MARK.finditer(line, mark, done)):
            start, first = at, max(before, at - _LONGEST_SCHEME)
            while start > first and line[start - 1] in _IN_SCHEME:
                start -= 1
            if start < at:
                changes.append((start, done, plain_url(line[start:done])))
                break
    draft.change(changes)


def _mask_grant_code(match: re.Match[str]) -> str:
    return f"{match[1]}{match[2] or match[4]}{MASK}"


def _mask_header(match: re.Match[str]) -> str:
    if match[3].strip().lower() in SHOWN_VALUES:
        return match[0]
    return f"{match[1]}{match[2]}{MASK}"


def _mask_scheme(match: re.Match[str]) -> str:
    scheme, space, value = match.groups()
    # "basic understanding" and "bearer certificates" are English.
    secret = _is_basic(value) if scheme.lower() == "basic" else len(value) >= _LONG or not value.isalpha()
    return f"{scheme}{space}{MASK}" if secret else match[0]


def _is_basic(value: str) -> bool:
    coded = value.partition("=")[0]  # what follows the padding is something else
    if len(coded) % 4 == 1:  # it was cut off
        coded = coded[:-1]
    try:
        return b":" in base64.b64decode(coded + "=" * (-len(coded) % 4), validate=True)
    except (binascii.Error, ValueError):
        return False


def _mask_code(match: re.Match[str]) -> str:
    """A code or state of OAuth is long and random; "?code=card_declined" is an answer that an operator needs."""
    name, value = match.groups()
    random = any(one.isdigit() for one in value) and any(one.isalpha() for one in value)
    return f"{name}={MASK}" if random else match[0]


def plain_url(address: str) -> str:
    """*address* without userinfo, with query and fragment values masked; nothing is looked for in its path."""
    # Split by hand: urllib refuses some malformed addresses, and a malformed one must be shown safely as well.
    address, hash_sign, fragment = address.partition("#")
    address, question_mark, query = address.partition("?")
    slash = "\\/" if ":\\/\\/" in address else "/"
    mark = f":{slash}{slash}"
    scheme, joint, rest = address.rpartition(mark) if mark in address else address.partition(mark)
    if joint:
        authority, first, path = rest.partition(slash)
        authority = authority.rpartition("@")[2]
    else:
        authority, first, path = scheme, "", ""
        scheme = ""
    query = "&".join(_masked_pair(pair) for pair in query.split("&")) if query else query
    fragment = "&".join(_masked_pair(pair) for pair in fragment.split("&")) if "=" in fragment else fragment
    return f"{scheme}{joint}{authority}{first}{path}{question_mark}{query}{hash_sign}{fragment}"


def _masked_pair(pair: str) -> str:
    name, equals, value = pair.partition("=")
    return f"{name}={MASK}" if equals and value else pair
