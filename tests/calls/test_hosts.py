from __future__ import annotations

import threading
from typing import Any

import httpx2
import pytest
from tests.calls.ledger import both, request

from moorline import errors
from moorline.calls.guards import Guards
from moorline.calls.hosts import ByHost, guards_by_host
from moorline.clock import ManualClock
from moorline.policies.breaker import Breaker
from moorline.policies.bulkhead import Bulkhead
from moorline.policies.policy import Policy
from moorline.transport import AsyncTransport, Transport

ONCE = Policy(retry=None, breaker=Breaker(failures=1), deadline=5.0)


class Hosts:
    """A wire on which each host has its own answer; ``asked`` are the hosts that were reached."""

    def __init__(self, colour: str, **answers: Any) -> None:
        self.asked: list[str] = []
        self._answers = answers
        wire = httpx2.MockTransport(self._answer)
        self.guards = Guards(ManualClock())
        kind: Any = Transport if colour == "sync" else AsyncTransport
        self._make = lambda **options: kind(ONCE, wire=wire, guards=self.guards, **options)
        self._colour = colour

    def _answer(self, asked: httpx2.Request) -> httpx2.Response:
        self.asked.append(asked.url.netloc.decode())
        status, headers = self._answers[asked.url.host.partition(".")[0]]
        return httpx2.Response(status, headers=headers)

    def get(self, transport: Any, url: str) -> int:
        return request(self._colour, ONCE, "GET", url, transport).status_code

    def transport(self, **options: Any) -> Any:
        return self._make(**options)


@both
def test_without_a_name_a_dead_host_stops_no_other(colour):
    """The breaker of one host does not refuse another host's requests, nor another port's, and is named in its error."""
    hosts = Hosts(colour, down=(500, {}), up=(200, {}))
    transport = hosts.transport()
    assert hosts.get(transport, "https://down.example/") == 500
    with pytest.raises(errors.CircuitOpen) as caught:
        hosts.get(transport, "https://down.example/again")
    assert caught.value.service == "down.example"
    assert hosts.get(transport, "https://up.example/") == 200
    assert hosts.get(transport, "https://down.example:8443/") == 500
    assert hosts.asked == ["down.example", "up.example", "down.example:8443"]


@both
def test_without_a_name_a_limit_is_the_hosts_own(colour):
    """A 429 of one host keeps nobody from asking another one."""
    hosts = Hosts(colour, busy=(429, {"Retry-After": "60"}), free=(200, {}))
    transport = hosts.transport()
    for _ in range(2):
        with pytest.raises(errors.RateLimited):
            hosts.get(transport, "https://busy.example/")
    assert hosts.get(transport, "https://free.example/") == 200
    assert hosts.asked == ["busy.example", "free.example"]


@both
def test_with_a_name_all_hosts_share(colour):
    """A name stands for one service, whatever hosts it has: its breaker is one for all of them."""
    hosts = Hosts(colour, down=(500, {}), up=(200, {}))
    transport = hosts.transport(name="acme")
    assert hosts.get(transport, "https://down.example/") == 500
    with pytest.raises(errors.CircuitOpen) as caught:
        hosts.get(transport, "https://up.example/")
    assert (caught.value.service, hosts.asked) == ("acme", ["down.example"])


@both
def test_hosts_without_end_take_no_memory_without_end(colour):
    """Of thousands of hosts a transport keeps the last ones at hand; its registry has a bound of its own."""
    hosts = Hosts(colour, **{f"h{number}": (500, {}) for number in range(2500)})
    transport = hosts.transport()
    for number in range(2500):
        transport._by_host[f"h{number}.example", None]
    kept = transport._by_host
    assert len(kept) + len(kept._older) <= 2000
    assert {(f"h{number}.example", None) for number in range(1500, 2500)} <= kept.keys() | kept._older.keys()


def test_a_host_in_use_is_not_forgotten():
    """A host that is asked again and again keeps its state, however many others come and go."""
    guards = Guards(ManualClock())
    kept = guards_by_host(guards, Policy(bulkhead=Bulkhead(1)))
    first = kept["busy.example"]
    for number in range(5000):
        kept[f"h{number}.example"]
        assert kept["busy.example"] is first
    assert guards.guard("busy.example", Policy(bulkhead=Bulkhead(1))).breaker is first.breaker


def test_threads_that_ask_at_once_get_the_same():
    """What a key stands for is made once, whoever asks first."""
    made: list[str] = []

    def make(key: str) -> object:
        made.append(key)
        return object()

    kept = ByHost(make)
    together = threading.Barrier(8, timeout=10)
    found: list[object] = []

    def ask() -> None:
        together.wait()
        found.append(kept["a"])

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert (made, len(set(found)), len(found)) == (["a"], 1, 8)


def test_an_address_of_ipv6_is_named_as_in_its_url():
    """The name of a host is what its URL says, brackets included."""
    hosts = Hosts("sync", **{"::1": (200, {})})
    assert hosts.get(hosts.transport(), "http://[::1]:8080/") == 200
    assert list(hosts.guards.breakers()) == ["[::1]:8080"]
