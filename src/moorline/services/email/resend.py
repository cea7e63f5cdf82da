"""Resend: send mail, look at it, call it off, and what Resend tells us of messages.

Facts: services/email/resend.md; contract: resend.json; the PyPI package resend 2.52.0 for the shapes of events. A send
carries an idempotency key, which Resend remembers for 24 hours: a lost answer may be asked for again.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from moorline.calls.minting import Minted
from moorline.calls.service import (
    BearerKey,
    Endpoints,
    ErrorMap,
    Exchange,
    IdempotencyKey,
    Plan,
    RateLimitHeaders,
    Service,
    hours,
    operation,
    segment,
)
from moorline.errors import (
    AuthenticationFailed,
    BadAnswer,
    CallError,
    Conflict,
    InvalidRequest,
    LimitFault,
    NotFound,
    PermissionDenied,
)
from moorline.events.delivery import Delivers
from moorline.events.schemes.standard_webhooks import StandardWebhooks
from moorline.secrets.secret import Secret
from moorline.services.answers import items, moment, optional_text, record, text, whole
from moorline.services.email.protocol import (
    Address,
    Attachment,
    BatchSent,
    Email,
    EmailEvent,
    EmailEventKind,
    InboundEmail,
    SentEmail,
    SentTo,
    check_batch,
)
from moorline.services.key_answers import called, gone, minted
from moorline.services.limits import at_most, refused

if TYPE_CHECKING:
    from moorline.events.event import Event

__all__ = ["Resend", "ResendEmail"]

_RECIPIENTS: Final = 50
_BATCH: Final = 100
_TAG: Final = re.compile(r"[A-Za-z0-9_-]{1,256}")
_NOBODY: Final = "00000000-0000-4000-8000-000000000000"  # the id of no mail
_KINDS: Final = {
    "email.sent": EmailEventKind.ACCEPTED,
    "email.scheduled": EmailEventKind.ACCEPTED,
    "email.delivered": EmailEventKind.DELIVERED,
    "email.delivery_delayed": EmailEventKind.DEFERRED,
    "email.bounced": EmailEventKind.BOUNCED,
    "email.failed": EmailEventKind.REJECTED,
    "email.suppressed": EmailEventKind.REJECTED,
    "email.complained": EmailEventKind.COMPLAINED,
    "email.opened": EmailEventKind.OPENED,
    "email.clicked": EmailEventKind.CLICKED,
}
_PERMANENT: Final = {"permanent": True, "transient": False, "temporary": False}  # other words: not known


@dataclass(frozen=True, slots=True)
class ResendEmail:
    """A mail as Resend keeps it. *status* is the name of the last event, in Resend's words (``queued``, ``scheduled``,
    ``delivered``, ``bounced``, ``canceled``, …), *kind* the same in the words of all services, where they have one.
    """

    id: str
    status: str | None = None
    kind: EmailEventKind | None = None
    sender: str | None = None
    to: tuple[str, ...] = ()
    subject: str = ""
    created_at: datetime | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


class Resend(Service):
    """E-mail by Resend. Keys may send only, or do all; several are good at once, so a rotation is: create, switch,
    delete.

    There is no test mode. Mail to ``delivered@resend.dev``, ``bounced@…``, ``complained@…`` and ``suppressed@…`` (the
    last one unconfirmed) ends as its name says; a label keeps them apart: ``delivered+order42@resend.dev``.

    Resend's tags are pairs: an entry of *metadata* is sent as one, and a word of *tags* as one whose value is its name;
    events are read back by that rule. Both take ASCII letters, figures, ``_`` and ``-`` alone.

    Facts: services/email/resend.md; contract: resend.json.
    """

    name, category = "resend", "email"
    docs = "services/email/resend.md, resend.json"
    endpoints = Endpoints("https://api.resend.com")  # the sending region is a property of the domain
    credentials = BearerKey(env="RESEND_API_KEY", sandbox="re_sandbox")
    idempotency = IdempotencyKey(
        header="Idempotency-Key", window=hours(24), max_length=256, where=r"/emails(?:/batch)?"
    )
    limits = RateLimitHeaders()  # ratelimit-*, whose reset is in seconds from now, as in the standard's drafts
    errors = ErrorMap(
        code="name",
        message="message",
        key_reused=frozenset({"invalid_idempotent_request"}),
        kinds={
            "missing_api_key": AuthenticationFailed,
            "invalid_api_key": AuthenticationFailed,  # 403
            "restricted_api_key": PermissionDenied,  # 401: it may send, and nothing else
            "validation_error": InvalidRequest,  # 403 as well: a domain that is not verified
            # 429 as well, but no limit of a second: not RateLimited, so that nobody waits and tries again at once.
            "daily_quota_exceeded": LimitFault,
            "monthly_quota_exceeded": LimitFault,
            "concurrent_idempotent_requests": Conflict,
        },
        retry=frozenset({409}),  # the same key is still at work (that it is 409 is unconfirmed)
    )
    webhooks = StandardWebhooks(
        prefix="svix-",
        env="RESEND_WEBHOOK_SECRET",
        id="header:svix-id",  # the same in each try; the body has none
        type="type",
        delivers=Delivers(
            within=15, retries="after 5 s, 5 min, 30 min, 2, 5, 10 and 10 h; what keeps failing is switched off"
        ),
    )
    usage = """
