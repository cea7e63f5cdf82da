"""What SES tells of messages: the records of event publishing, and the notifications of an identity.

Names: services/email/ses.md and the examples of the SES developer guide.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from moorline.sandbox.services._aws import ACCOUNT, REGION

__all__ = ["EVENTS", "facts", "fates", "mail"]

EVENTS: Final = (
    "Send",
    "Delivery",
    "DeliveryDelay",
    "Bounce",
    "Complaint",
    "Reject",
    "Open",
    "Click",
    "Rendering Failure",
    "Subscription",
)
_SIMULATOR: Final = "simulator.amazonses.com"
# What becomes of mail to the simulator's addresses; all other mail is delivered.
_FATES: Final = {
    "bounce": ("Bounce",),
    "suppressionlist": ("Bounce",),
    "complaint": ("Delivery", "Complaint"),
}


def fates(address: str) -> tuple[str, ...]:
    """The events that follow ``Send`` for that recipient."""
    return _FATES.get(_simulated(address), ("Delivery",))


def _simulated(address: str) -> str:
    """Which of the simulator's addresses it is; labels (``bounce+x@``) are taken."""
    local, _, domain = address.lower().rpartition("@")
    return local.partition("+")[0] if domain == _SIMULATOR else ""


def mail(
    message_id: str,
    source: str,
    people: list[str],
    *,
    at: float,
    subject: str = "",
    tags: Mapping[str, str] | None = None,
    configuration_set: str | None = None,
) -> dict[str, Any]:
    """The object ``mail``; only event publishing has tags."""
    address = source.rpartition("<")[2].rstrip(">")
    made = {
        "timestamp": _iso(at),
        "source": source,
        "sourceArn": f"arn:aws:ses:{REGION}:{ACCOUNT}:identity/{address}",
        "sendingAccountId": ACCOUNT,
        "messageId": message_id,
        "destination": people,
        "headersTruncated": False,
        "headers": [{"name": "From", "value": source}, {"name": "Subject", "value": subject}],
        "commonHeaders": {"from": [source], "to": people, "subject": subject},
    }
    if configuration_set is not None:
        own = {"ses:configuration-set": [configuration_set], "ses:from-domain": [address.rpartition("@")[2]]}
        made["tags"] = own | {name: [value] for name, value in (tags or {}).items()}
    return made


def facts(event: str, people: list[str], *, at: float, feedback: str, why: str = "") -> dict[str, Any]:
    """The object that belongs to *event*, under its name; *why* a template could not be filled."""
    stamp = _iso(at)
    if event == "Bounce":
        suppressed = any(_simulated(one) == "suppressionlist" for one in people)
        return {"bounce": _bounce(people, stamp, feedback, suppressed=suppressed)}
    if event == "Complaint":
        complained = [{"emailAddress": one} for one in people]
        return {
            "complaint": {
                "complainedRecipients": complained,
                "timestamp": stamp,
                "feedbackId": feedback,
                "complaintFeedbackType": "abuse",
                "userAgent": "Amazon SES Mailbox Simulator",
            }
        }
    if event == "DeliveryDelay":
        delayed = [{"emailAddress": one, "status": "4.4.1", "diagnosticCode": "smtp; 421 4.4.1"} for one in people]
        ends = _iso(at + timedelta(hours=12).total_seconds())
        told = {"timestamp": stamp, "delayType": "IPFailure", "expirationTime": ends, "delayedRecipients": delayed}
        return {"deliveryDelay": told}
    return _others(event, people, stamp, why)


def _bounce(people: list[str], stamp: str, feedback: str, *, suppressed: bool) -> dict[str, Any]:
    code = "Amazon SES has suppressed sending to this address" if suppressed else "smtp; 550 5.1.1 user unknown"
    gone = [{"emailAddress": one, "action": "failed", "status": "5.1.1", "diagnosticCode": code} for one in people]
    return {
        "bounceType": "Permanent",
        "bounceSubType": "Suppressed" if suppressed else "General",
        "bouncedRecipients": gone,
        "timestamp": stamp,
        "feedbackId": feedback,
        "reportingMTA": "dsn; mta.example.com",
    }


def _others(event: str, people: list[str], stamp: str, why: str) -> dict[str, Any]:
    seen = {"timestamp": stamp, "ipAddress": "192.0.2.1", "userAgent": "Mozilla/5.0"}
    wanted = {"unsubscribeAll": True, "topicSubscriptionStatus": []}
    known: dict[str, dict[str, Any]] = {
        "Send": {"send": {}},
        "Delivery": {
            "delivery": {
                "timestamp": stamp,
                "processingTimeMillis": 546,
                "recipients": people,
                "smtpResponse": "250 2.6.0 Message received",
                "reportingMTA": "mta.example.com",
            }
        },
        "Reject": {"reject": {"reason": "Bad content"}},
        "Open": {"open": seen},
        "Click": {"click": seen | {"link": "https://shop.example/", "linkTags": {}}},
        "Rendering Failure": {
            "failure": {"errorMessage": why or "Attribute 'name' is not present", "templateName": "t"}
        },
        "Subscription": {
            "subscription": {
                "contactList": "shop",
                "timestamp": stamp,
                "source": "UnsubscribeHeader",
                "newTopicPreferences": wanted,
                "oldTopicPreferences": {"unsubscribeAll": False, "topicSubscriptionStatus": []},
            }
        },
    }
    return known[event]


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
