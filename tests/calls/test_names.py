"""Names, hosts and addresses that come from users: their number has no bound, what is kept of them has."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

from tests.calls.adapters.scripted import Scripted
from tests.calls.ledger import Ledger, both

from moorline.calls import clients, wiring
from moorline.calls.addresses import PublicAddresses
from moorline.calls.guards import Guards
from moorline.calls.known import Known
from moorline.clock import ManualClock
from moorline.policies.bulkhead import Bulkhead
from moorline.policies.policy import Policy


def test_names_have_a_bound():
    """Of 12,000 names the 10,000 that were asked for last are remembered, in each part."""
    guards, policy = Guards(ManualClock()), Policy(bulkhead=Bulkhead(1))
    for number in range(12_000):
        guards.guard(f"ledger at https://host{number}.example", policy)
    parts = guards._breakers, guards._gates, guards._bulkheads, guards._budgets, guards._admissions
    assert [len(part) for part in parts] == [10_000] * 5
    assert len(guards.breakers()) == 10_000


def test_what_is_in_use_is_not_forgotten(monkeypatch):
    """However many other names come, who asks for a name gets the state that others of that name hold."""
    monkeypatch.setattr("moorline.calls.guards._MOST", 3)
    guards, policy = Guards(ManualClock()), Policy(bulkhead=Bulkhead(1))
    held = guards.guard("ledger", policy)
    for number in range(10):
        guards.guard(str(number), policy)
    again = guards.guard("ledger", policy)
    for part in ("breaker", "gate", "bulkhead", "budget", "admission"):
        assert getattr(again, part) is getattr(held, part)


@both
def test_addresses_made_for_each_request(colour, monkeypatch):
    """A resolver of its own for each request leaves no pool each: what is in nobody's hands is closed."""
    monkeypatch.setattr(wiring, "_known", Known(2))
    before = set(clients._all)

    async def call(service: Ledger) -> Any:
        return await service.read("1")

    with Scripted((200, {}, b'{"id": "b_1"}')) as server:
        port = int(server.url.rpartition(":")[2])
        url = f"http://localhost:{port}"
        for _ in range(6):
            addresses = PublicAddresses(
                ports=(port,), schemes=("http",), allow=["127.0.0.0/8"], resolve=lambda _host, _port: ["127.0.0.1"]
            )
            service = Ledger("key", base_url=url, addresses=addresses, policy=Policy(retry=None), guards=Guards())
            assert (service.read("1").result() if colour == "sync" else asyncio.run(call(service))) == "b_1"
        del service
        gc.collect()
        assert len(set(clients._all) - before) == 2
        assert len(server.heads) == 6
