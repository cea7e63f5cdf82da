"""Vonage's stand-in: messages with their rules and statuses, one inbound message on demand, applications with keys.

Facts: services/sms/vonage.md, vonage_messages_v1.schema.json; vonage-application 2.0, vonage-users 1.2 (what a health
check asks), developer.vonage.com/api-errors (words). The account is ``abcd1234``, its secret
``sandbox-Secret-0123456789``. It has no application: make one with your public key, as at Vonage
(``POST /v2/applications {"name": …, "keys": {"public_key": …}}``), and sign with the private one.

Vonage has no magic numbers; these are the sandbox's own, by how the recipient ends: 0402 low balance, 0403 forbidden,
0429 throttled, 0098 is ``rejected`` later (1120, illegal sender), 0099 ``undeliverable`` (1100, communication failed);
all others are submitted and delivered at once. Which statuses answer what is unconfirmed but for 202.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from moorline.errors import ConfigurationError
from moorline.sandbox import signing
from moorline.sandbox.standin import Answer, Ask, Emission, Registration, Signed, Surroundings

__all__ = ["STAND_IN"]

_ACCOUNT: Final = "abcd1234"
_SECRET: Final = "sandbox-Secret-0123456789"
_SIGNATURE: Final = "sandbox-signature-secret-0123456789"
_PAGES: Final = "https://developer.vonage.com/api-errors"
_EVENTS: Final = ("submitted", "delivered", "read", "rejected", "undeliverable", "received")
# The fragment of the type, the title, the detail.
_PROBLEMS: Final = {
    401: ("#unauthorized", "Unauthorized", "You did not provide correct credentials."),
    402: ("#low-balance", "Low balance", "This request could not be performed due to your account balance being low."),
    403: ("#forbidden", "Forbidden", "Your account does not have permission to perform this action."),
    404: ("#not-found", "Not Found", "The requested resource does not exist, or you do not have access to it."),
    422: ("/messages#1150", "Invalid params", "The value of one or more parameters is invalid."),
    429: ("/messages#1000", "Throttled", "You have exceeded the submission capacity allowed on this account."),
    500: ("/messages#1030", "Internal error", "There was an error processing your request in the Platform."),
}
_LATER: Final = {
    "rejected": ("/messages#1120", "Illegal Sender Address", "The sender was not accepted."),
    "undeliverable": ("/messages#1100", "Communication Failed", "Message was not submitted."),
}
_ENDS: Final = {"0402": 402, "0403": 403, "0429": 429}
_BECOMES: Final = {"0098": "rejected", "0099": "undeliverable"}
_NUMBER: Final = re.compile(r"[1-9][0-9]{6,14}")
_FIELDS: Final[dict[str, Callable[[Any], bool]]] = {
    "channel": lambda value: value == "sms",
    "message_type": lambda value: value == "text",
    "to": lambda value: isinstance(value, str) and bool(_NUMBER.fullmatch(value)),
    "from": lambda value: isinstance(value, str) and bool(value) and not value.startswith("+"),
    "text": lambda value: isinstance(value, str) and 0 < len(value) <= 3200,
    "ttl": lambda value: isinstance(value, int) and 20 <= value <= 604_800,
    "sms": lambda value: isinstance(value, dict) and value.get("encoding_type", "auto") in ("text", "unicode", "auto"),
    "client_ref": lambda value: isinstance(value, str) and len(value) <= 100,
    "webhook_url": lambda value: isinstance(value, str) and value.startswith("http"),
    "webhook_version": lambda value: value in ("v0.1", "v1"),
    "failover": lambda value: isinstance(value, list) and all(isinstance(one, dict) for one in value),
    "trusted_recipient": lambda value: isinstance(value, bool),
}
_NEEDED: Final = ("channel", "message_type", "to", "from", "text")


class _Refused(Exception):
    def __init__(self, status: int, *wrong: tuple[str, str]) -> None:
        super().__init__(status)
        self.status, self.wrong = status, wrong


class VonageStandIn:
    """One account."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._messages: dict[str, dict[str, Any]] = {}
        self._applications: dict[str, dict[str, Any]] = {}
        self._routes: dict[tuple[str, str], Callable[[Ask], Answer]] = {
            ("POST", "/v1/messages"): self._send,
            ("GET", "/v1/users"): self._users,
            ("GET", "/v2/applications"): self._list,
            ("POST", "/v2/applications"): self._register,
        }

    async def handle(self, ask: Ask) -> Answer:
        """Answer one request."""
        try:
            by_application = self._authorise(ask)
            await ask.work()
            return self._routed(ask, by_application=by_application)
        except _Refused as refused:
            return self._problem(refused.status, refused.wrong)

    def snapshot(self) -> dict[str, Any]:
        """The messages and applications by id."""
        return {"messages": self._messages, "applications": self._applications}

    def failure(self, status: int) -> Answer:
        """Vonage's error body for an injected status."""
        return self._problem(status)

    def sample(self, event: str) -> bytes:
        """A webhook of that status, or an inbound message for ``received``."""
        if event not in _EVENTS:
            raise ConfigurationError(f"'event': the sandbox knows {', '.join(_EVENTS)} of Vonage")
        message = {"message_uuid": self._uuid(), "to": "447700900000", "from": "447700900001", "channel": "sms"}
        if event != "received":
            return self._told({**message, "client_ref": "order-1"}, event)
        usage = {"currency": "EUR", "price": "0.0"}
        said = {"message_type": "text", "text": "STOP ☕", "sms": {"num_messages": "1"}, "usage": usage}
        return json.dumps({**message, "timestamp": self._now(), **said}).encode()

    def sign(self, emission: Emission, *, url: str, secrets: tuple[str, ...], hook_id: str, broken: bool) -> Signed:
        """A JWT by the signature secret, with the digest of the body."""
        return signing.signed(
            "vonage",
            emission,
            url=url,
            secrets=secrets,
            broken=broken,
            now=self._around.clock.wall(),
            headers={"Content-Type": "application/json"},
        )

    def _authorise(self, ask: Ask) -> bool:
        """Whether an application asks, and not the account."""
        scheme, _, shown = ask.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._signed(shown):
            return True
        try:
            pair = base64.b64decode(shown, validate=True).decode() if scheme.lower() == "basic" else ""
        except (binascii.Error, UnicodeDecodeError):
            pair = ""
        if pair != f"{_ACCOUNT}:{_SECRET}":
            raise _Refused(401)
        return False

    def _signed(self, token: str) -> bool:
        """Whether the key of the application that it names signed the token, for now."""
        from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
        from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.serialization import load_pem_public_key

        try:
            head, body, signature = token.split(".")
            claims = json.loads(_decoded(body))
            public = load_pem_public_key(self._applications[claims["application_id"]]["keys"]["public_key"].encode())
            if json.loads(_decoded(head))["alg"] != "RS256" or not isinstance(public, RSAPublicKey):
                return False
            public.verify(_decoded(signature), f"{head}.{body}".encode(), PKCS1v15(), SHA256())
            # A minute is the sandbox's own; so is that each claim of the official package has to be there.
            return bool(claims["jti"]) and claims["iat"] - 60 <= self._around.now() < claims["exp"]
        except (InvalidSignature, UnsupportedAlgorithm, ValueError, KeyError, TypeError):
            return False

    def _routed(self, ask: Ask, *, by_application: bool) -> Answer:
        """Users belong to an application, applications to the account; messages are sent by both."""
        action = self._routes.get((ask.method, ask.path))
        if action is None:
            raise _Refused(404)
        if ask.path != "/v1/messages" and by_application != ask.path.endswith("users"):
            raise _Refused(401)
        return action(ask)

    def _send(self, ask: Ask) -> Answer:
        message = _object(ask)
        wrong = [(name, "is missing") for name in _NEEDED if name not in message]
        wrong += [
            (name, "invalid value") for name, value in message.items() if not _FIELDS.get(name, lambda _: False)(value)
        ]
        if wrong:
            raise _Refused(422, *wrong)
        end = message["to"][-4:]
        if end in _ENDS:
            raise _Refused(_ENDS[end])
        uuid = self._uuid()
        kept = self._messages[uuid] = {"message_uuid": uuid, **message}
        for status in ("submitted", _BECOMES.get(end, "delivered")):
            kept["status"] = status
            self._around.emit(Emission(status, self._told(kept, status), f"{status}:{uuid}"))
        answer = {"message_uuid": uuid}
        return Answer(202, {**answer, "workflow_id": self._uuid()} if "failover" in message else answer)

    def _users(self, ask: Ask) -> Answer:
        links = {name: {"href": f"{ask.base}/v1/users?page_size=1"} for name in ("self", "first")}
        return Answer(200, {"page_size": 1, "_embedded": {"users": []}, "_links": links})

    def _list(self, ask: Ask) -> Answer:
        found = list(self._applications.values())
        counts = {"page_size": len(found) or 1, "page": 1, "total_items": len(found), "total_pages": 1}
        links = {"self": {"href": f"{ask.base}/v2/applications"}}
        return Answer(200, {**counts, "_embedded": {"applications": found}, "_links": links})

    def _register(self, ask: Ask) -> Answer:
        asked = _object(ask)
        name, keys = asked.get("name"), asked.get("keys")
        public = keys.get("public_key") if isinstance(keys, dict) else None
        if not isinstance(name, str) or not isinstance(public, str) or not public.startswith("-----BEGIN PUBLIC KEY"):
            raise _Refused(422, ("keys.public_key", "invalid value"))
        uuid = self._uuid()
        self._applications[uuid] = {"id": uuid, "name": name, "keys": {"public_key": public}}
        return Answer(201, self._applications[uuid])

    def _told(self, message: dict[str, Any], status: str) -> bytes:
        fields = ("message_uuid", "to", "from", "channel", "client_ref")
        told = {name: message[name] for name in fields if name in message}
        told |= {"timestamp": self._now(), "status": status}
        if status in _LATER:
            told["error"] = self._error(*_LATER[status])
        else:
            told["usage"] = {"currency": "EUR", "price": "0.0333"}
        return json.dumps(told).encode()

    def _problem(self, status: int, wrong: tuple[tuple[str, str], ...] = ()) -> Answer:
        told = self._error(*_PROBLEMS.get(status, _PROBLEMS[500]))
        if wrong:
            told["invalid_parameters"] = [{"name": name, "reason": reason} for name, reason in wrong]
        return Answer(status, told, {"Content-Type": "application/problem+json"})

    def _error(self, fragment: str, title: str, detail: str) -> dict[str, Any]:
        return {"type": _PAGES + fragment, "title": title, "detail": detail, "instance": self._uuid()}

    def _uuid(self) -> str:
        return str(UUID(int=self._around.random.getrandbits(128), version=4))

    def _now(self) -> str:
        return datetime.fromtimestamp(self._around.now(), UTC).isoformat().replace("+00:00", "Z")


def _decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def _object(ask: Ask) -> dict[str, Any]:
    try:
        found = json.loads(ask.body)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise _Refused(422, ("body", "is no JSON object"))
    return found


STAND_IN = Registration(name="vonage", make=VonageStandIn, secret=_SIGNATURE, events=_EVENTS)
