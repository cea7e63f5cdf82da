"""What all e-mail services have in common: the message, its results, the operations, and what is told of it later.

An :class:`Email` checks itself when it is made: no line break can get into an address, a subject or a header.
"""

from __future__ import annotations

import mimetypes
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import parseaddr
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Protocol

from moorline.services.limits import at_most, encodable, plain, refused

if TYPE_CHECKING:
    from moorline.calls.call import Call
    from moorline.events.event import Event

__all__ = [
    "Address",
    "Attachment",
    "BatchSent",
    "Email",
    "EmailEvent",
    "EmailEventKind",
    "EmailService",
    "InboundEmail",
    "SentEmail",
    "SentTo",
    "check_batch",
]

_SPEC: Final = re.compile(r"[^@\s<>()\[\],;:\\\"]+@[^@\s<>()\[\],;:\\\"]*[^@\s<>()\[\],;:\\\".]")
_HEADER_NAME: Final = re.compile(r"[!-9;-~]+")
_WORDS: Final = re.compile(r"[^\W_]+(?: [^\W_]+)*")
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

    @property
    def mailbox(self) -> str:
        """As it stands in a header, ``Ada Lovelace <ada@example.com>``: a name with other than letters, figures and
        spaces in it is quoted (RFC 5322), so that a comma there makes no second address. Not encoded: services do that.
        """
        if not self.name:
            return self.email
        if _WORDS.fullmatch(self.name):
            return f"{self.name} <{self.email}>"
        quoted = self.name.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{quoted}" <{self.email}>'


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
    and is filled with *template_data*; without one, *subject* and *text* or *html* are needed. *personal* is for
    ``send_batch``: what fills the template besides, by the recipient's address.

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
    personal: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)

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
        personal: Mapping[str, Mapping[str, Any]] | None = None,
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
            "personal": {address: dict(data) for address, data in (personal or {}).items()},
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
        known = {address.email for address in self.to}
        for address in self.personal:
            if address not in known:
                raise refused("personal", f"{address[:80]!r} is not among the recipients")
        self._check_texts()

    def alone(self, address: Address) -> dict[str, Any]:
        """The template's data for one recipient of a batch. See ``personal``."""
        return {**self.template_data, **self.personal.get(address.email, {})}

    def _check_texts(self) -> None:
        for name in ("text", "html", "template"):
            if getattr(self, name) is not None:
                encodable(name, getattr(self, name))
        for name, value in self.headers.items():
            if not _HEADER_NAME.fullmatch(plain("headers", name)):
                raise refused("headers", f"{name[:40]!r} is not the name of a header")
            plain(f"headers[{name}]", value)
        for tag in self.tags:
            plain("tags", tag)
        for name, value in self.metadata.items():
            plain("metadata", name)
            encodable(f"metadata[{name}]", value)


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


@dataclass(frozen=True, slots=True)
class SentTo:
    """What became of one recipient's message of a batch: its *id*, or the provider's *code* and *message*."""

    recipient: Address
    id: str | None = None
    accepted: bool = True
    code: str | None = None
    message: str | None = None


@dataclass(frozen=True, slots=True)
class BatchSent:
    """One result for each recipient, in their order."""

    results: tuple[SentTo, ...]
    raw: Any = field(default=None, repr=False, compare=False)

    @property
    def failed(self) -> tuple[SentTo, ...]:
        """Those that the provider did not take."""
        return tuple(one for one in self.results if not one.accepted)


class EmailEventKind(StrEnum):
    """What happened to a message, in words that are the same for every provider."""

    ACCEPTED = "accepted"
    """The provider took it, and will try."""
    DELIVERED = "delivered"
    """The recipient's server took it."""
    DEFERRED = "deferred"
    """The recipient's server asked to try later; the provider does."""
    BOUNCED = "bounced"
    """The recipient's server refused it; see ``permanent``."""
    REJECTED = "rejected"
    """The provider did not even try: suppressed, invalid, refused by its rules."""
    COMPLAINED = "complained"
    """The recipient called it spam."""
    OPENED = "opened"
    CLICKED = "clicked"
    UNSUBSCRIBED = "unsubscribed"
    SUBSCRIBED = "subscribed"


@dataclass(frozen=True, slots=True)
class EmailEvent:
    """What a provider told of one message to one recipient.

    *message_id* is the id that ``send`` gave, where the provider repeats it. *permanent* is about bounces: True for an
    address that will never work (stop writing to it), False for a passing trouble, None where the provider does not
    say. *recipients* are all of them, for providers that tell of several at once; *recipient* is the first.
    *vendor_type* is the provider's own word, *raw* all that it told.
    """

    kind: EmailEventKind
    vendor_type: str
    recipient: str | None = None
    message_id: str | None = None
    at: datetime | None = None
    permanent: bool | None = None
    reason: str | None = None
    url: str | None = None
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    recipients: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.recipient is not None and not self.recipients:
            object.__setattr__(self, "recipients", (self.recipient,))


@dataclass(frozen=True, slots=True)
class InboundEmail:
    """A mail that came in. *text* and *html* are None where the provider does not send them along; *raw* says how to
    fetch them.
    """

    id: str
    sender: Address
    to: tuple[Address, ...]
    subject: str = ""
    text: str | None = field(default=None, repr=False)
    html: str | None = field(default=None, repr=False)
    cc: tuple[Address, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    attachments: tuple[Attachment, ...] = ()
    at: datetime | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


class EmailService(Protocol):
    """The operations that every e-mail service has."""

    def send(self, email: Email) -> Call[SentEmail]:
        """Hand the message over. Accepted is not delivered: bounces come later, as events."""
        ...

    def send_batch(self, email: Email) -> Call[BatchSent]:
        """Hand over one message for each address of *to*, who do not see one another: one request, one result each.

        What is personal in it comes from ``Email.personal`` and a template. *cc* and *bcc* would get every one of them,
        and are refused.
        """
        ...

    @classmethod
    def read_event(cls, event: Event) -> EmailEvent | InboundEmail | None:
        """What an event of this service means; None for one that has no common meaning."""
        ...


def check_batch(email: Email, most: int) -> None:
    """Raise InvalidRequest for what cannot be a batch: copies, one recipient twice, more than *most* of them."""
    for kind in ("cc", "bcc"):
        if getattr(email, kind):
            raise refused(kind, "would get a copy of each message of the batch")
    at_most("to", email.to, most, "recipients in a batch")
    seen: set[str] = set()
    for address in email.to:
        if address.email.lower() in seen:
            raise refused("to", f"{address.email} is there twice")
        seen.add(address.email.lower())
