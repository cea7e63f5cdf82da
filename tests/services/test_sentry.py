from __future__ import annotations

import contextlib
import gzip
import json
import re
from collections.abc import Callable
from enum import StrEnum
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx2
import pytest
import sentry_sdk
import sentry_sdk.logger
from hypothesis import given
from hypothesis import strategies as st
from sentry_sdk.envelope import Envelope
from sentry_sdk.transport import Transport
from tests.contracts import Contract
from tests.services.conftest import Box
from tests.services.recorder import Recorder, answered

from moorline import errors
from moorline.calls.call import Call
from moorline.calls.guards import Guards
from moorline.events.event import Event
from moorline.policies.policy import Policy
from moorline.sandbox.services.sentry import STAND_IN
from moorline.sandbox.standin import Emission, Surroundings
from moorline.services.envelopes import Dsn
from moorline.services.monitoring.protocol import Crumb, LogLine, Metric, MetricKind, Occurrence, Person, Report, Value
from moorline.services.monitoring.sentry import CheckIn, Item, Sentry
from moorline.services.reports import report

Run = Callable[[Any], Any]
DSN = Sentry.credentials.sandbox
FULL = Report(
    "The ⚓ dragged",
    "warning",
    crumbs=[Crumb("before", "http", "info", {"status": 200}, 1_790_000_000.0)],
    tags={"quay": "3"},
    extra={"cargo": [1, {"a": None}]},
    user=Person("u_1", "ada@example.com"),
    logger="shop.quay",
    release="shop@1.4.2",
    environment="production",
    server="web-1",
    fingerprint=["anchor"],
    at=1_790_000_001.5,
)
POINTS = [
    Metric("calls", 3, MetricKind.COUNT, {"quay": "3"}, at=1_790_000_000.0),
    Metric("depth", 1.5, MetricKind.GAUGE, unit="metre"),
    Metric("seconds", 0.25, MetricKind.DISTRIBUTION),
]
LINES = [LogLine("anchored", "warning", {"quay": 3, "fast": True, "depth": 1.5, "name": "x"}, "shop", 1_790_000_000.0)]
CALLS: list[Callable[[Sentry], Any]] = [
    lambda s: s.capture(FULL),
    lambda s: s.send_metrics(POINTS),
    lambda s: s.send_logs(LINES),
    lambda s: s.check_in(CheckIn("nightly", "ok", 1.5)),
    lambda s: s.send_envelope([Item("event", {"message": "hello", "event_id": "ab" * 16})], event_id="ab" * 16),
    lambda s: s.check(),
]


def items_of(request: httpx2.Request) -> tuple[dict[str, Any], list[tuple[dict[str, Any], Any]]]:
    """An envelope as Sentry's own package reads it."""
    read = Envelope.deserialize(gzip.decompress(request.content))
    return read.headers, [(one.headers, json.loads(one.get_bytes())) for one in read.items]


def recorded(make: Callable[[Any], Any], **options: Any) -> httpx2.Request:
    recorder = Recorder()
    make(recorder.service(Sentry, key=DSN, **options)).result()
    return recorder.requests[0]


def _capturing(one: Report) -> Callable[[Any], Any]:
    return lambda sentry: sentry.capture(one)


def fail() -> Exception:
    """An exception with a cause, a note and an errno somewhere."""
    try:
        try:
            Path("/nonexistent/file").open().close()
        except OSError as error:
            error.add_note("in the hold")
            raise ValueError("no cargo") from error
    except ValueError as error:
        return error
    raise AssertionError


def fail_in_context() -> BaseException:
    try:
        try:
            dict[str, str]()["hold"]
        except KeyError:
            raise RuntimeError from None
    except RuntimeError:
        try:
            1 / 0  # noqa: B018
        except ZeroDivisionError as error:
            return error
    raise AssertionError


def fail_in_group() -> BaseException:
    try:
        raise ExceptionGroup("several", [fail(), KeyError("x"), ExceptionGroup("inner", [TypeError("deep")])])
    except ExceptionGroup as error:
        return error


