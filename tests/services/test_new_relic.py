from __future__ import annotations

import gzip
import json
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.contracts import Contract
from tests.services.conftest import Box
from tests.services.recorder import Recorder, answered
from tests.services.test_sentry import fail

from moorline import errors
from moorline.calls.guards import Guards
from moorline.events.event import Event
from moorline.policies.policy import Policy
from moorline.policies.retry import Retry
from moorline.sandbox.services.new_relic import STAND_IN
from moorline.sandbox.standin import Emission, Surroundings
from moorline.services.monitoring.new_relic import NewRelic
from moorline.services.monitoring.protocol import LogLine, Metric, MetricKind, Occurrence, Report
from moorline.services.reports import report

Run = Callable[[Any], Any]
KEY = NewRelic.credentials.sandbox
NOW = time.time()
POINTS = [
    Metric("shop.orders", 3, tags={"quay": "3"}, interval=5),
    Metric("shop.depth", 1.5, MetricKind.GAUGE, unit="metre"),
    Metric("shop.seconds", 0.25, MetricKind.DISTRIBUTION),
]
LINES = [LogLine("anchored ⚓", "warning", {"quay": 3, "fast": True}, "shop.quay", trace="ab" * 16), LogLine("moored")]
EVENTS = [Occurrence("Deployed", "shop 1.4.2", "Deployment", attributes={"quay": 3, "ok": True}, group="g")]
CALLS: list[Callable[[NewRelic], Any]] = [
    lambda s: s.capture(Report("The anchor dragged")),
    lambda s: s.send_metrics(POINTS),
    lambda s: s.send_logs(LINES),
    lambda s: s.send_events(EVENTS),
    lambda s: s.check(),
]


def recorded(make: Callable[[Any], Any], **options: Any) -> httpx2.Request:
    recorder = Recorder(202, b'{"requestId":"1"}')
    make(recorder.service(NewRelic, key=KEY, **options)).result()
    return recorder.requests[0]


def body_of(request: httpx2.Request) -> Any:
    return json.loads(gzip.decompress(request.content))


def test_metrics(box: Box, run: Run):
    """Counts have their interval in whole milliseconds, gauges none, and a distribution is a summary of one."""
    sent = run(box.service(NewRelic).send_metrics(POINTS))
    held = box.state("new_relic")
    orders, depth, seconds = held["metrics"]
    assert (sent.accepted, len(sent.id), held["integration_errors"]) == (3, 36, [])
    assert orders == {
        "name": "shop.orders",
        "type": "count",
        "value": 3,
        "timestamp": int(POINTS[0].at * 1000),
        "interval.ms": 5000,
        "attributes": {"quay": "3"},
    }
    assert (depth["type"], depth["attributes"]) == ("gauge", {"unit": "metre"})
    assert (seconds["type"], seconds["value"]) == ("summary", {"count": 1, "sum": 0.25, "min": 0.25, "max": 0.25})


def test_logs_and_events(box: Box, run: Run):
    """Lines keep the types of their attributes; events have title, text and group beside theirs, truth values as text."""
    new_relic = box.service(NewRelic)
    run(new_relic.send_logs(LINES))
    sent = run(new_relic.send_events(EVENTS))
    held = box.state("new_relic")
    assert held["logs"][0]["attributes"] == {
        "quay": 3, "fast": True, "level": "warning", "logger.name": "shop.quay", "trace.id": "ab" * 16,
    }  # fmt: skip
    [event] = held["events"]
    assert event.items() >= {
        "eventType": "Deployment", "title": "Deployed", "text": "shop 1.4.2", "group": "g", "quay": 3, "ok": "true",
    }.items()  # fmt: skip
    assert (bool(sent.id), held["integration_errors"]) == (True, [])


