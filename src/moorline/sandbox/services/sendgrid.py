"""SendGrid's stand-in: mail/send with its rules, mail/batch, rate-limit headers.

Facts: services/email/sendgrid.md and sendgrid.json. Keys begin with ``SG.``; those that end in ``wrong`` are refused
(401), those that begin with ``SG.read`` lack the scope ``mail.send`` (403), and senders at ``unverified.example`` are
not verified (403). What was accepted is in the state, newest last. SendGrid has no magic recipients; these are the
sandbox's own, by the part before the @: ``bounce``, ``block``, ``drop``, ``defer`` and ``complain`` lead to the event
of that name, all others are delivered.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import Any

from moorline.errors import ConfigurationError
from moorline.sandbox import signing
from moorline.sandbox.standin import Answer, Ask, Emission, Registration, Signed, Surroundings

__all__ = ["STAND_IN"]

_ADDRESS = re.compile(r"[^@\s<>,;\"]+@[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9-]+)+")
_TOP = {
    "personalizations": list,
    "from": dict,
    "reply_to": dict,
    "reply_to_list": list,
    "subject": str,
    "content": list,
    "attachments": list,
    "template_id": str,
    "headers": dict,
    "categories": list,
    "custom_args": dict,
    "send_at": int,
    "batch_id": str,
    "asm": dict,
    "ip_pool_name": str,
    "mail_settings": dict,
    "tracking_settings": dict,
}
_PERSONAL = {
    "to": list,
    "cc": list,
    "bcc": list,
    "from": dict,
    "subject": str,
    "headers": dict,
    "substitutions": dict,
    "dynamic_template_data": dict,
    "custom_args": dict,
    "send_at": int,
}
_RESERVED = frozenset(
    {
        "x-sg-id",
        "x-sg-eid",
        "received",
        "dkim-signature",
        "content-type",
        "content-transfer-encoding",
        "to",
        "from",
        "subject",
        "reply-to",
        "cc",
        "bcc",
    }
)
_FATES = {
    "bounce": "bounce",
    "block": "blocked",
    "drop": "dropped",
    "defer": "deferred",
    "complain": "spamreport",
}
_EVENTS = (
    "processed", "delivered", "deferred", "bounce", "blocked", "dropped", "spamreport", "open", "click", "unsubscribe",
)  # fmt: skip
_LIMIT = 600
_MOST_BYTES = 30 * 1024 * 1024
_MOST_KEYS = 100
_WORDS = {list: "an array", dict: "an object", str: "a string", int: "an integer"}


class _Refused(Exception):
    def __init__(self, status: int, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.answer = Answer(status, {"errors": [{"message": message, "field": field}]})


class SendGridStandIn:
    """One account with a verified domain."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._messages: list[dict[str, Any]] = []
        self._made: dict[str, dict[str, Any]] = {}  # keys by their ids
        self._window = (0, _LIMIT)

    async def handle(self, ask: Ask) -> Answer:
        """Answer one request."""
        try:
            self._authorise(ask)
            await ask.work()
            answer = self._routed(ask)
        except _Refused as refused:
            answer = refused.answer
        return Answer(answer.status, answer.content, {**self._limits(), **answer.headers})

    def snapshot(self) -> dict[str, Any]:
        """The accepted messages as they came, each with its id; the keys that were made, without their values."""
        return {"messages": self._messages, "api_keys": list(self._made.values())}

    def failure(self, status: int) -> Answer:
        """SendGrid's error body for an injected status."""
        message = "too many requests" if status == 429 else "internal error, please try again"
        spent = {"X-RateLimit-Remaining": "0"} if status == 429 else {}
        return Answer(status, {"errors": [{"message": message, "field": None}]}, {**self._limits(), **spent})

    def sample(self, event: str) -> bytes:
        """A delivery of one event of that kind."""
        if event not in _EVENTS:
            raise ConfigurationError(f"'event': the sandbox knows {', '.join(_EVENTS)} of SendGrid")
        return self._delivery([self._event(event, "ada@example.com", "sample", {"categories": ["receipt"]}, {})])

    def sign(self, emission: Emission, *, url: str, secrets: tuple[str, ...], hook_id: str, broken: bool) -> Signed:
        """Signed with the sandbox's P-256 key, whose public one receivers have for a secret; plain without one."""
        return signing.signed(
            "sendgrid",
            emission,
            url=url,
            secrets=secrets,
            broken=broken,
            now=self._around.clock.wall(),
            headers={"Content-Type": "application/json", "User-Agent": "SendGrid Event API"},
            key=signing.private_key("p256", broken=broken) if secrets else None,
        )

    def _tell(self, mail: dict[str, Any], name: str) -> None:
        """What becomes of an accepted mail: two events for each recipient, in one delivery."""
        told = []
        for person in mail["personalizations"]:
            arguments = {**mail.get("custom_args", {}), **person.get("custom_args", {})}
            for kind in ("to", "cc", "bcc"):
                for address in person.get(kind, []):
                    fate = _FATES.get(address["email"].partition("@")[0].lower(), "delivered")
                    steps = (fate,) if fate == "dropped" else ("processed", fate)
                    told += [self._event(step, address["email"], name, mail, arguments) for step in steps]
        self._around.emit(Emission("processed", self._delivery(told), self._around.id("", 22)))

    def _event(
        self, event: str, email: str, name: str, mail: dict[str, Any], arguments: dict[str, Any]
    ) -> dict[str, Any]:
        facts: dict[str, Any] = {"event": event}
        if event in ("bounce", "blocked"):
            facts = {"event": "bounce", "type": event, "status": "5.1.1" if event == "bounce" else "4.7.1"}
            facts["reason"] = "550 5.1.1 unknown user" if event == "bounce" else "451 4.7.1 try again later"
        elif event == "dropped":
            facts["reason"] = "Bounced Address"
        elif event == "deferred":
            facts |= {"response": "450 4.2.1 mailbox busy", "attempt": "1"}
        elif event == "click":
            facts["url"] = "https://shop.example/"
        return {
            **arguments,
            "email": email,
            "timestamp": self._around.now(),
            "smtp-id": f"<{name}@ismtpd>",
            "category": mail.get("categories", []),
            "sg_event_id": self._around.id("", 22),
            "sg_message_id": f"{name}.filter0001",
            **facts,
        }

    def _delivery(self, events: list[dict[str, Any]]) -> bytes:
        """The bytes end in CR LF, which are signed too."""
        return json.dumps(events, separators=(",", ":")).encode() + b"\r\n"

    def _limits(self) -> dict[str, str]:
        """Absolute UNIX seconds, windows of a minute."""
        now = self._around.now()
        reset = now - now % 60 + 60
        self._window = (reset, _LIMIT if self._window[0] != reset else max(self._window[1] - 1, 0))
        return {
            "X-RateLimit-Limit": str(_LIMIT),
            "X-RateLimit-Remaining": str(self._window[1]),
            "X-RateLimit-Reset": str(reset),
        }

    def _authorise(self, ask: Ask) -> None:
        scheme, _, key = ask.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key.startswith("SG.") or key.endswith("wrong"):
            raise _Refused(401, "The provided authorization grant is invalid, expired, or revoked")
        if self._made.get(key.split(".")[1], {}).get("deleted"):
            raise _Refused(401, "The provided authorization grant is invalid, expired, or revoked")
        if "accept" not in ask.headers:
            raise _Refused(406, "The request needs an Accept header")
        if key.startswith("SG.read"):
            raise _Refused(403, "access forbidden")

    def _keys(self, ask: Ask) -> Answer:
        """Keys that make keys: all but those for reading, here. Facts: sendgrid-oai, security/api_keys.json."""
        if ask.path == "/v3/scopes":
            return Answer(200, {"scopes": ["mail.send", "mail.batch.create", "api_keys.create", "api_keys.delete"]})
        found = [one for one in self._made.values() if not one["deleted"]]
        if ask.path == "/v3/api_keys" and ask.method == "GET":
            return Answer(200, {"result": [{"name": one["name"], "api_key_id": one["api_key_id"]} for one in found]})
        if ask.path == "/v3/api_keys" and ask.method == "POST":
            given = json.loads(ask.body)
            if not given.get("name"):
                raise _Refused(400, "missing required argument", "name")
            if len(found) >= _MOST_KEYS:
                raise _Refused(403, "Cannot create more than 100 API Keys", None)
            name = self._around.id("", 22)
            told = {"api_key_id": name, "name": given["name"], "scopes": given.get("scopes", ["all"])}
            self._made[name] = {**told, "deleted": False}
            return Answer(201, {"api_key": f"SG.{name}.{self._around.id('', 43)}", **told})
        name = ask.path.rpartition("/")[2]
        if ask.method != "DELETE":
            raise _Refused(405, "method not allowed")
        if name in self._made and self._made[name]["deleted"]:
            raise _Refused(404, "unable to find API Key")
        # One that was there before: each that begins with SG. is.
        self._made.setdefault(name, {"api_key_id": name, "name": "", "scopes": []})["deleted"] = True
        return Answer(204)

    def _routed(self, ask: Ask) -> Answer:
        if ask.path == "/v3/scopes" or ask.path.partition("/v3/api_keys")[:2] == ("", "/v3/api_keys"):
            return self._keys(ask)
        if ask.path not in ("/v3/mail/send", "/v3/mail/batch"):
            raise _Refused(404, "Not Found")
        if ask.method != "POST":
            raise _Refused(405, "method not allowed")
        if ask.path == "/v3/mail/batch":
            return Answer(201, {"batch_id": self._around.id("", 32)})
        if len(ask.body) > _MOST_BYTES:
            raise _Refused(413, "The payload is too large; the limit is 30 MB.")
        if ask.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise _Refused(415, "Content-Type should be application/json.")
        try:
            mail = json.loads(ask.body)
        except ValueError:
            raise _Refused(400, "Bad Request") from None
        _check(mail, now=self._around.now())
        if mail.get("mail_settings", {}).get("sandbox_mode", {}).get("enable"):
            return Answer(200)
        name = f"{self._around.id('', 11)}.dfd.{self._around.id('', 6)}"
        self._messages.append({"id": name, "message": mail})
        self._tell(mail, name)
        return Answer(202, None, {"X-Message-Id": name})