def test_capture(box: Box, run: Run):
    """A report arrives as it was meant, under the id that it was made with."""
    sent = run(box.service(Sentry).capture(FULL))
    held = box.state("sentry")["events"][sent.id]
    assert (sent.id, sent.accepted) == (FULL.id, 1)
    wanted = {
        "logentry": {"formatted": "The ⚓ dragged"},
        "level": "warning",
        "tags": {"quay": "3"},
        "extra": {"cargo": [1, {"a": None}]},
        "user": {"id": "u_1", "email": "ada@example.com"},
        "logger": "shop.quay",
        "release": "shop@1.4.2",
        "environment": "production",
        "server_name": "web-1",
        "fingerprint": ["anchor"],
        "timestamp": 1_790_000_001.5,
    }
    assert wanted.items() <= held.items()
    assert held["breadcrumbs"]["values"][0]["data"] == {"status": 200}


def test_the_rest_arrives(box: Box, run: Run):
    """Metrics, lines with typed attributes, check-ins and items of any type are taken."""
    sentry = box.service(Sentry)
    assert run(sentry.send_metrics(POINTS)).accepted == 3
    assert run(sentry.send_logs(LINES)).accepted == 1
    begun = CheckIn("nightly", "in_progress", config={"schedule": {"type": "interval", "value": 1, "unit": "hour"}})
    run(sentry.check_in(begun))
    run(sentry.check_in(CheckIn("nightly", "ok", 1.5, id=begun.id)))
    run(sentry.send_envelope([Item("attachment", b"\xef\xbb\xbfHello\r\n", {"filename": "hello.txt"})]))
    held = box.state("sentry")
    assert [(one["name"], one["type"], one["value"]) for one in held["metrics"]] == [
        ("calls", "counter", 3), ("depth", "gauge", 1.5), ("seconds", "distribution", 0.25),
    ]  # fmt: skip
    attributes = held["logs"][0]["attributes"]
    assert (held["logs"][0]["level"], attributes["quay"]) == ("warn", {"value": 3, "type": "integer"})
    assert [attributes[one]["type"] for one in ("fast", "depth", "name")] == ["boolean", "double", "string"]
    assert held["check_ins"][begun.id]["status"] == "ok"
    assert held["others"] == [
        {"type": "attachment", "content_type": "application/json", "filename": "hello.txt", "length": 10, "size": 10}
    ]


class _Ship(StrEnum):
    TUG = "tug"


class _Depth(float):
    """A number of another package, such as numpy's."""


def test_attributes_of_derived_types(box: Box):
    """They are the texts and numbers that they derive from, for who weighs them and for who sends them."""
    given: dict[str, Value] = {"status": HTTPStatus.NOT_FOUND, "ship": _Ship.TUG, "depth": _Depth(1.5)}
    shipped = box.service(Sentry).ship([LogLine("x", attributes=given), Metric("x", 1, tags={"ship": _Ship.TUG})])
    assert shipped.result().refused == ()
    held = box.state("sentry")
    attributes = held["logs"][0]["attributes"]
    assert attributes["status"] == {"value": 404, "type": "integer"}
    assert attributes["ship"] == held["metrics"][0]["attributes"]["ship"] == {"value": "tug", "type": "string"}
    assert attributes["depth"] == {"value": 1.5, "type": "double"}


def test_sent_again_it_is_one_event(box: Box):
    """A Call that comes out of a queue sends the same event, which Sentry has once."""
    sentry = box.service(Sentry)
    call = sentry.capture(report(fail()))
    stored = json.loads(json.dumps(call.to_payload()))
    again = Call.from_payload(stored, lambda _: sentry)
    assert again.result().id == call.result().id
    assert len(box.state("sentry")["events"]) == 1


# The official package ------------------------------------------------------------------------------------------------


class _Kept(Transport):
    def __init__(self) -> None:
        super().__init__({"dsn": DSN})
        self.envelopes: list[Envelope] = []

    def capture_envelope(self, envelope: Envelope) -> None:
        self.envelopes.append(envelope)


def official(act: Callable[[Any], object], **options: Any) -> list[Envelope]:
    """What sentry-sdk sends."""
    kept = _Kept()
    client = sentry_sdk.Client(
        dsn=DSN,
        transport=kept,
        default_integrations=False,
        include_local_variables=False,
        project_root=str(Path(__file__).parents[2]),
        **options,
    )
    with sentry_sdk.new_scope() as scope:
        scope.set_client(client)
        act(scope)
        client.flush(2)
    return kept.envelopes


