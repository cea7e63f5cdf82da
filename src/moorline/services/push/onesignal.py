"""OneSignal: notifications to subscriptions, users and segments.

Facts: services/push/onesignal.md; contract: onesignal.json.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar, Final

from moorline import redaction
from moorline.calls.group import Group
from moorline.calls.minting import Minted
from moorline.calls.service import (
    BearerKey,
    Endpoints,
    ErrorMap,
    Exchange,
    IdempotencyKey,
    Parameter,
    Plan,
    Service,
    hours,
    operation,
    segment,
)
from moorline.errors import BadAnswer, CallError, InvalidRequest
from moorline.secrets.secret import Secret
from moorline.services.answers import optional_text, record
from moorline.services.key_answers import called, gone, minted
from moorline.services.limits import at_most, refused
from moorline.services.push.protocol import Push, PushReport, PushResult, merged, one_each

__all__ = ["OneSignal"]

_MOST: Final = 2000
_DATA: Final = 2048
_COLLAPSE: Final = 64
_NOBODY: Final = "All included players are not subscribed"
_NOTHING: Final = "nothing_sent"
_UUID: Final = "[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
_TOKENS: Final = "/auth/tokens"
_PRIORITIES: Final = {"high": 10, "normal": 5}


def _failed(exchange: Exchange) -> str | None:
    """A 200 without an id: nothing was sent. That nobody of them is subscribed is a result, and no failure, and so is
    an object that names those who are not.
    """
    answer = exchange.data
    if not isinstance(answer, dict) or answer.get("id") != "":
        return None
    errors = answer.get("errors")
    return None if _unsubscribed(errors) or isinstance(errors, Mapping) else _NOTHING


class OneSignal(Service):
    """Notifications by OneSignal. A *target* is a subscription's id; users go by your own ids for them (external ids).

    The key is an app's REST API key, of which it may have several at once, so that they are rotated without a gap: add,
    deploy, delete. ``moorline keys rotate`` does that with the *organization_key* (``ONESIGNAL_ORGANIZATION_KEY``,
    ``os_v2_org_…``), which goes with nothing else. There is no sandbox: use a second app. OneSignal retires dead tokens
    itself; what is dead here is a subscription that it no longer has. Ids that it never knew it drops without a word,
    and the report has them as sent.

    Facts: services/push/onesignal.md; contract: onesignal.json.
    """

    name, category = "onesignal", "push"
    docs = "services/push/onesignal.md, onesignal.json"
    endpoints = Endpoints("https://api.onesignal.com")
    credentials = BearerKey(env="ONESIGNAL_REST_API_KEY", sandbox="os_v2_app_sandbox", scheme="Key")
    app_id = Parameter("ONESIGNAL_APP_ID", sandbox="8250eaf6-1a58-489e-b136-7c74a864b434", like=_UUID)
    organization_key = Parameter("ONESIGNAL_ORGANIZATION_KEY", sandbox="os_v2_org_sandbox", default="", secret=True)
    idempotency = IdempotencyKey(field="idempotency_key", window=hours(24 * 30), max_length=36, like=_UUID)
    errors = ErrorMap(
        code="errors.0.code",
        message="errors.0.title|errors.0.message|errors.0",
        failed=_failed,
        kinds={_NOTHING: InvalidRequest},
    )
    lacks: ClassVar[Mapping[str, str]] = {
        "webhooks": "its event streams are requests of your own making, with no signature: see app.source()"
    }
    usage: ClassVar[str] = """
from moorline.services import OneSignal
from moorline.services.push.protocol import Push

