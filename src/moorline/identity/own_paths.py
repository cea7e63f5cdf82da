"""``own_path``: where a user may be sent after signing in: to a path of this application, however it is spelled."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote

from moorline.errors import ConfigurationError

__all__ = ["own_path"]

_LONGEST: Final = 2000
_ROUNDS: Final = 5  # of decoding; what is encoded more often is no path of anybody's
_PATH: Final = re.compile(
    r"/[!#-;=?-\[\]_a-z~]*"
)  # RFC 3986's characters and brackets: no control, space, quote, \, <, >, ^, `, {, |, }


def own_path(text: str) -> str:
    r"""*text*, if it is a path of this application, with its query: ``/basket?open=1``.

    Browsers take ``//host``, ``/\host``, and both with tabs or line ends in between, for other hosts; so may who
    decodes it once more. Raises ConfigurationError for all of them, and for what is not ASCII.
    """
    if len(text) > _LONGEST or not _PATH.fullmatch(text):
        raise ConfigurationError("next must be a path of this application, such as /basket?open=1")
    seen = text
    for _ in range(_ROUNDS):
        if not _stays(seen):
            break
        decoded = unquote(seen, errors="replace")
        if decoded == seen:
            return text
        seen = decoded
    raise ConfigurationError("next must be a path of this application, such as /basket?open=1")


def _stays(text: str) -> bool:
    path = re.split(r"[?#]", text, maxsplit=1)[0]
    return "\\" not in path and "//" not in path and not any(ord(one) < 0x20 or ord(one) == 0x7F for one in text)
