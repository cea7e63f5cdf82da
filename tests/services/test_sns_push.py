from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from tests.events.senders.sns_push import MESSAGE
from tests.services.aws_model import Model, form
from tests.services.conftest import Box
from tests.services.recorder import Recorder, answered

from moorline import errors
from moorline.calls.call import Call
from moorline.calls.guards import Guards
from moorline.events.event import Event
from moorline.events.verification import verify_each
from moorline.policies.policy import Policy
from moorline.policies.retry import Retry
from moorline.sandbox.services.sns_push import STAND_IN
from moorline.sandbox.standin import Emission, Surroundings
from moorline.services.push.protocol import Push
from moorline.services.push.sns_push import EndpointEvent, EndpointEventKind, SNSPush

Run = Callable[[Any], Any]
ARN = "arn:aws:sns:us-east-1:123456789012"
PHONE = f"{ARN}:endpoint/GCM/sandbox/0e3b4b2c-1111-3f1d-9b4e-77a35a2e4b11"
IPHONE = f"{ARN}:endpoint/APNS/shop/1e3b4b2c-1111-3f1d-9b4e-77a35a2e4b11"
KINDLE = PHONE.replace("/GCM/", "/ADM/")
WINDOWS = PHONE.replace("/GCM/", "/WNS/")
TOPIC = f"{ARN}:news"
FULL = Push(
    "Shipped", "Order 17 is on its way ⚓", data={"order": "17"}, image="https://shop.example/a.png", url="https://shop.example/17",
    ttl=600, priority="high", collapse_key="order-17", badge=3, sound="bell",
    android={"notification": {"channel_id": "orders"}}, ios={"aps": {"thread-id": "t"}, "more": 1}, web={"headers": {"a": "b"}},
)  # fmt: skip
PUBLISHED = b"<PublishResponse><PublishResult><MessageId>m1</MessageId></PublishResult></PublishResponse>"
MODEL = Model("sns")

CALLS: list[Callable[[SNSPush], Any]] = [
    lambda s: s.send(Push("Hi", "There"), PHONE),
    lambda s: s.send_many(FULL, [PHONE, IPHONE]).calls[1],
    lambda s: s.send_topic(FULL, TOPIC),
    lambda s: s.create_endpoint("token", user_data="u_1"),
    lambda s: s.renew_endpoint(PHONE, "token"),
    lambda s: s.get_endpoint(PHONE),
    lambda s: s.set_endpoint(PHONE, enabled=True),
    lambda s: s.delete_endpoint(PHONE),
    lambda s: s.subscribe(PHONE, TOPIC),
    lambda s: s.unsubscribe(f"{TOPIC}:0e3b4b2c"),
    lambda s: s.check(),
]


def asked(make: Callable[[SNSPush], Any]) -> dict[str, str]:
    recorder = Recorder(200, PUBLISHED)
    make(recorder.service(SNSPush)).response().result()
    return form(recorder.requests[0])


def attributes(found: dict[str, str]) -> dict[str, str]:
    names = {key: value for key, value in found.items() if key.endswith(".Name")}
    return {name: found[key.removesuffix("Name") + "Value.StringValue"] for key, name in names.items()}


# What is sent ---------------------------------------------------------------------------------------------------------


def test_a_notification_for_google():
    """The card's example: FCM's message as text within text, in the wrapper of its new API, and the ttl beside it."""
    found = asked(lambda s: s.send(FULL, PHONE))
    assert (found["TargetArn"], found["MessageStructure"]) == (PHONE, "json")
    parts = json.loads(found["Message"])
    assert set(parts) == {"default", "GCM"}
    assert json.loads(parts["GCM"]) == {
        "fcmV1Message": {
            "message": {
                "notification": {
                    "title": "Shipped",
                    "body": "Order 17 is on its way ⚓",
                    "image": "https://shop.example/a.png",
                },
                "data": {"order": "17", "url": "https://shop.example/17"},
                "android": {
                    "priority": "high",
                    "collapse_key": "order-17",
                    "notification": {"sound": "bell", "notification_count": 3, "channel_id": "orders"},
                },
                "webpush": {"headers": {"a": "b"}},
            }
        }
    }
    assert attributes(found) == {"AWS.SNS.MOBILE.GCM.TTL": "600"}


