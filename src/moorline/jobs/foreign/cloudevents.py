"""CloudEvents 1.0: the envelope read and written, structured (JSON) and binary. Pure, no I/O.

By the specification's core, its JSON format, and its bindings for AMQP (``cloudEvents_`` or ``cloudEvents:`` before the
name of an attribute) and Kafka (``ce_``); Redis and SQS have none, and the latter's is used for them.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from moorline.errors import InvalidArguments, PayloadMismatch
from moorline.jobs.foreign.message import JSON, Message, is_json, plain

__all__ = ["AMQP_PREFIX", "PREFIX", "STRUCTURED", "binary", "opened", "structured"]

STRUCTURED: Final = "application/cloudevents+json"
AMQP_PREFIX: Final = "cloudEvents_"
PREFIX: Final = "ce_"
_ENVELOPE: Final = f"{STRUCTURED}; charset=utf-8"
_FAMILY: Final = "application/cloudevents"
_PREFIXES: Final = (AMQP_PREFIX, "cloudEvents:", PREFIX, "ce-")
_NEEDED: Final = ("id", "source", "specversion", "type")
_OWN: Final = {*_NEEDED, "time", "datacontenttype", "data", "data_base64"}
_NAME: Final = re.compile(r"[a-z0-9]{1,100}")
_ATTRIBUTES: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])


def opened(message: Message) -> Message:
    """The event that *message* carries: its data and attributes; *message* itself if it carries none.

    Raises PayloadMismatch for an envelope that is broken, or of a version or format that is not known.
    """
    media = (message.content_type or "").partition(";")[0].strip().lower()
    if media == STRUCTURED:
        return _structured(message)
    if media.startswith(_FAMILY):
        raise PayloadMismatch(f"a CloudEvent of the format {media!r} cannot be read: {STRUCTURED} can")
    for prefix in _PREFIXES:
        said = {
            name[len(prefix) :].lower(): value for name, value in message.headers.items() if name.startswith(prefix)
        }
        if all(said.get(name) for name in _NEEDED) and str(said["specversion"]).startswith("1."):
            rest = {name: value for name, value in message.headers.items() if not name.startswith(prefix)}
            return _event(replace(message, headers=rest), said, message.body, message.content_type)
    return message


def _structured(message: Message) -> Message:
    try:
        parts = _ATTRIBUTES.decode(message.body)
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise PayloadMismatch("the envelope of the CloudEvent is not a JSON object") from None
    said = {name: _value(name, raw) for name, raw in parts.items() if name != "data"}
    said = {name: value for name, value in said.items() if value is not None}
    missing = [name for name in _NEEDED if not (isinstance(said.get(name), str) and said[name])]
    if missing:
        raise PayloadMismatch(f"the CloudEvent has no {missing[0]}")
    if not said["specversion"].startswith("1."):
        raise PayloadMismatch("the CloudEvent is of another version than 1.0")
    content_type = said.get("datacontenttype")
    if not isinstance(content_type, str | None):
        raise PayloadMismatch("datacontenttype of the CloudEvent is no text")
    if "data_base64" in said:
        try:
            body = base64.b64decode(said["data_base64"], validate=True)
        except (ValueError, TypeError):
            raise PayloadMismatch("data_base64 of the CloudEvent is not base64") from None
    elif "data" not in parts:
        body = b""
    elif content_type is None or is_json(content_type):
        body, content_type = bytes(parts["data"]), content_type or JSON
    else:
        text = _value("data", parts["data"])
        if not isinstance(text, str):
            raise PayloadMismatch(f"data of the CloudEvent is not JSON by its type {content_type!r}, and no text")
        body = text.encode("utf-8", "surrogatepass")
    return _event(message, said, body, content_type)


def _value(name: str, raw: msgspec.Raw) -> Any:
    try:
        return json.loads(bytes(raw))
    except (ValueError, RecursionError):
        raise PayloadMismatch(f"{name[:50]!r} of the CloudEvent cannot be read") from None


def _event(message: Message, said: Mapping[str, Any], body: bytes, content_type: str | None) -> Message:
    return replace(
        message,
        body=body,
        id=str(said["id"]),
        type=str(said["type"]),
        source=str(said["source"]),
        time=_seconds(said.get("time")),
        content_type=content_type,
        attributes={name: value for name, value in said.items() if name not in _OWN},
    )


def _seconds(said: object) -> float | None:
    try:
        at = datetime.fromisoformat(str(said).upper()) if said else None  # RFC 3339 has a small t and z, too
        return None if at is None else (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise PayloadMismatch("time of the CloudEvent is no time stamp") from None


def structured(message: Message) -> Message:
    """The event in a JSON envelope. Raises InvalidArguments naming what it lacks."""
    said: dict[str, Any] = dict(_said(message))
    if message.content_type is not None:
        said["datacontenttype"] = message.content_type
    data = b""
    if is_json(message.content_type) and message.body:
        try:
            msgspec.json.decode(message.body)
        except (msgspec.DecodeError, RecursionError):
            raise InvalidArguments(f"message: it is not JSON, as {message.content_type} says") from None
        data = b',"data":' + message.body
    elif message.body:
        said["data_base64"] = base64.b64encode(message.body).decode()
    envelope = json.dumps(said, ensure_ascii=False, separators=(",", ":")).encode()
    return replace(message, body=envelope[:-1] + data + b"}", content_type=_ENVELOPE, attributes={})


def binary(message: Message, prefix: str) -> Message:
    """The event with its attributes among the headers, after *prefix*. Raises InvalidArguments naming what it lacks."""
    said = {prefix + name: _canonical(value) for name, value in _said(message).items()}
    return replace(message, headers={**message.headers, **said}, attributes={})


def _said(message: Message) -> dict[str, Any]:
    said: dict[str, Any] = {"specversion": "1.0", "id": message.id, "source": message.source, "type": message.type}
    lacking = [name for name in _NEEDED if not said[name]]
    if lacking:
        raise InvalidArguments(f"{lacking[0]}: a CloudEvent needs one")
    if message.time is not None:
        try:
            said["time"] = plain(datetime.fromtimestamp(message.time, UTC))
        except (ValueError, OverflowError, OSError):
            raise InvalidArguments("time: it is no moment that a CloudEvent can name") from None
    for name, value in message.attributes.items():
        if name in _OWN or not _NAME.fullmatch(name):
            raise InvalidArguments(f"attributes: {name!r} is no further attribute (lower-case letters and digits)")
        if not isinstance(value, str | bool | int):
            raise InvalidArguments(f"attributes: {name} is neither a text nor a whole number nor a boolean")
        said[name] = value
    return said


def _canonical(value: object) -> str:
    """An attribute's value as the specification writes it as text."""
    return str(value).lower() if isinstance(value, bool) else str(value)
