"""Amazon SES (API v2): send mail, and what it tells us of messages through a topic of Amazon SNS.

Facts: services/email/ses.md; contract: none, it is botocore's model of sesv2. SES honours no idempotency keys: a call
that was sent and not answered is OutcomeUnknown, and is never repeated by itself.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import formataddr
from typing import TYPE_CHECKING, Any, Final

from moorline.calls.aws import AwsErrors
from moorline.calls.service import Endpoints, Plan, operation
from moorline.errors import BadAnswer, Conflict, InvalidRequest, PermissionDenied
from moorline.services.answers import flag, items, moment, optional_text, record, text
from moorline.services.aws_access_keys import AccessKeys
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
from moorline.services.inbound import mailboxes
from moorline.services.limits import at_most, refused
from moorline.services.mime import mime, read_mime
from moorline.services.topics import content, topic

if TYPE_CHECKING:
    from moorline.events.event import Event

__all__ = ["SES", "SESAccount"]

_RECIPIENTS: Final = 50  # over to, cc and bcc; that a batch has the same limit is unconfirmed
_HEADERS: Final = 15
_TEMPLATE_DATA: Final = 262_144
_BYTES: Final = 40 * 1024 * 1024  # of the whole message after base64: a third party's note of AWS's quotas
_TAG: Final = re.compile(r"[A-Za-z0-9_-]{1,256}")
_TAGGED: Final = "tag"  # SES knows pairs only: a tag is a name with this value
_HEADER_NAME: Final = 126
_HEADER_VALUE: Final = re.compile(r"[ -~]{1,995}")
_OURS: Final = frozenset(
    {
        "bcc",
        "cc",
        "content-transfer-encoding",
        "content-type",
        "from",
        "mime-version",
        "reply-to",
        "return-path",
        "subject",
        "to",
    }
)
_KINDS: Final = {
    "Send": EmailEventKind.ACCEPTED,
    "Delivery": EmailEventKind.DELIVERED,
    "DeliveryDelay": EmailEventKind.DEFERRED,
    "Bounce": EmailEventKind.BOUNCED,
    "Reject": EmailEventKind.REJECTED,
    "Rendering Failure": EmailEventKind.REJECTED,
    "Complaint": EmailEventKind.COMPLAINED,
    "Open": EmailEventKind.OPENED,
    "Click": EmailEventKind.CLICKED,
    "Subscription": EmailEventKind.UNSUBSCRIBED,  # or subscribed; see ``_subscribed``
}
# Where each event has its facts, and in which list of them its recipients; the others are told by ``mail`` alone.
_PARTS: Final = {"DeliveryDelay": "deliveryDelay", "Rendering Failure": "failure"}
_AFFECTED: Final = {
    "Bounce": "bouncedRecipients",
    "Complaint": "complainedRecipients",
    "Delivery": "recipients",
    "DeliveryDelay": "delayedRecipients",
}
_REASONS: Final = ("reason", "errorMessage", "complaintFeedbackType", "smtpResponse", "delayType", "bounceSubType")
_PERMANENT: Final = {"Permanent": True, "Transient": False}


@dataclass(frozen=True, slots=True)
class SESAccount:
    """What an account may do in a region. *production*: whether it is out of AWS's "sandbox", in which mail goes to
    verified addresses and the simulator only. Limits are of messages: a day (-1: none), and a second.
    """

    sending: bool
    production: bool
    daily_limit: float | None = None
    rate_limit: float | None = None
    sent_today: float | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


class SES(AccessKeys):
    """E-mail by Amazon SES, and its notifications and event publishing, delivered by SNS.

    There is no test mode: new accounts are restricted in each region until AWS lifts it (see ``get_account``), and mail
    to ``success@``, ``bounce@``, ``complaint@``, ``suppressionlist@`` and ``ooto@simulator.amazonses.com`` is only
    simulated everywhere. Keys need the IAM actions ses:SendEmail, ses:SendBulkEmail and ses:GetAccount.

    The event's type is SES's (``Bounce``, ``Complaint``, ``Delivery``, ``Open``, …); what is no JSON of SES's, such as
    the first message to a new topic, has SNS's (``Notification``). Its content is the text in ``Message``.
    Facts: services/email/ses.md, services/sms/sns.md.
    """

    name, category = "ses", "email"
    docs = "services/email/ses.md, services/sms/sns.md"
    model = "sesv2"
    endpoints = Endpoints("https://email.us-east-1.amazonaws.com")
    errors = AwsErrors(
        model="sesv2",
        kinds={
            "AccountSuspendedException": PermissionDenied,
            "AlreadyExistsException": Conflict,
            "LimitExceededException": InvalidRequest,  # too many resources of a kind: no other try will help
            "SendingPausedException": PermissionDenied,
        },
    )
    webhooks = topic(env="SES_TOPIC_ARN", type=("Message.eventType", "Message.notificationType", "Type"))
    usage = """
