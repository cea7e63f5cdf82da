from __future__ import annotations

import asyncio
import pickle
import socket
import time
from random import Random
from typing import Any

import httpx
import pytest
from tests.calls import fault_server
from tests.calls.adapters.faulty import HANG_UP, Faulty
from tests.calls.fault_server import FaultServer
from tests.calls.ledger import both

from moorline import errors
from moorline.calls.adapters.functions import resilient
from moorline.calls.adapters.httpcore_pools import mend, tidy
from moorline.calls.adapters.httpx import AsyncTransport, Transport
from moorline.calls.guards import Guards
from moorline.policies.breaker import Breaker
from moorline.policies.bulkhead import Bulkhead
from moorline.policies.policy import Policy
from moorline.policies.retry import Retry

ONCE = Policy(retry=None)


def ask(colour: str, method: str, url: str, policy: Policy | None = None, *, body: Any = None, **options: Any) -> Any:
    """The response, read, of a plain client of httpx on our transport."""
    sent = {name: options.pop(name) for name in ("headers", "timeout") if name in options}
    if colour == "sync":
        with httpx.Client(transport=Transport(policy, **options)) as client:
            return client.request(method, url, content=body, **sent)

    async def wait() -> Any:
        async with httpx.AsyncClient(transport=AsyncTransport(policy, **options)) as client:
            return await client.request(method, url, content=body, **sent)

    return asyncio.run(wait())


def plain_wire(colour: str) -> Any:
    """A wire of httpx without certificates, whose loading takes longer than some deadlines here."""
    return httpx.HTTPTransport(verify=False) if colour == "sync" else httpx.AsyncHTTPTransport(verify=False)


@both
def test_responses_are_httpx_own(colour):
    """A success is httpx's response as ever."""
    with Faulty((200, {"X-A": "1"}, b'{"a": 1}')) as server:
        response = ask(colour, "GET", server.url, guards=server.guards)
        assert isinstance(response, httpx.Response)
        assert (response.status_code, response.headers["x-a"], response.json()) == (200, "1", {"a": 1})


@both
def test_a_read_is_repeated_and_a_status_that_lasts_is_a_response(colour):
    """A GET is asked again after a 503 and a cut connection; a 503 that lasts is a response."""
    with Faulty(503, HANG_UP, 200) as server:
        assert ask(colour, "GET", server.url, guards=server.guards).status_code == 200
        assert len(server.heads) == 3
    with Faulty(503) as server:
        policy = Policy(retry=Retry(retries=1))
        assert ask(colour, "GET", server.url, policy, guards=server.guards).status_code == 503
        assert len(server.heads) == 2


@both
@pytest.mark.parametrize("first", [503, HANG_UP])
def test_a_post_is_repeated_only_with_a_key(colour, first):
    """A POST that may have acted is sent once; with an idempotency key it is sent again with the same body."""
    with Faulty(first, 200) as server:
        if first == 503:
            assert ask(colour, "POST", server.url, body=b"abc", guards=server.guards).status_code == 503
        else:
            with pytest.raises(httpx.RemoteProtocolError) as caught:
                ask(colour, "POST", server.url, body=b"abc", guards=server.guards)
            assert isinstance(caught.value, errors.OutcomeUnknown)
            assert caught.value.request.method == "POST"
        assert len(server.heads) == 1
    with Faulty(first, 200) as server:
        keyed = {"Idempotency-Key": "k"}
        assert ask(colour, "POST", server.url, body=b"abc", headers=keyed, guards=server.guards).status_code == 200
        assert server.bodies == [b"abc", b"abc"]


def test_a_one_time_body_is_not_sent_twice():
    """A generator that was begun is not sent again."""
    with Faulty(503, 200) as server:
        assert ask("sync", "PUT", server.url, body=iter([b"part"]), guards=server.guards).status_code == 503
        assert len(server.bodies) == 1


@both
def test_a_limit_is_waited_for_or_given_up(colour):
    """A 429 is asked again no earlier than it says; one beyond the deadline is both libraries' error at once."""
    with Faulty((429, {"Retry-After": "7"}, b""), 200) as server:
        assert ask(colour, "POST", server.url, guards=server.guards).status_code == 200
        assert sum(server.clock.slept) >= 7 - 1e-6
    late = (429, {"Retry-After": "3600"}, b"busy")
    with Faulty(late) as server:
        with pytest.raises(httpx.HTTPStatusError) as caught:
            ask(colour, "GET", server.url, name="acme", guards=server.guards)
        assert isinstance(caught.value, errors.RateLimited)
        assert (caught.value.response.status_code, caught.value.response.text) == (429, "busy")
        with pytest.raises(httpx.TransportError) as refused:
            ask(colour, "GET", server.url, name="acme", guards=server.guards)
        assert isinstance(refused.value, errors.RateLimited)
        assert (refused.value.outcome, len(server.heads)) == ("not_sent", 1)
    with Faulty(late) as server:
        assert ask(colour, "GET", server.url, guards=server.guards, statuses=True).status_code == 429


