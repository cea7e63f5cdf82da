"""What the stand-ins of services that watch have in common: bodies that come compressed, and what is no JSON."""

from __future__ import annotations

import json
import zlib
from typing import Any

from moorline.sandbox.standin import Answer, Ask

__all__ = ["Refused", "inflated", "read_json"]

_WINDOWS = {"gzip": 31, "deflate": 15}


class Refused(Exception):
    """The vendor's answer to what it does not take."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


def inflated(ask: Ask, most: int) -> bytes:
    """The body as it was before it was compressed.

    Raises ValueError with the reason: an unknown encoding, or what is not in it; OverflowError for more than *most*
    bytes.
    """
    named = ask.headers.get("content-encoding", "identity").lower()
    if named == "identity":
        body = ask.body
    elif named in _WINDOWS:
        reader = zlib.decompressobj(_WINDOWS[named])
        try:
            body = reader.decompress(ask.body, most + 1)
        except zlib.error as error:
            raise ValueError(f"the body is not {named}: {error}") from None
        if len(body) <= most and (not reader.eof or reader.unused_data):
            raise ValueError(f"the body is not whole {named}")
    else:
        raise ValueError(f"unknown content encoding {named!r}")
    if len(body) > most:
        raise OverflowError(f"more than {most} bytes")
    return body


def read_json(body: bytes) -> Any:
    """The body as JSON. Raises ValueError: for NaN and Infinity as well, which are none."""

    def refuse(word: str) -> Any:
        raise ValueError(f"{word} is no JSON")

    return json.loads(body, parse_constant=refuse)
