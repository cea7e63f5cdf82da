"""SendGrid's Inbound Parse: mail that comes in, as its parts or as the whole MIME.

Facts: twilio.com/docs/sendgrid/for-developers/parsing-email/inbound-email (and sendgrid/helpers/inbound in SendGrid's
own package); there is no contract.
"""

from __future__ import annotations

from email.parser import HeaderParser
from email.policy import compat32
from typing import TYPE_CHECKING, Any, Final

from moorline.errors import BadAnswer
from moorline.events.delivery import Delivers
from moorline.events.forms import FormFile, Part, decoded, parts
from moorline.events.schemes.shared_secret import SharedSecret
from moorline.events.sender import Sender
from moorline.services.email.protocol import Attachment, InboundEmail
from moorline.services.inbound import (
    attached,
    first_of_each,
    inbound,
    inbound_mime,
    mailboxes,
    objects,
    one_line,
    only,
    sender_of,
)
from moorline.services.mime import read_mime

if TYPE_CHECKING:
    from collections.abc import Mapping

    from moorline.events.event import Event

__all__ = ["SendGridInbound"]

_LARGEST: Final = 32 * 1024 * 1024
"""Bytes of a form: a mail has 30 MB at most, with its files, and the form's own lines come on top."""


class SendGridInbound(Sender):
    """Mail that comes in by SendGrid's Inbound Parse, parsed or with *POST the raw, full MIME message* switched on.

    It is not signed: the address that you give SendGrid shows the secret, at the end of its path
    (``https://…/webhooks/sendgrid_inbound/<secret>``) or as ``user:password@``. (SendGrid has newer security policies,
    with signatures or OAuth: unconfirmed, and not read here.) SendGrid follows no redirects.

    ``read_event`` gives the mail. All events have the type ``received``. SendGrid gives them no id: they are known by a
    digest, so that the same bytes again are a duplicate; whether a retry has the same bytes is unconfirmed.

    Facts: twilio.com/docs/sendgrid/for-developers/parsing-email/inbound-email
    """

    name, category = "sendgrid_inbound", "email"
    docs = "twilio.com/docs/sendgrid/for-developers/parsing-email/inbound-email"
    webhooks = SharedSecret(
        env="SENDGRID_INBOUND_SECRET",  # ours: the sender gives it no name
        type="=received",
        largest=_LARGEST,
        delivers=Delivers(retries="after a 5xx, for 3 days; none after a 4xx"),
    )

    @classmethod
    def read_event(cls, event: Event) -> InboundEmail | None:
        """The mail; None for an event of another type. *to* and *cc* are of the mail's head; ``raw["envelope"]`` says,
        in JSON, which addresses it came for. ``raw`` also has what SendGrid found: ``dkim``, ``SPF``, ``spam_score``.

        Fields are read in the character sets that SendGrid names; *headers* has the first of those that come several
        times. Raises BadAnswer for one that names no sender, or has a field twice (a mail may hold what looks like
        another field), UnusableEvent for what is no form.
        """
        if event.type != "received":
            return None
        fields = parts(event.body, event.headers.get("content-type", ""))
        told = _read(fields)
        envelope = objects(told, "envelope")
        sender, to = _texts(envelope.get("from")), _texts(envelope.get("to"))
        whole = next((one.content for one in fields if one.name == "email"), None)
        if whole is not None:
            return inbound_mime(event, read_mime(whole), raw=told, sender=sender, to=to)
        return inbound(
            event,
            raw=told,
            sender=sender_of(only(told, "from"), sender),
            to=mailboxes(only(told, "to")) or mailboxes(to),
            subject=one_line(only(told, "subject")),
            text=only(told, "text") or None,
            html=only(told, "html") or None,
            cc=mailboxes(only(told, "cc")),
            headers=first_of_each(HeaderParser(policy=compat32).parsestr(only(told, "headers")).items()),
            attachments=_attachments(told),
        )


def _read(fields: list[Part]) -> dict[str, Any]:
    """The fields by their names, texts in the character sets that the field ``charsets`` names."""
    found = {one.name: one for one in fields}
    if len(found) != len(fields):
        raise BadAnswer("the form has a field twice")
    charsets = objects({name: one.value for name, one in found.items() if name == "charsets"}, "charsets")
    named = {name: charset for name, charset in charsets.items() if isinstance(charset, str)}
    return {
        name: decoded(one.content, named.get(name) or one.charset) if one.filename is None else one.value
        for name, one in found.items()
    }


def _texts(value: object) -> str:
    """The addresses of the envelope, as a header has them."""
    several = value if isinstance(value, list) else [value]
    return ", ".join([one for one in several if isinstance(one, str)])


def _attachments(told: Mapping[str, Any]) -> tuple[Attachment, ...]:
    info = objects(told, "attachment-info")
    found = []
    for name, file in told.items():
        if isinstance(file, FormFile):
            said = info.get(name)
            about = said if isinstance(said, dict) else {}
            found.append(
                attached(
                    name,
                    file,
                    filename=about.get("filename") or about.get("name"),
                    media=about.get("type"),
                    content_id=about.get("content-id"),
                )
            )
    return tuple(found)
