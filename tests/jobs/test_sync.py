"""What another system holds is kept in step with a source, whatever breaks on the way."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.app.test_queue_elsewhere import until
from tests.databases import migrated_sqlite
from tests.servers import RedisServer

from moorline import Moorline, errors
from moorline.jobs import Gone, Sync, SyncState
from moorline.jobs.broker import JobFilter
from moorline.jobs.sync_state import SyncRun
from moorline.settings import Settings


@dataclass(frozen=True)
class Contact:
    """Somebody, as changed at a time."""

    email: str
    at: int
    name: str = "Ada"


class Book:
    """The other side: what it holds, and what it does not take."""

    def __init__(self) -> None:
        self.held: dict[str, Contact] = {}
        self.asked: list[str] = []
        self.down_after = 10**9
        self.refuses: set[str] = set()

    def upsert(self, contact: Contact) -> None:
        self.asked.append(contact.email)
        if len(self.asked) > self.down_after:
            raise errors.ServiceUnavailable("down")
        if contact.email in self.refuses:
            raise errors.InvalidRequest("no such address")
        self.held[contact.email] = contact

    async def remove(self, email: str) -> None:
        if email not in self.held:
            raise errors.NotFound("gone before")
        del self.held[email]


class Source:
    """Contacts and goodbyes in the order of their changes; what it was asked since."""

    def __init__(self, count: int = 0) -> None:
        self.changes: list[tuple[int, Contact | Gone]] = []
        self.since: list[str | None] = []
        for number in range(count):
            self.say(Contact(f"c{number}@example.com", number))

    def say(self, change: Contact | Gone) -> None:
        at = len(self.changes)
        self.changes.append(
            (at, replace(change, at=at) if isinstance(change, Contact) else replace(change, place=str(at)))
        )

    def __call__(self, since: str | None) -> Iterator[Contact | Gone]:
        self.since.append(since)
        return iter([change for at, change in self.changes if at >= int(since or 0)])

    async def later(self, since: str | None) -> AsyncIterator[Contact | Gone]:
        """The same, asynchronously."""
        for change in self(since):
            await asyncio.sleep(0)
            yield change


def place(contact: Contact) -> str:
    return str(contact.at)


def email(contact: Contact) -> str:
    return contact.email


def made(app: Moorline, source: Any, book: Book, **options: Any) -> Sync[Any]:
    settings = {"name": "contacts", "place": place, "key": email, "remove": book.remove, "batch": 10, **options}
    return app.sync(source, **{"into": book.upsert, **settings})


@pytest.fixture
async def app(database_url: str) -> AsyncIterator[Moorline]:
    """An application on each database."""
    async with Moorline(database_url) as opened:
        yield opened


@pytest.fixture
async def lite(tmp_path: Path) -> AsyncIterator[Moorline]:
    """An application on SQLite, for what no database has a part in."""
    async with Moorline(migrated_sqlite(tmp_path / "m.db")) as opened:
        yield opened


@pytest.mark.parametrize("kind", ["plain", "async"])
@pytest.mark.parametrize("options", [{}, {"key": None}, {"batch": 7, "width": 1}], ids=["keyed", "ordered", "odd"])
async def test_first_all_and_then_what_has_changed(app: Moorline, kind: str, options: dict[str, Any]):
    """The first run is a full one; later ones begin at the last place; what is gone is removed."""
    source, book = Source(25), Book()
    sync = made(app, source if kind == "plain" else source.later, book, **options)
    first = await sync.run()
    assert (first.full, first.applied, first.place, first.error) == (True, 25, "24", None)
    source.say(Contact("c3@example.com", 0, "Grace"))
    source.say(Gone("c4@example.com"))
    source.say(Gone("nobody@example.com"))  # not there either: that is no failure
    second = await sync.run()
    assert (second.full, second.applied, second.removed, second.failed) == (False, 2, 2, 0)
    assert source.since == [None, "24"]
    assert (book.held["c3@example.com"].name, len(book.held)) == ("Grace", 24)
    assert (await sync.run()).items == 1  # the one at the place itself
    assert (await sync.run(full=True)).items == 28
    assert (await sync.state()).place == "27"


async def test_it_goes_on_where_it_broke_off(app: Moorline):
    """The other side is down in the middle: the run stops with its error, and the next one repeats one batch."""
    source, book = Source(45), Book()
    sync = made(app, source, book)
    book.down_after = 32
    with pytest.raises(errors.ServiceUnavailable):
        await sync.run()
    state = await sync.state()
    assert state.run is not None
    assert (state.place, state.run.place, state.run.applied) == (None, "29", 30)
    assert state.run.error == "ServiceUnavailable: down"
    book.down_after = 10**9
    run = await sync.run()
    assert (run.full, run.applied, run.error, len(book.held)) == (True, 46, None, 45)
    assert source.since == [None, "29"]


async def test_of_one_key_the_last_state_wins(lite: Moorline):
    """However often it changes within a batch, and however many are applied at once."""
    source, book = Source(), Book()
    for number in range(30):
        source.say(Contact(f"c{number % 3}@example.com", 0, str(number)))
    await made(lite, source, book).run()
    assert {contact.name for contact in book.held.values()} == {"27", "28", "29"}
    assert len(book.asked) == 9  # three in each of three batches


async def test_a_refused_item_holds_up_nobody_and_is_not_lost(app: Moorline):
    """It becomes a job with its content; when it is taken at last, all is in step."""
    source, book = Source(25), Book()
    book.refuses = {"c7@example.com"}
    sync = made(app, source, book, retries=0)
    run = await sync.run()
    assert (run.applied, run.failed, len(book.held)) == (24, 1, 24)
    worker = app.worker()
    await worker.drain()
    (dead,) = [job async for job in _jobs(app, "dead")]
    assert (dead.name, "c7@example.com" in str(dead.payload)) == ("sync:contacts:item", True)
    book.refuses = set()
    await app.jobs.broker.retry(dead.id)
    await worker.drain()
    assert book.held["c7@example.com"] == Contact("c7@example.com", 7)


async def _jobs(app: Moorline, state: Any) -> AsyncIterator[Any]:
    for job in await app.jobs.broker.list(JobFilter(state=state)):
        yield job


async def test_where_nothing_but_failures_comes_it_stops(lite: Moorline):
    """Then it is not the items' fault, and they are not made thousands of jobs."""
    source, book = Source(300), Book()
    book.refuses = {f"c{number}@example.com" for number in range(150, 300)}
    sync = made(lite, source, book, patience=40)
    with pytest.raises(errors.InvalidRequest):
        await sync.run()
    state = await sync.state()
    assert state.run is not None
    assert (state.run.applied, state.run.failed) == (150, 30)


