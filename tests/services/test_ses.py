from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime
from email import message_from_bytes, policy
from typing import Any

import httpx2
import pytest
from tests.services.aws_model import Model
from tests.services.conftest import Box
from tests.services.recorder import Recorder, answered

from moorline import errors
from moorline.calls.call import Call
from moorline.calls.guards import Guards
from moorline.events.event import Event
from moorline.events.verification import verify_each
from moorline.policies.policy import Policy
from moorline.policies.retry import Retry
from moorline.sandbox.services.ses import STAND_IN
from moorline.sandbox.standin import Emission, Surroundings
from moorline.services.email.protocol import Address, Attachment, Email, EmailEvent, EmailEventKind, InboundEmail
from moorline.services.email.ses import SES, SESAccount

Run = Callable[[Any], Any]
OK = b'{"MessageId": "0100018f-1"}'
FULL = Email(
    to=["Ada Lovelace <ada@example.com>", Address("bob@example.com", "Bøb, Jr.")],
    cc="carol@example.com",
    bcc=["dan@example.com"],
    sender="Shop <shop@example.com>",
    reply_to="help@example.com",
    subject="Grüße ⚓",
    text="Hello",
    html='<p>Hello <img src="cid:logo"></p>',
    attachments=[Attachment("r.pdf", b"%PDF-"), Attachment("logo.png", b"\x89PNG", content_id="logo")],
    tags=["receipt"],
    metadata={"order": "42"},
    headers={"X-Order": "42"},
)
BATCH = Email(
    to=["success@simulator.amazonses.com", "bounce+1@simulator.amazonses.com"],
    sender="shop@example.com",
    subject="Hello {{name}}",
    text="{{shop}} writes to {{name}}.",
    template_data={"shop": "Moor", "name": "you"},
    personal={"success@simulator.amazonses.com": {"name": "Ada"}},
    tags=["news"],
    metadata={"order": "42"},
)


def plain(**changes: Any) -> Email:
    return Email(**{"to": "ada@example.com", "subject": "Hi", "text": "x", "sender": "shop@example.com", **changes})


CALLS: list[Callable[[SES], Any]] = [
    lambda s: s.send(plain()),
    lambda s: s.send(FULL, configuration_set="main"),
    lambda s: s.send_batch(BATCH),
    lambda s: s.get_account(),
    lambda s: s.check(),
    lambda s: s.invoke("ListEmailIdentities", {"PageSize": 5}),
]


def sent_body(email: Email, **options: Any) -> Any:
    recorder = Recorder(200, OK)
    recorder.service(SES).send(email, **options).result()
    return json.loads(recorder.requests[0].content)


def test_a_simple_message_as_fields():
    """The card's example: addresses with names, both bodies, headers, attachments, tags and configuration set."""
    body = sent_body(FULL, configuration_set="main", FeedbackForwardingEmailAddress="b@example.com")
    simple = body["Content"]["Simple"]
    assert body["Destination"] == {
        "ToAddresses": ["Ada Lovelace <ada@example.com>", "=?utf-8?b?QsO4YiwgSnIu?= <bob@example.com>"],
        "CcAddresses": ["carol@example.com"],
        "BccAddresses": ["dan@example.com"],
    }
    assert (body["FromEmailAddress"], body["ReplyToAddresses"]) == ("Shop <shop@example.com>", ["help@example.com"])
    assert (body["ConfigurationSetName"], body["FeedbackForwardingEmailAddress"]) == ("main", "b@example.com")
    assert simple["Subject"] == {"Data": "Grüße ⚓", "Charset": "UTF-8"}
    assert simple["Body"]["Text"] == {"Data": "Hello", "Charset": "UTF-8"}
    assert simple["Headers"] == [{"Name": "X-Order", "Value": "42"}]
    assert [(one["FileName"], one["ContentDisposition"], one.get("ContentId")) for one in simple["Attachments"]] == [
        ("r.pdf", "ATTACHMENT", None),
        ("logo.png", "INLINE", "logo"),
    ]
    assert base64.b64decode(simple["Attachments"][1]["RawContent"]) == b"\x89PNG"
    assert body["EmailTags"] == [{"Name": "receipt", "Value": "tag"}, {"Name": "order", "Value": "42"}]


