"""From an event that was stored to its handler: filters, models, order and batches, on both databases."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from moorline import Moorline
from moorline.errors import BatchFailed, ConfigurationError
from moorline.events import Event
from moorline.jobs import Cancel, Discard, Retry, Worker
from moorline.jobs.broker import JobFilter
from moorline.jobs.job import Job
from moorline.services import GitHub
from moorline.settings import Settings


class Pull(BaseModel):
    number: int


@pytest.fixture
def app(database_url: str) -> Iterator[Moorline]:
    """An application on each database, open."""
    app = Moorline(settings=Settings(database_url=database_url, migrate=True))
    with app.opened():
        yield app


async def send(app: Moorline, *payloads: Any, type: str = "pull_request") -> None:
    """Store an event for each payload, in this order; its sender's id is its number."""
    stored = len(await app.events(limit=10_000))
    for number, payload in enumerate(payloads, stored + 1):
        body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        action = payload.get("action") if isinstance(payload, dict) else None
        await app.inbox.add(Event("github", str(number), type, body, action=action, received_at=time.time()))


async def worked(app: Moorline, **options: Any) -> list[Job]:
    """All jobs, in the order of their coming, after a worker found nothing more to do."""
    await Worker(app.jobs, seed=0, **options).drain()
    return (await app.jobs.broker.list(JobFilter(limit=10_000)))[::-1]


def ends(jobs: list[Job]) -> list[tuple[str, str | None]]:
    return [(job.state, job.reason) for job in jobs]


# --- filters


async def test_an_event_that_does_not_fit_ends_as_filtered(app: Moorline):
    """Its handler is not called; the job says why it is done."""
    seen: list[str] = []

    @app.on(GitHub, "pull_request.closed", where={"pull_request.merged": True})
    async def merged(event: Event) -> None:
        seen.append(event.id)

    @app.on(GitHub, "pull_request", where=lambda event: event.payload["pull_request"]["merged"], retries=0)
    def either(event: Event) -> None:
        seen.append(f"plain {event.id}")

    await send(app, *({"action": "closed", "pull_request": {"merged": merged}} for merged in (True, False)))
    assert sorted(map(str, ends(await worked(app)))) == ["('done', 'filtered')"] * 2 + ["('done', None)"] * 2
    assert sorted(seen) == ["1", "plain 1"]


async def test_a_filter_is_not_asked_before_the_answer(app: Moorline):
    """Storing an event runs no filter."""

    def never(event: Event) -> bool:
        raise AssertionError

    app.on(GitHub, where=never, name="f")(len)
    await send(app, {})


async def test_a_filter_that_raises_is_a_failure_of_its_handler(app: Moorline):
    """It is retried, with the error to be read."""

    @app.on(GitHub, where=lambda event: event.payload["none"], retries=1)
    async def handler(event: Event) -> None: ...

    await send(app, {})
    (job,) = await worked(app)
    assert (job.state, job.attempts) == ("ready", 1)
    assert "KeyError" in str(job.last_error)


# --- models


async def test_the_payload_is_passed_as_its_model(app: Moorline):
    """By annotation or by name, to async and plain functions."""
    seen: list[Any] = []

    @app.on(GitHub)
    async def annotated(event: Event, payload: Pull) -> None:
        seen.append(payload)

    @app.on(GitHub, model=Pull)
    def named(event: Event, payload: Any) -> None:
        seen.append(payload)

    await send(app, {"number": 7})
    assert ends(await worked(app)) == [("done", None)] * 2
    assert seen == [Pull(number=7)] * 2


async def test_a_payload_that_does_not_fit_is_dead_at_once(app: Moorline):
    """Trying again cannot help, so it does not; the reason and the place are told, and never the value."""

    @app.on(GitHub)
    async def handler(event: Event, payload: Pull) -> None: ...

    await send(app, {"number": "ghp_secretsecretsecret"})
    (job,) = await worked(app)
    assert (job.state, job.reason, job.attempts) == ("dead", "mismatch", 1)
    assert "PayloadMismatch: it does not fit Pull: number" in str(job.last_error)
    assert "ghp_" not in repr(await app.jobs.broker.failures(job.id))


async def test_what_does_not_fit_may_be_passed_over(app: Moorline):
    """With on_mismatch="skip" it is done, and says so."""

    @app.on(GitHub, on_mismatch="skip")
    def handler(event: Event, payload: Pull) -> None: ...

    await send(app, {"number": "x"})
    (job,) = await worked(app)
    assert job.state == "done"
    assert str(job.reason).startswith("mismatch: it does not fit Pull: number")


