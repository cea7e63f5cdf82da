from __future__ import annotations

import hashlib
import json
import logging
import traceback
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.contracts import Contract
from tests.services.conftest import Box
from tests.services.facts import FACTS
from tests.services.recorder import Recorder

from moorline import errors
from moorline.calls.call import Call
from moorline.calls.guards import Guards
from moorline.calls.story import watch
from moorline.policies.policy import Policy
from moorline.services.analytics.google_analytics import GoogleAnalytics, ValidationMessage
from moorline.services.analytics.protocol import Fact, PageView, ScreenView, Track

Run = Callable[[Any], Any]
SECRET = GoogleAnalytics.credentials.sandbox
AT = datetime.now(UTC) - timedelta(hours=1)
WHO: dict[str, Any] = {"user_id": "user-17", "anonymous_id": "123.456", "at": AT, "context": {"ip": "203.0.113.7"}}
ITEMS = [{"item_id": "a", "price": 2}]
TRACK = Track("Order Paid", {"value": 12.5, "trial": True, "items": ITEMS, "note": None}, **WHO)
PAGE = PageView("Prices", {"ref": "mail"}, "Shop", "https://shop.example/prices", **WHO)
SCREEN = ScreenView("Basket", {"count": 2}, "Shop", **WHO)
MOST: list[Fact] = [TRACK, PAGE, SCREEN]
CALLS: list[Callable[[GoogleAnalytics], Any]] = [
    lambda s: s.track(TRACK, session_id="1767225000"),
    lambda s: s.page(PAGE),
    lambda s: s.screen(SCREEN),
    lambda s: s.send_batch(MOST),
    lambda s: s.validate(MOST),
    lambda s: s.check(),
]
FINE = b'{"validationMessages":[]}'
ONCE = Policy(retry=None, breaker=None)


def test_each_kind_arrives(box: Box, run: Run):
    """Events arrive with Google's names, the time in microseconds, and who it is about once a request."""
    service = box.service(GoogleAnalytics)
    for make in CALLS[:3]:
        assert run(make(service)).taken == 1
    held = box.state("google_analytics")
    micros = int(AT.timestamp() * 1_000_000)
    assert held["dropped"] == []
    assert held["events"][0]["params"] == {
        "value": 12.5,
        "trial": "true",
        "items": ITEMS,
        "session_id": "1767225000",
    }
    assert abs(held["events"][0]["timestamp_micros"] - micros) <= 1
    assert held["events"][0]["request"] == {"client_id": "123.456", "user_id": "user-17", "ip_override": "203.0.113.7"}
    assert [one["name"] for one in held["events"]] == ["Order_Paid", "page_view", "screen_view"]
    assert held["events"][1]["params"] == {
        "page_title": "Prices",
        "page_location": "https://shop.example/prices",
        "page_category": "Shop",
        "ref": "mail",
    }
    assert held["events"][2]["params"]["screen_name"] == "Basket"
    assert run(service.send_batch(MOST)).taken == 3
    assert run(service.check()) is True


def test_the_validation_server_is_asked(box: Box, run: Run):
    """``validate`` gives what the validation server says; with ``validate=True`` everything goes there."""
    service = box.service(GoogleAnalytics)
    assert run(service.validate(MOST)) == ()
    testing = box.service(GoogleAnalytics, validate=True)
    for make in CALLS[:4]:
        assert run(make(testing)).taken >= 1
    held = box.state("google_analytics")
    assert (held["events"], held["validated"]) == ([], 5)
    assert {one["path"] for one in box.seen()} == {"/debug/mp/collect"}


def test_what_the_validation_server_says_is_an_error(run: Run):
    """In test mode a message of the validation server is a typed error; asked for, it is the result."""
    told = {
        "validationMessages": [
            {
                "fieldPath": "events",
                "description": "Event at index: [0] has invalid name",
                "validationCode": "NAME_INVALID",
            }
        ]
    }
    recorder = Recorder(content=json.dumps(told).encode())
    with pytest.raises(errors.InvalidRequest, match="invalid name") as caught:
        run(recorder.service(GoogleAnalytics, key=SECRET, validate=True).track(TRACK))
    assert (caught.value.code, caught.value.detail, caught.value.operation) == ("NAME_INVALID", told, "track")
    said = run(recorder.service(GoogleAnalytics, key=SECRET).validate([TRACK]))
    assert said == (ValidationMessage("NAME_INVALID", "Event at index: [0] has invalid name", "events"),)
    bodies = [json.loads(one.content) for one in recorder.requests]
    assert {one["validation_behavior"] for one in bodies} == {"ENFORCE_RECOMMENDATIONS"}