@pytest.mark.parametrize("make", [fail, fail_in_context, fail_in_group], ids=lambda one: one.__name__)
def test_exceptions_are_as_the_official_package_has_them(make: Callable[[], BaseException]):
    """The same chain, mechanism, frames, lines and module names for the same exception, group or not."""
    error = make()
    [envelope] = official(lambda scope: scope.capture_exception(error))
    theirs = envelope.get_event()
    assert theirs is not None
    _, [(_, ours)] = items_of(recorded(lambda s: s.capture(report(error))))
    values = json.loads(json.dumps(theirs["exception"]["values"]))
    for frame in [one for value in values for one in value.get("stacktrace", {}).get("frames", [])]:
        frame.setdefault("in_app", False)  # of Python's own it says nothing, where we say no
    assert ours["exception"]["values"] == values
    assert (ours["level"], ours["platform"]) == (theirs["level"], theirs["platform"])


def test_the_stand_in_takes_what_the_official_package_sends():
    """Its envelopes of an error, a message with breadcrumbs, lines, metrics and a check-in are taken whole."""
    stand_in = STAND_IN.make(Surroundings())

    def act(scope: Any) -> None:
        scope.add_breadcrumb({"message": "before"})
        scope.capture_exception(fail())
        scope.capture_message("hello", level="info")
        scope.capture_event({"type": "check_in", "monitor_slug": "nightly", "status": "ok", "check_in_id": "ab" * 16})
        sentry_sdk.logger.warning("anchored at {quay}", quay=3)
        sentry_sdk.metrics.count("calls", 3, attributes={"quay": 3})

    for envelope in official(act, enable_logs=True):
        request = httpx2.Request(
            "POST",
            "https://x.example/api/4242/envelope/",
            content=gzip.compress(envelope.serialize()),
            headers={"Content-Encoding": "gzip", "X-Sentry-Auth": f"Sentry sentry_key={Dsn.of(DSN).public_key}"},
        )
        assert answered(stand_in, request).status_code == 200
    held = stand_in.snapshot()
    assert (len(held["events"]), len(held["logs"]), len(held["metrics"]), len(held["check_ins"])) == (2, 1, 1, 1)


def test_logs_and_metrics_are_as_the_official_package_has_them():
    """The same item headers and fields for the same line and point."""

    def act(_: Any) -> None:
        sentry_sdk.logger.warning("anchored", attributes={"quay": 3, "fast": True})
        sentry_sdk.metrics.gauge("depth", 1.5, unit="metre", attributes={"quay": "3"})

    theirs = {one.headers["type"]: one for envelope in official(act, enable_logs=True) for one in envelope.items}
    lines = [LogLine("anchored", "warning", {"quay": 3, "fast": True})]
    points = [Metric("depth", 1.5, MetricKind.GAUGE, {"quay": "3"}, "metre")]
    for kind, make in (("log", lambda s: s.send_logs(lines)), ("trace_metric", lambda s: s.send_metrics(points))):
        _, [(head, body)] = items_of(recorded(make))
        official_body = json.loads(theirs[kind].get_bytes())
        assert {name: head[name] for name in ("type", "content_type", "item_count")} == {
            name: theirs[kind].headers[name] for name in ("type", "content_type", "item_count")
        }
        [mine], [other] = body.pop("items"), official_body.pop("items")
        assert body == official_body
        assert mine.keys() == other.keys() - {"span_id"}
        fixed = {"timestamp", "trace_id", "attributes", "span_id"}
        assert {name: mine[name] for name in mine.keys() - fixed} == {name: other[name] for name in mine.keys() - fixed}
        assert mine["attributes"].items() <= other["attributes"].items()


@pytest.mark.contracts
@pytest.mark.parametrize("make", [fail, fail_in_context, fail_in_group], ids=lambda one: one.__name__)
def test_events_fit_the_contract(contracts_dir: Path, make: Callable[[], BaseException]):
    """Every event that we build is valid by sentry.schema.json."""
    contract = Contract(contracts_dir, "sentry.schema")
    for one in (FULL, report(make(), locals=True, crumbs=FULL.crumbs, handled=False)):
        _, [(_, event)] = items_of(recorded(_capturing(one)))
        assert contract.problems("", event) == []


# The envelope --------------------------------------------------------------------------------------------------------