def test_a_notification_for_apple():
    """Apple's payload, with what Apple wants in headers as attributes."""
    found = asked(lambda s: s.send(FULL, IPHONE))
    parts = json.loads(found["Message"])
    assert set(parts) == {"default", "APNS"}
    assert json.loads(parts["APNS"]) == {
        "aps": {
            "alert": {"title": "Shipped", "body": "Order 17 is on its way ⚓"},
            "badge": 3,
            "sound": "bell",
            "mutable-content": 1,
            "thread-id": "t",
        },
        "order": "17",
        "url": "https://shop.example/17",
        "image": "https://shop.example/a.png",
        "more": 1,
    }
    assert attributes(found) == {
        "AWS.SNS.MOBILE.APNS.TTL": "600",
        "AWS.SNS.MOBILE.APNS.PUSH_TYPE": "alert",
        "AWS.SNS.MOBILE.APNS.PRIORITY": "10",
        "AWS.SNS.MOBILE.APNS.COLLAPSE_ID": "order-17",
    }


def test_a_silent_notification():
    """Without words it wakes the application, and nobody else."""
    found = asked(lambda s: s.send(Push(data={"sync": "1"}), IPHONE))
    assert json.loads(json.loads(found["Message"])["APNS"]) == {"aps": {"content-available": 1}, "sync": "1"}
    assert attributes(found) == {"AWS.SNS.MOBILE.APNS.PUSH_TYPE": "background"}
    found = asked(lambda s: s.send(Push(data={"sync": "1"}), PHONE))
    assert json.loads(json.loads(found["Message"])["GCM"]) == {"fcmV1Message": {"message": {"data": {"sync": "1"}}}}


def test_a_topic_is_of_all_platforms():
    """Whoever subscribed: each platform has its part; a platform that we know nothing of has the words alone."""
    found = asked(lambda s: s.send_topic(Push("Hi", "There", ttl=5), TOPIC))
    parts = json.loads(found["Message"])
    assert set(parts) == {"default", "GCM", "APNS", "APNS_SANDBOX", "ADM"}
    assert json.loads(parts["ADM"]) == {"data": {"title": "Hi", "message": "There"}}
    assert attributes(found)["AWS.SNS.MOBILE.ADM.TTL"] == "5"
    words = Push("Hi", "There", android={"priority": "high"}, ios={"more": 1})
    assert json.loads(asked(lambda s: s.send(words, WINDOWS))["Message"]) == {"default": "There"}


def test_a_notification_for_amazon():
    """ADM gives all of it to the application as data; what *data* has by the same names stays."""
    found = asked(lambda s: s.send(FULL, KINDLE))
    parts = json.loads(found["Message"])
    assert set(parts) == {"default", "ADM"}
    assert json.loads(parts["ADM"]) == {
        "data": {
            "title": "Shipped",
            "message": "Order 17 is on its way ⚓",
            "image": "https://shop.example/a.png",
            "order": "17",
            "url": "https://shop.example/17",
        },
        "consolidationKey": "order-17",
    }
    assert attributes(found) == {"AWS.SNS.MOBILE.ADM.TTL": "600"}
    silent = json.loads(asked(lambda s: s.send(Push(data={"message": "1"}), KINDLE))["Message"])
    assert json.loads(silent["ADM"]) == {"data": {"message": "1"}}