@pytest.mark.parametrize("headers", [{"X-Note": "naïve"}, {f"X-{n}": "1" for n in range(16)}, {"X-Long": "a " * 600}])
def test_what_fields_cannot_hold_is_a_mime_message(headers: dict[str, str]):
    """Too many, too long or other than ASCII: the whole message is sent, and reads the same; who is in copy unseen
    stands in the request only.
    """
    email = plain(
        to=["Ada <ada@example.com>", Address("bob@example.com", "Bøb, Jr.")],
        cc="c@example.com",
        bcc="d@example.com",
        reply_to="r@example.com",
        subject="Grüße an alle",
        html="<p>é</p>",
        headers=headers,
        attachments=FULL.attachments,
    )
    body = sent_body(email)
    raw = base64.b64decode(body["Content"]["Raw"]["Data"])
    assert raw.isascii()
    assert max(map(len, raw.split(b"\r\n"))) <= 998
    message = message_from_bytes(raw, policy=policy.default)
    assert message["subject"] == "Grüße an alle"
    assert message["to"].addresses[1].display_name == "Bøb, Jr."
    assert {name: message[name] for name in headers} == headers
    assert "bcc" not in message
    assert body["Destination"]["BccAddresses"] == ["d@example.com"]
    text = message.get_body(("plain",))
    assert text is not None
    assert text.get_content().strip() == "x"
    kinds = [part.get_content_type() for part in message.walk()]
    assert kinds == [
        "multipart/mixed", "multipart/alternative", "text/plain", "multipart/related", "text/html", "image/png",
        "application/pdf",
    ]  # fmt: skip


def test_a_template():
    """By its name or its ARN, filled with data as JSON."""
    body = sent_body(Email("ada@example.com", sender="s@example.com", template="welcome", template_data={"n": "Adä"}))
    assert body["Content"] == {"Template": {"TemplateName": "welcome", "TemplateData": '{"n":"Adä"}'}}
    arn = "arn:aws:ses:us-east-1:123456789012:template/welcome"
    body = sent_body(Email("ada@example.com", sender="s@example.com", template=arn))
    assert body["Content"] == {"Template": {"TemplateArn": arn, "TemplateData": "{}"}}


