from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.contracts import Contract
from tests.services.conftest import Box
from tests.services.recorder import Recorder

from moorline import errors
from moorline.calls.call import Call
from moorline.services.push.onesignal import OneSignal
from moorline.services.push.protocol import Push

Run = Callable[[Any], Any]
LATER = datetime.now(UTC) + timedelta(hours=1)
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
    android={"android_group": "orders"},
    ios={"ios_category": "order"},
)
CALLS: list[Callable[[OneSignal], Any]] = [
    lambda s: s.send(FULL, "sub-1"),
    lambda s: s.send_some(FULL, ["sub-1", "dead-2"]),
    lambda s: s.send_users(FULL, ["u-17"]),
    lambda s: s.send_topic(FULL, "Subscribed Users"),
    lambda s: s.get_notification("b15ba6e5-2223-49d6-9eda-684b9051f5a8"),
    lambda s: s.cancel_notification("b15ba6e5-2223-49d6-9eda-684b9051f5a8"),
    lambda s: s.check(),
    lambda s: s.mint_key("moorline"),
    lambda s: s.find_keys("moorline"),
    lambda s: s.revoke_key("abc"),
]
SENT = b'{"id": "b15ba6e5-2223-49d6-9eda-684b9051f5a8"}'


def test_send(box: Box, run: Run):
    """A notification arrives as it was meant."""
    sent = run(box.service(OneSignal).send(FULL, "sub-1"))
    held = box.state("onesignal")["notifications"][sent.id]
    assert (sent.ok, sent.target) == (True, "sub-1")
    wanted = {
        "contents": {"en": "Order 17"},
        "headings": {"en": "Versandt ⚓"},
        "priority": 10,
        "ttl": 600,
        "collapse_id": "order",
        "ios_badgeType": "SetTo",
        "ios_badgeCount": 3,
        "android_group": "orders",
        "ios_category": "order",
        "include_subscription_ids": ["sub-1"],
    }
    assert wanted.items() <= held.items()


def test_silent_ones(box: Box, run: Run):
    """Data alone wakes the application and shows nothing; a title alone is what is shown."""
    onesignal = box.service(OneSignal)
    silent = run(onesignal.send(Push(data={"sync": "1"}), "sub-1"))
    titled = run(onesignal.send(Push(title="Hello"), "sub-1"))
    held = box.state("onesignal")["notifications"]
    assert held[silent.id]["content_available"] is True
    assert "contents" not in held[silent.id]
    assert held[titled.id]["contents"] == {"en": "Hello"}


def test_dead_ones_are_results(box: Box, run: Run):
    """A subscription that is gone is told from those that got it, whether it was alone or among others."""
    onesignal = box.service(OneSignal)
    assert run(onesignal.send(FULL, "dead-1")).dead
    found = run(onesignal.send_some(FULL, ["sub-1", "dead-2", "sub-3"]))
    assert [(one.target, one.ok, one.dead) for one in found] == [
        ("sub-1", True, False),
        ("dead-2", False, True),
        ("sub-3", True, False),
    ]
    users = run(onesignal.send_users(FULL, ["u-17", "dead-18"]))
    assert [one.dead for one in users] == [False, True]


@pytest.mark.parametrize(
    ("aliases", "expected"),
    [(["u-1", "u-2"], [("u-1", True, None), ("u-2", True, None)]), (["u-2"], [("u-1", False, "nothing_sent"), ("u-2", True, None)])],
)  # fmt: skip
def test_nothing_sent_to_those_that_are_named(aliases: list[str], expected: list[Any]):
    """Where all that could be reached are gone, those that the answer names are dead, and the others were not reached."""
    recorder = Recorder(200, json.dumps({"id": "", "errors": {"invalid_aliases": {"external_id": aliases}}}).encode())
    found = recorder.service(OneSignal).send_users(FULL, ["u-1", "u-2"]).result()
    assert [(one.target, one.dead, one.error and one.error.code) for one in found] == expected
    for one in found:
        assert not one.ok
        assert one.error is None or (one.error.service, one.error.operation) == ("onesignal", "send_users")


def test_many(box: Box, run: Run):
    """Two thousand go with each request; the report has one result for each, in their order."""
    targets = [f"{'dead' if number % 1000 == 0 else 'sub'}-{number}" for number in range(4001)]
    report = run(box.service(OneSignal).send_many(Push(body="x"), targets))
    assert [one.target for one in report.results] == targets
    assert (report.sent, len(report.dead), report.failed) == (3996, 5, ())
    assert len([entry for entry in box.seen() if entry["method"] == "POST"]) == 3


def test_one_part_that_fails(box: Box, run: Run, impatient: Any):
    """The failure of one request is that of its targets alone."""
    box.arm(kind="status", status=500)
    report = run(box.service(OneSignal, policy=impatient).send_many(Push(body="x"), [f"s{n}" for n in range(2500)]))
    assert {report.sent, len(report.failed)} == {2000, 500}


def test_a_lost_answer_is_asked_again(box: Box, run: Run):
    """The key makes the repetition safe: the first result comes back, and nothing is sent twice."""
    box.arm(kind="dropped", processed=True)
    sent = run(box.service(OneSignal).send(FULL, "sub-1"))
    assert list(box.state("onesignal")["notifications"]) == [sent.id]