@pytest.mark.parametrize(
    ("push", "target", "field"),
    [
        (Push("Hi", data={"order": "17"}), "WNS", "data"),
        (Push("Hi", url="https://shop.example/17"), "MACOS", "url"),
        (Push("Hi", badge=0), "WNS", "badge"),
        (Push("Hi", ttl=0), "BAIDU", "ttl"),
        (Push("Hi", ttl=0), "APNS_VOIP", "ttl"),
        (Push(android={"priority": "high"}), "MPNS", "body"),
    ],
)
def test_what_would_be_lost(push: Push, target: str, field: str):
    """What cannot be told to a platform that we know nothing of is refused by its name."""
    recorder = Recorder(200, PUBLISHED)
    with pytest.raises(errors.InvalidRequest, match=f"^{field}: .* {target}") as caught:
        recorder.service(SNSPush).send(push, PHONE.replace("/GCM/", f"/{target}/"))
    assert (caught.value.outcome, recorder.requests) == ("not_sent", [])


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda s: s.send(Push("Hi"), "token"), "target"),
        (lambda s: s.send(Push("Hi"), f"{ARN}:app/GCM/sandbox"), "target"),
        (lambda s: s.send(Push("Hi", "x" * 4096), PHONE), "data"),
        (lambda s: s.send(Push("Hi", data={"aps": "x"}), IPHONE), r"data\[aps\]"),
        (lambda s: s.send(Push("Hi", collapse_key="x" * 65), IPHONE), "collapse_key"),
        (lambda s: s.send_many(Push("Hi"), PHONE), "targets"),
        (lambda s: s.send_many(Push("Hi"), []), "targets"),
        (lambda s: s.send_topic(Push("Hi"), "news"), "topic"),
        (lambda s: s.send_topic(Push("Hi"), f"{TOPIC}.fifo"), "topic"),
        (lambda s: s.create_endpoint(""), "token"),
        (lambda s: s.create_endpoint("t", application="shop"), "application"),
        (lambda s: s.create_endpoint("t", user_data="x" * 2048), "user_data"),
        (lambda s: s.renew_endpoint(PHONE, ""), "token"),
        (lambda s: s.set_endpoint(PHONE), "token"),
        (lambda s: s.get_endpoint("x"), "endpoint"),
        (lambda s: s.subscribe(PHONE, "news"), "topic"),
    ],
)
def test_limits_before_sending(make: Callable[[SNSPush], Any], field: str):
    """What could not arrive is refused by its name, and nothing is sent."""
    recorder = Recorder(200, PUBLISHED)
    with pytest.raises(errors.InvalidRequest, match=f"^{field}:") as caught:
        make(recorder.service(SNSPush)).result()
    assert (caught.value.outcome, recorder.requests) == ("not_sent", [])


def test_an_application_is_needed(monkeypatch: pytest.MonkeyPatch):
    """It is given with the service, with the call, or stands in the environment."""
    monkeypatch.delenv("SNS_PLATFORM_APPLICATION_ARN", raising=False)
    bare = SNSPush("k", access_key_id="a", wire=httpx2.MockTransport(Recorder()), guards=Guards())
    with pytest.raises(errors.InvalidRequest, match="SNS_PLATFORM_APPLICATION_ARN"):
        bare.create_endpoint("t")
    with pytest.raises(errors.ConfigurationError, match=r"sns_push\.application"):
        SNSPush("k", access_key_id="a", application="shop")
    found = asked(lambda s: s.create_endpoint("t", application=f"{ARN}:app/APNS/shop", attributes={"Enabled": "true"}))
    assert found["PlatformApplicationArn"] == f"{ARN}:app/APNS/shop"
    assert (found["Attributes.entry.1.key"], found["Attributes.entry.1.value"]) == ("Enabled", "true")


# Against the sandbox --------------------------------------------------------------------------------------------------


