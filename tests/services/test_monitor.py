"""The Monitor hands over, and is never in the way: what arrives, what is counted, and what is never reported."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.services.conftest import Box
from tests.services.test_sentry import DSN, fail, items_of

from moorline import Moorline
from moorline.calls.account import KeySource
from moorline.calls.guards import Guards
from moorline.errors import ConfigurationError, SecretUnavailable
from moorline.policies.policy import Policy
from moorline.services.batches import encoded
from moorline.services.monitor import Monitor
from moorline.services.monitor_hooks import LogHandler, MonitorMiddleware, install
from moorline.services.monitoring.datadog import Datadog
from moorline.services.monitoring.logrocket import LogRocket
from moorline.services.monitoring.new_relic import NewRelic
from moorline.services.monitoring.protocol import Crumb, LogLine, Metric, Report
from moorline.services.monitoring.sentry import Sentry

TEXTS = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FFF, exclude_categories=["Cs"]), max_size=20)
NAMES = st.sampled_from(["quay", "token", "password", "url", "api_key", "ship"])


class Wire:
    """Keeps the events that Sentry gets; answers as *status* says, by way of what *act* does."""

    def __init__(self, status: int = 200, act: Callable[[], object] = lambda: None) -> None:
        self.status, self.act = status, act
        self.requests: list[httpx2.Request] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        self.act()
        return httpx2.Response(self.status, json={})

    @property
    def events(self) -> list[dict[str, Any]]:
        found = [item for request in self.requests for item in items_of(request)[1]]
        return [payload for head, payload in found if head["type"] == "event"]


def sentry(wire: Wire, key: KeySource = DSN, **options: Any) -> Sentry:
    return Sentry(key, wire=httpx2.MockTransport(wire), guards=Guards(), policy=Policy(retry=None), **options)


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
def monitor(wire: Wire) -> Iterator[Monitor]:
    """One that sends to the wire at once when flushed."""
    made = Monitor(sentry(wire), release="shop@1", environment="test", server="web-1", crumbs=3)
    yield made
    made.close(1)


def test_each_service_gets_what_it_takes(box: Box):
    """Exceptions, messages, metrics, lines and events arrive at all three, each in the form that it has for them."""
    monitor = Monitor(box.service(Sentry), box.service(Datadog), box.service(NewRelic), age=60)
    try:
        raise ValueError("no cargo")
    except ValueError:
        assert monitor.capture_exception()
    assert monitor.capture_message("moored", tags={"quay": "3"})
    assert monitor.count("orders", 2, quay="3")
    assert monitor.gauge("depth", 1.5)
    assert monitor.distribution("seconds", 0.25)
    assert monitor.event("Deployed", "shop@2", group="deploys", quay=3)
    assert monitor.log("anchored", "warning", quay=3)
    assert monitor.flush(10)
    seen = {name: box.state(name) for name in ("sentry", "datadog", "new_relic")}
    events = list(seen["sentry"]["events"].values())
    assert [one["level"] for one in events] == ["error", "info", "info"]
    assert events[2]["logentry"]["formatted"] == "Deployed: shop@2"
    assert [len(seen["sentry"][one]) for one in ("metrics", "logs")] == [3, 1]
    assert [len(seen["datadog"][one]) for one in ("series", "logs", "events")] == [2, 3, 1]
    assert [len(seen["new_relic"][one]) for one in ("metrics", "logs", "events")] == [3, 3, 1]
    assert monitor.counts["datadog.send_metrics"].refused == {"InvalidRequest": 1}  # the distribution
    assert monitor.counts["sentry.capture"].sent == 3
    assert monitor.close()


def test_a_report_has_its_context(monitor: Monitor, wire: Wire):
    """Tags, user and the last breadcrumbs of the context, release and server; each scope's end with it."""
    with monitor.scope():
        monitor.set_tag("quay", "3")
        monitor.set_user("u_1", email="ada@example.com")
        for number in range(5):
            monitor.add_breadcrumb(f"crumb {number}", "test", data={"number": number})
        monitor.capture_message("within", tags={"ship": "x"}, extra={"cargo": [1]})
    monitor.capture_message("after")
    assert monitor.flush()
    within, after = wire.events
    assert (within["tags"], within["user"]["id"]) == ({"quay": "3", "ship": "x"}, "u_1")
    assert [one["message"] for one in within["breadcrumbs"]["values"]] == ["crumb 2", "crumb 3", "crumb 4"]
    assert (within["release"], within["environment"], within["server_name"]) == ("shop@1", "test", "web-1")
    assert "breadcrumbs" not in after
    assert "user" not in after