def test_other_domains_are_written_in_ascii():
    """A domain in other letters is sent in Punycode; before the @ SES takes none."""
    assert sent_body(plain(to="ada@münchen.example"))["Destination"]["ToAddresses"] == ["ada@xn--mnchen-3ya.example"]
    with pytest.raises(errors.InvalidRequest, match=r"^to: .*ASCII"):
        Recorder().service(SES).send(plain(to="zoë@example.com"))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"sender": None}, "sender"),
        (
            {
                "to": [f"a{n}@example.com" for n in range(48)],
                "cc": ["b@e.example", "c@e.example"],
                "bcc": "d@e.example",
            },
            "to",
        ),
        ({"send_at": datetime(2030, 1, 1, tzinfo=UTC)}, "send_at"),
        ({"tags": ["a b"]}, "tags"),
        ({"tags": ["x" * 257]}, "tags"),
        ({"metadata": {"order": "a:b"}}, "metadata"),
        ({"metadata": {"order": ""}}, "metadata"),
        ({"tags": ["order"], "metadata": {"order": "42"}}, "metadata"),
        ({"headers": {"Reply-To": "x@example.com"}}, r"headers\[Reply-To\]"),
        ({"template": "t"}, "template"),
        ({"attachments": [Attachment("a" * 256, b"x")]}, r"attachments\.filename"),
        ({"attachments": [Attachment("a", b"x", type="a/" + "b" * 80)]}, r"attachments\.type"),
        ({"attachments": [Attachment("a", b"x", content_id="c" * 79)]}, r"attachments\.content_id"),
        ({"attachments": [Attachment("a", bytes(31_500_000))]}, "attachments"),
        ({"template": "t", "subject": "", "text": None, "template_data": {"a": "x" * 262_144}}, "template_data"),
        ({"template": "t", "subject": "", "text": None, "template_data": {"a": object()}}, "template_data"),
        ({"template": "t", "subject": "", "text": None, "headers": {"X-A": "é"}}, "headers"),
    ],
)
def test_limits_before_sending(changes: dict[str, Any], field: str):
    """What SES documents as refused is refused here, by field and limit, and nothing is sent."""
    recorder = Recorder(200, OK)
    with pytest.raises(errors.InvalidRequest, match=f"^{field}:") as caught:
        recorder.service(SES).send(plain(**changes)).result()
    assert caught.value.outcome == "not_sent"
    assert recorder.requests == []


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"cc": "c@example.com"}, "cc"),
        ({"to": ["ada@example.com", "ADA@example.com"]}, "to"),
        ({"to": [f"a{n}@example.com" for n in range(51)]}, "to"),
        ({"headers": {"X-A": "é"}}, "headers"),
    ],
)
def test_what_is_no_batch(changes: dict[str, Any], field: str):
    """Copies of each message, one recipient twice, more than 50 and headers in other letters are refused."""
    with pytest.raises(errors.InvalidRequest, match=f"^{field}"):
        Recorder().service(SES).send_batch(plain(**changes))


def test_a_batch_of_fifty():
    """The limit itself is taken: fifty entries, each with its own data."""
    recorder = Recorder(200, json.dumps({"BulkEmailEntryResults": [{"Status": "SUCCESS"}] * 50}).encode())
    sent = recorder.service(SES).send_batch(plain(to=[f"a{n}@example.com" for n in range(50)])).result()
    assert (len(sent.results), sent.failed) == (50, ())
    assert len(json.loads(recorder.requests[0].content)["BulkEmailEntries"]) == 50


def test_sending_and_the_account(box: Box, run: Run):
    """The stand-in takes the full message and a raw one; the account counts them."""
    service = box.service(SES)
    assert run(service.check()) is True
    sent = run(service.send(FULL, configuration_set="main"))
    assert run(service.send(plain(headers={"X-A": "é"}))).accepted is True
    held = box.state("ses")["messages"]
    assert (held[0]["id"], len(held)) == (sent.id, 2)
    assert run(service.get_account()) == SESAccount(
        sending=True, production=True, daily_limit=50_000.0, rate_limit=14.0, sent_today=2.0
    )


def test_a_paused_account(run: Run):
    """An account that may not send is no good health, whatever the key."""
    recorder = Recorder(200, b'{"SendingEnabled": false, "ProductionAccessEnabled": false}')
    assert run(recorder.service(SES).check()) is False
    assert run(recorder.service(SES).get_account()).production is False


def test_a_batch_has_a_result_for_each(box: Box, run: Run):
    """Subject and text are the template, filled for each; what fails for one is told of that one alone."""
    service = box.service(SES)
    sent = run(service.send_batch(BATCH, configuration_set="main"))
    assert sent.failed == ()
    assert [one.id for one in sent.results] == [held["id"] for held in box.state("ses")["messages"]]
    missing = run(service.send_batch(Email(BATCH.to, sender="shop@example.com", template="gone")))
    assert [(one.accepted, one.id, one.code) for one in missing.results] == [(False, None, "TEMPLATE_NOT_FOUND")] * 2
    assert missing.failed[0].message == "Template gone does not exist."


