"""What is handed over at once and sent later, many in one Call."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.servers import until

from moorline import Moorline, errors
from moorline.calls.backlog import Backlog
from moorline.calls.batcher import Batcher, in_batcher
from moorline.calls.guards import Guards
from moorline.calls.service import BearerKey, Endpoints, Exchange, Plan, Service, operation
from moorline.clock import ManualClock
from moorline.policies.policy import Policy

PLAIN = Policy(retry=None, breaker=None)


class Notices(Service):
    """A service that takes texts, up to ten at a time; it says how many of them it did not like."""

    name, category = "notices", "tests"
    endpoints = Endpoints("https://notices.example")
    credentials = BearerKey(env="NOTICES_KEY", sandbox="key")

    @operation
    def send(self, items: list[str]) -> Plan[dict[str, int]]:
        """Hand them over."""
        return self.post("/notices", json=items, parse=_disliked, repeatable=True)


def _disliked(exchange: Exchange) -> dict[str, int]:
    found: dict[str, int] = exchange.data["disliked"]
    return found


class Board:
    """The other side: what it got, and the status that it answers with."""

    def __init__(self, status: int = 200, bad: str = "\0", odd: str = "\0") -> None:
        self.status = status
        self.bad = bad
        self.odd = odd
        self.requests: list[list[str]] = []
        self.taken: list[str] = []
        self.threads: set[bool] = set()

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        items: list[str] = json.loads(request.read())
        self.requests.append(items)
        self.threads.add(in_batcher())
        if self.status != 200:
            return httpx2.Response(self.status, json={})
        if any(self.bad in one for one in items):
            return httpx2.Response(400, json={})
        disliked = sum(self.odd in one for one in items)
        self.taken += [one for one in items if self.odd not in one]
        return httpx2.Response(200, json={"disliked": {"odd": disliked} if disliked else {}})

    def service(self, **options: Any) -> Notices:
        """A service that talks to it."""
        options = {"guards": Guards(), "policy": PLAIN, **options}
        return Notices("key-0123456789", wire=httpx2.MockTransport(self), **options)


@pytest.fixture
def batcher() -> Iterator[Callable[..., Batcher[str]]]:
    """Makes batchers, and ends their threads."""
    with contextlib.ExitStack() as ending:

        def make(board: Board, service: Notices | None = None, **options: Any) -> Batcher[str]:
            send = (service or board.service()).send
            settings = {"name": "notices", "size": len, "most": 10, "most_bytes": 100, "refusals": dict, **options}
            made: Batcher[str] = Batcher(send, **settings)
            ending.callback(made.close, 0)
            return made

        yield make


Make = Callable[..., Batcher[str]]


def test_a_full_batch_goes_at_once_and_the_rest_when_it_is_old(batcher: Make):
    """By count, by bytes and by age; what was added first goes first."""
    board = Board()
    made = batcher(board, age=0.05)
    for number in range(25):
        assert made.add(f"{number:04}")
    until(lambda: made.counts.sent == 25)
    assert board.requests[:2] == [[f"{one:04}" for one in range(10)], [f"{one:04}" for one in range(10, 20)]]
    assert board.taken == [f"{one:04}" for one in range(25)]
    big = batcher(board := Board(), most=1000, age=3600.0)
    for letter in "abc":
        big.add(letter * 40)
    until(lambda: big.counts.sent == 2)  # 80 bytes: a third one would be over 100
    assert (big.counts.waiting, board.threads) == (1, {True})


def test_flush_waits_for_what_was_added_before(batcher: Make):
    """Blocking and on the loop; nothing to flush is done at once."""
    board = Board()
    made = batcher(board, age=3600.0)
    assert made.flush()
    made.add("one")
    assert made.flush()
    made.add("two")
    assert asyncio.run(made.aflush())
    assert board.requests == [["one"], ["two"]]


def test_what_is_wrong_with_one_does_not_take_the_others_with_it(batcher: Make):
    """A batch that is refused as malformed is halved until the culprit is alone; it is counted by what was said."""
    board = Board(bad="x")
    made = batcher(board, age=3600.0)
    for word in ("a", "b", "xc", "d", "e", "f", "g"):
        made.add(word)
    assert made.flush()
    assert board.taken == ["a", "b", "d", "e", "f", "g"]
    assert (made.counts.sent, dict(made.counts.refused)) == (6, {"InvalidRequest": 1})


def test_a_batch_of_wrong_ones_is_not_halved_for_ever(batcher: Make):
    """At most 16 times for one batch."""
    board = Board(bad="x")
    made = batcher(board, most=100, age=3600.0)
    for _ in range(100):
        made.add("x")
    assert made.flush()
    assert len(board.requests) <= 33
    assert (made.counts.sent, made.counts.refused["InvalidRequest"]) == (0, 100)


class Naming(Board):
    """It takes nothing while something is wrong with some, and its answer has their places: wrong for good are those
    with an ``x``, too many for now those with a ``t``.
    """

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        items: list[str] = json.loads(request.read())
        never = [place for place, one in enumerate(items) if "x" in one]
        later = [place for place, one in enumerate(items) if "t" in one]
        self.status = 400 if never else 429 if later else 200
        super().__call__(request)
        return httpx2.Response(self.status, json={"disliked": {}, "never": never, "later": later})


def told(items: list[str], error: errors.CallError) -> dict[int, float]:
    """What such an answer says; nothing of an error of another kind."""
    detail = error.detail or {}
    assert all(place < len(items) for name in detail for place in detail[name])
    return dict.fromkeys(detail.get("later", ()), 30.0) | dict.fromkeys(detail.get("never", ()), math.inf)


def test_those_to_blame_are_refused_and_the_others_sent_again_once(batcher: Make):
    """Where the service says which they are nothing is halved: as many wrong ones as there are cost one request."""
    made = batcher(board := Naming(), most=1000, most_bytes=10_000, age=3600.0, blamed=told)
    words = [f"{number}{'x' * (number % 5 == 0)}" for number in range(100)]
    for word in words:
        made.add(word)
    assert made.flush()
    assert [len(one) for one in board.requests] == [100, 80]
    assert board.taken == [one for one in words if "x" not in one]
    assert (made.counts.sent, dict(made.counts.refused)) == (80, {"InvalidRequest": 20})


def test_those_who_are_limited_hold_up_no_others(batcher: Make):
    """They wait as long as they must, apart: the others go at once, and so does what is added meanwhile."""
    clock, board = ManualClock(), Naming()
    made = batcher(board, board.service(guards=Guards(clock=ManualClock())), clock=clock, age=5.0, blamed=told)
    made._thread = threading.current_thread()
    for word in ("a", "t", "b"):
        made.add(word)
    made.run_once()
    assert (board.taken, made.counts.waiting, made._due_in()) == (["a", "b"], 1, 30.0)
    made.add("c")
    assert made._due_in() == 5.0
    made.run_once()
    assert (board.taken, made.counts.waiting, made._due_in()) == (["a", "b", "c"], 1, 30.0)
    board.requests.clear()
    clock.advance(30.0)
    assert made.run_once() == 1
    assert (board.requests, made.counts.waiting, made._due_in()) == ([["t"]], 1, 30.0)


def test_what_is_added_while_some_wait_apart_goes_when_it_is_old(batcher: Make):
    """The thread does not sleep until those may go."""
    board = Naming()
    made = batcher(board, board.service(guards=Guards(clock=ManualClock())), age=0.05, blamed=told)
    made.add("t")
    until(lambda: board.requests == [["t"]] and not made._flying)
    made.add("a")
    until(lambda: board.taken == ["a"])
    assert (made.counts.waiting, made.counts.sent) == (1, 1)


def test_at_the_end_those_who_wait_apart_become_jobs(batcher: Make, tmp_path: Path):
    """They are tried once more, and are then as durable as all else."""
    board = Naming()
    app = Moorline(f"sqlite:///{tmp_path}/moorline.db")
    guards = Guards(clock=ManualClock())
    service = app.service(Notices, api_key="k", wire=httpx2.MockTransport(board), guards=guards, policy=PLAIN)
    made = batcher(board, service, age=0.0001, blamed=told)
    with app.opened():
        made.add("t")
        until(lambda: board.requests == [["t"]] and not made._flying)
        assert made.close(5)
    assert (made.counts.spilled, board.requests) == (1, [["t"]] * 2)


def test_a_reader_of_errors_that_fails_ends_no_thread(batcher: Make, caplog: pytest.LogCaptureFixture):
    """The batch is halved then, as where nothing is said of the culprits."""
    made = batcher(board := Naming(), age=3600.0, blamed=lambda items, error: {0: 1 / 0})
    for word in ("a", "x", "b"):
        made.add(word)
    assert made.flush()
    assert (board.taken, made.counts.refused) == (["a", "b"], {"InvalidRequest": 1})
    assert "batch_not_divided" in caplog.text


def test_what_a_service_took_only_in_part_is_counted(batcher: Make):
    """As many as it says, by its reason."""
    made = batcher(Board(odd="?"), age=3600.0)
    for word in ("a", "b?", "c"):
        made.add(word)
    assert made.flush()
    assert (made.counts.sent, dict(made.counts.refused)) == (2, {"odd": 1})


def test_nothing_that_is_added_breaks_the_caller(batcher: Make):
    """Too large, not to be measured, too many, too late: False and a reason, and never an exception."""
    board = Board(status=503)
    made = batcher(board, age=3600.0, capacity=2)
    assert not made.add("x" * 101)
    assert not made.add(None)  # type: ignore[arg-type]
    assert made.add("a")
    assert made.add("b")
    assert not made.add("c")
    made.close(0)
    assert not made.add("d")
    counts = made.counts
    assert counts.refused == {"too_large": 1, "TypeError": 1, "full": 1, "closed": 1, "lost": 2}
    assert counts.added == counts.sent + counts.spilled + counts.waiting + sum(counts.refused.values())


def test_without_a_thread_all_waits_for_the_next_try(
    batcher: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """A machine that has no more threads breaks nobody who adds: it is said once, and adding or flushing tries again."""

    def none_left(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    board = Board()
    flushed, added = batcher(board, age=3600.0), batcher(board, age=0.001)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", none_left)
        assert flushed.add("a")
        assert flushed.add("b")
        assert added.add("c")
        assert not flushed.flush(0)
    assert (flushed.counts.waiting, added.counts.waiting, board.requests) == (2, 1, [])
    said = [one for one in caplog.messages if "batch_waits_for_a_thread" in one]
    assert len(said) == 2
    assert "can't start new thread" in said[0]
    assert flushed.flush()
    assert board.taken == ["a", "b"]
    assert added.add("d")
    until(lambda: added.counts.sent == 2)


@pytest.mark.parametrize("status", [503, 429, 401, 403])
def test_an_outage_and_a_bad_key_are_waited_out(batcher: Make, status: int):
    """What cannot be sent now waits, in its order, and is tried again after 1, 2, 4, … s, up to a minute."""
    clock, board = ManualClock(), Board(status=status)
    made = batcher(board, board.service(guards=Guards(clock=clock)), clock=clock, age=3600.0)
    made._thread = threading.current_thread()  # this test is the thread
    for word in ("a", "b", "c"):
        made.add(word)
    waits = []
    for _ in range(9):
        before = made._due_in()
        clock.advance(max(before, 0.0))
        made.run_once()
        waits.append(made._due_in())
    assert all(low * 0.5 <= wait <= low for low, wait in zip([1, 2, 4, 8, 16, 32, 60, 60], waits, strict=False))
    assert made.counts.waiting == 3
    board.status = 200
    clock.advance(made._due_in())
    made.run_once()
    assert (board.taken, made.counts.sent) == (["a", "b", "c"], 3)


def test_the_time_that_a_service_names_is_kept(batcher: Make):
    """Retry-After of an answer moves the next try."""
    clock = ManualClock()
    answer = httpx2.Response(429, headers={"Retry-After": "120"}, json={})
    service = Notices("k", wire=httpx2.MockTransport(lambda _: answer), guards=Guards(clock=clock), policy=PLAIN)
    made = batcher(Board(), service, clock=clock)
    made._thread = threading.current_thread()
    made.add("a")
    made.run_once()
    assert 119 <= made._due_in() <= 121


def test_what_may_have_arrived_and_cannot_be_repeated_is_counted(batcher: Make):
    """A write without an answer is never sent again on a guess."""

    def lost(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ReadTimeout("", request=request)

    made = batcher(Board(), Counting("k", wire=httpx2.MockTransport(lost), guards=Guards(), policy=PLAIN))
    made.add("a")
    assert made.flush()
    assert made.counts.refused == {"outcome_unknown": 1}


def test_a_fault_of_ours_ends_no_thread(batcher: Make):
    """What goes wrong while a Call is made is counted, and the next batch goes."""
    board = Board()
    notices = board.service()

    def send(items: list[str]) -> Any:
        if "bug" in items:
            raise ZeroDivisionError
        return notices.send(items)

    made: Batcher[str] = Batcher(send, name="notices", size=len, most=10, most_bytes=100)
    made.add("bug")
    assert made.flush()
    made.add("a")
    assert made.flush()
    assert (board.taken, made.counts.refused) == (["a"], {"ZeroDivisionError": 1})
    made.close(0)


def test_in_an_outage_batches_become_durable_jobs(batcher: Make, tmp_path: Path):
    """Where the service is an application's: they are in its database, and a worker sends them afterwards."""
    board = Board(status=503)
    app = Moorline(f"sqlite:///{tmp_path}/moorline.db")
    service = app.service(Notices, api_key="k", wire=httpx2.MockTransport(board), guards=Guards(), policy=PLAIN)
    made = batcher(board, service, age=3600.0)
    with app.opened():
        for word in ("a", "b", "c"):
            made.add(word)
        assert made.flush()
        assert (made.counts.spilled, made.counts.waiting, board.taken) == (3, 0, [])
    board.status = 200

    async def work() -> None:
        async with app.running(worker=True):
            for _ in range(3000):
                if board.taken:
                    return
                await asyncio.sleep(0.01)

    asyncio.run(work())
    assert board.taken == ["a", "b", "c"]


