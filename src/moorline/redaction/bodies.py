"""Bodies of requests and answers, for a log or a page.

They are masked as they are written, and not taken apart and put together again: that is ten times as fast, a body
without secrets is shown byte for byte, and one that was cut off or is malformed is masked as well.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final
from urllib.parse import unquote_plus

from moorline import live_values
from moorline.redaction.draft import Cuts, suspicious
from moorline.redaction.gate import Gate
from moorline.redaction.names import MASK, is_sensitive
from moorline.redaction.personal import mask_if_asked
from moorline.redaction.plain import CUTS, SECRETS, shown, text

__all__ = ["body"]

# Escapes that nothing asks for and that hide a name or an address: letters by number, and PHP's slashes.
_HIDING: Final = r"\\/|\\u00[2-7]"
_may_hide: Final = Gate(_HIDING)
_may_be_secret_json: Final = Gate(rf"{SECRETS}|{_HIDING}")
_ESCAPE: Final = re.compile(r"\\(?:u(00[2-7][0-9A-Fa-f])|(.))", re.DOTALL)
# Before the next field, unless the mark is of an escape in HTML. Only an address, unescaped, goes on over it.
_FIELDS: Final = Cuts("&(?![qQ#])", ahead=0)
_FIELD: Final = rf"{SECRETS}|:(?://|\\/\\/)"
_may_be_secret_field: Final = Gate(_FIELD)
# Beside what any text may hold: the marks that a form escapes, where a rule needs them.
_may_be_secret_form: Final = Gate(
    rf"{_FIELD}|(?i:%3a(?:%5c)?%2f|%(?:[46][1-9a-f]|5[0-9ac]|7[0-9a])|%3d|%2[2567]|\+bearer|\+basic)"
    r"|1%2[fF]%2[fF]0|00D[A-Za-z0-9]{12,15}%21|PRIVATE(?:\+|%20)KEY|%3[cC]%2[fF]|--[A-Za-z0-9_.-]+(?:\+|%20)"
    r"|(?i:%2f(?:api%2fwebhooks|bot|services|workflows|triggers|commands|actions|app|upload))"
    r"|(?i:(?:%[0-9a-f]{2}|[+ -])(?:(?:%[0-9a-f]{2}|[+ -])*[0-9]){14})"
)


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
    # What is left out may begin in the middle of a secret, whose first half would not be recognised: read on far enough
    # for the longest, and show nothing of that end.
    margin = max(live_values.longest(), 512)
    most = limit * 4 + margin
    whole = len(content) <= most
    window = content[:most].decode("utf-8", "replace")
    shown = render(window if whole else window[: max(len(window) - margin, 0)])
    return _cut(shown, limit)


def _renderer(kind: str) -> Callable[[str], str] | None:
    if kind.endswith(("/json", "+json", "/x-ndjson", "/json-lines")):
        return _json
    if kind == "application/x-www-form-urlencoded":
        return _form
    if kind.startswith("text/") or kind.endswith(("/xml", "+xml", "/javascript", "/graphql")):
        return text
    return None


def _json(content: str) -> str:
    known = live_values.mask(content, MASK)
    spans = suspicious(known, _may_be_secret_json, CUTS)
    if not spans:
        return mask_if_asked(known)
    if known is content and not any(_may_hide(content[start:end]) for start, end in spans):
        return mask_if_asked(shown(content, spans))
    if "\\u00" in known:
        known = text(known)  # what is escaped letter by letter, before some of its escapes are gone
    plain = _ESCAPE.sub(_unescaped, known) if _may_hide(known) else known
    masked = text(plain)
    return known if masked == plain else masked


def _unescaped(match: re.Match[str]) -> str:
    number, letter = match.groups()
    if letter is not None:
        return "/" if letter == "/" else match[0]
    plain = chr(int(number, 16))
    return match[0] if plain in '"\\\x7f' else plain


def _form(content: str) -> str:
    content = live_values.mask(content, MASK)
    spans = suspicious(content, _may_be_secret_form, _FIELDS)
    if not spans:
        return mask_if_asked(content)
    grant = content.startswith("grant_type=") or "&grant_type=" in content
    parts: list[str] = []
    done = 0
    for start, end in [(0, len(content))] if grant else spans:
        pairs = content[start:end].split("&")
        parts += (content[done:start], "&".join(_pair(pair, grant=grant) for pair in pairs))
        done = end
    content = live_values.mask("".join((*parts, content[done:])), MASK)
    spans = suspicious(content, _may_be_secret_field, _FIELDS)
    return mask_if_asked(shown(content, spans) if spans else content)


def _pair(pair: str, *, grant: bool) -> str:
    name, equals, value = pair.partition("=")
    plain_name = unquote_plus(name) if "%" in name or "+" in name else name
    if value and (is_sensitive(plain_name) or (grant and plain_name in {"code", "device_code"})):
        return f"{name}={MASK}"
    if "%" not in value and "+" not in value:
        return pair
    plain = unquote_plus(value)
    shown = text(plain)
    return f"{name}{equals}{shown}" if shown != plain else pair


def _cut(shown: str, limit: int) -> str:
    return shown if len(shown) <= limit else shown[:limit] + f"... ({len(shown)} characters)"
