"""Replays: exact counts, pages, rate, pause, cancel, resume, audit; on both databases."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.events.stored import START, add_all, fresh_store, pull

from moorline.clock import ManualClock
from moorline.errors import ConfigurationError, EventNotFound, EventPruned, ReplayNotFound, ReplayStateError
from moorline.events import Inbox
from moorline.events.replay import Replay, Replays
from moorline.events.selection import Selection
from moorline.services import GitHub, Stripe
from moorline.store.store import Store

ME = "ada@example.org"


def handled(store: Store) -> Inbox:
    """An inbox with one handler for all of GitHub's events and one for the closed ones."""
    inbox = Inbox(store)
    inbox.handlers.on(GitHub, "*", name="all", retries=2)(len)
    inbox.handlers.on(GitHub, "pull_request.closed", name="closed")(len)
    return inbox


@pytest.fixture
def filled(store: Store) -> tuple[Inbox, list[str]]:
    """Ten events of GitHub's, stored before anybody handled them; every other one closed."""
    ids = add_all(Inbox(store), [pull(n, action="closed" if n % 2 else "opened") for n in range(10)])
    return handled(store), ids


def enqueued(store: Store) -> list[tuple[str, str]]:
    """Event and handler of each job, in the order in which they will be claimed."""
    query = "SELECT event_id, name FROM jobs ORDER BY run_at, id"
    return [(row[0], row[1]) for row in store.read_sync(lambda c: c.exec_driver_sql(query).fetchall())]


async def test_a_replay_enqueues_what_it_counted(filled: tuple[Inbox, list[str]], rows: Any):
    """Dry run and replay agree; jobs come in the order of arrival, with the handlers' attempts; the audit says who."""
    inbox, ids = filled
    replays = Replays(inbox.store, inbox.handlers, page=3)
    found = await replays.count(Selection(since=START + 2))
    assert (found.events, found.jobs) == (8, 12)
    assert [head.id for head in found.first] == ids[2:7]
    assert rows("SELECT count(*) FROM replays") == [(0,)]
    started = await replays.start(Selection(since=START + 2), actor=ME)
    assert (started.state, started.total, started.events) == ("running", 8, 0)
    seen: list[Replay] = []
    done = await replays.run(started.id, progress=seen.append)
    assert (done.state, done.events, done.jobs) == ("done", 8, 12)
    assert done.finished_at is not None
    assert [one.events for one in seen] == [3, 6, 8]
    assert [event for event, _ in enqueued(inbox.store)] == [
        id_ for n, id_ in enumerate(ids) if n > 1 for _ in range(1 + n % 2)
    ]
    assert rows("SELECT DISTINCT name, max_attempts FROM jobs ORDER BY name") == [("event:all", 3), ("event:closed", 6)]
    ((actor, action, detail),) = rows("SELECT actor, action, detail FROM audit")
    assert (actor, action) == (ME, "replay.start")
    assert json.loads(detail)["events"] == 8
    assert json.loads(json.loads(detail)["selection"])["since"] == START + 2
    assert await replays.list() == [done]
    assert await replays.get(done.id) == done
    assert await replays.run(done.id) == done


def test_the_blocking_twins_do_the_same(filled: tuple[Inbox, list[str]]):
    """One implementation: count, start, run, get and list without a loop."""
    inbox, ids = filled
    assert inbox.replays.count_sync(Selection(), handler="closed").events == 5
    started = inbox.replays.start_sync(Selection(), handler="closed", actor=ME)
    assert inbox.replays.run_once_sync(started.id).state == "done"
    assert enqueued(inbox.store) == [(id_, "event:closed") for id_ in ids[1::2]]
    assert inbox.replays.list_sync() == [inbox.replays.get_sync(started.id)]


async def test_what_arrives_meanwhile_is_not_replayed(filled: tuple[Inbox, list[str]]):
    """The end is fixed when it is started."""
    inbox, _ = filled
    started = await inbox.replays.start(Selection(), actor=ME)
    await inbox.add(pull(50))
    done = await inbox.replays.run(started.id)
    assert (done.total, done.events) == (10, 10)


