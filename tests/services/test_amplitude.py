from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import amplitude
import httpx2
import pytest
from tests.contracts import Contract
from tests.services.conftest import Box
from tests.services.facts import ALIAS, AT, EACH, GROUP, IDENTIFY, PAGE, SCREEN, TRACK
from tests.services.recorder import Recorder

from moorline import errors
from moorline.calls.call import Call
from moorline.policies.policy import Policy
from moorline.services.analytics.amplitude import Amplitude
from moorline.services.analytics.protocol import Fact, GroupCall, Identify, Track

Run = Callable[[Any], Any]
KEY = Amplitude.credentials.sandbox
MOST: list[Fact] = [TRACK, IDENTIFY, PAGE, SCREEN, GROUP]
CALLS: list[Callable[[Amplitude], Any]] = [*EACH[:5], lambda s: s.send_batch(MOST), lambda s: s.check()]
OK = b'{"code":200,"events_ingested":1,"payload_size_bytes":170,"server_upload_time":1767225600123}'
ONCE = Policy(retry=None, breaker=None)


def test_each_kind_arrives(box: Box, run: Run):
    """Each kind arrives as the event that Amplitude has for it, with its own id and time."""
    service = box.service(Amplitude)
    for make in EACH[:5]:
        assert run(make(service)).taken == 1
    held = box.state("amplitude")["events"]
    kinds = ["Order Paid", "$identify", "Page Viewed", "Screen Viewed", "$identify", "$groupidentify"]
    assert [one["event_type"] for one in held] == kinds
    assert held[0] == {
        "user_id": "user-17",
        "device_id": "123456.7654321",
        "time": 1767268800000,
        "insert_id": TRACK.message_id,
        "ip": "203.0.113.7",
        "event_type": "Order Paid",
        "event_properties": {"value": 12.5, "items": ["a", "b"]},
    }
    assert held[2]["event_properties"]["url"] == "https://shop.example/prices"
    assert (held[4]["groups"], held[5]["group_properties"]) == ({"company": "acme"}, {"$set": {"seats": 5}})
    assert run(service.check()) is True
    assert run(service.send_batch(MOST)).taken == 5
    assert run(service.send_batch(MOST, bulk=True)).taken == 5
    assert box.state("amplitude")["duplicates"] == 12
    assert [one["path"] for one in box.seen()[-2:]] == ["/2/httpapi", "/batch"]


def test_a_wrong_key_is_told(box: Box, run: Run):
    """Amplitude says 400 to a key of nobody; it is the credential's fault all the same, and is shown nowhere."""
    service = box.service(Amplitude, "nobodys-key-0123456789")
    for call in (service.track(TRACK), service.check()):
        with pytest.raises(errors.AuthenticationFailed) as caught:
            run(call)
        assert caught.value.code == "invalid_api_key"
        assert "nobodys-key" not in str(caught.value) + repr(caught.value.detail)


def test_alias_is_lacking():
    """Amplitude has no alias, and says why; one in a batch is left out and told."""
    service = Recorder(content=OK).service(Amplitude)
    with pytest.raises(AttributeError, match="joins a device and a user by itself"):
        _ = service.alias
    done = service.send_batch([TRACK, ALIAS]).result()
    assert (done.taken, done.refused[0].kind, done.refused[0].field) == (1, "alias", "kind")


def test_the_official_library_says_the_same(box: Box):
    """The official library is taken by the stand-in, and its events have our fields with our values."""
    seen: list[tuple[int, dict[str, Any]]] = []

    def told(event: Any, code: int, message: str | None = None) -> None:
        seen.append((code, event.get_event_body()))

    config = amplitude.Config(server_url=f"{box.url}/amplitude/2/httpapi", callback=told, flush_queue_size=1)
    client = amplitude.Amplitude(KEY, config)

    def options(fact: Fact) -> Any:
        return amplitude.EventOptions(
            user_id="user-17",
            device_id="123456.7654321",
            time=int(AT.timestamp() * 1000),
            insert_id=fact.message_id,
            ip="203.0.113.7",
        )

    event = amplitude.BaseEvent("Order Paid", event_properties={"value": 12.5, "items": ["a", "b"]})
    event.load_event_options(options(TRACK))
    client.track(event)
    known = amplitude.Identify()
    known.set("plan", "pro").set("email", "ada@shop.example")
    client.identify(known, options(IDENTIFY))
    client.set_group("company", "acme", options(GROUP))
    traits = amplitude.Identify()
    traits.set("seats", 5)
    client.group_identify("company", "acme", traits, options(GROUP))
    client.flush()
    client.shutdown()
    assert sorted(code for code, _ in seen) == [200] * 4
    service = Amplitude(KEY)
    ours = [one for fact in (TRACK, IDENTIFY, GROUP) for one in service.items(fact, {})]
    ours[-1]["insert_id"] = GROUP.message_id  # which the library does not tell apart, so that one of them is ignored
    theirs = [{name: one for name, one in body.items() if name != "library"} for _, body in seen]
    assert sorted(json.dumps(one, sort_keys=True) for one in theirs) == sorted(
        json.dumps(one, sort_keys=True) for one in ours
    )


