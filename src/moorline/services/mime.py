"""A whole message in MIME (RFC 5322, 2045 to 2047), for services that take one."""

from __future__ import annotations

from collections.abc import Iterable
from email.header import Header
from email.message import EmailMessage
from email.policy import SMTP
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from moorline.services.email.protocol import Attachment

__all__ = ["mime"]

_WRITTEN: Final = SMTP.clone(cte_type="7bit")
_LINE: Final = 78


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