@pytest.mark.contracts
def test_requests_and_answers_keep_to_the_contract(contracts_dir: Path, box: Box):
    """What is sent, and what the stand-in's validation server answers, is as the contract describes it."""
    contract = Contract(contracts_dir, "google_analytics.schema")
    recorder = Recorder(content=FINE)
    service = recorder.service(GoogleAnalytics, key=SECRET)
    for make in CALLS:
        make(service).result()
    full = {"user_properties": {"plan": "pro", "seats": {"value": 5}}, "consent": {"ad_user_data": "DENIED"}}
    service.track(TRACK, email="ada@shop.example", user_location={"country_id": "DE"}, device={}, **full).result()
    for request in recorder.requests:
        assert contract.problems("", json.loads(request.content)) == []
        assert dict(request.url.params) == {"measurement_id": "G-SANDBOX123", "api_secret": SECRET}
    bad = [{"name": "_bad", "params": []}, {"name": "error", "params": {"a-b": 1, "ga_x": 1, "x": "x" * 101}}]
    for body in ({}, {"client_id": "1", "events": bad}, {"client_id": "1", "events": [{"name": "x"}] * 26}):
        answer = box.client.post("/google_analytics/debug/mp/collect", json=body).json()
        assert answer["validationMessages"]
        assert contract.problems("/$defs/validation_response", answer) == []


def test_an_application_stream():
    """With a Firebase id the stream is an application's, and the client an instance of it."""
    recorder = Recorder(204, b"")
    service = recorder.service(GoogleAnalytics, key=SECRET, firebase_app_id="1:1:web:sandbox", region="eu")
    with pytest.raises(errors.InvalidRequest, match="32 hexadecimal"):
        service.screen(SCREEN)
    service.screen(ScreenView("Basket", anonymous_id="0a" * 16)).result()
    request = recorder.requests[0]
    assert (request.url.host, request.url.params["firebase_app_id"]) == (
        "region1.google-analytics.com",
        "1:1:web:sandbox",
    )
    assert json.loads(request.content)["app_instance_id"] == "0a" * 16


def test_a_stream_is_needed(monkeypatch: pytest.MonkeyPatch):
    """Without a stream the error names both variables."""
    monkeypatch.delenv("GA4_MEASUREMENT_ID", raising=False)
    with pytest.raises(errors.ConfigurationError, match="GA4_MEASUREMENT_ID"):
        GoogleAnalytics(SECRET).track(TRACK)


@pytest.mark.parametrize(
    ("fact", "why"),
    [
        (Track("x", user_id="u"), "anonymous_id: is needed: it is Google's client_id"),
        (Track("session_start", anonymous_id="1.1"), "reserved by Google"),
        (Track("1st", anonymous_id="1.1"), "must begin with an ASCII letter"),
        (Track("x" * 41, anonymous_id="1.1"), "41 characters; the limit is 40"),
        (Track("x", {"ga_x": 1}, anonymous_id="1.1"), "prefix that is reserved"),
        (Track("x", {"_x": 1}, anonymous_id="1.1"), "prefix that is reserved"),
        (Track("x", {"ga-id": 1}, anonymous_id="1.1"), "properties.ga-id: begins with a prefix that is reserved"),
        (Track("x", {"google id": 1}, anonymous_id="1.1"), "prefix that is reserved"),
        (Track("x", {"gtag.x": 1}, anonymous_id="1.1"), "prefix that is reserved"),
        (Track("x", {"a-b": 1, "a.b": 2}, anonymous_id="1.1"), "is there twice"),
        (Track("x", {"x": "x" * 101}, anonymous_id="1.1"), "the limit is 100"),
        (Track("x", {"page_location": "x" * 1001}, anonymous_id="1.1"), "the limit is 1000"),
        (Track("x", {"x": [1]}, anonymous_id="1.1"), "text or a number"),
        (Track("x", {"items": ["a"]}, anonymous_id="1.1"), "list of objects"),
        (Track("x", {f"x{one}": 1 for one in range(26)}, anonymous_id="1.1"), "26 entries; the limit is 25"),
        (Track("x", anonymous_id="1.1", at=datetime.now(UTC) - timedelta(hours=73)), "72 hours"),
        (Track("x", anonymous_id="1.1", user_id="u" * 257), "the limit is 256"),
    ],
)
def test_limits_are_told_before_sending(fact: Any, why: str):
    """What Google would drop without a word raises alone, and is left out of a batch with the same reason."""
    service = Recorder(204, b"").service(GoogleAnalytics, key=SECRET)
    with pytest.raises(errors.InvalidRequest, match=why):
        service.weighed(fact)
    good = Track("x", anonymous_id="1.1", user_id=fact.user_id if fact.user_id == "u" else None)
    if fact.anonymous_id and fact.user_id is None:
        done = service.send_batch([good, fact]).result()
        assert (done.taken, done.refused[0].message_id) == (1, fact.message_id)