def test_what_is_too_large_for_one_job_becomes_several(batcher: Make, tmp_path: Path):
    """Jobs have a limit of their own; items that fit into none are counted."""
    board = Board(status=503)
    app = Moorline(f"sqlite:///{tmp_path}/moorline.db")
    app.jobs.max_payload = 400
    service = app.service(Notices, api_key="k", wire=httpx2.MockTransport(board), guards=Guards(), policy=PLAIN)
    made = batcher(board, service, age=3600.0, most_bytes=2000)
    with app.opened():
        for word in ("a" * 150, "b" * 150, "c" * 150, "d" * 500):
            made.add(word)
        assert made.flush()
    assert (made.counts.spilled, made.counts.refused) == (3, {"too_large": 1})


def test_what_is_too_much_for_one_request_becomes_several_jobs(batcher: Make, tmp_path: Path):
    """At the end more may wait than one request takes: it is divided until the service makes a Call of it."""

    class Limited(Notices):
        @operation
        def send(self, items: list[str]) -> Plan[dict[str, int]]:
            """Hand over three at most, and none that is empty."""
            if len(items) > 3 or "" in items:
                raise errors.InvalidRequest("items: too many", code="items", outcome="not_sent")
            return self.post("/notices", json=items, parse=_disliked, repeatable=True)

    app = Moorline(f"sqlite:///{tmp_path}/moorline.db")
    wire = httpx2.MockTransport(Board(status=503))
    service = app.service(Limited, api_key="k", wire=wire, guards=Guards(), policy=PLAIN)
    made = batcher(Board(), service, most=3, age=3600.0)
    made._thread = threading.current_thread()
    with app.opened():
        for word in ("a", "b", "c", "d", "e", "f", "g", ""):
            made.add(word)
        assert made.close(0)
    assert (made.counts.spilled, made.counts.refused) == (7, {"items": 1})


