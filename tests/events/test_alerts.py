"""Alerts: each begins once and is over once; decided from facts, then on both databases."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import threading
from typing import Any

import httpx2
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from tests.events.stored import START, add_all, pull

from moorline.clock import ManualClock
from moorline.errors import CallError, ConfigurationError
from moorline.events import Alert, Inbox, alert_telling
from moorline.events.alert_post import AlertPost, check_alert_url
from moorline.events.alert_watch import AlertWatch
from moorline.events.alerts import AlertConfig, Counts, Expiring, Facts, Limits, Reading, Stuck, decide, readings
from moorline.services import GitHub
from moorline.store.schema import meta
from moorline.store.store import Store

DAY = 86_400.0
NOW = START
MINUTE = int(NOW // 60)


def told(facts: Facts, config: AlertConfig) -> dict[tuple[str, str], float | None]:
    return {(one.rule, one.service): one.level for one in readings(facts, config)}


def test_each_rule_reads_its_facts():
    """Level 1 is the limit; what cannot be told is None; a service has its own limits where it is named."""
    config = AlertConfig(
        limits=Limits(silent_minutes=None, failures_percent=50),
        services={"stripe": Limits(silent_minutes=10, failures_percent=None)},
        backlog_seconds=100,
        secret_days=14,
    )
    counts = {
        "stripe": Counts(MINUTE - 21, 0, 500),
        "github": Counts(MINUTE - 500, 10, 30),
        "few": Counts(None, 1, 3),
        "good": Counts(MINUTE, 3, 0),
    }
    secrets = [Expiring("github", "old", NOW + 13 * DAY), Expiring("github", "new", NOW + 15 * DAY)]
    facts = Facts(float(MINUTE * 60), counts, NOW - 50, secrets)
    found = told(facts, config)
    assert found == {
        ("silent", "stripe"): 2.0,
        ("failures", "github"): 1.5,
        ("failures", "few"): None,
        ("failures", "good"): 0.0,
        ("backlog", ""): pytest.approx((MINUTE * 60 - NOW + 50) / 100),
        ("secret", "github"): 0.0,
    }
    labels = {one.label: one for one in readings(facts, config) if one.rule == "secret"}
    assert (labels["old"].level, labels["new"].level) == (1.0, 0.0)
    assert "ends in 13.0 days" in labels["old"].message
    gone = readings(facts._replace(secrets=[Expiring("github", "old", NOW - DAY)]), config)[-1]
    assert gone.level == 1.0
    assert "ended" in gone.message
    off = AlertConfig(limits=Limits(failures_percent=None), backlog_seconds=None, secret_days=None)
    assert readings(facts, off) == []


def test_open_breakers_and_dead_letters_are_read_where_they_have_a_limit():
    """By the minutes since a breaker was last closed, and by the number of dead jobs; without a limit they are nothing."""
    stuck = [Stuck("stripe", NOW - 600, "5 failures in a row"), Stuck("github", NOW - 60, "probe failed")]
    facts = Facts(NOW, {}, None, breakers=stuck, dead=3)
    quiet = Limits(failures_percent=None)
    off = AlertConfig(limits=quiet, backlog_seconds=None, secret_days=None)
    assert readings(facts, off) == []
    on = dataclasses.replace(off, breaker_minutes=5, dead_letters=6)
    assert told(facts, on) == {("breaker", "stripe"): 2.0, ("breaker", "github"): 0.2, ("dead", ""): 0.5}
    assert [one.message for one in readings(facts, on)] == [
        "the breaker of stripe has not been closed for 10 minutes: 5 failures in a row",
        "the breaker of github has not been closed for 1 minutes: probe failed",
        "3 jobs are dead (limit 6)",
    ]
    firing, _ = decide({}, readings(facts, on), NOW)
    _, changed = decide(firing, readings(facts._replace(breakers=[]), on), NOW)
    assert [(one.rule, one.state, one.message) for one in changed] == [("breaker", "resolved", "the breaker is closed")]
    for field in ("breaker_minutes", "dead_letters"):
        with pytest.raises(ConfigurationError, match=field):
            dataclasses.replace(off, **{field: 0})  # type: ignore[arg-type]


async def test_dead_letters_are_counted_in_the_database(store: Store):
    """An alert begins with the first, and ends when none is left."""
    config = AlertConfig(backlog_seconds=None, dead_letters=1)
    inbox = Inbox(store)
    inbox.handlers.on(GitHub, "*", name="h")(len)
    add_all(inbox, [pull(0, at=NOW), pull(1, at=NOW)])

    def changed(connection: Any, payloads: list[Any]) -> list[None]:
        connection.exec_driver_sql(f"UPDATE jobs SET state = '{payloads[0]}'")
        return [None]

    watch = AlertWatch(store, config)
    assert await watch.run_once("one") == []
    store.write_sync(changed, "dead")
    (alert,) = await watch.run_once("one")
    assert (alert.rule, alert.state, alert.value) == ("dead", "firing", 2)
    store.write_sync(changed, "done")
    assert [one.state for one in await watch.run_once("one")] == ["resolved"]


async def test_breakers_come_from_outside(store: Store):
    """A callable gives for how many seconds each has not been closed, and why."""
    known = {"stripe": (240.0, "5 failures in a row")}
    watch = AlertWatch(store, AlertConfig(breaker_minutes=5), breakers=lambda: known)
    assert await watch.run_once("one") == []
    known["stripe"] = (301.0, "probe failed")
    (alert,) = await watch.run_once("one")
    assert (alert.rule, alert.service, alert.value) == ("breaker", "stripe", 5.0)
    known.clear()
    assert [one.state for one in await watch.run_once("one")] == ["resolved"]


def reading(level: float | None, service: str = "github") -> Reading:
    return Reading("silent", service, "", level, (level or 0) * 10, 10, "quiet")


@given(st.lists(st.none() | st.sampled_from([0.0, 0.5, 0.79, 0.8, 0.9, 0.99, 1.0, 1.5]), max_size=40))
def test_an_alert_begins_and_ends_alternately(levels: list[float | None]):
    """Whatever the levels do: firing, resolved, firing, …; it begins at the limit, ends below four fifths, and holds between."""
    firing: dict[str, Alert] = {}
    states = []
    for at, level in enumerate(levels):
        before = bool(firing)
        firing, changed = decide(firing, [reading(level)], float(at))
        states += [alert.state for alert in changed]
        if level is not None:
            assert bool(firing) == (level >= 1 or (before and level >= 0.8))
        else:
            assert bool(firing) == before
    assert states == ["firing", "resolved"] * (len(states) // 2) + ["firing"] * (len(states) % 2)


def test_what_is_no_longer_watched_is_over():
    """A limit that was removed, or a secret that is gone, resolves its alert; others stay with when they began."""
    firing, _ = decide({}, [reading(1.0, "a"), reading(2.0, "b")], 5.0)
    firing, changed = decide(firing, [reading(1.0, "a")], 9.0)
    assert [(one.service, one.state, one.since, one.at) for one in changed] == [("b", "resolved", 5.0, 9.0)]
    assert [(one.service, one.since) for one in firing.values()] == [("a", 5.0)]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


@pytest.fixture
def store(database_url: str, clock: ManualClock) -> Any:
    """An open store of each kind, on a clock that is moved by hand."""
    with Store(database_url, clock=clock, auto_migrate=True) as store:
        yield store


def count(store: Store, service: str, minute: int, *, stored: int = 0, duplicates: int = 0, forged: int = 0) -> None:
    def insert(connection: Any, payloads: list[Any]) -> list[None]:
        connection.exec_driver_sql(
            "INSERT INTO event_counts (service, minute, stored, duplicates, forged, refused)"
            f" VALUES ('{service}', {minute}, {stored}, {duplicates}, {forged}, 0)"
        )
        return [None]

    store.write_sync(insert, None)


CONFIG = AlertConfig(limits=Limits(silent_minutes=30, failures_percent=50), backlog_seconds=100, secret_days=14)


async def test_two_workers_tell_each_alert_once(store: Store, clock: ManualClock, caplog: Any):
    """Whoever looks: begun once, over once, to the log and to each hook; restarts in between change nothing."""
    heard: list[tuple[str, str, str]] = []

    async def hear(alert: Alert) -> None:
        heard.append((alert.rule, alert.service, alert.state))

    def broken(alert: Alert) -> None:
        raise ValueError("a bug in a hook")

    def watches() -> list[AlertWatch]:
        return [AlertWatch(store, CONFIG, tell=[broken, hear]) for _ in range(2)]

    count(store, "github", MINUTE, stored=20)
    count(store, "stripe", MINUTE, stored=4, duplicates=1, forged=15)
    inbox = Inbox(store)
    inbox.handlers.on(GitHub, "*", name="h")(len)
    add_all(inbox, [pull(0, at=NOW)])
    for _ in range(40):
        for number, watch in enumerate(watches()):
            await watch.run_once(f"worker {number}")
        clock.advance(60)
    assert heard == [
        ("failures", "stripe", "firing"),
        ("backlog", "", "firing"),
        ("failures", "stripe", "resolved"),
        ("silent", "github", "firing"),
        ("silent", "stripe", "firing"),
    ]
    assert {one.rule for one in watches()[0].firing_sync()} == {"backlog", "silent"}
    count(store, "github", int(clock.wall() // 60), stored=1)
    await watches()[0].run_once("worker 0")
    assert heard[5:] == [("silent", "github", "resolved")]
    lines = [record.getMessage() for record in caplog.records]
    assert sum("event_alert " in line and "'firing'" in line for line in lines) == 4
    assert sum("event_alert_not_told" in line for line in lines) == 6


async def test_while_another_looks_nobody_else_does(store: Store, clock: ManualClock):
    """The lease is one worker's until its time is over."""
    count(store, "stripe", MINUTE, stored=4, forged=15)
    first, second = AlertWatch(store, CONFIG), AlertWatch(store, CONFIG)
    assert len(await first.run_once("one")) == 1
    count(store, "github", MINUTE, stored=4, forged=15)
    assert await second.run_once("two") == []
    clock.advance(100)
    assert [one.service for one in await second.run_once("two")] == ["github"]


