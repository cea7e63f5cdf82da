"""Amazon SNS: notifications to devices through platform endpoints, and what it tells of those.

Facts: services/push/sns.md, services/sms/sns.md; contract: none, it is botocore's model of sns.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Final

from moorline.calls.aws import AwsErrors
from moorline.calls.group import Group
from moorline.calls.service import Endpoints, Parameter, Plan, operation
from moorline.errors import CallError
from moorline.services.answers import items, moment, optional_text, record, text, texts
from moorline.services.aws_access_keys import AccessKeys
from moorline.services.limits import as_text, at_most, refused
from moorline.services.push.protocol import Push, PushReport, PushResult, merged, one_each, report
from moorline.services.topics import content, is_topic, message_attributes, topic

if TYPE_CHECKING:
    from moorline.events.event import Event

__all__ = ["Endpoint", "EndpointEvent", "EndpointEventKind", "SNSPush"]

_APPLICATION: Final = r"arn:aws[a-z-]*:sns:[a-z0-9-]+:[0-9]{12}:app/[A-Z_]+/[A-Za-z0-9_.-]+"
_ENDPOINT: Final = re.compile(r"arn:aws[a-z-]*:sns:[a-z0-9-]+:[0-9]{12}:endpoint/([A-Z_]+)/[^/\s]+/[^/\s]+")
_EXISTS: Final = re.compile(r"(arn:aws[a-z-]*:sns:[a-z0-9-]+:[0-9]{12}:endpoint/\S+) already exists with the same")
_PLATFORMS: Final = ("GCM", "APNS", "APNS_SANDBOX", "ADM")  # FCM is still called by its old name
_PAYLOAD: Final = 4096  # bytes: Apple's limit, and Google's
_USER_DATA: Final = 2048
_COLLAPSE: Final = 64
_DEAD: Final = frozenset({"EndpointDisabled", "NotFound"})
_GONE: Final = frozenset({"EndpointDisabled", "InvalidPlatformToken"})


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A device in a platform application. *existed* tells of one that ``create_endpoint`` found to be there with other
    attributes, which are not known here: see ``renew_endpoint``.
    """

    arn: str
    token: str = field(repr=False)
    enabled: bool = True
    user_data: str | None = field(default=None, repr=False)
    existed: bool = False
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


class EndpointEventKind(StrEnum):
    """What happened to an endpoint."""

    CREATED = "created"
    UPDATED = "updated"
    DELETED = "deleted"
    FAILED = "failed"
    """A notification did not reach it, and never will."""


@dataclass(frozen=True, slots=True)
class EndpointEvent:
    """What SNS told of one endpoint. *dead*: no more can be sent to it, unless the application registers a new token.
    *reason* is SNS's word (``InvalidPlatformToken``, ``NotificationTTLExpired``).
    """

    kind: EndpointEventKind
    vendor_type: str
    endpoint: str
    dead: bool = False
    reason: str | None = None
    at: datetime | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


_EVENTS: Final = {
    "EndpointCreated": EndpointEventKind.CREATED,
    "EndpointUpdated": EndpointEventKind.UPDATED,
    "EndpointDeleted": EndpointEventKind.DELETED,
    "DeliveryFailure": EndpointEventKind.FAILED,
}