@pytest.mark.parametrize(
    ("extra", "why"),
    [
        ({"user_properties": {f"x{one}": 1 for one in range(26)}}, "the limit is 25"),
        ({"user_properties": {"x" * 25: 1}}, "the limit is 24"),
        ({"user_properties": {"x": "x" * 37}}, "the limit is 36"),
        ({"user_properties": {"google_x": 1}}, "reserved by Google"),
        ({"user_properties": {"firebase id": 1}}, "reserved by Google"),
        ({"user_properties": {"a b": 1, "a-b": 2}}, "user_properties.a-b: is there twice, as a_b"),
        ({"user_properties": []}, "must be an object"),
        ({"consent": {"ad_user_data": "granted"}}, "in capitals"),
        ({"consent": {"analytics": "GRANTED"}}, "ad_user_data and ad_personalization"),
        ({"email": "nobody"}, "no e-mail address"),
        ({"phone": "07700 900000"}, "E.164"),
        ({"params": []}, "must be an object"),
        ({"device": {"x": "x" * 10_000}}, "the limit is 10000"),
    ],
)
def test_limits_of_the_request(extra: dict[str, Any], why: str):
    """So does what stands beside the events."""
    with pytest.raises(errors.InvalidRequest, match=why):
        GoogleAnalytics(SECRET, measurement_id="G-1").track(TRACK, **extra)


def test_what_users_gave_of_themselves_is_hashed():
    """Address and number leave as SHA-256 of their normal form; the plain ones are nowhere in the request."""
    recorder = Recorder(204, b"")
    service = recorder.service(GoogleAnalytics, key=SECRET)
    service.track(TRACK, email=" Ada.Lovelace@GMail.com ", phone="+44 (7700) 900-000").result()
    body = recorder.requests[0].content.decode()
    assert json.loads(body)["user_data"] == {
        "sha256_email_address": [hashlib.sha256(b"adalovelace@gmail.com").hexdigest()],
        "sha256_phone_number": [hashlib.sha256(b"+447700900000").hexdigest()],
    }
    assert "ovelace" not in body
    with pytest.raises(errors.InvalidRequest, match="user_id: is needed"):
        service.track(Track("x", anonymous_id="1.1"), email="ada@shop.example")


def test_a_batch_is_of_one_browser(box: Box):
    """A request has one client, so ``batches`` divides; each browser waits in one of four queues."""
    service = box.service(GoogleAnalytics)
    facts: list[Fact] = [Track("x", anonymous_id=f"{number % 3}.1") for number in range(90)]
    with pytest.raises(errors.InvalidRequest, match="batches"):
        service.send_batch(facts[:2])
    with pytest.raises(errors.InvalidRequest, match="26 facts; the limit is 25"):
        service.send_batch(facts[:1] * 26)
    calls = service.batches(facts)
    assert sorted(len(one.args[0]) for one in calls) == [5, 5, 5, 25, 25, 25]
    assert sum(call.result().taken for call in calls) == 90
    assert len(box.state("google_analytics")["events"]) == 90
    lines = {service.lane(one): service.line(service.lane(one)) for one in facts}
    assert (len(lines), set(lines.values()) <= {"0", "1", "2", "3"}) == (3, True)
    assert service.line_limits("0").most == 16


def test_properties_for_google_alone():
    """A fact that goes to several vendors has other parameters, properties and consent for Google."""
    own = {"params": {"value": 1}, "consent": {"ad_user_data": "GRANTED"}, "user_properties": {"plan": "pro"}}
    fact = Track("x", {"nested": {"a": 1}}, anonymous_id="1.1", vendors={"google_analytics": own})
    recorder = Recorder(204, b"")
    recorder.service(GoogleAnalytics, key=SECRET).send_batch([fact]).result()
    body = json.loads(recorder.requests[0].content)
    assert (body["events"][0]["params"], body["consent"]) == ({"value": 1}, {"ad_user_data": "GRANTED"})
    assert body["user_properties"] == {"plan": {"value": "pro"}}


def test_what_google_lacks_is_told():
    """Google has no identify, group and alias; in a batch they are left out, with the reason."""
    service = Recorder(204, b"").service(GoogleAnalytics, key=SECRET)
    for name in ("identify", "group", "alias"):
        with pytest.raises(AttributeError, match="GoogleAnalytics has no"):
            getattr(service, name)
    done = service.send_batch([TRACK, FACTS[1], FACTS[4], FACTS[5]]).result()
    assert (done.taken, [one.kind for one in done.refused]) == (1, ["identify", "group", "alias"])