def test_with_the_database_down_too_it_waits(batcher: Make, tmp_path: Path):
    """An application that is not open can keep nothing: the batch stays in memory."""
    board = Board(status=503)
    app = Moorline(f"sqlite:///{tmp_path}/moorline.db")
    service = app.service(Notices, api_key="k", wire=httpx2.MockTransport(board), guards=Guards(), policy=PLAIN)
    made = batcher(board, service, age=3600.0)
    made.add("a")
    assert not made.flush(0.2)
    assert (made.counts.waiting, made.counts.refused) == (1, {})
    board.status = 200
    assert made.flush()
    assert board.taken == ["a"]


class Counting(Notices):
    """The same without a memory of what came before: twice is counted twice."""

    @operation
    def send(self, items: list[str]) -> Plan[dict[str, int]]:
        """Hand them over."""
        return self.post("/notices", json=items, parse=_disliked)


@pytest.fixture
def slow() -> Iterator[Callable[..., tuple[Board, threading.Event]]]:
    """Makes boards that answer only when they may; the first *quick* requests are answered at once."""
    gates: list[threading.Event] = []

    def make(quick: int = 0, **options: Any) -> tuple[Board, threading.Event]:
        gate = threading.Event()
        gates.append(gate)

        class Slow(Board):
            def __call__(self, request: httpx2.Request) -> httpx2.Response:
                answer = super().__call__(request)
                if len(self.requests) > quick:
                    gate.wait(30)
                return answer

        return Slow(**options), gate

    yield make
    for gate in gates:
        gate.set()


