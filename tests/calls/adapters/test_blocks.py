from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.calls.ledger import both

from moorline import errors
from moorline.calls.adapters.functions import Resilient, call_error, resilient
from moorline.calls.guards import Guards
from moorline.clock import ManualClock
from moorline.policies import deadline
from moorline.policies.breaker import Breaker
from moorline.policies.bulkhead import Bulkhead
from moorline.policies.policy import Policy

POLICY = Policy(breaker=Breaker(failures=2), bulkhead=Bulkhead(1))


def run(colour: str, guard: Resilient, raised: BaseException | None = None) -> None:
    """A block that raises what it is told."""
    if colour == "sync":
        with guard.block():
            if raised is not None:
                raise raised
        return

    async def block() -> None:
        async with guard.block():
            await asyncio.sleep(0)
            if raised is not None:
                raise raised

    asyncio.run(block())


def parts(guards: Guards) -> Any:
    return guards.guard("ledger", POLICY)


@both
def test_a_block_holds_its_slot_and_frees_it(colour):
    """A block is in flight from its entry to its end, whatever ends it."""
    guards = Guards(ManualClock())
    guard = resilient("ledger", POLICY, guards=guards)
    with guard.block():
        assert parts(guards).bulkhead.busy == 1
        with pytest.raises(errors.BulkheadFull):
            run(colour, guard)
    run(colour, guard)
    for raised in (KeyError("bug"), ConnectionResetError("cut"), KeyboardInterrupt()):
        with pytest.raises(type(raised)) as caught:
            run(colour, guard, raised)
        assert caught.value is raised
        assert parts(guards).bulkhead.busy == 0


@both
def test_failures_of_blocks_open_the_breaker(colour):
    """Failures of the service count, a bug does not, and the open breaker refuses at the door."""
    guard = resilient("ledger", POLICY, guards=Guards(ManualClock()))
    for _ in range(5):
        with pytest.raises(KeyError):
            run(colour, guard, KeyError("bug"))
    for _ in range(2):
        with pytest.raises(ConnectionResetError) as caught:
            run(colour, guard, ConnectionResetError("cut"))
        assert isinstance(call_error(caught.value), errors.OutcomeUnknown)
    with pytest.raises(errors.CircuitOpen):
        run(colour, guard)


async def test_a_block_on_the_loop_ends_in_time():
    """A block that hangs is cancelled, with an error that is ours and a TimeoutError; its caller is not cancelled."""
    guards = Guards()
    guard = resilient("ledger", Policy(deadline=0.05), guards=guards)
    with pytest.raises(TimeoutError) as caught:
        async with guard.block():
            await asyncio.Event().wait()
    assert isinstance(caught.value, errors.DeadlineExceeded)
    task = asyncio.current_task()
    assert task
    assert task.cancelling() == 0


async def test_a_cancelled_block_is_no_failure():
    """Cancellation passes through, frees the slot, and teaches the breaker nothing."""
    guards = Guards()
    guard = resilient("ledger", POLICY, guards=guards)
    begun = asyncio.Event()

    async def work() -> None:
        async with guard.block():
            begun.set()
            await asyncio.Event().wait()

    for _ in range(3):
        begun.clear()
        task = asyncio.ensure_future(work())
        await asyncio.wait_for(begun.wait(), 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (parts(guards).bulkhead.busy, parts(guards).breaker.state) == (0, "closed")


async def test_a_block_waits_for_its_slot():
    """A block that finds the bulkhead full waits in its queue."""
    guard = resilient("ledger", Policy(bulkhead=Bulkhead(1, queue=1)), guards=Guards())
    order: list[str] = []

    async def second() -> None:
        async with guard.block():
            order.append("second")

    async with guard.block():
        task = asyncio.ensure_future(second())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        order.append("first")
    await asyncio.wait_for(task, 5)
    assert order == ["first", "second"]


def test_a_plain_block_learns_of_its_end():
    """What a plain block calls sees the end of its attempt."""
    clock = ManualClock()
    with resilient("ledger", Policy(deadline=4), guards=Guards(clock)).block():
        assert deadline.remaining(clock=clock) == 4
    assert deadline.remaining() is None
