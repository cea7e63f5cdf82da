"""Twilio: text messages, their status callbacks, and inbound messages.

Facts: services/sms/twilio.md; contract: twilio.json; twilio 9.13 (request_validator).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar, Final
from urllib.parse import urlencode

from moorline.calls.dialects import basic
from moorline.calls.service import (
    BearerKey,
    Endpoints,
    ErrorMap,
    Exchange,
    Page,
    Parameter,
    Plan,
    Service,
    listing,
    operation,
    segment,
)
from moorline.errors import AuthenticationFailed, BadAnswer
from moorline.events.delivery import Delivers, Reply
from moorline.events.schemes.signed_form import SignedForm
from moorline.services.answers import items, optional_text, record, text
from moorline.services.limits import at_most, refused
from moorline.services.sms.protocol import SMS, InboundSMS, SentSMS, SMSEvent, SMSStatus, phone_number

if TYPE_CHECKING:
    from moorline.events.event import Event
    from moorline.secrets.secret import Secret

__all__ = ["Twilio"]

_FORM: Final = "application/x-www-form-urlencoded"
_TEXT: Final = 1600
_MEDIA: Final = 10
_PAGE: Final = 1000
_SERVICE: Final = "MG"
_STATUSES: Final = {
    "accepted": SMSStatus.QUEUED,
    "scheduled": SMSStatus.QUEUED,
    "queued": SMSStatus.QUEUED,
    "sending": SMSStatus.QUEUED,
    "sent": SMSStatus.SENT,
    "delivered": SMSStatus.DELIVERED,
    "read": SMSStatus.DELIVERED,
    "undelivered": SMSStatus.UNDELIVERED,
    "failed": SMSStatus.FAILED,
    "canceled": SMSStatus.CANCELED,
}
_INBOUND: Final = frozenset({"received", "receiving"})
# The numbers are the same for all inbound media of a message: MediaUrl0 to MediaUrl9.
_MEDIA_FIELDS: Final = tuple(f"MediaUrl{number}" for number in range(_MEDIA))


class Twilio(Service):
    """Text messages by Twilio, their status callbacks and inbound messages.

    Test mode is a property of the pair: the account's test SID and test Auth Token, on the same host. The key is the
    Auth Token; with ``api_key_sid="SK…"`` it is the secret of that API key, of which several may be in use at once, so
    that they are rotated without a gap (an Auth Token has a secondary one meanwhile). ``region="ie1"`` keeps data in
    Ireland, and has keys of its own.

    Callbacks: the address is signed as Twilio calls it: behind a proxy set ``webhooks.public_url``. The secret is the
    account's primary Auth Token (while another is promoted, list the old and the new), or a shared key's, whose
    algorithm the headers name. The type is the status (``delivered``, ``failed``), for an inbound message ``received``.
    The answer is an empty ``<Response/>``: no reply, so calls, which want TwiML that depends on them, are not for this.

    Facts: services/sms/twilio.md; contract: twilio.json.
    """

    name, category = "twilio", "sms"
    docs = "services/sms/twilio.md, twilio.json"
    endpoints = Endpoints("https://api.twilio.com", regions={"ie1": "https://api.dublin.ie1.twilio.com"})
    credentials = BearerKey(env="TWILIO_AUTH_TOKEN", sandbox="sandbox-auth-token-0123456789abc")
    account_sid = Parameter(
        "TWILIO_ACCOUNT_SID", sandbox="AC0123456789abcdef0123456789abcdef", like="AC[0-9a-fA-F]{32}"
    )
    api_key_sid = Parameter("TWILIO_API_KEY_SID", like="SK[0-9a-fA-F]{32}", default="")
    sender = Parameter("TWILIO_SENDER", sandbox="+15005550006", default="")
    # A 429 was not processed (docs:api/errors/20429). 20003 for a bad key is unconfirmed; the status says it too.
    errors = ErrorMap(
        code="code",
        message="message",
        limited=frozenset({"20429", "21611", "63017"}),
        kinds={"20003": AuthenticationFailed},
    )
    webhooks = SignedForm(
        header="X-Twilio-Signature",
        settings="X-Twilio-Webhooks-Signature-Settings",  # twilio 9.13; not in the card
        env="TWILIO_AUTH_TOKEN",
        id=("MessageStatus|SmsStatus|=received", "MessageSid"),
        lacking="digest",  # what is no message has no MessageSid
        repeats_after=15,  # as long as an attempt may take: a caller may press the same key twice
        type=("MessageStatus", "SmsStatus", "CallStatus", "=received"),  # SmsStatus of inbound messages: unconfirmed
        answer=Reply(200, b"<Response/>", "text/xml"),
        # That a fragment (#rc=3, which sets the retries) is left out of the signed address is unconfirmed.
        delivers=Delivers(within=15, retries="once, when the connection fails (#rc=… in the address: up to 5)"),
    )
    usage: ClassVar[str] = """