@both
def test_the_breaker_opens_and_is_shared_by_name(colour):
    """Failures in one colour refuse the other's requests, and functions, of that name."""
    policy = Policy(retry=None, breaker=Breaker(failures=2))
    with Faulty(503) as server:
        for _ in range(2):
            ask(colour, "GET", server.url, policy, name="acme", guards=server.guards)
        for other in ("sync", "async"):
            with pytest.raises(httpx.TransportError) as caught:
                ask(other, "GET", server.url, policy, name="acme", guards=server.guards)
            assert isinstance(caught.value, errors.CircuitOpen)
        with pytest.raises(errors.CircuitOpen):
            resilient("acme", policy, guards=server.guards).call(len, "")
        assert len(server.heads) == 2
        assert ask(colour, "GET", server.url, policy, guards=server.guards).status_code == 503


@both
def test_the_deadline_holds_for_a_dripping_body(colour):
    """2 s means back by 2.1 s, with a body that drips."""
    with FaultServer(fault_server.drip) as server:
        wire = plain_wire(colour)
        begun = time.monotonic()
        with pytest.raises(httpx.TimeoutException) as caught:
            ask(colour, "GET", server.url, Policy(deadline=2), timeout=30, wire=wire)
        assert 1.9 < time.monotonic() - begun < 2.1
    assert isinstance(caught.value, errors.DeadlineExceeded)


async def dripping_head(_head, _reader, writer):
    for letter in b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 10_000:
        writer.write(bytes([letter]))
        await writer.drain()
        await asyncio.sleep(0.05)


@both
@pytest.mark.parametrize("behaviour", [fault_server.silent, dripping_head, fault_server.stalled_body])
def test_the_deadline_holds_whatever_the_server_does(colour, behaviour):
    """Silence, a dripping head and a stalled body end at the deadline; a write's outcome is unknown."""
    with FaultServer(behaviour) as server:
        for method in ("GET", "POST"):
            wire = plain_wire(colour)
            begun = time.monotonic()
            with pytest.raises(httpx.ReadTimeout) as caught:
                ask(colour, method, server.url, Policy(deadline=0.4, retry=None), timeout=30, wire=wire)
            assert 0.3 < time.monotonic() - begun < 0.55
            assert isinstance(caught.value, errors.DeadlineExceeded)
            assert isinstance(caught.value, errors.OutcomeUnknown) == (method == "POST")


@both
def test_a_stalled_upload_ends_at_the_deadline(colour):
    """A server that does not read a large body is left at the deadline, and the outcome is unknown."""
    with FaultServer(fault_server.silent) as server:
        begun = time.monotonic()
        with pytest.raises(httpx.TimeoutException) as caught:
            ask(colour, "POST", server.url, Policy(deadline=0.5), body=b"x" * 20_000_000, timeout=30)
        assert isinstance(caught.value, errors.OutcomeUnknown)
        assert time.monotonic() - begun < 0.9


@both
def test_a_handshake_that_stalls_was_never_sent(colour):
    """A server that does not speak TLS is left at the deadline, and nothing was sent."""
    with FaultServer(fault_server.silent) as server:
        begun = time.monotonic()
        url = server.url.replace("http:", "https:")
        with pytest.raises(httpx.TimeoutException) as caught:
            ask(colour, "POST", url, Policy(deadline=0.3, retry=None), timeout=30)
        assert isinstance(caught.value, errors.CallError)
        assert (caught.value.outcome, time.monotonic() - begun < 1) == ("not_sent", True)