Slow = Callable[..., tuple[Board, threading.Event]]


@pytest.mark.parametrize("ending", ["flush", "close"])
def test_a_batch_under_way_becomes_a_durable_job(batcher: Make, slow: Slow, tmp_path: Path, ending: str):
    """Who cannot wait for the answer takes the batch over, in its order; the answer counts nothing when it is there."""
    board, gate = slow()
    app = Moorline(f"sqlite:///{tmp_path}/moorline.db")
    service = app.service(Notices, api_key="k", wire=httpx2.MockTransport(board), guards=Guards(), policy=PLAIN)
    made = batcher(board, service, most=2, age=3600.0)
    with app.opened():
        for word in ("a", "b", "c"):
            made.add(word)
        until(lambda: board.requests == [["a", "b"]])
        assert made.flush(0, spill=True) if ending == "flush" else made.close(0)
        assert (made.counts.spilled, made.counts.waiting) == (3, 0)
        gate.set()
        assert made.close()
        assert made._thread is not None
        made._thread.join(10)
    with contextlib.closing(sqlite3.connect(tmp_path / "moorline.db")) as database:
        assert database.execute("SELECT count(*) FROM jobs").fetchone() == (2,)
    assert (made.counts.sent, made.counts.spilled, dict(made.counts.refused)) == (0, 3, {})


