from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from segment.analytics.client import Client
from tests.contracts import Contract
from tests.services.conftest import Box
from tests.services.facts import AT, EACH, FACTS, IDENTIFY, TRACK
from tests.services.recorder import Recorder

from moorline import errors
from moorline.calls.call import Call
from moorline.calls.guards import Guards
from moorline.clock import ManualClock
from moorline.policies.policy import Policy
from moorline.policies.retry import Retry
from moorline.services.analytics.protocol import Track
from moorline.services.analytics.segment import Segment

Run = Callable[[Any], Any]
KEY = Segment.credentials.sandbox
CALLS: list[Callable[[Segment], Any]] = [*EACH, lambda s: s.send_batch(FACTS), lambda s: s.check()]
OK = b'{"success":true}'


def body_of(request: httpx2.Request) -> Any:
    """The JSON of a compressed request."""
    assert request.headers["content-encoding"] == "gzip"
    return json.loads(gzip.decompress(request.content))


def test_each_kind_arrives(box: Box, run: Run):
    """One of each kind, sent alone, arrives with its own id and time."""
    service = box.service(Segment)
    for make, fact in zip(CALLS, FACTS, strict=False):
        assert run(make(service)).taken == 1
        assert box.state("segment")["events"][-1]["messageId"] == fact.message_id
    held = box.state("segment")
    assert [one["type"] for one in held["events"]] == ["track", "identify", "page", "screen", "group", "alias"]
    assert {one["timestamp"] for one in held["events"]} == {"2026-01-01T12:00:00.000+00:00"}
    assert held["dropped"] == []


def test_a_batch_arrives(box: Box, run: Run):
    """A batch of all kinds arrives as the same messages would one by one."""
    service = box.service(Segment)
    assert run(service.send_batch(FACTS, integrations={"All": False})).taken == 6
    assert run(service.check()) is True
    together = box.state("segment")["events"]
    for make in CALLS[:6]:
        run(make(service))
    held = box.state("segment")
    assert (held["duplicates"], held["events"]) == (6, together)


def test_the_official_library_says_the_same(box: Box):
    """The official library is taken by the stand-in, and its messages have our fields with our values."""
    seen: list[dict[str, Any]] = []
    client = Client(KEY, host=f"{box.url}/segment", sync_mode=True, gzip=True)
    common = {"anonymous_id": "123456.7654321", "timestamp": AT}

    def also(sent: tuple[bool, dict[str, Any]]) -> None:
        seen.append(sent[1])

    ids = [one.message_id for one in FACTS]
    context = {"ip": "203.0.113.7"}

    def said(number: int) -> dict[str, Any]:
        return {**common, "message_id": ids[number], "context": dict(context)}

    url = "https://shop.example/prices"
    also(client.track("user-17", "Order Paid", {"value": 12.5, "items": ["a", "b"]}, **said(0)))
    also(client.identify("user-17", {"plan": "pro", "email": "ada@shop.example"}, **said(1)))
    also(client.page("user-17", "Shop", "Prices", {"ref": "mail", "url": url}, **said(2)))
    also(client.screen("user-17", "Shop", "Basket", {"items": 2}, **said(3)))
    also(client.group("user-17", "acme", {"seats": 5}, **said(4)))
    also(client.alias("device-4", "user-17", context=dict(context), timestamp=AT, message_id=ids[5]))
    ours = [Segment(KEY).items(one, {})[0] for one in FACTS]
    for theirs in seen:
        theirs["context"].pop("library")
        assert theirs.pop("integrations") == {}
    assert ours == [{name: value for name, value in one.items() if value is not None} for one in seen]
    held = box.state("segment")
    assert [len(held["events"]), held["dropped"]] == [6, []]


@pytest.mark.contracts
def test_requests_keep_to_the_contract(contracts_dir: Path):
    """What is sent is as the contract describes it, alone and in a batch."""
    contract = Contract(contracts_dir, "segment.schema")
    recorder = Recorder(content=OK)
    service = recorder.service(Segment, key=KEY)
    for make in CALLS[:7]:
        make(service).result()
    for request in recorder.requests:
        kind = request.url.path.rpartition("/")[2]
        assert contract.problems(f"/$defs/{kind}", body_of(request)) == []
        assert request.headers["content-type"] == "application/json"
        assert request.headers["authorization"] == "Basic " + base64.b64encode(f"{KEY}:".encode()).decode()


