"""What all e-mail services have in common: the message, the result, and the operation.

An :class:`Email` checks itself when it is made: no line break can get into an address, a subject or a header.
"""

from __future__ import annotations

import mimetypes
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import parseaddr
from typing import TYPE_CHECKING, Any, Final, Protocol

from moorline.services.limits import as_text, plain, refused

if TYPE_CHECKING:
    from moorline.calls.call import Call

__all__ = ["Address", "Attachment", "Email", "EmailService", "SentEmail"]

_SPEC: Final = re.compile(r"[^@\s<>()\[\],;:\\\"]+@[^@\s<>()\[\],;:\\\"]*[^@\s<>()\[\],;:\\\".]")
_HEADER_NAME: Final = re.compile(r"[!-9;-~]+")
_MAX_ADDRESS: Final = 254


@dataclass(frozen=True, slots=True)
class Address:
    """One mailbox: *email* and, if wanted, the *name* that readers see (any language).

    Raises InvalidRequest for what is no address, or holds a line break.
    """

    email: str
    name: str | None = None

    def __post_init__(self) -> None:
        plain("email", self.email)
        if not _SPEC.fullmatch(self.email) or len(self.email) > _MAX_ADDRESS:
            raise refused("email", f"{self.email[:80]!r} is not an e-mail address")
        if self.name is not None:
            plain("name", self.name)

    @classmethod
    def of(cls, value: Address | str, field: str = "email") -> Address:
        """An Address from itself, ``"ada@example.com"`` or ``"Ada Lovelace <ada@example.com>"``."""
        if isinstance(value, Address):
            return value
        plain(field, value)
        if _SPEC.fullmatch(value):
            return cls(value)
        name, spec = parseaddr(value)
        if not spec or not value.rstrip().endswith(">"):
            raise refused(field, f"{value[:80]!r} is not an e-mail address")
        return cls(spec, name or None)


Recipients = Address | str | Sequence[Address | str]


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file. *type* is guessed from *filename* when None; a *content_id* makes it an inline image (``cid:``)."""

    filename: str
    content: bytes = field(repr=False)
    type: str | None = None
    content_id: str | None = None

    def __post_init__(self) -> None:
        if not plain("attachments.filename", self.filename):
            raise refused("attachments.filename", "must not be empty")
        if not isinstance(self.content, bytes):
            raise refused("attachments.content", f"must be bytes, not {type(self.content).__name__}")
        for name in ("type", "content_id"):
            value = getattr(self, name)
            if value is not None:
                plain(f"attachments.{name}", value)

    @property
    def media_type(self) -> str:
        """*type*, or the one that the file's name suggests."""
        return self.type or mimetypes.guess_type(self.filename)[0] or "application/octet-stream"


@dataclass(frozen=True, slots=True, init=False)
class Email:
    """One message. Addresses are given as Address or text, one or several; they are kept as tuples of Address.

    *sender* may be left to the service's default. *tags* group messages in the provider's statistics, *metadata* comes
    back in its events, *headers* go out with the mail. *send_at* needs a time zone. A *template* lives at the provider
    and is filled with *template_data*; without one, *subject* and *text* or *html* are needed.

    Raises InvalidRequest, naming the field, for what could not be sent anywhere: no recipient, no content, a broken
    address, a line break in a header.
    """

    to: tuple[Address, ...]
    subject: str = ""
    text: str | None = field(default=None, repr=False)
    html: str | None = field(default=None, repr=False)
    sender: Address | None = None
    cc: tuple[Address, ...] = ()
    bcc: tuple[Address, ...] = ()
    reply_to: tuple[Address, ...] = ()
    attachments: tuple[Attachment, ...] = ()
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    send_at: datetime | None = None
    template: str | None = None
    template_data: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __init__(
        self,
        to: Recipients,
        subject: str = "",
        text: str | None = None,
        html: str | None = None,
        *,
        sender: Address | str | None = None,
        cc: Recipients = (),
        bcc: Recipients = (),
        reply_to: Recipients = (),
        attachments: Iterable[Attachment] = (),
        tags: Iterable[str] = (),
        metadata: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        send_at: datetime | None = None,
        template: str | None = None,
        template_data: Mapping[str, Any] | None = None,
    ) -> None:
        values: dict[str, Any] = {
            "to": _addresses(to, "to"),
            "subject": subject,
            "text": text,
            "html": html,
            "sender": None if sender is None else Address.of(sender, "sender"),
            "cc": _addresses(cc, "cc"),
            "bcc": _addresses(bcc, "bcc"),
            "reply_to": _addresses(reply_to, "reply_to"),
            "attachments": tuple(attachments),
            "tags": (tags,) if isinstance(tags, str) else tuple(tags),
            "metadata": dict(metadata or {}),
            "headers": dict(headers or {}),
            "send_at": send_at,
            "template": template,
            "template_data": dict(template_data or {}),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)
        self.__post_init__()

    def __post_init__(self) -> None:
        """Check the whole; also called when a message comes back from a queue."""
        if not self.to:
            raise refused("to", "needs at least one recipient")
        plain("subject", self.subject)
        if self.template is None:
            if not self.subject:
                raise refused("subject", "is needed unless a template gives it")
            if not self.text and not self.html:
                raise refused("text", "or html is needed unless a template gives it")
        for attachment in self.attachments:
            if not isinstance(attachment, Attachment):
                raise refused("attachments", f"takes Attachment values, not {type(attachment).__name__}")
        if self.send_at is not None and self.send_at.tzinfo is None:
            raise refused("send_at", "needs a time zone")
        self._check_texts()

    def _check_texts(self) -> None:
        for name, value in self.headers.items():
            if not _HEADER_NAME.fullmatch(plain("headers", name)):
                raise refused("headers", f"{name[:40]!r} is not the name of a header")
            plain(f"headers[{name}]", value)
        for tag in self.tags:
            plain("tags", tag)
        for name, value in self.metadata.items():
            plain("metadata", name)
            as_text(f"metadata[{name}]", value)


def _addresses(value: Recipients, field: str) -> tuple[Address, ...]:
    if isinstance(value, Address | str):
        return (Address.of(value, field),)
    return tuple(Address.of(one, field) for one in value)


@dataclass(frozen=True, slots=True)
class SentEmail:
    """The provider took the message. *id* is None where it gives none; *accepted* is False for a mere validation."""

    id: str | None
    accepted: bool = True
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


class EmailService(Protocol):
    """The operation that every e-mail service has."""

    def send(self, email: Email) -> Call[SentEmail]:
        """Hand the message over. Accepted is not delivered: bounces come later, as events."""
        ...