def test_an_exception_is_a_line(box: Box, run: Run):
    """A report arrives as a line of the log, with the error's kind, message and stack."""
    run(box.service(NewRelic).capture(report(fail())))
    [line] = box.state("new_relic")["logs"]
    assert (line["message"], line["attributes"]["error.kind"]) == ("ValueError: no cargo", "ValueError")
    assert "in fail" in line["attributes"]["error.stack"]


@pytest.mark.parametrize(
    ("options", "urls"),
    [
        ({}, ["https://log-api.newrelic.com/log/v1", "https://metric-api.newrelic.com/metric/v1",
              "https://log-api.newrelic.com/log/v1", "https://insights-collector.newrelic.com/v1/accounts/events"]),
        ({"region": "eu", "account_id": "12"},
         ["https://log-api.eu.newrelic.com/log/v1", "https://metric-api.eu.newrelic.com/metric/v1",
          "https://log-api.eu.newrelic.com/log/v1", "https://insights-collector.eu01.nr-data.net/v1/accounts/12/events"]),
    ],
    ids=["us", "eu"],
)  # fmt: skip
def test_addresses(options: dict[str, Any], urls: list[str]):
    """Each intake has a host of its own in each region; events name the account, if one is given."""
    requests = [recorded(make, **options) for make in CALLS[:4]]
    assert [str(one.url) for one in requests] == urls
    for one in requests:
        assert (one.headers["api-key"], one.headers["content-encoding"]) == (KEY, "gzip")
        assert len(one.headers["x-request-id"]) == 36


@pytest.mark.contracts
def test_requests_fit_the_contract(contracts_dir: Path):
    """Every request that we build is valid by new_relic.schema.json."""
    contract = Contract(contracts_dir, "new_relic.schema")
    for make, kind in (
        (CALLS[0], "LogBatch"),
        (lambda s: s.capture(report(fail(), tags={"quay": "3"})), "LogBatch"),
        (CALLS[1], "MetricBatch"),
        (CALLS[2], "LogBatch"),
        (CALLS[3], "EventBatch"),
        (CALLS[4], "MetricBatch"),
    ):
        assert contract.problems(f"/$defs/{kind}", body_of(recorded(make))) == [], kind


@pytest.mark.contracts
def test_answers_fit_the_contract(contracts_dir: Path, box: Box):
    """What the stand-in answers is as the documentation has it."""
    contract = Contract(contracts_dir, "new_relic.schema")
    for make in CALLS[:4]:
        answer = make(box.service(NewRelic)).result().raw
        assert contract.problems("/$defs/Accepted", answer) == []


def test_success_is_no_proof(box: Box, run: Run):
    """What is wrong within a body is answered with success, and told in the account alone."""
    new_relic = box.service(NewRelic)
    answer = run(new_relic.request("POST", "/metric/v1", json=[{"metrics": [{"name": "x", "value": 1}]}]))
    assert answer["requestId"] == box.state("new_relic")["integration_errors"][0]["requestId"]
    wrong: list[Any] = [[{}], {"metrics": []}]
    for body in wrong:
        run(new_relic.request("POST", "/metric/v1", json=body))
    run(new_relic.request("POST", "/v1/accounts/events", json=[{"x": 1}, {"eventType": "a", "b": True}]))
    assert len(box.state("new_relic")["integration_errors"]) == 5


