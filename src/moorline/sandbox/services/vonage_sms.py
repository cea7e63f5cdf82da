"""The stand-in of Vonage's older SMS API: messages in parts, their statuses and receipts, an inbound message on demand.

Facts: services/sms/vonage.md, vonage.json; vonage-account 1.1 (the balance). The account is ``abcd1234``, its secret
``sandbox-Secret-0123456789``; it takes them as a Basic pair or as fields. Letters that GSM-7 has not arrive as ``?``
unless they are sent as ``unicode``; the sandbox takes Latin-1 and the euro for GSM-7.

Vonage has no magic numbers; these are the sandbox's own, by how the recipient ends: 09NN is refused with status NN,
0097 has its last part throttled where there are several, 0098 is ``rejected`` later (err-code 6), 0099 ``failed`` (3);
all others are accepted and delivered at once.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

from moorline.errors import ConfigurationError
from moorline.sandbox import signing
from moorline.sandbox.services._made_keys import MadeKeys
from moorline.sandbox.standin import Answer, Ask, Emission, Registration, Signed, Surroundings

__all__ = ["STAND_IN"]

_ACCOUNT: Final = "abcd1234"
_SECRET: Final = "sandbox-Secret-0123456789"
_SIGNATURE: Final = "sha256:sandbox-signature-secret-0123456789"
_EVENTS: Final = ("accepted", "delivered", "buffered", "expired", "failed", "rejected", "received")
_WORDS: Final = {
    "1": "Throttled",
    "2": "Missing {}",
    "3": "Invalid value for param: {}",
    "4": "Bad Credentials",
    "5": "Internal Error",
    "6": "Unroutable message - rejected",
    "7": "Number barred.",
    "8": "Partner account barred",
    "9": "Quota Exceeded - rejected",
    "10": "Too many existing binds",
    "11": "Account not enabled for HTTP",
    "12": "Message too long",
    "14": "Invalid Signature",
    "15": "Illegal Sender Address - rejected",
    "22": "Invalid network code",
    "29": "Non White-listed Destination - rejected",
}
_CODES: Final = {"rejected": "6", "failed": "3", "expired": "1"}
_BECOMES: Final = {"0098": "rejected", "0099": "failed"}
_MOST_SECRETS: Final = 2
_PRICE: Final = "0.03330000"
_RULES: Final = {
    "to": r"[1-9][0-9]{6,14}",
    "from": r"[^+].*",
    "text": r"(?s:.+)",
    "type": r"text|binary|wappush|unicode|vcal|vcard",
    "ttl": r"[0-9]{1,9}",
    "callback": r"https?://.{1,92}",
    "client-ref": r".{0,100}",
    "status-report-req": r"true|false|1|0",
    "message-class": r"[0-3]",
    "api_key": r".{8}",
    "api_secret": r".{6,32}",
}
_OTHERS: Final = frozenset({"account-ref", "body", "content-id", "entity-id", "protocol-id", "trusted-number", "udh"})


class _Refused(Exception):
    def __init__(self, status: str, word: str = "") -> None:
        super().__init__(status)
        self.part = {"status": status, "error-text": _WORDS.get(status, "Unknown").format(word)}


class VonageSMSStandIn:
    """One account."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._messages: dict[str, dict[str, Any]] = {}
        self._made = MadeKeys()
        self._made.add("first", _SECRET)

    async def handle(self, ask: Ask) -> Answer:
        """Answer one request."""
        fields = parse_qsl(ask.body.decode("utf-8", "replace"), keep_blank_values=True)
        known = self._known(ask, dict(fields))
        if (ask.method, ask.path) == ("GET", "/account/get-balance"):
            await ask.work()
            return Answer(200, {"value": 15.5359, "autoReload": False}) if known else _denied()
        if ask.path.startswith(f"/accounts/{_ACCOUNT}/secrets"):
            await ask.work()
            return self._secrets(ask) if known else _denied()
        if (ask.method, ask.path) != ("POST", "/sms/json"):
            return Answer(404, {"error-code": "404", "error-code-label": "not found"})
        if not known:
            return _answer([_Refused("4").part])
        try:
            await ask.work()
            return self._send(dict(fields))
        except _Refused as refused:
            return _answer([refused.part])

    def snapshot(self) -> dict[str, Any]:
        """The messages, each a part of a text, by id; the secrets of the account, without their values."""
        return {"messages": self._messages, "secrets": self._made.shown()}

    def failure(self, status: int) -> Answer:
        """The error body that Vonage's own package expects for an injected status."""
        return Answer(status, {"Error": "Too Many Requests" if status == 429 else "Internal Server Error"})

    def sample(self, event: str) -> bytes:
        """A receipt of that status, or an inbound message for ``received``, as a form."""
        if event not in _EVENTS:
            raise ConfigurationError(f"'event': the sandbox knows {', '.join(_EVENTS)} of Vonage's SMS API")
        if event != "received":
            message = {"message-id": self._id(), "to": "447700900000", "from": "Moorline", "client-ref": "order-1"}
            return self._receipt(message, event)
        said = {"text": "STOP by ☕", "type": "unicode", "keyword": "STOP"}
        numbers = {"msisdn": "447700900000", "to": "447700900001", "messageId": self._id(), "api-key": _ACCOUNT}
        return urlencode({**numbers, **said, "message-timestamp": self._now()}).encode()

    def sign(self, emission: Emission, *, url: str, secrets: tuple[str, ...], hook_id: str, broken: bool) -> Signed:
        """``sig`` over the fields, among them."""
        return signing.signed(
            "vonage_sms",
            emission,
            url=url,
            secrets=secrets,
            broken=broken,
            now=self._around.clock.wall(),
            headers={"Content-Type": "application/x-www-form-urlencoded"},
        )

    def _known(self, ask: Ask, fields: dict[str, str]) -> bool:
        scheme, _, shown = ask.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "basic":
            return fields.get("api_key") == _ACCOUNT and self._made.is_good(fields.get("api_secret", ""))
        try:
            account, _, secret = base64.b64decode(shown, validate=True).decode("utf-8", "replace").partition(":")
        except binascii.Error:
            return False
        return account == _ACCOUNT and self._made.is_good(secret)

    def _secrets(self, ask: Ask) -> Answer:
        """By vonage-account 1.1 and the answers in its tests."""
        held = self._made.listed()
        if ask.method == "GET":
            return Answer(200, {"_embedded": {"secrets": [{"id": one, **told} for one, told in held.items()]}})
        if ask.method == "DELETE":
            name = ask.path.rpartition("/")[2]
            if name in held and len(held) == 1:
                return _problem(403, "delete-last-secret", "Can not delete the last secret.")
            return Answer(204) if self._made.delete(name) else _problem(404, "", "The secret is unknown")
        try:
            secret = json.loads(ask.body)["secret"]
        except (ValueError, KeyError, TypeError):
            secret = ""
        if not isinstance(secret, str) or not re.fullmatch(r"(?=.*[a-z])(?=.*[A-Z])(?=.*[0-9]).{8,25}", secret):
            return _problem(400, "validation", "Does not meet complexity requirements")
        if len(held) == _MOST_SECRETS:
            return _problem(403, "add-excess-secret", "Account reached maximum number [2] of allowed secrets")
        name, told = self._id().lower(), {"created_at": self._now()}
        self._made.add(name, secret, **told)
        return Answer(201, {"id": name, **told})

    def _send(self, fields: dict[str, str]) -> Answer:
        _check(fields)
        end = fields["to"][-4:]
        if end.startswith("09"):
            raise _Refused(str(int(end[2:])))
        unicode = fields.get("type") == "unicode"
        said = fields["text"] if unicode else re.sub(r"[^\x00-\xff€]", "?", fields["text"])
        alone, joined = (70, 67) if unicode else (160, 153)
        count = 1 if len(said) <= alone else -(-len(said) // joined)
        parts: list[dict[str, str]] = []
        for number in range(count):
            if end == "0097" and 0 < number == count - 1:
                parts.append(_Refused("1").part)
                continue
            message = {**fields, "message-id": self._id(), "text": said}
            self._messages[message["message-id"]] = message
            parts.append(_part(message))
            self._deliver(message, _BECOMES.get(end, "delivered"))
        return _answer(parts)

    def _deliver(self, message: dict[str, Any], becomes: str) -> None:
        for status in ("accepted", becomes):
            message["delivery"] = status
            if message.get("status-report-req", "true") in ("true", "1"):
                body = self._receipt(message, status)
                self._around.emit(Emission(status, body, f"{status}:{message['message-id']}"))

    def _receipt(self, message: dict[str, Any], status: str) -> bytes:
        """``msisdn`` is the recipient here, and ``to`` the sender."""
        now = datetime.fromtimestamp(self._around.now(), UTC)
        fields = {
            "msisdn": message["to"],
            "to": message["from"],
            "network-code": "23410",
            "messageId": message["message-id"],
            "price": _PRICE,
            "status": status,
            "scts": now.strftime("%y%m%d%H%M"),
            "err-code": _CODES.get(status, "0"),
            "api-key": _ACCOUNT,
            "message-timestamp": self._now(),
        }
        reference = message.get("client-ref")
        return urlencode(fields if reference is None else fields | {"client-ref": reference}).encode()

    def _id(self) -> str:
        return f"{self._around.random.getrandbits(64):016X}"

    def _now(self) -> str:
        return datetime.fromtimestamp(self._around.now(), UTC).strftime("%Y-%m-%d %H:%M:%S")


def _problem(status: int, kind: str, detail: str) -> Answer:
    place = f"https://developer.nexmo.com/api-errors/account/secret-management#{kind}"
    return Answer(status, {"type": place, "title": "Secret Management", "detail": detail})


def _check(fields: dict[str, str]) -> None:
    for name in ("from", "to", "text"):
        if not fields.get(name):
            raise _Refused("2", name)
    for name, value in fields.items():
        rule = _RULES.get(name)
        if (rule is None and name not in _OTHERS) or (rule is not None and not re.fullmatch(rule, value)):
            raise _Refused("3", name)
    if not 20_000 <= int(fields.get("ttl", "20000")) <= 604_800_000:
        raise _Refused("3", "ttl")


def _part(message: dict[str, Any]) -> dict[str, str]:
    told = {
        "to": message["to"],
        "message-id": message["message-id"],
        "status": "0",
        "remaining-balance": "15.53590000",
        "message-price": _PRICE,
        "network": "23410",
    }
    return told if "client-ref" not in message else {**told, "client-ref": message["client-ref"]}


def _answer(parts: list[dict[str, str]]) -> Answer:
    return Answer(200, {"message-count": str(len(parts)), "messages": parts})


def _denied() -> Answer:
    return Answer(401, {"error-code": "401", "error-code-label": "authentication failed"})


STAND_IN = Registration(name="vonage_sms", make=VonageSMSStandIn, secret=_SIGNATURE, events=_EVENTS)