def test_a_key_with_a_colon_is_refused():
    """A write key cannot hold a colon, which Basic authentication would read as the end of the user."""
    with pytest.raises(errors.ConfigurationError, match="colon"):
        Recorder(content=OK).service(Segment, key="a:b").track(TRACK).result()


def test_europe():
    """Data of the EU go to the EU's host."""
    recorder = Recorder(content=OK)
    recorder.service(Segment, region="eu").track(TRACK).result()
    assert recorder.requests[0].url.host == "events.eu1.segmentapis.com"
    with pytest.raises(errors.ConfigurationError, match="known: eu"):
        Segment(KEY, region="in")


def test_what_is_too_large_is_told_before_it_is_sent(box: Box, run: Run):
    """A message over 32 KB raises when it is alone, and is left out of a batch and told with the reason."""
    service = box.service(Segment)
    huge = Track("Huge", {"text": "x" * 33_000}, user_id="u-1")
    with pytest.raises(errors.InvalidRequest, match="the limit is 32768") as caught:
        service.track(huge)
    assert (caught.value.outcome, caught.value.detail) == ("not_sent", {"field": "fact"})
    done = run(service.send_batch([TRACK, huge]))
    assert (done.taken, [(one.message_id, one.by) for one in done.refused]) == (1, [(huge.message_id, "limits")])
    assert "32768" in done.refused[0].reason
    with pytest.raises(errors.InvalidRequest, match="none of the facts") as caught:
        service.send_batch([huge, huge])
    assert [one["message_id"] for one in caught.value.detail] == [huge.message_id] * 2
    assert len(box.state("segment")["events"]) == 1


def test_a_batch_is_bounded():
    """2,500 facts and 475,000 bytes are a batch; what is more is refused by name, and divided by ``batches``."""
    service = Segment(KEY)
    small = [Track("x", user_id="u", message_id=str(number)) for number in range(2501)]
    with pytest.raises(errors.InvalidRequest, match="2501 facts; the limit is 2500"):
        service.send_batch(small)
    assert [len(one.args[0]) for one in service.batches(small)] == [2500, 1]
    large = [Track("x", {"text": "x" * 30_000}, user_id="u") for _ in range(20)]
    with pytest.raises(errors.InvalidRequest, match="the limit is 475000"):
        service.send_batch(large)
    assert [len(one.args[0]) for one in service.batches(large)] == [15, 5]
    for wrong in ([], "text", [1]):
        with pytest.raises(errors.InvalidRequest, match="facts"):
            service.send_batch(wrong)  # type: ignore[arg-type]
    with pytest.raises(errors.InvalidRequest, match="kind track"):
        service.track(IDENTIFY)  # type: ignore[arg-type]


def test_a_lost_answer_is_asked_for_again(box: Box, run: Run):
    """Segment drops what comes twice by its id, so a request whose answer was lost is repeated, and counts once."""
    box.arm(kind="dropped", service="segment")
    assert run(box.service(Segment).track(TRACK)).taken == 1
    assert [one["messageId"] for one in box.state("segment")["events"]] == [TRACK.message_id]


def test_a_replay_has_the_same_id(box: Box):
    """A Call that went through a queue sends the same message, id and time included."""
    service = box.service(Segment)
    call = service.send_batch(FACTS)
    again = Call.from_payload(json.loads(json.dumps(call.to_payload())), lambda _: service)
    assert again.plan.content == call.plan.content
    call.result()
    again.result()
    held = box.state("segment")
    assert (len(held["events"]), held["duplicates"]) == (6, 6)


