from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import mixpanel
import pytest
from mixpanel.credentials import ServiceAccountCredentials
from tests.contracts import Contract
from tests.services.conftest import Box
from tests.services.facts import AT, EACH, FACTS, GROUP, IDENTIFY, PAGE, SCREEN, TRACK
from tests.services.recorder import Recorder

from moorline import errors
from moorline.calls.call import Call
from moorline.services.analytics.mixpanel import Mixpanel
from moorline.services.analytics.protocol import Alias, Fact, GroupCall, Identify, Track

Run = Callable[[Any], Any]
TOKEN = Mixpanel.credentials.sandbox
EVENTS: list[Fact] = [TRACK, PAGE, SCREEN]
ACCOUNT: dict[str, Any] = {
    "service_account": "sandbox.service",
    "project_id": "12345",
    "project_token": TOKEN,
}
CALLS: list[Callable[[Mixpanel], Any]] = [*EACH, lambda s: s.send_batch(EVENTS), lambda s: s.check()]
OK = b'{"code":200,"num_records_imported":1,"status":"OK"}'
TAKEN = b'{"status":1,"error":null}'


def body_of(request: httpx2.Request) -> Any:
    """The JSON of a request, compressed or not."""
    zipped = request.headers.get("content-encoding") == "gzip"
    return json.loads(gzip.decompress(request.content) if zipped else request.content)


def test_each_kind_arrives(box: Box, run: Run):
    """Events are imported, profiles and groups set, ids joined."""
    service = box.service(Mixpanel)
    for make in EACH:
        assert run(make(service)).taken == 1
    held = box.state("mixpanel")
    assert [one["event"] for one in held["events"]] == ["Order Paid", "Page Viewed", "Screen Viewed", "$create_alias"]
    assert held["events"][0]["properties"] == {
        "ip": "203.0.113.7",
        "value": 12.5,
        "items": ["a", "b"],
        "$device_id": "123456.7654321",
        "$user_id": "user-17",
        "time": 1767268800000,
        "$insert_id": TRACK.message_id,
        "distinct_id": "user-17",
    }
    assert held["profiles"] == {"user-17": {"plan": "pro", "$email": "ada@shop.example"}}
    assert held["groups"] == {"company/acme": {"seats": 5}}
    assert held["dropped"] == []
    assert run(service.check()) is True
    assert len(box.state("mixpanel")["events"]) == 4


@pytest.mark.parametrize("options", [{}, {"service_account": "sandbox.service", "project_id": "12345"}])
def test_a_wrong_key_is_told(box: Box, run: Run, options: dict[str, str]):
    """A token or secret of nobody is the credential's fault, at an event and at the health check."""
    service = box.service(Mixpanel, "nobodys-key-0123456789", **options)
    for call in (service.track(TRACK), service.check()):
        with pytest.raises(errors.AuthenticationFailed):
            run(call)


def test_a_service_account(box: Box, monkeypatch: pytest.MonkeyPatch):
    """A service account imports with its secret and the project's id; records carry the token."""
    service = box.service(Mixpanel, "sandbox-secret-0123", **ACCOUNT)
    for make in EACH:
        assert make(service).result().taken == 1
    assert service.check().result() is True
    monkeypatch.setenv("MIXPANEL_SERVICE_ACCOUNT_SECRET", "sandbox-secret-0123")
    for name, value in ACCOUNT.items():
        monkeypatch.setenv(f"MIXPANEL_{name.upper()}", value)
    assert Mixpanel(base_url=f"{box.url}/mixpanel").track(TRACK).result().taken == 1
    for name in ("project_id", "project_token"):
        monkeypatch.delenv(f"MIXPANEL_{name.upper()}")
        with pytest.raises(errors.ConfigurationError, match=name):
            Mixpanel().send_batch([TRACK] if name == "project_id" else [IDENTIFY])


def test_regions():
    """The project's region decides the host."""
    hosts = {}
    for region in (None, "eu", "in"):
        recorder = Recorder(content=OK)
        recorder.service(Mixpanel, region=region, key=TOKEN).track(TRACK).result()
        hosts[region] = recorder.requests[0].url.host
    assert hosts == {None: "api.mixpanel.com", "eu": "api-eu.mixpanel.com", "in": "api-in.mixpanel.com"}