def test_numbers_that_json_has_not_are_text(monitor: Monitor, wire: Wire):
    """A breadcrumb with one takes no report away, nor does what is given beside a report, however deep."""
    monitor.add_breadcrumb("cache", data={"hit_ratio": float("nan"), "hits": 0})
    assert monitor.capture_exception(fail(), extra={"cargo": [{"ratio": float("-inf")}]})
    assert monitor.hand(Report("x", crumbs=[Crumb("cache", data={"ratio": float("inf")})]))
    assert monitor.flush()
    first, second = wire.events
    assert first["breadcrumbs"]["values"][0]["data"] == {"hit_ratio": "nan", "hits": 0}
    assert first["extra"]["cargo"] == [{"ratio": "-inf"}]
    assert second["breadcrumbs"]["values"][0]["data"] == {"ratio": "inf"}


def test_long_breadcrumbs_are_cut(monitor: Monitor, wire: Wire):
    """Of a long message, or text beside it, the beginning is on the reports that follow, without secrets."""
    text = "x" * 4080 + " token=hunter2hunter2 " + "y" * 600_000
    monitor.add_breadcrumb(text, data={"body": text, "size": 600_000, "short": "z"})
    monitor.add_breadcrumb(text)
    assert monitor.capture_exception(fail())
    assert monitor.flush()
    first, second = wire.events[0]["breadcrumbs"]["values"]
    assert first["message"] == second["message"] == first["data"]["body"]
    assert first["message"].startswith("x" * 4080 + " token=***")
    assert len(first["message"]) == 4096 + len("...")
    assert (first["data"]["size"], first["data"]["short"]) == (600_000, "z")


def test_a_large_report_is_handed_over_without_its_surroundings(monitor: Monitor, wire: Wire):
    """What one record of the log had beside it takes no report away."""
    assert monitor.capture_exception(fail(), extra={"body": "z " * 600_000})
    assert monitor.flush()
    assert "extra" not in wire.events[0]


@pytest.mark.parametrize("name", ["", " ", 7])
def test_a_tag_without_a_name_is_no_tag(name: Any, monitor: Monitor, wire: Wire):
    """It is counted when it is set, and takes no report that follows away."""
    monitor.set_tag("quay", "3")
    monitor.set_tag(name, "x")
    assert monitor.misused == {"InvalidRequest": 1}
    assert monitor.capture_exception(fail())
    assert monitor.flush()
    assert wire.events[0]["tags"] == {"quay": "3"}


def test_release_and_environment_have_their_usual_names(wire: Wire, monkeypatch: pytest.MonkeyPatch):
    """Those of Sentry's own package."""
    monkeypatch.setenv("SENTRY_RELEASE", "shop@3")
    monkeypatch.setenv("SENTRY_ENVIRONMENT", "staging")
    monitor = Monitor(sentry(wire))
    monitor.capture_message("x")
    assert monitor.flush()
    assert (wire.events[0]["release"], wire.events[0]["environment"]) == ("shop@3", "staging")


async def test_tasks_do_not_share_a_context(monitor: Monitor, wire: Wire):
    """What one task sets is not on the report of another."""

    async def work(name: str) -> None:
        monitor.set_tag("task", name)
        await asyncio.sleep(0)
        monitor.capture_message(name)

    await asyncio.gather(work("a"), work("b"))
    assert await monitor.aflush()
    assert sorted((one["logentry"]["formatted"], one["tags"]["task"]) for one in wire.events) == [
        ("a", "a"),
        ("b", "b"),
    ]


def test_an_exception_is_reported_once(monitor: Monitor, wire: Wire):
    """It keeps its id on its way up, whoever reports it again."""
    error = fail()
    first = monitor.capture_exception(error)
    assert monitor.capture_exception(error, handled=False) == first
    assert monitor.flush()
    assert [one["event_id"] for one in wire.events] == [first]


