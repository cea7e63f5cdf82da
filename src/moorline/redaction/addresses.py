"""URLs, shown by default-deny."""

from __future__ import annotations

from moorline.redaction.plain import plain_url, text

__all__ = ["url"]


def url(address: str) -> str:
    """*address* without userinfo, with query and fragment values masked; the path is kept, secrets in it are not."""
    return text(plain_url(address))
