"""Amazon SNS: text messages, publishing to topics, and what comes from topics.

Facts: services/sms/sns.md, services/push/sns.md; contract: none, it is botocore's model of sns.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from moorline.calls.aws import AwsErrors
from moorline.calls.service import Endpoints, Plan, operation
from moorline.errors import BadAnswer, PermissionDenied
from moorline.services.answers import flag, moment, optional_text, record, text
from moorline.services.aws_access_keys import AccessKeys
from moorline.services.limits import at_most, encodable, refused
from moorline.services.sms.protocol import SMS, InboundSMS, SentSMS, SMSStatus, phone_number
from moorline.services.topics import content, is_topic, message_attributes, topic

if TYPE_CHECKING:
    from moorline.events.event import Event

__all__ = ["SNS"]

# Unconfirmed, as are the names of the attributes and the rule for names of senders: AWS's guide, not the model.
_TEXT: Final = 1600
_NAME: Final = re.compile(r"[A-Za-z0-9]{1,11}")
_NUMBER: Final = re.compile(r"\+?[0-9]+")
_PRICE: Final = re.compile(r"[0-9]{1,6}(?:\.[0-9]{1,6})?")
_MESSAGE: Final = 1024 * 1024  # bytes: 256 KiB, unless the topic's MaximumMessageSize raises it to at most this
_SUBJECT: Final = 99
_KINDS: Final = ("Transactional", "Promotional")


class SNS(AccessKeys):
    """Text messages by Amazon SNS, and its topics.

    There is no test mode: in each region a new account reaches verified numbers only, until AWS lifts it. A number that
    opted out, and a message beyond the monthly spending limit, are taken like all others: what failed stands only in
    CloudWatch (``sns/<region>/<account>/DirectPublishToPhoneNumber/Failure``). Keys need the IAM actions sns:Publish
    and, for ``check``, sns:GetSMSAttributes.

    The event's content is the text in ``Message``. Facts: services/sms/sns.md, services/push/sns.md.
    """

    name, category = "sns", "sms"
    docs = "services/sms/sns.md, services/push/sns.md"
    model = "sns"
    endpoints = Endpoints("https://sns.us-east-1.amazonaws.com")
    errors = AwsErrors(
        model="sns",
        limited=frozenset({"KMSThrottling"}),
        kinds={"KMSAccessDenied": PermissionDenied, "KMSOptInRequired": PermissionDenied},
    )
    # Unconfirmed: that reports on push endpoints name their kind in EventType. Inbound text messages name none.
    webhooks = topic(env="SNS_TOPIC_ARN", type=("Message.EventType", "Type"))
    usage: ClassVar[str] = """
from moorline.services import SNS
from moorline.services.sms.protocol import SMS