from moorline.services import SES
from moorline.services.email.protocol import Email

sent = SES().send(Email("success@simulator.amazonses.com", "Hello", "Welcome.", sender="shop@example.com")).result()
print(sent.id)
"""

    @operation
    def send(self, /, email: Email, *, configuration_set: str | None = None, **extra: object) -> Plan[SentEmail]:
        """Hand one message over: all of *to*, *cc* and *bcc* get the same mail and see *to* and *cc*.

        *metadata* become SES's tags, and so do *tags*, with the value ``tag``; both come back only in events that the
        *configuration_set* publishes. A *template* is the name or the ARN of one. What SES cannot express as fields
        (more than 15 headers, one that is not ASCII) is sent as a whole MIME message. *extra* are SES's further
        top-level fields by their names (``FeedbackForwardingEmailAddress``, ``TenantName``).

        Raises InvalidRequest, naming field and limit, before anything is sent: more than 50 recipients, a tag of other
        than ASCII letters, digits, ``_`` and ``-`` or over 256 of them, *send_at* (SES has none), a template with a
        subject or text of one's own, a message over 40 MB, letters that are not ASCII before the @.
        """
        _check(email)
        parameters = {
            **_common(email, configuration_set),
            "Destination": _destination(email.to, email),
            "Content": _content(email),
            "EmailTags": _tags(email),
        }
        return self.ask("SendEmail", {**parameters, **extra}, _sent)

    @operation
    def send_batch(self, /, email: Email, *, configuration_set: str | None = None, **extra: object) -> Plan[BatchSent]:
        """Hand over one message for each of *to*, up to 50, who do not see one another; each has its own result.

        Without a *template* subject, text and html are one themselves: ``{{name}}`` in them is filled from
        *template_data* and *personal*. Raises as ``send``, and InvalidRequest for *cc* and *bcc*, and for headers that
        only a MIME message could hold.
        """
        check_batch(email, _RECIPIENTS)
        _check(email)
        if not _plain_headers(email):
            raise refused("headers", f"of a batch must be printable ASCII, and at most {_HEADERS}")
        entries = [
            {
                "Destination": _destination((one,)),
                "ReplacementEmailContent": {
                    "ReplacementTemplate": {"ReplacementTemplateData": _data(email.alone(one))}
                },
            }
            for one in email.to
        ]
        parameters = {
            **_common(email, configuration_set),
            "DefaultContent": {"Template": _template(email)},
            "DefaultEmailTags": _tags(email),
            "BulkEmailEntries": entries,
        }

        def parse(answer: Mapping[str, Any]) -> BatchSent:
            results = items(answer.get("BulkEmailEntryResults"), "BulkEmailEntryResults")
            if len(results) != len(email.to):
                raise BadAnswer(f"the answer has {len(results)} results for {len(email.to)} messages")
            return BatchSent(tuple(map(_sent_to, email.to, results)), raw=answer)

        return self.ask("SendBulkEmail", {**parameters, **extra}, parse)

    @operation
    def get_account(self) -> Plan[SESAccount]:
        """What the account may do in this region, and how much of its quota is used."""
        return self.ask("GetAccount", {}, _account, reads=True)

    @operation
    def check(self) -> Plan[bool]:
        """True if the key is good and sending is enabled in this region; see ``get_account`` for production access."""
        return self.ask("GetAccount", {}, lambda answer: _account(answer).sending, reads=True)

    @classmethod
    def read_event(cls, event: Event) -> EmailEvent | InboundEmail | None:
        """What an event means; None for a word that is newer than this program, and for what is not SES's.

        It reads both what identities notify of (``notificationType``, never with tags) and what configuration sets
        publish (``eventType``). One event may tell of several recipients: see ``EmailEvent.recipients``; *recipient* is
        the first. Mail that SES receives (``Received``) is an InboundEmail: with its content where a receipt rule
        publishes it to the topic (up to 150 kB), else with its head alone. Raises BadAnswer for one of another shape.
        """
        told = content(event)
        if told is not None and event.type == "Received":
            return _inbound(told)
        kind = _KINDS.get(event.type)
        if told is None or kind is None or "mail" not in told:
            return None
        mail = record(told["mail"], "mail")
        part = record(told.get(_PARTS.get(event.type, event.type.lower()), {}), "the event's part")
        if event.type == "Subscription" and _subscribed(part):
            kind = EmailEventKind.SUBSCRIBED
        affected = items(part.get(_AFFECTED.get(event.type, ""), mail.get("destination", [])), "recipients")
        people = tuple(one if isinstance(one, str) else text(record(one), "emailAddress") for one in affected)
        named = {name: items(values, "a tag") for name, values in record(mail.get("tags", {}), "tags").items()}
        own = {name: str(values[0]) for name, values in named.items() if values and not name.startswith("ses:")}
        return EmailEvent(
            kind,
            event.type,
            recipient=people[0] if people else None,
            recipients=people,
            message_id=optional_text(mail, "messageId"),
            at=moment(part, "timestamp") or moment(mail, "timestamp"),
            permanent=_PERMANENT.get(str(part.get("bounceType"))),
            reason=_reason(part, affected),
            url=optional_text(part, "link"),
            tags=tuple(name for name, value in own.items() if value == _TAGGED),
            metadata={name: value for name, value in own.items() if value != _TAGGED},
            raw=told,
        )


def _inbound(told: Mapping[str, Any]) -> InboundEmail:
    """Facts: docs.aws.amazon.com/ses/latest/dg, receiving-email-notifications-contents and -examples."""
    mail, receipt = record(told.get("mail"), "mail"), record(told.get("receipt", {}), "receipt")
    given = optional_text(told, "content")
    coded = str(record(receipt.get("action", {}), "action").get("encoding", "")).upper() == "BASE64"
    try:
        raw = None if given is None else base64.b64decode(given) if coded else given.encode("utf-8", "replace")
    except ValueError:
        raise BadAnswer("'content' in the answer is no base64") from None
    head = "".join(
        f"{one['name']}: {' '.join(one['value'].split())}\n"
        for one in map(record, items(mail.get("headers", []), "headers"))
        if isinstance(one.get("name"), str) and isinstance(one.get("value"), str)
    )
    read = read_mime(raw if raw is not None else head.encode("utf-8", "replace"))
    sender = read.sender or next(iter(mailboxes(optional_text(mail, "source") or "")), None)
    if sender is None:
        raise BadAnswer("the mail has no sender")
    envelope = [one for one in items(receipt.get("recipients", []), "recipients") if isinstance(one, str)]
    return InboundEmail(
        id=text(mail, "messageId"),
        sender=sender,
        to=read.to or mailboxes(", ".join(envelope)),
        subject=read.subject,
        text=read.text if raw is not None else None,
        html=read.html,
        cc=read.cc,
        headers=read.headers,
        attachments=read.attachments,
        at=moment(mail, "timestamp"),
        raw=told,
    )


def _check(email: Email) -> None:
    if email.sender is None:
        raise refused("sender", "is needed: SES has no default sender")
    people = len(email.to) + len(email.cc) + len(email.bcc)
    if people > _RECIPIENTS:
        raise refused("to", f"with cc and bcc there are {people} recipients; the limit is {_RECIPIENTS}")
    if email.send_at is not None:
        raise refused("send_at", "SES sends at once; enqueue the call with a delay instead")
    for name in email.headers:
        if name.lower() in _OURS:
            raise refused(f"headers[{name}]", "is made of the message's own fields")
    for one in email.attachments:
        at_most("attachments.filename", one.filename, 255, "characters")
        at_most("attachments.type", one.media_type, 78, "characters")
        at_most("attachments.content_id", one.content_id or "", 78, "characters")
    if email.template is not None and (email.subject or email.text or email.html):
        raise refused("template", "has its own subject and text, beside which SES takes none")
    size = sum(len(one.content) * 4 // 3 for one in email.attachments)
    size += len((email.text or "").encode()) + len((email.html or "").encode())
    if size > _BYTES:
        raise refused("attachments", f"the message has about {size} bytes; the limit is {_BYTES}")


def _tags(email: Email) -> list[dict[str, str]] | None:
    pairs = [("tags", tag, _TAGGED) for tag in email.tags] + [
        ("metadata", name, value) for name, value in email.metadata.items()
    ]
    seen: set[str] = set()
    for where, *both in pairs:
        for word in both:
            if not _TAG.fullmatch(word):
                why = (
                    "SES takes 1 to 256 ASCII letters, digits, _ and - in names and values; other facts fit in headers"
                )
                raise refused(where, f"{word[:40]!r}: {why}")
        if both[0] in seen:
            raise refused(where, f"{both[0]!r} is there twice; to SES tags and metadata are one set of names")
        seen.add(both[0])
    return [{"Name": name, "Value": value} for _, name, value in pairs] or None


def _common(email: Email, configuration_set: str | None) -> dict[str, Any]:
    assert email.sender is not None
    return {
        "FromEmailAddress": _mailbox(email.sender, "sender"),
        "ReplyToAddresses": [_mailbox(one, "reply_to") for one in email.reply_to] or None,
        "ConfigurationSetName": configuration_set,
    }


def _destination(to: tuple[Address, ...], email: Email | None = None) -> dict[str, list[str]]:
    found = {"ToAddresses": [_mailbox(one, "to") for one in to]}
    if email is not None:
        for name, kind in (("CcAddresses", "cc"), ("BccAddresses", "bcc")):
            if getattr(email, kind):
                found[name] = [_mailbox(one, kind) for one in getattr(email, kind)]
    return found


def _spec(address: Address, where: str) -> str:
    """The address as SES takes it: without SMTPUTF8, the domain in Punycode."""
    local, _, domain = address.email.rpartition("@")
    if not local.isascii():
        raise refused(where, f"{local[:40]!r}: SES takes ASCII only before the @")
    try:
        return f"{local}@{domain if domain.isascii() else domain.encode('idna').decode('ascii')}"
    except UnicodeError:
        raise refused(where, f"{domain[:80]!r} is no domain") from None


def _mailbox(address: Address, where: str) -> str:
    """``Name <address>``; a name in other letters in the encoding of RFC 2047 (unconfirmed for fields of the API)."""
    spec = _spec(address, where)
    return formataddr((address.name, spec)) if address.name else spec


def _content(email: Email) -> dict[str, Any]:
    if email.template is not None:
        if not _plain_headers(email):
            raise refused("headers", f"beside a template must be printable ASCII, and at most {_HEADERS}")
        return {"Template": _template(email)}
    if not _plain_headers(email):
        return {"Raw": {"Data": _mime(email)}}
    words = {"Text": email.text, "Html": email.html}
    body = {name: {"Data": data, "Charset": "UTF-8"} for name, data in words.items() if data}
    return {"Simple": {"Subject": {"Data": email.subject, "Charset": "UTF-8"}, "Body": body, **_extras(email)}}


def _template(email: Email) -> dict[str, Any]:
    content = {"Subject": email.subject, "Text": email.text, "Html": email.html}
    named: dict[str, Any] = {"TemplateContent": {name: value for name, value in content.items() if value}}
    if email.template is not None:
        named = {"TemplateArn" if email.template.startswith("arn:") else "TemplateName": email.template}
    return {**named, "TemplateData": _data(email.template_data), **_extras(email)}


def _data(values: Mapping[str, Any]) -> str:
    try:
        written = json.dumps(dict(values), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError):
        raise refused("template_data", "must be what JSON can hold") from None
    at_most("template_data", written, _TEMPLATE_DATA, "characters as JSON")
    return written


def _plain_headers(email: Email) -> bool:
    """Whether they can be fields of a request; else only a whole message can have them."""
    return len(email.headers) <= _HEADERS and all(
        len(name) <= _HEADER_NAME and _HEADER_VALUE.fullmatch(value) for name, value in email.headers.items()
    )


def _extras(email: Email) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if email.headers:
        found["Headers"] = [{"Name": name, "Value": value} for name, value in email.headers.items()]
    if email.attachments:
        found["Attachments"] = [_attachment(one) for one in email.attachments]
    return found


def _attachment(attachment: Attachment) -> dict[str, Any]:
    found = {
        "FileName": attachment.filename,
        "ContentType": attachment.media_type,
        "RawContent": attachment.content,
        "ContentTransferEncoding": "BASE64",
        "ContentDisposition": "ATTACHMENT" if attachment.content_id is None else "INLINE",
    }
    return found if attachment.content_id is None else found | {"ContentId": attachment.content_id}


def _mime(email: Email) -> bytes:
    """The whole message; who is in copy unseen stands in the request only."""
    assert email.sender is not None
    headers = [("Subject", email.subject), ("From", _mailbox(email.sender, "sender"))]
    for name, kind in (("To", "to"), ("Cc", "cc"), ("Reply-To", "reply_to")):
        people = getattr(email, kind)
        if people:
            headers.append((name, ", ".join(_mailbox(one, kind) for one in people)))
    return mime([*headers, *email.headers.items()], email.text, email.html, email.attachments)


def _sent(answer: Mapping[str, Any]) -> SentEmail:
    return SentEmail(text(answer, "MessageId"), raw=answer)


def _sent_to(recipient: Address, result: Any) -> SentTo:
    told = record(result, "a result")
    status = text(told, "Status")
    accepted = status == "SUCCESS"
    code = None if accepted else status
    return SentTo(recipient, optional_text(told, "MessageId"), accepted, code, optional_text(told, "Error"))


def _account(answer: Mapping[str, Any]) -> SESAccount:
    quota = record(answer.get("SendQuota", {}), "SendQuota")
    if "SendingEnabled" not in answer:
        raise BadAnswer("the answer does not say whether sending is enabled")
    return SESAccount(
        flag(answer, "SendingEnabled"),
        flag(answer, "ProductionAccessEnabled"),
        _number(quota, "Max24HourSend"),
        _number(quota, "MaxSendRate"),
        _number(quota, "SentLast24Hours"),
        raw=answer,
    )


def _number(quota: Mapping[str, Any], name: str) -> float | None:
    found = quota.get(name)
    if found is not None and (isinstance(found, bool) or not isinstance(found, int | float)):
        raise BadAnswer(f"{name!r} in the answer is not a number")
    return found


def _reason(part: Mapping[str, Any], affected: list[Any]) -> str | None:
    """The recipient's server's own words, else SES's."""
    first = affected[0] if affected and isinstance(affected[0], dict) else {}
    said = optional_text(first, "diagnosticCode")
    return said or next((found for name in _REASONS if (found := optional_text(part, name))), None)


def _subscribed(part: Mapping[str, Any]) -> bool:
    """Whether a contact now wants all topics (the fields' names: SES developer guide)."""
    wanted = record(part.get("newTopicPreferences", {}), "newTopicPreferences")
    topics = items(wanted.get("topicSubscriptionStatus", []), "topicSubscriptionStatus")
    return wanted.get("unsubscribeAll") is False and all(
        record(one).get("subscriptionStatus") == "OptIn" for one in topics
    )