# --- order


async def test_events_of_a_key_are_handled_in_the_order_of_their_coming(app: Moorline):
    """One at a time within a key, however many slots are free; keys do not wait for each other."""
    seen: list[str] = []
    running: set[str] = set()

    @app.on(GitHub, key="who")
    async def handler(event: Event) -> None:
        who = event.payload["who"]
        assert who not in running
        running.add(who)
        await asyncio.sleep(0.001)
        running.remove(who)
        seen.append(event.id)

    await send(app, *({"who": "abc"[number % 3]} for number in range(30)))
    assert ends(await worked(app)) == [("done", None)] * 30
    for offset in range(3):
        mine = [int(one) for one in seen if int(one) % 3 == offset]
        assert mine == sorted(mine)
    assert len(seen) == 30


async def test_a_failure_blocks_its_key_alone(app: Moorline):
    """A retry keeps its place; others go on; the blocked one shows behind whom it is."""

    @app.on(GitHub, key=lambda event: event.payload["who"], retries=1)
    async def handler(event: Event) -> None:
        if event.id == "1":
            raise ValueError

    await send(app, {"who": "a"}, {"who": "a"}, {"who": "b"}, {})
    jobs = await worked(app)
    assert [job.state for job in jobs] == ["ready", "blocked", "done", "done"]
    assert jobs[1].blocked_behind == jobs[0].id
    assert jobs[3].order_key is None


async def test_a_dead_event_blocks_its_key_until_it_is_skipped(app: Moorline):
    """And with on_dead="skip" not at all."""

    @app.on(GitHub, key="who", retries=0)
    async def strict(event: Event) -> None:
        if event.id == "1":
            raise ValueError

    @app.on(GitHub, key="who", retries=0, on_dead="skip")
    async def lenient(event: Event) -> None:
        if event.id == "1":
            raise ValueError

    await send(app, {"who": 1}, {"who": 1})
    jobs = {(job.name, job.event_id): job for job in await worked(app)}
    first, second = (event.inbox_id for event in reversed(await app.events()))
    assert jobs["event:github.strict", first].state == jobs["event:github.lenient", first].state == "dead"
    assert jobs["event:github.strict", second].state == "blocked"
    assert jobs["event:github.lenient", second].state == "done"
    await app.jobs.broker.skip(jobs["event:github.strict", first].id)
    assert [job.state for job in await worked(app) if job.event_id == second] == ["done", "done"]


async def test_a_replay_queues_up_behind_its_key(app: Moorline):
    """An event that is handled again takes its turn."""

    @app.on(GitHub, key="who")
    async def handler(event: Event) -> None: ...

    await send(app, {"who": 1})
    (again,) = await app.inbox.replay(str((await app.events())[0].inbox_id))
    assert (await app.jobs.broker.get(again)).state == "blocked"
    assert ends(await worked(app)) == [("done", None)] * 2


async def test_jobs_of_any_function_may_have_a_key(app: Moorline):
    """Enqueued with a key they run one after the other; a unique key beside it is refused."""
    seen: list[int] = []

    @app.job
    async def ship(number: int) -> None:
        await asyncio.sleep(0.002 if number == 1 else 0)
        seen.append(number)

    for number in (1, 2, 3):
        await ship.using(key="order-1").enqueue(number)
    assert (await app.jobs.broker.counts())["default", "blocked"] == 2
    await worked(app)
    assert seen == [1, 2, 3]
    with pytest.raises(ConfigurationError, match="unique, key"):
        ship.using(key="a", unique=True)
    for bad in ("", True, 1.5):
        with pytest.raises(ConfigurationError, match="key"):
            ship.using(key=bad)  # type: ignore[arg-type]


async def test_a_keyed_job_in_the_callers_transaction_is_freed_by_a_worker(app: Moorline, database_url: str):
    """Wherever it was inserted, it runs: behind the head of its key, or as soon as a worker looks after the keys."""
    import sqlalchemy as sa

    seen: list[int] = []

    @app.job
    async def ship(number: int) -> None:
        seen.append(number)

    engine = sa.create_engine(app.store.url)
    with engine.begin() as connection:
        for number in (1, 2):
            ship.using(key="k", within=connection).enqueue(number).result()
    engine.dispose()
    await worked(app)
    assert seen == [1, 2]


