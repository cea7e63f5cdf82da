"""FCM's stand-in: tokens for a service account, messages with their rules, subscriptions to topics.

Facts: services/push/fcm.md and fcm.json. ``POST /fcm/token`` takes the signed JWT of a key file whose
``private_key_id`` is its public key (as moorline's own sandbox key file has it) and checks the signature, audience,
scope and times. The project is ``moorline-sandbox``. The sandbox's own, by how a token begins: ``dead`` is
unregistered, ``wrong`` is no token, ``other`` belongs to another project, ``busy`` finds FCM unavailable, ``apns``
finds the project's credentials at Apple refused; all others are delivered. What was sent is in the state.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote

from moorline.errors import ConfigurationError
from moorline.sandbox.services._google import GoogleTokens
from moorline.sandbox.standin import Answer, Ask, Emission, Registration, Signed, Surroundings

__all__ = ["STAND_IN"]

_PROJECT = "moorline-sandbox"
_SCOPE = "https://www.googleapis.com/auth/firebase.messaging"
_FCM_ERROR = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
_TARGETS = ("token", "fid", "topic", "condition")
_MESSAGE = {
    **dict.fromkeys((*_TARGETS, "name"), str),
    **dict.fromkeys(("notification", "data", "android", "androidV2", "apns", "webpush", "fcmOptions"), dict),
}
_NOTIFICATION = {"title": str, "body": str, "image": str}
_TOPIC = re.compile(r"[a-zA-Z0-9\-_.~%]+")
_TTL = re.compile(r"[0-9]+(\.[0-9]{1,9})?s")
_LONGEST = 2_419_200
_FATES = {
    "dead": (404, "NOT_FOUND", "Requested entity was not found.", "UNREGISTERED"),
    "wrong": (
        400,
        "INVALID_ARGUMENT",
        "The registration token is not a valid FCM registration token",
        "INVALID_ARGUMENT",
    ),
    "other": (403, "PERMISSION_DENIED", "SenderId mismatch", "SENDER_ID_MISMATCH"),
    "busy": (503, "UNAVAILABLE", "The service is currently unavailable.", "UNAVAILABLE"),
    "apns": (401, "UNAUTHENTICATED", "Auth error from APNS or Web Push Service", "THIRD_PARTY_AUTH_ERROR"),
}


class _Refused(Exception):
    def __init__(self, status: int, word: str, message: str, own: str | None = None, field: str | None = None) -> None:
        super().__init__(message)
        details: list[dict[str, Any]] = [] if own is None else [{"@type": _FCM_ERROR, "errorCode": own}]
        if field is not None:
            violations = [{"field": field, "description": message}]
            details.append({"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": violations})
        error = {"code": status, "message": message, "status": word}
        self.answer = Answer(status, {"error": error | ({"details": details} if details else {})})


def _bad(message: str, field: str | None = None) -> _Refused:
    return _Refused(400, "INVALID_ARGUMENT", message, "INVALID_ARGUMENT", field)


class FCMStandIn:
    """One project, and Google's token endpoint."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._tokens = GoogleTokens(around, _SCOPE)
        self._messages: list[dict[str, Any]] = []
        self._topics: dict[str, list[str]] = {}
        project = rf"/v1/projects/({_PROJECT})"
        device = project + r"/registrations/([^/]+)/topicSubscriptions"
        self._routes: list[tuple[str, str, Callable[..., Answer]]] = [
            ("POST", project + "/messages:send", self._send),
            ("GET", device, self._list),
            ("PATCH", device + r"/([^/]+)", self._subscribe),
            ("DELETE", device + r"/([^/]+)", self._unsubscribe),
        ]

    async def handle(self, ask: Ask) -> Answer:
        """Answer one request."""
        if (ask.method, ask.path) == ("POST", "/token"):
            return self._tokens.give(ask)
        keys = self._tokens.managed(ask)
        if keys is not None:
            return keys
        try:
            self._authorise(ask)
            await ask.work()
            return self._routed(ask)
        except _Refused as refused:
            return refused.answer

    def snapshot(self) -> dict[str, Any]:
        """The messages as they came, oldest first, each with its name; and the topics of each device."""
        return {"messages": self._messages, "topics": self._topics}

    def failure(self, status: int) -> Answer:
        """FCM's error body for an injected status."""
        word, own = {
            429: ("RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED"),
            503: ("UNAVAILABLE", "UNAVAILABLE"),
        }.get(status, ("INTERNAL", "INTERNAL"))
        return _Refused(status, word, "Internal error encountered." if own == "INTERNAL" else word, own).answer

    def sample(self, event: str) -> bytes:
        """FCM sends none."""
        raise ConfigurationError("'event': FCM sends no webhooks")

    def sign(self, emission: Emission, *, url: str, secrets: tuple[str, ...], hook_id: str, broken: bool) -> Signed:
        """FCM sends none."""
        raise ConfigurationError("'service': FCM sends no webhooks")

    def _authorise(self, ask: Ask) -> None:
        if not self._tokens.known(ask):
            message = "Request had invalid authentication credentials. Expected OAuth 2 access token."
            raise _Refused(401, "UNAUTHENTICATED", message)

    def _routed(self, ask: Ask) -> Answer:
        for method, pattern, action in self._routes:
            found = re.fullmatch(pattern, ask.path)
            if method == ask.method and found:
                return action(ask, *(unquote(one) for one in found.groups()))
        if re.match(r"/v1/projects/[^/]+/messages:send", ask.path):
            raise _Refused(403, "PERMISSION_DENIED", "Permission 'cloudmessaging.messages.create' denied on resource")
        raise _Refused(404, "NOT_FOUND", "Requested entity was not found.")

    def _send(self, ask: Ask, _project: str) -> Answer:
        given = _json(ask.body)
        _check_fields(given, {"message": dict, "validateOnly": bool}, "")
        message = given.get("message")
        if message is None:
            raise _bad("Message is required.", "message")
        _check_message(message)
        fate = next((fate for word, fate in _FATES.items() if str(message.get("token", "")).startswith(word)), None)
        if fate is not None:
            refused = _Refused(*fate, field="message.token" if fate[0] == 400 else None)
            wait = {"Retry-After": "1"} if fate[0] == 503 else {}
            return Answer(refused.answer.status, refused.answer.content, wait)
        if given.get("validateOnly"):
            return Answer(200, {"name": f"projects/{_PROJECT}/messages/fake_message_id"})
        name = f"projects/{_PROJECT}/messages/0:{self._around.now()}%{self._around.random.getrandbits(64):016x}"
        self._messages.append({"name": name, "message": message})
        return Answer(200, {"name": name})

    def _list(self, ask: Ask, project: str, device: str) -> Answer:
        asked: dict[str, str] = dict(ask.parameters)
        size, after = int(asked.get("pageSize", "1000")), int(asked.get("pageToken", "0") or 0)
        held = self._topics.get(device, [])
        base = f"projects/{project}/registrations/{device}/topicSubscriptions"
        answer: dict[str, Any] = {}
        if held[after : after + size]:
            answer["topicSubscriptions"] = [{"name": f"{base}/{topic}"} for topic in held[after : after + size]]
        return Answer(200, answer | ({"nextPageToken": str(after + size)} if len(held) > after + size else {}))

    def _subscribe(self, ask: Ask, project: str, device: str, topic: str) -> Answer:
        if not _TOPIC.fullmatch(topic):
            raise _bad("Invalid topic name", "topic_subscription.name")
        held = self._topics.setdefault(device, [])
        if topic not in held:
            if dict(ask.parameters).get("allowMissing") != "true":
                raise _Refused(404, "NOT_FOUND", "Requested entity was not found.")
            held.append(topic)
        return Answer(200, {"name": f"projects/{project}/registrations/{device}/topicSubscriptions/{topic}"})

    def _unsubscribe(self, ask: Ask, _project: str, device: str, topic: str) -> Answer:
        held = self._topics.get(device, [])
        if topic in held:
            held.remove(topic)
        elif dict(ask.parameters).get("allowMissing") != "true":
            raise _Refused(404, "NOT_FOUND", "Requested entity was not found.")
        return Answer(200, {})


