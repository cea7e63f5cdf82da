"""Mailgun's stand-in: messages as forms with files, batches by recipient variables, signed events.

Facts: services/email/mailgun.md and mailgun.json. Keys begin with ``key-``; those that end in ``wrong`` are refused
(401, plain text). What was accepted is in the state, newest last. ``o:testmode`` is heeded: its events say so. The
sandbox's own: keys that begin with ``key-large`` have no right to batches (403); domains that begin with ``unknown``
are not there (404), those with ``unverified`` are not verified (400), and those with ``sandbox`` send only to addresses
at ``authorised.example`` (400). By the part before the @, ``bounce``, ``defer``, ``drop``, ``reject`` and ``complain``
lead to the event of that name; all other mail is delivered. The words of most errors are the sandbox's too.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from datetime import UTC, datetime, timedelta
from email.utils import getaddresses, parseaddr, parsedate_to_datetime
from typing import Any
from urllib.parse import parse_qsl, unquote

from moorline.errors import ConfigurationError
from moorline.sandbox import signing
from moorline.sandbox.parameters import Sent, decode_multipart
from moorline.sandbox.standin import Answer, Ask, Emission, Registration, Signed, Surroundings

__all__ = ["STAND_IN"]

_ADDRESS = re.compile(r"[^@\s<>,;\"]+@[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9-]+)+")
_SEVERAL = frozenset({"to", "cc", "bcc", "o:tag"})
_YES_NO = ("yes", "no", "true", "false")
_CHOICES = {
    "o:testmode": ("yes",),
    "o:tracking": (*_YES_NO, "htmlonly"),
    "o:tracking-clicks": (*_YES_NO, "htmlonly"),
    "o:tracking-opens": _YES_NO,
    "o:dkim": _YES_NO,
    "o:require-tls": _YES_NO,
    "o:skip-verification": _YES_NO,
    "t:text": ("yes",),
}
_FATES = {
    "bounce": ("accepted", "permanent_fail"),
    "defer": ("accepted", "temporary_fail"),
    "drop": ("accepted", "suppressed"),
    "reject": ("rejected",),
    "complain": ("accepted", "delivered", "complained"),
}
# The names under which Mailgun's webhooks are configured, and one that is an event only.
_EVENTS = (
    "accepted", "delivered", "permanent_fail", "temporary_fail", "opened", "clicked", "unsubscribed", "complained",
    "rejected",
)  # fmt: skip
_DETAILS: dict[str, dict[str, Any]] = {
    "delivered": {"delivery-status": {"code": 250, "message": "OK", "description": "", "attempt-no": 1}},
    "permanent_fail": {
        "event": "failed",
        "severity": "permanent",
        "reason": "bounce",
        "delivery-status": {"code": 550, "message": "5.1.1 unknown user", "description": "", "attempt-no": 1},
    },
    "temporary_fail": {
        "event": "failed",
        "severity": "temporary",
        "reason": "generic",
        "delivery-status": {
            "code": 450, "message": "4.2.1 mailbox busy", "description": "", "attempt-no": 1, "retry-seconds": 600,
        },
    },
    "suppressed": {
        "event": "failed",
        "severity": "permanent",
        "reason": "suppress-bounce",
        "delivery-status": {"code": 605, "message": "", "description": "Not delivering to previously bounced address"},
    },
    "rejected": {"reject": {"reason": "The recipient is not allowed", "description": ""}},
    "clicked": {"url": "https://shop.example/"},
}  # fmt: skip
_OPTIONS = 16 * 1024
_MOST_BYTES = int(52.4 * 1024 * 1024)


class _Refused(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.answer = Answer(status, {"message": message})


class MailgunStandIn:
    """One account with any number of domains."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._messages: list[dict[str, Any]] = []

    async def handle(self, ask: Ask) -> Answer:
        """Answer one request."""
        try:
            key = _key(ask)
            if key is None or not key.startswith("key-") or key.endswith("wrong"):
                return Answer(401, b"Forbidden")
            await ask.work()
            return self._routed(ask, key)
        except _Refused as refused:
            return refused.answer

    def snapshot(self) -> dict[str, Any]:
        """The accepted messages: domain, fields (each a list of texts), files, and the id."""
        return {"messages": self._messages}

    def failure(self, status: int) -> Answer:
        """Mailgun's error body for an injected status; a limit names its end in words."""
        message = "Internal Server Error"
        if status == 429:
            end = datetime.fromtimestamp(self._around.now(), UTC) + timedelta(minutes=1)
            until = end.strftime("%a, %d %b %Y %H:%M:%S UTC")
            message = f"Domain mg.shop.example is not allowed to send: request limit exceeded, try again after {until}"
        return Answer(status, {"message": message})

    def sample(self, event: str) -> bytes:
        """An event about a message that the account does not have."""
        if event not in _EVENTS:
            raise ConfigurationError(f"'event': the sandbox knows {', '.join(_EVENTS)} of Mailgun")
        message = {
            "fields": {"subject": ["Receipt"], "o:tag": ["receipt"], "v:order": ["42"]},
            "domain": "mg.shop.example",
        }
        return self._event(event, "ada@customer.example", {**message, "id": self._id("mg.shop.example")})

    def sign(self, emission: Emission, *, url: str, secrets: tuple[str, ...], hook_id: str, broken: bool) -> Signed:
        """Signed within the body, as Mailgun does, with a new token for each try."""
        return signing.signed(
            "mailgun",
            emission,
            url=url,
            secrets=secrets,
            broken=broken,
            now=self._around.clock.wall(),
            headers={"Content-Type": "application/json", "User-Agent": "mailgun/treq"},
        )

    def _routed(self, ask: Ask, key: str) -> Answer:
        found = re.fullmatch(r"/v3/([^/]+)/messages", ask.path)
        if found is None:
            raise _Refused(404, "Not Found")
        if ask.method != "POST":
            raise _Refused(405, "Method Not Allowed")
        domain = unquote(found[1])
        if domain.startswith("unknown"):
            raise _Refused(404, f"Domain not found: {domain}")
        if len(ask.body) > _MOST_BYTES:
            raise _Refused(413, "The request is too large")
        fields, files = _read(ask)
        if domain.startswith("unverified"):
            raise _Refused(400, f"The domain {domain} is unverified and requires DNS configuration.")
        _check(fields)
        people = _people(fields)
        if domain.startswith("sandbox") and not all(one.endswith("@authorised.example") for one in people):
            raise _Refused(
                400, "Sandbox subdomains are for test purposes only. Please add your own domain or the address."
            )
        if key.startswith("key-large") and len(people) > 1:
            raise _Refused(403, "Large batches are not allowed for this account.")
        message = {"id": self._id(domain), "domain": domain, "fields": fields, "files": files}
        self._messages.append(message)
        self._tell(message, people)
        return Answer(200, {"id": f"<{message['id']}>", "message": "Queued. Thank you."})

    def _tell(self, message: dict[str, Any], people: list[str]) -> None:
        """What becomes of an accepted message; one for later is only accepted."""
        later = "o:deliverytime" in message["fields"]
        test = "o:testmode" in message["fields"]
        for person in people:
            fate = None if test else _FATES.get(person.partition("@")[0].lower())
            for step in ("accepted",) if later else fate or ("accepted", "delivered"):
                event = "permanent_fail" if step == "suppressed" else step
                self._around.emit(Emission(event, self._event(step, person, message), self._around.id("", 22)))

    def _event(self, step: str, person: str, message: dict[str, Any]) -> bytes:
        fields = message["fields"]
        told = {
            "event": step,
            "id": self._around.id("", 22),
            "timestamp": self._around.now() + 0.25,
            "recipient": person,
            "message": {
                "headers": {"message-id": message["id"], "to": person, "subject": fields.get("subject", [""])[0]}
            },
            "tags": fields.get("o:tag", []),
            "user-variables": {
                name.removeprefix("v:"): _filled(values[0], person, fields)
                for name, values in fields.items()
                if name.startswith("v:")
            },
            "flags": {"is-test-mode": "o:testmode" in fields},
            **_DETAILS.get(step, {}),
        }
        return json.dumps({"signature": {}, "event-data": told}, separators=(",", ":")).encode()

    def _id(self, domain: str) -> str:
        stamp = datetime.fromtimestamp(self._around.now(), UTC).strftime("%Y%m%d%H%M%S")
        return f"{stamp}.1.{self._around.id('', 16)}@{domain}"