class SNSPush(AccessKeys):
    """Notifications by Amazon SNS. A *target* is the ARN of an endpoint: a device's token in a platform application,
    which holds the credentials for Apple or Google and is made once, in the region that is called.

    There is no test mode; Apple's is an application of the platform ``APNS_SANDBOX``. SNS takes the first notification
    to a dead token like any other, disables the endpoint, and says so to the topic that the application's attribute
    ``EventDeliveryFailure`` names; from then on a target is ``dead``. Keys need the IAM actions sns:Publish,
    sns:CreatePlatformEndpoint and the like, and for ``check`` sns:ListPlatformApplications.

    The event's content is the text in ``Message``. Facts: services/push/sns.md, services/sms/sns.md.
    """

    name, category = "sns_push", "push"
    docs = "services/push/sns.md, services/sms/sns.md"
    model = "sns"
    endpoints = Endpoints("https://sns.us-east-1.amazonaws.com")
    application = Parameter(
        "SNS_PLATFORM_APPLICATION_ARN",
        sandbox="arn:aws:sns:us-east-1:123456789012:app/GCM/sandbox",
        like=_APPLICATION,
        default="",
    )
    errors = AwsErrors(model="sns")
    webhooks = topic(env="SNS_PUSH_TOPIC_ARN", type=("Message.EventType", "Type"))
    usage: ClassVar[str] = """
from moorline.services import SNSPush
from moorline.services.push.protocol import Push

sns = SNSPush()
phone = sns.create_endpoint("token-of-a-device").result()
sent = sns.send(Push("Shipped", "Order 17 is on its way", data={"order": "17"}), phone.arn).result()
print(sent.id, sent.dead)
"""

    @operation
    def send(self, /, push: Push, target: str, **extra: object) -> Plan[PushResult]:
        """Notify one device. A target that is deleted or disabled is a result with ``dead``: delete it, or have the
        application register anew.

        *data* and *url* lie beside ``aps`` on Apple's devices, and in ``data`` on others. Amazon's (ADM) leave all to
        the application: there ``title``, ``message`` and ``image`` lie in ``data`` too, unless *data* has others by
        those names, and there is no *badge*, *sound* or *priority*. *android* are fields of FCM's ``AndroidConfig``,
        *web* of ``WebpushConfig``, *ios* of Apple's payload. *extra* are further parameters of Publish. SNS honours no
        idempotency keys here: a notification that was sent and not answered is OutcomeUnknown.

        Raises InvalidRequest, naming field and limit, before anything is sent: more than 4096 bytes for a platform,
        what is no endpoint, ``aps`` in *data*, a collapse key over 64 bytes; *data*, *url*, *badge*, *ttl* or no words
        for an endpoint of another platform, which gets the words alone.
        """
        found = _ENDPOINT.fullmatch(as_text("target", target))
        if found is None:
            raise refused("target", "must be the ARN of an endpoint, such as arn:aws:sns:…:endpoint/GCM/shop/…")

        def dead(error: CallError) -> PushResult | None:
            return PushResult(target, dead=True, error=error) if error.code in _DEAD else None

        parameters = {"TargetArn": target, **_message(push, (found[1],)), **extra}
        return self.ask("Publish", parameters, _sent(target), accept=dead)

    def send_many(self, push: Push, targets: Iterable[str]) -> Group[PushReport]:
        """Notify many devices, one request each, 50 at a time; the report has one result for each, in their order."""
        wanted = one_each(targets)
        return Group([self.send(push, target) for target in wanted], report(wanted))

    @operation
    def send_topic(self, /, push: Push, topic: str, **extra: object) -> Plan[PushResult]:
        """Notify all endpoints that subscribed to *topic*, by its ARN, whatever their platforms. Raises as ``send``,
        and NotFound.
        """
        parameters = {"TopicArn": _topic(topic), **_message(push, _PLATFORMS), **extra}
        return self.ask("Publish", parameters, _sent(topic))

    @operation
    def create_endpoint(
        self,
        token: str,
        *,
        application: str | None = None,
        user_data: str | None = None,
        attributes: Mapping[str, str] | None = None,
    ) -> Plan[Endpoint]:
        """The endpoint of a device's token, new or as it is: the same token has one endpoint only.

        Where it is there with other attributes, AWS refuses it and names it; that is its answer here, with ``existed``:
        go on with ``renew_endpoint``, as AWS advises at each start of an application. *application* is the ARN of the
        platform application, else SNS_PLATFORM_APPLICATION_ARN. Raises NotFound without one.
        """
        chosen = application or self.application
        if not re.fullmatch(_APPLICATION, chosen):
            raise refused(
                "application", "must be the ARN of a platform application, or SNS_PLATFORM_APPLICATION_ARN set"
            )
        if not as_text("token", token):
            raise refused("token", "must not be empty")
        _check_user_data(user_data)
        parameters = {
            "PlatformApplicationArn": chosen,
            "Token": token,
            "CustomUserData": user_data,
            "Attributes": dict(attributes) if attributes else None,
        }

        def made(answer: Mapping[str, Any]) -> Endpoint:
            return Endpoint(text(answer, "EndpointArn"), token, user_data=user_data, raw=answer)

        def existing(error: CallError) -> Endpoint | None:
            found = _EXISTS.search(error.message) if error.code == "InvalidParameter" else None
            return None if found is None else Endpoint(found[1], token, existed=True)

        return self.ask("CreatePlatformEndpoint", parameters, made, reads=True, accept=existing)

    @operation
    def renew_endpoint(self, endpoint: str, token: str) -> Plan[bool]:
        """See to it that an endpoint has this token and is enabled: reads it, and sets both unless they are so already.
        Whether anything had to be set.

        For a token that the application has just got: enabled again with a dead one, the endpoint is soon disabled
        again. Raises NotFound for one that was deleted: create it anew.
        """

        def then(found: Endpoint) -> Plan[bool] | None:
            if found.enabled and found.token == token:
                return None
            wanted = {"Token": token, "Enabled": "true"}
            parameters = {"EndpointArn": endpoint, "Attributes": wanted}
            return self.ask("SetEndpointAttributes", parameters, lambda _: True, reads=True)

        if not as_text("token", token):
            raise refused("token", "must not be empty")
        return self.post_after(self._reading(endpoint), then, parse=lambda _: False)

    @operation
    def get_endpoint(self, endpoint: str) -> Plan[Endpoint]:
        """An endpoint as it is. Raises NotFound."""
        return self._reading(endpoint)

    @operation
    def set_endpoint(
        self, endpoint: str, *, token: str | None = None, enabled: bool | None = None, user_data: str | None = None
    ) -> Plan[None]:
        """Change an endpoint: what is None stays. Raises NotFound."""
        _check_user_data(user_data)
        wanted = {
            "Token": token,
            "Enabled": None if enabled is None else str(enabled).lower(),
            "CustomUserData": user_data,
        }
        changes = {name: value for name, value in wanted.items() if value is not None}
        if not changes:
            raise refused("token", "or enabled or user_data is needed")
        parameters = {"EndpointArn": _endpoint(endpoint), "Attributes": changes}
        return self.ask("SetEndpointAttributes", parameters, lambda _: None, reads=True)

    @operation
    def delete_endpoint(self, endpoint: str) -> Plan[None]:
        """Delete an endpoint; one that is gone already is no error. Its subscriptions to topics stay."""
        return self.ask("DeleteEndpoint", {"EndpointArn": _endpoint(endpoint)}, lambda _: None, reads=True)

    @operation
    def subscribe(self, endpoint: str, topic: str) -> Plan[str]:
        """Have a device get what is sent to *topic*: the ARN of the subscription, the same for one that is there."""
        parameters = {"TopicArn": _topic(topic), "Protocol": "application", "Endpoint": _endpoint(endpoint)}
        return self.ask("Subscribe", parameters, lambda answer: text(answer, "SubscriptionArn"), reads=True)

    @operation
    def unsubscribe(self, subscription: str) -> Plan[None]:
        """End a subscription, by its own ARN."""
        return self.ask("Unsubscribe", {"SubscriptionArn": subscription}, lambda _: None, reads=True)

    @operation
    def check(self) -> Plan[bool]:
        """True if the key is good and may list platform applications. Raises PermissionDenied if it may not."""
        return self.ask("ListPlatformApplications", {}, _listed, reads=True)

    @classmethod
    def read_event(cls, event: Event) -> EndpointEvent | None:
        """What happened to an endpoint, as the topics are told that a platform application names; None for all else.

        AWS documents the kinds, and not their form: ``EventType``, ``EndpointArn`` and ``FailureType`` are what
        applications in the field read (wireapp/wire-server, ``Gundeck.Aws.Sns``). Raises BadAnswer for another one.
        """
        told = content(event)
        kind = None if told is None else _EVENTS.get(str(told.get("EventType")))
        if told is None or kind is None:
            return None
        reason = optional_text(told, "FailureType")
        failed = kind is EndpointEventKind.FAILED and reason in _GONE
        return EndpointEvent(
            kind,
            event.type,
            text(told, "EndpointArn"),
            dead=failed or kind is EndpointEventKind.DELETED,
            reason=reason,
            at=moment(record(event.payload), "Timestamp"),
            raw=told,
        )

    def _reading(self, endpoint: str) -> Plan[Endpoint]:
        arn = _endpoint(endpoint)

        def parse(answer: Mapping[str, Any]) -> Endpoint:
            found = texts(answer, "Attributes")
            user_data = optional_text(found, "CustomUserData")
            return Endpoint(arn, text(found, "Token"), text(found, "Enabled") == "true", user_data, raw=answer)

        return self.ask("GetEndpointAttributes", {"EndpointArn": arn}, parse, reads=True)


