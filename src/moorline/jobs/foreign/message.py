"""A message of a queue that others own, and how it is kept as the payload of a job."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import UTC, date, datetime
from typing import Any, Final

import msgspec

from moorline.errors import InvalidArguments, PayloadMismatch
from moorline.texts import is_utf8

__all__ = ["BYTES", "JSON", "Message", "body_of", "checked", "is_json", "packed", "plain", "unpacked"]

JSON: Final = "application/json"
BYTES: Final = "application/octet-stream"
_LATER_THAN: Final = "the stored message is of a format that this version cannot read"
_TEXTS: Final = ("id", "type", "source", "content_type", "key")
_DEEPEST: Final = 100  # tables and lists in one another


@dataclass(frozen=True, slots=True, repr=False)
class Message:
    """What another program has sent, or is to get.

    - ``body``: the bytes; of a CloudEvent its data.
    - ``id``: the sender's (AMQP's ``message_id``, a CloudEvent's ``id``), else that of the server (SQS, a Redis
      stream), else None; ``type``, ``source``: as the sender says; ``time``: when it was sent, seconds since the epoch.
    - ``content_type``: the media type of the body, if it was said; ``key``: the routing key (AMQP), the group (SQS).
    - ``headers``: what came beside it, as JSON's values: bytes that are no text are base64.
    - ``attributes``: what else a CloudEvent says: ``subject``, ``dataschema`` and extensions.
    """

    body: bytes
    id: str | None = None
    type: str | None = None
    source: str | None = None
    time: float | None = None
    content_type: str | None = None
    key: str | None = None
    headers: Mapping[str, Any] = field(default_factory=dict, hash=False)
    attributes: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def json(self) -> Any:
        """The body as Python values. Raises PayloadMismatch when it is not JSON."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            raise PayloadMismatch("the body is not JSON") from None

    def __repr__(self) -> str:
        # Neither body nor headers: both may hold what a log must not.
        return f"Message({self.id!r}, {self.type!r}, {len(self.body)} bytes)"


def is_json(content_type: str | None) -> bool:
    """Whether that media type is JSON, by its name."""
    media = (content_type or "").partition(";")[0].strip().lower()
    return media.endswith(("/json", "+json"))


def body_of(value: object) -> tuple[bytes, str]:
    """What is sent for *value* and its media type: bytes as they are, all else as JSON.

    Raises InvalidArguments for what JSON has no place for.
    """
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value), BYTES
    try:
        if hasattr(value, "__struct_fields__"):
            return msgspec.json.encode(value), JSON
        if is_dataclass(value) or hasattr(value, "__pydantic_serializer__"):
            return _by_pydantic(value), JSON
        return json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode(), JSON
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidArguments(f"message: it cannot be sent as JSON: {type(error).__name__}") from None


def _by_pydantic(value: Any) -> bytes:
    from pydantic import TypeAdapter

    return TypeAdapter(type(value)).dump_json(value, by_alias=True)


def plain(value: object, depth: int = _DEEPEST) -> Any:
    """A header's value as one of JSON's; what is nested deeper than *depth* is None."""
    if isinstance(value, bytes | bytearray):
        try:
            return bytes(value).decode()
        except UnicodeDecodeError:
            return base64.b64encode(value).decode()
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, Mapping):
        return {str(plain(name)): plain(one, depth - 1) for name, one in value.items()} if depth else None
    if isinstance(value, list | tuple):
        return [plain(one, depth - 1) for one in value] if depth else None
    if value is None or isinstance(value, bool | int | str):
        return int(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else str(value)  # noqa: PLR0124 -- NaN
    return value.isoformat() if isinstance(value, date) else str(value)


def checked(message: Message) -> None:
    """Raises InvalidArguments naming what of a message to be sent is no text, or no time."""
    for name in _TEXTS:
        value = getattr(message, name)
        if value is None:
            continue
        if not isinstance(value, str):
            raise InvalidArguments(f"{name}: expected a text, got {type(value).__name__}")
        if not is_utf8(value):
            raise InvalidArguments(f"{name}: it has half of a character, which no other program can read")
    time: object = message.time
    if not (time is None or (isinstance(time, int | float) and not isinstance(time, bool) and math.isfinite(time))):
        raise InvalidArguments(f"time: expected seconds since the epoch, got {type(time).__name__}")


def packed(message: Message, **beside: Any) -> bytes:
    """As JSON that people can read, the body's bytes exactly; *beside* stands next to it.

    Raises InvalidArguments for headers that JSON has no place for.
    """
    said: dict[str, Any] = {"v": 1, **beside}
    for one in fields(message):
        value = getattr(message, one.name)
        if one.name != "body" and value is not None and value != {}:
            said[one.name] = value
    try:
        said["text"] = message.body.decode()
    except UnicodeDecodeError:
        said["base64"] = base64.b64encode(message.body).decode()
    try:
        text = json.dumps(said, ensure_ascii=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidArguments(f"headers: a job keeps them as JSON: {type(error).__name__}") from None
    return text.encode("utf-8", "backslashreplace")


def unpacked(payload: bytes) -> tuple[Message, dict[str, Any]]:
    """What ``packed`` was given. Raises PayloadMismatch for what is none."""
    try:
        said = json.loads(payload)
        if not isinstance(said, dict) or said.pop("v", None) != 1:
            raise PayloadMismatch(_LATER_THAN)
        body = said.pop("text").encode() if "text" in said else base64.b64decode(said.pop("base64"), validate=True)
        texts = {name: said.pop(name, None) for name in _TEXTS}
        time = said.pop("time", None)
        headers, attributes = said.pop("headers", {}), said.pop("attributes", {})
        if not all(isinstance(text, str | None) for text in texts.values()):
            raise PayloadMismatch("the stored message has an id, type, source, key or content type that is no text")
    except (ValueError, KeyError, AttributeError, TypeError):
        raise PayloadMismatch(_LATER_THAN) from None
    return Message(body, **texts, time=time, headers=headers, attributes=attributes), said
