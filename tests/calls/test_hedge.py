"""Hedging: a late read is sent a second time, the first answer wins, and nothing is left of the other."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from typing import Any

import httpx2
import pytest
from tests.calls.fault_server import FaultServer, silent
from tests.calls.ledger import Ledger, Script, both, run

from moorline import Policy, errors
from moorline.calls.cache import Cache
from moorline.calls.guards import Guards
from moorline.calls.hedge import Hedge
from moorline.calls.wiring import Wires
from moorline.clock import ManualClock
from moorline.policies.breaker import Breaker
from moorline.policies.bulkhead import Bulkhead
from moorline.policies.deadline import deadline
from moorline.policies.retry import Retry

SOON = 0.02


class Track:
    """A handler for both colours: each request ends as told by its number, ``"held"`` ones when they are let go."""

    def __init__(self, *ends: Any) -> None:
        self.ends = ends
        self.requests: list[httpx2.Request] = []
        self.cancelled: list[int] = []
        self.over = threading.Semaphore(0)
        self.free = threading.Event()
        self._lock = threading.Lock()

    def _number(self, request: httpx2.Request) -> int:
        with self._lock:
            self.requests.append(request)
            return len(self.requests) - 1

    def _answer(self, number: int) -> httpx2.Response:
        end = self.ends[min(number, len(self.ends) - 1)]
        if isinstance(end, Exception):
            raise end
        status = 200 if end == "held" else end
        return httpx2.Response(status, json={"id": f"b_{number + 1}"})

    def blocking(self, request: httpx2.Request) -> httpx2.Response:
        number = self._number(request)
        try:
            if self.ends[min(number, len(self.ends) - 1)] == "held":
                assert self.free.wait(10)
            return self._answer(number)
        finally:
            self.over.release()

    async def on_loop(self, request: httpx2.Request) -> httpx2.Response:
        number = self._number(request)
        try:
            if self.ends[min(number, len(self.ends) - 1)] == "held":
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.append(number)
            raise
        return self._answer(number)

    def service(self, colour: str, **options: Any) -> Ledger:
        policy = Policy(**{"retry": Retry(retries=0), **options.pop("policy", {})})
        handler: Any = self.blocking if colour == "sync" else self.on_loop
        return Ledger(
            "k",
            wire=httpx2.MockTransport(handler),
            policy=policy,
            guards=options.pop("guards", None) or Guards(),
            **options,
        )


def asked(colour: str, track: Track, call: Any) -> Any:
    """The result, with held requests let go once it is there."""
    try:
        return run(colour, call)
    finally:
        track.free.set()
        if colour == "sync":
            for _ in track.requests:
                assert track.over.acquire(timeout=10)


@both
def test_the_first_answer_wins(colour):
    """The first request hangs, the second answers: its answer is given at once."""
    track = Track("held", 200)
    ledger = track.service(colour)
    assert asked(colour, track, ledger.read("1").using(hedge=SOON)) == "b_2"
    assert len(track.requests) == 2
    assert track.requests[0].headers == track.requests[1].headers
    assert track.cancelled == ([0] if colour == "async" else [])


@both
def test_an_answer_in_time_is_alone(colour):
    """No second request when the first is quick, whether it says yes or no."""
    track = Track(200)
    assert asked(colour, track, track.service(colour).read("1").using(hedge=5)) == "b_1"
    track = Track(500)
    with pytest.raises(errors.ServiceUnavailable):
        asked(colour, track, track.service(colour).read("1").using(hedge=5))
    assert len(track.requests) == 1


@both
def test_as_many_as_allowed(colour):
    """``Hedge(most=2)`` sends at most two more, each after as long."""
    track = Track("held", "held", 200)
    ledger = track.service(colour)
    assert asked(colour, track, ledger.read("1").using(hedge=Hedge(after=SOON, most=2))) == "b_3"
    assert len(track.requests) == 3


@both
def test_a_failed_hedge_ends_nothing(colour):
    """When the second request fails the first may still answer."""
    free = threading.Event()

    class First(Track):
        def blocking(self, request: httpx2.Request) -> httpx2.Response:
            if self._number(request):
                free.set()
                return httpx2.Response(500)
            assert free.wait(10)
            return httpx2.Response(200, json={"id": "b_1"})

        async def on_loop(self, request: httpx2.Request) -> httpx2.Response:
            if self._number(request):
                free.set()
                return httpx2.Response(500)
            await asyncio.to_thread(free.wait, 10)
            return httpx2.Response(200, json={"id": "b_1"})

    track = First()
    assert run(colour, track.service(colour).read("1").using(hedge=SOON)) == "b_1"
    assert len(track.requests) == 2


@both
def test_when_all_fail_the_first_error_is_told(colour):
    """The error is that of the first request, which had the retries."""
    free = threading.Event()

    class Both(Track):
        def blocking(self, request: httpx2.Request) -> httpx2.Response:
            if self._number(request):
                free.set()
                return httpx2.Response(503)
            assert free.wait(10)
            return httpx2.Response(500)

        async def on_loop(self, request: httpx2.Request) -> httpx2.Response:
            if self._number(request):
                free.set()
                return httpx2.Response(503)
            await asyncio.to_thread(free.wait, 10)
            return httpx2.Response(500)

    track = Both()
    with pytest.raises(errors.ServiceUnavailable) as caught:
        run(colour, track.service(colour).read("1").using(hedge=SOON))
    assert caught.value.status == 500


@both
def test_a_callers_fault_is_an_answer(colour):
    """A 404 to the second request is what the service says, and is raised without waiting for the first."""
    track = Track("held", 404)
    with pytest.raises(errors.NotFound):
        asked(colour, track, track.service(colour).read("1").using(hedge=SOON))
    assert len(track.requests) == 2


@both
def test_a_hedge_is_charged_like_a_retry(colour):
    """When the retry budget is spent, no second request is sent."""
    track = Track("held", 200)
    clock = ManualClock()  # on which no token is earned
    guards = Guards(clock)
    ledger = track.service(colour, guards=guards, policy={"retry": Retry(retries=1, budget=0.1), "deadline": 3600.0})
    budget = ledger.context_of(ledger.read("1")).guard.budget
    assert budget is not None
    spent = 0
    while budget.take():
        spent += 1
    assert spent > 0
    timer = threading.Timer(SOON * 10, track.free.set)
    if colour == "sync":
        timer.start()
        assert ledger.read("1").using(hedge=SOON).result() == "b_1"
        timer.join()
    else:

        async def hurried() -> Any:
            async with asyncio.timeout(SOON * 10):
                await ledger.read("1").using(hedge=SOON)

        with pytest.raises(TimeoutError):
            asyncio.run(hurried())
    assert len(track.requests) == 1


@both
def test_a_hedge_passes_breaker_and_bulkhead(colour):
    """A full bulkhead refuses the second request, and the first goes on alone."""
    track = Track("held")
    ledger = track.service(colour, policy={"bulkhead": Bulkhead(1, queue=0), "deadline": 0.3})
    timer = threading.Timer(SOON * 5, track.free.set)
    if colour == "sync":
        timer.start()
        assert ledger.read("1").using(hedge=SOON).result() == "b_1"
        timer.join()
    else:
        with pytest.raises(errors.DeadlineExceeded):
            run(colour, ledger.read("1").using(hedge=SOON))
    assert len(track.requests) == 1


async def test_the_loser_leaves_nothing():
    """After the winner's answer there is no task, no slot, no permit, and the breaker has learnt of one success only."""
    track = Track("held", 200)
    ledger = track.service("async", policy={"bulkhead": Bulkhead(5), "breaker": Breaker(failures=1)})
    for _ in range(3):
        track.requests.clear()
        assert await ledger.read("1").using(hedge=SOON) == "b_2"
        guard = ledger.context_of(ledger.read("1")).guard
        assert guard.bulkhead is not None
        assert guard.breaker is not None
        assert (guard.bulkhead.busy, guard.bulkhead.waiting, guard.breaker.state) == (0, 0, "closed")
        assert len(asyncio.all_tasks()) == 1
    assert track.cancelled == [0, 0, 0]