def test_a_batch_under_way_at_the_end_is_counted(batcher: Make, slow: Slow, caplog: pytest.LogCaptureFixture):
    """Without an application it is lost, the parts of it that were to follow and what waits too, and the log says so."""
    board, gate = slow(quick=1, bad="x")
    made = batcher(board, most=4, age=3600.0)
    for word in ("a", "b", "x", "c", "d"):
        made.add(word)
    until(lambda: board.requests == [["a", "b", "x", "c"], ["a", "b"]])
    assert not made.close(0)
    assert (made.counts.waiting, dict(made.counts.refused)) == (0, {"lost": 5})
    assert "batch_refused" in caplog.text
    gate.set()
    assert made._thread is not None
    made._thread.join(10)
    assert (made.counts.sent, dict(made.counts.refused), len(board.requests)) == (0, {"lost": 5}, 2)


def test_what_is_under_way_and_cannot_be_repeated_is_unknown_at_the_end(batcher: Make, slow: Slow, tmp_path: Path):
    """It is no job, which might count it twice: ``flush`` leaves it under way, and ``close`` counts it."""
    board, _ = slow()
    app = Moorline(f"sqlite:///{tmp_path}/moorline.db")
    service = app.service(Counting, api_key="k", wire=httpx2.MockTransport(board), guards=Guards(), policy=PLAIN)
    made = batcher(board, service, most=2, age=3600.0)
    with app.opened():
        for word in ("a", "b", "c"):
            made.add(word)
        until(lambda: board.requests == [["a", "b"]])
        assert not made.flush(0, spill=True)
        assert (made.counts.spilled, made.counts.waiting) == (1, 2)
        assert not made.close(0)
    assert (made.counts.spilled, made.counts.waiting, dict(made.counts.refused)) == (1, 0, {"outcome_unknown": 2})


def test_flush_leaves_under_way_what_can_be_no_job(batcher: Make, slow: Slow):
    """Without an application nothing is gained by taking it over: it is sent once, and counted by its answer."""
    board, gate = slow()
    made = batcher(board, age=3600.0)
    made.add("a")
    assert not made.flush(0, spill=True)
    until(lambda: board.requests == [["a"]])
    assert not made.flush(0, spill=True)
    gate.set()
    assert made.flush()
    assert (made.counts.sent, board.requests) == (1, [["a"]])


def test_what_the_thread_gives_back_after_the_end_is_lost():
    """A batch that failed just when all was ended waits for nobody: it is counted, and ``close`` sees that."""
    board = Board(status=503)
    notices = board.service()
    closing: list[threading.Thread] = []
    done: list[bool] = []

    def send(items: list[str]) -> Any:
        if board.requests:  # it failed, and is made a Call again for a job
            closing.append(threading.Thread(target=lambda: done.append(made.close(0))))
            closing[0].start()
            until(lambda: made._over)
        return notices.send(items)

    made: Batcher[str] = Batcher(send, name="notices", size=len, most=10, most_bytes=100)
    made._thread = threading.current_thread()
    made.add("a")
    made.run_once()
    closing[0].join(10)
    assert (done, made.counts.waiting, dict(made.counts.refused)) == ([False], 0, {"lost": 1})


EXIT = """
import sys
import httpx2
from tests.calls.test_batcher import Board
from moorline.calls.batcher import Batcher

board = Board(status=int(sys.argv[1]))
made = Batcher(board.service().send, name="notices", size=len, most=10, most_bytes=100, age=3600.0)
made.add("a"); made.add("b")
import atexit
atexit._run_exitfuncs()
print(board.taken, made.counts.refused)
"""