sent = SNS().send(SMS("+447700900000", "Your code is 4711"), kind="Transactional").result()
print(sent.id, sent.status)
"""

    @operation
    def send(
        self,
        /,
        sms: SMS,
        *,
        kind: Literal["Transactional", "Promotional"] | None = None,
        max_price: str | None = None,
        attributes: Mapping[str, str] | None = None,
        **extra: object,
    ) -> Plan[SentSMS]:
        """Hand the message over. Its sender is a number of the account's, or a name where the country allows one.

        *kind* is AWS's SMSType (else the account's default), *max_price* what the message may cost in USD (``"0.50"``),
        *attributes* are further ones by their names (``AWS.MM.SMS.EntityId``), *extra* further parameters. SNS honours
        no idempotency keys: a message that was sent and not answered is OutcomeUnknown. It has neither callbacks nor
        references, and does not say what became of a message: ``callback`` and ``reference`` are not sent.

        Raises InvalidRequest, naming field and limit, before anything is sent: more than 1600 characters, a name of
        other than 1 to 11 letters and digits.
        """
        at_most("text", sms.text, _TEXT, "characters")
        if kind is not None and kind not in _KINDS:
            raise refused("kind", f"must be {' or '.join(_KINDS)}")
        if max_price is not None and not _PRICE.fullmatch(max_price):
            raise refused("max_price", "must be an amount of USD as text, such as '0.50'")
        texts: dict[str, str] = {} if kind is None else {"AWS.SNS.SMS.SMSType": kind}
        if sms.sender is not None:
            texts[_sender(sms.sender)] = sms.sender
        numbers = {} if max_price is None else {"AWS.SNS.SMS.MaxPrice": max_price}
        parameters = {
            "PhoneNumber": sms.to,
            "Message": sms.text,
            "MessageAttributes": message_attributes(texts | _texts(attributes), numbers),
        }

        def sent(answer: Mapping[str, Any]) -> SentSMS:
            return SentSMS(text(answer, "MessageId"), SMSStatus.QUEUED, "", to=sms.to, raw=answer)

        return self.ask("Publish", {**parameters, **extra}, sent)

    @operation
    def publish(
        self,
        /,
        topic: str,
        message: str,
        *,
        subject: str | None = None,
        attributes: Mapping[str, str] | None = None,
        group_id: str | None = None,
        deduplication_id: str | None = None,
        **extra: object,
    ) -> Plan[str]:
        """Publish to a topic, by its ARN; the message's id. *subject* is for subscribers by e-mail.

        FIFO topics want a *group_id*; with a *deduplication_id* they take a message once in five minutes, so that the
        call may be repeated. Raises NotFound, InvalidRequest.
        """
        if not is_topic(topic):
            raise refused("topic", "must be the ARN of a topic, such as arn:aws:sns:us-east-1:123456789012:news")
        if not encodable("message", message):
            raise refused("message", "must not be empty")
        at_most("message", message.encode(), _MESSAGE, "bytes")
        if subject is not None:
            at_most("subject", subject, _SUBJECT, "characters")
            if not subject.isascii() or not subject.isprintable() or not subject.strip():
                raise refused("subject", "must be printable ASCII")
        fifo = topic.endswith(".fifo")
        if not fifo and (group_id is not None or deduplication_id is not None):
            raise refused("deduplication_id" if group_id is None else "group_id", "is for topics that are FIFO")
        if fifo and group_id is None:
            raise refused("group_id", "is needed by topics that are FIFO")
        parameters = {
            "TopicArn": topic,
            "Message": message,
            "Subject": subject,
            "MessageAttributes": message_attributes(_texts(attributes)),
            "MessageGroupId": group_id,
            "MessageDeduplicationId": deduplication_id,
        }
        once = deduplication_id is not None
        return self.ask("Publish", {**parameters, **extra}, lambda answer: text(answer, "MessageId"), reads=once)

    @operation
    def is_opted_out(self, number: str) -> Plan[bool]:
        """Whether the number asked not to be written to: what is sent to it is taken, and never delivered."""
        return self.ask(
            "CheckIfPhoneNumberIsOptedOut", {"phoneNumber": phone_number(number, "number")}, _out, reads=True
        )

    @operation
    def check(self) -> Plan[bool]:
        """True if the key is good and may read the settings of text messages. Raises PermissionDenied if it may not."""
        return self.ask(
            "GetSMSAttributes", {}, lambda answer: isinstance(answer.get("attributes", {}), dict), reads=True
        )

    @classmethod
    def read_event(cls, event: Event) -> InboundSMS | None:
        """A text message that came in through a topic; None for all else that topics deliver.

        What becomes of messages that are sent is told to no topic, but in CloudWatch. Raises BadAnswer for one of
        another shape.
        """
        told = content(event)
        if told is None or "originationNumber" not in told:
            return None
        return InboundSMS(
            text(told, "inboundMessageId"),
            text(told, "originationNumber"),
            text(told, "destinationNumber"),
            optional_text(told, "messageBody") or "",
            at=moment(record(event.payload), "Timestamp"),
            raw=told,
        )


def _sender(sender: str) -> str:
    """The attribute that a sender is named by."""
    if _NUMBER.fullmatch(sender):
        return "AWS.MM.SMS.OriginationNumber"
    if not _NAME.fullmatch(sender):
        raise refused("sender", "must be a number, or 1 to 11 letters and digits")
    return "AWS.SNS.SMS.SenderID"


def _texts(given: Mapping[str, str] | None) -> dict[str, str]:
    for name, value in (given or {}).items():
        if not encodable(f"attributes[{name}]", value):
            raise refused(f"attributes[{name}]", "must not be empty")
    return dict(given or {})


def _out(answer: Mapping[str, Any]) -> bool:
    if "isOptedOut" not in answer:
        raise BadAnswer("the answer does not say whether the number opted out")
    return flag(answer, "isOptedOut")