def test_the_life_of_an_endpoint(box: Box, run: Run):
    """It is made once for a token, found again with other attributes, renewed only where that is needed, and deleted."""
    service = box.service(SNSPush)
    assert run(service.check()) is True
    made = run(service.create_endpoint("token-1", user_data="u_1"))
    assert run(service.create_endpoint("token-1", user_data="u_1")) == made
    other = run(service.create_endpoint("token-1", user_data="u_2"))
    assert (other.arn, other.existed, made.existed) == (made.arn, True, False)
    before = len(box.seen())
    assert run(service.renew_endpoint(made.arn, "token-1")) is False
    assert len(box.seen()) == before + 1
    run(service.set_endpoint(made.arn, enabled=False, user_data="u_3"))
    found = run(service.get_endpoint(made.arn))
    assert (found.token, found.enabled, found.user_data) == ("token-1", False, "u_3")
    assert run(service.renew_endpoint(made.arn, "token-2")) is True
    assert box.state("sns_push")["endpoints"] == {
        made.arn: {"Enabled": "true", "Token": "token-2", "CustomUserData": "u_3"}
    }
    for _ in range(2):
        run(service.delete_endpoint(made.arn))
    for call in (service.get_endpoint(made.arn), service.renew_endpoint(made.arn, "token-2")):
        with pytest.raises(errors.NotFound):
            run(call)


def test_a_dead_target_is_a_result(box: Box, run: Run):
    """The first notification to a dead token is taken, as SNS does; then the endpoint is disabled, which is no error."""
    service = box.service(SNSPush)
    arn = run(service.create_endpoint("dead-token")).arn
    first = run(service.send(FULL, arn))
    assert (first.ok, bool(first.id)) == (True, True)
    for _ in range(6):  # which opens no breaker
        second = run(service.send(FULL, arn))
        assert (second.ok, second.dead, second.error.code) == (False, True, "EndpointDisabled")
        assert (second.error.service, second.error.operation, second.error.retryable) == ("sns_push", "send", False)
    gone = run(service.send(FULL, PHONE))
    assert (gone.dead, gone.error.code) == (True, "NotFound")


def test_many_targets(box: Box, run: Run):
    """Each has its result in its order: taken, dead, or failed for another reason."""
    service = box.service(SNSPush)
    good = run(service.create_endpoint("token-1")).arn
    bad = run(service.create_endpoint("t", application=f"{ARN}:app/APNS/disabled")).arn
    report = run(service.send_many(Push("Hi", "There"), [good, PHONE, bad, good]))
    assert (report.sent, report.dead, [one.target for one in report.failed]) == (1, (PHONE,), [bad])
    assert report.failed[0].error.code == "PlatformApplicationDisabled"
    assert report.again == ()


def test_topics(box: Box, run: Run):
    """A device subscribes once, and a topic that is not there is an error: nobody is dead."""
    service = box.service(SNSPush)
    arn = run(service.create_endpoint("token-1")).arn
    subscription = run(service.subscribe(arn, TOPIC))
    assert run(service.subscribe(arn, TOPIC)) == subscription
    assert run(service.send_topic(FULL, TOPIC)).ok
    run(service.unsubscribe(subscription))
    assert box.state("sns_push")["subscriptions"] == {}
    with pytest.raises(errors.NotFound):
        run(service.send_topic(FULL, f"{ARN}:missing"))


def test_lost_answers(box: Box, run: Run):
    """A notification is never sent twice by itself; what can be done twice is."""
    service = box.service(SNSPush, policy=Policy(retry=Retry(base=0.01)))
    box.arm(service="sns_push", kind="dropped")
    made = run(service.create_endpoint("token-1"))
    assert list(box.state("sns_push")["endpoints"]) == [made.arn]
    box.arm(service="sns_push", kind="dropped")
    with pytest.raises(errors.OutcomeUnknown) as caught:
        run(service.send(FULL, made.arn))
    assert caught.value.retryable is False


