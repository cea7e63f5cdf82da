"""When schedules are due, and that each time makes one job."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.jobs.brokers import opened
from tests.jobs.conformance import done, worker
from tests.servers import until
from tests.warm import Warm, run

from moorline.clock import ManualClock
from moorline.errors import ConfigurationError
from moorline.jobs.broker import Broker, JobFilter
from moorline.jobs.job import JobRow
from moorline.jobs.registry import Jobs
from moorline.jobs.schedule import MOST_MISSED, Schedule, job_id
from moorline.jobs.schedules import LEASE, Schedules, known_schedules
from moorline.jobs.worker import Worker
from moorline.store import Store

ROW = JobRow("", "report", b"", 0.0, 0.0)
BERLIN = ZoneInfo("Europe/Berlin")


def schedule(when: str | float, **options) -> Schedule:
    return Schedule(**{"name": "s", "when": when, "row": ROW, **options})


def at(*moment: int, tz: ZoneInfo | None = None) -> float:
    return datetime(*moment, tzinfo=tz or UTC).timestamp()  # type: ignore[misc,arg-type]


# --- when


def test_a_time_that_the_clock_leaves_out_is_due_when_it_goes_on() -> None:
    """02:30 in Berlin on the day that has none; the day after it is as always."""
    nightly = schedule("30 2 * * *", tz="Europe/Berlin")
    first = nightly.next_after(at(2026, 3, 28, 12, tz=BERLIN))
    assert first == at(2026, 3, 29, 3, 0, tz=BERLIN)
    assert nightly.next_after(first) == at(2026, 3, 30, 2, 30, tz=BERLIN)


def test_a_time_that_comes_twice_is_due_once_and_an_interval_goes_on() -> None:
    """02:30 on the day that has two of them; every half hour it is due in both."""
    day = at(2026, 10, 25, 0, tz=BERLIN), at(2026, 10, 25, 12, tz=BERLIN)
    assert len(schedule("30 2 * * *", tz="Europe/Berlin", catch_up="all", overlap=True).due(*day)) == 1
    often = schedule("*/30 * * * *", tz="Europe/Berlin", catch_up="all", overlap=True).due(*day)
    assert [later - sooner for sooner, later in itertools.pairwise(often)] == [1800.0] * 25


@pytest.mark.parametrize("when", ["*/7 3-5 * * *", "0 9 * * 1-5", "15 0 1,15 * *", 90.0, 1.5])
@given(start=st.integers(0, 3 * 10**9), minutes=st.integers(0, 5000))
def test_what_is_due_is_what_comes_one_after_the_other(when: str | float, start: int, minutes: int) -> None:
    """``all`` are the times that ``next_after`` gives up to now, the newest thousand; ``latest`` is the last of them."""
    last, now = float(start), float(start + 60 * minutes)
    step = schedule(when)
    times: list[float] = []
    time = step.next_after(last)
    while time <= now:
        times.append(time)
        time = step.next_after(time)
    assert schedule(when, catch_up="all", overlap=True).due(last, now) == times[-MOST_MISSED:]
    assert step.due(last, now) == times[-1:]
    late = schedule(when, catch_up="none").due(last, now)
    assert late == [one for one in times if one > now - 60][-MOST_MISSED:]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"when": "* * * *"}, "five fields"),
        ({"when": "61 * * * *"}, "no cron expression"),
        ({"when": "0 0 31 2 *"}, "when"),
        ({"when": 0.5}, "at least 1 second"),
        ({"when": float("nan")}, "when"),
        ({"tz": "Europe/Nowhere"}, "tz"),
        ({"tz": "../etc/passwd"}, "tz"),
        ({"catch_up": "some"}, "catch_up"),
        ({"catch_up": "all"}, "overlap"),
        ({"name": ""}, "name"),
        ({"row": ROW._replace(order_key="=n\tk")}, "overlap"),
        ({"row": ROW._replace(unique_key="n:k"), "overlap": True}, "overlap"),
    ],
)
def test_a_wrong_schedule_is_named(options: dict[str, object], said: str) -> None:
    """When it is made, not at three in the night."""
    with pytest.raises(ConfigurationError, match=said):
        Schedule(**{"name": "s", "when": 60.0, "row": ROW, **options})  # type: ignore[arg-type]


@given(start=st.integers(0, 3 * 10**9), before=st.integers(1, 5_000), looks=st.lists(st.integers(1, 59), max_size=20))
def test_no_time_is_lost_between_two_looks(start: int, before: int, looks: list[int]) -> None:
    """After however long an outage: while looks come within a minute, each time is due once where jobs may overlap."""
    step = schedule(1.0, overlap=True)
    now = float(start + before)
    first = step.due(float(start), now)
    assert first == [now - late for late in range(min(before, 60))][::-1]
    for seconds in looks:
        assert step.due(now, now + seconds) == [now + one for one in range(1, seconds + 1)]
        now += seconds
    hourly = schedule(3600.0, overlap=True)
    assert hourly.due(0.0, 4 * 3600.0 + 61) == [4 * 3600.0]


# --- one job a time


@pytest.fixture
def store(tmp_path: Path, clock: ManualClock) -> Iterator[Store]:
    with Store(f"sqlite:///{tmp_path}/schedules.db", clock=clock) as store:
        yield store


@pytest.fixture
def broker(broker_url: str, clock: ManualClock) -> Iterator[Broker]:
    with opened(broker_url, clock=clock) as broker:
        yield broker


def schedules(store: Store, broker: Broker, *all_of_them: Schedule) -> Schedules:
    made = Schedules(store, broker)
    for one in all_of_them:
        made.add(one)
    return made


async def due_times(broker: Broker) -> list[float]:
    return sorted(job.run_at for job in await broker.list(JobFilter(limit=1000)))


async def test_each_time_makes_one_job_however_many_look(store: Store, broker: Broker, clock: ManualClock) -> None:
    """Two workers look all the time; nothing is due before a schedule was first seen."""
    workers = [schedules(store, broker, schedule(60.0, overlap=True)) for _ in range(2)]
    clock.advance(60 - clock.wall() % 60 + 1)
    began = clock.wall()
    for _ in range(150):
        await asyncio.gather(*(one.run_once(f"w{number}") for number, one in enumerate(workers)))
        clock.advance(2)
    expected = [began - 1 + 60 * number for number in range(1, 5)]
    assert await due_times(broker) == pytest.approx(expected)
    (known,) = await store.read(known_schedules)
    assert (known.name, known.job, known.when) == ("s", "report", 60.0)
    assert known.last == pytest.approx(expected[-1])


async def test_a_schedule_that_is_changed_has_missed_nothing_before(
    store: Store, broker: Broker, clock: ManualClock
) -> None:
    """What is made up for begins with the time that the old one would have had next, or now."""
    clock.advance(86_400 - clock.wall() % 86_400 + 1)
    midnight = clock.wall() - 1
    await schedules(store, broker, schedule("0 0 * * *")).run_once("w0")
    clock.advance(40_000)
    often = schedules(store, broker, schedule(60.0, catch_up="all", overlap=True))
    assert await often.run_once("w0") == 0
    clock.advance(60)
    assert await often.run_once("w0") == 1
    await schedules(store, broker, schedule("0 0 * * *")).run_once("w0")
    clock.advance(86_400 - 40_060 + 3_600)
    assert await schedules(store, broker, schedule("0 * * * *", catch_up="all", overlap=True)).run_once("w0") == 2
    assert (await due_times(broker))[-2:] == pytest.approx([midnight + 86_400, midnight + 90_000])


async def test_a_time_is_repeated_after_a_crash_and_changes_nothing(
    store: Store, broker: Broker, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The jobs were made and the note was not; even one that is done already is left as it is."""
    one = schedules(store, broker, schedule(60.0))
    await one.run_once("w0")
    clock.advance(60)

    async def crash(*_: object) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patched:
        looked = one._look_at
        write, calls = store.write, 0

        async def write_until_the_note(apply, payload):
            nonlocal calls
            calls += 1
            return await (write(apply, payload) if "set" not in apply.__name__ else crash())

        patched.setattr(store, "write", write_until_the_note)
        with pytest.raises(RuntimeError, match="killed"):
            await one.run_once("w0")
    assert one._look_at == looked
    (job,) = await broker.list(JobFilter())
    assert await schedules(store, broker, schedule(60.0)).run_once("w0") == 1
    assert [again.id for again in await broker.list(JobFilter())] == [job.id] == [job_id("s", job.run_at)]


