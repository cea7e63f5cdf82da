"""How a job's body is written into a message of SQS, which holds text of some characters only, and 1 MiB of it.

JSON goes as it is, so that people can read it. What SQS does not take goes in base64. What is too large for a message
is an object in S3, and the message names it; only objects below our own prefix can be named. An object is deleted after
its message was. Those of messages that were never sent, or that SQS itself dropped, stay: give the bucket a rule that
deletes what is under ``PREFIX/`` after a month.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from typing import Any, Final
from uuid import uuid4

from moorline.errors import ConfigurationError, StoreError, StoreUnavailable
from moorline.jobs.brokers.sqs_link import Link, Refused
from moorline.telemetry import logger

__all__ = ["LARGEST", "Bodies"]

LARGEST: Final = 1_048_576  # bytes of one message, by the service model
_LARGEST_OBJECT: Final = 64 * 1_048_576
_BESIDE: Final = 1_024  # more than goes with a body in its message
_ENCODED: Final = "moorline:base64:"
_STORED: Final = "moorline:s3:"
# By the service model, of SendMessageBatch.
_ALLOWED: Final = re.compile("[\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]+")
_KEY: Final = re.compile(r"[0-9a-f]{32}")

log = logger("jobs")


class Bodies:
    """Bytes as text, and back."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._bucket = link.where.bucket
        self._prefix = link.where.prefix
        self.largest = (LARGEST if self._bucket is None else _LARGEST_OBJECT) - _BESIDE

    def texts(self, bodies: Sequence[bytes], beside: Sequence[int] = ()) -> list[str]:
        """What is sent instead; *beside* are the bytes that go with each in its message.

        Raises StoreError, before anything is stored, if one is too large.
        """
        texts = [_text(body) for body in bodies]
        more = beside or [0] * len(bodies)
        large = [place for place, text in enumerate(texts) if size(text) + more[place] > LARGEST]
        for place in large:
            self._check(len(bodies[place]))
        for place, text in zip(large, self._link.each(self._store, [bodies[place] for place in large]), strict=True):
            texts[place] = text
        return texts

    def _check(self, length: int) -> None:
        if self._bucket is None:
            raise StoreError(
                f"a job of {length:,} bytes: SQS takes {LARGEST:,}; give the queue's URL a bucket in S3 (?bucket=NAME)"
            )
        if length > _LARGEST_OBJECT:
            raise StoreError(f"a job of {length:,} bytes: at most {_LARGEST_OBJECT:,} are taken")

    def _store(self, body: bytes) -> str:
        name = uuid4().hex
        self._link.ask("put_object", by="s3", **self._object(name), Body=body, ContentType="application/json")
        return _STORED + name

    def _object(self, name: str) -> dict[str, Any]:
        return {"Bucket": self._bucket, "Key": f"{self._prefix}/{name}"}

    def read(self, text: str) -> tuple[bytes, str | None]:
        """The body, and the name of its object if it has one. Raises StoreUnavailable if it cannot be had now."""
        if text.startswith(_ENCODED):
            try:
                return base64.b64decode(text[len(_ENCODED) :], validate=True), None
            except (binascii.Error, ValueError):  # somebody else's
                return text.encode(), None
        name = text[len(_STORED) :]
        if not text.startswith(_STORED) or not _KEY.fullmatch(name):
            return text.encode(), None
        if self._bucket is None:
            raise StoreUnavailable("a job's body is in S3, and the queue's URL names no bucket")
        try:
            return self._fetched(name), name
        except Refused as refused:
            if refused.code in {"NoSuchKey", "404"}:
                return text.encode(), None  # gone: a dead letter that shows which one
            raise StoreUnavailable(str(refused)) from None
        except ConfigurationError as error:
            raise StoreUnavailable(str(error)) from None

    def _fetched(self, name: str) -> bytes:
        stream = self._link.ask("get_object", by="s3", **self._object(name))["Body"]
        try:
            body: bytes = stream.read(_LARGEST_OBJECT + 1)
        except Exception as error:  # noqa: BLE001 -- of botocore or urllib3
            raise StoreUnavailable(f"S3 broke off: {type(error).__name__}") from None
        finally:
            stream.close()
        if len(body) > _LARGEST_OBJECT:
            raise StoreUnavailable(f"an object in S3 has more than {_LARGEST_OBJECT:,} bytes")
        return body

    def drop(self, names: Sequence[str]) -> None:
        """Their messages are gone. An object that stays harms nobody."""
        for outcome in self._link.tried(self._delete, names):
            if isinstance(outcome, Exception):
                log.warning("job_body_left", error=str(outcome))

    def _delete(self, name: str) -> None:
        self._link.ask("delete_object", by="s3", **self._object(name))


def size(text: str) -> int:
    """In bytes, as SQS counts."""
    return len(text) if text.isascii() else len(text.encode())


def _text(body: bytes) -> str:
    try:
        text = body.decode()
    except UnicodeDecodeError:
        text = ""
    if _ALLOWED.fullmatch(text) and not text.startswith((_ENCODED, _STORED)):
        return text
    return _ENCODED + base64.b64encode(body).decode()