def test_templates_by_request_and_invoke(box: Box, run: Run):
    """What has no operation is had by path or by name, and then templates can be sent."""
    service = box.service(SES)
    content = {"Subject": "Hi {{name}}", "Text": "{{name}}!"}
    made = {"TemplateName": "welcome", "TemplateContent": content}
    assert run(service.request("POST", "/v2/email/templates", json=made)) == {}
    assert run(service.invoke("GetEmailTemplate", {"TemplateName": "welcome"})) == made
    email = Email("ada@example.com", sender="shop@example.com", template="welcome", template_data={"name": "Ada"})
    assert run(service.send(email)).id
    with pytest.raises(errors.Conflict):
        run(service.invoke("CreateEmailTemplate", made))
    with pytest.raises(errors.ConfigurationError, match="no operation 'SendMail'"):
        service.invoke("SendMail", {})


@pytest.mark.parametrize(
    ("changes", "kind", "code"),
    [
        ({"sender": "a@unverified.example"}, errors.InvalidRequest, "MessageRejected"),
        ({"sender": "mailfrom@trouble.example"}, errors.InvalidRequest, "MailFromDomainNotVerifiedException"),
        ({"sender": "paused@trouble.example"}, errors.PermissionDenied, "SendingPausedException"),
        ({"sender": "suspended@trouble.example"}, errors.PermissionDenied, "AccountSuspendedException"),
        ({"sender": "throttled@trouble.example"}, errors.RateLimited, "TooManyRequestsException"),
        ({"sender": "limit@trouble.example"}, errors.InvalidRequest, "LimitExceededException"),
        ({"template": "gone", "subject": "", "text": None}, errors.NotFound, "NotFoundException"),
    ],
)
def test_errors(box: Box, run: Run, changes: dict[str, Any], kind: type[errors.CallError], code: str):
    """Each documented error has its class, SES's code, message and request id."""
    with pytest.raises(kind) as caught:
        run(box.service(SES, policy=Policy(retry=None)).send(plain(**changes)))
    assert (caught.value.code, caught.value.outcome) == (code, "done")
    assert caught.value.request_id
    assert caught.value.message[0].isupper()


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("BadRequestException", 400, errors.InvalidRequest),
        ("InternalServiceErrorException", 500, errors.ServiceUnavailable),
        ("AccessDeniedException", 403, errors.PermissionDenied),
        ("UnrecognizedClientException", 403, errors.AuthenticationFailed),
        ("InvalidSignatureException", 403, errors.AuthenticationFailed),
        ("ExpiredTokenException", 403, errors.AuthenticationFailed),
        ("ThrottlingException", 400, errors.RateLimited),
        ("ConcurrentModificationException", 409, errors.Conflict),
    ],
)
def test_errors_of_all_of_aws(code: str, status: int, kind: type[errors.CallError]):
    """The code stands in a header, with an address behind a colon, or in the body."""
    for headers, body in (
        ({"x-amzn-ErrorType": f"{code}:http://internal.amazon.com/coral/"}, {"message": "No."}),
        ({}, {"__type": f"com.amazonaws.ses#{code}", "Message": "No."}),
    ):
        recorder = Recorder(status, json.dumps(body).encode(), {**headers, "x-amzn-RequestId": "r-1"})
        with pytest.raises(kind) as caught:
            recorder.service(SES, policy=Policy(retry=None)).send(plain()).result()
        assert (caught.value.code, caught.value.request_id, caught.value.message) == (code, "r-1", "No.")


def test_a_lost_answer_is_unknown(box: Box, run: Run):
    """SES honours no keys: a mail whose answer was lost is never sent again by itself, and it did arrive."""
    box.arm(service="ses", kind="dropped")
    with pytest.raises(errors.OutcomeUnknown) as caught:
        run(box.service(SES).send(plain()))
    assert (caught.value.retryable, len(caught.value.attempts)) == (False, 1)
    box.arm(service="ses", kind="dropped")
    assert run(box.service(SES, policy=Policy(retry=Retry(base=0.01))).check()) is True  # a read is repeated


