"""Mailgun's Routes: mail that comes in, as ``forward()`` and ``store(notify=…)`` post it.

Facts: documentation.mailgun.com/docs/mailgun/user-manual/receive-forward-store/receive-http and store-retrieve; there
is no contract.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from moorline.events.delivery import Delivers
from moorline.events.forms import FormFile, Part, parts, values
from moorline.events.schemes.signed_token import SignedToken
from moorline.events.sender import Sender
from moorline.services.answers import record
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

__all__ = ["MailgunInbound"]

_LARGEST: Final = 40 * 1024 * 1024
"""Bytes of a form: a mail has 25 MB at most, and a form without files writes some letters with three."""


class MailgunInbound(Sender):
    """Mail that comes in by Mailgun's Routes: ``forward("https://…/webhooks/mailgun_inbound")``, or ``store(notify=…)``
    with the same address. For the whole MIME in place of its parts the address must end in ``mime``:
    ``…/webhooks/mailgun_inbound?as=mime`` (unconfirmed: that an end in the query is one).

    ``read_event`` gives the mail. All events have the type ``received``. Their id is the recipient and the mail's
    Message-Id, so that a mail to two of your addresses is two events; one without a Message-Id has a digest. A mail
    whose id came to the same address in the 12 hours before is taken for a retry of that.

    Mailgun signs a token and the time by the webhook signing key, and not the mail: whoever can read your webhooks on
    their way can change them. Mails of *store* are kept by Mailgun, with their files, for 3 days (an older page:
    up to 7, by plan).

    Facts: documentation.mailgun.com/docs/mailgun/user-manual/receive-forward-store
    """

    name, category = "mailgun_inbound", "email"
    docs = "documentation.mailgun.com/docs/mailgun/user-manual/receive-forward-store"
    webhooks = SignedToken(
        within="",
        forms=True,
        # Unconfirmed, as with Mailgun's events: that a delivery which is tried again has a new token and time.
        once="token",
        once_for=12 * 3600.0,  # its tries take 8 h
        env="MAILGUN_WEBHOOK_SIGNING_KEY",
        id=("recipient", "Message-Id|Message-ID|message-id"),
        type="=received",
        lacking="digest",
        largest=_LARGEST,
        delivers=Delivers(retries="after 10, 15, 30 min, 1, 2 and 4 h, for 8 h; none after a 406"),
    )

    @classmethod
    def read_event(cls, event: Event) -> InboundEmail | None:
        """The mail; None for an event of another type. *to* and *cc* are of the mail's head; ``raw["recipient"]`` is
        the address that it came for, ``raw["sender"]`` the envelope's sender.

        *headers* has the first of those that come several times; all are in ``raw["message-headers"]``. Of *store*
        there are no attachments: ``raw["attachments"]`` and ``raw["message-url"]`` say where Mailgun keeps them.
        Raises BadAnswer for one that names no sender, UnusableEvent for what is no form.
        """
        if event.type != "received":
            return None
        fields, told = _fields(event)
        envelope = {"sender": only(told, "sender"), "to": only(told, "recipient")}
        whole = next((one.content for one in fields if one.name == "body-mime"), None)
        if whole is not None:
            return inbound_mime(event, read_mime(whole), raw=told, **envelope)
        return inbound(
            event,
            raw=told,
            sender=sender_of(only(told, "from"), only(told, "From"), envelope["sender"]),
            to=mailboxes(only(told, "To")) or mailboxes(envelope["to"]),
            subject=one_line(only(told, "subject") or only(told, "Subject")),
            text=only(told, "body-plain") or None,
            html=only(told, "body-html") or None,
            cc=mailboxes(only(told, "Cc")),
            headers=first_of_each(_headers(told)),
            attachments=_attachments(told),
        )


def _fields(event: Event) -> tuple[list[Part], Mapping[str, Any]]:
    """The fields as bytes, and by their names; none as bytes where the body is JSON, as a sandbox may send it."""
    if event.body.startswith(b"{"):
        return [], record(event.payload, "the event")
    fields = parts(event.body, event.headers.get("content-type", ""))
    return fields, values(fields)


def _headers(told: Mapping[str, Any]) -> list[tuple[object, object]]:
    try:
        found = json.loads(only(told, "message-headers"))
    except (ValueError, RecursionError):
        return []
    return (
        [(one[0], one[1]) for one in found if isinstance(one, list) and len(one) == 2]
        if isinstance(found, list)
        else []
    )


def _attachments(told: Mapping[str, Any]) -> tuple[Attachment, ...]:
    shown = {name: cid for cid, name in objects(told, "content-id-map").items() if isinstance(name, str)}
    found = [(name, one) for name, one in told.items() if name.startswith("attachment-") and isinstance(one, FormFile)]
    return tuple([attached(name, one, filename=None, media=None, content_id=shown.get(name)) for name, one in found])