async def test_while_it_is_told_slowly_nobody_else_tells_it(store: Store, clock: ManualClock):
    """Three hooks of 40 seconds take longer than the lease, which is therefore extended."""
    heard: list[Alert] = []
    others: list[Alert] = []

    async def slow(alert: Alert) -> None:
        heard.append(alert)
        clock.advance(40)
        await AlertWatch(store, CONFIG, tell=[others.append]).run_once("two")

    count(store, "stripe", MINUTE, stored=4, forged=15)
    assert len(await AlertWatch(store, CONFIG, tell=[slow] * 4).run_once("one")) == 1
    assert (len(heard), others) == (4, [])


async def test_what_was_kept_and_not_told_is_told_by_the_next(store: Store, clock: ManualClock):
    """A worker that dies between the two: the alert is not lost."""

    class Died(BaseException):
        pass

    async def die(alert: Alert) -> None:
        raise Died

    count(store, "stripe", MINUTE, stored=4, forged=15)
    with pytest.raises(Died):
        await AlertWatch(store, CONFIG, tell=[die]).run_once("one")
    clock.advance(100)
    heard: list[Alert] = []
    await AlertWatch(store, CONFIG, tell=[heard.append]).run_once("two")
    assert [(one.rule, one.service, one.state) for one in heard] == [("failures", "stripe", "firing")]