def test_a_message_survives_a_queue(box: Box):
    """A Call with attachments, zones and names comes out of a queue as it went in."""
    service = box.service(SES)
    stored = json.loads(json.dumps(service.send(FULL, configuration_set="main").to_payload()))
    again = Call.from_payload(stored, lambda _: service)
    assert [*again.args, *again.kwargs.values()][0] == FULL
    assert again.result().accepted is True
    assert box.state("ses")["messages"][0]["message"]["ConfigurationSetName"] == "main"


def test_answers_fit_the_model(box: Box):
    """Botocore reads every answer of the stand-in as the model says; there is nothing in it that the model lacks."""
    made: dict[str, Call[Any]] = {
        "SendEmail": box.service(SES).send(FULL),
        "SendBulkEmail": box.service(SES).send_batch(BATCH),
        "GetAccount": box.service(SES).get_account(),
    }
    for name, call in made.items():
        exchange = call.response().result()
        assert Model("sesv2").read(name, exchange) == exchange.data


def test_hosts_of_regions():
    """Each region has its own host, China's another domain; what is no region is named."""
    for region, host in (
        ("eu-central-1", "email.eu-central-1.amazonaws.com"),
        ("cn-north-1", "email.cn-north-1.amazonaws.com.cn"),
    ):
        recorder = Recorder(200, OK)
        recorder.service(SES, region=region).send(plain()).result()
        assert recorder.requests[0].url.host == host
        assert f"/{region}/ses/aws4_request" in recorder.requests[0].headers["authorization"]
    with pytest.raises(errors.ConfigurationError, match="region"):
        SES("k", access_key_id="a", region="mars")


# What it tells --------------------------------------------------------------------------------------------------------


def told(kind: str, message: Any) -> Event:
    text = message if isinstance(message, str) else json.dumps(message)
    body = json.dumps({"Type": "Notification", "MessageId": "m", "Message": text}).encode()
    return Event("ses", "m", kind, body)


def from_mail(email: Email, *secrets: str, **options: Any) -> list[Any]:
    """What the stand-in tells of a mail, signed, verified and read."""
    emitted: list[Emission] = []
    stand_in = STAND_IN.make(Surroundings(emit=emitted.append))
    wire = httpx2.MockTransport(lambda request: answered(stand_in, request))
    service = SES(
        SES.credentials.sandbox, access_key_id=SES.access_key_id.sandbox, wire=wire, guards=Guards(),
        base_url="https://sandbox.example",
    )  # fmt: skip
    service.send(email, **options).result()
    secret = STAND_IN.secret or ""
    found = []
    for emission in emitted:
        signed = stand_in.sign(emission, url="https://x.example", secrets=(secret,), hook_id="1", broken=False)
        events = verify_each(SES, headers=signed.headers, body=signed.body or b"", secrets=secret)
        found += [SES.read_event(event) for event in events]
    return found


