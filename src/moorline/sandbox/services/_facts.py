"""What the stand-ins of analytics services share: reading a body, plain or compressed, and keeping each event once."""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from typing import Any

from moorline.errors import ConfigurationError
from moorline.sandbox.standin import Answer, Ask, Emission, Signed

__all__ = ["Ledger", "NoWebhooks", "TooLarge", "basic_pair", "read_json"]

_MOST = 32 * 1024 * 1024


class TooLarge(Exception):
    """The body is larger than any vendor takes."""


class Ledger:
    """Events in the order of their arrival, each once."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.duplicates = 0
        self._seen: set[Any] = set()

    def add(self, event: dict[str, Any], key: Any) -> bool:
        """Keep *event*, unless one of that *key* was kept; without a key (None) it always is."""
        if key is not None and key in self._seen:
            self.duplicates += 1
            return False
        self._seen.add(key)
        self.events.append(event)
        return True


class NoWebhooks:
    """The half of a stand-in that has none to send."""

    _vendor = ""

    def sample(self, event: str) -> bytes:
        """It sends none."""
        raise ConfigurationError(f"'event': {self._vendor} sends no webhooks")

    def sign(self, emission: Emission, *, url: str, secrets: tuple[str, ...], hook_id: str, broken: bool) -> Signed:
        """It sends none."""
        raise ConfigurationError(f"'service': {self._vendor} sends no webhooks")


def read_json(ask: Ask) -> tuple[Any, int]:
    """The body as JSON, decompressed where it says that it is compressed, and its size then.

    Raises ValueError for what is no JSON, and TooLarge.
    """
    body = ask.body
    if ask.headers.get("content-encoding") == "gzip":
        unpack = zlib.decompressobj(wbits=31)
        try:
            body = unpack.decompress(body, _MOST)
        except zlib.error:
            raise ValueError("not gzip") from None
        if unpack.unconsumed_tail:
            raise TooLarge
        if not unpack.eof:
            raise ValueError("cut off")
    try:
        return json.loads(body), len(body)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def basic_pair(ask: Ask) -> tuple[str, str] | None:
    """User and password of Basic authentication, if there are any."""
    scheme, _, coded = ask.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, colon, password = base64.b64decode(coded, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return (user, password) if colon else None


def not_found(message: str = "Not Found") -> Answer:
    """404 as text."""
    return Answer(404, message.encode())
