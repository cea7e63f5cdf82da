from __future__ import annotations

import gzip
import json
import time
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
from moorline.calls.call import Call
from moorline.calls.guards import Guards
from moorline.events.event import Event
from moorline.policies.policy import Policy
from moorline.policies.retry import Retry
from moorline.sandbox.services.datadog import STAND_IN
from moorline.sandbox.standin import Emission, Surroundings
from moorline.services.monitoring.datadog import Datadog
from moorline.services.monitoring.protocol import LogLine, Metric, MetricKind, Occurrence, Report
from moorline.services.reports import report

Run = Callable[[Any], Any]
KEY = Datadog.credentials.sandbox
NOW = time.time()
POINTS = [
    Metric("shop.orders", 3, tags={"quay": "3"}, unit="order"),
    Metric("shop.depth", 1.5, MetricKind.GAUGE),
]
LINES = [LogLine("anchored ⚓", "warning", {"quay": 3, "fast": True}, "shop.quay"), LogLine("moored")]
EVENT = Occurrence("Deployed", "shop 1.4.2", level="warning", attributes={"quay": 3, "ok": True}, group="deploys")
CALLS: list[Callable[[Datadog], Any]] = [
    lambda s: s.capture(Report("The anchor dragged")),
    lambda s: s.send_metrics(POINTS),
    lambda s: s.send_logs(LINES),
    lambda s: s.send_events([EVENT]),
    lambda s: s.create_event("alert", "Down", {"status": "error"}, message="x", tags={"quay": "3"}, group="g"),
    lambda s: s.check(),
    lambda s: s.mint_key("moorline"),
    lambda s: s.find_keys("moorline"),
    lambda s: s.revoke_key("abc"),
]


def named(box: Box, **options: Any) -> Datadog:
    return box.service(Datadog, host="web-1", application="shop", environment="prod", **options)


def recorded(make: Callable[[Any], Any], **options: Any) -> httpx2.Request:
    recorder = Recorder(202)
    make(recorder.service(Datadog, key=KEY, application_key="app", **options)).result()
    return recorder.requests[0]


def body_of(request: httpx2.Request) -> Any:
    content = request.content
    return json.loads(gzip.decompress(content) if request.headers.get("content-encoding") == "gzip" else content)


def test_metrics(box: Box, run: Run):
    """Points arrive with their type, interval, host and tags; those that all have are among them."""
    sent = run(named(box).send_metrics(POINTS))
    orders, depth = box.state("datadog")["series"]
    assert sent.accepted == 2
    assert orders == {
        "metric": "shop.orders",
        "type": 1,
        "points": [{"timestamp": int(POINTS[0].at), "value": 3}],
        "tags": ["service:shop", "env:prod", "quay:3"],
        "interval": 10,
        "unit": "order",
        "resources": [{"type": "host", "name": "web-1"}],
    }
    assert (depth["type"], "interval" in depth) == (3, False)


def test_logs(box: Box, run: Run):
    """Lines arrive with level, service, host and their own attributes."""
    run(named(box).send_logs(LINES))
    first, second = box.state("datadog")["logs"]
    assert first | {"timestamp": ""} == {
        "message": "anchored ⚓",
        "status": "warn",
        "timestamp": "",
        "ddsource": "python",
        "ddtags": "service:shop,env:prod",
        "hostname": "web-1",
        "service": "shop",
        "logger.name": "shop.quay",
        "quay": 3,
        "fast": True,
    }
    assert second["status"] == "info"


def test_an_exception_is_a_line(box: Box, run: Run):
    """A report arrives as a line of the log, with the error's kind, message and stack."""
    run(box.service(Datadog).capture(report(fail(), tags={"quay": "3"}, release="shop@1")))
    [line] = box.state("datadog")["logs"]
    assert (line["message"], line["status"], line["error.kind"]) == ("ValueError: no cargo", "error", "ValueError")
    assert "in fail" in line["error.stack"]
    assert (line["quay"], line["release"]) == ("3", "shop@1")


def test_events(box: Box, run: Run):
    """Both kinds of events arrive, and have ids; the newer one needs the application key."""
    datadog = named(box, application_key=KEY)
    old = run(datadog.send_events([EVENT]))
    new = run(datadog.create_event("alert", "Down", {"status": "error"}))
    first, second = box.state("datadog")["events"]
    assert (old.id, bool(new.id)) == ("6000000000000000000", True)
    assert first["tags"] == ["service:shop", "env:prod", "quay:3", "ok:true", "kind:Moorline"]
    assert (first["alert_type"], first["aggregation_key"], first["host"]) == ("warning", "deploys", "web-1")
    assert (second["category"], second["attributes"]) == ("alert", {"status": "error"})