def _sent(target: str) -> Any:
    return lambda answer: PushResult(target, id=text(answer, "MessageId"), raw=answer)


def _listed(answer: Mapping[str, Any]) -> bool:
    return isinstance(items(answer.get("PlatformApplications", []), "PlatformApplications"), list)


def _endpoint(arn: str) -> str:
    if not _ENDPOINT.fullmatch(as_text("endpoint", arn)):
        raise refused("endpoint", "must be the ARN of an endpoint, such as arn:aws:sns:…:endpoint/GCM/shop/…")
    return arn


def _topic(arn: str) -> str:
    if not is_topic(as_text("topic", arn)) or arn.endswith(".fifo"):
        raise refused("topic", "must be the ARN of a topic that is not FIFO: those take no devices")
    return arn


def _check_user_data(user_data: str | None) -> None:
    if user_data is not None:
        at_most("user_data", as_text("user_data", user_data).encode(), _USER_DATA - 1, "bytes")


def _message(push: Push, platforms: tuple[str, ...]) -> dict[str, Any]:
    """The message for each platform, as text within text, and what goes into Apple's headers and Google's ttl."""
    if "aps" in push.data:
        raise refused("data[aps]", "is a name of Apple's own")
    at_most("collapse_key", (push.collapse_key or "").encode(), _COLLAPSE, "bytes")
    parts = {"default": push.body or push.title or " "}
    for platform in platforms:
        _check_platform(push, platform)
        make = _apple if platform.startswith("APNS") else {"GCM": _google, "ADM": _amazon}.get(platform)
        if make is None:
            continue
        written = json.dumps(make(push), ensure_ascii=False, separators=(",", ":"))
        at_most("data", written.encode(), _PAYLOAD, f"bytes with all else for {platform}")
        parts[platform] = written
    return {
        "Message": json.dumps(parts, ensure_ascii=False, separators=(",", ":")),
        "MessageStructure": "json",
        "MessageAttributes": message_attributes(_attributes(push, platforms)),
    }