@pytest.mark.parametrize(("status", "said"), [(200, "['a', 'b'] {}"), (400, "[] {'InvalidRequest': 2}")])
def test_the_rest_is_sent_at_exit(status: int, said: str):
    """A program that ends sends what waits; nobody has to remember to."""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", EXIT, str(status)], cwd=root, check=True, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == said


def test_a_child_process_sends_nothing_of_its_parent(batcher: Make):
    """After a fork what waits is the parent's to send; what the child adds is its own."""
    board = Board()
    made = batcher(board, age=3600.0)
    made.add("parent")
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        made.add("child")
        made.flush()
        os.write(write, json.dumps([board.taken, made.counts.added]).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert json.loads(os.read(read, 1000)) == [["child"], 1]
    assert made.flush()
    assert board.taken == ["parent"]


@given(
    sizes=st.lists(st.integers(0, 30), max_size=40),
    most=st.integers(1, 7),
    most_bytes=st.integers(1, 60),
    put=st.data(),
)
def test_batches_keep_order_and_bounds(sizes: list[int], most: int, most_bytes: int, put: st.DataObject):
    """Whatever is taken and put back, items leave in the order of their coming, in batches within both bounds."""
    backlog: Backlog[int] = Backlog(most=most, most_bytes=most_bytes, age=1.0, capacity=100)
    for number, size in enumerate(sizes):
        backlog.add(number, size, float(number))
    left: list[int] = []
    while backlog:
        assert backlog.due_at() <= len(left) + 1.0
        batch = backlog.take()
        if put.draw(st.booleans()):
            backlog.put_back(batch)
            continue
        assert 1 <= len(batch) <= most
        assert len(batch) == 1 or sum(one.size for one in batch) <= most_bytes
        left += [one.item for one in batch]
    assert left == list(range(len(sizes)))


def test_some_wait_apart():
    """They count as waiting, are in no batch until their moment, and come first then, in their order."""
    backlog: Backlog[int] = Backlog(most=4, most_bytes=10, age=1.0, capacity=5)
    for number in range(4):
        backlog.add(number, 3, 0.0)
    assert backlog.due_at() == -math.inf
    one, two, *rest = backlog.take()
    backlog.put_back(rest)
    backlog.set_apart([one], 7.0)
    backlog.set_apart([two], 5.0)
    assert (len(backlog), backlog.ready, backlog.full, backlog.due_at()) == (4, 2, False, 1.0)
    backlog.add(4, 1, 0.5)
    assert backlog.full
    assert [each.item for each in backlog.take()] == [2, 3, 4]
    assert (backlog.due_at(), backlog.take()) == (5.0, [])
    backlog.rejoin(6.0)
    assert [each.item for each in backlog.take()] == [1]
    backlog.rejoin(7.0)
    backlog.add(5, 1, 7.0)
    assert [each.item for each in backlog.take()] == [0, 5]
    assert (len(backlog), backlog.due_at()) == (0, math.inf)


@given(st.lists(st.tuples(st.sampled_from(["add", "run", "odd", "large"]), st.sampled_from([200, 503, 400, 401]))))
def test_everything_is_counted_once(steps: list[tuple[str, int]]):
    """Whatever happens, what was added is sent, spilled, waiting or refused."""
    clock, board = ManualClock(), Board(odd="?")
    service = board.service(guards=Guards(clock=clock))
    made: Batcher[str] = Batcher(
        service.send, name="n", size=len, most=3, most_bytes=20, capacity=5, refusals=dict, clock=clock
    )
    made._thread = threading.current_thread()
    for step, status in steps:
        board.status = status
        if step == "run":
            made.run_once()
        else:
            made.add({"add": "a", "odd": "?", "large": "x" * 21}[step])
        counts = made.counts
        assert counts.added == counts.sent + counts.spilled + counts.waiting + sum(counts.refused.values())
    assert made.counts.added == sum(step != "run" for step, _ in steps)
    made._thread = None
    made._forget()


def test_wrong_settings_are_named():
    """The bounds are numbers of things."""
    for name in ("most", "most_bytes", "capacity", "age"):
        with pytest.raises(errors.ConfigurationError, match=name):
            Batcher(Board().service().send, **{"name": "n", "size": len, "most": 1, "most_bytes": 1, name: 0})  # type: ignore[arg-type]