report = OneSignal().send_many(Push("Shipped", "Order 17 is on its way"), ["sub-1", "dead-2"]).result()
print(report.sent, "sent; to delete:", report.dead)
"""

    def authorized(
        self, key: Secret, method: str, url: str, headers: dict[str, str], body: bytes | None
    ) -> dict[str, str]:
        """Keys are made and deleted with the organization's key."""
        if _TOKENS in url and self.organization_key:
            key = Secret(self.organization_key, name="ONESIGNAL_ORGANIZATION_KEY")
        return super().authorized(key, method, url, headers, body)

    @operation
    def send(self, /, push: Push, target: str, *, send_at: datetime | None = None, **extra: object) -> Plan[PushResult]:
        """Notify one subscription. One that is no longer there, or no longer subscribed, is a result with ``dead``.

        *send_at* needs a time zone. *android*, *ios* and *web* of the Push, and *extra*, are OneSignal's own fields by
        their names, which stand side by side (``android_channel_id``, ``ios_category``).

        Raises InvalidRequest, naming field and limit, before anything is sent: more than 2048 bytes of *data*, a
        *collapse_key* over 64 characters.
        """
        if not target:
            raise refused("target", "must not be empty")
        body = self._body(push, send_at, extra, {"include_subscription_ids": [target]})
        return self.post("/notifications", json=body, parse=lambda exchange: _results(exchange, (target,))[0])

    @operation
    def send_some(
        self, /, push: Push, targets: Sequence[str], *, send_at: datetime | None = None, **extra: object
    ) -> Plan[tuple[PushResult, ...]]:
        """Notify up to 2000 subscriptions with one request; a result for each, in their order. Raises as ``send``."""
        wanted = one_each(targets)
        at_most("targets", wanted, _MOST, "subscriptions")
        body = self._body(push, send_at, extra, {"include_subscription_ids": list(wanted)})
        return self.post("/notifications", json=body, parse=lambda exchange: _results(exchange, wanted, "send_some"))

    def send_many(self, push: Push, targets: Iterable[str]) -> Group[PushReport]:
        """Notify any number of subscriptions, 2000 with each request; the report has one result for each."""
        wanted = one_each(targets)
        parts = [wanted[start : start + _MOST] for start in range(0, len(wanted), _MOST)]

        def join(found: list[Any]) -> PushReport:
            results: list[PushResult] = []
            for part, one in zip(parts, found, strict=True):
                failed = isinstance(one, CallError)
                results += [PushResult(target, error=one) for target in part] if failed else one
            return PushReport(tuple(results))

        return Group([self.send_some(push, part) for part in parts], join)

    @operation
    def send_users(
        self, /, push: Push, users: Sequence[str], *, send_at: datetime | None = None, **extra: object
    ) -> Plan[tuple[PushResult, ...]]:
        """Notify up to 2000 users, by your ids of them, on all their devices; a result for each. Raises as ``send``."""
        wanted = one_each(users)
        at_most("users", wanted, _MOST, "users")
        target = {"include_aliases": {"external_id": list(wanted)}, "target_channel": "push"}
        body = self._body(push, send_at, extra, target)
        return self.post("/notifications", json=body, parse=lambda exchange: _results(exchange, wanted, "send_users"))

    @operation
    def send_topic(
        self, /, push: Push, topic: str, *, send_at: datetime | None = None, **extra: object
    ) -> Plan[PushResult]:
        """Notify a segment, by its name (OneSignal's word for a topic). Raises as ``send``."""
        if not topic:
            raise refused("topic", "must not be empty")
        body = self._body(push, send_at, extra, {"included_segments": [topic]})
        return self.post("/notifications", json=body, parse=lambda exchange: _results(exchange, (topic,))[0])

    @operation
    def get_notification(self, notification_id: str) -> Plan[Mapping[str, Any]]:
        """What became of a notification so far: ``successful``, ``failed``, ``errored``, ``remaining``, ….

        Raises NotFound.
        """
        path = f"/notifications/{segment(notification_id, 'notification_id')}"
        return self.get(path, query={"app_id": self.app_id}, parse=lambda exchange: record(exchange.data))

    @operation
    def cancel_notification(self, notification_id: str) -> Plan[bool]:
        """Call a notification off that is not sent yet. Raises NotFound, and InvalidRequest where it is too late."""
        path = f"/notifications/{segment(notification_id, 'notification_id')}"
        return self.delete(path, query={"app_id": self.app_id}, parse=_done)

    @operation
    def check(self) -> Plan[bool]:
        """True if the key is this app's: reads one notification. Raises AuthenticationFailed or PermissionDenied."""
        query = {"app_id": self.app_id, "limit": 1}
        return self.get("/notifications", query=query, parse=lambda exchange: bool(record(exchange.data)))

    @operation
    def mint_key(self, label: str) -> Plan[Minted]:
        """Make another key of the app: they may all do the same. For ``moorline keys rotate``. A list of networks that
        the present one is bound to is not taken over. *label* is up to 128 characters.

        Facts: services/push/onesignal.md; documentation.onesignal.com/reference/create-api-key. Raises
        AuthenticationFailed or PermissionDenied without the organization's key.
        """
        return self.post(self._tokens(), json={"name": label}, parse=_minted, keyed=False)

    @operation
    def revoke_key(self, id: str) -> Plan[bool]:
        """Delete the key of that id: it is refused from now on. False where there is none."""
        return self.delete(self._tokens(id), parse=lambda _: True, blank=True, accept=gone)

    @operation
    def find_keys(self, label: str) -> Plan[Sequence[str]]:
        """The ids of the keys that are called so."""
        return self.get(self._tokens(), parse=called(label, "tokens", "token_id"))

    def key_id(self, secret: Secret) -> str | None:  # noqa: ARG002 (of others it can be told)
        """None: a key of OneSignal's does not tell."""
        return None

    def _tokens(self, id: str | None = None) -> str:
        return f"/apps/{self.app_id}{_TOKENS}" + ("" if id is None else f"/{segment(id, 'id')}")

    def _body(
        self, push: Push, send_at: datetime | None, extra: Mapping[str, object], target: Mapping[str, object]
    ) -> dict[str, Any]:
        at_most("data", json.dumps(dict(push.data), ensure_ascii=False).encode(), _DATA, "bytes")
        at_most("collapse_key", push.collapse_key or "", _COLLAPSE, "characters")
        if send_at is not None and send_at.tzinfo is None:
            raise refused("send_at", "needs a time zone")
        shown = push.body or push.title
        fields: dict[str, Any] = {
            "app_id": self.app_id,
            "contents": {"en": shown} if shown else None,
            "headings": {"en": push.title} if push.title and push.body else None,
            "content_available": None if shown else True,
            "data": dict(push.data) or None,
            "url": push.url,
            "ttl": push.ttl,
            "priority": None if push.priority is None else _PRIORITIES[push.priority],
            "collapse_id": push.collapse_key,
            "big_picture": push.image,
            "chrome_web_image": push.image,
            "ios_attachments": {"image": push.image} if push.image else None,
            "ios_badgeType": None if push.badge is None else "SetTo",
            "ios_badgeCount": push.badge,
            "ios_sound": push.sound,
            "android_sound": push.sound,
            "send_after": None if send_at is None else send_at.isoformat(),
        }
        body = {name: value for name, value in fields.items() if value is not None} | dict(target)
        for theirs in (push.android, push.ios, push.web, extra):
            body = merged(body, theirs)
        return body


