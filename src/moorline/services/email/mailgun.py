"""Mailgun: send mail, and what it tells us of messages.

Facts: services/email/mailgun.md; contract: mailgun.json. Mailgun honours no idempotency keys: a call that was sent and
not answered is OutcomeUnknown, and is never repeated by itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any, ClassVar, Final

from moorline.calls.dialects import BasicKey
from moorline.calls.multipart import File, encode_multipart
from moorline.calls.service import Endpoints, ErrorMap, Exchange, Parameter, Plan, Service, hours, operation, segment
from moorline.errors import CallError
from moorline.events.delivery import Delivers
from moorline.events.schemes.signed_token import SignedToken
from moorline.services.answers import items, moment, optional_text, record, text
from moorline.services.email.protocol import (
    Attachment,
    BatchSent,
    Email,
    EmailEvent,
    EmailEventKind,
    SentEmail,
    SentTo,
    check_batch,
)
from moorline.services.limits import refused

if TYPE_CHECKING:
    from moorline.events.event import Event

__all__ = ["Mailgun"]

_RECIPIENTS: Final = 1000
_TAGS: Final = 10  # unconfirmed; the old manual says 3
_OPTIONS: Final = 16 * 1024  # bytes of all o:, h:, v: and t: together
_BYTES: Final = 25 * 1024 * 1024  # of the whole message
_KINDS: Final = {
    "accepted": EmailEventKind.ACCEPTED,
    "delivered": EmailEventKind.DELIVERED,
    "failed": EmailEventKind.BOUNCED,  # see ``_failed``
    "rejected": EmailEventKind.REJECTED,
    "complained": EmailEventKind.COMPLAINED,
    "opened": EmailEventKind.OPENED,
    "clicked": EmailEventKind.CLICKED,
    "unsubscribed": EmailEventKind.UNSUBSCRIBED,
}
_Fields = list[tuple[str, str | File]]


class Mailgun(Service):
    """E-mail by Mailgun, from the *domain* that the account has there. Domains of the EU: ``region="eu"``; a domain is
    in one region, and unknown (NotFound, or AuthenticationFailed) in the other.

    A domain has several sending keys, so a rotation is: create, switch, delete. They may send, and nothing else. The
    key that signs webhooks is another one, one for the whole account, and a new one replaces it at once.

    Mail that comes in by Routes is taken by MailgunInbound (``/webhooks/mailgun_inbound``). Mailgun signs a token and
    the time, and not the event: whoever can read your webhooks on their way can change them.

    Facts: services/email/mailgun.md; contract: mailgun.json.
    """

    name, category = "mailgun", "email"
    docs = "services/email/mailgun.md, mailgun.json"
    endpoints = Endpoints("https://api.mailgun.net", regions={"eu": "https://api.eu.mailgun.net"})
    credentials = BasicKey(env="MAILGUN_API_KEY", sandbox="key-sandbox", user="api")
    domain = Parameter("MAILGUN_DOMAIN", sandbox="mg.shop.example", like=r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?")
    errors = ErrorMap(  # no codes: a status and a text, and with 401 the text alone
        message="message",
        until=re.compile(r"try again after (\w{3}, \d{1,2} \w{3} \d{4} \d\d:\d\d:\d\d (?:[A-Z]{3}|[+-]\d{4}))"),
    )
    webhooks = SignedToken(
        within="signature",
        also=("parent-signature",),  # of a subaccount's events, by the primary account's key
        # Unconfirmed: that a delivery which is tried again has a new token and time. Mailgun's own package, which
        # refuses what is older than 15 min, relies on it.
        once="signature.token",
        once_for=hours(12),  # its tries take 8 h; its ids are unique in a day
        env="MAILGUN_WEBHOOK_SIGNING_KEY",
        id="event-data.id",  # unique in a day, not for ever (unconfirmed)
        type="event-data.event",
        action="event-data.severity",
        delivers=Delivers(retries="after 5, 10, 15 min, 1, 2 and 4 h (an older page: 10, 10, 15, 30 min, 1, 2, 4 h)"),
    )
    default_headers: ClassVar[Mapping[str, str]] = {"Accept": "application/json"}
    usage = """
from moorline.services import Mailgun
from moorline.services.email.protocol import Email

