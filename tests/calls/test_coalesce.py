"""Coalescing: one request for all who ask the same at the same time, and nobody's end is another's."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.calls.ledger import Ledger, Script

from moorline import Policy, errors
from moorline.calls.cache import Cache
from moorline.calls.coalesce import flights_of
from moorline.calls.guards import Guards
from moorline.policies.deadline import deadline

GOOD = httpx2.Response(200, json={"id": "b_1"})


class Gate:
    """An async handler that holds each request until it is opened, and then answers as told."""

    def __init__(self, *answers: Any) -> None:
        self.requests: list[httpx2.Request] = []
        self.answers = list(answers or (200,))
        self.open = asyncio.Event()
        self.arrived = asyncio.Semaphore(0)

    async def reached(self, count: int) -> None:
        """Wait until *count* requests are there."""
        async with asyncio.timeout(5):
            while len(self.requests) < count:
                await self.arrived.acquire()

    async def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        self.arrived.release()
        await self.open.wait()
        if isinstance(answer, Exception):
            raise answer
        return httpx2.Response(answer, json={"id": f"b_{len(self.requests)}"})


def service(handler: Any, key: str = "k1", guards: Guards | None = None, **options: Any) -> Ledger:
    policy = Policy(**{"retry": None, **options.pop("policy", {})})
    options = {"coalesce": True, **options}
    return Ledger(key, wire=httpx2.MockTransport(handler), guards=guards or Guards(), policy=policy, **options)


async def asked(gate: Gate, *calls: Any, requests: int = 1) -> list[asyncio.Task[Any]]:
    """Tasks for the Calls, once *requests* of them have arrived and the others wait."""
    tasks = [asyncio.ensure_future(call._answered_async()) for call in calls]
    await gate.reached(requests)
    for _ in range(10):
        await asyncio.sleep(0)
    return tasks


async def test_one_request_for_all():
    """A hundred equal reads are one request, and all have its answer, each its own to change."""
    gate = Gate()
    ledger = service(gate)
    tasks = await asked(gate, *[ledger.read("1").response() for _ in range(100)])
    gate.open.set()
    answers = await asyncio.gather(*tasks)
    assert len(gate.requests) == 1
    answers[0].data["id"] = answers[1].data["id"] = "changed"
    assert [answer.data for answer in answers[2:]] == [{"id": "b_1"}] * 98
    assert len(flights_of(ledger.guards)) == 0
    assert await ledger.read("1") == "b_2"  # nothing is kept: a later one asks again


async def test_one_failure_for_all():
    """The error is everybody's, each with an exception of its own."""
    gate = Gate(404)
    ledger = service(gate)
    tasks = await asked(gate, *[ledger.read("1") for _ in range(5)])
    gate.open.set()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert len(gate.requests) == 1
    assert {type(end) for end in ends} == {errors.NotFound}
    assert len({id(end) for end in ends}) == 5
    assert {(end.status, len(end.attempts)) for end in ends} == {(404, 1)}  # type: ignore[union-attr]


async def test_off_unless_asked_for():
    """Without the option each Call is a request; the service's option can be lifted for one Call."""
    gate = Gate()
    plain = service(gate, coalesce=False)
    shared = service(gate)
    calls: list[Any] = [plain.read("1"), plain.read("1"), shared.read("1").using(coalesce=False), shared.read("1")]
    tasks = await asked(gate, *calls, requests=4)
    gate.open.set()
    await asyncio.gather(*tasks)
    gate = Gate()
    tasks = await asked(
        gate, *[service(gate, guards=plain.guards, coalesce=False).read("9").using(coalesce=True) for _ in range(3)]
    )
    gate.open.set()
    await asyncio.gather(*tasks)
    assert len(gate.requests) == 1


async def test_only_what_is_equal():
    """Another argument, credential, tenant, header, or rule of retrying is another request."""
    gate = Gate()
    world = Guards()
    one, other = service(gate, "k1", world), service(gate, "k2", world)
    calls: list[Any] = [
        one.read("1"),
        one.read("2"),
        other.read("1"),
        one.read("1").using(tenant="acme"),
        one.read("1").using(headers={"Accept-Language": "de"}),
        one.read("1").using(retry=2),
        one.request("GET", "/bookings/1?x=1"),
    ]
    tasks = await asked(gate, *calls, requests=len(calls))
    gate.open.set()
    await asyncio.gather(*tasks)
    assert len(gate.requests) == len(calls)