_minted = minted("ONESIGNAL_REST_API_KEY", "formatted_token", "token_id")


def _unsubscribed(errors: object) -> bool:
    return isinstance(errors, list) and _NOBODY in errors


def _results(exchange: Exchange, targets: tuple[str, ...], operation: str = "") -> tuple[PushResult, ...]:
    """One for each: dead are those that a list within ``errors`` names, or all where nobody is subscribed. Where
    nothing was sent the others have an error, of *operation*; if none is dead it is raised.
    """
    answer = record(exchange.data)
    name, errors = optional_text(answer, "id"), answer.get("errors")
    if name is None and not _unsubscribed(errors):
        raise BadAnswer("the answer has no usable 'id'")
    gone = set(targets) if _unsubscribed(errors) else set(_named(errors)).intersection(targets)
    error = None if name else _nothing_sent(exchange, operation)
    if error is not None and not gone:
        raise error
    return tuple(
        PushResult(target, dead=True, raw=answer)
        if target in gone
        else PushResult(target, id=name or None, error=error, raw=answer)
        for target in targets
    )


def _nothing_sent(exchange: Exchange, operation: str) -> InvalidRequest:
    return InvalidRequest(
        "nothing was sent",
        service=OneSignal.name,
        operation=operation,
        status=exchange.status,
        code=_NOTHING,
        request_id=exchange.request_id,
        attempts=exchange.attempts,
        detail=redaction.data(exchange.data),
    )


def _named(errors: object) -> Iterable[str]:
    """``{"invalid_aliases": {"external_id": [...]}}``, ``{"invalid_player_ids": [...]}``: all the ids in there."""
    if isinstance(errors, str):
        yield errors
    elif isinstance(errors, Mapping):
        for inner in errors.values():
            yield from _named(inner)
    elif isinstance(errors, list):
        yield from (one for one in errors if isinstance(one, str))


def _done(exchange: Exchange) -> bool:
    return record(exchange.data).get("success") is True