async def test_a_hook_that_fails_once_is_told_again(store: Store, clock: ManualClock):
    """At the next look, whoever looks, and nobody else is; in the order in which it happened."""
    heard: list[str] = []
    others: list[str] = []

    async def fails_once(alert: Alert) -> None:
        heard.append(alert.service)
        if len(heard) == 1:
            raise CallError("the page is down", service="pager", operation="page")

    def watch() -> AlertWatch:
        return AlertWatch(store, CONFIG, tell=[fails_once, lambda alert: others.append(alert.service)])

    count(store, "github", MINUTE, forged=15)
    count(store, "stripe", MINUTE, forged=15)
    assert len(await watch().run_once("one")) == 2
    assert heard == ["github", "stripe"]
    clock.advance(100)
    assert await watch().run_once("two") == []
    clock.advance(100)
    assert await watch().run_once("one") == []
    assert (heard, others) == (["github", "stripe", "github"], ["github", "stripe"])


async def test_a_hook_that_always_fails_is_told_for_an_hour(store: Store, clock: ManualClock, caplog: Any):
    """Then it is given up, which is logged, and nothing of it is kept."""
    heard: list[Alert] = []

    def broken(alert: Alert) -> None:
        heard.append(alert)
        raise ValueError("a bug in a hook")

    count(store, "stripe", MINUTE, forged=15)
    watch = AlertWatch(store, dataclasses.replace(CONFIG, limits=Limits(failures_percent=50)), tell=[broken])
    for _ in range(20):
        await watch.run_once("one")
        clock.advance(300)
    told = [(one.state, one.at) for one in heard]
    assert {at for _, at in told} == {NOW, NOW + 900}
    assert [len([at for _, at in told if at == begun]) for begun in (NOW, NOW + 900)] == [13, 13]
    lines = [record.getMessage() for record in caplog.records]
    assert [sum(f"{said} " in line for line in lines) for said in ("event_alert_not_told", "event_alert_given_up")] == [
        2,
        2,
    ]