async def test_writes_are_never_shared():
    """With the service's option on, each write is still a request of its own."""
    gate = Gate()
    ledger = service(gate)
    tasks = await asked(gate, ledger.book(5), ledger.book(5), requests=2)
    gate.open.set()
    await asyncio.gather(*tasks)
    assert len(gate.requests) == 2


async def test_a_cancelled_leader_fails_nobody():
    """When the one who sends is cancelled, another takes over and all others have their answer."""
    gate = Gate()
    ledger = service(gate)
    tasks = await asked(gate, *[ledger.read("1") for _ in range(10)])
    tasks[0].cancel()
    await gate.reached(2)
    gate.open.set()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(ends[0], asyncio.CancelledError)
    assert ends[1:] == ["b_2"] * 9
    assert (len(gate.requests), len(flights_of(ledger.guards))) == (2, 0)
    assert len(asyncio.all_tasks()) == 1


async def test_a_cancelled_follower_disturbs_nobody():
    """Followers may go; the request goes on."""
    gate = Gate()
    ledger = service(gate)
    tasks = await asked(gate, *[ledger.read("1") for _ in range(5)])
    for task in tasks[1:4]:
        task.cancel()
    gate.open.set()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert [ends[0], ends[4]] == ["b_1", "b_1"]
    assert all(isinstance(end, asyncio.CancelledError) for end in ends[1:4])
    assert len(gate.requests) == 1


async def test_each_has_its_own_deadline():
    """A follower in a hurry fails alone; a leader in a hurry is replaced by one who has time."""
    gate = Gate()
    ledger = service(gate)
    tasks = await asked(gate, ledger.read("1"), ledger.read("1").using(timeout=0.05))
    with pytest.raises(errors.DeadlineExceeded, match="shared"):
        await tasks[1]
    gate.open.set()
    assert await tasks[0] == "b_1"
    gate = Gate()
    ledger = service(gate)
    tasks = await asked(gate, ledger.read("1").using(timeout=0.05), ledger.read("1"))
    with pytest.raises(errors.DeadlineExceeded):
        await tasks[0]
    gate.open.set()
    assert await tasks[1] == "b_2"


async def test_who_takes_over_has_no_more_time_than_before():
    """The caller's deadline counts from when it began to wait, not from when it had to send itself."""
    gate = Gate()
    ledger = service(gate)
    leader = await asked(gate, ledger.read("1"))
    with deadline(0.3):
        follower = asyncio.ensure_future(ledger.read("1").using(timeout=0.2)._answered_async())
    begun = asyncio.get_running_loop().time()
    await asyncio.sleep(0)
    leader[0].cancel()
    with pytest.raises(errors.DeadlineExceeded):
        await follower
    assert asyncio.get_running_loop().time() - begun < 0.4
    assert len(gate.requests) == 2


async def test_no_task_when_it_is_on_or_off():
    """Neither leading nor following needs a task."""
    gate = Gate()
    ledger = service(gate)
    tasks = await asked(gate, *[ledger.read("1") for _ in range(3)])
    assert len(asyncio.all_tasks()) == 1 + 3
    gate.open.set()
    await asyncio.gather(*tasks)


async def test_with_a_cache_only_one_asks_whether_it_holds():
    """Many who find an old answer send one conditional request."""
    requests: list[httpx2.Request] = []

    async def serve(request: httpx2.Request) -> httpx2.Response:
        requests.append(request)
        await asyncio.sleep(0)
        known = "if-none-match" in request.headers
        return httpx2.Response(304) if known else httpx2.Response(200, headers={"etag": '"a"'}, json={"id": "b_1"})

    ledger = service(serve, cache=Cache())
    for _ in range(2):
        answers = await asyncio.gather(*[ledger.read("1").response() for _ in range(20)])
        assert len({answer.body for answer in answers}) == 1
    assert len(requests) == 2
    assert all(answer.from_cache for answer in answers)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.sampled_from(["cancel", "late", "stay"]), min_size=2, max_size=8), st.sampled_from([200, 404, 500]))