@pytest.mark.parametrize(("late", "state", "reason"), [(290, "done", None), (300, "cancelled", "expired")])
async def test_what_is_made_up_for_expires_by_the_time_at_which_it_was_due(
    store: Store, broker: Broker, clock: ManualClock, late: int, state: str, reason: str | None
) -> None:
    """Not by that at which its job was made; a delay of the function's own does not count."""
    jobs = Jobs(broker, clock=clock)

    def report() -> None: ...

    row = jobs.function(report).using(expires=300, delay=50).row()
    hourly = schedules(store, broker, schedule(3600.0, row=row))
    await hourly.run_once("w0")
    clock.advance(7200 - clock.wall() % 3600 + late)
    assert await hourly.run_once("w0") == 1
    await Worker(jobs, clock=clock).drain()
    (job,) = await broker.list(JobFilter())
    assert (job.state, job.reason) == (state, reason)
    assert job.created_at == pytest.approx(clock.wall())


async def test_another_worker_takes_over_when_the_first_is_gone(
    store: Store, broker: Broker, clock: ManualClock
) -> None:
    """After its lease, and no time is lost by that."""
    first, second = (schedules(store, broker, schedule(5.0, overlap=True)) for _ in range(2))
    await first.run_once("w0")
    assert await second.run_once("w1") == 0
    began = clock.wall()
    clock.advance(LEASE + 1)
    assert await second.run_once("w1") == clock.wall() // 5 - began // 5