def test_the_envelope_is_framed():
    """Header and item lines are JSON, lengths are bytes, the body is gzip, and the key is in a header."""
    request = recorded(lambda s: s.capture(FULL))
    lines = gzip.decompress(request.content).split(b"\n")
    head, item = json.loads(lines[0]), json.loads(lines[1])
    assert (head["event_id"], re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:]{8}\.\d{3}Z", head["sent_at"]) is not None) == (
        FULL.id,
        True,
    )
    assert (item["type"], item["length"]) == ("event", len(lines[2]))
    assert request.headers["content-type"] == "application/x-sentry-envelope"
    assert request.headers["x-sentry-auth"].startswith("Sentry sentry_version=7, sentry_client=moorline/")
    assert str(request.url) == "https://o1.ingest.us.sentry.io/api/4242/envelope/"


@pytest.mark.parametrize(
    ("dsn", "url", "secret"),
    [
        ("https://key@sentry.example/7", "https://sentry.example/api/7/envelope/", ""),
        ("https://key:pass@sentry.example:9000/a/b/7", "https://sentry.example:9000/a/b/api/7/envelope/", "pass"),
        ("http://key@127.0.0.1:8969/stream-1", "http://127.0.0.1:8969/api/stream-1/envelope/", ""),
        ("http://key@[::1]:8969/1", "http://[::1]:8969/api/1/envelope/", ""),
    ],
)
def test_a_dsn_says_where(dsn: str, url: str, secret: str):
    """Scheme, host, port and path lead the way; the secret of an old one is shown, and no DSN is in a repr."""
    recorder = Recorder()
    service = recorder.service(Sentry, key=dsn)
    service.capture(FULL).result()
    assert str(recorder.requests[0].url) == url
    auth = recorder.requests[0].headers["x-sentry-auth"]
    assert ("sentry_key=key" in auth, "sentry_secret=pass" in auth) == (True, bool(secret))
    assert "pass" not in repr(service) + repr(service.dsn)


@pytest.mark.parametrize(
    "dsn",
    ["", "nonsense", "https://sentry.example/7", "https://key@/7", "https://key@sentry.example", "ftp://key@x.example/1",
     "http://key@sentry.example/7", "https://key@sentry.example/7?x=1#y/", "https://k%20y@sentry.example/7",
     "https://key@sentry.example:99999/7", "https://[/7"],
)  # fmt: skip
def test_what_is_no_dsn(dsn: str):
    """It is a ConfigurationError that does not show it."""
    with pytest.raises(errors.ConfigurationError) as caught:
        Sentry(dsn or "x").capture(FULL)
    assert "nonsense" not in str(caught.value)


@given(st.text(max_size=60))
def test_no_dsn_raises_anything_else(dsn: str):
    """Whatever stands there, it is read or it is a ConfigurationError."""
    with contextlib.suppress(errors.ConfigurationError):
        assert Dsn.of(dsn).base.startswith("http")


def test_an_empty_dsn_switches_off(monkeypatch: pytest.MonkeyPatch):
    """Without a DSN, or with an empty one, it says so, and a call says which variable is missing."""
    monkeypatch.setenv("SENTRY_DSN", "")
    assert Sentry().switched_off
    assert "without a DSN" in repr(Sentry())
    with pytest.raises(errors.ConfigurationError, match="SENTRY_DSN"):
        Sentry().capture(FULL)
    monkeypatch.setenv("SENTRY_DSN", DSN)
    assert not Sentry().switched_off


# What does not leave -------------------------------------------------------------------------------------------------


def _leak() -> BaseException:
    token = "sk_live_abcdefghijklmnop"
    password = "hunter2hunter2"  # noqa: F841
    headers = {"Authorization": f"Bearer {token}", "accept": "x"}  # noqa: F841
    try:
        raise ValueError(f"https://user:hunter2hunter2@x.example/?token={token} refused, token={token}")
    except ValueError as error:
        return error