def test_the_official_library_says_the_same(box: Box):
    """The official library is taken by the stand-in, and its records have our fields with our values."""
    url = f"{box.url}/mixpanel"
    credentials = ServiceAccountCredentials("sandbox.service", "sandbox-secret-0123", "12345")
    sent: list[tuple[str, Any]] = []

    class Consumer(mixpanel.Consumer):  # type: ignore[misc]
        def send(self, endpoint: str, message: str, *rest: Any) -> None:
            sent.append((endpoint, json.loads(message)))
            super().send(endpoint, message, *rest)

    urls = {f"{name}_url": f"{url}/{path}" for name, path in
            (("events", "track"), ("people", "engage"), ("groups", "groups"), ("import", "import"))}  # fmt: skip
    client = mixpanel.Mixpanel(TOKEN, consumer=Consumer(**urls, credentials=credentials))
    now = Track("Order Paid", {"value": 12.5}, user_id="user-17")
    client.track("user-17", "Order Paid", {"value": 12.5, "$insert_id": now.message_id})
    client.import_data(None, "user-17", "Order Paid", AT.timestamp(), {"value": 12.5, "$insert_id": now.message_id})
    client.people_set("user-17", {"plan": "pro", "$email": "ada@shop.example"})
    client.group_set("company", "acme", {"seats": 5})
    service = Mixpanel(TOKEN)
    for _, one in sent[:2]:
        assert {one["properties"].pop(name) for name in ("token", "mp_lib", "$lib_version")} >= {TOKEN, "python"}
    ours = service.items(now, {})[0]
    assert sent[0][1]["properties"].keys() == ours["properties"].keys()
    old = {"event": "Order Paid", "properties": {**ours["properties"], "time": AT.timestamp()}}
    assert sent[1][1] == old
    for _, one in sent[2:]:
        one.pop("$time")
    assert [one for _, one in sent[2:]] == [*service.items(IDENTIFY, {}), *service.items(GROUP, {})]
    held = box.state("mixpanel")
    assert (len(held["events"]), held["dropped"], len(held["profiles"]), len(held["groups"])) == (2, [], 1, 1)


def test_the_official_alias_is_ours(monkeypatch: pytest.MonkeyPatch):
    """``$create_alias`` has the original id as its ``distinct_id`` and the new one as ``alias``, as in the library."""
    seen: list[Any] = []

    class Consumer:
        def __init__(self, **_: Any) -> None:
            pass

        def send(self, endpoint: str, message: str) -> None:
            seen.append((endpoint, json.loads(message)))

    monkeypatch.setattr(mixpanel, "Consumer", Consumer)
    mixpanel.Mixpanel(TOKEN).alias("user-17", "device-4")
    assert [("events", one) for one in Mixpanel(TOKEN).items(Alias("device-4", user_id="user-17"), {})] == seen


@pytest.mark.contracts
def test_requests_and_answers_keep_to_the_contract(contracts_dir: Path, box: Box):
    """What is sent, and what the stand-in answers, is as Mixpanel describes it."""
    contract = Contract(contracts_dir, "mixpanel")
    described = {"/engage": "/engage#profile-set", "/groups": "/groups#group-set"}
    paths = contract.document["paths"]

    def judged(request: httpx2.Request) -> None:
        path = described.get(request.url.path, request.url.path)
        escaped = path.replace("/", "~1")
        pointer = f"/paths/{escaped}/post/requestBody/content/application~1json/schema"
        assert contract.problems(pointer, body_of(request)) == []
        known = {one["name"] for one in paths[path]["post"]["parameters"] if one["in"] == "query"}
        assert set(request.url.params) <= known
        assert ("authorization" in request.headers) is (path == "/import")

    for content, makes in ((OK, [*EACH[:1], *EACH[2:4], CALLS[6]]), (TAKEN, [EACH[1], *EACH[4:]])):
        recorder = Recorder(content=content)
        service = recorder.service(Mixpanel, key=TOKEN)
        for make in makes:
            make(service).result()
        for request in recorder.requests:
            judged(request)
    future = Track("Later", user_id="u-1", at=datetime.now(UTC) + timedelta(days=2))
    event = {"event": "Later", "properties": {"time": future.at.timestamp(), "distinct_id": "u", "$insert_id": "1"}}
    url = "/mixpanel/import?strict=1"
    for body, status in (([event], 400), ([], 200)):
        answer = box.client.post(url, json=body, auth=(TOKEN, ""))
        assert answer.status_code == status
        assert contract.answer_problems("POST", "/import", status, answer.content) == []
    assert contract.answer_problems("POST", "/import", 401, box.client.post(url, json=[]).content) == []
    big = box.client.post(url, json=[event] * 2001, auth=(TOKEN, ""))
    assert (big.status_code, contract.answer_problems("POST", "/import", 413, big.content)) == (413, [])