from moorline.services import Resend
from moorline.services.email.protocol import Email

sent = Resend().send(Email("delivered@resend.dev", "Hello", "Welcome.", sender="Shop <shop@shop.example>")).result()
print(sent.id, Resend().get_email(sent.id).result().status)
"""

    @operation
    def send(self, /, email: Email, **extra: object) -> Plan[SentEmail]:
        """Hand one message over: all of *to*, *cc* and *bcc* get the same mail and see *to* and *cc*.

        *extra* are Resend's further fields by their names (``topic_id``). The sender and the subject may be left to a
        template.

        Raises InvalidRequest, naming the field, before anything is sent: more than 50 of *to*, tags with other than
        ASCII letters, figures, ``_`` and ``-``, a template together with content, data for it that is neither text nor
        number. Raises LimitFault, and does not try again, where the quota of the day or month is spent.
        """
        return self.post("/emails", json={**_mail(email, email.to, email.template_data), **extra}, parse=_sent)

    @operation
    def send_batch(self, /, email: Email, *, strict: bool = False, **extra: object) -> Plan[BatchSent]:
        """Hand over one message for each of *to*, up to 100, who do not see one another, each with an id of its own.

        Resend takes those that are good, and each of the others has its message among the results; with
        ``strict=True`` it takes all or none, and an error is raised. *extra* are further fields of each message.

        Raises as ``send``, and InvalidRequest for *cc* and *bcc*, for personal data without a template to fill, and for
        attachments and *send_at*, which Resend did not allow in batches (unconfirmed today).
        """
        check_batch(email, _BATCH)
        for kind in ("attachments", "send_at"):
            if getattr(email, kind):
                raise refused(kind, "are not allowed in a batch (unconfirmed today); send one message at a time")
        if email.personal and email.template is None:
            raise refused("personal", "needs a template: Resend fills nothing else")
        mails = [{**_mail(email, (one,), email.alone(one)), **extra} for one in email.to]

        def parse(exchange: Exchange) -> BatchSent:
            return _batch_sent(exchange, email.to)

        mode = {"x-batch-validation": "strict" if strict else "permissive"}
        return self.post("/emails/batch", json=mails, headers=mode, parse=parse)

    @operation
    def get_email(self, email_id: str) -> Plan[ResendEmail]:
        """A sent or scheduled mail as it is now. Raises NotFound, PermissionDenied for a key that may only send."""
        return self.get(f"/emails/{segment(email_id, 'email_id')}", parse=_kept)

    @operation
    def cancel_email(self, email_id: str) -> Plan[ResendEmail]:
        """Call off a mail that has a *send_at*; the answer may hold its id alone.

        Resend honours no idempotency key here: a lost answer is OutcomeUnknown, and ``get_email`` tells. Raises
        InvalidRequest or NotFound for what is not scheduled.
        """
        return self.post(f"/emails/{segment(email_id, 'email_id')}/cancel", parse=_kept, keyed=False)

    @operation
    def check(self) -> Plan[bool]:
        """True if the key is good and may send mail: asks for a mail that is not there.

        Every key may send; one that may do only that is told so, which proves as well that it is known. Raises
        AuthenticationFailed for all others.
        """
        return self.get(f"/emails/{_NOBODY}", parse=_there, accept=_known_key)

    @operation
    def mint_key(self, label: str) -> Plan[Minted]:
        """Make another key that may do all, as this one may: one that may only send can make none. For ``moorline keys
        rotate``.

        Facts: services/email/resend.md; resend 2.52 (api_keys). Raises PermissionDenied for a key that may only send.
        """
        body = {"name": label, "permission": "full_access"}
        return self.post("/api-keys", json=body, parse=_minted, keyed=False)

    @operation
    def revoke_key(self, id: str) -> Plan[bool]:
        """Delete the key of that id: it is refused from now on. False where there is none."""
        path = f"/api-keys/{segment(id, 'id')}"
        return self.delete(path, parse=lambda _: True, blank=True, accept=gone)

    @operation
    def find_keys(self, label: str) -> Plan[Sequence[str]]:
        """The ids of the keys that are called so."""
        return self.get("/api-keys", parse=called(label, "data", "id"))

    def key_id(self, secret: Secret) -> str | None:  # noqa: ARG002 (of others it can be told)
        """None: a key of Resend's does not tell."""
        return None

    @classmethod
    def read_event(cls, event: Event) -> EmailEvent | InboundEmail | None:
        """What an event means: all of ``email.*``; None for contacts, domains and words newer than this program.

        *recipient* is None where the mail went to several, as Resend does not say which of them it is about. Of a mail
        that came in (``email.received``) there are neither texts nor files: fetch them by
        ``request("GET", f"/emails/receiving/{mail.id}")``. Raises BadAnswer for an event of another shape.
        """
        kind = _KINDS.get(event.type)
        if kind is None and event.type != "email.received":
            return None
        told = record(event.payload, "the event")
        data = record(told.get("data"), "data")
        if kind is None:
            return _inbound(data)
        part = {name: record(data.get(name) or {}, name) for name in ("bounce", "failed", "suppressed", "click")}
        to = _mailboxes(data, "to")
        tags = _tags(data.get("tags"))
        return EmailEvent(
            kind,
            event.type,
            recipient=to[0].email if len(to) == 1 else None,  # of several it does not say which
            recipients=tuple(one.email for one in to),
            message_id=optional_text(data, "email_id"),
            at=moment(told, "created_at"),
            permanent=_PERMANENT.get((optional_text(part["bounce"], "type") or "").lower()),
            reason=optional_text(part["bounce"], "message")
            or optional_text(part["failed"], "reason")
            or optional_text(part["suppressed"], "message"),
            url=optional_text(part["click"], "link"),
            tags=tuple(name for name, value in tags.items() if name == value),
            metadata={name: value for name, value in tags.items() if name != value},
            raw=told,
        )