@pytest.mark.parametrize("with_locals", [False, True])
def test_no_secret_leaves(with_locals: bool):
    """Neither in texts, lines of source, URLs, tags, extra, breadcrumbs nor variables; those are left out by default."""
    made = report(
        _leak(),
        locals=with_locals,
        tags={"api_key": "k-3141592653", "quay": "3"},
        extra={"headers": {"Cookie": "session=2718281828"}, "url": "https://x.example/?password=hunter2hunter2"},
        crumbs=[Crumb("GET https://x.example/?token=sk_live_abcdefghijklmnop", data={"token": "t-1414213562"})],
    )
    request = recorded(lambda s: s.capture(made, contexts={"auth": {"client_secret": "s-1732050807"}}))
    sent = gzip.decompress(request.content).decode()
    for secret in ("sk_live_", "hunter2hunter2", "k-314", "2718281828", "t-1414", "s-1732"):
        assert secret not in sent.replace('sk_live_abcdefghijklmnop"  # noqa', ""), secret
    _, [(_, event)] = items_of(request)
    variables = event["exception"]["values"][0]["stacktrace"]["frames"][-1].get("vars", {})
    assert bool(variables) is with_locals
    assert variables.get("password", "***") == "***"
    assert event["tags"] == {"api_key": "***", "quay": "3"}


def test_logs_and_metrics_are_scrubbed():
    """Messages, attributes and tags too; a masked attribute keeps its shape."""
    line = LogLine("token=sk_live_abcdefghijklmnop", attributes={"password": "hunter2hunter2"})
    _, [(_, body)] = items_of(recorded(lambda s: s.send_logs([line])))
    assert body["items"][0]["attributes"]["password"] == {"value": "***", "type": "string"}
    assert "sk_live_" not in json.dumps(body)
    _, [(_, body)] = items_of(recorded(lambda s: s.send_metrics([Metric("x", 1, tags={"secret": "hunter2"})])))
    assert body["items"][0]["attributes"]["secret"]["value"] == "***"


# Limits --------------------------------------------------------------------------------------------------------------


def test_a_limited_category_waits_and_the_others_go_on(box: Box, run: Run):
    """A 200 that limits errors stops reports until then, unsent; logs and metrics go on."""
    sentry = box.service(Sentry, policy=Policy(deadline=5))
    run(sentry.capture(Report("x", tags={"sandbox.limits": "60:error:key, 60:session"})))
    with pytest.raises(errors.RateLimited) as caught:
        run(sentry.capture(FULL))
    assert (caught.value.outcome, caught.value.retry_at is not None) == ("not_sent", True)
    run(sentry.send_logs(LINES))
    run(sentry.check_in(CheckIn("nightly", "ok")))
    assert len(box.seen()) == 3
    other = box.service(Sentry, policy=Policy(deadline=5, retry=None))
    with pytest.raises(errors.RateLimited) as told:
        run(other.capture(FULL))
    assert (told.value.status, box.state("sentry")["dropped"]) == (429, {"error": 1})


def test_limits_are_those_of_a_dsn(box: Box):
    """Another project goes on where one is limited."""
    guards = Guards()
    one = box.service(Sentry, guards=guards, policy=Policy(deadline=5))
    one.capture(Report("x", tags={"sandbox.limits": "60::key"})).result()
    with pytest.raises(errors.RateLimited):
        one.check().result()
    other = box.service(Sentry, DSN.replace("/4242", "/4243"), guards=guards, policy=Policy(deadline=5))
    with pytest.raises(errors.AuthenticationFailed):
        other.check().result()


