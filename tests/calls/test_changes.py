"""What watchers are told of the parts that calls share, and of a call that somebody stopped."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from tests.calls.ledger import CANARY, Ledger, Script, both, run
from tests.servers import until

from moorline import errors
from moorline.calls import story, wiring
from moorline.calls.adapters.functions import Resilient
from moorline.calls.clients import Clients, PoolUnusable
from moorline.calls.guards import Guards
from moorline.calls.shared_store import SharedStore
from moorline.calls.story import StateChanged
from moorline.policies.policy import Policy
from moorline.policies.rate import RateLimit


@contextlib.contextmanager
def watched(kind: type[story.Step]) -> Iterator[list[Any]]:
    steps: list[Any] = []
    stop = story.watch(lambda step: steps.append(step) if isinstance(step, kind) else None)
    try:
        yield steps
    finally:
        stop()


def changes(steps: list[StateChanged]) -> list[tuple[str, str, str, str]]:
    return [(step.part, step.service, step.before, step.after) for step in steps]


HOLDS, FREE = ("rate gate", "ledger", "free", "holding"), ("rate gate", "ledger", "holding", "free")


class TestTheRateGate:
    @both
    def test_an_own_quota(self, colour):
        """It holds back from the first call that waits to the next one that passes at once, and says why."""
        script = Script(200)
        service = script.service(rate=RateLimit(1, per=5, burst=1))
        with watched(StateChanged) as steps:
            for _ in range(3):
                run(colour, service.read("x"))
            assert changes(steps) == [HOLDS]
            assert steps[0].reason == "our own rate limit of 1 in 5 s"
            script.clock.advance(60)
            run(colour, service.read("x"))
        assert changes(steps) == [HOLDS, FREE]

    @both
    def test_what_the_service_asks_for(self, colour):
        """After a 429 with Retry-After it refuses, and is free when that is over and a call passed."""
        script = Script((429, {"retry-after": "30"}, b""), 200)
        service = script.service(retry=None, deadline=5.0)
        with watched(StateChanged) as steps:
            for _ in range(3):
                with pytest.raises(errors.RateLimited):
                    run(colour, service.read("x"))
            assert changes(steps) == [HOLDS]
            assert steps[0].reason == "the service asked to wait"
            script.clock.advance(60)
            run(colour, service.read("x"))
        assert changes(steps) == [HOLDS, FREE]


def test_a_lost_store(redis_server):
    """Shared state that is lost and found again is told with its address."""
    store = SharedStore(redis_server.url)
    ledger = Resilient("ledger", Policy(retry=None), guards=Guards(shared=store))
    with watched(StateChanged) as steps:
        ledger.call(lambda: 1)
        until(lambda: store.up)
        steps.clear()
        redis_server.kill()
        ledger.call(lambda: 1)
        until(lambda: not store.up)
        redis_server.start()
        until(lambda: store.up, seconds=20)
        until(lambda: len(steps) >= 2)
    told = [step for step in steps if step.part == "shared state"]
    assert changes(told)[:2] == [
        ("shared state", store.where, "up", "away"),
        ("shared state", store.where, "away", "up"),
    ]
    assert all(step.reason for step in told)
    store.close()


class Unusable:
    """Pools that cannot be opened in this process."""

    def blocking(self) -> Any:
        raise PoolUnusable("its threads stayed in the parent")

    async def for_loop(self) -> Any:
        raise PoolUnusable("its threads stayed in the parent")

    def close(self) -> None:
        pass

    async def aclose(self) -> None:
        pass


@both
def test_a_wire_that_is_replaced(colour, monkeypatch):
    """Where httpx2 has to do instead of a faster wire, the service and the reason are told."""
    monkeypatch.setattr(wiring, "_fast_of", lambda *_: Unusable())
    service = Ledger(CANARY, wire="pyreqwest", base_url="http://127.0.0.1:1", policy=Policy(retry=None))
    service._wires._clients = Clients()
    with watched(StateChanged) as steps, contextlib.suppress(Exception):
        run(colour, service.read("x"))
    told = [step for step in steps if step.part == "wire"]
    assert changes(told) == [("wire", "ledger", "pyreqwest", "httpx2")]
    assert told[0].reason == "its threads stayed in the parent"
    service.close()


class Never(httpx2.AsyncBaseTransport):
    """No answer, until somebody stops waiting."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.asked.set()
        await asyncio.Event().wait()
        raise AssertionError


class TestACallThatIsStopped:
    @pytest.mark.parametrize("watch", [True, False])
    async def test_while_it_waits_for_the_answer(self, watch):
        """The cancellation comes out as it is, and the call's end says so: nobody knows what the service did."""
        wire = Never()
        call = Ledger(CANARY, wire=wire, guards=Guards()).read("x")
        nobody: contextlib.AbstractContextManager[list[Any]] = contextlib.nullcontext([])
        with watched(story.Finished) if watch else nobody as ends:
            task = asyncio.create_task(_send(call))
            await wire.asked.wait()
            task.cancel("enough")
            with pytest.raises(asyncio.CancelledError, match="enough"):
                await task
        assert [(end.outcome, end.reason, end.error) for end in ends] == (
            [("unknown", "cancelled", "CancelledError")] if watch else []
        )
        lines = call.explain().splitlines()
        assert lines[0].startswith("ledger.read: CancelledError after ")
        assert lines[0].endswith("1 attempt, outcome unknown (cancelled)")
        assert "no answer" in lines[1]

    async def test_before_it_was_sent(self):
        """Cancelled while it waits at the rate gate: not sent."""
        service = Ledger(
            CANARY, wire=httpx2.MockTransport(Script(200)), policy=Policy(rate=RateLimit(1, per=60)), guards=Guards()
        )
        await service.read("x")
        call = service.read("x").using(timeout=100)
        waits = asyncio.Event()
        stop = story.watch(lambda step: waits.set() if isinstance(step, story.Waiting) else None)
        task = asyncio.create_task(_send(call))
        await asyncio.wait_for(waits.wait(), 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        stop()
        assert call.explain().splitlines()[0].endswith("0 attempts, outcome not sent (cancelled)")

    def test_by_an_interrupt(self):
        """What stops a blocking call passes through as well, and is named."""

        def interrupt(_request: httpx2.Request) -> httpx2.Response:
            raise KeyboardInterrupt

        call = Ledger(CANARY, wire=httpx2.MockTransport(interrupt), guards=Guards()).read("x")
        with pytest.raises(KeyboardInterrupt):
            call.result()
        assert "outcome unknown (KeyboardInterrupt was raised on the way)" in call.explain()

    async def test_a_hedge_that_lost(self):
        """It does not speak for the call, which was answered."""
        first = asyncio.Event()

        async def answer(_request: httpx2.Request) -> httpx2.Response:
            if not first.is_set():
                first.set()
                await asyncio.Event().wait()
            return httpx2.Response(200, json={"id": "b_1"})

        call = Ledger(CANARY, wire=httpx2.MockTransport(answer), guards=Guards()).read("x").using(hedge=0.01)
        assert await call == "b_1"
        assert "answered 200" in call.explain().splitlines()[0]
        assert "(cancelled)" in call.explain()


async def _send(call: Any) -> Any:
    return await call
