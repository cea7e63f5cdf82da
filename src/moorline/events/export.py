"""A stored event as a JSON document, to be kept as a test fixture; and back. ``moorline.testing`` reads it.

Headers are as they were stored: credentials masked, signatures as they came (they open nothing without the secret).
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any, Final
from urllib.parse import quote_plus

from moorline import redaction
from moorline.errors import ConfigurationError, UnusableEvent
from moorline.events.body import document, parsed
from moorline.events.event import Event

__all__ = ["FORMAT", "exported", "imported"]

FORMAT: Final = "moorline/event/1"

_DEPTH: Final = 64  # a payload is to stay usable: nothing but secrets is taken out of it
_FORM: Final = b"payload="


def exported(event: Event, *, redact: bool = False) -> dict[str, Any]:
    """The document. With ``redact`` secrets in headers and body are masked; the body is written anew: other bytes.

    Raises EventPruned for an event whose body is no longer kept.
    """
    if event.pruned:
        _ = event.payload  # says so
    body = _redacted(event) if redact else event.body
    written = {
        "format": FORMAT,
        "service": event.service,
        "id": event.id,
        "type": event.type,
        "action": event.action,
        "method": "POST",
        "received_at": event.received_at,
        "signed_at": event.timestamp,
        "headers": redaction.headers(event.headers) if redact else dict(event.headers),
    }
    try:
        return {**written, "body": body.decode("utf-8")}
    except UnicodeDecodeError:
        return {**written, "body_base64": base64.b64encode(body).decode()}


def imported(written: object) -> Event:
    """The event that was *written*; it is stored nowhere. Raises ConfigurationError that names what is wrong."""
    if not isinstance(written, dict) or written.get("format") != FORMAT:
        raise ConfigurationError(f"not an event exported by moorline: its format is not {FORMAT!r}")
    for name in ("service", "id", "type"):
        if not isinstance(written.get(name), str):
            raise ConfigurationError(f"{name}: expected a text, got {written.get(name)!r}")
    headers = written.get("headers")
    if not isinstance(headers, dict) or not all(isinstance(value, str) for value in headers.values()):
        raise ConfigurationError("headers: expected names and texts")
    return Event(
        service=written["service"],
        id=written["id"],
        type=written["type"],
        action=written.get("action"),
        body=_body(written),
        headers=headers,
        received_at=float(written.get("received_at") or 0.0),
        timestamp=written.get("signed_at"),
    )


def _body(written: dict[str, Any]) -> bytes:
    text, encoded = written.get("body"), written.get("body_base64")
    if isinstance(text, str):
        return text.encode()
    try:
        return base64.b64decode(encoded, validate=True) if isinstance(encoded, str) else _no_body()
    except binascii.Error:
        raise ConfigurationError("body_base64: not base64") from None


def _no_body() -> bytes:
    raise ConfigurationError("body: expected a text, or body_base64")


def _redacted(event: Event) -> bytes:
    """The body with its secrets masked: JSON and forms by name, all else by what secrets look like."""
    try:
        payload = parsed(event.body)
    except UnusableEvent:
        kind = event.headers.get("content-type", "text/plain")
        return redaction.body(event.body, kind, limit=max(len(event.body) * 4, 1)).encode()
    text = json.dumps(redaction.data(payload, depth=_DEPTH), ensure_ascii=False, separators=(",", ":"))
    shown = text.encode("utf-8", "surrogatepass")
    return shown if document(event.body) is event.body else _FORM + quote_plus(shown).encode()
