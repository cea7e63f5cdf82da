from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.contracts import Contract
from tests.services.conftest import Box, sandbox_key
from tests.services.recorder import Recorder

from moorline import errors
from moorline.calls.call import Call
from moorline.services.push.fcm import FCM
from moorline.services.push.protocol import Push

Run = Callable[[Any], Any]
KEY = sandbox_key(FCM, "https://sandbox.example")
FULL = Push(
    "Versandt ⚓",
    "Order 17",
    data={"order": "17"},
    image="https://shop.example/a.png",
    url="https://shop.example/17",
    ttl=600,
    priority="high",
    collapse_key="order",
    badge=3,
    sound="bell",
    android={"notification": {"channelId": "orders"}},
    ios={"payload": {"aps": {"mutable-content": 1}}},
    web={"notification": {"icon": "https://shop.example/i.png"}},
)
CALLS: list[Callable[[FCM], Any]] = [
    lambda s: s.send(FULL, "token-1"),
    lambda s: s.send_many(Push(body="x"), ["a", "b"]).calls[0],
    lambda s: s.send_topic(Push(body="x"), "news"),
    lambda s: s.subscribe("token-1", "news"),
    lambda s: s.unsubscribe("token-1", "news"),
    lambda s: s.list_topics("token-1").page(),
    lambda s: s.check(),
]


def recorded(answer: bytes = b'{"name": "projects/p/messages/1"}', status: int = 200) -> tuple[Recorder, FCM]:
    recorder = Recorder(status, answer)
    return recorder, recorder.service(FCM, key=KEY)


def test_send(box: Box, run: Run):
    """A notification arrives as it was meant, on each platform, with an id of FCM's."""
    sent = run(box.service(FCM).send(FULL, "token-1"))
    [held] = box.state("fcm")["messages"]
    assert (sent.ok, sent.id, sent.target) == (True, held["name"], "token-1")
    message = held["message"]
    assert message["token"] == "token-1"
    assert message["notification"] == {
        "title": "Versandt ⚓",
        "body": "Order 17",
        "image": "https://shop.example/a.png",
    }
    assert message["android"] == {
        "ttl": "600s",
        "priority": "HIGH",
        "collapseKey": "order",
        "notification": {"sound": "bell", "notificationCount": 3, "channelId": "orders"},
    }
    assert message["apns"]["payload"] == {"aps": {"badge": 3, "sound": "bell", "mutable-content": 1}}
    assert message["apns"]["headers"]["apns-priority"] == "10"
    assert message["webpush"]["fcmOptions"] == {"link": "https://shop.example/17"}


def test_now_or_never():
    """A ttl of 0 is 0 everywhere, and no moment in the past."""
    recorder, fcm = recorded()
    fcm.send(Push(body="x", ttl=0), "t").result()
    message = json.loads(recorder.requests[0].content)["message"]
    assert (message["android"]["ttl"], message["apns"]["headers"], message["webpush"]["headers"]) == (
        "0s",
        {"apns-expiration": "0"},
        {"TTL": "0"},
    )


@pytest.mark.parametrize(
    ("target", "code"), [("dead-1", "UNREGISTERED"), ("wrong-1", "INVALID_ARGUMENT"), ("other-1", "SENDER_ID_MISMATCH")]
)
def test_dead_targets_are_results(box: Box, run: Run, target: str, code: str):
    """What will never work again is no exception: the caller prunes it."""
    found = run(box.service(FCM).send(Push(body="x"), target))
    assert (found.ok, found.dead) == (False, True)
    assert found.error is not None
    assert (found.error.code, found.error.service, found.error.operation) == (code, "fcm", "send")


@pytest.mark.parametrize(
    ("target", "kind", "retryable"),
    [("busy-1", errors.ServiceUnavailable, True), ("apns-1", errors.PermissionDenied, False)],
)
def test_other_failures_are_errors(
    box: Box, run: Run, impatient: Any, target: str, kind: type[errors.CallError], retryable: bool
):
    """A busy FCM and wrong credentials at Apple say nothing of the token."""
    with pytest.raises(kind) as caught:
        run(box.service(FCM, policy=impatient).send(Push(body="x"), target))
    assert caught.value.retryable is retryable