# --- batches


async def test_events_that_are_ready_together_are_handled_by_one_call(app: Moorline):
    """Up to the size, in a list, async and plain, each with a job of its own."""
    sizes: list[int] = []
    plain: list[int] = []

    @app.on(GitHub, batch=4, linger=0.05)
    async def several(events: list[Event]) -> None:
        sizes.append(len(events))

    @app.on(GitHub, batch=100, linger=0.05)
    def all_of_them(events: list[Event], payloads: list[Pull]) -> None:
        assert [payload.number for payload in payloads] == [event.payload["number"] for event in events]
        plain.append(len(events))

    await send(app, *({"number": number} for number in range(10)))
    jobs = await worked(app)
    assert ends(jobs) == [("done", None)] * 20
    assert {job.attempts for job in jobs} == {1}
    assert (max(sizes), sum(sizes), len(sizes)) == (4, 10, 3)
    assert plain == [10]


async def test_a_batch_may_be_larger_than_there_are_slots(app: Moorline):
    """What gathers needs no slot, so that a worker goes on claiming; the call needs one."""
    sizes: list[int] = []
    all_seen = asyncio.Event()

    @app.on(GitHub, batch=10, linger=5.0)
    async def handler(events: list[Event]) -> None:
        sizes.append(len(events))
        all_seen.set()

    await send(app, *[{}] * 10)
    worker = Worker(app.jobs, concurrency=1)
    running = asyncio.create_task(worker.run(signals=False))
    await asyncio.wait_for(all_seen.wait(), 4)
    worker.stop()
    await running
    assert sizes == [10]


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("kind", [ValueError, BaseException])
async def test_a_batch_that_raises_is_retried_whole(app: Moorline, kind: type[BaseException], plain: bool):
    """Each job keeps its own attempts and the error, also one that is no Exception."""

    def fail(events: list[Event]) -> None:
        raise kind("no")

    async def handler(events: list[Event]) -> None:
        fail(events)

    app.on(GitHub, batch=10, linger=0.0, name="f")(fail if plain else handler)
    await send(app, {}, {}, {})
    async with asyncio.timeout(5):
        jobs = await worked(app)
    assert [(job.state, job.attempts, job.last_error) for job in jobs] == [("ready", 1, f"{kind.__name__}: no")] * 3


async def test_a_filter_that_raises_fails_its_own_event_alone(app: Moorline):
    """Also with what is no Exception: the others of the batch are handled."""

    def chosen(event: Event) -> bool:
        if event.id == "2":
            raise SystemExit(event.id)
        return True

    @app.on(GitHub, batch=10, linger=0.0, where=chosen)
    async def handler(events: list[Event]) -> None: ...

    await send(app, {}, {}, {})
    assert [(job.state, job.last_error) for job in await worked(app)] == [
        ("done", None), ("ready", "SystemExit: 2"), ("done", None),
    ]  # fmt: skip


@pytest.mark.parametrize(("errors", "states"), [({}, ["done", "done"]), ("all", ["ready", "ready"])])
async def test_a_batch_may_fail_in_no_one_or_in_all(app: Moorline, errors: Any, states: list[str]):
    """An empty mapping names nobody, a text all."""

    @app.on(GitHub, batch=10, linger=0.0)
    async def handler(events: list[Event]) -> None:
        raise BatchFailed(errors)

    await send(app, {}, {})
    assert [job.state for job in await worked(app)] == states


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("told", ["raised", "mapping", "list"])
async def test_a_handler_may_name_the_events_that_failed(app: Moorline, told: str, plain: bool):
    """By raising BatchFailed, or returning outcomes by id or in the events' order; the others are done."""

    def decide(events: list[Event]) -> Any:
        outcomes = {"1": Retry(60), "2": ValueError("two"), "3": Discard("three"), "4": Cancel("four")}
        if told == "raised":
            raise BatchFailed({"1": ValueError("one"), "2": "two"})
        return outcomes if told == "mapping" else [outcomes.get(event.id) for event in events]

    async def handler(events: list[Event]) -> Any:
        return decide(events)

    app.on(GitHub, batch=10, linger=0.0, name="f")(decide if plain else handler)
    await send(app, *[{}] * 5)
    states = [job.state for job in await worked(app)]
    if told == "raised":
        assert states == ["ready", "ready", "done", "done", "done"]
    else:
        assert states == ["ready", "ready", "dead", "cancelled", "done"]