async def test_without_overlap_a_time_is_left_out_while_the_last_job_is_not_over(
    store: Store, broker: Broker, clock: ManualClock
) -> None:
    """The job that waits is the only one; after its end the next time makes another."""
    one = schedules(store, broker, schedule(60.0))
    await one.run_once("w0")
    for _ in range(3):
        clock.advance(60)
        await one.run_once("w0")
    (waiting,) = await broker.list(JobFilter())
    (claim,) = (await broker.claim(worker(clock), 1)).jobs
    clock.advance(60)
    await one.run_once("w0")
    assert claim.id == waiting.id
    await broker.finish([done(claim)])
    clock.advance(60)
    await one.run_once("w0")
    assert [job.state for job in await broker.list(JobFilter())] == ["ready", "done"]


async def test_a_unique_job_is_unique_among_those_that_others_enqueue(
    store: Store, broker: Broker, clock: ManualClock
) -> None:
    """By hand and by schedule alike; its window begins when it was due, so an hourly job may be unique for an hour."""
    jobs = Jobs(broker, clock=clock)

    def report() -> None: ...

    unique = jobs.function(report).using(unique="eu", unique_for=3600)
    clock.advance(3600 - clock.wall() % 3600)
    hourly = schedules(store, broker, schedule(3600.0, row=unique.row()))
    await hourly.run_once("w0")
    clock.advance(3600 + 5)
    await hourly.run_once("w0")
    (made,) = await broker.list(JobFilter())
    assert (await unique.enqueue()).id == made.id
    await Worker(jobs, clock=clock).drain()
    assert (await unique.enqueue()).id == made.id
    clock.advance(3600 - 5)
    await hourly.run_once("w0")
    assert [job.state for job in await broker.list(JobFilter())] == ["ready", "done"]


async def test_names_are_taken_once(store: Store, broker: Broker) -> None:
    """Two schedules of a name would make each other's jobs."""
    one = schedules(store, broker, schedule(60.0))
    with pytest.raises(ConfigurationError, match="two schedules"):
        one.add(schedule(30.0))


APP = """
import os, sys
from moorline import Moorline
app = Moorline()

@app.job
def tick(word: str) -> None:
    with open("ticks.txt", "a") as book:
        book.write(word + "\\n")

app.schedule(1, tick, args=("tock",), overlap=True)
app.schedule("0 0 1 1 *", tick, args=("year",), name="new year", tz="Asia/Tokyo")
"""


@pytest.mark.crash
def test_workers_tick_and_the_command_shows_it(tmp_path: Path) -> None:
    """Two worker processes, one killed with -9: no second is booked twice, and the schedules are listed."""
    (tmp_path / "clockwork.py").write_text(APP)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MOORLINE_")}
    environment = {**kept, "MOORLINE_DATABASE_URL": f"sqlite:///{tmp_path}/c.db", "MOORLINE_WORKER__LEASE": "1"}
    command = [sys.executable, "-m", "moorline.cli"]
    work = [*command, "worker", "clockwork:app"]
    workers = [Warm(work, cwd=tmp_path, env=environment) for _ in range(2)]
    book = tmp_path / "ticks.txt"
    try:
        until(lambda: book.exists() and len(book.read_text().split()) >= 3, seconds=60)
        workers[0].kill()
        workers[0].wait()
        before = len(book.read_text().split())
        until(lambda: len(book.read_text().split()) >= before + 3, seconds=60)
    finally:
        for one in workers:
            if one.poll() is None:
                one.send_signal(signal.SIGTERM)
        for one in workers:
            one.wait(30)
    listing = [*command, "jobs", "schedules", "--json"]
    told = run(listing, cwd=tmp_path, env=environment, check=True).stdout
    assert '"new year"' in told
    assert '"Asia/Tokyo"' in told
    with Store(f"sqlite:///{tmp_path}/c.db") as store:
        found = store.read_sync(lambda c: c.exec_driver_sql("SELECT run_at FROM jobs").scalars().all())
    assert len(found) == len(set(found))