async def test_named_events_are_replayed_and_unknown_ones_named(filled: tuple[Inbox, list[str]]):
    """By either id, each once; one that is not there stops all, before anything is enqueued."""
    inbox, ids = filled
    started = await inbox.replays.start(Selection(ids=("7:3", ids[3], ids[1])), actor=ME, handler="all")
    await inbox.replays.run(started.id)
    assert enqueued(inbox.store) == [(ids[1], "event:all"), (ids[3], "event:all")]
    with pytest.raises(EventNotFound, match="'7:99'"):
        await inbox.replays.start(Selection(ids=("7:3", "7:99")), actor=ME)


async def test_a_paused_replay_goes_on_where_it_stopped(filled: tuple[Inbox, list[str]], rows: Any):
    """Paused after a page, resumed by another process's objects: nothing twice, nothing left out."""
    inbox, ids = filled
    replays = Replays(inbox.store, inbox.handlers, page=4)
    started = await replays.start(Selection(), actor=ME, handler="all")
    await replays.run_once(started.id)
    assert (await replays.pause(started.id, actor=ME)).state == "paused"
    assert (await replays.run(started.id)).events == 4
    other = Replays(inbox.store, inbox.handlers, page=3)
    await other.resume(started.id, actor="grace")
    assert (await other.run(started.id)).state == "done"
    assert [event for event, _ in enqueued(inbox.store)] == ids
    assert rows("SELECT actor, action FROM audit ORDER BY id") == [
        (ME, "replay.start"),
        (ME, "replay.pause"),
        ("grace", "replay.resume"),
    ]


async def test_a_cancelled_replay_stops_wherever_it_runs(database_url: str, filled: tuple[Inbox, list[str]]):
    """Cancelled by another connection between two pages: the runner sees it, and it can never be resumed."""
    inbox, ids = filled
    replays = Replays(inbox.store, inbox.handlers, page=2)
    started = await replays.start(Selection(), actor=ME, handler="all")
    with Store(database_url, auto_migrate=False) as away:

        def cancel(replay: Replay) -> None:
            if replay.events == 4 and replay.state == "running":
                Replays(away, inbox.handlers).cancel_sync(started.id, actor="grace", reason="wrong day")

        ended = await replays.run(started.id, progress=cancel)
    assert (ended.state, ended.events, ended.reason) == ("cancelled", 4, "wrong day")
    assert [event for event, _ in enqueued(inbox.store)] == ids[:4]
    for act in (replays.resume, replays.cancel, replays.pause):
        with pytest.raises(ReplayStateError, match="is cancelled"):
            await act(started.id, actor=ME)


async def test_two_runners_of_one_replay_repeat_nothing(database_url: str, filled: tuple[Inbox, list[str]]):
    """A page counts from the position it was read at: whoever is second changes nothing and goes on from there."""
    inbox, ids = filled
    with Store(database_url, auto_migrate=False) as away:
        runners = [Replays(store, inbox.handlers, page=1) for store in (inbox.store, away)]
        started = await runners[0].start(Selection(), actor=ME, handler="all")
        ended = await asyncio.gather(*[runner.run(started.id) for runner in runners])
    assert {one.state for one in ended} == {"done"}
    assert [event for event, _ in enqueued(inbox.store)] == ids


def test_the_rate_is_kept(tmp_path: Path):
    """10 events at 4 a second take 2.5 s of the clock, in pages of at most a second's worth."""
    clock = ManualClock(START + 100)
    with Store(f"sqlite:///{tmp_path}/a.db", clock=clock) as store:
        inbox = handled(store)
        add_all(Inbox(store), [pull(n) for n in range(10)])
        started = inbox.replays.start_sync(Selection(), actor=ME, rate=4)
        seen: list[tuple[int, float]] = []
        inbox.replays.run_sync(started.id, progress=lambda replay: seen.append((replay.events, clock.monotonic())))
        assert seen == [(4, 0.0), (8, 1.0), (10, 2.0)]
        slow = inbox.replays.start_sync(Selection(last=None), actor=ME, rate=0.1)

        def stop(replay: Replay) -> None:
            if replay.events == 1:
                inbox.replays.pause_sync(slow.id, actor=ME)

        before = clock.monotonic()
        assert inbox.replays.run_sync(slow.id, progress=stop).state == "paused"
        assert clock.monotonic() - before <= 1.0  # it does not sleep the ten seconds out


