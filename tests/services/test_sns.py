from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.services.aws_model import Model, form
from tests.services.conftest import Box
from tests.services.recorder import Recorder

from moorline import errors
from moorline.calls.call import Call
from moorline.events.event import Event
from moorline.policies.policy import Policy
from moorline.services.sms.protocol import SMS, InboundSMS, SMSStatus
from moorline.services.sms.sns import SNS

Run = Callable[[Any], Any]
TOPIC = "arn:aws:sns:us-east-1:123456789012:news"
TEXT = SMS("+447700900000", "Your code is 4711")
MODEL = Model("sns")


def xml(operation: str, inner: str) -> bytes:
    space = "http://sns.amazonaws.com/doc/2010-03-31/"
    return f'<{operation}Response xmlns="{space}"><{operation}Result>{inner}</{operation}Result></{operation}Response>'.encode()


PUBLISHED = xml("Publish", "<MessageId>567910cd-659e</MessageId>")

CALLS: list[Callable[[SNS], Any]] = [
    lambda s: s.send(TEXT),
    lambda s: s.send(SMS("+447700900000", "x", sender="Shop"), kind="Promotional", max_price="0.50"),
    lambda s: s.publish(TOPIC, "News", subject="Hello"),
    lambda s: s.is_opted_out("+447700900000"),
    lambda s: s.check(),
    lambda s: s.invoke("ListTopics"),
]


def asked(make: Callable[[SNS], Any]) -> dict[str, str]:
    recorder = Recorder(200, PUBLISHED)
    make(recorder.service(SNS)).result()
    return form(recorder.requests[0])


def test_a_text_message():
    """The card's example, form for form; XML is asked for."""
    recorder = Recorder(200, PUBLISHED)
    sent = recorder.service(SNS).send(TEXT, kind="Transactional").result()
    [request] = recorder.requests
    assert form(request) == {
        "Action": "Publish",
        "Version": "2010-03-31",
        "PhoneNumber": "+447700900000",
        "Message": "Your code is 4711",
        "MessageAttributes.entry.1.Name": "AWS.SNS.SMS.SMSType",
        "MessageAttributes.entry.1.Value.DataType": "String",
        "MessageAttributes.entry.1.Value.StringValue": "Transactional",
    }
    assert request.headers["accept"] == "*/*"
    assert (sent.id, sent.status, sent.to) == ("567910cd-659e", SMSStatus.QUEUED, "+447700900000")


@pytest.mark.parametrize(
    ("sender", "name"),
    [
        ("Shop", "AWS.SNS.SMS.SenderID"),
        ("+447700900001", "AWS.MM.SMS.OriginationNumber"),
        ("60321", "AWS.MM.SMS.OriginationNumber"),
    ],
)
def test_senders(sender: str, name: str):
    """A name is a SenderID, a number or a short code an OriginationNumber; the price is a Number."""
    found = asked(lambda s: s.send(SMS("+447700900000", "x", sender=sender), max_price="0.50", attributes={"A.B": "c"}))
    attributes = {
        found[f"MessageAttributes.entry.{n}.Name"]: (
            found[f"MessageAttributes.entry.{n}.Value.DataType"],
            found[f"MessageAttributes.entry.{n}.Value.StringValue"],
        )
        for n in (1, 2, 3)
    }
    expected = {name: ("String", sender), "A.B": ("String", "c"), "AWS.SNS.SMS.MaxPrice": ("Number", "0.50")}
    assert attributes == expected