def test_no_secret_leaves():
    """Neither in messages, attributes, tags, titles nor texts."""
    secret = "sk_live_abcdefghijklmnop"
    for make in (
        lambda s: s.send_logs(
            [LogLine(f"token={secret}", attributes={"password": "hunter2", "url": f"x?key={secret}"})]
        ),
        lambda s: s.send_metrics([Metric("x", 1, tags={"api_key": "hunter2"})]),
        lambda s: s.send_events([Occurrence(f"a {secret}", secret, attributes={"token": "hunter2"}, group=secret)]),
    ):
        sent = json.dumps(body_of(recorded(make)))
        assert (secret in sent, "hunter2" in sent) == (False, False)


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda s: s.send_metrics([Metric("x" * 255, 1)]), r"metrics\[0\].name"),
        (lambda s: s.send_metrics([POINTS[0], Metric("x", 1, tags={"count": "1"})]), r"metrics\[1\].tags\[count\]"),
        (lambda s: s.send_metrics([Metric("x", 1, tags={"x": "1"})]), r"metrics\[0\].tags\[x\]"),
        (lambda s: s.send_metrics([Metric("x", 1, tags={str(n): "" for n in range(101)})]), r"metrics\[0\].tags"),
        (lambda s: s.send_metrics([Metric("x", 1, tags={"a": "y" * 4097})]), r"metrics\[0\].tags\[a\]"),
        (lambda s: s.send_metrics([Metric("x", 1, at=NOW - 49 * 3600)]), r"metrics\[0\].at"),
        (lambda s: s.send_metrics([Metric("x", 1, at=NOW + 25 * 3600)]), r"metrics\[0\].at"),
        (lambda s: s.send_logs([LogLine("x", attributes={"eventType": "x"})]), r"logs\[0\].attributes\[eventType\]"),
        (lambda s: s.send_logs([LogLine("x", attributes={"a" * 256: 1})]), r"logs\[0\].attributes\[a+\]"),
        (lambda s: s.send_logs([LogLine("x", at=NOW - 49 * 3600)]), r"logs\[0\].at"),
        (lambda s: s.send_logs([LogLine("x" * 1_000_001)]), r"logs\[0\]"),
        (lambda s: s.send_logs([LogLine("x" * 600_000)] * 2), "logs"),
        (lambda s: s.send_events([Occurrence("x", "y" * 4097)]), r"events\[0\].attributes\[text\]"),
        (
            lambda s: s.send_events([Occurrence("x", attributes={"accountId": 1})]),
            r"events\[0\].attributes\[accountId\]",
        ),
        (lambda s: s.send_events([Occurrence("x", attributes={"appId": "1"})]), r"events\[0\].attributes\[appId\]"),
        (lambda s: s.send_events([Occurrence("x", at=NOW - 25 * 3600)]), r"events\[0\].at"),
        (lambda s: s.send_events([EVENTS[0]] * 2001), "events"),
        (lambda s: s.send_events([]), "events"),
    ],
)
def test_limits_are_checked_before_sending(make: Callable[[Any], Any], field: str):
    """What New Relic would refuse, or drop without a word, by a documented rule is InvalidRequest naming the field."""
    recorder = Recorder()
    with pytest.raises(errors.InvalidRequest, match=f"^{field}:") as caught:
        make(recorder.service(NewRelic, key=KEY))
    assert (caught.value.outcome, recorder.requests) == ("not_sent", [])


def test_many_are_divided(box: Box, run: Run):
    """Any number goes with as many requests as it takes; the failure of one hides none of the others."""
    box.arm(kind="status", status=400, path="/metric/v1")
    shipped = run(box.service(NewRelic).ship([*[LogLine("x" * 300_000)] * 7, *EVENTS, *POINTS]))
    held = box.state("new_relic")
    assert (len(held["logs"]), len(held["events"]), len(held["metrics"])) == (7, 1, 0)
    assert (shipped.accepted, shipped.refused, len(shipped.errors), len(box.seen())) == (8, (), 1, 5)


@pytest.mark.parametrize(
    "fault", [{"status": 408}, {"status": 503}, {"status": 520}, {"kind": "dropped", "processed": False}]
)
def test_it_is_sent_again_with_the_same_id(fault: dict[str, Any], run: Run):
    """After what passes the same payload goes again, under the id that it had."""
    seen: list[str] = []

    def wire(request: httpx2.Request) -> httpx2.Response:
        seen.append(request.headers["x-request-id"])
        if len(seen) == 1 and "kind" in fault:
            raise httpx2.ReadError("cut")
        return httpx2.Response(fault["status"] if len(seen) == 1 else 202, json={"requestId": "1"})

    policy = Policy(retry=Retry(base=0.001))
    assert run(NewRelic(KEY, wire=httpx2.MockTransport(wire), guards=Guards(), policy=policy).send_logs(LINES))
    assert len(seen) == 2
    assert len(set(seen)) == 1


