"""Vonage's older SMS API: send text messages, and what it tells of them.

Facts: services/sms/vonage.md; contract: vonage.json; vonage-sms 1.2, vonage-account 1.1 (get_balance,
create_secret, revoke_secret), vonage-http-client 1.5 (auth, check_signature).
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from string import ascii_lowercase, ascii_uppercase, digits
from typing import TYPE_CHECKING, Any, ClassVar, Final

from moorline import redaction
from moorline.calls.dialects import basic
from moorline.calls.minting import Minted
from moorline.calls.service import (
    BearerKey,
    Endpoints,
    ErrorMap,
    Exchange,
    Parameter,
    Plan,
    Service,
    operation,
    segment,
)
from moorline.errors import (
    AuthenticationFailed,
    BadAnswer,
    OutcomeUnknown,
    PermissionDenied,
    ServiceUnavailable,
)
from moorline.events.delivery import Delivers
from moorline.events.schemes.signed_fields import SignedFields
from moorline.secrets.secret import Secret
from moorline.services.answers import items, moment, optional_text, record, text
from moorline.services.key_answers import gone
from moorline.services.limits import at_most, refused
from moorline.services.sms.protocol import SMS, InboundSMS, SentSMS, SMSEvent, SMSStatus, international

if TYPE_CHECKING:
    from moorline.events.event import Event

__all__ = ["VonageSMS"]

_SHORT: Final = 100  # of client-ref and callback: vonage-sms 1.2; the contract of 2021 has 40 for the former
_TTL: Final = range(20, 604_801)
_TAKEN: Final = "0"
_LONGEST: Final = 25
_LETTERS: Final = ascii_lowercase + ascii_uppercase + digits
_STATUSES: Final = {
    "accepted": SMSStatus.SENT,
    "buffered": SMSStatus.SENT,
    "delivered": SMSStatus.DELIVERED,
    "expired": SMSStatus.UNDELIVERED,
    "failed": SMSStatus.UNDELIVERED,
    "rejected": SMSStatus.UNDELIVERED,
}
# Of developer.vonage.com/messaging/sms/guides/delivery-receipts, not in the card: 3 is no longer in use, 4 is barred by
# its user, and both are to be taken off one's lists; 2, 7 and 8 were out of reach, busy, and the network's trouble.
_PERMANENT: Final = {"3": True, "4": True, "2": False, "7": False, "8": False}


class _Errors(ErrorMap):
    """Each message of an answer has a status; errors by HTTP have words of their own."""

    __slots__ = ()

    def data(self, exchange: Exchange) -> Any:
        """The answer, with ``message`` besides."""
        found = ErrorMap.data(self, exchange)
        if not isinstance(found, dict):
            return found
        first = next(iter(_messages(found)), {})
        said = (first.get("error-text"), *map(found.get, ("error-code-label", "error_title", "Error", "detail")))
        return {**found, "message": next((one for one in said if one), None)}


def _messages(answer: Any) -> list[dict[str, Any]]:
    listed = answer.get("messages") if isinstance(answer, dict) else None
    return [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []


def _failed(exchange: Exchange) -> str | None:
    """The status of the first message where Vonage took none at all: then nothing was sent."""
    try:
        statuses = [str(one.get("status")) for one in _messages(exchange.data)]
    except BadAnswer:
        return None
    return None if not statuses or _TAKEN in statuses else statuses[0]


class VonageSMS(Service):
    """Text messages by Vonage's older SMS API, their delivery receipts and inbound messages.

    The key is the account's API secret, for the API key ``account_key``; they go as a Basic pair, as in Vonage's own
    package, not as fields. Requests are not signed (``sig``): an account that demands it cannot be used. There is no
    test mode; trial accounts reach only the numbers on their list. An account has up to two secrets at a time, so that
    they are rotated without a gap, which ``moorline keys rotate`` does.

    A long text is several messages, each with an id, a price and a receipt of its own; SentSMS has the first id and
    the sum, ``raw`` has all of them. Inbound messages come in parts too (``concat-part`` in ``raw``).

    Webhooks come by GET, form or JSON, as the account is set. Their signing is off until Vonage's support turns it on;
    unsigned ones are refused. Write the account's algorithm before the secret:
    ``VONAGE_SMS_SIGNATURE_SECRET=sha512:…`` (without one it is the account's default, an MD5, which is the weakest).
    Parameters of your own in the address of a GET would have to be signed too: unconfirmed, use none.

    Facts: services/sms/vonage.md; contract: vonage.json.
    """

    name, category = "vonage_sms", "sms"
    docs = "services/sms/vonage.md, vonage.json"
    endpoints = Endpoints("https://rest.nexmo.com", hosts={"account": Endpoints("https://api.nexmo.com")})
    credentials = BearerKey(env="VONAGE_API_SECRET", sandbox="sandbox-Secret-0123456789")
    account_key = Parameter("VONAGE_API_KEY", sandbox="abcd1234", like="[0-9A-Za-z]{1,32}")
    sender = Parameter("VONAGE_SENDER", like="[!-~]+(?: [!-~]+)*", sandbox="Moorline", default="")
    # Too many requests, or connections, at a time: nothing was done. Status 29 is of older pages.
    errors = _Errors(
        code="error-code",
        message="message",
        failed=_failed,
        limited=frozenset({"1", "10"}),
        kinds={
            "4": AuthenticationFailed,
            "14": AuthenticationFailed,
            "5": ServiceUnavailable,
            "8": PermissionDenied,
            "9": PermissionDenied,
            "11": PermissionDenied,
            "29": PermissionDenied,
        },
        statuses={402: PermissionDenied},
    )
    webhooks = SignedFields(
        env="VONAGE_SMS_SIGNATURE_SECRET",
        id=("status", "messageId"),
        type=("status", "=received"),  # an inbound message has no status
        delivers=Delivers(retries="all but 200 and 204, for 24 h"),
    )
    lacks: ClassVar[Mapping[str, str]] = {
        "get_message": "Vonage is about to remove Message Search; what became of a message is told by its receipts",
    }
    usage: ClassVar[str] = """
from moorline.services import VonageSMS
from moorline.services.sms.protocol import SMS

sent = VonageSMS().send(SMS("+447700900000", "Your code is 4711", sender="Moorline")).result()
print(sent.id, sent.segments, sent.price)
"""

    def authorized(
        self,
        key: Secret,
        method: str,  # noqa: ARG002
        url: str,  # noqa: ARG002
        headers: dict[str, str],
        body: bytes | None,  # noqa: ARG002
    ) -> dict[str, str]:
        """The headers with the account's pair."""
        return {**headers, **basic(self.account_key, key)}

    @operation
    def send(self, /, sms: SMS, *, ttl: int | None = None, **extra: object) -> Plan[SentSMS]:
        """Hand the message over. Its sender is a number or a name; without one it is VONAGE_SENDER.

        What is not GSM-7 is sent as ``unicode``. *ttl* is for how many seconds delivery is tried (20 to 604,800; Vonage
        gets milliseconds). ``reference`` comes back in the receipts, which go to ``callback`` where it is given.
        *extra* are Vonage's further fields by their names (``**{"entity-id": …}``). Vonage honours no idempotency keys:
        a message that was sent and not answered is OutcomeUnknown.

        Raises InvalidRequest, naming field and limit, before anything is sent: a reference or callback of more than 100
        characters, no sender. Vonage answers 200 whatever happens: where it took no part of the text, its status is the
        error's ``code``; where it took some parts and not others, that is OutcomeUnknown, as the text must not be sent
        again (``detail`` has the parts).
        """
        at_most("reference", sms.reference or "", _SHORT, "characters")
        at_most("callback", sms.callback or "", _SHORT, "characters")
        sender = sms.sender or self.sender
        if not sender:
            raise refused("sender", "is needed: a number or a name")
        if ttl is not None and ttl not in _TTL:
            raise refused("ttl", f"must be from {_TTL[0]} to {_TTL[-1]} seconds, not {ttl}")
        form: dict[str, object] = {
            "from": sender.removeprefix("+"),
            "to": sms.to.removeprefix("+"),
            "text": sms.text,
            "type": "text" if sms.segments.encoding == "GSM-7" else "unicode",
            "ttl": None if ttl is None else ttl * 1000,
            "callback": sms.callback,
            "client-ref": sms.reference,
        }
        return self.post("/sms/json", form=form | extra, parse=_sent)

    @operation
    def check(self) -> Plan[bool]:
        """True if the pair is good: asks for the account's balance. Whether that is enough is not told."""
        return self.get("/account/get-balance", parse=lambda exchange: bool(record(exchange.data)))

    @operation
    def mint_key(self, label: str) -> Plan[Minted]:  # noqa: ARG002 (Vonage gives secrets no names)
        """Add a second secret of the account, which may do the same. For ``moorline keys rotate``. At Vonage the caller
        chooses it, so it is drawn here.

        Facts: vonage-account 1.1 (create_secret): 8 to 25 characters with a capital, a small letter and a figure.
        Raises PermissionDenied where the account has two already.
        """
        secret = Secret(_drawn(), name="VONAGE_API_SECRET")

        def parse(exchange: Exchange) -> Minted:
            return Minted(secret, text(record(exchange.data), "id"))

        return self.post(self._secrets(), json={"secret": secret.reveal()}, host="account", parse=parse)

    @operation
    def revoke_key(self, id: str) -> Plan[bool]:
        """Take the secret of that id back. False where there is none. Raises PermissionDenied for the last one."""
        return self.delete(self._secrets(id), host="account", parse=lambda _: True, blank=True, accept=gone)

    def _secrets(self, id: str | None = None) -> str:
        return f"/accounts/{self.account_key}/secrets" + ("" if id is None else f"/{segment(id, 'id')}")

    @classmethod
    def read_event(cls, event: Event) -> SMSEvent | InboundSMS | None:
        """What a webhook means: a delivery receipt, or (a part of) an inbound message.

        ``to`` is the recipient in both; Vonage calls that ``msisdn`` in receipts. Raises BadAnswer for one of another
        shape.
        """
        told = record(event.payload, "the event")
        message, status, at = text(told, "messageId"), optional_text(told, "status"), moment(told, "message-timestamp")
        number, other = international(text(told, "msisdn")), optional_text(told, "to") or ""
        if status is None:
            said = optional_text(told, "text") or ""
            return InboundSMS(message, number, international(other), said, at=at, raw=told)
        code = optional_text(told, "err-code")
        return SMSEvent(
            _STATUSES.get(status, SMSStatus.UNKNOWN),
            status,
            message,
            to=number,
            error_code=None if code == _TAKEN else code,
            permanent=_PERMANENT.get(code or ""),
            reference=optional_text(told, "client-ref"),
            at=at,
            raw=told,
        )


def _drawn() -> str:
    """A secret that Vonage takes: 25 characters, of all three kinds."""
    while True:
        found = "".join(secrets.choice(_LETTERS) for _ in range(_LONGEST))
        if all(any(one in kind for one in found) for kind in (ascii_lowercase, ascii_uppercase, digits)):
            return found


def _sent(exchange: Exchange) -> SentSMS:
    answer = record(exchange.data)
    parts = [record(one, "a message") for one in items(answer.get("messages"), "messages")]
    if not parts:
        raise BadAnswer("the answer has no messages")
    missing = [part for part in parts if part.get("status") != _TAKEN]
    if missing:
        why = redaction.text(str(missing[0].get("error-text"))[:200])
        raise OutcomeUnknown(
            f"Vonage took {len(parts) - len(missing)} of {len(parts)} parts: {why}",
            code=str(missing[0].get("status"))[:100],
            detail=redaction.data(answer),
        )
    first = parts[0]
    to = optional_text(first, "to")
    return SentSMS(
        text(first, "message-id"),
        SMSStatus.QUEUED,
        _TAKEN,
        to=None if to is None else international(to),
        segments=len(parts),
        price=_sum([optional_text(part, "message-price") for part in parts]),
        raw=answer,
    )


def _sum(prices: list[str | None]) -> str | None:
    """What all parts cost, in the account's currency."""
    try:
        return (
            str(sum((Decimal(price) for price in prices if price is not None), start=Decimal()))
            if any(prices)
            else None
        )
    except (InvalidOperation, ValueError):
        return None