def test_keys():
    """They are UUIDs in the body; another text is refused before it is sent."""
    recorder = Recorder(200, SENT)
    call = recorder.service(OneSignal).send(FULL, "sub-1")
    call.result()
    assert json.loads(recorder.requests[0].content)["idempotency_key"] == call.idempotency_key
    assert "idempotency-key" not in recorder.requests[0].headers
    with pytest.raises(errors.ConfigurationError, match="idempotency_key"):
        call.using(idempotency_key="order-17")


def test_later(box: Box, run: Run):
    """What is not sent yet can be looked at and called off; what was sent cannot."""
    onesignal = box.service(OneSignal)
    sent = run(onesignal.send(FULL, "sub-1", send_at=LATER))
    assert run(onesignal.get_notification(sent.id))["canceled"] is False
    assert run(onesignal.cancel_notification(sent.id)) is True
    assert run(onesignal.get_notification(sent.id))["canceled"] is True
    with pytest.raises(errors.InvalidRequest):
        run(onesignal.cancel_notification(run(onesignal.send(FULL, "sub-1")).id))
    with pytest.raises(errors.NotFound):
        run(onesignal.get_notification("b15ba6e5-2223-49d6-9eda-684b9051f5a8"))


def test_typed_errors(box: Box, run: Run):
    """A wrong key, one of the organization, and a field that is refused."""
    with pytest.raises(errors.AuthenticationFailed):
        run(box.service(OneSignal, "os_v2_app_other").check())
    with pytest.raises(errors.PermissionDenied):
        run(box.service(OneSignal, "os_v2_org_x").check())
    with pytest.raises(errors.InvalidRequest, match="target_channel"):
        run(box.service(OneSignal).send_users(FULL, ["u"], target_channel="pigeon"))
    assert run(box.service(OneSignal).check()) is True


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ((200, {"id": "", "errors": ["Invalid app"]}), errors.InvalidRequest),
        ((200, {"id": "", "errors": {"invalid_player_ids": ["another"]}}), errors.InvalidRequest),
        ((200, {"id": "", "errors": {"app": "gone"}}), errors.InvalidRequest),
        ((200, {"id": ""}), errors.InvalidRequest),
        ((400, {"errors": ["bad"]}), errors.InvalidRequest),
        ((400, {"errors": [{}]}), errors.InvalidRequest),
        ((409, {"errors": [{"code": "user-3", "title": "conflict"}]}), errors.Conflict),
        ((429, {"errors": ["API rate limit exceeded."], "limit": "1"}), errors.RateLimited),
        ((200, {"errors": {}}), errors.BadAnswer),
    ],
)
def test_every_documented_error(answer: tuple[int, Any], kind: type[errors.CallError]):
    """Whatever shape ``errors`` has, and with 200 too."""
    recorder = Recorder(answer[0], json.dumps(answer[1]).encode())
    with pytest.raises(kind):
        recorder.service(OneSignal).send(FULL, "sub-1").using(retry=None).result()


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda s: s.send(Push(data={"a": "x" * 2048}), "s"), "data"),
        (lambda s: s.send(Push(body="x", collapse_key="x" * 65), "s"), "collapse_key"),
        (lambda s: s.send(Push(body="x"), ""), "target"),
        (lambda s: s.send(Push(body="x"), "s", send_at=datetime(2030, 1, 1)), "send_at"),  # noqa: DTZ001
        (lambda s: s.send_some(Push(body="x"), [str(n) for n in range(2001)]), "targets"),
        (lambda s: s.send_users(Push(body="x"), [str(n) for n in range(2001)]), "users"),
        (lambda s: s.send_many(Push(body="x"), []), "targets"),
        (lambda s: s.send_topic(Push(body="x"), ""), "topic"),
    ],
)
def test_limits_are_checked_before_sending(make: Callable[[OneSignal], Any], field: str):
    """By name, and nothing is sent."""
    recorder = Recorder()
    with pytest.raises(errors.InvalidRequest, match=f"^{field}"):
        make(recorder.service(OneSignal))
    assert recorder.requests == []


@pytest.mark.parametrize("make", CALLS[:4])
def test_requests_fit_the_contract(contracts_dir: Path, make: Callable[[OneSignal], Any]):
    """Every request that we build is valid by onesignal.json."""
    recorder = Recorder(200, SENT)
    make(recorder.service(OneSignal)).result()
    [request] = recorder.requests
    kind = request.headers["content-type"]
    assert request.headers["authorization"].startswith("Key ")
    assert Contract(contracts_dir, "onesignal").request_problems("POST", "/notifications", request.content, kind) == []


def test_answers_fit_the_contract(box: Box, contracts_dir: Path):
    """The stand-in's answers are valid by onesignal.json."""
    contract, onesignal = Contract(contracts_dir, "onesignal"), box.service(OneSignal)
    sent = onesignal.send_some(FULL, ["a", "dead-b"]).result()
    path = f"/notifications/{sent[0].id}"
    for method, where, data in [
        ("POST", "/notifications", sent[0].raw),
        ("GET", path, onesignal.get_notification(sent[0].id or "").result()),
        (
            "GET",
            "/notifications",
            onesignal.request("GET", "/notifications", query={"app_id": onesignal.app_id}).result(),
        ),
    ]:
        assert contract.answer_problems(method, where, 200, json.dumps(data).encode()) == []


def test_it_survives_a_queue(box: Box):
    """A Call comes out of a queue as it went in, with its key."""
    service = box.service(OneSignal)
    call = service.send(FULL, "sub-1", send_at=LATER)
    again = Call.from_payload(json.loads(json.dumps(call.to_payload())), lambda name: service)
    assert again.result().id == call.result().id