_minted = minted("RESEND_API_KEY", "token", "id")


def _there(exchange: Exchange) -> bool:
    return bool(text(record(exchange.data), "id"))


def _known_key(error: CallError) -> bool | None:
    return True if isinstance(error, NotFound) or error.code == "restricted_api_key" else None


def _check(email: Email) -> None:
    if email.template is None:
        if email.sender is None:
            raise refused("sender", "is needed: Resend has no default sender")
        if email.template_data:
            raise refused("template_data", "needs a template: Resend fills nothing else")
    elif email.text or email.html:
        raise refused("text" if email.text else "html", "is not taken together with a template")
    for name, value in {**dict.fromkeys(email.tags, "-"), **email.metadata}.items():
        for one in (name, value):
            if not _TAG.fullmatch(one):
                where = "tags" if name in email.tags else f"metadata[{name[:40]}]"
                raise refused(where, "takes 1 to 256 ASCII letters, figures, '_' and '-' alone")
    for name in email.tags:
        if name in email.metadata or email.tags.count(name) > 1:
            raise refused("tags", f"{name} is there twice, over tags and metadata")


def _mail(email: Email, to: tuple[Address, ...], data: Mapping[str, Any]) -> dict[str, Any]:
    _check(email)
    at_most("to", to, _RECIPIENTS, "recipients")
    pairs = {**{name: name for name in email.tags}, **email.metadata}
    mail: dict[str, Any] = {
        "from": None if email.sender is None else email.sender.mailbox,
        "to": [one.mailbox for one in to],
        "cc": [one.mailbox for one in email.cc],
        "bcc": [one.mailbox for one in email.bcc],
        "reply_to": [one.mailbox for one in email.reply_to],
        "subject": email.subject,
        "text": email.text,
        "html": email.html,
        "headers": dict(email.headers),
        "attachments": [_attachment(one) for one in email.attachments],
        "tags": [{"name": name, "value": value} for name, value in pairs.items()],
        "scheduled_at": None if email.send_at is None else email.send_at.astimezone(UTC).isoformat(),
        "template": None if email.template is None else _template(email.template, data),
    }
    return {name: value for name, value in mail.items() if value}