from moorline.services import Twilio
from moorline.services.sms.protocol import SMS

sent = Twilio().send(SMS("+14155552671", "Your code is 4711", sender="+15005550006")).result()
print(sent.id, sent.status, sent.segments)
"""

    def authorized(
        self,
        key: Secret,
        method: str,  # noqa: ARG002
        url: str,  # noqa: ARG002
        headers: dict[str, str],
        body: bytes | None,  # noqa: ARG002
    ) -> dict[str, str]:
        """The headers with those of the account, or of its API key."""
        return {**headers, **basic(self.api_key_sid or self.account_sid, key)}

    @operation
    def send(
        self,
        /,
        sms: SMS,
        *,
        media: Sequence[str] = (),
        send_at: datetime | None = None,
        valid_for: int | None = None,
        **extra: object,
    ) -> Plan[SentSMS]:
        """Hand the message over. Its sender is a number, a name, or a Messaging Service (``MG…``); else TWILIO_SENDER.

        *media* are addresses of pictures and the like, up to 10; *send_at* needs a Messaging Service, *valid_for* is
        in seconds (1 to 36,000). *extra* are Twilio's further fields by their names (``ContentSid``, ``SmartEncoded``).
        Twilio honours no idempotency keys: a message that was sent and not answered is OutcomeUnknown. What
        ``reference`` says is not repeated by Twilio; put it into the callback's address.

        Raises InvalidRequest, naming field and limit, before anything is sent: more than 1600 characters, more than 10
        media, no sender.
        """
        at_most("text", sms.text, _TEXT, "characters")
        at_most("media", media, _MEDIA, "addresses")
        sender = sms.sender or self.sender
        if not sender:
            raise refused("sender", "is needed: a number, or a Messaging Service (MG…)")
        service = sender.startswith(_SERVICE)
        if send_at is not None and (send_at.tzinfo is None or not service):
            raise refused("send_at", "needs a time zone, and a Messaging Service for a sender")
        if valid_for is not None and not 1 <= valid_for <= 36_000:
            raise refused("valid_for", f"must be from 1 to 36000 seconds, not {valid_for}")
        form: dict[str, object] = {
            "To": sms.to,
            "MessagingServiceSid" if service else "From": sender,
            "Body": sms.text,
            "StatusCallback": sms.callback,
            "MediaUrl": list(media),
            "SendAt": None if send_at is None else send_at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "ScheduleType": None if send_at is None else "fixed",
            "ValidityPeriod": valid_for,
        }
        return self._posted(self._path(), form | extra, _sent)

    @operation
    def get_message(self, message_id: str) -> Plan[SentSMS]:
        """The message as it is now. Raises NotFound, also for one that lies in another region."""
        return self.get(self._path(message_id), parse=_sent)

    @operation
    def cancel_message(self, message_id: str) -> Plan[SentSMS]:
        """Give a message up that was scheduled and is not sent yet. Raises InvalidRequest where it is too late."""
        return self._posted(self._path(message_id), {"Status": "canceled"}, _sent)

    @operation
    def redact_message(self, message_id: str) -> Plan[SentSMS]:
        """Have Twilio forget the text of a message that has ended; the rest of its record stays."""
        return self._posted(self._path(message_id), {"Body": ""}, _sent)

    @operation
    def delete_message(self, message_id: str) -> Plan[None]:
        """Have Twilio forget a message. Raises NotFound."""
        return self.delete(self._path(message_id), parse=lambda _: None, blank=True)

    @listing
    def list_messages(
        self, /, *, to: str | None = None, sender: str | None = None, page_size: int = _PAGE
    ) -> Plan[Page[SentSMS]]:
        """All messages, newest first, sent and received. *page_size* is 1 to 1000."""
        if not 1 <= page_size <= _PAGE:
            raise refused("page_size", f"must be from 1 to {_PAGE}")
        query = {"To": None if to is None else phone_number(to), "From": sender, "PageSize": page_size}
        return self.get(self._path(), query=query, parse=self._page)

    @operation
    def check(self) -> Plan[bool]:
        """True if the pair may read messages: reads one. Test credentials may not, and raise PermissionDenied."""
        return self.get(self._path(), query={"PageSize": 1}, parse=lambda exchange: bool(record(exchange.data)))

    @classmethod
    def read_event(cls, event: Event) -> SMSEvent | InboundSMS | None:
        """What a callback means: a status of a message, or an inbound message; None for calls and the like.

        Twilio warns that the error code of one cause can change, so none of them is taken as final (``permanent`` is
        None). Raises BadAnswer for one of another shape.
        """
        told = record(event.payload, "the event")
        message = optional_text(told, "MessageSid") or optional_text(told, "SmsSid")
        if message is None:
            return None
        status = optional_text(told, "MessageStatus") or optional_text(told, "SmsStatus")
        if status is None or status in _INBOUND:
            media = tuple(url for field in _MEDIA_FIELDS if (url := optional_text(told, field)))
            sender, to, said = text(told, "From"), text(told, "To"), optional_text(told, "Body") or ""
            return InboundSMS(message, sender, to, said, media=media, raw=told)
        return SMSEvent(
            _STATUSES.get(status, SMSStatus.UNKNOWN),
            status,
            message,
            to=optional_text(told, "To"),
            error_code=optional_text(told, "ErrorCode"),
            reason=optional_text(told, "ErrorMessage"),
            raw=told,
        )

    def _path(self, message_id: str | None = None) -> str:
        base = f"/2010-04-01/Accounts/{segment(self.account_sid)}/Messages"
        return f"{base}.json" if message_id is None else f"{base}/{segment(message_id, 'message_id')}.json"

    def _posted(self, path: str, form: Mapping[str, object], parse: Any) -> Plan[SentSMS]:
        """Twilio repeats the names of lists, which the usual encoding marks with brackets."""
        pairs = [(name, _written(one)) for name, value in form.items() for one in _several(value)]
        return self.post(path, content=urlencode(pairs).encode("ascii"), headers={"Content-Type": _FORM}, parse=parse)

    def _page(self, exchange: Exchange) -> Page[SentSMS]:
        answer = record(exchange.data)
        found = tuple(_message(one) for one in items(answer.get("messages"), "messages"))
        after = optional_text(answer, "next_page_uri")
        if after is not None and not after.startswith("/2010-04-01/"):
            raise BadAnswer("the listing leads somewhere else")
        return Page(found, None if after is None else self.get(after, parse=self._page))


def _several(value: object) -> Iterable[object]:
    if value is None:
        return ()
    return value if isinstance(value, (list, tuple)) else (value,)


def _written(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, (str, int, float)):
        raise refused("extra", f"cannot be sent as a form field: {type(value).__name__}")
    return str(value)


def _sent(exchange: Exchange) -> SentSMS:
    return _message(exchange.data)


def _message(value: object) -> SentSMS:
    """Counts and prices are texts here, and error codes numbers."""
    answer = record(value, "the message")
    status, code = text(answer, "status"), answer.get("error_code")
    counted, price = optional_text(answer, "num_segments"), optional_text(answer, "price")
    unit = optional_text(answer, "price_unit")
    return SentSMS(
        text(answer, "sid"),
        _STATUSES.get(status, SMSStatus.UNKNOWN),
        status,
        to=optional_text(answer, "to"),
        segments=int(counted) if counted and counted.isdecimal() and len(counted) < 6 else None,
        price=None if price is None else f"{price} {unit or ''}".strip(),
        error_code=str(code) if isinstance(code, int) else None,
        raw=answer,
    )
