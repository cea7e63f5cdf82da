"""SendGrid: send mail, and what it tells us of messages.

Facts: services/email/sendgrid.md; contract: sendgrid.json. SendGrid honours no idempotency keys: a call that was sent
and not answered is OutcomeUnknown, and is never repeated by itself.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final

from moorline.calls.dialects import LimitFields
from moorline.calls.minting import Minted
from moorline.calls.service import (
    BearerKey,
    Endpoints,
    ErrorMap,
    Exchange,
    Plan,
    RateLimitHeaders,
    Service,
    operation,
    segment,
)
from moorline.errors import BadAnswer
from moorline.events.delivery import Delivers
from moorline.events.schemes.ecdsa_signature import ECDSASignature
from moorline.secrets.secret import Secret
from moorline.services.answers import items, moment, optional_text, record, text
from moorline.services.email.protocol import (
    Address,
    Attachment,
    BatchSent,
    Email,
    EmailEvent,
    EmailEventKind,
    SentEmail,
    SentTo,
    check_batch,
)
from moorline.services.key_answers import called, gone, minted
from moorline.services.limits import at_most, refused

if TYPE_CHECKING:
    from moorline.events.event import Event

__all__ = ["SendGrid"]

_RECIPIENTS: Final = 1000
_TAGS: Final = 10
_TAG: Final = 255
_METADATA_BYTES: Final = 10_000
_AHEAD: Final = 72 * 3600
_BYTES: Final = 30 * 1024 * 1024  # of the whole message
_VALIDATED: Final = 200
_RESERVED: Final = frozenset(
    {
        "bcc",
        "cc",
        "content-transfer-encoding",
        "content-type",
        "dkim-signature",
        "from",
        "received",
        "reply-to",
        "subject",
        "to",
        "x-sg-eid",
        "x-sg-id",
    }
)
_KINDS: Final = {
    "processed": EmailEventKind.ACCEPTED,
    "delivered": EmailEventKind.DELIVERED,
    "deferred": EmailEventKind.DEFERRED,
    "bounce": EmailEventKind.BOUNCED,
    "dropped": EmailEventKind.REJECTED,
    "spamreport": EmailEventKind.COMPLAINED,
    "open": EmailEventKind.OPENED,
    "click": EmailEventKind.CLICKED,
    "unsubscribe": EmailEventKind.UNSUBSCRIBED,
    "group_unsubscribe": EmailEventKind.UNSUBSCRIBED,
    "group_resubscribe": EmailEventKind.SUBSCRIBED,
}
# SendGrid's own names at the top of an event; all others there are custom_args. Those behind the first line are not in
# the card but in SendGrid's event reference.
_OWN: Final = frozenset(
    {
        "attempt", "bounce_classification", "category", "email", "event", "reason", "response", "sg_event_id",
        "sg_message_id", "smtp-id", "status", "timestamp", "type", "url",
        "asm_group_id", "ip", "marketing_campaign_id", "marketing_campaign_name", "pool", "send_at",
        "sg_content_type", "sg_machine_open", "sg_template_id", "sg_template_name", "tls", "url_offset", "useragent",
    }
)  # fmt: skip
_MESSAGE_ID: Final = re.compile(
    r"(.+?)(?:\.(?:filter|recvd).*)?"
)  # X-Message-Id, and what SendGrid adds (recvd: unconfirmed)


class SendGrid(Service):
    """E-mail by Twilio SendGrid. EU subusers: ``region="eu"``. Mail that comes in by Inbound Parse is taken by
    SendGridInbound (``/webhooks/sendgrid_inbound``).

    Facts: services/email/sendgrid.md; contract: sendgrid.json.
    """

    name, category = "sendgrid", "email"
    docs = "services/email/sendgrid.md, sendgrid.json"
    endpoints = Endpoints("https://api.sendgrid.com", regions={"eu": "https://api.eu.sendgrid.com"})
    credentials = BearerKey(env="SENDGRID_API_KEY", sandbox="SG.sandbox")
    limits = RateLimitHeaders(
        fields=(LimitFields("X-RateLimit-Remaining", "X-RateLimit-Limit", "X-RateLimit-Reset", reset_as="epoch"),)
    )
    errors = ErrorMap(code="errors.0.field", message="errors.0.message", request_id="id")
    # Each event of a delivery is stored by itself: it is custom_args that lie at its top, not of the whole.
    # Unconfirmed: that a delivery which is tried again is signed anew; 300 s are the common choice, not SendGrid's.
    webhooks = ECDSASignature(
        signature="X-Twilio-Email-Event-Webhook-Signature",
        timestamp="X-Twilio-Email-Event-Webhook-Timestamp",
        env="SENDGRID_WEBHOOK_VERIFICATION_KEY",
        id="sg_event_id",
        type="event",
        each="*",
        delivers=Delivers(retries="with growing gaps for up to 24 h"),
    )
    default_headers: ClassVar[Mapping[str, str]] = {"Accept": "application/json"}  # without it the answer is 406
    usage = """
from moorline.services import SendGrid
from moorline.services.email.protocol import Email