def test_whoever_stays_has_an_answer(ends, answer):
    """Over any mix of callers who are cancelled, out of time or patient: all who stay get the same end, nothing is
    left, and each request but the last was given up by its own caller.
    """

    async def scene() -> None:
        gate = Gate(answer)
        ledger = service(gate, policy={"breaker": None})
        calls = [ledger.read("1").using(timeout=0.02 if end == "late" else 5) for end in ends]
        tasks = await asked(gate, *calls)
        for task, end in zip(tasks, ends, strict=True):
            if end == "cancel":
                task.cancel()
                await asyncio.sleep(0)
        late = [task for task, end in zip(tasks, ends, strict=True) if end == "late"]
        if late:
            await asyncio.wait(late)
        gate.open.set()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        kinds = {"cancel": asyncio.CancelledError, "late": errors.DeadlineExceeded}
        for end, given_end in zip(ends, done, strict=True):
            if end in kinds:
                assert isinstance(given_end, kinds[end])
        stayed = {str(given_end) for end, given_end in zip(ends, done, strict=True) if end == "stay"}
        assert len(stayed) == ("stay" in ends)
        assert len(gate.requests) <= 1 + sum(end != "stay" for end in ends)
        assert len(flights_of(ledger.guards)) == 0

    asyncio.run(scene())


class Threads:
    """A blocking handler that holds each request until it is opened."""

    def __init__(self, *answers: Any) -> None:
        self.script = Script(*(answers or (200,)))
        self.arrived = threading.Semaphore(0)
        self.open = threading.Event()

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.arrived.release()
        assert self.open.wait(10)
        return self.script(request)


def in_threads(*work: Callable[[], Any]) -> tuple[list[Any], list[threading.Thread]]:
    ends: list[Any] = [None] * len(work)

    def run(index: int) -> None:
        try:
            ends[index] = work[index]()
        except errors.CallError as error:
            ends[index] = error

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(work))]
    return ends, threads


def waiting(ledger: Ledger, count: int) -> None:
    """Wait until *count* followers wait."""
    flights = flights_of(ledger.guards)._flights
    pause = threading.Event()
    for _ in range(5000):
        if sum(len(flight.waiting) for flight in list(flights.values())) == count:
            return
        pause.wait(0.001)
    raise AssertionError("they do not wait")


@pytest.mark.parametrize("status", [200, 404])
def test_threads_share_too(status):
    """Blocking calls on several threads are one request."""
    handler = Threads(status)
    ledger = service(handler)
    ends, threads = in_threads(*[ledger.read("1").result] * 8)
    for thread in threads:
        thread.start()
    waiting(ledger, 7)
    handler.open.set()
    for thread in threads:
        thread.join(10)
    assert len(handler.script.requests) == 1
    assert len({str(end) for end in ends}) == 1
    assert isinstance(ends[0], errors.NotFound) == (status == 404)


def test_a_thread_in_a_hurry():
    """A blocking follower fails at its own deadline while the request goes on."""
    handler = Threads()
    ledger = service(handler)
    ends, threads = in_threads(ledger.read("1").result)
    threads[0].start()
    assert handler.arrived.acquire(timeout=10)
    with pytest.raises(errors.DeadlineExceeded, match="shared"):
        ledger.read("1").using(timeout=0.05).result()
    handler.open.set()
    threads[0].join(10)
    assert ends == ["b_1"]


def test_a_thread_takes_over():
    """When the sending thread ends by something that is not the service's answer, another one sends."""
    entered, leave = threading.Event(), threading.Event()
    calls: list[int] = []

    def serve(_request: httpx2.Request) -> httpx2.Response:
        calls.append(1)
        if len(calls) == 1:
            entered.set()
            assert leave.wait(10)
            raise KeyboardInterrupt
        return httpx2.Response(200, json={"id": "b_2"})

    ledger = service(serve)

    def interrupted() -> Any:
        with pytest.raises(KeyboardInterrupt):
            ledger.read("1").result()

    ends, threads = in_threads(interrupted, ledger.read("1").result)
    threads[0].start()
    assert entered.wait(10)
    threads[1].start()
    waiting(ledger, 1)
    leave.set()
    for thread in threads:
        thread.join(10)
    assert ends == [None, "b_2"]


def test_loops_do_not_wait_for_each_other():
    """Two loops on two threads send a request each: one that stands still cannot hold the other."""
    counted: list[int] = []
    both_there = threading.Barrier(2, timeout=10)

    async def serve(_request: httpx2.Request) -> httpx2.Response:
        counted.append(1)
        await asyncio.to_thread(both_there.wait)
        return httpx2.Response(200, json={"id": "b_1"})

    ledger = service(serve)

    async def ask() -> Any:
        return await ledger.read("1")

    work: list[Awaitable[Any] | Callable[[], Any]] = [lambda: asyncio.run(ask())] * 2
    ends, threads = in_threads(*work)  # type: ignore[arg-type]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert (ends, len(counted)) == (["b_1", "b_1"], 2)
