"""Firebase Cloud Messaging: notifications to devices and topics, over HTTP v1.

Facts: services/push/fcm.md; contract: fcm.json.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from moorline.calls.group import Group
from moorline.calls.service import (
    Endpoints,
    ErrorMap,
    Exchange,
    Page,
    Parameter,
    Plan,
    listing,
    operation,
    segment,
)
from moorline.calls.tokens import KeyFile, ServiceAccount, key_file
from moorline.errors import (
    AuthenticationFailed,
    BadAnswer,
    CallError,
    ConfigurationError,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    ServiceUnavailable,
)
from moorline.services.answers import items, optional_text, record, text
from moorline.services.google_keys import ServiceAccountKeys
from moorline.services.limits import as_text, at_most, refused
from moorline.services.push.protocol import Push, PushReport, PushResult, merged, one_each, report

__all__ = ["FCM"]

_SCOPE: Final = "https://www.googleapis.com/auth/firebase.messaging"
_FCM_ERROR: Final = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
_BAD_REQUEST: Final = "type.googleapis.com/google.rpc.BadRequest"
_TOPIC: Final = re.compile(r"[a-zA-Z0-9\-_.~%]+")
_LONGEST: Final = 2_419_200  # seconds: four weeks
_BYTES: Final = 4096
_TOPIC_BYTES: Final = 2048
_SHOWN: Final = ("title", "body", "image")
_PAGE: Final = 2000
_RESERVED: Final = re.compile(r"from|message_type|google\..*|gcm\.notification\..*")


@dataclass(frozen=True, slots=True)
class _Errors(ErrorMap):
    """The code is in a detail of FCM's own; what stands above it is Google's general word, and differs."""

    def data(self, exchange: Exchange) -> Any:
        """``code``, ``status``, ``message``, and ``fields`` that were wrong; None for an error page of some proxy."""
        try:
            error = exchange.data["error"]
            details = [one for one in error.get("details", []) if isinstance(one, dict)]
        except (BadAnswer, TypeError, KeyError, AttributeError):
            return None
        own = [one.get("errorCode") for one in details if one.get("@type") == _FCM_ERROR]
        named = [one.get("fieldViolations") for one in details if one.get("@type") == _BAD_REQUEST]
        fields = [one.get("field") for each in named if isinstance(each, list) for one in each if isinstance(one, dict)]
        return {
            "code": own[0] if own else error.get("status"),
            "own": bool(own),
            "message": error.get("message"),
            "fields": fields,
        }


class FCM(ServiceAccountKeys):
    """Notifications by Firebase Cloud Messaging (HTTP v1). A *target* is a registration token or an installation id.

    The credential is the key file of a service account, as JSON or as a path; of its keys several may be in use at
    once, so that they are rotated without a gap: add, deploy, delete, which ``moorline keys rotate`` does where it may
    make keys of its own. Its project is used unless *project_id* says otherwise. There is no sandbox:
    ``validate_only=True`` has a message checked and not delivered. FCM takes one target a request: ``send_many`` makes
    one for each. What was delivered it tells through BigQuery only.

    Facts: services/push/fcm.md; contract: fcm.json.
    """

    name, category = "fcm", "push"
    docs = "services/push/fcm.md, fcm.json"
    endpoints = Endpoints("https://fcm.googleapis.com")
    credentials = KeyFile(env="GOOGLE_APPLICATION_CREDENTIALS", service="fcm")
    tokens = ServiceAccount(_SCOPE)
    project_id = Parameter("GOOGLE_CLOUD_PROJECT", like=r"[a-z][a-z0-9\-]{4,28}[a-z0-9]", default="")
    errors = _Errors(
        code="code",
        message="message",
        limited=frozenset({"QUOTA_EXCEEDED", "RESOURCE_EXHAUSTED"}),
        kinds={
            "INTERNAL": ServiceUnavailable,
            "INVALID_ARGUMENT": InvalidRequest,
            "NOT_FOUND": NotFound,
            "PERMISSION_DENIED": PermissionDenied,
            "SENDER_ID_MISMATCH": PermissionDenied,
            # The project's own credentials at Apple or a browser: another token of ours would change nothing.
            "APNS_AUTH_ERROR": PermissionDenied,
            "THIRD_PARTY_AUTH_ERROR": PermissionDenied,
            "UNAUTHENTICATED": AuthenticationFailed,
            "UNAVAILABLE": ServiceUnavailable,
            "UNREGISTERED": NotFound,
        },
    )
    lacks: ClassVar[Mapping[str, str]] = {
        "webhooks": "what was delivered is told through BigQuery and the FCM Data API only"
    }
    usage: ClassVar[str] = """
from moorline.services import FCM
from moorline.services.push.protocol import Push