@pytest.mark.contracts
def test_requests_and_answers_keep_to_the_contract(contracts_dir: Path, box: Box):
    """What is sent, and what the stand-in answers, is as the contract describes it."""
    contract = Contract(contracts_dir, "amplitude.schema")
    recorder = Recorder(content=OK)
    service = recorder.service(Amplitude, key=KEY)
    for make in CALLS[:6]:
        make(service).result()
    recorder.service(Amplitude, key=KEY, min_id_length="2").track(Track("x", user_id="42")).result()
    for request in recorder.requests:
        body = json.loads(request.content)
        assert contract.problems("", body) == []
        assert body["api_key"] == KEY
        assert KEY not in str(request.headers) + str(request.url)
    assert json.loads(recorder.requests[-1].content)["options"] == {"min_id_length": 2}

    def answered(**body: Any) -> httpx2.Response:
        return box.client.post("/amplitude/2/httpapi", json=body)

    good = {"user_id": "user-17", "event_type": "x"}
    done = answered(api_key=KEY, events=[good])
    assert contract.problems("/$defs/response_200", done.json()) == []
    refusals: list[list[dict[str, Any]]] = [
        [],
        [{}],
        [{**good, "time": "now"}],
        [{**good, "user_id": "throttled-1"}],
        [good] * 2001,
    ]
    for events in refusals:
        refused = answered(api_key=KEY, events=events)
        assert refused.status_code in (400, 413, 429)
        assert contract.problems("/$defs/response_error", refused.json()) == []


def test_europe():
    """A project of the EU has the EU's host."""
    recorder = Recorder(content=OK)
    recorder.service(Amplitude, region="eu").track(TRACK).result()
    assert str(recorder.requests[0].url) == "https://api.eu.amplitude.com/2/httpapi"


@pytest.mark.parametrize(
    ("fact", "why"),
    [
        (Track("x", user_id="42"), "fewer than 5"),
        (Track("x", user_id="user-17", anonymous_id="d-1"), "anonymous_id: has 3 characters"),
        (Track("x", user_id="Anonymous"), "means nobody"),
        (Track("x", {"text": "x" * 1025}, user_id="user-17"), "event_properties.text: has 1025"),
        (Track("x", {"list": ["x" * 1025]}, user_id="user-17"), "the limit is 1024"),
        (Track("[Amplitude] Page Viewed", user_id="user-17"), "Amplitude's own"),
        (Identify({"$add": {"a": 1}, "b": 2}, user_id="user-17"), "mix '\\$add'"),
        (Track("x", {str(one): "x" * 1000 for one in range(1000)}, user_id="user-17"), "the limit is 999000"),
        (
            Track("x", user_id="user-17", vendors={"amplitude": {"groups": {str(one): "g" for one in range(6)}}}),
            "6 kinds of groups; the limit is 5",
        ),
    ],
)
def test_limits_are_told_before_sending(fact: Any, why: str):
    """What Amplitude refuses or quietly takes off raises alone, and is left out of a batch with the same reason."""
    service = Recorder(content=OK).service(Amplitude)
    with pytest.raises(errors.InvalidRequest, match=why):
        service.weighed(fact)
    done = service.send_batch([TRACK, fact]).result()
    assert (done.taken, done.refused[0].message_id) == (1, fact.message_id)


def test_a_batch_is_bounded(box: Box):
    """Fewer than 2,000 events and 1 MB go to HTTP V2, more to the Batch endpoint."""
    service = box.service(Amplitude)
    facts = [Track("x", user_id="user-17", message_id=str(number)) for number in range(2000)]
    with pytest.raises(errors.InvalidRequest, match="2000 facts; the limit is 1999"):
        service.send_batch(facts)
    assert service.send_batch(facts, bulk=True).result().taken == 2000
    groups = [GroupCall("g", {"a": 1}, user_id="user-17") for _ in range(1001)]
    with pytest.raises(errors.InvalidRequest, match="2002 events"):
        service.send_batch(groups, bulk=True)
    assert [len(one.args[0]) for one in service.batches(groups)] == [999, 2]


def test_a_refused_batch_names_the_events(box: Box, run: Run):
    """Amplitude refuses a batch as a whole, and the error has the places of those to blame."""
    service = box.service(Amplitude, policy=ONCE)
    silenced = Track("x", user_id="silenced-1")
    with pytest.raises(errors.InvalidRequest) as caught:
        run(service.send_batch([TRACK, silenced]))
    assert (caught.value.code, caught.value.detail["silenced_events"]) == ("silenced", [1])
    with pytest.raises(errors.InvalidRequest) as caught:
        run(service.track(TRACK, time="now"))
    assert (caught.value.code, caught.value.detail["events_with_invalid_fields"]) == ("invalid_fields", {"time": [0]})
    assert box.state("amplitude")["events"] == []