def _check(mail: Any, *, now: int) -> None:
    if not isinstance(mail, dict):
        raise _Refused(400, "Bad Request")
    _check_shape(mail, _TOP, "")
    for name in ("personalizations", "from"):
        if name not in mail:
            raise _Refused(400, f"The {name} field is required.", name)
    _check_address(mail["from"], "from")
    if mail["from"]["email"].lower().endswith("@unverified.example"):
        raise _Refused(403, "The from address does not match a verified Sender Identity.", "from")
    people = mail["personalizations"]
    if not 1 <= len(people) <= 1000:
        raise _Refused(400, "There must be from 1 to 1000 personalizations.", "personalizations")
    for index, one in enumerate(people):
        _check_personal(one, f"personalizations.{index}", now)
    if "reply_to" in mail and "reply_to_list" in mail:
        raise _Refused(400, "Use reply_to or reply_to_list, not both.", "reply_to")
    if "reply_to" in mail:
        _check_address(mail["reply_to"], "reply_to")
    _check_addresses(mail.get("reply_to_list", []), "reply_to_list")
    if not mail.get("subject") and "template_id" not in mail and not all(one.get("subject") for one in people):
        raise _Refused(400, "The subject is required. You can get around this with a template.", "subject")
    _check_content(mail)
    _check_attachments(mail.get("attachments", []))
    _check_headers(mail.get("headers", {}), "headers")
    _check_arguments(mail.get("custom_args", {}), "custom_args")
    _check_categories(mail.get("categories", []))
    _check_time(mail, "send_at", now)


