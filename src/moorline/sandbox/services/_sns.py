"""SNS's stand-in for text messages, topics and push endpoints: ``sns`` and ``sns_push`` are one account each.

Facts: services/sms/sns.md, services/push/sns.md and botocore's model of sns. Topics, platform applications and numbers
need not be made before. The sandbox's own: names that begin with ``missing`` do not exist, applications whose names
begin with ``disabled`` have bad credentials, numbers that end in 999 opted out, and a text that begins with ``REPLY``
is answered by what follows. A device token that begins with ``dead`` is refused by its push service: the first message
to its endpoint is taken, then the endpoint is disabled and its application's topic told of it. Wordings of errors are
unconfirmed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from moorline.errors import ConfigurationError
from moorline.sandbox.services._aws import ACCOUNT, REGION, Api, Refused, notification, signed_notification
from moorline.sandbox.standin import Answer, Ask, Emission, Signed, Surroundings

__all__ = ["SnsStandIn"]

_ARN: Final = re.compile(r"arn:aws[a-z-]*:sns:([a-z0-9-]+):([0-9]{12}):(.+)")
_PHONE: Final = re.compile(r"\+[1-9][0-9]{6,14}")
_APPLICATION: Final = re.compile(r"app/(ADM|APNS|APNS_SANDBOX|GCM)/([A-Za-z0-9_.-]+)")
_MOST_BYTES: Final = 256 * 1024
_SMS: Final = {"SenderID": "String", "SMSType": "String", "MaxPrice": "Number"}


class SnsStandIn:
    """One account; *events* are those of which it has samples."""

    def __init__(self, around: Surroundings, name: str, events: tuple[str, ...]) -> None:
        self._around = around
        self._name = name
        self._events = events
        self._api = Api("sns", around, invalid="ValidationError")
        self._messages: list[dict[str, Any]] = []
        self._endpoints: dict[str, dict[str, str]] = {}
        self._subscriptions: dict[str, dict[str, str]] = {}
        self._opted_in: set[str] = set()

    async def handle(self, ask: Ask) -> Answer:
        """Answer one request."""
        keys = self._api.keys.managed(ask)
        if keys is not None:
            return keys
        try:
            self._api.authorise(ask)
            await ask.work()
            name, given = self._api.asked(ask)
            return self._api.answered(name, self._done(name, given))
        except Refused as refused:
            return self._api.refused(refused)

    def snapshot(self) -> dict[str, Any]:
        """Messages as they were published, newest last, endpoints with their attributes, and subscriptions."""
        return {"messages": self._messages, "endpoints": self._endpoints, "subscriptions": self._subscriptions}

    def failure(self, status: int) -> Answer:
        """SNS's error for an injected status."""
        if status == 429:
            return self._api.refused(Refused(429, "Throttled", "Rate exceeded"))
        return self._api.refused(Refused(status, "InternalError", "The request failed; try again."))

    def sample(self, event: str) -> bytes:
        """A notification of that kind."""
        if event not in self._events:
            raise ConfigurationError(f"'event': the sandbox knows {', '.join(self._events)} of {self._name}")
        if event == "Notification":
            return notification(self._api, self._inbound("+447700900000", "+447700900001", "YES"))
        arn = f"arn:aws:sns:{REGION}:{ACCOUNT}:endpoint/GCM/sandbox/{self._api.uuid()}"
        return notification(self._api, self._report(event, arn))

    def sign(self, emission: Emission, *, url: str, secrets: tuple[str, ...], hook_id: str, broken: bool) -> Signed:
        """Signed by the sandbox's RSA key, as of the topic that the receiver takes; plain without one."""
        return signed_notification(self._name, self._around, emission, url=url, secrets=secrets, broken=broken)

    def _done(self, name: str, given: dict[str, Any]) -> dict[str, Any]:
        operations = {
            "Publish": self._publish,
            "GetSMSAttributes": lambda _: {"attributes": {"DefaultSMSType": "Promotional", "MonthlySpendLimit": "1"}},
            "CheckIfPhoneNumberIsOptedOut": lambda asked: {"isOptedOut": self._opted_out(asked["phoneNumber"])},
            "OptInPhoneNumber": self._opt_in,
            "ListPlatformApplications": lambda _: {"PlatformApplications": []},
            "ListTopics": lambda _: {"Topics": []},
            "CreatePlatformEndpoint": self._create_endpoint,
            "GetEndpointAttributes": lambda asked: {"Attributes": self._endpoint(asked["EndpointArn"])},
            "SetEndpointAttributes": self._set_endpoint,
            "DeleteEndpoint": self._delete_endpoint,
            "Subscribe": self._subscribe,
            "Unsubscribe": self._unsubscribe,
        }
        if name not in operations:
            raise Refused(501, "NotImplemented", f"the sandbox has no {name}")
        return operations[name](given)

    # Publishing ------------------------------------------------------------------------------------------------------

    def _publish(self, given: dict[str, Any]) -> dict[str, Any]:
        targets = [name for name in ("PhoneNumber", "TargetArn", "TopicArn") if name in given]
        if len(targets) != 1:
            why = "no value for required parameter" if not targets else "only one of them may be given"
            raise _invalid("TopicArn or TargetArn", why)
        if not given["Message"]:
            raise Refused(400, "InvalidParameter", "Invalid parameter: Empty message")
        if len(given["Message"].encode()) > _MOST_BYTES:
            raise Refused(400, "InvalidParameter", "Invalid parameter: Message too long")
        attributes = given.get("MessageAttributes", {})
        for name, value in attributes.items():
            if value["DataType"].partition(".")[0] not in ("String", "Number", "Binary"):
                raise Refused(400, "ParameterValueInvalid", f"The message attribute '{name}' has an invalid type.")
        published = {"MessageId": self._api.uuid()}
        {"PhoneNumber": self._text, "TargetArn": self._push, "TopicArn": self._topic}[targets[0]](given, attributes)
        self._messages.append({"id": published["MessageId"], "message": given})
        return published

    def _text(self, given: dict[str, Any], attributes: Mapping[str, Any]) -> None:
        number, message = given["PhoneNumber"], given["Message"]
        if not _PHONE.fullmatch(number):
            raise _invalid("PhoneNumber", f"{number} is not valid to publish to")
        if len(message) > 1600:
            raise _invalid("Message", "Message too long for SMS")
        for name, value in attributes.items():
            short = name.removeprefix("AWS.SNS.SMS.")
            if short != name and _SMS.get(short) != value["DataType"]:
                raise Refused(400, "ParameterValueInvalid", f"The message attribute '{name}' has an invalid type.")
            if short == "SMSType" and value["StringValue"] not in ("Transactional", "Promotional"):
                raise _invalid("SMSType", "must be Transactional or Promotional")
            if short == "SenderID" and not re.fullmatch("[A-Za-z0-9]{1,11}", value["StringValue"]):
                raise _invalid("SenderID", "must be 1 to 11 alphanumeric characters")
        if message.startswith("REPLY "):
            sender = attributes.get("AWS.MM.SMS.OriginationNumber", {}).get("StringValue", "+447700900001")
            self._emit("Notification", self._inbound(number, sender, message.removeprefix("REPLY ")))

    def _topic(self, given: dict[str, Any], _: Mapping[str, Any]) -> None:
        arn = given["TopicArn"]
        self._known_topic(arn)
        if arn.endswith(".fifo") != ("MessageGroupId" in given):
            raise _invalid("MessageGroupId", "The MessageGroupId parameter is for FIFO topics, which need it")
        if given.get("MessageStructure") == "json":
            self._emit("Notification", _parts(given["Message"])["default"])
        else:
            self._emit("Notification", given["Message"])

    def _push(self, given: dict[str, Any], _: Mapping[str, Any]) -> None:
        arn = given["TargetArn"]
        endpoint = self._endpoint(arn)
        platform, application = self._platform(arn)
        if application.startswith("disabled"):
            raise Refused(400, "PlatformApplicationDisabled", "Platform application is disabled")
        if endpoint["Enabled"] != "true":
            raise Refused(400, "EndpointDisabled", "Endpoint is disabled")
        if given.get("MessageStructure") == "json":
            parts = _parts(given["Message"])
            try:
                payload = json.loads(parts.get(platform, "{}"))
            except ValueError:
                payload = None
            if not isinstance(payload, dict):
                raise Refused(400, "InvalidParameter", f"Invalid parameter: the payload for {platform} is not JSON")
        if endpoint["Token"].startswith("dead"):
            endpoint["Enabled"] = "false"
            self._emit("DeliveryFailure", self._report("DeliveryFailure", arn))

    # Endpoints -------------------------------------------------------------------------------------------------------

    def _create_endpoint(self, given: dict[str, Any]) -> dict[str, Any]:
        found = _ARN.fullmatch(given["PlatformApplicationArn"])
        application = _APPLICATION.fullmatch(found[3]) if found else None
        if found is None or application is None:
            raise _invalid("PlatformApplicationArn", "An ARN must have at least 6 elements, not 1")
        if application[2].startswith("missing"):
            raise Refused(404, "NotFound", "PlatformApplication does not exist")
        if not given["Token"]:
            raise _invalid("Token", "iOS device tokens must be no more than 400 hexadecimal characters")
        wanted = {"Enabled": "true", "Token": given["Token"], **given.get("Attributes", {})}
        if "CustomUserData" in given:
            wanted["CustomUserData"] = given["CustomUserData"]
        prefix = f"arn:aws:sns:{found[1]}:{found[2]}:endpoint/{application[1]}/{application[2]}/"
        for arn, held in self._endpoints.items():
            if arn.startswith(prefix) and held["Token"] == wanted["Token"]:
                if held == wanted:
                    return {"EndpointArn": arn}
                raise _invalid("Token", f"Endpoint {arn} already exists with the same Token, but different attributes.")
        arn = prefix + self._api.uuid()
        self._endpoints[arn] = wanted
        self._emit("EndpointCreated", self._report("EndpointCreated", arn))
        return {"EndpointArn": arn}

    def _set_endpoint(self, given: dict[str, Any]) -> dict[str, Any]:
        endpoint = self._endpoint(given["EndpointArn"])
        for name, value in given["Attributes"].items():
            if name not in ("CustomUserData", "Enabled", "Token"):
                raise _invalid("Attributes", f"Invalid attribute name: {name}")
            if name == "Enabled" and value not in ("true", "false"):
                raise _invalid("Enabled", "must be true or false")
            endpoint[name] = value
        self._emit("EndpointUpdated", self._report("EndpointUpdated", given["EndpointArn"]))
        return {}

    def _delete_endpoint(self, given: dict[str, Any]) -> dict[str, Any]:
        self._platform(given["EndpointArn"])
        if self._endpoints.pop(given["EndpointArn"], None) is not None:
            self._emit("EndpointDeleted", self._report("EndpointDeleted", given["EndpointArn"]))
        return {}

    def _subscribe(self, given: dict[str, Any]) -> dict[str, Any]:
        self._known_topic(given["TopicArn"])
        if given["Protocol"] != "application" or given.get("Endpoint", "") not in self._endpoints:
            raise _invalid("Endpoint", "the sandbox subscribes push endpoints only, and this is none")
        wanted = {"TopicArn": given["TopicArn"], "Endpoint": given["Endpoint"]}
        arn = next((one for one, held in self._subscriptions.items() if held == wanted), None)
        arn = arn or f"{given['TopicArn']}:{self._api.uuid()}"
        self._subscriptions[arn] = wanted
        return {"SubscriptionArn": arn}

    def _unsubscribe(self, given: dict[str, Any]) -> dict[str, Any]:
        if self._subscriptions.pop(given["SubscriptionArn"], None) is None:
            raise Refused(404, "NotFound", "Subscription does not exist")
        return {}

    def _endpoint(self, arn: str) -> dict[str, str]:
        self._platform(arn)
        if arn not in self._endpoints:
            raise Refused(404, "NotFound", "Endpoint does not exist")
        return self._endpoints[arn]

    def _platform(self, arn: str) -> tuple[str, str]:
        """The platform and the application of an endpoint."""
        found = re.fullmatch(r"arn:aws[a-z-]*:sns:[a-z0-9-]+:[0-9]{12}:endpoint/([A-Z_]+)/([^/]+)/[0-9a-f-]+", arn)
        if found is None:
            raise _invalid("TargetArn", f"An ARN of an endpoint is expected, not {arn}")
        return found[1], found[2]

    def _known_topic(self, arn: str) -> None:
        found = _ARN.fullmatch(arn)
        if found is None or "/" in found[3]:
            raise _invalid("TopicArn", "An ARN must have at least 6 elements, not 1")
        if found[3].startswith("missing"):
            raise Refused(404, "NotFound", "Topic does not exist")

    # Numbers, and what is told ---------------------------------------------------------------------------------------

    def _opted_out(self, number: str) -> bool:
        if not _PHONE.fullmatch(number):
            raise _invalid("PhoneNumber", f"input incorrectly formatted: {number}")
        return number.endswith("999") and number not in self._opted_in

    def _opt_in(self, given: dict[str, Any]) -> dict[str, Any]:
        self._opted_out(given["phoneNumber"])
        self._opted_in.add(given["phoneNumber"])
        return {}

    def _inbound(self, sender: str, to: str, text: str) -> dict[str, str]:
        return {
            "originationNumber": sender,
            "destinationNumber": to,
            "messageKeyword": "KEYWORD",
            "messageBody": text,
            "inboundMessageId": self._api.uuid(),
            "previousPublishedMessageId": self._api.uuid(),
        }

    def _report(self, event: str, arn: str) -> dict[str, Any]:
        """What the topics of a platform application are told (unconfirmed but for the three fields that are read)."""
        failed = {"FailureType": "InvalidPlatformToken", "FailureMessage": "Platform token is not valid"}
        stamp = datetime.fromtimestamp(self._around.clock.wall(), UTC).isoformat(timespec="milliseconds")
        told = {"EventType": event, "EndpointArn": arn, "Service": "SNS", "Time": stamp.replace("+00:00", "Z")}
        return told | (failed if event == "DeliveryFailure" else {})

    def _emit(self, event: str, message: Mapping[str, Any] | str) -> None:
        body = notification(self._api, message)
        self._around.emit(Emission(event, body, json.loads(body)["MessageId"]))


def _invalid(parameter: str, why: str) -> Refused:
    return Refused(400, "InvalidParameter", f"Invalid parameter: {parameter} Reason: {why}")


def _parts(message: str) -> dict[str, str]:
    """The parts of a message that is JSON, by where they go."""
    try:
        parts = json.loads(message)
    except ValueError:
        parts = None
    if not isinstance(parts, dict):
        raise Refused(
            400, "InvalidParameter", "Invalid parameter: Message Structure - JSON message body failed to parse"
        )
    if not isinstance(parts.get("default"), str):
        raise Refused(
            400, "InvalidParameter", "Invalid parameter: Message Structure - No default entry in JSON message body"
        )
    if not all(isinstance(one, str) for one in parts.values()):
        raise Refused(400, "InvalidParameter", "Invalid parameter: Message Structure - each entry must be a string")
    return parts