def _template(name: str, data: Mapping[str, Any]) -> dict[str, Any]:
    for key, value in data.items():
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise refused(f"template_data[{key}]", f"must be text or a number, not {type(value).__name__}")
    return {"id": name, "variables": dict(data)} if data else {"id": name}


def _attachment(attachment: Attachment) -> dict[str, str]:
    encoded = {
        "content": base64.b64encode(attachment.content).decode(),
        "filename": attachment.filename,
        "content_type": attachment.media_type,
    }
    return encoded if attachment.content_id is None else encoded | {"content_id": attachment.content_id}


def _sent(exchange: Exchange) -> SentEmail:
    answer = record(exchange.data)
    return SentEmail(text(answer, "id"), raw=answer)


def _batch_sent(exchange: Exchange, people: tuple[Address, ...]) -> BatchSent:
    """The ids are those of the messages that were taken, in order; ``errors`` numbers the others."""
    answer = record(exchange.data)
    faults = [record(one, "errors") for one in items(answer.get("errors") or [], "errors")]
    bad = {whole(one, "index"): optional_text(one, "message") or "refused" for one in faults}
    ids = iter([text(record(one, "data"), "id") for one in items(answer.get("data"), "data")])
    results: list[SentTo] = []
    for number, address in enumerate(people):
        if number in bad:
            results.append(SentTo(address, accepted=False, message=bad[number]))
        elif (found := next(ids, None)) is not None:
            results.append(SentTo(address, found))
    if len(results) != len(people) or next(ids, None) is not None:
        raise BadAnswer("the answer has not one result for each message")
    return BatchSent(tuple(results), raw=answer)


def _kept(exchange: Exchange) -> ResendEmail:
    answer = record(exchange.data)
    status = optional_text(answer, "last_event")
    taken = {"queued": EmailEventKind.ACCEPTED}
    return ResendEmail(
        id=text(answer, "id"),
        status=status,
        kind=None if status is None else taken.get(status) or _KINDS.get(f"email.{status}"),
        sender=optional_text(answer, "from"),
        to=_addresses(answer, "to"),
        subject=optional_text(answer, "subject") or "",
        created_at=moment(answer, "created_at"),
        raw=answer,
    )


def _addresses(holder: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """Addresses as they stand there: one, several or none."""
    value = holder.get(name)
    several = [value] if isinstance(value, str) else items(value or [], name)
    if not all(isinstance(one, str) for one in several):
        raise BadAnswer(f"{name!r} in the answer is not a list of texts")
    return tuple(several)


def _tags(value: object) -> dict[str, str]:
    """An object in events (unconfirmed), though they are sent as a list; a list is read as well."""
    if isinstance(value, list):
        pairs = [record(one, "tags") for one in value]
        return {text(one, "name"): optional_text(one, "value") or "" for one in pairs}
    return {name: optional_text(record(value), name) or "" for name in record(value or {}, "tags")}


def _inbound(data: Mapping[str, Any]) -> InboundEmail:
    message_id = optional_text(data, "message_id")
    senders = _mailboxes(data, "from")
    if not senders:
        raise BadAnswer("'from' in the answer is no address")
    return InboundEmail(
        id=text(data, "email_id"),
        sender=senders[0],
        to=tuple(_mailboxes(data, "to")),
        subject=" ".join((optional_text(data, "subject") or "").split()),
        cc=tuple(_mailboxes(data, "cc")),
        headers={"Message-ID": message_id} if message_id else {},
        at=moment(data, "created_at"),
        raw=data,
    )


def _mailboxes(holder: Mapping[str, Any], name: str) -> list[Address]:
    """The addresses that are some: anybody may write mail, and anything into its head."""
    found = []
    for one in _addresses(holder, name):
        try:
            found.append(Address.of(one))
        except InvalidRequest:
            continue
    return found