push = Push("Shipped", "Order 17 is on its way", data={"order": "17"})
report = FCM().send_many(push, ["token-1", "dead-2"]).result()
print(report.sent, "sent; to delete:", report.dead)
"""

    @operation
    def send(self, /, push: Push, target: str, *, validate_only: bool = False, **extra: object) -> Plan[PushResult]:
        """Notify one device. A target that will never work again is a result with ``dead``: unregistered, another
        project's, or no token at all.

        *url* is opened by a click in browsers; *badge* counts on telephones. *extra* are further fields of the message
        by FCM's names (``fcmOptions``). FCM honours no idempotency keys: a notification that was sent and not answered
        is OutcomeUnknown.

        Raises InvalidRequest, naming field and limit, before anything is sent: more than 4096 bytes for a platform, a
        ttl beyond four weeks, a reserved name in *data*; PermissionDenied where the project's credentials at Apple are
        wrong.
        """
        if not target:
            raise refused("target", "must not be empty")

        def dead(error: CallError) -> PushResult | None:
            return PushResult(target, dead=True, error=error) if _is_dead(error) else None

        message = self._message(push, {"token": target}, extra, _BYTES)
        return self._sent(message, target, validate_only=validate_only, accept=dead)

    def send_many(self, push: Push, targets: Iterable[str], *, validate_only: bool = False) -> Group[PushReport]:
        """Notify many devices, one request each, 50 at a time; the report has one result for each, in their order."""
        wanted = one_each(targets)
        calls = [self.send(push, target, validate_only=validate_only) for target in wanted]
        return Group(calls, report(wanted))

    @operation
    def send_topic(
        self, /, push: Push, topic: str, *, validate_only: bool = False, **extra: object
    ) -> Plan[PushResult]:
        """Notify all devices that subscribed to *topic*, or to a condition of topics (``'a' in topics && 'b' in
        topics``). The limit is 2048 bytes. Raises as ``send``.
        """
        kind = "condition" if " in topics" in topic else "topic"
        if kind == "topic" and not _TOPIC.fullmatch(topic):
            raise refused("topic", "must be letters, digits and -_.~% only, without /topics/ before it")
        message = self._message(push, {kind: topic}, extra, _TOPIC_BYTES)
        return self._sent(message, topic, validate_only=validate_only)

    @operation
    def subscribe(self, target: str, topic: str) -> Plan[None]:
        """Have a device get what is sent to *topic*. One that has it already stays as it is."""
        path = f"{self._subscriptions(target)}/{_topic(topic)}"
        return self.patch(path, query={"allowMissing": True}, json={}, parse=lambda _: None, repeatable=True)

    @operation
    def unsubscribe(self, target: str, topic: str) -> Plan[None]:
        """Have a device get no more of *topic*. One that has none of it stays as it is."""
        path = f"{self._subscriptions(target)}/{_topic(topic)}"
        return self.delete(path, query={"allowMissing": True}, parse=lambda _: None, blank=True)

    @listing
    def list_topics(self, /, target: str, *, page_size: int = _PAGE) -> Plan[Page[str]]:
        """The topics that a device subscribed to. *page_size* is 1 to 2000."""
        if not 1 <= page_size <= _PAGE:
            raise refused("page_size", f"must be from 1 to {_PAGE}")
        return self._topics(self._subscriptions(target), {"pageSize": page_size})

    @operation
    def check(self) -> Plan[bool]:
        """True if the key is good and may send: has a message to a topic validated, and not sent.

        Raises AuthenticationFailed for a key that Google does not take, PermissionDenied without the role.
        """
        body = {"message": {"topic": "moorline-check", "data": {"check": "1"}}, "validateOnly": True}
        return self.post(self._send_path(), json=body, parse=lambda answer: bool(_name(answer)), repeatable=True)

    def _project(self) -> str:
        found = self.project_id or key_file(self.secret(), self.name).get("project_id")
        if not isinstance(found, str) or not found:
            raise ConfigurationError("fcm has no project_id: the key file names none; set GOOGLE_CLOUD_PROJECT")
        return segment(found, "project_id")

    def _send_path(self) -> str:
        return f"/v1/projects/{self._project()}/messages:send"

    def _subscriptions(self, target: str) -> str:
        return f"/v1/projects/{self._project()}/registrations/{segment(target, 'target')}/topicSubscriptions"

    def _sent(
        self, message: Mapping[str, Any], target: str, *, validate_only: bool, accept: Any = None
    ) -> Plan[PushResult]:
        body = {"message": message, "validateOnly": True} if validate_only else {"message": message}
        return self.post(
            self._send_path(),
            json=body,
            parse=lambda answer: PushResult(target, id=_name(answer), raw=answer.data),
            accept=accept,
            repeatable=True if validate_only else None,
        )

    def _topics(self, path: str, query: Mapping[str, object]) -> Plan[Page[str]]:
        def parse(exchange: Exchange) -> Page[str]:
            answer = record(exchange.data)
            rows = [record(one) for one in items(answer.get("topicSubscriptions", []), "topicSubscriptions")]
            names = tuple(text(one, "name").rpartition("/")[2] for one in rows)
            after = optional_text(answer, "nextPageToken")
            if after and after == query.get("pageToken"):
                raise BadAnswer("the listing does not advance")
            return Page(names, self._topics(path, {**query, "pageToken": after}) if after else None)

        return self.get(path, query=query, parse=parse)

    def _message(
        self, push: Push, to: Mapping[str, str], extra: Mapping[str, object], most: int
    ) -> Mapping[str, object]:
        if push.ttl is not None and push.ttl > _LONGEST:
            raise refused("ttl", f"must be at most {_LONGEST} seconds (four weeks), not {push.ttl}")
        shown = {"title": push.title, "body": push.body, "image": push.image}
        parts = {
            "notification": {name: value for name, value in shown.items() if value is not None},
            "data": dict(push.data),
            "android": merged(_android(push), push.android),
            "apns": merged(_apns(push, self.clock.wall()), push.ios),
            "webpush": merged(_webpush(push), push.web),
        }
        message: dict[str, object] = {**to, **{name: value for name, value in parts.items() if value}, **extra}
        _check(message, most)
        return message


def _check(message: Mapping[str, object], most: int) -> None:
    """Raises InvalidRequest for a name in its data that is FCM's, and where some platform gets too much. By the
    contract a platform's own data and words are instead of the message's; Apple's payload is counted by itself.
    """
    shown, data = _within(message, "notification"), _within(message, "data")
    for name, value in data.items():
        if _RESERVED.fullmatch(name):
            raise refused(f"data[{name}]", "is a name of FCM's own")
        as_text(f"data[{name}]", value)
    for field, own in (
        ("data", message),
        ("android", _within(message, "android")),
        ("web", _within(message, "webpush")),
    ):
        words = {name: value for name, value in _within(own, "notification").items() if name in _SHOWN}
        payload = {"notification": {**shown, **words}, "data": own.get("data") or data}
        at_most(field, _counted(payload), most, "bytes with title and body")
    at_most("ios", _counted(_within(_within(message, "apns"), "payload")), most, "bytes")


def _within(holder: Mapping[str, object], name: str) -> Mapping[str, Any]:
    found = holder.get(name)
    return found if isinstance(found, Mapping) else {}


def _counted(payload: object) -> bytes:
    """As it goes out; what cannot is refused later, by its type."""
    return json.dumps(payload, ensure_ascii=False, separators=(",", ":"), default=str).encode()


def _android(push: Push) -> dict[str, Any]:
    notification = {"sound": push.sound, "notificationCount": push.badge}
    shown = {name: value for name, value in notification.items() if value is not None}
    config = {
        "ttl": None if push.ttl is None else f"{push.ttl}s",
        "priority": None if push.priority is None else push.priority.upper(),  # as the contract; SDKs write it small
        "collapseKey": push.collapse_key,
        "notification": shown or None,
    }
    return {name: value for name, value in config.items() if value is not None}


def _apns(push: Push, now: float) -> dict[str, Any]:
    """Apple's headers are texts; an expiry of 0 is now or never (Apple's, and FCM's)."""
    headers = {
        "apns-priority": None if push.priority is None else {"high": "10", "normal": "5"}[push.priority],
        "apns-expiration": None if push.ttl is None else str(int(now) + push.ttl if push.ttl else 0),
        "apns-collapse-id": push.collapse_key,
    }
    aps = {"badge": push.badge, "sound": push.sound}
    found = {name: value for name, value in headers.items() if value is not None}
    shown = {name: value for name, value in aps.items() if value is not None}
    config: dict[str, Any] = {"headers": found} if found else {}
    return config | ({"payload": {"aps": shown}} if shown else {})


def _webpush(push: Push) -> dict[str, Any]:
    config: dict[str, Any] = {} if push.ttl is None else {"headers": {"TTL": str(push.ttl)}}
    return config | ({"fcmOptions": {"link": push.url}} if push.url else {})


def _is_dead(error: CallError) -> bool:
    """By FCM's own word, never by the status alone: a 404 is also a project that does not exist."""
    told = error.detail if isinstance(error.detail, Mapping) else {}
    if error.code in ("UNREGISTERED", "SENDER_ID_MISMATCH"):
        return True
    named = "message.token" in (told.get("fields") or ())
    return error.code == "INVALID_ARGUMENT" and (named or "registration token is not" in error.message)


def _topic(topic: str) -> str:
    if not _TOPIC.fullmatch(topic):
        raise refused("topic", "must be letters, digits and -_.~% only, without /topics/ before it")
    return segment(topic, "topic")


def _name(exchange: Exchange) -> str:
    return text(record(exchange.data), "name")