def test_publishing_to_a_topic():
    """Subject and attributes, and what FIFO topics want."""
    found = asked(lambda s: s.publish(TOPIC, "News", subject="Hello", attributes={"kind": "x"}))
    assert (found["TopicArn"], found["Subject"], found["MessageAttributes.entry.1.Value.StringValue"]) == (
        TOPIC, "Hello", "x",
    )  # fmt: skip
    found = asked(lambda s: s.publish(f"{TOPIC}.fifo", "News", group_id="g", deduplication_id="d"))
    assert (found["MessageGroupId"], found["MessageDeduplicationId"]) == ("g", "d")


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda s: s.send(SMS("+447700900000", "x" * 1601)), "text"),
        (lambda s: s.send(SMS("+447700900000", "x", sender="A long name.")), "sender"),
        (lambda s: s.send(TEXT, kind="Urgent"), "kind"),
        (lambda s: s.send(TEXT, max_price="cheap"), "max_price"),
        (lambda s: s.send(TEXT, attributes={"a": ""}), r"attributes\[a\]"),
        (lambda s: s.publish("news", "x"), "topic"),
        (lambda s: s.publish("arn:aws:sqs:us-east-1:123456789012:news", "x"), "topic"),
        (lambda s: s.publish(TOPIC, ""), "message"),
        (lambda s: s.publish(TOPIC, "é" * 600_000), "message"),
        (lambda s: s.publish(TOPIC, "x", subject="a" * 100), "subject"),
        (lambda s: s.publish(TOPIC, "x", subject="a\nb"), "subject"),
        (lambda s: s.publish(TOPIC, "x", subject="Grüße"), "subject"),
        (lambda s: s.publish(TOPIC, "x", group_id="g"), "group_id"),
        (lambda s: s.publish(TOPIC, "x", deduplication_id="g"), "deduplication_id"),
        (lambda s: s.publish(f"{TOPIC}.fifo", "x"), "group_id"),
        (lambda s: s.is_opted_out("07700 900000"), "number"),
    ],
)
def test_limits_before_sending(make: Callable[[SNS], Any], field: str):
    """What would be refused, or be taken and cut, is refused here by its name."""
    recorder = Recorder(200, PUBLISHED)
    with pytest.raises(errors.InvalidRequest, match=f"^{field}:") as caught:
        make(recorder.service(SNS)).result()
    assert (caught.value.outcome, recorder.requests) == ("not_sent", [])


def test_sending(box: Box, run: Run):
    """The stand-in takes messages with all attributes; an opted-out number is told of when asked, not when written to."""
    service = box.service(SNS)
    assert run(service.check()) is True
    sms = SMS("+447700900999", "Hello", sender="Shop")
    sent = run(service.send(sms, kind="Promotional", max_price="0.5"))
    [held] = box.state("sns")["messages"]
    assert (held["id"], held["message"]["PhoneNumber"]) == (sent.id, "+447700900999")
    assert run(service.is_opted_out("+447700900999")) is True
    assert run(service.is_opted_out("+447700900000")) is False
    assert run(service.invoke("OptInPhoneNumber", {"phoneNumber": "+447700900999"})) == {}
    assert run(service.is_opted_out("+447700900999")) is False
    assert run(service.publish(TOPIC, "News")) == box.state("sns")["messages"][-1]["id"]


@pytest.mark.parametrize(
    ("make", "kind", "code"),
    [
        (lambda s: s.publish(TOPIC.replace("news", "missing"), "x"), errors.NotFound, "NotFound"),
        (lambda s: s.invoke("Publish", {"Message": "x"}), errors.InvalidRequest, "InvalidParameter"),
        (lambda s: s.invoke("Publish", {"Message": "", "TopicArn": TOPIC}), errors.InvalidRequest, "InvalidParameter"),
        (lambda s: s.send(TEXT, MessageAttributes={"AWS.SNS.SMS.MaxPrice": {"DataType": "String", "StringValue": "1"}}),
         errors.InvalidRequest, "ParameterValueInvalid"),
    ],
)  # fmt: skip
def test_errors(box: Box, run: Run, make: Callable[[SNS], Any], kind: type[errors.CallError], code: str):
    """Each has its class, SNS's code, message and request id."""
    with pytest.raises(kind) as caught:
        run(make(box.service(SNS)))
    assert (caught.value.code, caught.value.status) == (code, 404 if code == "NotFound" else 400)
    assert caught.value.request_id


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "InvalidParameter", errors.InvalidRequest),
        (400, "ParameterValueInvalid", errors.InvalidRequest),
        (403, "AuthorizationError", errors.PermissionDenied),
        (403, "InvalidSecurity", errors.AuthenticationFailed),
        (400, "KMSDisabled", errors.InvalidRequest),
        (400, "KMSAccessDenied", errors.PermissionDenied),
        (403, "KMSOptInRequired", errors.PermissionDenied),
        (400, "KMSThrottling", errors.RateLimited),
        (400, "Throttling", errors.RateLimited),
        (429, "Throttled", errors.RateLimited),
        (500, "InternalError", errors.ServiceUnavailable),
        (403, "SignatureDoesNotMatch", errors.AuthenticationFailed),
        (400, "ValidationException", errors.InvalidRequest),
    ],
)
def test_documented_errors(status: int, code: str, kind: type[errors.CallError]):
    """The errors of Publish in the model, and those of all of AWS."""
    body = f"<ErrorResponse><Error><Code>{code}</Code><Message>No.</Message></Error><RequestId>r</RequestId></ErrorResponse>"
    recorder = Recorder(status, body.encode())
    with pytest.raises(kind) as caught:
        recorder.service(SNS, policy=Policy(retry=None)).send(TEXT).result()
    assert (caught.value.code, caught.value.message, caught.value.request_id) == (code, "No.", "r")