sent = SendGrid().send(Email("ada@example.com", "Hello", "Welcome.", sender="Shop <shop@example.com>")).result()
print(sent.id)
"""

    @operation
    def send(self, /, email: Email, *, sandbox_mode: bool = False, **extra: object) -> Plan[SentEmail]:
        """Hand one message over: all of *to*, *cc* and *bcc* get the same mail and see *to* and *cc*.

        ``sandbox_mode=True`` only validates. *tags* become categories, *metadata* custom_args, *template_data* the
        dynamic template's data. *extra* are SendGrid's further top-level fields by their names (``asm``, ``batch_id``).

        Raises InvalidRequest, naming field and limit, before anything is sent: more than 1000 recipients of a kind, one
        recipient twice, more than 10 tags, metadata over 10,000 bytes or under the name of a field of SendGrid's events
        (``status``, ``type``), a reserved header, a time more than 72 hours ahead, a message over 30 MB.
        """
        mail = _mail(email, [_envelope(email, email.to, email.template_data)], self.clock.wall())
        return self.post(
            "/v3/mail/send", json=_extended(mail, extra, sandbox_mode=sandbox_mode), parse=_sent, blank=True
        )

    @operation
    def send_batch(self, /, email: Email, *, sandbox_mode: bool = False, **extra: object) -> Plan[BatchSent]:
        """Hand over one message for each of *to*, up to 1000, who do not see one another: one personalization each.

        SendGrid takes all or none, and gives one id for them all; the ids in its events begin with it. Raises as
        ``send``, and InvalidRequest for *cc* and *bcc*.
        """
        check_batch(email, _RECIPIENTS)
        people = [_envelope(email, (address,), email.alone(address)) for address in email.to]
        mail = _mail(email, people, self.clock.wall())

        def parse(exchange: Exchange) -> BatchSent:
            sent = _sent(exchange)
            results = tuple(SentTo(address, sent.id, accepted=sent.accepted) for address in email.to)
            return BatchSent(results, raw=sent.raw)

        return self.post(
            "/v3/mail/send", json=_extended(mail, extra, sandbox_mode=sandbox_mode), parse=parse, blank=True
        )

    @operation
    def check(self) -> Plan[bool]:
        """True if the key is good and may send mail: asks for a batch id, which does nothing by itself."""
        return self.post("/v3/mail/batch", parse=_checked, repeatable=True)

    @operation
    def mint_key(self, label: str) -> Plan[Minted]:
        """Make another key with the rights of this one, which needs ``api_keys.create`` among them; up to 100 may be
        at once. For ``moorline keys rotate``.

        Facts: sendgrid/sendgrid-oai, spec/paths/security/api_keys.json; of GET /v3/scopes, sendgrid/sendgrid-go,
        rest/api/v3/scopes. Raises PermissionDenied without that right, and when there are 100.
        """

        def like_this_one(scopes: list[str]) -> Plan[Minted]:
            # Without scopes SendGrid makes a key that may do everything.
            body = {"name": label, "scopes": scopes}
            return self.post("/v3/api_keys", json=body, parse=_minted)

        return self.post_after(self.get("/v3/scopes", parse=_scopes), like_this_one, parse=_minted)

    @operation
    def revoke_key(self, id: str) -> Plan[bool]:
        """Delete the key of that id: it is refused from now on. False where there is none."""
        path = f"/v3/api_keys/{segment(id, 'id')}"
        return self.delete(path, parse=lambda _: True, blank=True, accept=gone)

    @operation
    def find_keys(self, label: str) -> Plan[Sequence[str]]:
        """The ids of the keys that are called so, which need not be one."""
        return self.get("/v3/api_keys", parse=called(label, "result", "api_key_id"))

    def key_id(self, secret: Secret) -> str | None:
        """The middle one of the three parts of a key, ``SG.id.secret``, as the example of the API's description has
        it.
        """
        parts = secret.reveal().split(".")
        return parts[1] if len(parts) == 3 and parts[0] == "SG" and parts[1] else None

    @classmethod
    def read_event(cls, event: Event) -> EmailEvent | None:
        """What an event means; None for a word that is newer than this program.

        A bounce is permanent unless SendGrid calls it ``blocked``. Raises BadAnswer for one of another shape.
        """
        told = record(event.payload, "the event")
        kind = _KINDS.get(event.type)
        if kind is None:
            return None
        found = _MESSAGE_ID.fullmatch(optional_text(told, "sg_message_id") or "")
        category = told.get("category")
        tags = [category] if isinstance(category, str) else items(category or [], "category")
        return EmailEvent(
            kind,
            event.type,
            recipient=optional_text(told, "email"),
            message_id=found[1] if found else None,
            at=moment(told, "timestamp"),
            permanent=optional_text(told, "type") != "blocked" if kind is EmailEventKind.BOUNCED else None,
            reason=optional_text(told, "reason") or optional_text(told, "response"),
            url=optional_text(told, "url"),
            tags=tuple(str(one) for one in tags),
            metadata={name: value for name, value in told.items() if name not in _OWN and isinstance(value, str)},
            raw=told,
        )


def _check(email: Email, *, now: float) -> None:
    seen: set[str] = set()
    for kind in ("to", "cc", "bcc"):
        at_most(kind, getattr(email, kind), _RECIPIENTS, "recipients")
        for address in getattr(email, kind):
            folded = address.email.lower()
            if folded in seen:
                raise refused(kind, f"{address.email} is there twice; an address may be once over to, cc and bcc")
            seen.add(folded)
    at_most("reply_to", email.reply_to, _RECIPIENTS, "addresses")
    at_most("tags", email.tags, _TAGS, "tags")
    if len(set(email.tags)) != len(email.tags):
        raise refused("tags", "must be unique")
    for tag in email.tags:
        at_most("tags", tag, _TAG, "characters in a tag")
    at_most("metadata", _compact(dict(email.metadata)), _METADATA_BYTES, "bytes")
    for name in email.metadata:
        if name in _OWN:  # metadata lies beside it at the top of an event, where it would be lost or taken for it
            raise refused(f"metadata[{name}]", "is a field of SendGrid's own events; take another name")
    for name in email.headers:
        if name.lower() in _RESERVED:
            raise refused(f"headers[{name}]", "is set by SendGrid itself")
    if email.send_at is not None and email.send_at.timestamp() > now + _AHEAD:
        raise refused("send_at", "is more than 72 hours ahead, the limit")
    size = sum(len(one.content) * 4 // 3 for one in email.attachments)
    size += len((email.text or "").encode()) + len((email.html or "").encode())
    if size > _BYTES:
        raise refused("attachments", f"the message has about {size} bytes; the limit is {_BYTES}")


def _envelope(email: Email, to: tuple[Address, ...], data: Mapping[str, Any]) -> dict[str, Any]:
    """A personalization: one mail, which all in it get and see."""
    envelope: dict[str, Any] = {"to": [_address(one) for one in to]}
    for kind in ("cc", "bcc"):
        if getattr(email, kind):
            envelope[kind] = [_address(one) for one in getattr(email, kind)]
    if email.metadata:
        envelope["custom_args"] = dict(email.metadata)
    if data:
        envelope["dynamic_template_data"] = dict(data)
    return envelope


def _mail(email: Email, people: list[dict[str, Any]], now: float) -> dict[str, Any]:
    if email.sender is None:
        raise refused("sender", "is needed: SendGrid has no default sender")
    _check(email, now=now)
    mail: dict[str, Any] = {"personalizations": people, "from": _address(email.sender)}
    if len(email.reply_to) == 1:
        mail["reply_to"] = _address(email.reply_to[0])
    elif email.reply_to:
        mail["reply_to_list"] = [_address(one) for one in email.reply_to]
    optional = {
        "subject": email.subject,
        "content": list(_content(email)),
        "attachments": [_attachment(one) for one in email.attachments],
        "categories": list(email.tags),
        "headers": dict(email.headers),
        "template_id": email.template,
        "send_at": None if email.send_at is None else int(email.send_at.timestamp()),
    }
    return mail | {name: value for name, value in optional.items() if value}


def _extended(mail: dict[str, Any], extra: Mapping[str, object], *, sandbox_mode: bool) -> dict[str, Any]:
    mail = {**mail, **extra}
    if sandbox_mode:
        settings = mail.get("mail_settings")
        others = settings if isinstance(settings, Mapping) else {}
        mail["mail_settings"] = {**others, "sandbox_mode": {"enable": True}}
    return mail


def _address(address: Address) -> dict[str, str]:
    return {"email": address.email, "name": address.name} if address.name else {"email": address.email}


def _content(email: Email) -> Iterator[dict[str, str]]:
    """Plain text first: SendGrid refuses the other order."""
    if email.text:
        yield {"type": "text/plain", "value": email.text}
    if email.html:
        yield {"type": "text/html", "value": email.html}


def _attachment(attachment: Attachment) -> dict[str, str]:
    encoded = {
        "content": base64.b64encode(attachment.content).decode(),
        "filename": attachment.filename,
        "type": attachment.media_type,
    }
    if not encoded["content"]:
        raise refused("attachments.content", f"{attachment.filename} is empty")
    if attachment.content_id is None:
        return encoded | {"disposition": "attachment"}
    return encoded | {"disposition": "inline", "content_id": attachment.content_id}


def _compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _sent(exchange: Exchange) -> SentEmail:
    """The id is in a header; the body of a success is empty, and not looked at."""
    accepted = exchange.status != _VALIDATED
    return SentEmail(exchange.header("X-Message-Id"), accepted=accepted, raw={"status": exchange.status})


def _checked(exchange: Exchange) -> bool:
    return bool(text(record(exchange.data), "batch_id"))


def _scopes(exchange: Exchange) -> list[str]:
    found = items(record(exchange.data).get("scopes"), "scopes")
    if not found or not all(isinstance(one, str) for one in found):
        raise BadAnswer("the answer names no scopes")
    return found


_minted = minted("SENDGRID_API_KEY", "api_key", "api_key_id")