def _check_shape(given: Any, kinds: dict[str, Any], where: str) -> None:
    if not isinstance(given, dict):
        raise _Refused(400, "This must be an object.", where or None)
    prefix = f"{where}." if where else ""
    for name, value in given.items():
        if name not in kinds:
            raise _Refused(400, f"Additional property {name} is not allowed", f"{prefix}{name}")
        if not isinstance(value, kinds[name]) or isinstance(value, bool):
            raise _Refused(400, f"Invalid type. Expected: {_WORDS[kinds[name]]}.", f"{prefix}{name}")


def _check_address(given: Any, where: str) -> None:
    _check_shape(given, {"email": str, "name": str}, where)
    if not _ADDRESS.fullmatch(given.get("email", "")):
        raise _Refused(400, "Does not contain a valid address.", f"{where}.email")


def _check_addresses(given: list[Any], where: str) -> None:
    if len(given) > 1000:
        raise _Refused(400, "There may be at most 1000 addresses.", where)
    for index, one in enumerate(given):
        _check_address(one, f"{where}.{index}")


def _check_personal(one: Any, where: str, now: int) -> None:
    _check_shape(one, _PERSONAL, where)
    if not one.get("to"):
        raise _Refused(400, "The to array is required for all personalization objects.", f"{where}.to")
    seen: set[str] = set()
    for kind in ("to", "cc", "bcc"):
        _check_addresses(one.get(kind, []), f"{where}.{kind}")
        for address in one.get(kind, []):
            folded = address["email"].lower()
            if folded in seen:
                message = "Each email address in the personalization block should be unique between to, cc, and bcc."
                raise _Refused(400, f"{message} We found the first duplicate instance of [{folded}].", where)
            seen.add(folded)
    if "from" in one:
        _check_address(one["from"], f"{where}.from")
    _check_headers(one.get("headers", {}), f"{where}.headers")
    _check_arguments(one.get("custom_args", {}), f"{where}.custom_args")
    _check_time(one, f"{where}.send_at", now)