@both
def test_a_refused_connection_was_never_sent(colour):
    """Nobody listens: the error is ours and httpx's, and says that nothing left, even for a POST."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with pytest.raises(httpx.ConnectError) as caught:
        ask(colour, "POST", f"http://127.0.0.1:{port}/", ONCE)
    assert isinstance(caught.value, errors.ConnectFailed)
    assert caught.value.outcome == "not_sent"


@both
def test_a_truncated_body_is_a_failure_of_the_service(colour):
    """A body that ends too early is both libraries' error, and opens the breaker."""
    guards, policy = Guards(), Policy(breaker=Breaker(failures=1))
    with FaultServer(fault_server.truncated) as server:
        with pytest.raises(httpx.RemoteProtocolError) as caught:
            ask(colour, "GET", server.url, policy, name="acme", guards=guards)
        assert isinstance(caught.value, errors.BadAnswer)
        with pytest.raises(errors.CircuitOpen):
            ask(colour, "GET", server.url, policy, name="acme", guards=guards)


@both
def test_a_full_pool_ends_at_the_deadline(colour):
    """A wait for one of the client's own connections is inside the deadline, and nothing was sent."""
    policy, limits = Policy(deadline=0.3, retry=None), httpx.Limits(max_connections=1)

    def blocking(url: str) -> None:
        wire = httpx.HTTPTransport(limits=limits)
        with httpx.Client(transport=Transport(policy, wire=wire)) as client, client.stream("GET", url):
            client.post(url)

    async def on_loop(url: str) -> None:
        transport = AsyncTransport(policy, wire=httpx.AsyncHTTPTransport(limits=limits))
        async with httpx.AsyncClient(transport=transport) as client, client.stream("GET", url):
            await client.post(url)

    def run(url: str) -> None:
        blocking(url) if colour == "sync" else asyncio.run(on_loop(url))

    with FaultServer(fault_server.stalled_body) as server, pytest.raises(httpx.TimeoutException) as caught:
        run(server.url)
    assert isinstance(caught.value, errors.DeadlineExceeded)
    assert (caught.value.outcome, caught.value.code) == ("not_sent", "pool")


async def whole(_head, _reader, writer):
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody")


def pool_of(client: httpx.AsyncClient) -> Any:
    transport: Any = client._transport
    return getattr(transport, "_wire", transport)._pool


def small(policy: Policy, **options: Any) -> httpx.AsyncClient:
    wire = httpx.AsyncHTTPTransport(limits=httpx.Limits(max_connections=2), verify=False)
    return httpx.AsyncClient(transport=AsyncTransport(policy, wire=wire, **options), timeout=30)


async def cancel_unluckily(client: httpx.AsyncClient, url: str) -> None:
    """Fill a pool of two with handshakes that stall, and cancel the two who wait just as they are given a slot."""
    pool = pool_of(client)
    tasks = [asyncio.ensure_future(client.get(url)) for _ in range(4)]
    async with asyncio.timeout(10):
        while len(pool._requests) < 4:  # noqa: ASYNC110 (the pool tells nobody)
            await asyncio.sleep(0.01)
    assign = pool._assign_requests_to_connections

    def assign_and_cancel() -> Any:
        queued = [each for each in pool._requests if each.is_queued()]
        freed = assign()
        if any(not each.is_queued() for each in queued):
            for task in tasks[2:]:
                task.cancel()
        return freed

    pool._assign_requests_to_connections = assign_and_cancel
    for task in tasks[:2]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    pool._assign_requests_to_connections = assign


async def test_slots_that_cancellations_took_come_back():
    """Requests cancelled in a handshake, or just as they get a slot, leave the pool empty, and it goes on working."""
    with FaultServer(fault_server.silent) as stalled, FaultServer(whole) as fine:
        url = stalled.url.replace("http:", "https:")
        async with small(Policy(deadline=0.05, retry=None, breaker=None)) as client:
            for _ in range(10):
                lost = await asyncio.gather(*(client.get(url) for _ in range(4)), return_exceptions=True)
                assert all(isinstance(error, errors.CallError) and error.outcome == "not_sent" for error in lost)
            assert (pool_of(client)._requests, pool_of(client).connections) == ([], [])
        async with small(Policy(deadline=5, breaker=None)) as client:
            await cancel_unluckily(client, url)
            assert (pool_of(client)._requests, pool_of(client).connections) == ([], [])
            assert (await client.get(fine.url)).text == "body"


async def test_httpx_alone_loses_those_slots():
    """The fault is there to be mended: without us the pool stays full for good."""
    with FaultServer(fault_server.silent) as stalled:
        wire = httpx.AsyncHTTPTransport(limits=httpx.Limits(max_connections=2), verify=False)
        tidy(wire)  # so that no socket is left behind
        async with httpx.AsyncClient(transport=wire) as client:
            await cancel_unluckily(client, stalled.url.replace("http:", "https:"))
            pool = pool_of(client)
            assert (len(pool._requests), len(pool.connections)) == (0, 2)
            assert await mend(wire) == 2
            assert pool.connections == []