@pytest.mark.parametrize(
    ("made", "contexts", "kept", "extra"),
    [
        (Report("x", crumbs=[Crumb(f"{n}" * 300_000) for n in range(5)], extra={"a": 1}), 0, "234", True),
        (Report("x", crumbs=[Crumb("1" * 300_000)], extra={"a": "y" * 1_100_000}), 0, "", False),
        (Report("x", crumbs=[Crumb(f"{n}" * 300_000) for n in range(3)], extra={"a": 1}), 400_000, "12", True),
    ],
)
def test_an_event_that_is_too_large_goes_without_its_surroundings(made: Report, contexts: int, kept: str, extra: bool):
    """The oldest breadcrumbs are left out, as many as need be, then what was given beside it; the report arrives."""
    request = recorded(lambda s: s.capture(made, contexts={"cargo": {"all": "z" * contexts}}))
    event = items_of(request)[1][0][1]
    assert "".join(one["message"][0] for one in event["breadcrumbs"]["values"]) == kept
    assert (event["logentry"]["formatted"], "extra" in event) == ("x", extra)


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda s: s.capture(Report("x" * 1_100_000)), "event"),
        (lambda s: s.send_metrics([POINTS[0], Metric("x", 1, tags={"a": "y" * 2100})]), r"metrics\[1\]"),
        (lambda s: s.send_metrics([POINTS[0]] * 1001), "metrics"),
        (lambda s: s.send_logs([LogLine("x" * 20_000)] * 60), "logs"),
        (lambda s: s.send_logs([LINES[0]] * 101), "logs"),
        (lambda s: s.send_logs([]), "logs"),
        (lambda s: s.check_in(CheckIn("a", "ok", config={"x": "y" * 103_000})), "check_in"),
        (lambda s: s.send_envelope([Item("client_report", {"x": "y" * 5000})]), "client_report"),
        (lambda s: s.send_envelope([Item("a b", {})]), "type"),
        (lambda s: s.send_envelope([]), "items"),
        (lambda s: s.send_envelope([Item("event", {})], event_id="x"), "event_id"),
    ],
)
def test_limits_are_checked_before_sending(make: Callable[[Any], Any], field: str):
    """What Sentry would refuse by a documented rule is InvalidRequest naming the field, and nothing is sent."""
    recorder = Recorder()
    with pytest.raises(errors.InvalidRequest, match=f"^{field}:") as caught:
        make(recorder.service(Sentry, key=DSN))
    assert (caught.value.outcome, recorder.requests) == ("not_sent", [])


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (Report, "message"),
        (lambda: Report("x", "loud"), "level"),  # type: ignore[arg-type]
        (lambda: Report("x", id="1"), "id"),
        (lambda: Report("x", tags={"a": 1}), r"tags\[a\]"),  # type: ignore[dict-item]
        (lambda: Metric("", 1), "name"),
        (lambda: Metric("x", float("nan")), "value"),
        (lambda: Metric("x", True), "value"),
        (lambda: Metric("x", 1, interval=0), "interval"),
        (lambda: LogLine("x", attributes={"a": []}), r"attributes\[a\]"),  # type: ignore[dict-item]
        (lambda: LogLine("x", attributes={"a": float("inf")}), r"attributes\[a\]"),
        (lambda: LogLine("x", trace="1"), "trace"),
        (lambda: LogLine("x", at=-1), "at"),
        (lambda: Occurrence("x", kind="a b"), "kind"),
        (lambda: CheckIn("", "ok"), "slug"),
        (lambda: CheckIn("a", "late"), "status"),  # type: ignore[arg-type]
        (lambda: CheckIn("a", "ok", id="1"), "id"),
    ],
)
def test_values_check_themselves(make: Callable[[], object], field: str):
    """What cannot be is refused where it is made."""
    with pytest.raises(errors.InvalidRequest, match=f"^{field}:"):
        make()


def test_what_is_no_item():
    """It is InvalidRequest that names it, and nothing is sent."""
    with pytest.raises(errors.InvalidRequest, match=r"^items\[1\]:"):
        Recorder().service(Sentry, key=DSN).ship([FULL, "x"])


def test_many_are_divided(box: Box, run: Run):
    """Any number goes with as many requests as it takes; what fits into none, or is none of Sentry's, is told."""
    many: list[Any] = [*[LogLine("x", at=1.0)] * 250, *POINTS, FULL, LogLine("y" * 1_100_000), Occurrence("deployed")]
    shipped = run(box.service(Sentry).ship(many))
    held = box.state("sentry")
    assert (len(held["logs"]), len(held["metrics"]), len(held["events"])) == (250, 3, 1)
    assert (shipped.accepted, len(box.seen())) == (254, 5)
    assert [type(one.item).__name__ for one in shipped.refused] == ["LogLine", "Occurrence"]
    assert "capture" in str(shipped.refused[1].error)


@pytest.mark.parametrize(
    "fault", [{"kind": "status", "status": 503}, {"kind": "status", "status": 520}, {"kind": "dropped"}]
)
def test_what_failed_is_not_repeated_at_once(box: Box, run: Run, fault: dict[str, Any]):
    """As Sentry asks; the same Call may be sent later, and is one event."""
    sentry = box.service(Sentry)
    call = sentry.capture(FULL)
    box.arm(processed=True, **fault)
    with pytest.raises(errors.CallError) as caught:
        run(call)
    assert (len(caught.value.attempts), caught.value.retryable) == (1, True)
    run(call)
    assert len(box.state("sentry")["events"]) == 1