async def test_only_what_is_wrong_is_named(filled: tuple[Inbox, list[str]]):
    """A handler, rate or actor that cannot be is a ConfigurationError that begins with its name; an id is not found."""
    inbox, _ = filled
    for wrong in ({"handler": "nobody"}, {"rate": 0}, {"rate": float("nan")}, {"actor": ""}, {"actor": "a\nb"}):
        (name,) = wrong
        with pytest.raises(ConfigurationError, match=f"^{name}:"):
            await inbox.replays.start(Selection(), **{"actor": ME, **wrong})  # type: ignore[arg-type]
    for act in (inbox.replays.run("x"), inbox.replays.get("x"), inbox.replays.cancel("x", actor=ME)):
        with pytest.raises(ReplayNotFound, match="'x'"):
            await act


async def test_pruned_events_are_left_out_and_named_if_asked_for(filled: tuple[Inbox, list[str]]):
    """One whose body is gone cannot be handled: by filter it is passed over, by name it is an error."""
    inbox, ids = filled
    started = await inbox.replays.start(Selection(), actor=ME, handler="all")

    def prune(connection: Any, payloads: list[str]) -> list[None]:
        connection.exec_driver_sql(f"UPDATE events SET encoding = 'pruned' WHERE id = '{payloads[0]}'")
        return [None]

    await inbox.store.write(prune, ids[4])
    done = await inbox.replays.run(started.id)
    assert (done.total, done.events) == (10, 9)
    assert (await inbox.replays.count(Selection())).events == 9
    with pytest.raises(EventPruned):
        await inbox.replays.start(Selection(ids=(ids[4],)), actor=ME)
    with pytest.raises(EventPruned):
        await inbox.replay(ids[4])
    with pytest.raises(EventPruned):
        inbox.get_sync("7:4")


async def test_a_page_is_one_transaction(filled: tuple[Inbox, list[str]], rows: Any):
    """If the jobs cannot be written the position does not move either, and the replay goes on later."""
    inbox, ids = filled
    started = await inbox.replays.start(Selection(), actor=ME, handler="all")
    with inbox.store._engines.write.begin() as connection:  # type: ignore[union-attr]
        connection.exec_driver_sql("ALTER TABLE jobs RENAME TO jobs_away")
    with pytest.raises(Exception, match="jobs"):
        await inbox.replays.run(started.id)
    assert rows("SELECT position, events, jobs FROM replays") == [(None, 0, 0)]
    with inbox.store._engines.write.begin() as connection:  # type: ignore[union-attr]
        connection.exec_driver_sql("ALTER TABLE jobs_away RENAME TO jobs")
    await inbox.replays.run(started.id)
    assert [event for event, _ in enqueued(inbox.store)] == ids


@given(
    kinds=st.lists(st.sampled_from(["github", "stripe"]), max_size=30),
    service=st.sampled_from([None, "github"]),
    steps=st.lists(st.tuples(st.sampled_from(["page", "pause", "resume", "run"]), st.integers(1, 7)), max_size=12),
)
@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
def test_however_it_is_interrupted_each_event_is_enqueued_once(
    kinds: list[str], service: str | None, steps: list[tuple[str, int]]
):
    """Pages of changing sizes, pauses and resumptions in any order: in the end each selected event once, in order."""
    with fresh_store() as store:
        ids = add_all(Inbox(store), [pull(n, service=kind) for n, kind in enumerate(kinds)])
        inbox = Inbox(store)
        for sender in (GitHub, Stripe):
            inbox.handlers.on(sender, "*", name=sender.name)(len)
        started = Replays(store, inbox.handlers).start_sync(Selection(service=service), actor=ME)
        for step, page in [*steps, ("resume", 5), ("run", 5)]:
            replays = Replays(store, inbox.handlers, page=page)
            if replays.get_sync(started.id).state == "done":
                break
            if step == "page":
                replays.run_once_sync(started.id)
            elif step == "pause":
                replays.pause_sync(started.id, actor=ME)
            elif step == "resume":
                replays.resume_sync(started.id, actor=ME)
            else:
                replays.run_sync(started.id)
        expected = [id_ for id_, kind in zip(ids, kinds, strict=True) if service in (None, kind)]
        assert [event for event, _ in enqueued(store)] == expected
        final = Replays(store, inbox.handlers).get_sync(started.id)
        assert (final.state, final.events, final.total) == ("done", len(expected), len(expected))
