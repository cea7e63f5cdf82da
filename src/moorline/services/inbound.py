"""What a mail that came in says of itself, read without trust: anybody may write mail, and anything into its head."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from email.errors import HeaderParseError
from email.header import decode_header
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from moorline.errors import BadAnswer, InvalidRequest
from moorline.events.forms import FormFile, decoded
from moorline.services.email.protocol import Address, Attachment, InboundEmail

if TYPE_CHECKING:
    from moorline.events.event import Event
    from moorline.services.mime import ReadMime

__all__ = [
    "attached",
    "first_of_each",
    "inbound",
    "inbound_mime",
    "mailboxes",
    "objects",
    "one_line",
    "only",
    "sender_of",
]

_UNSEEN: Final = re.compile(r"[\x00-\x20\x7f-\xa0\u2028\u2029\ud800-\udfff]+")
_PIECE: Final = re.compile(r'"(?:[^"\\]|\\.)*"?|[,;]|[^",;]+')
_NAMED: Final = re.compile(r'((?:"(?:[^"\\]|\\.)*"|[^<>"])*)<([^<>]*)>\s*(?:\(.*)?')
_QUOTED: Final = re.compile(r'"((?:[^"\\]|\\.)*)"')
_ESCAPED: Final = re.compile(r"\\(.)")
_MOST_ADDRESSES: Final = 1000
_MOST_HEADERS: Final = 1000
_LONGEST: Final = 16 * 1024  # characters of a header that is looked into


def one_line(text: str) -> str:
    """A header's text as people read it: encoded words decoded, no line break or control character in it."""
    if "=?" in text and len(text) <= _LONGEST:
        try:
            found = [(one.encode("utf-8", "replace") if isinstance(one, str) else one, charset or "")
                     for one, charset in decode_header(text)]  # fmt: skip
            text = "".join([decoded(content, charset) for content, charset in found])
        except (HeaderParseError, ValueError):
            pass
    return _UNSEEN.sub(" ", text).strip()


def mailboxes(text: str) -> tuple[Address, ...]:
    """The addresses of a header such as ``To``; what is none is left out.

    Not by ``email.utils``: by its version one strange entry costs all the others, or is taken for another address.
    """
    found = []
    for entry in _entries(_UNSEEN.sub(" ", text[:_LONGEST]))[:_MOST_ADDRESSES]:
        named = _NAMED.fullmatch(entry)
        name, email = (named[1], named[2]) if named else ("", entry.partition("(")[0].rpartition(":")[2])
        name = _QUOTED.sub(lambda quoted: _ESCAPED.sub(r"\1", quoted[1]), name)
        try:
            found.append(Address(email.strip(), one_line(name) or None))
        except InvalidRequest:
            continue
    return tuple(found)


def _entries(text: str) -> list[str]:
    """What stands between the commas (and the ends of groups), but for those in quoted names."""
    found = [""]
    for piece in _PIECE.findall(text):
        if piece in ",;":
            found.append("")
        else:
            found[-1] += piece
    return found


def only(payload: Mapping[str, Any], name: str) -> str:
    """The text of a field, the first of several; empty where there is none."""
    value = payload.get(name)
    if isinstance(value, list):
        value = next((one for one in value if isinstance(one, str)), "")
    return value if isinstance(value, str) else ""


def objects(payload: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The JSON object in a field's text; an empty one where there is none."""
    try:
        found = json.loads(only(payload, name))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def sender_of(*places: str) -> Address:
    """Who wrote it: the first address in the first of those texts that has one. Raises BadAnswer."""
    found = next(filter(None, map(mailboxes, places)), None)
    if found is None:
        raise BadAnswer("the mail names no sender that is an address")
    return found[0]


def attached(field: str, file: FormFile, *, filename: object, media: object, content_id: object) -> Attachment:
    """A file of the form: by the name and the type that the sender tells beside it, if any, else by the file's own."""
    names = [one_line(one) for one in (filename, file.filename) if isinstance(one, str)]
    kinds = [one_line(one) for one in (media, file.media) if isinstance(one, str)]
    cid = one_line(content_id).strip("<>") if isinstance(content_id, str) else ""
    return Attachment(
        next(filter(None, names), field), file.content, next(filter(None, kinds), None), content_id=cid or None
    )


def first_of_each(headers: Iterable[tuple[object, object]]) -> dict[str, str]:
    """The headers by their names as they stand there; of one that comes several times the first: the newest."""
    found: dict[str, str] = {}
    for name, value in islice(headers, _MOST_HEADERS):
        if isinstance(name, str) and isinstance(value, str):
            found.setdefault(_UNSEEN.sub(" ", name).strip(), one_line(value))
    return found


def inbound(
    event: Event, *, raw: Mapping[str, Any], sender: Address, to: tuple[Address, ...], **more: Any
) -> InboundEmail:
    """The mail of an event, whose id it has."""
    moment = event.timestamp or event.received_at
    return InboundEmail(
        event.id, sender, to, at=datetime.fromtimestamp(moment, UTC) if moment else None, raw=raw, **more
    )


def inbound_mime(event: Event, mail: ReadMime, *, raw: Mapping[str, Any], sender: str, to: str) -> InboundEmail:
    """The mail of an event that holds it as MIME; *sender* and *to* are of its envelope, for a head without them."""
    return inbound(
        event,
        raw=raw,
        sender=mail.sender or sender_of(sender),
        to=mail.to or mailboxes(to),
        subject=mail.subject,
        text=mail.text,
        html=mail.html,
        cc=mail.cc,
        headers=mail.headers,
        attachments=mail.attachments,
    )
