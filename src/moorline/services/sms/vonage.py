"""Vonage: text messages by its Messages API, and what that tells us of them.

Facts: services/sms/vonage.md; contract: vonage_messages_v1.schema.json; vonage-jwt 1.1 (jwt, verify_jwt),
vonage-messages 1.8.1, vonage-users 1.2 and vonage-application 2.0 (what ``check`` asks).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final
from uuid import uuid4

from moorline.calls.dialects import basic
from moorline.calls.service import Endpoints, ErrorMap, Exchange, Parameter, Plan, Service, operation
from moorline.calls.signed_tokens import SignedTokens
from moorline.errors import AuthenticationFailed, ConfigurationError, PermissionDenied
from moorline.events.delivery import Delivers
from moorline.events.schemes.signed_jwt import SignedJWT
from moorline.secrets.secret import Secret
from moorline.services.answers import moment, optional_text, record, text
from moorline.services.limits import at_most, refused
from moorline.services.sms.protocol import SMS, InboundSMS, SentSMS, SMSEvent, SMSStatus, international

if TYPE_CHECKING:
    from moorline.events.event import Event

__all__ = ["Vonage"]

_TEXT: Final = 3200  # vonage-messages 1.8.1; the API reference still says 1000
_REFERENCE: Final = 100
_TTL: Final = range(20, 604_801)
_LIFETIME: Final = 900  # seconds, as the official package has it
_REUSED: Final = 600  # the rest is for clocks that differ, and for requests under way
_APPLICATION: Final = "VONAGE_APPLICATION_ID"
_OF_APPLICATION: Final = "VONAGE_PRIVATE_KEY"
_OF_ACCOUNT: Final = "VONAGE_API_SECRET"
# developer.vonage.com/messages/concepts/messages-status-callbacks: submitted was passed on to a provider, undeliverable
# could not be; what is rejected was refused on the way, or its time ran out.
_STATUSES: Final = {
    "submitted": SMSStatus.SENT,
    "delivered": SMSStatus.DELIVERED,
    "read": SMSStatus.DELIVERED,
    "rejected": SMSStatus.UNDELIVERED,
    "undeliverable": SMSStatus.FAILED,
}


@dataclass(frozen=True, slots=True)
class _Keys:
    """The secret of the account, or the private key of an application, whose id says that it is meant."""

    sandbox: str

    @property
    def env(self) -> str:
        return _OF_APPLICATION if os.environ.get(_APPLICATION) else _OF_ACCOUNT

    def headers(self, secret: Secret) -> dict[str, str]:  # noqa: ARG002
        """None: who sends is half of what proves it, so the service writes the header."""
        return {}


class _Problems(ErrorMap):
    """RFC 7807: the code is the fragment of ``type``, and what is wrong with which parameter belongs to the message."""

    __slots__ = ()

    def data(self, exchange: Exchange) -> Any:
        """The problem, with ``code`` and ``message`` besides."""
        found = ErrorMap.data(self, exchange)
        if not isinstance(found, dict):
            return found
        return {**found, "code": _code(found), "message": _words(found)}


class Vonage(Service):
    """Text messages by Vonage's Messages API, their statuses and inbound messages.

    There are two kinds of credentials. With ``application_id`` (VONAGE_APPLICATION_ID) the key is that application's
    private key, its PEM or the path of its file (VONAGE_PRIVATE_KEY): requests carry a JWT that it signs, which is used
    for ten of its fifteen minutes. Without one the key is the account's API secret (VONAGE_API_SECRET), for the API key
    ``account_key`` (VONAGE_API_KEY). An *account_key* as an argument counts more than an application in the
    environment. Unconfirmed: that an account has two secrets at a time, so that they are rotated without a gap, and
    that a new key pair of an application ends the old one at once.

    There is no test mode for text messages. The regions are for what must go to one (updates of messages, by
    ``request``); ``us`` and ``ap`` are unconfirmed, as is sending by any.

    Webhooks: several accounts may send here: list all their signature secrets; which one it was is the event's
    ``secret``. The digest of the body in the token, whose check Vonage calls optional, must be there and right.

    Facts: services/sms/vonage.md; contract: vonage_messages_v1.schema.json.
    """

    name, category = "vonage", "sms"
    docs = "services/sms/vonage.md, vonage_messages_v1.schema.json"
    endpoints = Endpoints(
        "https://api.nexmo.com",
        regions={
            "eu": "https://api-eu.vonage.com",
            "us": "https://api-us.vonage.com",
            "ap": "https://api-ap.vonage.com",
        },
    )
    credentials = _Keys(sandbox="sandbox-Secret-0123456789")
    application_id = Parameter(_APPLICATION, like="[0-9A-Za-z-]{1,64}", default="")
    account_key = Parameter("VONAGE_API_KEY", sandbox="abcd1234", like="[0-9A-Za-z]{1,32}", default="")
    sender = Parameter("VONAGE_SENDER", like="[!-~]+(?: [!-~]+)*", sandbox="Moorline", default="")
    # A 429 says that nothing was done. Which of 402 and 422 comes for what is unconfirmed; the codes say it too.
    errors = _Problems(
        code="code",
        message="message",
        request_id="instance",
        limited=frozenset({"1000"}),
        kinds={
            "unauthorized": AuthenticationFailed,
            "forbidden": PermissionDenied,
            "low-balance": PermissionDenied,
            "1060": PermissionDenied,
            "1080": PermissionDenied,
        },
        statuses={402: PermissionDenied},
    )
    webhooks = SignedJWT(
        env="VONAGE_SIGNATURE_SECRET",
        id=("status", "message_uuid"),
        type=("status", "=received"),  # an inbound message has no status
        # After errors of its own it delivers without a signature, and signs when it comes again. That the window is
        # ours, and which claims beside iat it sets, is unconfirmed.
        unsigned=503,
        delivers=Delivers(retries="429 and 5xx only: after 5 s, doubling up to 15 min, for 24 h"),
    )
    lacks: ClassVar[Mapping[str, str]] = {
        "get_message": "the Messages API has none; what became of a message is told by its webhooks",
    }
    usage: ClassVar[str] = """