@pytest.mark.parametrize(
    "act",
    [
        lambda m: m.count("", 1),
        lambda m: m.gauge("x", "wide"),
        lambda m: m.gauge("x", float("nan")),
        lambda m: m.count("x", 1, tag=object()),
        lambda m: m.capture_message(7),
        lambda m: m.capture_message("x", "loud"),
        lambda m: m.capture_exception("no exception"),
        lambda m: m.capture_exception(),
        lambda m: m.event("x", kind="no kind"),
        lambda m: m.log("x", attribute=[]),
        lambda m: m.log(None),
        lambda m: m.hand("x"),
        lambda m: m.add_breadcrumb(None),
        lambda m: m.set_tag("x", _Hostile()),
    ],
)
def test_wrong_arguments_are_counted(act: Callable[[Any], Any], monitor: Monitor, caplog: pytest.LogCaptureFixture):
    """They raise nothing; each kind is logged once, and all are counted."""
    assert not act(monitor)
    assert not act(monitor)
    assert sum(monitor.misused.values()) == 2
    assert sum("monitor_misused" in one.getMessage() for one in caplog.records) == 1


class _Hostile:
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class _HostileError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_an_exception_that_has_no_text_is_reported(monitor: Monitor, wire: Wire):
    """Whatever its own methods do."""
    with pytest.raises(_HostileError) as caught:
        raise _HostileError
    assert monitor.capture_exception(caught.value, extra={"x": 1})
    assert monitor.flush()
    assert "no text" in wire.events[0]["exception"]["values"][0]["value"]


def test_nothing_is_reported_of_its_own_work():
    """A handler on everything, and a service that fails and logs while it is asked: one request for one report."""
    root = logging.getLogger()

    def act() -> None:
        logging.getLogger("shop").error("within the sending")
        raise httpx2.ConnectError("down")

    wire = Wire(act=act)
    monitor = Monitor(sentry(wire), age=60)
    handler = LogHandler(monitor, logging.DEBUG, logging.WARNING)
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        monitor.capture_message("once")
        monitor.flush(0.5)
        logging.getLogger("moorline.calls").warning("breaker_changed service='sentry at https://x'")
        logging.getLogger("httpx2").info("POST")
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
    counts = monitor.counts
    assert (counts["sentry.capture"].added, counts["sentry.send_logs"].added) == (1, 0)
    monitor.close(0.01)


def test_making_a_report_is_not_reported(wire: Wire):
    """What is logged while variables are looked at is not handed over."""
    monitor = Monitor(sentry(wire), locals=True, age=60)
    handler = LogHandler(monitor)
    shop = logging.getLogger("shop")
    shop.addHandler(handler)

    class Talkative:
        def __repr__(self) -> str:
            shop.error("looked at")
            return "talkative"

    def deep() -> None:
        talkative = Talkative()  # noqa: F841 - it is looked at
        raise ValueError

    try:
        deep()
    except ValueError:
        monitor.capture_exception()
    finally:
        shop.removeHandler(handler)
    assert monitor.counts["sentry.capture"].added == 1
    assert monitor.flush()
    assert wire.events[0]["exception"]["values"][0]["stacktrace"]["frames"][-1]["vars"]["talkative"] == "talkative"


def test_without_a_dsn_nothing_is_sent(monkeypatch: pytest.MonkeyPatch):
    """An empty DSN switches it off, without a word."""
    monkeypatch.setenv("SENTRY_DSN", "")
    monkeypatch.delenv("MOORLINE_SANDBOX_URL", raising=False)
    monitor = Monitor(Sentry)
    assert monitor.capture_message("x") is None
    assert (monitor.counts["sentry.capture"].added, dict(monitor.misused)) == (0, {})


@pytest.mark.parametrize("services", [(), (LogRocket,), (LogRocket("k", app="a/b"),), ("sentry",), (int,)])
def test_what_is_no_service_that_watches(services: tuple[Any, ...]):
    """It is a ConfigurationError, which says why where the service knows."""
    with pytest.raises(ConfigurationError, match="Monitor"):
        Monitor(*services)


def test_what_sentry_does_not_want_is_dropped(box: Box):
    """While it has closed a category nothing is kept for it, and all is counted; other kinds go on."""
    monitor = Monitor(box.service(Sentry), box.service(Datadog), age=60)
    monitor.hand(Report("x", tags={"sandbox.limits": "60:error:key"}))
    assert monitor.flush(10)
    assert monitor.capture_message("dropped there, and taken here")
    monitor.log("taken")
    assert monitor.flush(10)
    assert (monitor.limited, monitor.counts["sentry.capture"].added) == ({"sentry.capture": 1}, 1)
    assert (len(box.state("sentry")["logs"]), len(box.state("datadog")["logs"])) == (1, 3)


