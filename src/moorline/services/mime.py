"""A whole message in MIME (RFC 5322, 2045 to 2047), for services that take one, or hand one over."""

from __future__ import annotations

import email
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from email.header import Header
from email.message import EmailMessage, Message
from email.policy import SMTP, compat32
from typing import Any, Final

from moorline.services.email.protocol import Address, Attachment
from moorline.services.inbound import first_of_each, mailboxes, one_line

__all__ = ["ReadMime", "mime", "read_mime"]

_WRITTEN: Final = SMTP.clone(cte_type="7bit")
_LINE: Final = 78
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029/\\\\]+")
_PARTS: Final = 1000  # of a message, nested ones included; what is beyond them is left out


def mime(
    headers: Iterable[tuple[str, str]], text: str | None, html: str | None, attachments: Iterable[Attachment]
) -> bytes:
    """The message with these *headers*, lines ending in CR LF. Letters that are not ASCII are encoded, in headers too.

    Attachments with a content id belong to the html, which shows them.
    """
    message = EmailMessage(policy=_WRITTEN)
    if text or not html:
        message.set_content(text or "")
    if html and text:
        message.add_alternative(html, subtype="html")
    elif html:
        message.set_content(html, subtype="html")
    every = tuple(attachments)
    body = message.get_body(("html", "plain"))
    assert isinstance(body, EmailMessage)
    for one in every:
        if one.content_id is not None:
            shown: dict[str, Any] = {"filename": one.filename, "disposition": "inline", "cid": f"<{one.content_id}>"}
            body.add_related(one.content, *_kind(one), **shown)
    for one in every:
        if one.content_id is None:
            message.add_attachment(one.content, *_kind(one), filename=one.filename)
    lines = [f"{name}: {_folded(name, value)}\r\n" for name, value in headers]
    return "".join(lines).encode("ascii") + message.as_bytes()


def _kind(attachment: Attachment) -> tuple[str, str]:
    main, _, sub = attachment.media_type.partition(";")[0].strip().partition("/")
    return (main, sub) if main and sub else ("application", "octet-stream")


def _folded(name: str, value: str) -> str:
    """The value on lines of 78 characters. Not by EmailMessage: it loses spaces between encoded words, and makes some
    of an address without spaces (List-Unsubscribe) that is longer.
    """
    if not value.isascii():
        return Header(value, "utf-8", header_name=name).encode(linesep="\r\n")
    lines = [f"{name}:"]
    for word in value.split(" "):
        if word and len(lines[-1]) + 1 + len(word) > _LINE and lines[-1].strip() and len(lines[-1]) > len(name) + 1:
            lines.append("")
        lines[-1] += f" {word}"
    return "\r\n".join(lines)[len(name) + 2 :]


@dataclass(frozen=True, slots=True)
class ReadMime:
    """What a message holds. *text* and *html* are the first of each that is no attachment; of a header that comes
    several times *headers* has the first, which is the newest.
    """

    sender: Address | None
    to: tuple[Address, ...]
    cc: tuple[Address, ...]
    subject: str
    text: str | None = field(repr=False)
    html: str | None = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    attachments: tuple[Attachment, ...]


def read_mime(raw: bytes) -> ReadMime:
    """Read a message that anybody may have written: what is broken in it is left out or replaced, and nothing raises.

    Not by EmailMessage, whose parsers of headers raise on many a broken one.
    """
    message = email.message_from_bytes(raw, policy=compat32)
    headers = first_of_each((name, str(value)) for name, value in message.items())
    known = {name.lower(): value for name, value in headers.items()}
    bodies: dict[str, str] = {}
    attachments: list[Attachment] = []
    for number, part in enumerate(message.walk()):
        if number >= _PARTS:
            break
        if part.is_multipart():
            continue
        kind, name = part.get_content_type(), _file_name(part)
        if name is None and kind in ("text/plain", "text/html") and kind not in bodies:
            bodies[kind] = _text(part)
        elif name is not None or kind not in ("text/plain", "text/html"):
            attachments.append(_attachment(part, kind, name or f"attachment-{len(attachments) + 1}"))
    senders = mailboxes(known.get("from", ""))
    return ReadMime(
        senders[0] if senders else None,
        mailboxes(known.get("to", "")),
        mailboxes(known.get("cc", "")),
        " ".join(known.get("subject", "").split()),
        bodies.get("text/plain"),
        bodies.get("text/html"),
        headers,
        tuple(attachments),
    )


def _text(part: Message) -> str:
    payload = part.get_payload(decode=True)
    data = payload if isinstance(payload, bytes) else b""
    try:
        return data.decode(part.get_content_charset() or "utf-8", "replace")
    except LookupError:  # a charset that nobody knows
        return data.decode("utf-8", "replace")


def _file_name(part: Message) -> str | None:
    """What its author calls it, without folders; None for what is no file."""
    try:
        name = part.get_filename()
        disposition = part.get_content_disposition()
    except (LookupError, ValueError, TypeError, UnicodeError):
        name, disposition = None, None
    if name is None:
        return "attachment" if disposition == "attachment" else None
    last = re.split(r"[/\\]", one_line(name))[-1]
    return _CONTROL.sub("_", last).strip()[:255] or "attachment"


def _attachment(part: Message, kind: str, name: str) -> Attachment:
    payload = part.get_payload(decode=True)
    content_id = _CONTROL.sub("", str(part.get("Content-ID", ""))).strip().strip("<>")
    return Attachment(name, payload if isinstance(payload, bytes) else b"", kind, content_id or None)
