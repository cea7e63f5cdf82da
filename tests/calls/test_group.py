"""Several Calls with one result."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import httpx2
import pytest
from tests.calls.ledger import Ledger

from moorline import errors
from moorline.calls.group import Group
from moorline.calls.guards import Guards
from moorline.policies.policy import Policy


class Shelf:
    """Answers reads; how many were under way at the most."""

    def __init__(self, gone: set[str] = frozenset()) -> None:  # type: ignore[assignment]
        self.gone = gone
        self.now = self.most = 0
        self._lock = threading.Lock()

    def _begun(self, by: int) -> None:
        with self._lock:
            self.now += by
            self.most = max(self.most, self.now)

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self._begun(1)
        name = request.url.path.rpartition("/")[2]
        self._begun(-1)
        return httpx2.Response(404 if name in self.gone else 200, json={"id": name})

    async def later(self, request: httpx2.Request) -> httpx2.Response:
        """As ``__call__``, and others have their turn meanwhile."""
        self._begun(1)
        await asyncio.sleep(0)
        name = request.url.path.rpartition("/")[2]
        self._begun(-1)
        return httpx2.Response(404 if name in self.gone else 200, json={"id": name})


def group(shelf: Shelf, colour: str, count: int, **options: Any) -> Group[list[Any]]:
    """Reads of *count* things."""
    answer: Any = shelf if colour == "sync" else shelf.later
    policy = Policy(retry=None, breaker=None)
    ledger = Ledger("key-0123456789", wire=httpx2.MockTransport(answer), guards=Guards(), policy=policy)
    return Group([ledger.read(str(number)) for number in range(count)], list, **options)


def ended(made: Group[list[Any]], colour: str) -> list[Any]:
    """Its result, blocking or awaited."""

    async def awaited() -> list[Any]:
        return await made

    return made.result() if colour == "sync" else asyncio.run(awaited())


@pytest.mark.parametrize("colour", ["sync", "async"])
@pytest.mark.parametrize("count", [0, 1, 2, 130])
def test_results_in_order(colour: str, count: int):
    """One result for each, in their order, and the failure of one hides no other."""
    found = ended(group(Shelf({"1", "77"}), colour, count), colour)
    assert len(found) == count
    for number, one in enumerate(found):
        if number in (1, 77):
            assert isinstance(one, errors.NotFound)
        else:
            assert one == str(number)


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_no_more_at_a_time_than_its_width(colour: str):
    """*width* bounds how many are under way."""
    shelf = Shelf()
    ended(group(shelf, colour, 60, width=4), colour)
    assert shelf.most <= 4
    if colour == "async":
        assert shelf.most == 4


def test_what_is_no_width():
    """It is named."""
    with pytest.raises(errors.ConfigurationError, match="width"):
        Group([], list, width=0)


async def test_a_cancelled_group_stops():
    """Cancelling it cancels what is under way, and nothing more is sent."""
    sent: list[str] = []
    full = asyncio.Event()

    async def never(request: httpx2.Request) -> httpx2.Response:
        sent.append(request.url.path)
        if len(sent) == 3:
            full.set()
        await asyncio.Event().wait()
        raise AssertionError

    ledger = Ledger("key-0123456789", wire=httpx2.MockTransport(never), guards=Guards())
    task = asyncio.ensure_future(_awaited(Group([ledger.read(str(one)) for one in range(9)], list, width=3)))
    await full.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(sent) == 3


async def _awaited(made: Group[Any]) -> Any:
    return await made