@pytest.mark.parametrize("result", [{"nobody": Retry()}, [Retry()], BatchFailed({"nobody": "x"})])
async def test_outcomes_for_nobody_fail_the_batch(app: Moorline, result: Any):
    """An outcome that cannot be given to an event is not lost in silence."""

    @app.on(GitHub, batch=10, linger=0.0)
    async def handler(events: list[Event]) -> Any:
        if isinstance(result, Exception):
            raise result
        return result

    await send(app, {}, {})
    jobs = await worked(app)
    assert [job.state for job in jobs] == ["ready"] * 2
    assert "Misuse" in str(jobs[0].last_error)


async def test_what_does_not_belong_into_a_batch_ends_by_itself(app: Moorline):
    """Filtered and unfit events and those that are gone are no one else's matter; an ordinary result is done."""

    @app.on(GitHub, batch=10, linger=0.0, where={"ok": [True, None]}, retries=0)
    async def handler(events: list[Event], payloads: list[Pull]) -> dict[str, bool]:
        assert [event.id for event in events] == ["1"]
        return {"success": True}

    await send(
        app, {"ok": True, "number": 1}, {"ok": False}, {"ok": True, "number": "x"}, b"{", {"ok": None, "number": 5}
    )

    def forget(connection: Any, payloads: list[Any]) -> list[Any]:
        connection.exec_driver_sql("DELETE FROM events WHERE delivery_key = '5'")
        return payloads

    await app.store.write(forget, None)
    assert ends(await worked(app)) == [
        ("done", None),
        ("done", "filtered"),
        ("dead", "mismatch"),
        ("dead", "failed"),
        ("dead", "failed"),
    ]


@pytest.mark.parametrize("plain", [False, True])
async def test_an_event_whose_body_is_no_longer_kept_comes_into_no_batch(app: Moorline, plain: bool):
    """Its own job fails and says why; the handler, which could only fail with all of them, gets the others."""
    got: list[Any] = []

    def handle(events: list[Event]) -> None:
        got.extend(event.payload["number"] for event in events)

    async def handler(events: list[Event]) -> None:
        handle(events)

    app.on(GitHub, batch=10, linger=0.0, name="f", retries=0)(handle if plain else handler)
    await send(app, {"number": 1}, {"number": 2}, {"number": 3})

    def prune(connection: Any, payloads: list[Any]) -> list[Any]:
        connection.exec_driver_sql("UPDATE events SET encoding = 'pruned', headers = '{}' WHERE delivery_key = '2'")
        return payloads

    await app.store.write(prune, None)
    jobs = await worked(app)
    assert (got, ends(jobs)) == ([1, 3], [("done", None), ("dead", "failed"), ("done", None)])
    assert "no longer kept (webhooks.keep_days)" in str(jobs[1].last_error)


async def test_what_gathers_when_the_worker_stops_is_given_back(app: Moorline):
    """Unspent, at once, however long it might have lingered."""

    @app.on(GitHub, batch=100, linger=10.0)
    async def handler(events: list[Event]) -> None: ...

    await send(app, {}, {})
    worker = Worker(app.jobs)
    running = asyncio.create_task(worker.run(signals=False))
    while (await app.jobs.broker.counts()).get(("default", "running")) != 2:  # noqa: ASYNC110 -- in the database
        await asyncio.sleep(0.005)
    worker.stop()
    await asyncio.wait_for(running, 5)
    jobs = await app.jobs.broker.list(JobFilter())
    assert [(job.state, job.attempts) for job in jobs] == [("ready", 0)] * 2


@pytest.mark.parametrize(
    ("argument", "options"),
    [
        ("where", {"where": 5}),
        ("model", {"model": object()}),
        ("on_mismatch", {"on_mismatch": "maybe"}),
        ("key", {"key": 5}),
        ("on_dead", {"on_dead": "skip"}),
        ("batch", {"batch": 0}),
        ("linger", {"batch": 5, "linger": 99}),
    ],
)
def test_a_bad_option_is_named(argument: str, options: dict[str, Any]):
    """When the handler is registered."""

    def handler(event: Event, payload: Any) -> None: ...

    with pytest.raises(ConfigurationError, match=argument):
        Moorline("sqlite:///x.db").on(GitHub, **options)(handler)