async def test_cancelled_with_both_under_way():
    """A caller who is cancelled takes both requests along."""
    track = Track("held")
    ledger = track.service("async", policy={"bulkhead": Bulkhead(5)})
    task = asyncio.ensure_future(ledger.read("1").using(hedge=SOON)._answered_async())
    async with asyncio.timeout(5):
        while len(track.requests) < 2:
            await asyncio.wait([task], timeout=0.005)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    guard = ledger.context_of(ledger.read("1")).guard
    assert guard.bulkhead is not None
    assert (guard.bulkhead.busy, len(asyncio.all_tasks()), sorted(track.cancelled)) == (0, 1, [0, 1])


@both
def test_on_a_real_server_no_connection_is_left_in_use(colour):
    """The first request is never answered, the second is: the pool has no request left and the loser's slot is free."""
    turns = itertools.count()

    async def second_only(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if next(turns) == 0:
            await silent(head, reader, writer)
        writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{"id":"1"}')

    async def whole(ledger: Ledger) -> Any:
        answer = await ledger.read("1").using(hedge=0.05)
        assert (await ledger._wires._pools.for_loop())._pool._requests == []
        assert len(asyncio.all_tasks()) == 1
        await ledger.aclose()
        return answer

    with FaultServer(second_only) as server:
        policy = Policy(attempt_timeout=0.5, retry=None, bulkhead=Bulkhead(5))
        ledger = Ledger("k", base_url=server.url, guards=Guards(), policy=policy)
        answer = asyncio.run(whole(ledger)) if colour == "async" else ledger.read("1").using(hedge=0.05).result()
        assert answer == "1"
        for thread in threading.enumerate():
            if thread.name == "moorline-hedge":
                thread.join(10)
        guard = ledger.context_of(ledger.read("1")).guard
        assert guard.bulkhead is not None
        assert guard.bulkhead.busy == 0
        ledger.close()


def test_a_blocking_loser_frees_what_it_holds():
    """The loser's slot is free when its own answer came, and it sends no retry."""
    track = Track("held", 200)
    ledger = track.service("sync", policy={"bulkhead": Bulkhead(5), "retry": Retry(retries=5)})
    assert ledger.read("1").using(hedge=SOON).result() == "b_2"
    guard = ledger.context_of(ledger.read("1")).guard
    assert guard.bulkhead is not None
    assert guard.bulkhead.busy == 1
    track.ends = (503, 200)
    track.free.set()
    for thread in threading.enumerate():
        if thread.name == "moorline-hedge":
            thread.join(10)
    assert (guard.bulkhead.busy, len(track.requests)) == (0, 2)


@both
@pytest.mark.parametrize("callers", [False, True])
def test_the_deadline_holds_for_all(colour, callers):
    """The second request has what is left, not a time of its own, be it the call's deadline or its caller's."""
    with FaultServer(silent) as server:
        policy = Policy(deadline=30.0 if callers else 0.4, retry=None)
        ledger = Ledger("k", base_url=server.url, guards=Guards(), policy=policy)
        begun = time.monotonic()
        with pytest.raises(errors.DeadlineExceeded), deadline(0.4 if callers else 60):
            run(colour, ledger.read("1").using(hedge=0.1))
        assert time.monotonic() - begun < 0.65
        assert len(server.heads) == 2
        ledger.close()


@both
def test_without_a_hedge_nobody_is_started(colour):
    """A Call without the option needs no thread and no task."""
    before = threading.active_count()
    seen: list[int] = []

    class Counting(Track):
        def blocking(self, request: httpx2.Request) -> httpx2.Response:
            seen.append(threading.active_count())
            return super().blocking(request)

        async def on_loop(self, request: httpx2.Request) -> httpx2.Response:
            seen.append(len(asyncio.all_tasks()))
            return await super().on_loop(request)

    track = Counting(200)
    run(colour, track.service(colour).read("1"))
    assert seen == [before if colour == "sync" else 1]


@both
def test_a_hedged_question_to_the_cache(colour):
    """A conditional request is hedged with its condition, and 304 to the second one gives the kept body."""
    script = Script((200, {"etag": '"a"'}, b'{"id":"b_1"}'))
    ledger = Ledger("k", wire=httpx2.MockTransport(script), guards=Guards(), cache=Cache())
    assert run(colour, ledger.read("1")) == "b_1"
    track = Track("held", 304)
    ledger._wires = Wires("ledger", httpx2.MockTransport(track.blocking if colour == "sync" else track.on_loop), None)
    assert asked(colour, track, ledger.read("1").using(hedge=SOON)) == "b_1"
    assert [request.headers["if-none-match"] for request in track.requests] == ['"a"', '"a"']


@pytest.mark.parametrize("wrong", [{"after": 0}, {"after": -1}, {"after": "x"}, {"after": 1, "most": 0}])
def test_a_hedge_is_checked(wrong):
    """Seconds are positive and there is at least one more request."""
    with pytest.raises(errors.ConfigurationError, match="Hedge"):
        Hedge(**wrong)
