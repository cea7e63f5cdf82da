"""What texts can be."""

from __future__ import annotations

__all__ = ["is_utf8"]


def is_utf8(text: str) -> bool:
    """Whether it can be written down. Half of a surrogate pair cannot; so Python keeps bytes that it could not read."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
