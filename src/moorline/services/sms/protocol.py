"""What all SMS services have in common: the message, how it is counted, the results, and what is told of it later.

An :class:`SMS` checks itself when it is made: numbers are E.164 by the numbering plans that ``phonenumbers`` knows (the
extra ``sms``), and the text is counted as the networks do.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from moorline.errors import ConfigurationError
from moorline.services.limits import as_text, encodable, plain, refused

if TYPE_CHECKING:
    from moorline.calls.call import Call
    from moorline.events.event import Event

__all__ = [
    "SMS",
    "InboundSMS",
    "SMSEvent",
    "SMSService",
    "SMSStatus",
    "Segments",
    "SentSMS",
    "international",
    "phone_number",
    "segments",
]

# 3GPP TS 23.038, tables 6.2.1 and 6.2.1.1: one septet each, and those behind an escape, which are two.
_BASIC: Final = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿"
    "abcdefghijklmnopqrstuvwxyzäöñüà"
)
_ESCAPED: Final = frozenset("\f^{}\\[~]|€")
_ALONE: Final = {"GSM-7": 160, "UCS-2": 70}
_JOINED: Final = {"GSM-7": 153, "UCS-2": 67}  # a header of 6 bytes says which part it is
_NUMBER: Final = re.compile(r"\+[1-9][0-9]{6,14}")
_BARE: Final = re.compile(r"[1-9][0-9]{6,14}")


@dataclass(frozen=True, slots=True)
class Segments:
    """How a text travels: its *encoding*, its length in *units* (septets, or UTF-16 code units), and in how many parts,
    each of which is paid for.
    """

    encoding: Literal["GSM-7", "UCS-2"]
    units: int
    count: int


def segments(text: str) -> Segments:
    """Count *text* as networks do. One letter outside of GSM-7 (an emoji, a curly quote) makes the whole UCS-2.

    A character of two units is never divided between two parts. Source: 3GPP TS 23.038 and 23.040.
    """
    if all(letter in _BASIC or letter in _ESCAPED for letter in text):
        encoding: Literal["GSM-7", "UCS-2"] = "GSM-7"
        sizes = [2 if letter in _ESCAPED else 1 for letter in text]
    else:
        encoding, sizes = "UCS-2", [2 if ord(letter) > 0xFFFF else 1 for letter in text]
    units = sum(sizes)
    if units <= _ALONE[encoding]:
        return Segments(encoding, units, 1)
    count, used, room = 1, 0, _JOINED[encoding]
    for size in sizes:
        if used + size > room:
            count, used = count + 1, 0
        used += size
    return Segments(encoding, units, count)


def phone_number(value: object, field: str = "to") -> str:
    """*value* itself, if it is a telephone number in E.164 (``+447700900000``) that a numbering plan allows.

    Spaces and national forms are refused: which country was meant is not ours to guess. Raises InvalidRequest, and
    ConfigurationError without ``phonenumbers``.
    """
    text = as_text(field, value)
    if not _NUMBER.fullmatch(text):
        raise refused(field, f"{text[:20]!r} is no number in E.164, such as +447700900000")
    try:
        import phonenumbers
    except ImportError as error:
        raise ConfigurationError("numbers are checked with phonenumbers; pip install 'moorline[sms]'") from error
    try:
        parsed = phonenumbers.parse(text, None)
    except phonenumbers.NumberParseException:
        raise refused(field, f"{text!r} is in no country's numbering plan") from None
    if not phonenumbers.is_possible_number(parsed):
        raise refused(field, f"{text!r} is too long or too short for its country")
    return text


def international(number: str) -> str:
    """*number* with the ``+`` that some providers leave out. A name or a short code stays as it is."""
    return f"+{number}" if _BARE.fullmatch(number) else number


@dataclass(frozen=True, slots=True)
class SMS:
    """One text message. *to* is E.164; *sender* a number, or a name where the provider and the country allow it, or
    None for the service's default. *callback* is where the provider reports what became of it, if that is said with
    each message. *reference* comes back in its events, where the provider repeats one.

    Raises InvalidRequest naming the field.
    """

    to: str
    text: str
    sender: str | None = None
    callback: str | None = None
    reference: str | None = None

    def __post_init__(self) -> None:
        phone_number(self.to, "to")
        if not encodable("text", self.text):
            raise refused("text", "must not be empty")
        if self.sender is not None:
            if not plain("sender", self.sender):
                raise refused("sender", "must not be empty")
            if self.sender.startswith("+"):
                phone_number(self.sender, "sender")
        if self.callback is not None and not plain("callback", self.callback).startswith(("https://", "http://")):
            raise refused("callback", "must be a URL")
        if self.reference is not None:
            plain("reference", self.reference)

    @property
    def segments(self) -> Segments:
        """How it is counted, and paid."""
        return segments(self.text)


class SMSStatus(StrEnum):
    """Where a message stands, in words that are the same for every provider."""

    QUEUED = "queued"
    """The provider took it."""
    SENT = "sent"
    """The network took it."""
    DELIVERED = "delivered"
    UNDELIVERED = "undelivered"
    """The network or the telephone refused it."""
    FAILED = "failed"
    """It was not sent."""
    CANCELED = "canceled"
    UNKNOWN = "unknown"
    """A state newer than this program; see ``vendor_status``."""


@dataclass(frozen=True, slots=True)
class SentSMS:
    """A message as the provider shows it. *segments* is its own count, where it gives one; *price* in its words."""

    id: str
    status: SMSStatus
    vendor_status: str
    to: str | None = None
    segments: int | None = None
    price: str | None = None
    error_code: str | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class SMSEvent:
    """What a provider told of a message that was sent. *error_code* is its own; *permanent* says of a failure whether
    this number will never work for us (stop writing to it), None where the provider does not say.
    """

    status: SMSStatus
    vendor_status: str
    message_id: str
    to: str | None = None
    error_code: str | None = None
    reason: str | None = None
    permanent: bool | None = None
    reference: str | None = None
    at: datetime | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class InboundSMS:
    """A message that came in. *media* are the addresses of pictures and the like."""

    id: str
    sender: str
    to: str
    text: str = field(repr=False)
    media: tuple[str, ...] = ()
    at: datetime | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


class SMSService(Protocol):
    """The operations that every SMS service has. Where the provider can say later what became of a message, there is
    ``get_message`` besides.
    """

    def send(self, sms: SMS) -> Call[SentSMS]:
        """Hand the message over. Accepted is not delivered."""
        ...

    @classmethod
    def read_event(cls, event: Event) -> SMSEvent | InboundSMS | None:
        """What an event of this service means; None for one that has no common meaning."""
        ...
