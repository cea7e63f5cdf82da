"""The JSON of Google's objects: what stands in requests, answers and errors. Facts: services/storage/gcs.md; contract:
gcs.json.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from moorline.calls.checksums import decoded, md5
from moorline.calls.exchange import Exchange
from moorline.calls.faults import ErrorMap
from moorline.errors import BadAnswer, CallError
from moorline.services.answers import moment, optional_text, record, text, texts
from moorline.services.storage.protocol import Entry, Head, Stored

__all__ = ["GoogleErrors", "entry_of", "head_of", "persisted", "related", "resource_of", "stored_of"]

_XML: Final = re.compile(r"<(Code|Message)>([^<]{0,500})</\1>")


@dataclass(frozen=True, slots=True)
class GoogleErrors(ErrorMap):
    """JSON, or, of what obstore asks for, XML as S3's or plain text. How far an upload got is said by a 308."""

    def data(self, exchange: Exchange) -> Any:
        """``code`` and ``message``; ``range`` of a 308; None for an error page of some proxy."""
        if exchange.status == 308:
            return {"code": "resumeIncomplete", "message": "more is wanted", "range": exchange.header("range") or ""}
        try:
            error = exchange.data["error"]
            reasons = error.get("errors") or [{}]
            return {"code": reasons[0].get("reason"), "message": error.get("message")}
        except (BadAnswer, TypeError, KeyError, AttributeError, IndexError):
            found = dict(_XML.findall(exchange.body[:5000].decode("utf-8", "replace")))
            return {name.lower(): value for name, value in found.items()} or None


def related(given: Mapping[str, Any], content: bytes, kind: str) -> tuple[bytes, str]:
    """``multipart/related``: the fields of the object, and its content."""
    fields = json.dumps(given, ensure_ascii=False, separators=(",", ":")).encode()
    boundary = f"moorline-{md5(fields + md5(content)).hex()}"
    line = f"--{boundary}\r\n".encode()
    head = b"Content-Type: application/json; charset=UTF-8\r\n\r\n"
    told = f"Content-Type: {kind}\r\n\r\n".encode()
    return b"".join((line, head, fields, b"\r\n", line, told, content, f"\r\n--{boundary}--\r\n".encode())), boundary


def persisted(error: CallError) -> int | None:
    """How many bytes are there, by a 308; 0 where it names none."""
    if error.status != 308 or not isinstance(error.detail, Mapping):
        return None
    found = re.fullmatch(r"bytes=0-([0-9]{1,18})", str(error.detail.get("range") or ""))
    return int(found[1]) + 1 if found else 0


def resource_of(exchange: Exchange) -> Mapping[str, Any]:
    """The object that an answer tells of."""
    return record(exchange.data)


def _size(row: Mapping[str, Any]) -> int:
    found = row.get("size")
    if isinstance(found, str) and found.isascii() and found.isdigit() and len(found) < 19:
        return int(found)
    raise BadAnswer("the answer does not say how long the object is")


def stored_of(key: str, resource: Any) -> Stored:
    """What an object's JSON says of the write that made it."""
    told = record(resource, "the object")
    generation = text(told, "generation")
    return Stored(key, optional_text(told, "etag"), generation, _size(told), match=generation, raw=told)


def head_of(key: str, resource: Any) -> Head:
    """What is known of an object, by its JSON."""
    told = record(resource, "the object")
    generation = text(told, "generation")
    known = {name: decoded(optional_text(told, field)) for name, field in (("md5", "md5Hash"), ("crc32c", "crc32c"))}
    return Head(
        key,
        _size(told),
        optional_text(told, "etag"),
        generation,
        moment(told, "updated"),
        optional_text(told, "contentType"),
        texts(told, "metadata"),
        {name: value for name, value in known.items() if value is not None},
        match=generation,
        raw=told,
    )


def entry_of(row: Mapping[str, Any]) -> Entry:
    """A line of a listing."""
    return Entry(text(row, "name"), _size(row), optional_text(row, "etag"), moment(row, "updated"), raw=row)
