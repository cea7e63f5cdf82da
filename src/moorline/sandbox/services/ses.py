"""SES's stand-in: one account in one region, out of AWS's restrictions, with the mailbox simulator.

Facts: services/email/ses.md and botocore's model of sesv2. It has SendEmail, SendBulkEmail, GetAccount, and
CreateEmailTemplate and GetEmailTemplate, whose templates know ``{{name}}`` only. What was accepted is in the state,
newest last. With a configuration set its events are published (with tags), without one an identity's notifications
(Bounce, Complaint, Delivery) are. The simulator's addresses are SES's own. The sandbox's own: senders at
``unverified.example`` are not verified, configuration sets that begin with ``missing`` do not exist; and of senders at
``trouble.example`` the part before the @ says what is wrong with the account: ``paused``, ``suspended``, ``mailfrom``,
``throttled`` or ``limit``. Wordings of errors are unconfirmed.
"""

from __future__ import annotations

import base64
import json
import re
from email import message_from_bytes
from typing import Any, Final

from moorline.errors import ConfigurationError
from moorline.sandbox.services._aws import ACCOUNT, REGION, Api, Refused, notification, signed_notification
from moorline.sandbox.services._ses_events import EVENTS, facts, fates, mail
from moorline.sandbox.standin import Answer, Ask, Emission, Registration, Signed, Surroundings

__all__ = ["STAND_IN"]

_TOPIC: Final = f"arn:aws:sns:{REGION}:{ACCOUNT}:ses"
_ADDRESS: Final = re.compile(r"(?:[^<>]*<)?([!-;=?A-~]+@[A-Za-z0-9.-]+\.[A-Za-z0-9-]+)>?")
_TAG: Final = re.compile(r"[A-Za-z0-9_-]{1,256}")
_HOLE: Final = re.compile(r"\{\{\s*(\w+)\s*\}\}")
_MOST: Final = 50
_MOST_BYTES: Final = 40 * 1024 * 1024
_NOTIFIED: Final = ("Bounce", "Complaint", "Delivery")
_TROUBLES: Final = {
    "paused": (400, "SendingPausedException", "Email sending has been disabled for this account."),
    "suspended": (400, "AccountSuspendedException", "Your account is suspended."),
    "mailfrom": (400, "MailFromDomainNotVerifiedException", "The MAIL FROM domain is not verified."),
    "throttled": (429, "TooManyRequestsException", "Maximum sending rate exceeded."),
    "limit": (400, "LimitExceededException", "There are too many instances of the specified resource type."),
}