def _check_content(mail: dict[str, Any]) -> None:
    content = mail.get("content", [])
    if not content and "template_id" not in mail:
        raise _Refused(400, "Unless a valid template_id is provided, the content parameter is required.", "content")
    kinds = []
    for index, part in enumerate(content):
        _check_shape(part, {"type": str, "value": str}, f"content.{index}")
        for name in ("type", "value"):
            if not part.get(name):
                raise _Refused(400, f"The content {name} must be a string at least one character in length.", "content")
        kinds.append(part["type"])
    order = [{"text/plain": 0, "text/html": 1}.get(kind, 2) for kind in kinds]
    if order != sorted(order):
        message = "If present, text/plain and text/html may only be provided in that order, before other types."
        raise _Refused(400, message, "content")


def _check_attachments(given: list[Any]) -> None:
    kinds = {"content": str, "type": str, "filename": str, "disposition": str, "content_id": str}
    for index, one in enumerate(given):
        where = f"attachments.{index}"
        _check_shape(one, kinds, where)
        for name in ("content", "filename"):
            if not one.get(name):
                raise _Refused(400, f"The attachment {name} is required.", f"{where}.{name}")
        try:
            base64.b64decode(one["content"], validate=True)
        except (binascii.Error, ValueError):
            raise _Refused(400, "The attachment content must be base64 encoded.", f"{where}.content") from None
        if one.get("disposition", "attachment") not in ("inline", "attachment"):
            raise _Refused(400, "The disposition must be inline or attachment.", f"{where}.disposition")


def _check_headers(given: dict[str, Any], where: str) -> None:
    for name, value in given.items():
        if name.lower() in _RESERVED:
            raise _Refused(400, f"The header {name} is reserved.", f"{where}.{name}")
        if not isinstance(value, str) or not re.fullmatch(r"[!-9;-~]+", name) or re.search(r"[\r\n]", value):
            raise _Refused(400, "Headers are names with string values, without line breaks.", f"{where}.{name}")


def _check_arguments(given: dict[str, Any], where: str) -> None:
    for name, value in given.items():
        if not isinstance(value, str):
            raise _Refused(400, "The custom_args values must be strings.", f"{where}.{name}")
    if len(json.dumps(given, separators=(",", ":")).encode()) > 10_000:
        raise _Refused(400, "The custom_args are limited to 10000 bytes.", where)


def _check_categories(given: list[Any]) -> None:
    if len(given) > 10:
        raise _Refused(400, "There may be at most 10 categories.", "categories")
    if not all(isinstance(one, str) and 0 < len(one) <= 255 for one in given):
        raise _Refused(400, "Categories are strings of up to 255 characters.", "categories")
    if len(set(given)) != len(given):
        raise _Refused(400, "Categories must be unique.", "categories")


def _check_time(given: dict[str, Any], where: str, now: int) -> None:
    if given.get("send_at", 0) > now + 72 * 3600:
        raise _Refused(400, "The send_at may be at most 72 hours ahead.", where)


STAND_IN = Registration(name="sendgrid", make=SendGridStandIn, secret=signing.public_p256(), events=_EVENTS)
