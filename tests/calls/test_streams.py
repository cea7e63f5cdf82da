from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import pytest
from tests.calls import fault_server
from tests.calls.fault_server import FaultServer
from tests.calls.ledger import Ledger, both, request

from moorline import errors
from moorline.calls import clients
from moorline.calls.guards import Guards
from moorline.policies.breaker import Breaker
from moorline.policies.bulkhead import Bulkhead
from moorline.policies.policy import Policy
from moorline.transport import AsyncTransport, Transport

POLICY = Policy(retry=None, bulkhead=Bulkhead(1), breaker=Breaker(failures=1))


@pytest.fixture(autouse=True)
def one_connection(monkeypatch):
    """Pools of one connection, so that a leaked one is felt."""
    clients.tls()
    monkeypatch.setattr(clients, "MAX_CONNECTIONS", 1)


def held(transport: Any) -> tuple[int, int, str]:
    (host,) = transport._by_host.values()
    guard = host.guard
    return guard.bulkhead.busy, guard.bulkhead.waiting, guard.breaker.state


async def whole(_head, _reader, writer):
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody")


async def test_a_cancelled_stream_leaves_nothing():
    """A task cancelled within a streamed body leaves no slot, no permit and no connection in the pool."""
    transport = AsyncTransport(POLICY)
    begun = asyncio.Event()

    async def read(client, url):
        async with client.stream("GET", url) as response:
            begun.set()
            async for _part in response.aiter_bytes():
                pass

    with FaultServer(fault_server.stalled_body) as server:
        async with httpx2.AsyncClient(transport=transport) as client:
            task = asyncio.ensure_future(read(client, server.url))
            await asyncio.wait_for(begun.wait(), 10)
            assert held(transport) == (1, 0, "closed")
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert held(transport) == (0, 0, "closed")
            pool = (await transport._clients.for_loop())._pool
            assert (pool._requests, pool.connections) == ([], [])


async def test_a_probe_cancelled_in_its_body_frees_its_lease():
    """A half-open breaker whose probe is cancelled while its body is read lets the next call probe."""
    transport = AsyncTransport(POLICY, name="probed", guards=Guards())
    assert transport._one
    breaker = transport._one.guard.breaker
    assert breaker
    breaker._enter("half_open")
    with FaultServer(fault_server.stalled_body) as server:
        async with httpx2.AsyncClient(transport=transport) as client:

            async def read():
                async with client.stream("GET", server.url) as response:
                    headed.set()
                    await response.aread()

            headed = asyncio.Event()
            task = asyncio.ensure_future(read())
            await asyncio.wait_for(headed.wait(), 10)
            with pytest.raises(errors.CircuitOpen):
                await client.get(server.url)
            await asyncio.sleep(0)  # into the body
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert breaker.state == "half_open"
            assert breaker.admit()


@both
def test_a_stream_closed_early_frees_its_slot(colour):
    """The bulkhead's slot is held while the body is open, and free as soon as it is closed unread."""
    with FaultServer(fault_server.stalled_body) as server:
        if colour == "sync":
            blocking = Transport(POLICY)
            with httpx2.Client(transport=blocking) as client:
                with client.stream("GET", server.url):
                    assert held(blocking) == (1, 0, "closed")
                assert held(blocking) == (0, 0, "closed")
            return

        async def run_async():
            transport = AsyncTransport(POLICY)
            async with httpx2.AsyncClient(transport=transport) as client:
                async with client.stream("GET", server.url):
                    assert held(transport) == (1, 0, "closed")
                assert held(transport) == (0, 0, "closed")

        asyncio.run(run_async())


@both
def test_a_truncated_body(colour):
    """A body that ends early is ConnectionLost and httpx2's own error of that kind, and counts for the breaker."""
    transport: Any = Transport(POLICY) if colour == "sync" else AsyncTransport(POLICY)
    with FaultServer(fault_server.truncated) as server:
        with pytest.raises(errors.ConnectionLost) as caught:
            request(colour, POLICY, "GET", server.url, transport=transport)
        assert isinstance(caught.value, httpx2.TransportError)
        assert (caught.value.service, caught.value.operation) == (server.url.partition("//")[2].rstrip("/"), "GET")
    assert held(transport) == (0, 0, "open")


@both
def test_a_full_pool_is_no_failure_of_the_service(colour):
    """Who waits for a connection of our own pool gives up at the deadline, unsent, and the breaker stays closed."""
    policy = Policy(deadline=0.3, retry=None, breaker=Breaker(failures=1), bulkhead=Bulkhead(5))
    transport: Any = Transport(policy) if colour == "sync" else AsyncTransport(policy)
    with FaultServer(fault_server.stalled_body) as server:
        if colour == "sync":
            blocking = httpx2.Client(transport=transport)
            with blocking, blocking.stream("GET", server.url), pytest.raises(errors.DeadlineExceeded) as caught:
                blocking.get(server.url)
        else:

            async def wait():
                async with httpx2.AsyncClient(transport=transport) as client, client.stream("GET", server.url):
                    await client.get(server.url)

            with pytest.raises(errors.DeadlineExceeded) as caught:
                asyncio.run(wait())
        assert (caught.value.outcome, caught.value.code, len(server.heads)) == ("not_sent", "pool", 1)
        assert isinstance(caught.value, httpx2.TimeoutException)
    assert held(transport) == (0, 0, "closed")


async def test_a_services_full_pool():
    """A service's calls whose attempts end while they wait for our own pool do not count against the service."""
    policy = Policy(retry=None, breaker=Breaker(failures=1))
    guards = Guards()
    with FaultServer(fault_server.silent) as server:
        service = Ledger("k", base_url=server.url, guards=guards, policy=policy)
        service._wires._clients = clients.Clients()
        first = asyncio.ensure_future(service.read("1")._answered_async())
        calls = [service.read("1").using(attempt_timeout=0.2)._answered_async() for _ in range(8)]
        ends = await asyncio.gather(*calls, return_exceptions=True)
        assert [end.code for end in ends if isinstance(end, errors.ConnectFailed)] == ["pool"] * 8
        breaker = guards.guard(service._guard_name(server.url), policy).breaker
        assert breaker
        assert breaker.state == "closed"
        first.cancel()
        await asyncio.wait([first])
        await service.aclose()


def test_a_slow_reader_without_a_deadline():
    """Without a deadline a blocking client may read a body after the time of the attempt is over."""

    async def late(_head, _reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n")
        await asyncio.sleep(0.3)
        writer.write(b"body")

    policy = Policy(deadline=None, attempt_timeout=0.2, retry=None)
    with FaultServer(late) as server, httpx2.Client(transport=Transport(policy)) as client:
        assert client.get(server.url, timeout=5).content == b"body"


@both
def test_the_callers_own_timeouts_hold(colour):
    """The caller's own, shorter timeout holds for each attempt, as without the transport."""
    policy = Policy(retry=None, breaker=None)
    with FaultServer(fault_server.silent) as server, pytest.raises(errors.AttemptTimeout) as caught:
        request(colour, policy, "GET", server.url, timeout=0.2)
    assert isinstance(caught.value, httpx2.ReadTimeout)


@both
def test_a_good_body_settles_all(colour):
    """A body read to its end frees the slot, and the connection serves the next call."""
    transport: Any = Transport(POLICY) if colour == "sync" else AsyncTransport(POLICY)
    with FaultServer(whole) as server:
        assert request(colour, POLICY, "GET", server.url, transport=transport).content == b"body"
    assert held(transport) == (0, 0, "closed")