async def test_a_slow_hook_holds_up_nobody(store: Store, clock: ManualClock):
    """It has its seconds at each look; what it has not heard by then it hears at the next ones, after the others."""
    heard: list[str] = []
    others: list[tuple[str, float]] = []

    async def slow(alert: Alert) -> None:
        heard.append(alert.service)
        clock.advance(40)

    async def quick(alert: Alert) -> None:
        others.append((alert.service, clock.wall() - NOW))

    watch = AlertWatch(store, CONFIG, tell=[slow, quick])
    for service in ("a", "b", "c"):
        count(store, service, MINUTE, forged=15)
    await watch.run_once("one")
    assert (heard, others) == (["a"], [("a", 40.0), ("b", 40.0), ("c", 40.0)])
    count(store, "d", MINUTE, forged=15)
    await watch.run_once("one")
    assert (heard, others[3:]) == (["a", "d"], [("d", 40.0)])
    for _ in range(3):
        await watch.run_once("one")
    assert heard == ["a", "d", "b", "c"]


async def test_who_has_heard_the_end_is_not_told_the_beginning(store: Store, clock: ManualClock):
    """It would take what is over for what begins."""
    heard: list[str] = []
    down = True

    def page(alert: Alert) -> None:
        if down:
            raise ConnectionError
        heard.append(alert.state)

    count(store, "stripe", MINUTE, forged=15)
    watch = AlertWatch(store, CONFIG, tell=[page])
    await watch.run_once("one")
    down = False
    clock.advance(1_000)
    await watch.run_once("one")
    clock.advance(60)
    await watch.run_once("one")
    assert heard == ["resolved"]


async def test_a_plain_hook_that_hangs_takes_one_thread(
    store: Store, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
):
    """However often there is something to tell; when it returns it is told the rest."""
    monkeypatch.setattr(alert_telling, "_HOOK_SECONDS", 0.05)
    entered, ended = threading.Semaphore(0), threading.Event()
    heard: list[str] = []

    def hangs(alert: Alert) -> None:
        entered.release()
        assert ended.wait(10)
        heard.append(alert.service)

    watch = AlertWatch(store, CONFIG, tell=[hangs])
    for service in ("a", "b"):
        count(store, service, MINUTE, forged=15)
    for _ in range(3):
        await watch.run_once("one")
    assert entered.acquire(timeout=10)
    assert not entered.acquire(blocking=False)
    ended.set()
    monkeypatch.setattr(alert_telling, "_HOOK_SECONDS", 10.0)
    await asyncio.gather(*watch._telling._running.values())
    await watch.run_once("one")
    assert heard == ["a", "a", "b"]


async def test_what_the_release_before_has_kept_is_told(store: Store, clock: ManualClock):
    """It kept alerts alone, which are for every hook."""
    count(store, "stripe", MINUTE, forged=15)
    (alert,) = await AlertWatch(store, CONFIG).run_once("one")

    def before(connection: Any, payloads: list[Any]) -> list[None]:
        kept = {"firing": {}, "untold": [alert.to_dict()], "awaited": {}}
        connection.execute(sa.update(meta).where(meta.c.key == "alerts").values(value=json.dumps(kept)))
        return [None]

    store.write_sync(before, None)
    heard: list[Alert] = []
    await AlertWatch(store, AlertConfig(limits=Limits(failures_percent=None)), tell=[heard.append]).run_once("one")
    assert heard == [alert]