def test_many(box: Box, run: Run, impatient: Any):
    """One result for each, in their order; the dead are told from those to try again."""
    targets = ["token-1", "dead-2", "busy-3", "token-4", "token-1"]
    report = run(box.service(FCM, policy=impatient).send_many(Push(body="x"), targets))
    assert [one.target for one in report.results] == ["token-1", "dead-2", "busy-3", "token-4"]
    assert (report.sent, report.dead, report.again) == (2, ("dead-2",), ("busy-3",))
    assert len(box.state("fcm")["messages"]) == 2
    asked = [entry for entry in box.seen() if entry["path"] == "/token"]
    assert len(asked) <= 4


def test_topics(box: Box, run: Run):
    """Devices subscribe, once and again, are listed page by page, and leave; topics and conditions are sent to."""
    fcm = box.service(FCM)
    for topic in ("a", "b", "c", "a"):
        run(fcm.subscribe("token:1-x", topic))
    assert list(fcm.list_topics("token:1-x", page_size=2)) == ["a", "b", "c"]
    run(fcm.unsubscribe("token:1-x", "b"))
    run(fcm.unsubscribe("token:1-x", "b"))
    assert list(fcm.list_topics("token:1-x")) == ["a", "c"]
    assert list(fcm.list_topics("nobody")) == []
    run(fcm.send_topic(Push(body="x"), "a"))
    run(fcm.send_topic(Push(body="x"), "'a' in topics && 'c' in topics"))
    sent = [one["message"] for one in box.state("fcm")["messages"]]
    assert [one.get("topic", one.get("condition")) for one in sent] == ["a", "'a' in topics && 'c' in topics"]


def test_validation_sends_nothing(box: Box, run: Run):
    """``validate_only`` and the health check have a message looked at."""
    fcm = box.service(FCM)
    assert run(fcm.send(Push(body="x"), "token-1", validate_only=True)).id.endswith("fake_message_id")
    assert run(fcm.check()) is True
    assert box.state("fcm")["messages"] == []


def test_another_projects_key(box: Box, run: Run):
    """A project that the account has no role in is PermissionDenied, and a key that Google does not know is refused."""
    with pytest.raises(errors.PermissionDenied):
        run(box.service(FCM, project_id="somebody-elses").check())
    forged = json.loads(sandbox_key(FCM, box.url))
    forged["private_key_id"] = forged["private_key_id"][:-8] + "AAAAAAA="
    with pytest.raises(errors.AuthenticationFailed) as caught:
        run(box.service(FCM, json.dumps(forged)).send(Push(body="x"), "token-1"))
    assert (caught.value.outcome, caught.value.code) == ("not_sent", "invalid_grant")
    assert forged["private_key"][40:80] not in str(caught.value)


def test_a_lost_answer_is_unknown(box: Box, run: Run):
    """FCM has no keys: a notification whose answer was lost is not sent again."""
    fcm = box.service(FCM)
    run(fcm.check())
    box.arm(service="fcm", kind="dropped", processed=True)
    with pytest.raises(errors.OutcomeUnknown):
        run(fcm.send(Push(body="x"), "token-1"))
    assert len(box.state("fcm")["messages"]) == 1


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda s: s.send(Push(body="x", ttl=2_419_201), "t"), "ttl"),
        (lambda s: s.send(Push(body="x" * 4096), "t"), "data"),
        (lambda s: s.send_topic(Push(body="x" * 2048), "t"), "data"),
        (lambda s: s.send(Push(data={"from": "x"}), "t"), "data"),
        (lambda s: s.send(Push(data={"google.x": "x"}), "t"), "data"),
        (lambda s: s.send(Push(body="x", android={"data": {"a": "x" * 4096}}), "t"), "android"),
        (lambda s: s.send(Push(body="x", android={"notification": {"body": "x" * 4096}}), "t"), "android"),
        (lambda s: s.send(Push(body="x", web={"data": {"a": "x" * 4096}}), "t"), "web"),
        (lambda s: s.send(Push(body="x", ios={"payload": {"a": "x" * 4096}}), "t"), "ios"),
        (lambda s: s.send_topic(Push(body="x", ios={"payload": {"a": "x" * 2048}}), "t"), "ios"),
        (lambda s: s.send(Push(body="x"), "t", data={"a": "x" * 4096}), "data"),
        (lambda s: s.send(Push(body="x"), "t", data={"google.x": "x"}), "data"),
        (lambda s: s.send(Push(body="x"), "t", data={"a": 1}), "data"),
        (lambda s: s.send(Push(body="x"), "t", apns={"payload": {"a": "x" * 4096}}), "ios"),
        (lambda s: s.send(Push(body="x"), ""), "target"),
        (lambda s: s.send_topic(Push(body="x"), "/topics/news"), "topic"),
        (lambda s: s.subscribe("t", "a b"), "topic"),
        (lambda s: s.send_many(Push(body="x"), []), "targets"),
        (lambda s: s.send_many(Push(body="x"), "token"), "targets"),
        (lambda s: s.list_topics("t", page_size=2001), "page_size"),
    ],
)
def test_limits_are_checked_before_sending(make: Callable[[FCM], Any], field: str):
    """By name, and nothing is sent."""
    recorder, fcm = recorded()
    with pytest.raises(errors.InvalidRequest, match=f"^{field}"):
        make(fcm)
    assert recorder.requests == []