def refusal(status: int, facts: list[Fact], **answer: Any) -> tuple[Amplitude, errors.CallError]:
    """A service, and its error for a batch of *facts* that is answered so."""
    content = json.dumps({"code": status, "error": "no", **answer}).encode()
    service = Recorder(status, content).service(Amplitude, policy=ONCE)
    with pytest.raises(errors.CallError) as caught:
        service.send_batch(facts).result()
    return service, caught.value


@pytest.mark.parametrize(
    ("status", "answer", "blamed"),
    [
        (400, {"events_with_missing_fields": {"event_type": [1]}}, {1: math.inf}),
        (400, {"events_with_invalid_fields": {"time": [0], "ip": [4, 99]}}, {0: math.inf, 4: math.inf}),
        (400, {"events_with_invalid_id_lengths": {"user_id": [3]}}, {3: math.inf}),
        (400, {"silenced_events": [2]}, {3: math.inf}),
        (400, {"silenced_devices": ["device-4"]}, {4: math.inf}),
        (429, {"throttled_users": {"user-18": 31}, "throttled_events": [1]}, {1: 30.0}),
        (429, {"throttled_devices": {"device-4": 31}}, {4: 30.0}),
        (
            429,
            {"exceeded_daily_quota_users": {"user-18": 500_001}, "throttled_events": [0, 1]},
            {0: 30.0, 1: math.inf},
        ),
        (429, {"exceeded_daily_quota_devices": {"device-4": 500_001}}, {4: math.inf}),
        (429, {}, {}),
        (400, {"missing_field": "events", "silenced_events": "all", "events_with_invalid_fields": [None]}, {}),
        (500, {}, {}),
    ],
)
def test_an_error_blames_facts(status: int, answer: dict[str, Any], blamed: dict[int, float]):
    """By places of events, of which a fact may have none or two, and by ids; for a while, or for good."""
    other = Track("x", user_id="user-18")
    facts: list[Fact] = [TRACK, other, ALIAS, GROUP, Track("x", anonymous_id="device-4")]
    service, error = refusal(status, facts, **answer)
    assert service.blamed(facts, error) == blamed


def test_limits_of_users(box: Box, run: Run):
    """Too many events of a user in a second are a rate limit; in a day, a limit for which nobody waits."""
    service = box.service(Amplitude, policy=ONCE)
    with pytest.raises(errors.RateLimited) as caught:
        run(service.track(Track("x", user_id="throttled-1")))
    assert (caught.value.code, caught.value.retryable) == ("throttled", True)
    with pytest.raises(errors.LimitFault) as spent:
        run(service.track(Track("x", user_id="quota-1")))
    assert (spent.value.code, isinstance(spent.value, errors.RateLimited)) == ("daily_quota", False)


def test_a_lost_answer_counts_once(box: Box, run: Run):
    """A repeat has the same ``insert_id`` and device, and so has a replay from a queue."""
    box.arm(kind="dropped", service="amplitude")
    service = box.service(Amplitude)
    call = service.send_batch(MOST)
    assert run(call).taken == 5
    payload = json.dumps(call.to_payload())
    assert KEY not in payload
    again = Call.from_payload(json.loads(payload), lambda _: service)
    assert again.result().taken == 5
    held = box.state("amplitude")
    assert (len(held["events"]), held["duplicates"]) == (6, 6)


def test_operations_on_properties():
    """Operations go as they are, and the vendor's own fields with the event."""
    service = Amplitude(KEY)
    fact = Identify({"$add": {"orders": 1}, "$unset": {"a": "-"}}, user_id="user-17")
    assert service.items(fact, {"session_id": -1})[0]["user_properties"] == dict(fact.traits)
    assert service.items(fact, {"session_id": -1})[0]["session_id"] == -1
    assert len(service.items(GroupCall("acme", user_id="user-17"), {})) == 1


def test_the_stand_in_answers_as_amplitude(box: Box):
    """The stand-in names a missing key, no events, short ids, and what is malformed."""

    def told(content: Any, path: str = "2/httpapi") -> Any:
        return box.client.post(f"/amplitude/{path}", content=json.dumps(content)).json()

    assert told({})["missing_field"] == "api_key"
    assert told({"api_key": KEY})["missing_field"] == "events"
    assert told([])["code"] == 400
    assert told({"api_key": KEY, "events": [1]})["code"] == 400
    event = {"user_id": "42", "event_type": "x"}
    assert told({"api_key": KEY, "events": [event]})["events_with_invalid_id_lengths"] == {"user_id": [0]}
    assert told({"api_key": KEY, "events": [event], "options": {"min_id_length": 1}})["events_ingested"] == 1
    wrong = {
        "event_type": "x",
        "user_id": "unknown",
        "groups": {str(one): 1 for one in range(6)},
        "country": "x" * 1025,
    }
    fields = told({"api_key": KEY, "events": [wrong]})["events_with_invalid_fields"]
    assert fields == {"groups": [0], "country": [0], "user_id": [0]}
    assert box.client.post("/amplitude/2/httpapi", content=b"{").status_code == 400
    assert box.client.get("/amplitude/batch").status_code == 404
    large = {"api_key": KEY, "events": [{**event, "event_properties": {"x": "x" * 1_100_000}}]}
    assert told(large)["code"] == 413