def _check_platform(push: Push, platform: str) -> None:
    """Raises InvalidRequest for what would be lost on the way to a platform whose messages are not known here."""
    if platform in _PLATFORMS:
        return
    if push.ttl is not None:
        raise refused("ttl", f"cannot be told to {platform}")
    if platform.startswith("APNS"):  # another of Apple's, with Apple's payload
        return
    if not (push.title or push.body):
        raise refused("body", f"or title is needed for {platform}, which gets the words alone")
    for name in ("data", "url", "badge"):
        if getattr(push, name) not in (None, {}):
            raise refused(name, f"cannot be told to {platform}, which gets the words alone")


def _attributes(push: Push, platforms: tuple[str, ...]) -> dict[str, str]:
    """Names unconfirmed: AWS's guide, not the model."""
    found: dict[str, str] = {}
    if push.ttl is not None:
        found |= {f"AWS.SNS.MOBILE.{platform}.TTL": str(push.ttl) for platform in platforms if platform in _PLATFORMS}
    if any(platform.startswith("APNS") for platform in platforms):
        found["AWS.SNS.MOBILE.APNS.PUSH_TYPE"] = "alert" if push.title or push.body else "background"
        if push.priority is not None:
            found["AWS.SNS.MOBILE.APNS.PRIORITY"] = "10" if push.priority == "high" else "5"
        if push.collapse_key is not None:
            found["AWS.SNS.MOBILE.APNS.COLLAPSE_ID"] = push.collapse_key
    return found


def _google(push: Push) -> dict[str, Any]:
    """FCM's message, in the wrapper that SNS wants around it; its field names are those of FCM's HTTP API."""
    shown = {"title": push.title, "body": push.body, "image": push.image}
    android = {
        "priority": push.priority,
        "collapse_key": push.collapse_key,
        "notification": _given({"sound": push.sound, "notification_count": push.badge}) or None,
    }
    parts = {
        "notification": _given(shown),
        "data": dict(push.data) | _given({"url": push.url}),
        "android": merged(_given(android), push.android),
        "webpush": dict(push.web),
    }
    return {"fcmV1Message": {"message": {name: value for name, value in parts.items() if value}}}


def _apple(push: Push) -> dict[str, Any]:
    alert = _given({"title": push.title, "body": push.body})
    aps: dict[str, Any] = _given({"alert": alert or None, "badge": push.badge, "sound": push.sound})
    if not alert:
        aps["content-available"] = 1
    if push.image is not None:
        aps["mutable-content"] = 1  # the application's extension fetches it
    ours = {**push.data, **_given({"url": push.url, "image": push.image}), "aps": aps}
    return merged(ours, push.ios)


def _amazon(push: Push) -> dict[str, Any]:
    """ADM's message, all of it for the application to read (developer.amazon.com/docs/adm/send-message.html); that the
    words are its ``message`` is AWS's example (sns-send-custom-platform-specific-payloads-mobile-devices).
    """
    shown = {"title": push.title, "message": push.body, "image": push.image}
    data = _given(shown) | dict(push.data) | _given({"url": push.url})
    return {"data": data, **_given({"consolidationKey": push.collapse_key})}


def _given(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