async def test_it_stops_also_where_the_source_says_things_twice(lite: Moorline):
    """Of what has one key only the newest is tried: that all of these fail is that nothing but failures comes."""
    contacts = [Contact(f"c{number // 2}@example.com", number) for number in range(600)]
    book = Book()
    book.refuses = {one.email for one in contacts}
    with pytest.raises(errors.InvalidRequest):
        await made(lite, contacts, book, patience=40).run()


@pytest.mark.parametrize("wrong", [KeyError("email"), ValueError("no number"), TypeError()], ids=repr)
async def test_what_cannot_be_translated_is_one_items_fault(lite: Moorline, wrong: Exception):
    """A function that trips over one item is as good as a refusal of it."""
    book = Book()

    def into(contact: Contact) -> None:
        if contact.at == 3:
            raise wrong
        book.upsert(contact)

    run = await made(lite, Source(10), book, into=into).run()
    assert (run.applied, run.failed) == (9, 1)


@pytest.mark.parametrize(
    "stops",
    [
        errors.AuthenticationFailed("key"),
        errors.RateLimited("slow down"),
        errors.OutcomeUnknown("lost"),
        errors.ConfigurationError("no key"),
        RuntimeError("a fault of ours"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_what_is_everybodys_fault_stops_the_run(lite: Moorline, stops: Exception):
    """No item is to blame, so none is put aside."""

    async def into(_: Contact) -> None:
        raise stops

    sync = made(lite, Source(5), Book(), into=into)
    with pytest.raises(type(stops)):
        await sync.run()
    state = await sync.state()
    assert state.run is not None
    assert (state.run.items, type(stops).__name__ in (state.run.error or "")) == (0, True)
    assert not [job async for job in _jobs(lite, "ready")]


async def test_many_at_once(lite: Moorline):
    """A whole batch with one call: what it says of each counts, and where all are refused each is tried alone."""
    book, sizes = Book(), []
    book.refuses = {"c12@example.com"}

    def into(contacts: list[Contact]) -> list[Any]:
        sizes.append(len(contacts))
        if any(one.at == 25 for one in contacts) and len(contacts) > 1:
            raise errors.InvalidRequest("one of them is wrong")
        found: list[Any] = []
        for one in contacts:
            try:
                book.upsert(one)
                found.append(None)
            except errors.InvalidRequest as error:
                found.append(error)
        return found

    source = Source(30)
    source.say(Gone("c0@example.com"))
    run = await made(lite, source, book, into=into, many=True).run()
    assert (run.applied, run.removed, run.failed, len(book.held)) == (29, 1, 1, 28)
    assert sizes[:3] == [10, 10, 10]


async def test_of_two_runs_at_once_one_gives_way(app: Moorline):
    """The one that moves the checkpoint goes on; the other stops, and says so."""
    source, book = Source(50), Book()
    sync = made(app, source.later, book)
    runs = await asyncio.gather(sync.run(), sync.run())
    assert sorted(run.overtaken for run in runs) == [False, True]
    assert len(book.held) == 50
    state = await sync.state()
    assert (state.place, state.run) == ("49", None)


async def test_a_source_without_places_is_read_whole(lite: Moorline):
    """A list, a listing of a service: each run is a full one."""
    book = Book()
    contacts = [Contact(f"c{number}@example.com", number) for number in range(5)]
    sync = lite.sync(contacts, into=book.upsert, name="listed")
    assert (await sync.run()).applied == 5
    again = await sync.run()
    assert (again.full, again.applied, book.asked.count("c1@example.com")) == (True, 5, 2)


async def test_as_a_job_it_shows_how_far_it_is(app: Moorline):
    """One at a time is enqueued; its progress has the part that is done, its place and the number of items."""
    source, book = Source(30), Book()
    sync = made(app, source, book, total=lambda: 60)
    handle = await sync.enqueue(full=True)
    assert (await sync.enqueue(full=True)).duplicate
    await app.worker().drain()
    state = await sync.state()
    assert state.last is not None
    assert (state.last.applied, (await handle.job()).state) == (30, "done")
    progress = await handle.progress()
    assert progress is not None
    assert progress.message in {f"{items} items, up to {items - 1}" for items in (10, 20, 30)}


async def test_it_is_scheduled(lite: Moorline):
    """Changes often, everything at night: two schedules with names of their own."""
    made(lite, Source(), Book(), every=300, full_every="0 3 * * *")
    assert {"sync:contacts", "sync:contacts:full"} <= {one.name for one in lite.schedules}
    assert list(lite.syncs) == ["contacts"]


async def test_reset_begins_anew(app: Moorline):
    """The next run is a full one; of a sync that never ran there is nothing to forget."""
    source, book = Source(5), Book()
    sync = made(app, source, book)
    await sync.reset()
    await sync.run()
    await sync.reset()
    assert (await sync.run()).full


def test_wrong_arguments_are_named(tmp_path: Path):
    """Numbers that are none, functions that are none, a name that is needed."""
    app = Moorline(f"sqlite:///{tmp_path}/m.db")
    for wrong in ({"batch": 0}, {"width": True}, {"place": 1}, {"into": None}, {"patience": -1}):
        with pytest.raises(errors.ConfigurationError, match=next(iter(wrong))):
            made(app, Source(), Book(), **wrong)
    with pytest.raises(errors.ConfigurationError, match="name"):
        app.sync([], into=print)


async def test_what_a_source_must_not_do_is_said(lite: Moorline):
    """A place that is no text, something gone without anybody to remove it, an item that no job can keep."""
    with pytest.raises(errors.ConfigurationError, match="must give a text"):
        await made(lite, Source(1), Book(), place=lambda one: one.at, name="a").run()
    gone = Source()
    gone.say(Gone("x"))
    with pytest.raises(errors.ConfigurationError, match="give remove="):
        await lite.sync(gone, into=print, name="b").run()

    def into(contact: Any) -> None:
        raise errors.InvalidRequest(str(contact))

    with pytest.raises(errors.InvalidArguments, match="annotate the argument of into"):
        await lite.sync([object()], into=into, name="c").run()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"v":1}', '{"v":1,"place":1,"run":{"x":1},"last":null}', "null"])
def test_a_broken_state_is_a_clear_error(text: str):
    """Nothing is guessed of what somebody else wrote."""
    with pytest.raises(errors.ConfigurationError, match="reset it"):
        SyncState.from_text(text)
    with pytest.raises(errors.ConfigurationError, match="newer program"):
        SyncState.from_text('{"v":2}')


_moves = st.lists(
    st.one_of(
        st.tuples(st.just("begin"), st.booleans()),
        st.tuples(st.just("batch"), st.integers(1, 5)),
        st.tuples(st.just("break"), st.just(0)),
        st.tuples(st.just("end"), st.just(0)),
    ),
    max_size=30,
)


@given(_moves, st.integers(0, 40))
def test_no_change_is_skipped(moves: list[tuple[str, int]], total: int):
    """Whatever begins, breaks off and ends: all before the stored place was applied, and so was all at the end."""
    state, applied, reader = SyncState(), set[int](), 0
    for move, value in moves:
        assert SyncState.from_text(state.to_text()) == state
        if move == "begin":
            state = state.begun(1.0, full=bool(value))
            reader = int(state.since or 0)
        elif state.run is None:
            continue
        elif move == "batch" and reader < total:
            upto = min(reader + value, total)
            applied |= set(range(reader, upto))
            state = state.advanced(str(upto), applied=upto - reader, removed=0, failed=0)
            reader = upto
        elif move == "break":
            state = state.broken("x" * 1000)
            reader = int(state.since or 0)
        elif move == "end" and reader == total:
            state = state.ended(2.0)
            assert applied == set(range(total))
        assert set(range(int(state.place or 0))) <= applied
    assert state.last is None or (state.last.ended == 2.0 and state.last.error is None)


PROGRAM = """
import asyncio, json, os, sys
from moorline import Moorline
app = Moorline(sys.argv[1])
def source(since):
    return iter([{"n": n} for n in range(int(since or 0), 400)])
def into(item):
    with open(sys.argv[2], "a") as file:
        file.write(f"{item['n']}\\n")
sync = app.sync(source, into=into, name="numbers", place=lambda one: str(one["n"]), batch=5)
async def main():
    async with app:
        print((await sync.run()).applied, flush=True)
asyncio.run(main())
"""


def test_killed_again_and_again_it_applies_everything(tmp_path: Path):
    """``kill -9`` in the middle, three times: all are applied, and those twice are few: a batch for each kill."""
    url = migrated_sqlite(tmp_path / "m.db")
    out = tmp_path / "out"
    out.touch()

    def lines() -> list[str]:
        return out.read_text().splitlines()

    for number in range(1, 4):
        process = subprocess.Popen([sys.executable, "-c", PROGRAM, url, str(out)])
        while len(lines()) < number * 100 and process.poll() is None:
            os.sched_yield()
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, url, str(out)], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip().isdecimal()
    assert sorted({int(line) for line in lines()}) == list(range(400))
    assert len(lines()) <= 400 + 3 * 6 + 6


@pytest.mark.redis
async def test_with_the_jobs_elsewhere_a_refused_item_waits_in_the_database(tmp_path: Path, redis_server: RedisServer):
    """Its job is made in the same transaction as the checkpoint, and is relayed to where the jobs are."""
    settings = Settings(database_url=migrated_sqlite(tmp_path / "m.db"), queue_url=redis_server.url)
    app, book = Moorline(settings=settings), Book()
    book.refuses = {"c2@example.com"}
    sync = made(app, Source(5), book)
    async with app.running(worker=True):
        assert (await sync.run()).failed == 1
        book.refuses = set()
        await until(lambda: "c2@example.com" in book.held)


def test_runs_are_plain_values():
    """What is shown of one can be read as JSON."""
    run = SyncRun(full=True, began=1.0, applied=2, removed=1, failed=3)
    assert (run.items, json.loads(SyncState(run=run).to_text())["run"]["failed"]) == (6, 3)