@pytest.fixture
def certificates(served: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Receivers fetch the certificate of the sandbox."""
    monkeypatch.setenv("MOORLINE_SANDBOX_URL", served)


@pytest.mark.usefixtures("certificates")
def test_what_becomes_of_mail_to_the_simulator():
    """A configuration set tells of sending, delivery, bounce and complaint, with tags and metadata."""
    people = [f"{who}@simulator.amazonses.com" for who in ("success", "bounce", "complaint", "suppressionlist", "ooto")]
    read = from_mail(plain(to=people, tags=["receipt"], metadata={"order": "42"}), configuration_set="main")
    assert [(one.kind.value, one.recipients, one.permanent) for one in read] == [
        ("accepted", tuple(people), None),
        ("delivered", (people[0],), None),
        ("bounced", (people[1],), True),
        ("delivered", (people[2],), None),
        ("complained", (people[2],), None),
        ("bounced", (people[3],), True),
        ("delivered", (people[4],), None),
    ]
    assert {(one.tags, tuple(one.metadata.items())) for one in read} == {(("receipt",), (("order", "42"),))}
    assert {one.message_id for one in read} == {read[0].message_id}
    assert read[2].reason == "smtp; 550 5.1.1 user unknown"
    assert all(one.at is not None for one in read)


@pytest.mark.usefixtures("certificates")
def test_notifications_of_an_identity_have_no_tags():
    """Without a configuration set it tells of the three notifications only, and of no tags."""
    read = from_mail(plain(to="complaint@simulator.amazonses.com", metadata={"order": "42"}))
    assert [(one.kind.value, one.recipient, dict(one.metadata)) for one in read] == [
        ("delivered", "complaint@simulator.amazonses.com", {}),
        ("complained", "complaint@simulator.amazonses.com", {}),
    ]
    assert read[1].reason == "abuse"


@pytest.mark.usefixtures("certificates")
def test_a_template_that_cannot_be_filled_is_told_later():
    """SES takes the message, and publishes a failure that names what was missing."""
    [read] = from_mail(plain(subject="{{name}}", template=None), configuration_set="main", Content={
        "Template": {"TemplateContent": {"Subject": "Hi {{name}}", "Text": "x"}, "TemplateData": "{}"}
    })  # fmt: skip
    assert (read.kind, read.vendor_type) == (EmailEventKind.REJECTED, "Rendering Failure")
    assert read.reason == "Attribute 'name' is not present in the rendering data."


def test_several_recipients_in_one_notification():
    """The example of the card, with two of them: none is lost."""
    message = {
        "eventType": "Bounce",
        "bounce": {
            "bounceType": "Transient",
            "bounceSubType": "MailboxFull",
            "bouncedRecipients": [
                {"emailAddress": "ada@example.com", "status": "4.2.2"},
                {"emailAddress": "b@e.example"},
            ],
        },
        "mail": {
            "messageId": "0100018f0a1b2c3d-aaaa-bbbb-000000",
            "timestamp": "2026-11-20T10:00:00.000Z",
            "tags": {"order": ["42"], "receipt": ["tag"], "ses:configuration-set": ["main"]},
        },
    }
    read = SES.read_event(told("Bounce", message))
    assert isinstance(read, EmailEvent)
    assert (read.recipient, read.recipients) == ("ada@example.com", ("ada@example.com", "b@e.example"))
    assert (read.permanent, read.reason, read.message_id) == (False, "MailboxFull", "0100018f0a1b2c3d-aaaa-bbbb-000000")
    assert (read.tags, dict(read.metadata)) == (("receipt",), {"order": "42"})
    assert read.at == datetime(2026, 11, 20, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    ("event", "part", "expected"),
    [
        ("Bounce", {"bounce": {"bounceType": "Undetermined", "bouncedRecipients": []}}, ("bounced", None, None)),
        ("Click", {"click": {"link": "https://shop.example/"}}, ("clicked", "https://shop.example/", None)),
        ("Reject", {"reject": {"reason": "Bad content"}}, ("rejected", None, "Bad content")),
        ("DeliveryDelay", {"deliveryDelay": {"delayType": "MailboxFull"}}, ("deferred", None, "MailboxFull")),
        (
            "Subscription",
            {"subscription": {"newTopicPreferences": {"unsubscribeAll": True, "topicSubscriptionStatus": []}}},
            ("unsubscribed", None, None),
        ),
        (
            "Subscription",
            {
                "subscription": {
                    "newTopicPreferences": {
                        "unsubscribeAll": False,
                        "topicSubscriptionStatus": [{"topicName": "t", "subscriptionStatus": "OptIn"}],
                    }
                }
            },
            ("subscribed", None, None),
        ),
    ],
)
def test_other_events(event: str, part: dict[str, Any], expected: tuple[Any, ...]):
    """Each kind is read in the common words."""
    read = SES.read_event(told(event, {"eventType": event, "mail": {"destination": ["ada@example.com"]}, **part}))
    assert isinstance(read, EmailEvent)
    assert (read.kind.value, read.url, read.reason) == expected
    assert read.recipients == (() if event == "Bounce" else ("ada@example.com",))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("Notification", "Successfully validated SNS topic for Amazon SES event publishing."),
        ("Teleported", {"eventType": "Teleported", "mail": {}}),
        ("Bounce", {"eventType": "Bounce"}),
        ("Bounce", "[" * 100_000),
    ],
)
def test_what_has_no_common_meaning(kind: str, message: Any):
    """SES's first message to a topic, newer words and strangers' JSON are None."""
    assert SES.read_event(told(kind, message)) is None


@pytest.mark.parametrize(
    "message",
    [
        {"eventType": "Bounce", "mail": {}, "bounce": []},
        {"eventType": "Bounce", "mail": {}, "bounce": {"bouncedRecipients": "x"}},
        {"eventType": "Bounce", "mail": {}, "bounce": {"bouncedRecipients": [{}]}},
        {"eventType": "Bounce", "mail": {"tags": []}},
        {"eventType": "Bounce", "mail": {"messageId": 5}},
        {"eventType": "Bounce", "mail": {"timestamp": "yesterday"}},
    ],
)
def test_events_of_another_shape(message: dict[str, Any]):
    """What is not of the known shape is a BadAnswer."""
    with pytest.raises(errors.BadAnswer):
        SES.read_event(told("Bounce", message))


_MAIL = (
    "Return-Path: <ada@customers.example>\r\nFrom: =?utf-8?q?Ad=C3=A0?= <ada@customers.example>\r\nTo: help@shop.example\r\n"
    "Subject: =?utf-8?b?R3LDvMOfZQ==?=\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"
    "--b\r\nContent-Type: text/plain; charset=iso-8859-1\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nCaf=E9\r\n"
    "--b\r\nContent-Type: image/png\r\nContent-ID: <logo>\r\nContent-Transfer-Encoding: base64\r\n"
    'Content-Disposition: inline; filename="../logo.png"\r\n\r\niVBORw==\r\n--b--\r\n'
)


@pytest.mark.parametrize("encoding", ["UTF-8", "BASE64"])
def test_mail_that_comes_in(encoding: str):
    """As AWS's example of an SNS action has it: head, bodies and files of the MIME message, in either encoding."""
    content = _MAIL if encoding == "UTF-8" else base64.b64encode(_MAIL.encode()).decode()
    receipt = {"recipients": ["help@shop.example"], "action": {"type": "SNS", "encoding": encoding}}
    mail = {"messageId": "d6iitobk75", "timestamp": "2015-09-11T20:32:33.936Z", "source": "ada@customers.example"}
    message = {"notificationType": "Received", "mail": mail, "receipt": receipt, "content": content}
    read = SES.read_event(told("Received", message))
    assert isinstance(read, InboundEmail)
    assert (read.id, read.sender, read.subject) == ("d6iitobk75", Address("ada@customers.example", "Adà"), "Grüße")
    assert ((read.text or "").strip(), [one.email for one in read.to]) == ("Café", ["help@shop.example"])
    [logo] = read.attachments
    assert (logo.filename, logo.content, logo.content_id) == ("logo.png", b"\x89PNG", "logo")


def test_mail_that_comes_in_without_its_content():
    """Other actions of a receipt rule tell of the head alone; the envelope says to whom it came."""
    headers = [
        {"name": "From", "value": "ada@customers.example"},
        {"name": "Subject", "value": "Hi\r\nBcc: x@y.example"},
    ]
    mail = {"messageId": "m1", "timestamp": "2015-09-11T20:32:33.936Z", "headers": headers}
    message = {"notificationType": "Received", "mail": mail, "receipt": {"recipients": ["help@shop.example"]}}
    read = SES.read_event(told("Received", message))
    assert isinstance(read, InboundEmail)
    assert (read.subject, read.text, [one.email for one in read.to]) == (
        "Hi Bcc: x@y.example",
        None,
        ["help@shop.example"],
    )