def test_a_payload_has_its_id_in_whichever_call():
    """What a batcher sends again is another Call with the same id; what was divided, or is another, has another."""

    def id_of(lines: list[LogLine]) -> str:
        return str(recorded(lambda s: s.send_logs(lines)).headers["x-request-id"])

    ids = [id_of(lines) for lines in (LINES, LINES, LINES[:1], LINES[1:])]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 3
    assert all(uuid.UUID(one).version == 4 for one in ids)


def test_a_limit_without_a_time(box: Box, run: Run):
    """A 429 of the events is that of a minute; Retry-After of the others is obeyed, and holds for none but them."""
    new_relic = box.service(NewRelic, policy=Policy(deadline=3))
    box.arm(kind="status", status=429, path="/v1/accounts/events")
    box.arm(kind="status", status=429, retry_after=7, path="/log/v1")
    for make, wait in ((CALLS[3], 60), (CALLS[2], 7)):
        with pytest.raises(errors.RateLimited) as caught:
            run(make(new_relic))
        assert caught.value.retry_at is not None
        assert wait - 2 < caught.value.retry_at - time.time() < wait + 2
    run(new_relic.send_metrics(POINTS))


def test_errors_are_mapped(box: Box, run: Run):
    """A bad key is AuthenticationFailed; what is too large is InvalidRequest, so that a batch is divided."""
    with pytest.raises(errors.AuthenticationFailed, match="license key"):
        run(box.service(NewRelic, "x" * 40).check())
    box.arm(kind="status", status=413)
    with pytest.raises(errors.InvalidRequest):
        run(box.service(NewRelic).send_logs(LINES))


@pytest.mark.parametrize(
    ("state", "kind"),
    [("ACTIVATED", "triggered"), ("CREATED", "triggered"), ("ACKNOWLEDGED", "acknowledged"), ("CLOSED", "recovered")],
)
def test_alarms_are_read(state: str, kind: str):
    """Each state has its kind, with title, address, priority, issue and time."""
    body = json.loads(STAND_IN.make(Surroundings()).sample("ACTIVATED")) | {"state": state, "title": ["Memory"]}
    read = NewRelic.read_event(Event("new_relic", "1", state, json.dumps(body).encode()))
    assert read is not None
    assert (read.kind.value, read.type, read.title, read.severity) == (kind, state, "Memory", "CRITICAL")
    assert (read.subject, read.at is not None) == (body["id"], True)
    assert read.url == body["issueUrl"]


def test_events_without_a_common_meaning():
    """A state that is missing, not filled in or newer is None; another shape is BadAnswer."""
    for body in (b"{}", b'{"state":"{{json state}}"}', b'{"state":"TELEPORTED"}'):
        assert NewRelic.read_event(Event("new_relic", "1", "x", body)) is None
    for body in (b"[]", b'{"state":{}}', b'{"state":"CLOSED","title":{}}'):
        with pytest.raises(errors.BadAnswer):
            NewRelic.read_event(Event("new_relic", "1", "x", body))


def test_an_issue_opens_and_closes():
    """The stand-in's issue is told when it opens, and when it closes, under the same id."""
    emitted: list[Emission] = []
    stand_in = STAND_IN.make(Surroundings(emit=emitted.append))
    wire = httpx2.MockTransport(lambda request: answered(stand_in, request))
    new_relic = NewRelic(KEY, wire=wire, guards=Guards())
    for state in ("open", "open", "closed", "closed"):
        new_relic.send_events([Occurrence("Down", kind="SandboxAlert", attributes={"state": state})]).result()
    assert [one.event for one in emitted] == ["ACTIVATED", "CLOSED"]
    assert len({json.loads(one.body)["id"] for one in emitted}) == 1
