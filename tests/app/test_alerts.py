"""``app.alerts(Sentry, …)``: an application's own health, told to services that watch."""

from __future__ import annotations

import asyncio
import gzip
import json
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from moorline import Moorline, Policy, Secret
from moorline.calls.guards import Guards, open_breakers
from moorline.clock import ManualClock
from moorline.errors import CallError, ConfigurationError, ServiceUnavailable
from moorline.events.alerts import Alert
from moorline.policies.breaker import Breaker
from moorline.services import Datadog, LogRocket, NewRelic, Sentry, Stripe
from moorline.services.alerting import hook, occurrence
from moorline.services.monitor import Monitor

DSN = Sentry.credentials.sandbox
FIRING = Alert("breaker", "stripe", "", "firing", 6.0, 5.0, "the breaker of stripe …", 1_795_000_000.0, 1_795_000_360.0)
OVER = Alert("breaker", "stripe", "", "resolved", 6.0, 5.0, "the breaker is closed", 1_795_000_000.0, 1_795_000_660.0)


class Wire:
    """Keeps what is sent, uncompressed; answers 200 unless told otherwise."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str]] = []
        self.status = 200

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        body = request.content
        packed = request.headers.get("content-encoding") == "gzip"
        self.sent.append((request.url.path, (gzip.decompress(body) if packed else body).decode()))
        headers = {"retry-after": "3600"} if self.status == 503 else {}
        return httpx2.Response(self.status, json={}, headers=headers)


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
def options(wire: Wire) -> dict[str, Any]:
    return {"wire": httpx2.MockTransport(wire), "guards": Guards(), "clock": ManualClock(OVER.at)}


def itself(target: Any) -> Any:
    return target


async def _told(target: Any, *alerts: Alert) -> None:
    call = hook(target, itself)
    for alert in alerts:
        answer = call(alert)
        if asyncio.iscoroutine(answer):
            await answer


async def test_an_alert_at_sentry(wire: Wire, options: dict[str, Any]):
    """Begun it is an error, over it is an information, both in one group; told twice it is the same event."""
    await _told(Sentry(DSN, **options), FIRING, FIRING, OVER)
    events = [json.loads(body.splitlines()[2]) for _, body in wire.sent]
    assert [one["level"] for one in events] == ["error", "error", "info"]
    assert events[0]["logentry"]["formatted"] == "firing: the breaker of stripe …"
    assert events[0]["event_id"] == events[1]["event_id"] != events[2]["event_id"]
    assert {tuple(one["fingerprint"]) for one in events} == {("MoorlineAlert", "breaker:stripe")}
    assert events[0]["extra"] | {"since": 0} == {
        "rule": "breaker", "service": "stripe", "state": "firing", "value": 6.0, "limit": 5.0, "since": 0,
        "message": "the breaker of stripe …", "at": FIRING.at,
    }  # fmt: skip


async def test_an_alert_at_datadog_and_new_relic(wire: Wire, options: dict[str, Any]):
    """It is an event of theirs, under one key."""
    await _told(Datadog("k", **options), FIRING)
    await _told(NewRelic("k", **options), FIRING)
    (old, datadog), (new, relic) = [(path, json.loads(body)) for path, body in wire.sent]
    assert (old, datadog["alert_type"], datadog["aggregation_key"]) == ("/api/v1/events", "error", "breaker:stripe")
    assert (new, relic[0]["eventType"], relic[0]["rule"]) == ("/v1/accounts/events", "MoorlineAlert", "breaker")


async def test_an_alert_at_a_monitor_and_a_function(wire: Wire, options: dict[str, Any]):
    """A Monitor hands it to all of its services; a function gets the Alert itself."""
    monitor = Monitor(Sentry(DSN, **options), Datadog("k", **options))
    heard: list[Alert] = []
    await _told(monitor, FIRING)
    await _told(heard.append, FIRING)
    assert await monitor.aflush()
    assert sorted(path for path, _ in wire.sent) == ["/api/4242/envelope/", "/api/v1/events"]
    assert heard == [FIRING]


@pytest.mark.parametrize("target", [LogRocket, LogRocket("k", app="a/b"), Stripe, Monitor, "sentry", 7])
def test_what_hears_of_no_alert(target: Any, tmp_path: Path):
    """It is a ConfigurationError that names it, and nothing is registered."""
    app = Moorline(f"sqlite:///{tmp_path}/a.db")
    with pytest.raises(ConfigurationError, match=r"app\.alerts takes"):
        app.alerts(target)
    assert not app._alert_hooks
    with pytest.raises(ConfigurationError, match="breaker_minutes"):
        app.alerts(print, breaker_minutes=0)


async def test_without_a_dsn_nothing_is_told(monkeypatch: pytest.MonkeyPatch):
    """Sentry is switched off then, which is no error."""
    monkeypatch.delenv("SENTRY_DSN", raising=False)
    monkeypatch.delenv("MOORLINE_SANDBOX_URL", raising=False)
    await _told(Sentry(), FIRING)


def test_a_long_name_has_a_short_key():
    """Datadog's keys have 100 characters."""
    alert = Alert("secret", "x" * 60, "y" * 60, "firing", 1, 14, "ends", 1.0, 1.0)
    assert len(occurrence(alert).group) == 64
    assert occurrence(alert) == occurrence(alert)


