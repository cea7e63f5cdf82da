"""Twilio's stand-in: messages with their rules and magic numbers, status callbacks, one inbound message on demand.

Facts: services/sms/twilio.md and twilio.json. The account is ``AC0123456789abcdef0123456789abcdef``, its Auth Token
``sandbox-auth-token-0123456789abc``; its API key ``SK0123456789abcdef0123456789abcdef`` has the same secret. Twilio's
test numbers work as there: senders +15005550006 (good), …0001, …0007, …0008; recipients …0001, …0002, …0003, …0004,
…0009. Unlike Twilio's test credentials the stand-in tells the callback what became of a message: queued, sent and
delivered, at once. The sandbox's own: a recipient that ends in 0099 is ``undelivered`` (30003).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any
from urllib.parse import parse_qsl, urlencode

from moorline.errors import ConfigurationError
from moorline.sandbox import signing
from moorline.sandbox.standin import Answer, Ask, Emission, Registration, Signed, Surroundings

__all__ = ["STAND_IN"]

_ACCOUNT = "AC0123456789abcdef0123456789abcdef"
_KEY = "SK0123456789abcdef0123456789abcdef"
_TOKEN = "sandbox-auth-token-0123456789abc"
_BASE = f"/2010-04-01/Accounts/{_ACCOUNT}/Messages"
_MAGIC = "+1500555"
_SENDERS = {"0001": 21212, "0007": 21606, "0008": 21611}
_RECIPIENTS = {"0001": 21211, "0002": 21612, "0003": 21408, "0004": 21610, "0009": 21614}
_WORDS = {
    20003: "Authenticate",
    20404: "The requested resource was not found",
    21211: "The 'To' number {to} is not a valid phone number.",
    21212: "The 'From' number {sender} is not a valid phone number, shortcode, or alphanumeric sender ID.",
    21408: "Permission to send an SMS has not been enabled for the region indicated by the 'To' number: {to}.",
    21602: "Message body is required.",
    21603: "A 'From' phone number is required.",
    21604: "A 'To' phone number is required.",
    21606: "The 'From' phone number provided ({sender}) is not a valid message-capable Twilio phone number.",
    21610: "Attempt to send to unsubscribed recipient",
    21611: "The 'From' number {sender} has exceeded the maximum number of queued messages",
    21612: "Message cannot be sent with the current combination of 'To' ({to}) and 'From' ({sender}) parameters.",
    21614: "'To' number: {to}, is not a valid mobile number",
    21617: "The concatenated message body exceeds the 1600 character limit",
    21623: "Number of media files exceeds allowed limit",
    21609: "The 'StatusCallback' URL is not a valid URL.",
    30409: "The message cannot be canceled: it has ended.",
}
_FIELDS = frozenset(
    {
        "To", "From", "MessagingServiceSid", "Body", "MediaUrl", "ContentSid", "ContentVariables", "StatusCallback",
        "ApplicationSid", "MaxPrice", "ProvideFeedback", "Attempt", "ValidityPeriod", "ForceDelivery",
        "ContentRetention", "AddressRetention", "SmartEncoded", "PersistentAction", "TrafficType", "ShortenUrls",
        "ScheduleType", "SendAt", "SendAsMms", "RiskCheck", "FallbackFrom",
    }
)  # fmt: skip
_E164 = re.compile(r"\+[1-9][0-9]{6,14}")
_EVENTS = ("queued", "sent", "delivered", "undelivered", "failed", "received")


class _Refused(Exception):
    def __init__(self, status: int, code: int, **words: str) -> None:
        super().__init__(code)
        message = _WORDS[code].format(**words)
        more = f"https://www.twilio.com/docs/errors/{code}"
        self.answer = Answer(status, {"code": code, "message": message, "more_info": more, "status": status})


class TwilioStandIn:
    """One account."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._messages: dict[str, dict[str, Any]] = {}
        one = rf"{_BASE}/((?:SM|MM)[0-9a-fA-F]{{32}})\.json"
        self._routes: list[tuple[str, str, Callable[..., Answer]]] = [
            ("POST", rf"{_BASE}\.json", self._create),
            ("GET", rf"{_BASE}\.json", self._list),
            ("GET", one, self._fetch),
            ("POST", one, self._update),
            ("DELETE", one, self._delete),
        ]

    async def handle(self, ask: Ask) -> Answer:
        """Answer one request."""
        try:
            self._authorise(ask)
            await ask.work()
            return self._routed(ask)
        except _Refused as refused:
            return refused.answer

    def snapshot(self) -> dict[str, Any]:
        """The messages by id."""
        return {"messages": self._messages}

    def failure(self, status: int) -> Answer:
        """Twilio's error body for an injected status."""
        code, message = (
            (20429, "Too Many Requests") if status == 429 else (20500, "An internal server error has occurred")
        )
        more = f"https://www.twilio.com/docs/errors/{code}"
        return Answer(status, {"code": code, "message": message, "more_info": more, "status": status})

    def sample(self, event: str) -> bytes:
        """A callback of that status, or an inbound message for ``received``."""
        if event not in _EVENTS:
            raise ConfigurationError(f"'event': the sandbox knows {', '.join(_EVENTS)} of Twilio")
        sid = self._around.id("SM", 0) + f"{self._around.random.getrandbits(128):032x}"
        if event == "received":
            fields = {"From": "+14155552671", "To": "+15005550006", "Body": "STOP by ☕", "NumMedia": "0"}
            return _form({"MessageSid": sid, "SmsSid": sid, "AccountSid": _ACCOUNT, **fields, "NumSegments": "1"})
        return _callback({"sid": sid, "to": "+14155552671", "from": "+15005550006"}, event)

    def sign(self, emission: Emission, *, url: str, secrets: tuple[str, ...], hook_id: str, broken: bool) -> Signed:
        """``X-Twilio-Signature`` over the address and the fields."""
        return signing.signed(
            "twilio",
            emission,
            url=url,
            secrets=secrets,
            broken=broken,
            now=self._around.clock.wall(),
            headers={
                "Content-Type": "application/x-www-form-urlencoded; charset=UTF-8",
                "User-Agent": "TwilioProxy/1.1",
            },
        )

    def _authorise(self, ask: Ask) -> None:
        scheme, _, pair = ask.headers.get("authorization", "").partition(" ")
        try:
            user, _, secret = base64.b64decode(pair, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            user = secret = ""
        if scheme.lower() != "basic" or user not in (_ACCOUNT, _KEY) or secret != _TOKEN:
            raise _Refused(401, 20003)

    def _routed(self, ask: Ask) -> Answer:
        for method, pattern, action in self._routes:
            found = re.fullmatch(pattern, ask.path)
            if method == ask.method and found:
                return action(ask, *found.groups())
        raise _Refused(404, 20404)

    def _create(self, ask: Ask) -> Answer:
        pairs = parse_qsl(ask.body.decode("utf-8", "replace"), keep_blank_values=True)
        fields, media = {**dict(pairs)}, [value for name, value in pairs if name == "MediaUrl"]
        _check(fields, media)
        now = format_datetime(datetime.fromtimestamp(self._around.now(), UTC))
        sid = ("MM" if media else "SM") + f"{self._around.random.getrandbits(128):032x}"
        service = fields.get("MessagingServiceSid")
        scheduled = fields.get("ScheduleType") == "fixed"
        message: dict[str, Any] = {
            "sid": sid,
            "account_sid": _ACCOUNT,
            "messaging_service_sid": service,
            "status": "scheduled" if scheduled else "accepted" if service else "queued",
            "direction": "outbound-api",
            "from": None if service else fields["From"],
            "to": fields["To"],
            "body": fields.get("Body", ""),
            "num_segments": "0" if service else str(max(1, -(-len(fields.get("Body", "")) // 153))),
            "num_media": str(len(media)),
            "price": None,
            "price_unit": None,
            "error_code": None,
            "error_message": None,
            "date_created": now,
            "date_updated": now,
            "date_sent": None,
            "api_version": "2010-04-01",
            "uri": f"{_BASE}/{sid}.json",
            "subresource_uris": {"media": f"{_BASE}/{sid}/Media.json"},
        }
        self._messages[sid] = message
        answer = Answer(201, dict(message))
        if not scheduled:
            self._delivered(message, tell=bool(fields.get("StatusCallback")), now=now)
        return answer

    def _delivered(self, message: dict[str, Any], *, tell: bool, now: str) -> None:
        """What becomes of it, in the state and to whoever registered."""
        failed = message["to"].endswith("0099")
        steps = ("queued", "sent", "undelivered" if failed else "delivered")
        for step in steps:
            message["status"] = step
            if tell:
                self._around.emit(Emission(step, _callback(message, step), f"{message['sid']}.{step}"))
        message["date_sent"] = message["date_updated"] = now
        message["error_code"] = 30003 if failed else None
        message["error_message"] = "Unreachable destination handset" if failed else None

    def _list(self, ask: Ask) -> Answer:
        asked: dict[str, str] = dict(ask.parameters)
        try:
            size, page = min(int(asked.get("PageSize", "50")), 1000), int(asked.get("Page", "0"))
        except ValueError:
            size, page = 50, 0
        found = [
            one
            for one in reversed(self._messages.values())
            if asked.get("To") in (None, one["to"]) and asked.get("From") in (None, one["from"])
        ]
        shown = found[page * size : (page + 1) * size]
        kept: dict[str, str] = {name: asked[name] for name in ("To", "From") if name in asked}
        following: dict[str, object] = {**kept, "PageSize": size, "Page": page + 1, "PageToken": f"PA{page + 1}"}
        after = urlencode(following)
        more = (page + 1) * size < len(found)
        return Answer(
            200,
            {
                "messages": shown,
                "page": page,
                "page_size": size,
                "start": page * size,
                "end": page * size + max(len(shown) - 1, 0),
                "first_page_uri": f"{_BASE}.json?PageSize={size}&Page=0",
                "previous_page_uri": None,
                "next_page_uri": f"{_BASE}.json?{after}" if more else None,
                "uri": f"{_BASE}.json?PageSize={size}&Page={page}",
            },
        )

    def _found(self, sid: str) -> dict[str, Any]:
        if sid not in self._messages:
            raise _Refused(404, 20404)
        return self._messages[sid]

    def _fetch(self, _: Ask, sid: str) -> Answer:
        return Answer(200, self._found(sid))

    def _update(self, ask: Ask, sid: str) -> Answer:
        message = self._found(sid)
        fields: dict[str, str] = dict(parse_qsl(ask.body.decode("utf-8", "replace"), keep_blank_values=True))
        if fields.get("Status") == "canceled":
            if message["status"] != "scheduled":
                raise _Refused(400, 30409)
            message["status"] = "canceled"
        if fields.get("Body") == "":
            message["body"] = ""
        return Answer(200, message)

    def _delete(self, _: Ask, sid: str) -> Answer:
        self._found(sid)
        del self._messages[sid]
        return Answer(204)


def _check(fields: dict[str, str], media: list[str]) -> None:
    """In Twilio's order, as far as its pages tell one."""
    to, sender = fields.get("To", ""), fields.get("From", "")
    unknown = next((name for name in fields if name not in _FIELDS), None)
    if not to:
        raise _Refused(400, 21604)
    if not sender and not fields.get("MessagingServiceSid"):
        raise _Refused(400, 21603)
    if unknown is not None or not (fields.get("Body") or media or fields.get("ContentSid")):
        raise _Refused(400, 21602)
    if len(fields.get("Body", "")) > 1600:
        raise _Refused(400, 21617)
    if len(media) > 10:
        raise _Refused(400, 21623)
    if "_" in fields.get("StatusCallback", "").partition("//")[2].partition("/")[0]:
        raise _Refused(400, 21609)
    words = {"to": to, "sender": sender}
    if sender.startswith(_MAGIC) and sender[-4:] in _SENDERS:
        raise _Refused(400, _SENDERS[sender[-4:]], **words)
    if to.startswith(_MAGIC) and to[-4:] in _RECIPIENTS:
        raise _Refused(400, _RECIPIENTS[to[-4:]], **words)
    if not _E164.fullmatch(to):
        raise _Refused(400, 21211, **words)


def _callback(message: dict[str, Any], status: str) -> bytes:
    fields = {
        "ApiVersion": "2010-04-01",
        "AccountSid": _ACCOUNT,
        "MessageSid": message["sid"],
        "SmsSid": message["sid"],
        "MessageStatus": status,
        "SmsStatus": status,
        "To": message["to"],
        "From": message["from"] or "+15005550006",
    }
    return _form(fields | ({"ErrorCode": "30003"} if status in ("undelivered", "failed") else {}))


def _form(fields: dict[str, str]) -> bytes:
    return urlencode(fields).encode("ascii")


STAND_IN = Registration(name="twilio", make=TwilioStandIn, secret=_TOKEN, events=_EVENTS)