class SesStandIn:
    """One account."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._api = Api("sesv2", around, invalid="BadRequestException")
        self._messages: list[dict[str, Any]] = []
        self._templates: dict[str, dict[str, str]] = {}

    async def handle(self, ask: Ask) -> Answer:
        """Answer one request."""
        keys = self._api.keys.managed(ask)
        if keys is not None:
            return keys
        try:
            self._api.authorise(ask)
            await ask.work()
            if len(ask.body) > _MOST_BYTES * 4 // 3:
                raise _bad("The message is longer than 41943040 bytes.")
            name, given = self._api.asked(ask)
            return self._api.answered(name, self._done(name, given))
        except Refused as refused:
            return self._api.refused(refused)

    def snapshot(self) -> dict[str, Any]:
        """The accepted messages as they came, each with its id, and the templates."""
        return {"messages": self._messages, "templates": self._templates}

    def failure(self, status: int) -> Answer:
        """SES's error for an injected status."""
        if status == 429:
            return self._api.refused(Refused(429, "TooManyRequestsException", "Too many requests"))
        return self._api.refused(Refused(status, "InternalServiceErrorException", "The request failed; try again."))

    def sample(self, event: str) -> bytes:
        """A notification of one event of that kind, as event publishing tells it."""
        if event not in EVENTS:
            raise ConfigurationError(f"'event': the sandbox knows {', '.join(EVENTS)} of SES")
        people = ["ada@example.com"]
        about = self._mail("sample", {"FromEmailAddress": "shop@example.com"}, people, {"order": "42"}, "main")
        return self._told(event, about, people)

    def sign(self, emission: Emission, *, url: str, secrets: tuple[str, ...], hook_id: str, broken: bool) -> Signed:
        """Signed by the sandbox's RSA key, as of the topic that the receiver takes; plain without one."""
        return signed_notification("ses", self._around, emission, url=url, secrets=secrets, broken=broken)

    def _done(self, name: str, given: dict[str, Any]) -> dict[str, Any]:
        operations = {
            "SendEmail": self._send,
            "SendBulkEmail": self._send_bulk,
            "GetAccount": self._account,
            "CreateEmailTemplate": self._create_template,
            "GetEmailTemplate": self._get_template,
        }
        if name not in operations:
            raise Refused(501, "NotImplementedException", f"the sandbox has no {name}")
        return operations[name](given)

    def _account(self, _: dict[str, Any]) -> dict[str, Any]:
        quota = {"Max24HourSend": 50_000.0, "MaxSendRate": 14.0, "SentLast24Hours": float(len(self._messages))}
        return {
            "EnforcementStatus": "HEALTHY",
            "ProductionAccessEnabled": True,
            "SendQuota": quota,
            "SendingEnabled": True,
        }

    def _create_template(self, given: dict[str, Any]) -> dict[str, Any]:
        name = given["TemplateName"]
        if name in self._templates:
            raise Refused(400, "AlreadyExistsException", f"Template {name} already exists.")
        self._templates[name] = given["TemplateContent"]
        return {}

    def _get_template(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"TemplateName": given["TemplateName"], "TemplateContent": self._template(given["TemplateName"])}

    def _send(self, given: dict[str, Any]) -> dict[str, Any]:
        people = _people(given.get("Destination", {}))
        content = given["Content"]
        if len([kind for kind in ("Simple", "Raw", "Template") if kind in content]) != 1:
            raise _bad("Content must hold exactly one of Simple, Raw and Template.")
        if "Raw" in content and not people:
            raw = message_from_bytes(base64.b64decode(content["Raw"]["Data"]))
            people = [one for name in ("To", "Cc") for one in str(raw.get(name, "")).split(",") if one]
        self._check_common(given, people)
        tags = _tags(given.get("EmailTags", []))
        why = self._checked(content)
        return {"MessageId": self._accepted(given, people, tags, why)}

    def _send_bulk(self, given: dict[str, Any]) -> dict[str, Any]:
        entries = given["BulkEmailEntries"]
        if not 1 <= len(entries) <= _MOST:
            raise _bad(f"There must be from 1 to {_MOST} entries.")
        if "Template" not in given["DefaultContent"]:
            raise _bad("DefaultContent must hold a Template.")
        self._check_common(given, ["bulk@example.com"])
        tags = _tags(given.get("DefaultEmailTags", []))
        return {"BulkEmailEntryResults": [self._entry(given, entry, tags) for entry in entries]}

    def _entry(self, given: dict[str, Any], entry: dict[str, Any], tags: dict[str, str]) -> dict[str, Any]:
        """One message of a batch, with a result of its own."""
        replaced = entry.get("ReplacementEmailContent", {}).get("ReplacementTemplate", {})
        template = dict(given["DefaultContent"]["Template"])
        if "ReplacementTemplateData" in replaced:
            template["TemplateData"] = replaced["ReplacementTemplateData"]
        try:
            people = _people(entry["Destination"])
            own = tags | _tags(entry.get("ReplacementTags", []))
            why = self._checked({"Template": template})
        except Refused as refused:
            missing = refused.code == "NotFoundException"
            return {"Status": "TEMPLATE_NOT_FOUND" if missing else "INVALID_PARAMETER", "Error": refused.message}
        kept = {name: value for name, value in given.items() if name != "BulkEmailEntries"} | {"BulkEmailEntry": entry}
        return {"Status": "SUCCESS", "MessageId": self._accepted(kept, people, own, why)}

    def _check_common(self, given: dict[str, Any], people: list[str]) -> None:
        if not 1 <= len(people) <= _MOST:
            raise _bad(f"Recipient count exceeds {_MOST}." if people else "There is no recipient.")
        local, _, domain = _address(given.get("FromEmailAddress", "")).rpartition("@")
        if domain == "unverified.example":
            failed = f"The following identities failed the check in region {REGION.upper()}: {local}@{domain}"
            raise Refused(400, "MessageRejected", f"Email address is not verified. {failed}")
        if domain == "trouble.example" and local in _TROUBLES:
            raise Refused(*_TROUBLES[local])
        chosen = given.get("ConfigurationSetName", "")
        if chosen.startswith("missing"):
            raise Refused(404, "NotFoundException", f"Configuration set <{chosen}> does not exist.")
        for one in given.get("ReplyToAddresses", []):
            _address(one)

    def _template(self, name: str) -> dict[str, str]:
        if name not in self._templates:
            raise Refused(404, "NotFoundException", f"Template {name} does not exist.")
        return self._templates[name]

    def _checked(self, content: dict[str, Any]) -> str | None:
        """Why the template cannot be filled, if that is so: it is told later, as an event. Raises Refused."""
        if "Simple" in content and not {"Text", "Html"} & content["Simple"]["Body"].keys():
            raise _bad("The body must hold Text or Html.")
        if "Raw" in content:
            raw = message_from_bytes(base64.b64decode(content["Raw"]["Data"]))
            if "From" not in raw or raw.defects:
                raise _bad("The raw message is not well-formed.")
        if "Template" not in content:
            return None
        template = content["Template"]
        named = [name for name in ("TemplateName", "TemplateArn", "TemplateContent") if name in template]
        if len(named) != 1:
            raise _bad("A template is named in exactly one way.")
        known = template[named[0]]
        parts = known if named == ["TemplateContent"] else self._template(known.rpartition("/")[2])
        try:
            data = json.loads(template.get("TemplateData", "{}"))
        except ValueError:
            data = None
        if not isinstance(data, dict):
            raise _bad("The template data is not a JSON object.")
        holes = [hole for part in parts.values() for hole in _HOLE.findall(part) if hole not in data]
        return f"Attribute '{holes[0]}' is not present in the rendering data." if holes else None

    def _accepted(self, given: dict[str, Any], people: list[str], tags: dict[str, str], why: str | None) -> str:
        number = self._api.uuid()
        name = f"0100{self._around.now():012x}-{number}-000000"
        self._messages.append({"id": name, "message": given})
        chosen = given.get("ConfigurationSetName")
        about = self._mail(name, given, people, tags, chosen)
        if why is not None:
            if chosen is not None:
                self._emit("Rendering Failure", about, people, why)
            return name
        if chosen is not None:
            self._emit("Send", about, people)
        for one in people:
            for event in fates(one):
                if chosen is not None or event in _NOTIFIED:
                    self._emit(event, about, [one])
        return name

    def _mail(
        self, name: str, given: dict[str, Any], people: list[str], tags: dict[str, str], chosen: str | None
    ) -> dict[str, Any]:
        subject = given.get("Content", {}).get("Simple", {}).get("Subject", {}).get("Data", "")
        source, at = given["FromEmailAddress"], self._around.clock.wall()
        return mail(name, source, people, at=at, subject=subject, tags=tags, configuration_set=chosen)

    def _emit(self, event: str, about: dict[str, Any], people: list[str], why: str = "") -> None:
        body = self._told(event, about, people, why)
        self._around.emit(Emission(event, body, json.loads(body)["MessageId"]))

    def _told(self, event: str, about: dict[str, Any], people: list[str], why: str = "") -> bytes:
        kind = "eventType" if "tags" in about else "notificationType"
        feedback = f"0100{self._api.uuid()}-000000"
        told = {kind: event, "mail": about}
        return notification(
            self._api, told | facts(event, people, at=self._around.clock.wall(), feedback=feedback, why=why)
        )


def _bad(message: str) -> Refused:
    return Refused(400, "BadRequestException", message)


def _address(given: str) -> str:
    found = _ADDRESS.fullmatch(given)
    if found is None:
        raise _bad("Missing final '@domain'" if given.isascii() else "Local address contains illegal characters")
    return found[1].lower()


def _people(destination: dict[str, Any]) -> list[str]:
    return [_address(one) for kind in ("To", "Cc", "Bcc") for one in destination.get(f"{kind}Addresses", [])]


def _tags(given: list[dict[str, str]]) -> dict[str, str]:
    for one in given:
        for part, value in one.items():
            if not _TAG.fullmatch(value):
                raise _bad(f"Invalid tag {part.lower()} <{value}>: it takes ASCII letters, digits, '_' and '-' only.")
    return {one["Name"]: one["Value"] for one in given}


STAND_IN = Registration(name="ses", make=SesStandIn, secret=_TOPIC, events=EVENTS)