def test_the_application_key(monkeypatch: pytest.MonkeyPatch):
    """It goes with the newer events alone, and comes from the environment where none was given."""
    make = CALLS[4]
    assert recorded(make).headers["dd-application-key"] == "app"
    assert "dd-application-key" not in recorded(CALLS[1]).headers
    monkeypatch.delenv("DD_APP_KEY", raising=False)
    recorder = Recorder(202)
    make(recorder.service(Datadog, key=KEY)).result()
    assert "dd-application-key" not in recorder.requests[0].headers
    monkeypatch.setenv("DD_APP_KEY", "app-2")
    recorder = Recorder(202)
    make(recorder.service(Datadog, key=KEY)).result()
    assert recorder.requests[0].headers["dd-application-key"] == "app-2"


@pytest.mark.parametrize(
    ("options", "site", "hosts"),
    [
        ({}, "", "datadoghq.com"),
        ({"region": "eu"}, "", "datadoghq.eu"),
        ({"region": "us5"}, "datadoghq.eu", "us5.datadoghq.com"),
        ({}, "ap1.datadoghq.com", "ap1.datadoghq.com"),
        ({}, "DDOG-GOV.com", "ddog-gov.com"),
    ],
)
def test_sites(options: dict[str, Any], site: str, hosts: str, monkeypatch: pytest.MonkeyPatch):
    """A region or DD_SITE picks the host of each intake; the region wins."""
    monkeypatch.setenv("DD_SITE", site)
    seen = [recorded(make, **options).url.host for make in CALLS[:5]]
    intakes = ["http-intake.logs", "api", "http-intake.logs", "api", "event-management-intake"]
    assert seen == [f"{one}.{hosts}" for one in intakes]


def test_what_is_no_site(monkeypatch: pytest.MonkeyPatch):
    """It is a ConfigurationError that names the variable."""
    monkeypatch.setenv("DD_SITE", "example.com")
    with pytest.raises(errors.ConfigurationError, match="DD_SITE"):
        CALLS[1](Recorder().service(Datadog, key=KEY)).result()


@pytest.mark.contracts
@pytest.mark.parametrize(
    ("path", "make"),
    [
        ("/api/v2/logs", CALLS[0]),
        ("/api/v2/logs", lambda s: s.capture(report(fail()))),
        ("/api/v2/series", CALLS[1]),
        ("/api/v2/logs", CALLS[2]),
        ("/api/v1/events", CALLS[3]),
        ("/api/v2/events", CALLS[4]),
        (
            "/api/v2/events",
            lambda s: s.create_event("change", "Flag", {"changed_resource": {"name": "x", "type": "feature_flag"}}),
        ),
    ],
)
def test_requests_fit_the_contract(contracts_dir: Path, path: str, make: Callable[[Any], Any]):
    """Every request that we build is valid by datadog.json, compressed as it names it where it is a batch."""
    request = recorded(make, host="web-1")
    contract = Contract(contracts_dir, "datadog")
    assert request.url.path == path
    assert contract.request_problems("POST", path, json.dumps(body_of(request)).encode(), "application/json") == []
    batch = path in ("/api/v2/logs", "/api/v2/series")
    assert request.headers.get("content-encoding") == ("gzip" if batch else None)
    assert (request.headers["content-type"], request.headers["dd-api-key"]) == ("application/json", KEY)


@pytest.mark.contracts
def test_answers_fit_the_contract(contracts_dir: Path, box: Box):
    """What the stand-in answers is valid by datadog.json, good and bad."""
    contract = Contract(contracts_dir, "datadog")
    headers = {"DD-API-KEY": KEY, "DD-APPLICATION-KEY": KEY}
    for path, make in (
        ("/api/v2/logs", CALLS[2]),
        ("/api/v2/series", CALLS[1]),
        ("/api/v1/events", CALLS[3]),
        ("/api/v2/events", CALLS[4]),
    ):
        good = json.dumps(body_of(recorded(make))).encode()
        for body in (good, b'{"x":1}', b"{"):
            answer = box.client.post(f"/datadog{path}", content=body, headers=headers)
            if path == "/api/v2/events" and body == b"{":
                continue  # the gateway's list of texts, as the other intakes have it
            assert contract.answer_problems("POST", path, answer.status_code, answer.content) == [], (path, answer.text)