from moorline.services import Vonage
from moorline.services.sms.protocol import SMS

sent = Vonage().send(SMS("+447700900000", "Your code is 4711", sender="Moorline", reference="order-1")).result()
print(sent.id, sent.status)
"""

    _tokens: SignedTokens | None = None

    def authorized(
        self,
        key: Secret,
        method: str,  # noqa: ARG002
        url: str,  # noqa: ARG002
        headers: dict[str, str],
        body: bytes | None,  # noqa: ARG002
    ) -> dict[str, str]:
        """The headers with a JWT of the application, or the account's key and secret. Raises ConfigurationError."""
        application = self._application()
        if application:
            return {**headers, "Authorization": f"Bearer {self._signed(key, application)}"}
        if not self.account_key:
            raise ConfigurationError(
                f"{self.name} has neither application_id ({_APPLICATION}, with {_OF_APPLICATION}) nor account_key "
                f"(VONAGE_API_KEY, with {_OF_ACCOUNT})"
            )
        return {**headers, **basic(self.account_key, key)}

    @operation
    def send(
        self, /, sms: SMS, *, ttl: int | None = None, sms_options: dict[str, Any] | None = None, **extra: object
    ) -> Plan[SentSMS]:
        """Hand the message over. Its sender is a number or a name; without one it is VONAGE_SENDER.

        *ttl* is for how many seconds delivery is tried (20 to 604,800). ``reference`` comes back in the statuses, which
        go to ``callback`` where it is given. *sms_options* is Vonage's field ``sms`` (``encoding_type``, which it
        chooses by itself, ``entity_id``, ``content_id``); *extra* are its further fields by their names (``failover``,
        ``trusted_recipient``). Vonage honours no idempotency keys: a message that was sent and not answered is
        OutcomeUnknown.

        Raises InvalidRequest, naming field and limit, before anything is sent: more than 3200 characters (an account
        may allow fewer), a reference of more than 100, no sender.
        """
        at_most("text", sms.text, _TEXT, "characters")
        at_most("reference", sms.reference or "", _REFERENCE, "characters")
        sender = sms.sender or self.sender
        if not sender:
            raise refused("sender", "is needed: a number or a name")
        if ttl is not None and ttl not in _TTL:
            raise refused("ttl", f"must be from {_TTL[0]} to {_TTL[-1]} seconds, not {ttl}")
        optional = {"client_ref": sms.reference, "webhook_url": sms.callback, "ttl": ttl, "sms": sms_options}
        message = {
            "channel": "sms",
            "message_type": "text",
            "to": sms.to.removeprefix("+"),
            "from": sender.removeprefix("+"),
            "text": sms.text,
            **{name: value for name, value in optional.items() if value is not None},
        }

        def parse(exchange: Exchange) -> SentSMS:
            answer = record(exchange.data)
            # The answer names no state: 202 is all that it says.
            return SentSMS(text(answer, "message_uuid"), SMSStatus.QUEUED, "accepted", to=sms.to, raw=answer)

        return self.post("/v1/messages", json=message | extra, parse=parse)

    @operation
    def check(self) -> Plan[bool]:
        """True if the key is good. The Messages API has nothing to read, so it asks for one of the application's users
        (Users API), or for one of the account's applications (Application API). Whether it may send is not told.
        """
        path = "/v1/users" if self._application() else "/v2/applications"
        return self.get(path, query={"page_size": 1}, parse=lambda exchange: bool(record(exchange.data)))

    @classmethod
    def read_event(cls, event: Event) -> SMSEvent | InboundSMS | None:
        """What a webhook of version v1 means: a status of a message, or an inbound message; None for other channels.

        A message that was read is ``delivered``. Vonage does not say which errors are final (``permanent`` is None).
        Raises BadAnswer for one of another shape.
        """
        told = record(event.payload, "the event")
        if told.get("channel", "sms") != "sms":
            return None
        message, status, at = text(told, "message_uuid"), optional_text(told, "status"), moment(told, "timestamp")
        if status is None:
            sender, to = international(text(told, "from")), international(text(told, "to"))
            return InboundSMS(message, sender, to, optional_text(told, "text") or "", at=at, raw=told)
        to = optional_text(told, "to") or ""
        problem = told.get("error")
        problem = {} if problem is None else record(problem, "the error")
        return SMSEvent(
            _STATUSES.get(status, SMSStatus.UNKNOWN),
            status,
            message,
            to=international(to) or None,
            error_code=_code(problem),
            reason=_words(problem),
            reference=optional_text(told, "client_ref"),
            at=at,
            raw=told,
        )

    def _application(self) -> str:
        """The application that sends, or nothing where the account does."""
        if "account_key" in self.parameters and "application_id" not in self.parameters:
            return ""
        return self.application_id

    def _key_variable(self) -> str:
        return _OF_APPLICATION if self._application() else _OF_ACCOUNT

    def _signed(self, key: Secret, application: str) -> str:
        """A JWT of the application: the last one while it is good. That one may be used again is unconfirmed."""
        now = self.clock.wall()
        if self._tokens is None:
            self._tokens = SignedTokens(self.name, reused=_REUSED)

        def claims() -> dict[str, Any]:
            times = {"iat": int(now), "exp": int(now) + _LIFETIME}
            return {"application_id": application, **times, "jti": str(uuid4())}

        return self._tokens.token(key, application, now, claims).reveal()


def _code(problem: Mapping[str, Any]) -> str | None:
    """``1150`` of ``https://developer.vonage.com/api-errors/messages#1150``."""
    kind = problem.get("type")
    return kind.rpartition("#")[2] or None if isinstance(kind, str) and "#" in kind else None


def _words(problem: Mapping[str, Any]) -> str | None:
    """What it says, and of which parameters. Gateways say ``Error``, where they say anything."""
    told = next((said for name in ("detail", "title", "Error") if (said := problem.get(name))), None)
    wrong = problem.get("invalid_parameters")
    reasons = [
        f"{one.get('name')}: {one.get('reason')}"
        for one in (wrong if isinstance(wrong, list) else ())
        if isinstance(one, dict)
    ]
    if not isinstance(told, (str, int)):
        return "; ".join(reasons) or None
    return f"{told} ({'; '.join(reasons)})" if reasons else str(told)