sent = Mailgun().send(Email("ada@customer.example", "Hello", "Welcome.", sender="Shop <shop@mg.shop.example>")).result()
print(sent.id)
"""

    @operation
    def send(self, /, email: Email, *, test_mode: bool = False, **extra: object) -> Plan[SentEmail]:
        """Hand one message over: all of *to*, *cc* and *bcc* get the same mail and see *to* and *cc*.

        With ``test_mode=True`` Mailgun accepts it and sends events, but delivers nothing. *metadata* comes back in
        events, *template_data* fills the template; the sender and the subject may be left to a template. An inline
        image is known by its *content_id*. *extra* are Mailgun's further fields by their names, True and False as
        ``yes`` and ``no``: ``**{"o:tracking": False}``. The id of the result is that of the events.

        Raises InvalidRequest, naming field and limit, before anything is sent: more than 1000 recipients, more than 10
        tags, options, headers, metadata and template data over 16 kB together, a message over 25 MB.
        """
        if email.template_data and email.template is None:
            raise refused("template_data", "needs a template: Mailgun fills it in nowhere else")
        return self._posted(email, _common(email, email.template_data), extra, test_mode=test_mode, parse=_sent)

    @operation
    def send_batch(self, /, email: Email, *, test_mode: bool = False, **extra: object) -> Plan[BatchSent]:
        """Hand over one message for each of *to*, up to 1000, who do not see one another: by Mailgun's recipient
        variables, which hold what is *personal* and stand in subject and text as ``%recipient.name%``.

        In a template it is ``{{name}}``, as all data is; Mailgun then tells it in its events too, among the metadata.
        Mailgun takes all or none, and gives one id for them all. Raises as ``send``, and InvalidRequest for *cc* and
        *bcc* and for metadata of the same name as something personal.
        """
        check_batch(email, _RECIPIENTS)
        people = {one.email: email.alone(one) for one in email.to}
        personal = {name for data in email.personal.values() for name in data}
        shared = {name: value for name, value in email.template_data.items() if name not in personal}
        # Without this field all would see all the addresses. Each has all names, as what is missing is not filled.
        blank = dict.fromkeys(sorted(personal), "")
        fields = [
            *_common(email, shared),
            ("recipient-variables", _json("personal", {k: blank | v for k, v in people.items()})),
        ]
        if email.template is not None:
            for name in blank:
                if name in email.metadata:
                    raise refused(
                        "metadata", f"has {name[:40]!r}, which is personal too; Mailgun has one place for both"
                    )
                fields.append((f"v:{name}", f"%recipient.{name}%"))

        def parse(exchange: Exchange) -> BatchSent:
            sent = _sent(exchange)
            return BatchSent(tuple(SentTo(address, sent.id) for address in email.to), raw=sent.raw)

        return self._posted(email, fields, extra, test_mode=test_mode, parse=parse)

    @operation
    def check(self) -> Plan[bool]:
        """True if the key is good, may send, and knows the domain in this region: offers a mail to nobody, which
        Mailgun refuses for that reason (unconfirmed: that it looks at the recipient last), and which is in test mode.

        Sending keys can do nothing else. Raises AuthenticationFailed, NotFound for the domain, PermissionDenied.
        """
        fields: _Fields = [("from", f"check@{self.domain}"), ("to", "nobody"), ("subject", "check"), ("text", "check")]
        body, content_type = encode_multipart([*fields, ("o:testmode", "yes")])
        return self.post(
            self._messages,
            content=body,
            headers={"Content-Type": content_type},
            parse=lambda exchange: bool(_sent(exchange).id),
            accept=_nobody,
            repeatable=True,
        )

    @property
    def _messages(self) -> str:
        return f"/v3/{segment(self.domain, 'domain')}/messages"

    def _posted(
        self, email: Email, fields: _Fields, extra: Mapping[str, object], *, test_mode: bool, parse: Any
    ) -> Plan[Any]:
        options: _Fields = [("o:testmode", "yes")] if test_mode else []
        fields = [*fields, *options, *_extras(extra)]
        _check(email, fields)
        body, content_type = encode_multipart([*fields, *(_file(one) for one in email.attachments)])
        return self.post(self._messages, content=body, headers={"Content-Type": content_type}, parse=parse)

    @classmethod
    def read_event(cls, event: Event) -> EmailEvent | None:
        """What an event means; None for ``stored`` (mail that came in) and words newer than this program.

        A failure of *severity* ``temporary`` is DEFERRED: Mailgun tries again. One that is ``permanent`` is BOUNCED, or
        REJECTED where Mailgun did not even try (``suppress-…``). Values of the metadata that are no texts are JSON.
        Raises BadAnswer for an event of another shape.
        """
        kind = _KINDS.get(event.type)
        if kind is None:
            return None
        told = record(record(event.payload, "the event").get("event-data"), "event-data")
        severity, reason = optional_text(told, "severity"), optional_text(told, "reason")
        if event.type == "failed":
            kind = _failed(severity, reason or "")
        status = record(told.get("delivery-status") or {}, "delivery-status")
        reject = record(told.get("reject") or {}, "reject")  # not in the card but in Mailgun's manual
        headers = record(record(told.get("message") or {}, "message").get("headers") or {}, "message.headers")
        variables = record(told.get("user-variables") or {}, "user-variables")
        return EmailEvent(
            kind,
            event.type,
            recipient=optional_text(told, "recipient"),
            message_id=_bare(optional_text(headers, "message-id")),
            at=moment(told, "timestamp"),
            permanent={"permanent": True, "temporary": False}.get(severity or ""),
            reason=optional_text(status, "message")
            or optional_text(status, "description")
            or optional_text(reject, "reason")
            or reason,
            url=optional_text(told, "url"),
            tags=tuple(str(one) for one in items(told.get("tags") or [], "tags")),
            metadata={name: one if isinstance(one, str) else json.dumps(one) for name, one in variables.items()},
            raw=told,
        )


def _failed(severity: str | None, reason: str) -> EmailEventKind:
    if severity == "temporary":
        return EmailEventKind.DEFERRED
    return EmailEventKind.REJECTED if reason.startswith("suppress-") else EmailEventKind.BOUNCED


def _nobody(error: CallError) -> bool | None:
    return True if error.status == 400 and error.message.startswith("to parameter is not a valid address") else None


def _bare(message_id: str | None) -> str | None:
    """An id without angle brackets, which answers have, and events have not."""
    return None if message_id is None else message_id.strip("<>")


def _common(email: Email, data: Mapping[str, Any]) -> _Fields:
    """The fields of a message, but for its files."""
    if email.sender is None and email.template is None:
        raise refused("sender", "is needed unless a template gives it: Mailgun has no default sender")
    fields: _Fields = [("from", email.sender.mailbox)] if email.sender else []
    for kind in ("to", "cc", "bcc"):
        fields += [(kind, one.mailbox) for one in getattr(email, kind)]
    optional = {
        "subject": email.subject,
        "text": email.text,
        "html": email.html,
        "template": email.template,
        "t:variables": _json("template_data", data) if data and email.template else None,
        "h:Reply-To": ", ".join(one.mailbox for one in email.reply_to),
        "o:deliverytime": None if email.send_at is None else format_datetime(email.send_at),
    }
    fields += [(name, value) for name, value in optional.items() if value]
    for name, value in email.headers.items():
        if name.lower() == "reply-to" and email.reply_to:
            raise refused(f"headers[{name}]", "is given as reply_to too")
        fields.append((f"h:{name}", value))
    fields += [(f"v:{name}", value) for name, value in email.metadata.items()]
    return fields + [("o:tag", tag) for tag in email.tags]


def _check(email: Email, fields: _Fields) -> None:
    people = len(email.to) + len(email.cc) + len(email.bcc)
    if people > _RECIPIENTS:
        raise refused("to", f"has {people} recipients, with cc and bcc; the limit is {_RECIPIENTS}")
    if len(email.tags) > _TAGS:
        raise refused("tags", f"has {len(email.tags)} tags; the limit is {_TAGS}")
    sizes = [(name, len(value.encode("utf-8", "replace"))) for name, value in fields if isinstance(value, str)]
    options = sum(size for name, size in sizes if name[:2] in ("o:", "h:", "v:", "t:"))
    if options > _OPTIONS:
        raise refused(
            "metadata", f"has, with tags, headers and template_data, {options} bytes; the limit is {_OPTIONS}"
        )
    total = sum(len(one.content) * 4 // 3 for one in email.attachments)
    total += sum(size for name, size in sizes if name in ("text", "html", "amp-html"))
    if total > _BYTES:
        raise refused("attachments", f"the message has about {total} bytes; the limit is {_BYTES}")


def _extras(extra: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    for name, value in extra.items():
        several = value if isinstance(value, Sequence) and not isinstance(value, str) else (value,)
        for one in several:
            if isinstance(one, bool):
                yield name, "yes" if one else "no"
            elif isinstance(one, str | int):
                yield name, str(one)
            else:
                raise refused(name, f"must be text, a whole number or a truth value, not {type(one).__name__}")


def _file(attachment: Attachment) -> tuple[str, File]:
    """What the HTML shows it names by its file's name (``cid:…``), says Mailgun's manual."""
    if attachment.content_id is None:
        return "attachment", File(attachment.filename, attachment.content, attachment.media_type)
    return "inline", File(attachment.content_id, attachment.content, attachment.media_type)


def _json(where: str, value: object) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise refused(where, f"cannot be written as JSON: {error}") from None


def _sent(exchange: Exchange) -> SentEmail:
    answer = record(exchange.data)
    return SentEmail(_bare(text(answer, "id")), raw=answer)