def test_the_credential_is_read_where_it_may_take_long(wire: Wire):
    """Not by who hands over, who would wait for it, but by the thread that sends."""
    readers: list[threading.Thread] = []

    def key() -> str:
        readers.append(threading.current_thread())
        return DSN

    monitor = Monitor(sentry(wire, key), age=60)
    for text in ("first", "second"):
        assert monitor.capture_message(text)
        assert monitor.log(text)
        assert monitor.flush()
    assert len(wire.events) == 2
    assert readers
    assert threading.current_thread() not in readers


class _Broken(Datadog):
    @property
    def switched_off(self) -> bool:
        raise SecretUnavailable("the vault is down")


def test_a_service_that_fails_silences_no_other(wire: Wire):
    """What one raises when it is handed something is counted, and all others get it, once."""
    monitor = Monitor(_Broken("k" * 32), Sentry("not-a-dsn"), sentry(wire), _Broken("k" * 32), age=60)
    error = fail()
    name = monitor.capture_exception(error)
    assert monitor.capture_exception(error) == name
    assert monitor.log("anchored")
    assert monitor.flush()
    assert [one["event_id"] for one in wire.events] == [name]
    assert monitor.counts["sentry#2.send_logs"].sent == 1
    assert monitor.misused == {"SecretUnavailable": 4}
    assert monitor.counts["sentry.capture"].refused == {"ConfigurationError": 1}


def test_at_the_end_all_that_waits_becomes_jobs(tmp_path: Path):
    """One for each report, whatever waits: none is lost behind the first."""
    wire = Wire(503)
    app = Moorline(f"sqlite:///{tmp_path}/m.db")
    service = app.service(Sentry, api_key=DSN, wire=httpx2.MockTransport(wire), guards=Guards())
    monitor = Monitor(service, age=60)
    batcher = monitor._batchers[0, "capture"]
    with app.opened(), batcher._changed:  # nobody sends meanwhile
        for number in range(5):
            monitor.capture_message(f"message {number}")
        left = batcher._backlog.clear()
        batcher._flying += len(left)
    with app.opened():
        assert batcher._spill(left) == []
    assert monitor.counts["sentry.capture"].spilled == 5


def test_two_of_one_service_are_told_apart(wire: Wire):
    """By number."""
    names = Monitor(sentry(wire), sentry(wire)).counts
    assert {"sentry.capture", "sentry#2.capture"} <= names.keys()


async def test_what_cannot_be_sent_becomes_a_job(tmp_path: Path):
    """Where the service is an application's, a report outlives an outage: its job sends it once, under its id."""
    wire = Wire(act=lambda: (_ for _ in ()).throw(httpx2.ConnectError("down")))
    async with Moorline(f"sqlite:///{tmp_path}/m.db") as app:
        service = app.service(Sentry, api_key=DSN, wire=httpx2.MockTransport(wire), guards=Guards())
        service.policy = Policy(retry=None, breaker=None)
        monitor = Monitor(service)
        monitor.add_breadcrumb("before", data={"what": {1, 2}})  # type: ignore[dict-item]
        name = monitor.capture_message("down", extra={"what": object(), "when": {"token": "hunter2"}})
        assert await monitor.aflush(10)
        assert monitor.counts["sentry.capture"].spilled == 1
        sent, loop = asyncio.Event(), asyncio.get_running_loop()
        wire.act = lambda: loop.call_soon_threadsafe(sent.set)
        wire.requests.clear()
        worker = app.worker()
        task = asyncio.create_task(worker.run(signals=False))
        await asyncio.wait_for(sent.wait(), 20)
        worker.stop()
        await task
        assert [one["event_id"] for one in wire.events] == [name]


# Where it hears of things ---------------------------------------------------------------------------------------------