@pytest.mark.parametrize(("cancels", "steps"), [(1, 1), (2, 1), (2, 2), (2, 3), (2, 4), (3, 1), (3, 2)])
async def test_cancelled_streams_leave_nothing(cancels, steps):
    """Tasks cancelled within a body, even again some steps of the loop later, leave nothing of the pool taken."""
    guards, policy = Guards(), Policy(retry=None, bulkhead=Bulkhead(2), breaker=Breaker(failures=1))
    guard = guards.guard("acme", policy)
    assert guard.bulkhead
    assert guard.breaker
    with FaultServer(fault_server.stalled_body) as stalled, FaultServer(whole) as fine:
        async with small(policy, name="acme", guards=guards) as client:
            for _ in range(4):
                begun = asyncio.Event()

                async def read(begun: asyncio.Event) -> None:
                    async with client.stream("GET", stalled.url) as response:
                        begun.set()
                        await response.aread()

                task = asyncio.ensure_future(read(begun))
                await asyncio.wait_for(begun.wait(), 5)
                assert guard.bulkhead.busy == 1
                for _ in range(cancels):
                    task.cancel()
                    for _ in range(steps):
                        await asyncio.sleep(0)
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert (guard.bulkhead.busy, guard.breaker.state) == (0, "closed")
                assert (pool_of(client)._requests, pool_of(client).connections) == ([], [])
            assert (await client.get(fine.url)).text == "body"


async def test_many_cancelled_requests_leave_nothing():
    """Hundreds of requests cancelled at any moment, once or twice, in handshakes, silence and bodies, leave nothing."""
    guards, policy = Guards(), Policy(retry=None, bulkhead=Bulkhead(6, queue=100), breaker=Breaker(failures=1))
    bulkhead = guards.guard("acme", policy).bulkhead
    assert bulkhead
    random = Random(7)
    with (
        FaultServer(fault_server.silent) as stalled,
        FaultServer(fault_server.drip) as dripping,
        FaultServer(whole) as fine,
    ):
        urls = [stalled.url, stalled.url.replace("http:", "https:"), dripping.url, fine.url]

        async def cancelled(client: httpx.AsyncClient) -> None:
            task = asyncio.ensure_future(client.get(random.choice(urls)))
            await asyncio.sleep(random.random() * 0.03)
            for _ in range(random.choice([1, 2])):
                task.cancel()
                await asyncio.sleep(0)
            await asyncio.gather(task, return_exceptions=True)

        async with small(policy, name="acme", guards=guards) as client:
            for _ in range(15):
                await asyncio.gather(*(cancelled(client) for _ in range(20)))
            assert (bulkhead.busy, bulkhead.waiting) == (0, 0)
            assert (await asyncio.wait_for(client.get(fine.url), 5)).text == "body"
            assert pool_of(client)._requests == []
            assert all(each.is_idle() for each in pool_of(client).connections)
    assert len(asyncio.all_tasks()) == 1


@both
def test_redirects_are_the_clients(colour):
    """The client follows a redirect, each hop through the pipeline."""
    with Faulty(200) as target, Faulty((302, {"Location": target.url + "/there"}, b"")) as server:
        with httpx.Client(transport=Transport(), follow_redirects=True) as client:
            response = client.get(server.url)
        assert (response.status_code, len(response.history)) == (200, 1)


def test_double_retries_are_refused():
    """A wire that connects again by itself is refused."""
    with pytest.raises(errors.ConfigurationError, match="retries"):
        Transport(wire=httpx.HTTPTransport(retries=2))


@pytest.mark.parametrize("kind", [Transport, AsyncTransport])
@pytest.mark.parametrize(("argument", "value"), [("policy", 5), ("name", ""), ("guards", {}), ("wire", 5)])
def test_wrong_arguments_are_named(kind, argument, value):
    """A wrong argument is refused by name."""
    with pytest.raises(errors.ConfigurationError, match=argument):
        kind(**{argument: value})


def test_errors_pickle_without_the_request():
    """A pickled error leaves the request, and its key, behind."""
    with FaultServer(fault_server.silent) as server, pytest.raises(errors.DeadlineExceeded) as caught:
        ask("sync", "GET", server.url, Policy(deadline=0.1), headers={"Authorization": "Bearer canary"})
    pickled = pickle.dumps(caught.value)
    assert b"canary" not in pickled
    assert isinstance(pickle.loads(pickled), httpx.ReadTimeout)
