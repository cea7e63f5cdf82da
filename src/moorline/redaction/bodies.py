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
from moorline.redaction.gate import Gate
from moorline.redaction.names import MASK, is_sensitive
from moorline.redaction.personal import mask_if_asked
from moorline.redaction.plain import SECRETS, text

__all__ = ["body"]

# Escapes that nothing asks for and that hide a name or an address: letters by number, and PHP's slashes.
_HIDING: Final = r"\\/|\\u00[2-7]"
_may_hide: Final = Gate(_HIDING)
_may_be_secret_json: Final = Gate(rf"{SECRETS}|{_HIDING}")
_ESCAPE: Final = re.compile(r"\\(?:u(00[2-7][0-9A-Fa-f])|(.))", re.DOTALL)
# Beside what any text may hold: the marks that a form escapes, where a rule needs them.
_may_be_secret_form: Final = Gate(
    rf"{SECRETS}|(?i:%3a%2f%2f|%(?:[46][1-9a-f]|5[0-9a]|7[0-9a])|%3d|%22|%27|\+bearer|\+basic)"
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
    content = live_values.mask(content, MASK)
    if not _may_be_secret_json(content):
        return mask_if_asked(content)
    plain = _ESCAPE.sub(_unescaped, content) if _may_hide(content) else content
    masked = text(plain)
    return content if masked == plain else masked


def _unescaped(match: re.Match[str]) -> str:
    number, letter = match.groups()
    if letter is not None:
        return "/" if letter == "/" else match[0]
    plain = chr(int(number, 16))
    return match[0] if plain in '"\\\x7f' else plain


def _form(content: str) -> str:
    content = live_values.mask(content, MASK)
    if not _may_be_secret_form(content):
        return mask_if_asked(content)
    pairs = content.split("&")
    grant = any(pair.startswith("grant_type=") for pair in pairs)
    return text("&".join(_pair(pair, grant=grant) for pair in pairs))


def _pair(pair: str, *, grant: bool) -> str:
    name, equals, value = pair.partition("=")
    plain_name = unquote_plus(name)
    if value and (is_sensitive(plain_name) or (grant and plain_name in {"code", "device_code"})):
        return f"{name}={MASK}"
    if "%" not in pair and "+" not in pair:
        return pair
    plain = unquote_plus(value)
    shown = text(plain)
    return f"{name}{equals}{shown}" if shown != plain else pair


def _cut(shown: str, limit: int) -> str:
    return shown if len(shown) <= limit else shown[:limit] + f"... ({len(shown)} characters)"