def test_no_secret_leaves():
    """Neither in texts, attributes, tags nor groups."""
    secret = "sk_live_abcdefghijklmnop"
    for make in (
        lambda s: s.send_logs(
            [LogLine(f"token={secret}", attributes={"password": "hunter2", "url": f"x?key={secret}"})]
        ),
        lambda s: s.send_metrics([Metric("x", 1, tags={"api_key": "hunter2"})]),
        lambda s: s.send_events([Occurrence(f"a {secret}", secret, attributes={"token": "hunter2"}, group=secret)]),
        lambda s: s.create_event(
            "alert", secret, {"status": "error", "custom": {"password": "hunter2"}}, message=secret
        ),
    ):
        sent = json.dumps(body_of(recorded(make)))
        assert (secret in sent, "hunter2" in sent) == (False, False)
    assert body_of(recorded(CALLS[3]))["aggregation_key"] == "deploys"


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda s: s.send_metrics([Metric("x", 1, MetricKind.DISTRIBUTION)]), r"metrics\[0\].kind"),
        (lambda s: s.send_metrics([POINTS[0], Metric("x", 1, at=time.time() - 3700)]), r"metrics\[1\].at"),
        (lambda s: s.send_metrics([Metric("x", 1, at=time.time() + 700)]), r"metrics\[0\].at"),
        (lambda s: s.send_metrics([]), "metrics"),
        (lambda s: s.send_metrics([Metric("x" * 200, 1)] * 9000), "metrics"),
        (lambda s: s.send_logs([LINES[0]] * 1001), "logs"),
        (lambda s: s.send_logs([LogLine("x" * 1_000_001)]), r"logs\[0\]"),
        (lambda s: s.send_logs([LogLine("x" * 900_000)] * 6), "logs"),
        (lambda s: s.send_logs([LogLine("x", at=time.time() - 19 * 3600)]), r"logs\[0\].at"),
        (lambda s: s.send_events([EVENT, EVENT]), "events"),
        (lambda s: s.send_events([Occurrence("x", "y" * 4001)]), r"events\[0\].text"),
        (lambda s: s.send_events([Occurrence("x", group="y" * 101)]), r"events\[0\].group"),
        (lambda s: s.send_events([Occurrence("x", at=time.time() - 19 * 3600)]), r"events\[0\].at"),
        (lambda s: s.create_event("alert", "x" * 501, {}), "title"),
        (lambda s: s.create_event("alert", "x", {}, message="x" * 4001), "message"),
        (lambda s: s.create_event("alert", "x", {}, tags={str(n): "" for n in range(101)}), "tags"),
    ],
)
def test_limits_are_checked_before_sending(make: Callable[[Any], Any], field: str):
    """What Datadog would refuse, cut off or drop by a documented rule is InvalidRequest naming the field."""
    recorder = Recorder()
    with pytest.raises(errors.InvalidRequest, match=f"^{field}:") as caught:
        make(recorder.service(Datadog, key=KEY))
    assert (caught.value.outcome, recorder.requests) == ("not_sent", [])


def test_many_are_divided(box: Box, run: Run):
    """Any number goes with as many requests as it takes; what Datadog does not take is told."""
    many: list[Any] = [*[LINES[0]] * 1500, EVENT, EVENT, *POINTS, Metric("x", 1, MetricKind.DISTRIBUTION)]
    shipped = run(box.service(Datadog).ship(many))
    held = box.state("datadog")
    assert (len(held["logs"]), len(held["events"]), len(held["series"])) == (1500, 2, 2)
    assert (shipped.accepted, len(box.seen()), shipped.errors) == (1504, 5, ())
    assert [type(one.item).__name__ for one in shipped.refused] == ["Metric"]


@pytest.mark.parametrize("status", [408, 500, 503, 520])
def test_a_lost_batch_is_sent_again(box: Box, run: Run, status: int):
    """Datadog asks for it: metrics and logs are repeated after an error that passes, events are not."""
    datadog = box.service(Datadog, policy=Policy(retry=Retry(base=0.001)))
    box.arm(kind="status", status=status, path="/api/v2/logs")
    assert run(datadog.send_logs(LINES)).accepted == 2
    box.arm(kind="status", status=status, path="/api/v1/events")
    with pytest.raises(errors.ServiceUnavailable) as caught:
        run(datadog.send_events([EVENT]))
    assert (len(caught.value.attempts), caught.value.retryable) == (1, False)