def test_the_log(box: Box, monkeypatch: pytest.MonkeyPatch):
    """Records are lines, those that are bad are reports as well, with their exception and what was given beside it."""
    monitor = Monitor(box.service(Sentry), box.service(Datadog), age=60)
    shop = logging.getLogger("shop.quay")
    handler = LogHandler(monitor)
    shop.addHandler(handler)
    monkeypatch.setattr(shop, "level", logging.DEBUG)
    monkeypatch.setattr(shop, "propagate", False)
    monkeypatch.setattr(logging, "raiseExceptions", False)  # a record that cannot be formatted, as it should not be
    try:
        shop.debug("not this")
        shop.info("moored at %s", 3, extra={"quay": 3, "cargo": ["x"], "wide": float("inf")})
        shop.error("lost")
        try:
            raise KeyError("anchor")
        except KeyError:
            shop.exception("dragging")
        shop.info("%d", "not a number")
    finally:
        shop.removeHandler(handler)
    assert monitor.flush(10)
    events = list(box.state("sentry")["events"].values())
    assert [one.get("logentry", {}).get("formatted") for one in events] == ["lost", None]
    assert events[1]["exception"]["values"][0]["type"] == "KeyError"
    assert events[1]["extra"]["message"] == "dragging"
    assert [one["message"] for one in events[1]["breadcrumbs"]["values"]] == ["moored at 3", "lost"]
    assert len(box.state("sentry")["logs"]) == 3
    lines = box.state("datadog")["logs"]
    assert sorted(one["message"] for one in lines) == ["KeyError: 'anchor'", "lost", "moored at 3"]
    moored = next(one for one in lines if one["message"] == "moored at 3")
    assert (moored["quay"], moored["cargo"], moored["wide"], moored["logger.name"]) == (3, "['x']", "inf", "shop.quay")
    monitor.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_what_nobody_caught(monitor: Monitor, wire: Wire, monkeypatch: pytest.MonkeyPatch):
    """In the main thread and in others it is reported and sent, and what was there before still hears of it."""
    heard: list[object] = []
    monkeypatch.setattr(sys, "excepthook", lambda *args: heard.append(args[1]))
    monkeypatch.setattr(threading, "excepthook", lambda args: heard.append(args.exc_value))
    uninstall = install(monitor)
    error, interrupt = fail(), KeyboardInterrupt()
    for one in (error, interrupt):
        sys.excepthook(type(one), one, one.__traceback__)
    thread = threading.Thread(target=lambda: 1 / 0, name="stoker")
    thread.start()
    thread.join()
    uninstall()
    assert monitor.flush()
    first, second = wire.events
    assert (first["level"], first["exception"]["values"][-1]["mechanism"]["handled"]) == ("fatal", False)
    assert second["tags"] == {"thread": "stoker"}
    assert heard[:2] == [error, interrupt]
    assert len(heard) == 3
    sys.excepthook(type(interrupt), interrupt, None)
    assert len(heard) == 4


async def test_a_request_that_fails(monitor: Monitor, wire: Wire):
    """What the application raises is reported, with the request and without its secrets, and raised on."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        monitor.set_tag("seen", "yes")
        if scope["type"] == "http":
            raise LookupError("no such quay")

    wrapped = MonitorMiddleware(app, monitor)
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/quays/3",
        "query_string": b"token=hunter2hunter2",
        "headers": [(b"authorization", b"Bearer hunter2hunter2"), (b"accept", b"*/*")],
    }

    async def nothing(*_: Any) -> None: ...

    with pytest.raises(LookupError):
        await wrapped(scope, nothing, nothing)
    await wrapped({"type": "lifespan"}, nothing, nothing)
    monitor.capture_message("after", tags={})
    assert await monitor.aflush()
    failed, after = wire.events
    assert (failed["tags"], "hunter2" in json.dumps(failed)) == ({"seen": "yes"}, False)
    assert failed["extra"]["request"]["method"] == "GET"
    assert failed["extra"]["request"]["headers"]["accept"] == "*/*"
    assert failed["exception"]["values"][-1]["mechanism"]["handled"] is False
    assert after["tags"] == {"seen": "yes"}  # of the lifespan, which is no request


def test_values_with_all_that_they_can_have(box: Box):
    """Made elsewhere, they are handed over as they are."""
    monitor = Monitor(box.service(Sentry), age=60)
    assert monitor.hand(Metric("x", 1))
    assert monitor.hand(LogLine("x"))
    assert monitor.hand(Report("x", id="ab" * 16))
    assert monitor.flush(10)
    held = box.state("sentry")
    assert ([*held["events"]], len(held["logs"]), len(held["metrics"])) == (["ab" * 16], 1, 1)


@given(
    st.sampled_from([Sentry, Datadog, NewRelic]),
    st.one_of(
        st.builds(Metric, st.just("x"), st.floats(0, 1), tags=st.dictionaries(NAMES, TEXTS, max_size=5)),
        st.builds(LogLine, TEXTS, attributes=st.dictionaries(NAMES, TEXTS | st.integers(), max_size=5)),
    ),
)
def test_an_item_is_hardly_heavier_than_it_says(kind: Any, item: Any):
    """Its size is what it has before secrets are masked: a mask adds at most two characters to each of few texts."""
    service = kind(kind.credentials.sandbox)
    texts = len(item.tags if isinstance(item, Metric) else item.attributes) + 1
    assert len(encoded(service._record(item))) <= service.size(item) + 3 * texts