def test_a_lost_answer_is_unknown(box: Box, run: Run, impatient: Policy):
    """A text is never sent twice by itself; what FIFO topics know again by its id is."""
    box.arm(service="sns", kind="dropped")
    with pytest.raises(errors.OutcomeUnknown) as caught:
        run(box.service(SNS).send(TEXT))
    assert caught.value.retryable is False
    box.arm(service="sns", kind="dropped")
    with pytest.raises(errors.ConnectionLost) as repeatable:
        run(box.service(SNS, policy=impatient).publish(f"{TOPIC}.fifo", "x", group_id="g", deduplication_id="d"))
    assert repeatable.value.retryable is True


def test_a_message_survives_a_queue(box: Box):
    """A Call comes out of a queue as it went in."""
    service = box.service(SNS)
    stored = json.loads(json.dumps(service.send(TEXT, kind="Transactional").to_payload()))
    assert Call.from_payload(stored, lambda _: service).result().id == box.state("sns")["messages"][0]["id"]


def test_answers_fit_the_model(box: Box):
    """Botocore reads every answer of the stand-in as the model says, errors too."""
    service = box.service(SNS)
    for name, call, expected in (
        ("Publish", service.send(TEXT), {"MessageId"}),
        ("GetSMSAttributes", service.check(), {"attributes"}),
        ("CheckIfPhoneNumberIsOptedOut", service.is_opted_out("+447700900000"), {"isOptedOut"}),
        ("ListTopics", service.invoke("ListTopics"), {"Topics"}),
    ):
        assert set(MODEL.read(name, call.response().result())) == expected


# What it tells --------------------------------------------------------------------------------------------------------


def told(message: Any, **more: Any) -> Event:
    text = message if isinstance(message, str) else json.dumps(message)
    return Event("sns", "m", "Notification", json.dumps({"Type": "Notification", "Message": text, **more}).encode())


INBOUND = {
    "originationNumber": "+14255550182",
    "destinationNumber": "+12125550101",
    "messageKeyword": "JOIN",
    "messageBody": "EXAMPLE",
    "inboundMessageId": "cae173d2-66b9-564c-8309-21f858e9fb84",
    "previousPublishedMessageId": "wJalrXUtnFEMI",
}


def test_inbound_messages():
    """The example of AWS's guide."""
    read = SNS.read_event(told(INBOUND, Timestamp="2026-11-20T10:00:00.000Z"))
    assert read == InboundSMS(
        "cae173d2-66b9-564c-8309-21f858e9fb84",
        "+14255550182",
        "+12125550101",
        "EXAMPLE",
        at=datetime(2026, 11, 20, 10, tzinfo=UTC),
    )


def test_other_notifications():
    """What one publishes oneself has no common meaning; half an inbound message is a BadAnswer."""
    assert SNS.read_event(told("News")) is None
    assert SNS.read_event(told({"EventType": "EndpointCreated"})) is None
    with pytest.raises(errors.BadAnswer):
        SNS.read_event(told({"originationNumber": "+14255550182"}))