def test_calls_survive_a_queue(box: Box):
    """A notification, and an endpoint to be renewed, come out of a queue as they went in."""
    service = box.service(SNSPush)
    arn = service.create_endpoint("token-1").result().arn
    for call in (service.send(FULL, arn), service.renew_endpoint(arn, "token-2")):
        again = Call.from_payload(json.loads(json.dumps(call.to_payload())), lambda _: service)
        assert again.result()
    assert box.state("sns_push")["endpoints"][arn]["Token"] == "token-2"


def test_answers_fit_the_model(box: Box):
    """Botocore reads every answer of the stand-in as the model says, errors too."""
    service = box.service(SNSPush)
    arn = service.create_endpoint("token-1").result().arn
    for name, call, expected in (
        ("CreatePlatformEndpoint", service.create_endpoint("token-2"), {"EndpointArn"}),
        ("GetEndpointAttributes", service.get_endpoint(arn), {"Attributes"}),
        ("SetEndpointAttributes", service.set_endpoint(arn, enabled=True), set()),
        ("Publish", service.send(FULL, arn), {"MessageId"}),
        ("Subscribe", service.subscribe(arn, TOPIC), {"SubscriptionArn"}),
        ("ListPlatformApplications", service.check(), {"PlatformApplications"}),
        ("DeleteEndpoint", service.delete_endpoint(arn), set()),
    ):
        assert set(MODEL.read(name, call.response().result())) == expected, name
    assert MODEL.error(service.send(FULL, arn).response().result())["Code"] == "NotFound"


# What it tells --------------------------------------------------------------------------------------------------------


def told(message: Any) -> Event:
    return Event("sns_push", "m", "x", json.dumps({"Message": json.dumps(message)}).encode())


def test_reports_on_endpoints():
    """A token that Apple or Google refused is dead; a notification that came too late says nothing of it."""
    read = SNSPush.read_event(told(MESSAGE))
    assert read == EndpointEvent(
        EndpointEventKind.FAILED, "x", MESSAGE["EndpointArn"], dead=True, reason="InvalidPlatformToken"
    )
    late = SNSPush.read_event(told(MESSAGE | {"FailureType": "NotificationTTLExpired"}))
    assert late is not None
    assert (late.kind, late.dead) == (EndpointEventKind.FAILED, False)
    assert SNSPush.read_event(told({"EventType": "EndpointMoved", "EndpointArn": PHONE})) is None
    assert SNSPush.read_event(told("News")) is None
    with pytest.raises(errors.BadAnswer):
        SNSPush.read_event(told({"EventType": "EndpointDeleted"}))


def test_what_becomes_of_endpoints(served: str, monkeypatch: pytest.MonkeyPatch):
    """Its changes and its death come signed, and name the endpoint."""
    monkeypatch.setenv("MOORLINE_SANDBOX_URL", served)  # where certificates are fetched
    secret = STAND_IN.secret or ""
    emitted: list[Emission] = []
    stand_in = STAND_IN.make(Surroundings(emit=emitted.append))

    service = SNSPush(
        SNSPush.credentials.sandbox, access_key_id=SNSPush.access_key_id.sandbox, wire=httpx2.MockTransport(lambda request: answered(stand_in, request)),
        base_url="https://sandbox.example", guards=Guards(), application=SNSPush.application.sandbox,
    )  # fmt: skip
    arn = service.create_endpoint("dead-token").result().arn
    service.send(FULL, arn).result()
    service.set_endpoint(arn, token="new").result()
    service.delete_endpoint(arn).result()
    read = []
    for emission in emitted:
        signed = stand_in.sign(emission, url="https://x.example", secrets=(secret,), hook_id="1", broken=False)
        [event] = verify_each(SNSPush, headers=signed.headers, body=signed.body or b"", secrets=secret)
        assert event.type == emission.event
        read.append(SNSPush.read_event(event))
    assert [(one.kind.value, one.endpoint, one.dead) for one in read if one is not None] == [
        ("created", arn, False),
        ("failed", arn, True),
        ("updated", arn, False),
        ("deleted", arn, True),
    ]