def test_a_limit_of_events_is_no_limit_of_logs(box: Box, run: Run):
    """A 429 says in how many seconds the limit is renewed; until then its operation waits, and no other."""
    datadog = box.service(Datadog, policy=Policy(deadline=3))
    box.arm(kind="status", status=429, path="/api/v1/events")
    for outcome in ("done", "not_sent"):
        with pytest.raises(errors.RateLimited) as caught:
            run(datadog.send_events([EVENT]))
        assert caught.value.outcome == outcome
        assert caught.value.retry_at is not None
        assert 5 < caught.value.retry_at - time.time() < 9
    run(datadog.send_logs(LINES))
    run(datadog.send_metrics(POINTS))


def test_errors_are_mapped(box: Box, run: Run):
    """A bad key is AuthenticationFailed, what is malformed InvalidRequest, with the reason, in all three shapes."""
    with pytest.raises(errors.AuthenticationFailed, match="Forbidden"):
        run(box.service(Datadog, "0" * 32).check())
    for path, body in (("/api/v2/logs", [{}]), ("/api/v2/series", {}), ("/api/v1/events", {}), ("/api/v2/events", {})):
        with pytest.raises((errors.InvalidRequest, errors.AuthenticationFailed)) as caught:
            run(box.service(Datadog, application_key=KEY).request("POST", path, json=body))
        assert "required" in str(caught.value) or "needs" in str(caught.value)


def test_a_batch_survives_a_queue(box: Box):
    """A Call comes out of a queue as it went in, with the times of then."""
    datadog = box.service(Datadog)
    call = datadog.send_metrics(POINTS)
    again = Call.from_payload(json.loads(json.dumps(call.to_payload())), lambda _: datadog)
    assert [*again.args, *again.kwargs.values()][0] == POINTS
    assert again.result().accepted == 2


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"transition": "Triggered"}, "triggered"),
        ({"transition": "Re-Triggered"}, "triggered"),
        ({"transition": "No Data"}, "triggered"),
        ({"transition": "Warn"}, "warned"),
        ({"transition": "Renotify"}, "changed"),
        ({"transition": "Recovered"}, "recovered"),
    ],
)
def test_alarms_are_read(changes: dict[str, str], kind: str):
    """Each transition has its kind, with title, text, address, monitor, priority and time."""
    body = json.dumps(json.loads(STAND_IN.make(Surroundings()).sample("query_alert_monitor.Triggered")) | changes)
    read = Datadog.read_event(Event("datadog", "1", "query_alert_monitor", body.encode()))
    assert read is not None
    assert (read.kind.value, read.type, read.subject, read.severity) == (kind, changes["transition"], "1234", "P2")
    assert read.url == "https://app.datadoghq.com/monitors/1234"
    assert (bool(read.title), bool(read.text), read.at is not None) == (True, True, True)


@pytest.mark.parametrize("body", [b"{}", b'{"transition":"$ALERT_TRANSITION"}', b'{"transition":"Teleported"}'])
def test_a_template_without_transition(body: bytes):
    """A field that is missing, never filled in, or newer than this program has no common meaning."""
    assert Datadog.read_event(Event("datadog", "1", "x", body)) is None


def test_events_of_other_shapes():
    """They are BadAnswer."""
    for body in (b"[]", b'{"transition":{}}', b'{"transition":"Warn","title":{}}'):
        with pytest.raises(errors.BadAnswer):
            Datadog.read_event(Event("datadog", "1", "x", body))


def test_a_monitor_watches():
    """The stand-in's monitor triggers once, and recovers once."""
    emitted: list[Emission] = []
    stand_in = STAND_IN.make(Surroundings(emit=emitted.append))
    wire = httpx2.MockTransport(lambda request: answered(stand_in, request))
    datadog = Datadog(KEY, wire=wire, guards=Guards())
    for value in (1, 2, 0, 0):
        datadog.send_metrics([Metric("sandbox.alert", value, MetricKind.GAUGE)]).result()
    assert [one.event.partition(".")[2] for one in emitted] == ["Triggered", "Recovered"]