def _json(body: bytes) -> dict[str, Any]:
    try:
        given = json.loads(body)
    except ValueError:
        raise _bad("Invalid JSON payload received. Unexpected token.") from None
    if not isinstance(given, dict):
        raise _bad("Invalid JSON payload received. Root element must be a message.")
    return given


def _check_fields(given: Mapping[str, Any], kinds: Mapping[str, type], where: str) -> None:
    for name, value in given.items():
        place = f"{where}.{name}" if where else name
        if name not in kinds:
            at = f" at '{where}'" if where else ""
            raise _bad(f'Invalid JSON payload received. Unknown name "{name}"{at}: Cannot find field.', where or None)
        if not isinstance(value, kinds[name]):
            raise _bad(f"Invalid value at '{place}'", place)


def _check_message(message: dict[str, Any]) -> None:
    _check_fields(message, _MESSAGE, "message")
    targets = [name for name in _TARGETS if name in message]
    if len(targets) != 1:
        told = (
            "Recipient of the message is not set." if not targets else "Exactly one recipient of the message is needed."
        )
        raise _bad(told, "message")
    _check_fields(message.get("notification", {}), _NOTIFICATION, "message.notification")
    for number, (name, value) in enumerate(message.get("data", {}).items()):
        if not isinstance(value, str):
            raise _bad(f"Invalid value at 'message.data[{number}].value' (TYPE_STRING), {value}", "message.data")
        if re.fullmatch(r"from|message_type|google\..*|gcm\.notification\..*", name):
            raise _bad(f"Invalid data payload key: {name}", "message.data")
    if "topic" in message and not _TOPIC.fullmatch(message["topic"]):
        raise _bad("Malformed topic name", "message.topic")
    ttl = message.get("android", {}).get("ttl")
    if ttl is not None and (not isinstance(ttl, str) or not _TTL.fullmatch(ttl) or float(ttl[:-1]) > _LONGEST):
        raise _bad("Invalid value at 'message.android.ttl'", "message.android.ttl")
    size = len(json.dumps([message.get("notification"), message.get("data")], ensure_ascii=False).encode())
    if size > (2048 if {"topic", "condition"} & message.keys() else 4096):
        raise _bad("Message is too big")


STAND_IN = Registration(name="fcm", make=FCMStandIn)