@pytest.mark.parametrize(
    ("status", "tries"),
    [*((one, 2) for one in (408, 410, 429, 460, 500, 502, 503, 504, 506, 520, 529, 599)), (501, 1), (505, 1), (511, 1)],
)
def test_what_the_official_library_tries_again_is_tried_again(status: int, tries: int):
    """And is worth a later try when those of the Call are spent, so that nobody drops its facts."""
    recorder = Recorder(status)
    policy = Policy(retry=Retry(retries=1, base=0.0), breaker=None)
    service = Segment(KEY, wire=httpx2.MockTransport(recorder), guards=Guards(clock=ManualClock()), policy=policy)
    with pytest.raises(errors.CallError) as caught:
        service.send_batch(FACTS).result()
    assert (len(recorder.requests), caught.value.retryable) == (tries, tries == 2)


def test_a_200_that_failed_is_an_error():
    """``success: false`` is no success."""
    with pytest.raises(errors.InvalidRequest) as caught:
        Recorder(content=b'{"success":false,"message":"no"}').service(Segment).track(TRACK).result()
    assert caught.value.code == "not_taken"


def test_extras_of_the_vendor():
    """Segment's own fields go with one call, and with a fact that also goes elsewhere."""
    recorder = Recorder(content=OK)
    service = recorder.service(Segment)
    fact = Track("x", user_id="u", vendors={"segment": {"integrations": {"All": False}}, "mixpanel": {"a": 1}})
    service.track(fact).result()
    service.track(fact, integrations={"Mixpanel": True}).result()
    assert [body_of(one)["integrations"] for one in recorder.requests] == [{"All": False}, {"Mixpanel": True}]


def test_the_stand_in_drops_as_segment_does(box: Box):
    """The stand-in answers 200 to wrong keys, missing ids and long batches, and keeps none of them."""
    assert box.service(Segment, "another-key-of-nobody").track(TRACK).result().taken == 1
    url = "/segment/v1/"
    headers = {"Authorization": "Basic " + base64.b64encode(f"{KEY}:".encode()).decode()}

    def posted(path: str, **options: Any) -> int:
        return box.client.post(url + path, headers=headers | options.pop("headers", {}), **options).status_code

    one = {"type": "track", "event": "x", "userId": "u"}
    assert posted("track", json={"userId": "u"}) == 200
    assert posted("track", json={"event": "x"}) == 200
    assert posted("group", json={"userId": "u"}) == 200
    assert posted("alias", json={"userId": "u"}) == 200
    assert posted("batch", json={"batch": [{"userId": "u"}]}) == 200
    assert posted("batch", json={"batch": [one] * 2501}) == 200
    assert posted("identify", json={"userId": "u", "messageId": "m" * 100}) == 200
    reasons = [entry["reason"] for entry in box.state("segment")["dropped"]]
    assert len(reasons) == 7 + 2501
    assert box.state("segment")["events"] == []
    assert posted("track", content=b"{") == 400
    assert posted("track", content=b"[]") == 400
    assert posted("batch", json={"batch": 1}) == 400
    assert posted("track", content=b"junk", headers={"Content-Encoding": "gzip"}) == 400
    assert posted("track", content=gzip.compress(b"{}")[:-9], headers={"Content-Encoding": "gzip"}) == 400
    assert posted("track", content=gzip.compress(b" " * (33 << 20)), headers={"Content-Encoding": "gzip"}) == 400
    assert posted("track", json={**one, "properties": {"x": "x" * 33_000}}) == 400
    assert posted("other", json=one) == 404
    assert box.client.post("/segment/v1/track", json={**one, "writeKey": KEY}).status_code == 200
    assert len(box.state("segment")["events"]) == 1


def test_an_error_says_what_segment_said(box: Box, run: Run):
    """A 400 is the caller's fault, with Segment's code and words; 429 names its time."""
    recorder = Recorder(400, b'{"code":"invalid_json","message":"malformed JSON"}')
    with pytest.raises(errors.InvalidRequest, match="malformed JSON") as caught:
        recorder.service(Segment).track(TRACK).result()
    assert (caught.value.code, len(recorder.requests)) == ("invalid_json", 1)
    box.arm(kind="status", status=429, retry_after=9, count=9)
    with pytest.raises(errors.RateLimited) as limited:
        run(box.service(Segment).track(TRACK).using(timeout=2))
    assert limited.value.retry_at is not None