def _key(ask: Ask) -> str | None:
    """The key that stands as the password of ``api``."""
    scheme, _, told = ask.headers.get("authorization", "").partition(" ")
    try:
        user, _, key = base64.b64decode(told, validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        return None
    return key if scheme.lower() == "basic" and user == "api" else None


def _read(ask: Ask) -> tuple[dict[str, list[str]], list[dict[str, Any]]]:
    """The fields, each with all its values, and what is to be known of the files."""
    kind = ask.headers.get("content-type", "")
    try:
        if kind.startswith("multipart/form-data"):
            pairs = decode_multipart(ask.body, kind)
        else:
            pairs = list(parse_qsl(ask.body.decode(), keep_blank_values=True))
    except ValueError:
        raise _Refused(400, "The request's body is no form.") from None
    fields: dict[str, list[str]] = {}
    files = []
    for name, value in pairs:
        if isinstance(value, Sent):
            if name not in ("attachment", "inline"):
                raise _Refused(400, f"{name} parameter is a file")
            files.append({"field": name, "filename": value.filename, "type": value.type, "size": len(value.content)})
        elif name in ("attachment", "inline"):
            raise _Refused(400, f"{name} parameter is not a file")
        else:
            fields.setdefault(name, []).append(value)
    return fields, files


def _people(fields: dict[str, list[str]]) -> list[str]:
    """The addresses of to, cc and bcc, once each."""
    given = [one for kind in ("to", "cc", "bcc") for one in fields.get(kind, [])]
    return list(dict.fromkeys(address for _, address in getaddresses(given)))


def _check(fields: dict[str, list[str]]) -> None:
    """Raise what Mailgun answers to a message that it does not take."""
    template = "template" in fields
    for name in ("to",) if template else ("from", "to", "subject"):
        if not fields.get(name, [""])[0]:
            raise _Refused(400, f"{name} parameter is missing")
    if not template and not any(name in fields for name in ("text", "html", "amp-html")):
        raise _Refused(400, "Need at least one of 'text', 'html', 'amp-html' or 'template' parameters specified")
    for name, values in fields.items():
        if len(values) > 1 and name not in _SEVERAL:
            raise _Refused(400, f"{name} parameter is there several times")
        if name in _CHOICES and values[0] not in _CHOICES[name]:
            raise _Refused(400, f"{name} parameter must be one of {', '.join(_CHOICES[name])}")
        if name.startswith("h:") and (not re.fullmatch(r"h:[!-9;-~]+", name) or re.search(r"[\r\n]", values[0])):
            raise _Refused(400, f"{name} parameter is not a header")
    _check_people(fields)
    _check_options(fields)


def _check_options(fields: dict[str, list[str]]) -> None:
    for name in ("recipient-variables", "t:variables"):
        _check_json(fields, name)
    if len(fields.get("o:tag", [])) > 10:
        raise _Refused(400, "o:tag parameter has more than 10 tags")
    options = sum(
        len(one.encode()) for name, each in fields.items() if name[:2] in ("o:", "h:", "v:", "t:") for one in each
    )
    if options > _OPTIONS:
        raise _Refused(400, "o:, h:, v: and t: parameters are limited to 16kB")
    if "o:deliverytime" in fields:
        try:
            parsedate_to_datetime(fields["o:deliverytime"][0])
        except ValueError:
            raise _Refused(400, "o:deliverytime parameter is not an RFC 2822 date") from None


def _check_people(fields: dict[str, list[str]]) -> None:
    if "from" in fields and not _ADDRESS.fullmatch(parseaddr(fields["from"][0])[1]):
        raise _Refused(400, "from parameter is not a valid address. please check documentation")
    for kind in ("to", "cc", "bcc"):
        for _, address in getaddresses(fields.get(kind, [])):
            if not _ADDRESS.fullmatch(address):
                raise _Refused(400, f"{kind} parameter is not a valid address. please check documentation")
    if len(_people(fields)) > 1000:
        raise _Refused(400, "to parameter has more than 1000 recipients")


def _check_json(fields: dict[str, list[str]], name: str) -> None:
    if name in fields:
        try:
            value = json.loads(fields[name][0])
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise _Refused(400, f"{name} parameter is not a valid JSON dictionary")


def _filled(value: str, person: str, fields: dict[str, list[str]]) -> str:
    """*value* with what the recipient variables say of *person*."""
    known = json.loads(fields.get("recipient-variables", ["{}"])[0]).get(person, {})
    return re.sub(r"%recipient\.([^%]+)%", lambda found: str(known.get(found[1], found[0])), value)


STAND_IN = Registration(name="mailgun", make=MailgunStandIn, secret="key-signing-sandbox", events=_EVENTS)