def test_strict_checking_takes_a_part(box: Box, run: Run):
    """What the vendor refuses of a batch is told with its reason; the others were taken, and nothing is sent again."""
    recorder = Recorder(
        400,
        json.dumps(
            {
                "code": 400,
                "error": "some data points in the request failed validation",
                "num_records_imported": 2,
                "failed_records": [{"index": 1, "field": "properties.x", "message": "no such x"}],
            }
        ).encode(),
    )
    done = run(recorder.service(Mixpanel).send_batch(EVENTS))
    assert (done.taken, len(recorder.requests)) == (2, 1)
    assert [(one.message_id, one.reason, one.by) for one in done.refused] == [(PAGE.message_id, "no such x", "vendor")]
    with pytest.raises(errors.InvalidRequest, match="no such x") as caught:
        run(recorder.service(Mixpanel).track(TRACK))
    assert caught.value.code == "properties.x"


@pytest.mark.parametrize(
    ("fact", "why"),
    [
        (Track("x", user_id="anonymous"), "means nobody"),
        (Track("x", user_id="Undefined"), "means nobody"),
        (Track("x", user_id="u", at=datetime(1970, 6, 1, tzinfo=UTC)), "1971"),
        (Track("x", user_id="u", at=datetime.now(UTC) + timedelta(hours=2)), "an hour ahead"),
        (Track("x", {str(number): 1 for number in range(255)}, user_id="u"), "the limit is 254"),
        (Track("x", {"a": {"b": {"c": {"d": {}}}}}, user_id="u"), "more than 3 deep"),
        (Track("x", {"a": list(range(255))}, user_id="u"), "the limit is 254"),
        (Track("x", {"a": "x" * 1_000_000}, user_id="u"), "the limit is 999999"),
        (GroupCall("null", user_id="u"), "means nobody"),
        (Identify({"a": {"b": {"c": {"d": {}}}}}, user_id="u"), "more than 3 deep"),
    ],
)
def test_limits_are_told_before_sending(fact: Any, why: str):
    """What Mixpanel documents as refused raises alone, and is left out of a batch with the same reason."""
    recorder = Recorder(content=OK)
    service = recorder.service(Mixpanel)
    with pytest.raises(errors.InvalidRequest, match=why):
        service.weighed(fact)
    with pytest.raises(errors.InvalidRequest, match=why):
        service.send_batch([fact])
    if fact.kind == "track":
        done = service.send_batch([TRACK, fact]).result()
        assert (done.taken, done.refused[0].message_id) == (1, fact.message_id)
        assert why in done.refused[0].reason


def test_batches_go_to_their_endpoints(box: Box):
    """Facts of several endpoints share no request; ``batches`` divides them, profiles fifty at a time."""
    service = box.service(Mixpanel)
    with pytest.raises(errors.InvalidRequest, match="batches"):
        service.send_batch(FACTS)
    many = [*FACTS, *(Identify({"a": 1}, user_id=f"u-{number}") for number in range(60))]
    calls = service.batches(many)
    assert [(one.plan.path, len(one.args[0])) for one in calls] == [
        ("/import", 3),
        ("/engage", 50),
        ("/groups", 1),
        ("/track", 1),
        ("/engage", 11),
    ]
    assert sum(call.result().taken for call in calls) == len(many)
    assert {service.line(service.lane(one)) for one in many} == {"/import", "/engage", "/groups", "/track"}
    assert service.line_limits("/engage").most == 50