def test_errors_are_mapped(box: Box, run: Run):
    """An unknown key is AuthenticationFailed, what is malformed InvalidRequest with Sentry's reason, and no more."""
    with pytest.raises(errors.AuthenticationFailed):
        run(box.service(Sentry, DSN.replace("5a17", "0000")).check())
    with pytest.raises(errors.InvalidRequest, match="neither type nor value"):
        run(box.service(Sentry).send_envelope([Item("event", {"event_id": "ab" * 16, "exception": {"values": [{}]}})]))
    with pytest.raises(errors.InvalidRequest):
        run(box.service(Sentry).send_envelope([Item("event", {"event_id": "ab" * 16, "level": "loud"})]))


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]\n", b' {"event_id":"x"}\n', b'{"a":1,"a":2}\n', b'{}\n{"type":"event","length":99}\n{}\n',
        b'{}\n{"type":"event","length":1}\n{}\n', b'{}\n{"length":2}\n{}\n', b'{}\n{"type":"event"}', b'{}\n{"type":"log"}\n[]\n',
        b'{}\n{"type":"log","item_count":1}\n{"items":[{}]}\n', b'{}\n{"type":"event"}\n{"level":NaN}\n',
    ],
)  # fmt: skip
def test_the_stand_in_refuses_what_is_malformed(body: bytes):
    """A wrong length, a padded or doubled header, an item without a type: 400 with the reason."""
    stand_in = STAND_IN.make(Surroundings())
    headers = {"X-Sentry-Auth": f"Sentry sentry_key={Dsn.of(DSN).public_key}"}
    request = httpx2.Request("POST", "https://x.example/api/4242/envelope/", content=body, headers=headers)
    answer = answered(stand_in, request)
    assert (answer.status_code, bool(answer.headers["x-sentry-error"])) == (400, True)


# Webhooks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "kind", "severity"),
    [
        ("issue.created", "triggered", "error"),
        ("issue.resolved", "recovered", "error"),
        ("error.created", "triggered", "error"),
        ("event_alert.triggered", "triggered", "error"),
        ("metric_alert.critical", "triggered", "critical"),
        ("metric_alert.resolved", "recovered", "resolved"),
    ],
)
def test_alarms_are_read(event: str, kind: str, severity: str):
    """Each has its kind, title, address, severity and time; an issue's has the same subject as its alert's."""
    resource, _, action = event.partition(".")
    body = STAND_IN.make(Surroundings()).sample(event)
    read = Sentry.read_event(Event("sentry", "1", resource, body, action=action))
    assert read is not None
    assert (read.kind.value, read.severity, read.type) == (kind, severity, event)
    assert read.url is not None
    assert (read.url.startswith("https://sentry.io/"), read.at is not None, bool(read.title)) == (True, True, True)
    assert read.subject == ("4" if resource == "metric_alert" else "1170820242")


def test_events_without_a_common_meaning():
    """Installations, comments and new words are None; another shape is BadAnswer."""
    for resource, action in (("installation", "created"), ("comment", "created"), ("issue", "teleported")):
        assert Sentry.read_event(Event("sentry", "1", resource, b"{}", action=action)) is None
    for body in (b"{}", b'{"data":{}}', b'{"data":{"issue":[]}}', b'{"data":{"issue":{"title":1}}}'):
        with pytest.raises(errors.BadAnswer):
            Sentry.read_event(Event("sentry", "1", "issue", body, action="created"))


def test_a_new_issue_is_told_once():
    """The first event of an issue is told by three webhooks, the second by none, one that resolves it by one."""
    emitted: list[Emission] = []
    stand_in = STAND_IN.make(Surroundings(emit=emitted.append))
    wire = httpx2.MockTransport(lambda request: answered(stand_in, request))
    sentry = Sentry(DSN, wire=wire, guards=Guards())
    sentry.capture(report(fail())).result()
    assert [one.event for one in emitted] == ["issue.created", "error.created", "event_alert.triggered"]
    sentry.capture(report(fail(), tags={"sandbox.resolve": "1"})).result()
    assert [one.event for one in emitted[3:]] == ["issue.resolved"]