async def test_where_the_service_is_down_it_is_a_job(tmp_path: Path, wire: Wire, options: dict[str, Any]):
    """An alert outlives an outage of what it is told to; what is refused is an error, for the log."""
    wire.status = 503
    async with Moorline(f"sqlite:///{tmp_path}/a.db") as app:
        own = app.service(Sentry, api_key=DSN, policy=Policy(retry=None), **options)
        await _told(own, FIRING)
        stored = await app.store.read(lambda connection: connection.exec_driver_sql("SELECT payload FROM jobs").all())
        assert [FIRING.message.encode()[:22] in row[0] for row in stored] == [True]
    with pytest.raises(ServiceUnavailable):
        await _told(Sentry(DSN, policy=Policy(retry=None), **options), FIRING)
    wire.status = 403
    with pytest.raises(CallError):
        await _told(own, FIRING)


async def test_an_application_tells_of_its_health(
    tmp_path: Path, wire: Wire, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    """A breaker that stays open, a dead letter and a key that ends are told, and over when they are."""
    monkeypatch.setattr("moorline.calls.guards._all", weakref.WeakSet())  # without what other tests have left open
    app = Moorline(f"sqlite:///{tmp_path}/a.db")
    guards = Guards()
    app.service(Sentry, api_key=DSN, **options)
    key = Secret("sk_live_1", name="STRIPE_SECRET_KEY", not_after=app.clock.wall() + 86_400)
    down = httpx2.MockTransport(lambda _: httpx2.Response(500, json={}))
    stripe = app.service(Stripe, api_key=key, wire=down, guards=guards, policy=Policy(retry=None, breaker=Breaker(1)))
    watch = app.alerts(Sentry, breaker_minutes=1e-9, dead_letters=1)

    def die(connection: Any, payloads: list[str]) -> list[None]:
        connection.exec_driver_sql(f"UPDATE jobs SET state = '{payloads[0]}'")
        return [None]

    async with app:
        with pytest.raises(CallError):
            await stripe.check()
        await stripe.check().enqueue()
        await app.store.write(die, "dead")
        changed = await watch.run_once("one")
        assert {(one.rule, one.service, one.label) for one in changed} == {
            ("breaker", "stripe", ""),
            ("dead", "", ""),
            ("secret", "stripe", "STRIPE_SECRET_KEY"),
        }
        assert len(wire.sent) == 3
        assert "sk_live_1" not in str(wire.sent)
        await app.store.write(die, "done")
        [breaker] = guards.breakers()["stripe"]
        breaker.force(None)
        over = await watch.run_once("one")
        assert {(one.rule, one.state) for one in over} == {("breaker", "resolved"), ("dead", "resolved")}


async def test_alerts_without_arguments_are_as_before(tmp_path: Path):
    """Nothing is told to anybody else, and breakers and dead letters have no limit."""
    app = Moorline(f"sqlite:///{tmp_path}/a.db")
    watch = app.alerts()
    assert (watch._config.breaker_minutes, watch._config.dead_letters) == (None, None)


def test_how_long_a_breaker_is_open():
    """From when it left closed, failed probes included, until it is closed; not where an operator holds it."""
    clock = ManualClock(1_000.0)
    guards = Guards(clock)
    policy = Policy(breaker=Breaker(1, reset=30, successes=1))
    breaker = guards.guard("harbour", policy).breaker
    assert breaker is not None

    def attempt(settle: Callable[[Any], None]) -> None:
        permit = breaker.admit()
        assert permit is not None
        settle(permit)

    assert "harbour" not in open_breakers()
    attempt(lambda permit: permit.failure())
    clock.advance(40)
    attempt(lambda permit: permit.failure())
    clock.advance(50)
    assert open_breakers()["harbour"][0] == 90.0
    breaker.force("open")
    assert "harbour" not in open_breakers()
    breaker.force(None)
    attempt(lambda permit: permit.failure())
    clock.advance(31)
    attempt(lambda permit: permit.success())
    assert breaker.open_for is None
