"""``checked``: scopes as they come from a caller or a link."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from moorline.errors import ConfigurationError

__all__ = ["checked"]

_SCOPE: Final = re.compile(r"[!#-\[\]-~]{1,500}")  # RFC 6749, section 3.3
_MOST: Final = 100


def checked(scopes: Iterable[str]) -> frozenset[str]:
    """*scopes*, each as RFC 6749 has it, 100 at most; a text is several, with spaces. Raises ConfigurationError."""
    found = frozenset(scopes.split() if isinstance(scopes, str) else scopes)
    if len(found) > _MOST or not all(map(_is_scope, found)):
        raise ConfigurationError(f"scopes must be names without spaces, {_MOST} at most")
    return found


def _is_scope(value: object) -> bool:
    return isinstance(value, str) and _SCOPE.fullmatch(value) is not None