def test_the_secret_is_shown_nowhere(caplog: pytest.LogCaptureFixture):
    """The secret is in the address of each attempt, and in no log, step, error, plan, payload or repr."""
    caplog.set_level(logging.DEBUG)
    shown: list[str] = []

    def broken(request: httpx2.Request) -> httpx2.Response:
        assert request.url.params["api_secret"] == SECRET
        raise httpx2.ConnectError(f"no route to {request.url}", request=request)

    stop = watch(lambda step: shown.append(json.dumps(step.to_dict(), default=str)))
    try:
        service = GoogleAnalytics(
            SECRET, measurement_id="G-1", wire=httpx2.MockTransport(broken), guards=Guards(), policy=ONCE
        )
        call = service.track(TRACK)
        with pytest.raises(errors.ConnectFailed) as caught:
            call.result()
    finally:
        stop()
    error = caught.value
    shown += [str(error), repr(error), repr(error.attempts), repr(call), repr(call.plan)]
    shown += [str(call.plan.query), json.dumps(call.to_payload()), repr(service), caplog.text]
    shown += [json.dumps(error.detail, default=str), call.explain()]
    assert len(shown) > 10
    assert not [one for one in shown if SECRET in one]


@pytest.mark.parametrize("wire", ["httpx2", "pyreqwest", "aiohttp"])
def test_no_wire_tells_the_address(wire: str, run: Run):
    """The traceback of a connection that failed, causes included, has no secret, whichever library speaks HTTP."""
    service = GoogleAnalytics(
        SECRET, measurement_id="G-1", base_url="http://127.0.0.1:9", wire=wire, guards=Guards(), policy=ONCE
    )
    with pytest.raises(errors.ConnectFailed) as caught:
        run(service.track(TRACK))
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_a_lost_answer_is_not_sent_again(box: Box, run: Run):
    """Google would count it twice, so nobody knows, and the error says so; unless twice is better than never."""
    box.arm(kind="dropped", service="google_analytics")
    with pytest.raises(errors.OutcomeUnknown):
        run(box.service(GoogleAnalytics).track(TRACK))
    box.arm(kind="dropped", service="google_analytics")
    assert run(box.service(GoogleAnalytics, at_least_once=True).track(TRACK)).taken == 1


def test_a_replay_is_the_same(box: Box):
    """A Call that went through a queue sends the same bytes, without the secret in its payload."""
    service = box.service(GoogleAnalytics)
    call = service.send_batch(MOST)
    payload = json.dumps(call.to_payload())
    assert SECRET not in payload
    assert Call.from_payload(json.loads(payload), lambda _: service).plan.content == call.plan.content


def test_the_stand_in_answers_as_google(box: Box):
    """The stand-in answers 204 to a wrong secret and to nonsense, keeps neither, and knows a purchase twice."""
    url = f"/google_analytics/mp/collect?measurement_id=G-SANDBOX123&api_secret={SECRET}"
    bought = {"client_id": "1.1", "events": [{"name": "purchase", "params": {"transaction_id": "T1"}}]}
    for body in (bought, bought):
        assert box.client.post(url, json=body).status_code == 204
    assert (
        box.client.post(
            "/google_analytics/mp/collect?measurement_id=G-SANDBOX123&api_secret=x", json=bought
        ).status_code
        == 204
    )
    assert box.client.post(url, content=b"{").status_code == 204
    old = {"client_id": "1.1", "events": [{"name": "x", "timestamp_micros": 1767225600}]}
    assert box.client.post(url, json=old).status_code == 204
    held = box.state("google_analytics")
    assert (len(held["events"]), held["duplicates"], len(held["dropped"])) == (1, 1, 3)
    assert "no stream" in held["dropped"][0]
    wrong = {
        "client_id": "1.1",
        "user_properties": {"x" * 25: {"value": "x"}, "y": 1},
        "consent": {"ad_user_data": "granted"},
        "user_data": {"sha256_email_address": ["ada@shop.example"]},
        "events": [{"name": "x", "params": {f"p{one}": True for one in range(26)}, "timestamp_micros": "soon"}],
    }
    told = box.client.post("/google_analytics/debug/mp/collect", json=wrong).json()["validationMessages"]
    assert len(told) == 4 + 1 + 1 + 26
    assert box.client.post("/google_analytics/mp/other").status_code == 404
    assert box.client.get("/google_analytics/mp/collect").status_code == 405