def test_other_operations_on_profiles(box: Box):
    """Each operation is a record of its own, as in the official library; what counts is not sent twice blindly."""
    service = box.service(Mixpanel)
    call = service.identify(Identify(user_id="user-17"), **{"$add": {"orders": 2}, "$set_once": {"first": 1}})
    assert call.repeatable is False
    assert call.result().taken == 1
    assert service.identify(IDENTIFY).repeatable is True
    service.identify(
        Identify({"x": 1}, user_id="user-17"), **{"$append": {"list": 1}, "$union": {"list": [1, 2]}}
    ).result()
    service.identify(Identify(user_id="user-17"), **{"$remove": {"list": 2}, "$unset": ["x"]}).result()
    assert box.state("mixpanel")["profiles"]["user-17"] == {"orders": 2, "first": 1, "list": [1]}
    service.identify(Identify(user_id="user-17"), **{"$delete": ""}).result()
    assert box.state("mixpanel")["profiles"]["user-17"] == {}


def test_a_lost_answer_counts_once(box: Box, run: Run):
    """A repeated event has the same time and id, by which Mixpanel knows it."""
    service = box.service(Mixpanel)
    call = service.send_batch(EVENTS)
    run(call)
    again = Call.from_payload(json.loads(json.dumps(call.to_payload())), lambda _: service)
    assert again.result().taken == 3
    held = box.state("mixpanel")
    assert (len(held["events"]), held["duplicates"]) == (3, 3)


@pytest.mark.parametrize("content", [b"0", b'{"status":0,"error":"bad"}'])
def test_a_200_that_took_nothing_is_an_error(content: bytes):
    """``0`` is a failure, however it is spelled."""
    with pytest.raises(errors.InvalidRequest) as caught:
        Recorder(content=content).service(Mixpanel).identify(IDENTIFY).result()
    assert caught.value.code == "not_taken"


def test_the_stand_in_answers_as_mixpanel(box: Box):
    """Old events are dropped by ``/track`` without a word, a wrong token too; what is malformed is ``0``."""

    def posted(path: str, body: Any, **options: Any) -> Any:
        return box.client.post(f"/mixpanel/{path}", json=body, **options).json()

    old = {"event": "x", "properties": {"token": TOKEN, "distinct_id": "u", "time": 1500000000}}
    assert posted("track", [old]) == 1
    assert posted("track", [{"event": "x", "properties": {"token": "other"}}]) == 1
    assert posted("track?verbose=1", [{"event": 1}]) == {"status": 0, "error": "no event or properties"}
    assert posted("engage", [{"$token": TOKEN, "$set": {}}]) == 0
    assert posted("engage", [{"$token": TOKEN, "$distinct_id": "u"}, 7]) == 0
    assert posted("groups", {"a": 1}) == 0
    held = box.state("mixpanel")
    assert (held["events"], held["profiles"]) == ([], {})
    lines = b'{"event":"x","properties":{"time":1767225600,"distinct_id":"u","$insert_id":"1"}}\n'
    done = box.client.post(
        "/mixpanel/import?strict=1", content=lines, headers={"Content-Type": "application/x-ndjson"}, auth=(TOKEN, "")
    )
    assert done.json()["num_records_imported"] == 1
    bad = [{"event": ""}, {"event": "x"}, {"event": "x", "properties": {"time": "now"}}, 7]
    told = box.client.post("/mixpanel/import?strict=1", json=bad, auth=(TOKEN, "")).json()
    assert [one["field"] for one in told["failed_records"]] == ["event", "properties", "properties.time", "event"]
    assert box.client.post("/mixpanel/import", content=b"{", auth=(TOKEN, "")).status_code == 400
    assert box.client.get("/mixpanel/import").status_code == 404