def test_what_each_platform_gets_is_counted():
    """Data for one platform is instead of the message's, and the limit is of what one device gets."""
    recorder, fcm = recorded()
    own = {"data": {"a": "x" * 3000}}
    push = Push("Hi", "There", data={"b": "y" * 3000}, android=own, web=own, ios={"payload": {"a": "x" * 3000}})
    fcm.send(push, "t").result()
    fcm.send(Push("x" * 2000, "y" * 2000), "t", fcmOptions={"analyticsLabel": "a"}).result()
    assert len(recorder.requests) == 2


@pytest.mark.parametrize(
    ("body", "kind", "code"),
    [
        ({"code": 429, "status": "RESOURCE_EXHAUSTED"}, errors.RateLimited, "RESOURCE_EXHAUSTED"),
        ({"code": 404, "status": "NOT_FOUND", "message": "no project"}, errors.NotFound, "NOT_FOUND"),
        ({"code": 400, "status": "INVALID_ARGUMENT", "message": "payload"}, errors.InvalidRequest, "INVALID_ARGUMENT"),
        ({"code": 403, "status": "PERMISSION_DENIED"}, errors.PermissionDenied, "PERMISSION_DENIED"),
        ({"code": 500, "status": "INTERNAL"}, errors.ServiceUnavailable, "INTERNAL"),
    ],
)
def test_what_is_not_about_the_token(body: dict[str, Any], kind: type[errors.CallError], code: str):
    """A 404 of the project and a 400 of the payload prune nobody."""
    _recorder, fcm = recorded(json.dumps({"error": body}).encode(), body["code"])
    with pytest.raises(kind) as caught:
        fcm.send(Push(body="x"), "t").using(retry=None).result()
    assert caught.value.code == code


@pytest.mark.parametrize("make", CALLS)
def test_requests_fit_the_contract(contracts_dir: Path, make: Callable[[FCM], Any]):
    """Every request that we build is valid by fcm.json."""
    recorder, fcm = recorded(b'{"name": "projects/p/messages/1", "topicSubscriptions": []}')
    made = make(fcm)
    made.result()
    [request] = recorder.requests
    kind = request.headers.get("content-type", "application/json")
    path = request.url.raw_path.decode()
    assert Contract(contracts_dir, "fcm").request_problems(request.method, path, request.content, kind) == []


def test_answers_fit_the_contract(box: Box, contracts_dir: Path):
    """The stand-in's answers are valid by fcm.json."""
    contract, fcm = Contract(contracts_dir, "fcm"), box.service(FCM)
    path = "/v1/projects/moorline-sandbox/messages:send"
    sent = fcm.send(Push(body="x"), "t").result()
    assert contract.answer_problems("POST", path, 200, json.dumps(sent.raw).encode()) == []
    dead = fcm.send(Push(body="x"), "dead").response().result()
    assert contract.answer_problems("POST", path, dead.status, dead.body) == []


def test_it_survives_a_queue(box: Box):
    """A Call comes out of a queue as it went in."""
    fcm = box.service(FCM)
    call = fcm.send(FULL, "dead-1")
    again = Call.from_payload(json.loads(json.dumps(call.to_payload())), lambda name: fcm)
    assert again.result().dead
