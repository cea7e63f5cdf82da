"""Event loops that are closed while calls wait on them: nobody else is held up, and what they held is the next one's."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from tests.calls.ledger import both

from moorline.calls.adapters.functions import Resilient
from moorline.calls.guards import Guards
from moorline.calls.shared_store import Question
from moorline.policies.bulkhead import Bulkhead
from moorline.policies.policy import Policy
from moorline.policies.rate import RateLimit


class Deserters:
    """Calls that wait on a loop of their own, which is closed without a word to them."""

    def __init__(self) -> None:
        self.tasks: list[asyncio.Task[Any]] = []

    def leave_waiting(self, ledger: Resilient, count: int) -> None:
        """Have *count* more calls wait, and close their loop."""
        thread = threading.Thread(target=self._leave, args=(ledger, count))
        thread.start()
        thread.join(10)

    def _leave(self, ledger: Resilient, count: int) -> None:
        loop = asyncio.new_event_loop()
        tasks = [loop.create_task(ledger.call_async(answer)) for _ in range(count)]
        for _ in range(5):
            loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        for task in tasks:
            task._log_destroy_pending = False  # type: ignore[attr-defined]  # it is meant to be
        self.tasks += tasks

    def end(self) -> None:
        for task in self.tasks:
            task.get_coro().close()


async def answer() -> int:
    return 1


@pytest.fixture
def deserters() -> Iterator[Deserters]:
    made = Deserters()
    yield made
    made.end()


def parts(guards: Guards, policy: Policy) -> Any:
    return guards.guard("ledger", policy)


@both
def test_a_slot_is_handed_on(colour, deserters):
    """A good call that frees its slot is not troubled by waiters whose loop was closed; the slot is the next one's."""
    guards, policy = Guards(), Policy(bulkhead=Bulkhead(1, queue=2_000))
    ledger = Resilient("ledger", policy, guards=guards)

    async def hold() -> None:
        async with ledger.block():
            await asyncio.to_thread(deserters.leave_waiting, ledger, 1_500)

    if colour == "sync":
        with ledger.block():
            deserters.leave_waiting(ledger, 1_500)
    else:
        asyncio.run(hold())
    bulkhead = parts(guards, policy).bulkhead
    assert (bulkhead.busy, bulkhead.waiting) == (0, 0)
    assert ledger.call(lambda: 2) == 2


@both
def test_a_turn_is_handed_on(colour, deserters):
    """Who waits for a quota passes although those in front, whose loop was closed, never do."""
    guards, policy = Guards(), Policy(deadline=5.0, rate=RateLimit(1, per=0.4))
    ledger = Resilient("ledger", policy, guards=guards)
    ledger.call(lambda: 0)
    deserters.leave_waiting(ledger, 3)
    assert parts(guards, policy).gate.waiting == 3
    result = ledger.call(lambda: 2) if colour == "sync" else asyncio.run(ledger.call_async(answer))
    assert result
    assert parts(guards, policy).gate.waiting == 0


def test_an_answer_for_nobody_is_taken_back():
    """What other processes granted to a call whose loop was closed is given back to them."""
    question = Question({"do": "admit"}, undone=lambda answer: [{"do": "refund", "of": answer["number"]}])
    question.when_granted(lambda: False)
    assert question.answered({"number": 7}) == [{"do": "refund", "of": 7}]