async def test_the_secrets_that_end_come_from_outside(store: Store):
    """A callable gives service, label and end; the log names the label."""
    watch = AlertWatch(store, CONFIG, secrets=lambda: [("stripe", "current", NOW + DAY)])
    (alert,) = await watch.run_once("one")
    assert (alert.rule, alert.service, alert.label, alert.value, alert.limit) == (
        "secret",
        "stripe",
        "current",
        1.0,
        14,
    )


async def test_a_named_service_that_never_sent_anything_is_silent(store: Store, clock: ManualClock):
    """From when it was first watched; others of which nothing is known are not missed."""
    config = AlertConfig(
        limits=Limits(silent_minutes=5), services={"stripe": Limits(silent_minutes=10), "zoom": Limits()}
    )
    for _ in range(10):
        assert await AlertWatch(store, config).run_once("one") == []
        clock.advance(60)
    (alert,) = await AlertWatch(store, config).run_once("one")
    assert (alert.rule, alert.service, alert.value) == ("silent", "stripe", 10.0)
    assert "none has come so far" in alert.message
    count(store, "stripe", int(clock.wall() // 60), stored=1)
    assert [one.state for one in await AlertWatch(store, config).run_once("one")] == ["resolved"]


@pytest.mark.parametrize(
    "change",
    [
        "queue = 'slow'",
        "priority = 9",
        "crashes = 1",
        "state = 'blocked', order_key = 'k', priority = 3",
    ],
)
def test_every_event_that_waits_counts_as_backlog(store: Store, clock: ManualClock, change: str):
    """In any queue, at any priority, after a crash, and blocked behind another one's job."""
    inbox = Inbox(store)
    inbox.handlers.on(GitHub, "*", name="h")(len)
    add_all(inbox, [pull(0, at=NOW)])

    def changed(connection: Any, payloads: list[Any]) -> list[None]:
        connection.exec_driver_sql(f"UPDATE jobs SET {change}")
        return [None]

    store.write_sync(changed, None)
    clock.advance(90)
    add_all(inbox, [pull(1, at=clock.wall())])
    clock.advance(30)
    (alert,) = AlertWatch(store, CONFIG).firing_sync()
    assert (alert.rule, alert.value) == ("backlog", 120.0)


ALERT = Alert("silent", "github", "", "firing", 31.0, 30.0, "no event", NOW, NOW)


async def test_an_alert_is_posted_as_json_and_tried_again():
    """With an idempotency key, so that a failing server is asked again; what it finally refuses is an error."""
    seen: list[Any] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        import json

        seen.append((request.headers["idempotency-key"], json.loads(request.content)))
        return httpx2.Response(503 if len(seen) == 1 else 200 if len(seen) == 2 else 400, headers={"retry-after": "0"})

    post = AlertPost("https://hooks.example.com/T0/secret-token", wire=httpx2.MockTransport(answer))
    await post(ALERT)
    assert len({key for key, _ in seen}) == 1
    assert seen[1][1] == {"text": "firing: no event", **dataclasses.asdict(ALERT)}
    with pytest.raises(CallError) as refused:
        await post(ALERT)
    assert "secret-token" not in str(refused.value)


@pytest.mark.parametrize(
    "url", ["http://example.com/x", "ftp://localhost", "https://", "https://me:pw@example.com", "x"]
)
def test_alerts_leave_this_machine_encrypted_only(url: str):
    """Refused without showing the URL; https and http on loopback are taken."""
    with pytest.raises(ConfigurationError) as refused:
        AlertPost(url)
    assert "pw" not in str(refused.value)
    for good in ("https://example.com/hook?token=x", "http://127.0.0.1:9/x", "http://localhost/x", "http://[::1]/x"):
        check_alert_url(good)


@pytest.mark.parametrize(
    "limits", [{"silent_minutes": 0}, {"failures_percent": float("inf")}, {"silent_minutes": True}]
)
def test_a_wrong_limit_is_named(limits: Any):
    """Each field's error begins with its name."""
    (name,) = limits
    with pytest.raises(ConfigurationError, match=f"^{name}:"):
        Limits(**limits)
