"""Bodies that a client reads by itself, under every kind of client: how long they took, and how they broke off."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import aiohttp
import httpx
import httpx2
import pytest
import requests
from tests.calls.adapters.faulty import Faulty
from tests.calls.fault_server import FaultServer
from tests.calls.ledger import Ledger, run

from moorline import errors
from moorline.calls.adapters import aiohttp as ours_aiohttp
from moorline.calls.adapters import httpx as ours_httpx
from moorline.calls.adapters import requests as ours_requests
from moorline.calls.adapters.functions import resilient
from moorline.calls.guards import Guards
from moorline.policies.breaker import Breaker
from moorline.policies.policy import Policy
from moorline.transport import AsyncTransport, Transport

SLOW = Policy(retry=None, breaker=Breaker(slow=8, window=600))

# Each sends one request and reads the body, after *pause* was called where the body is read apart from the head.
Send = Callable[..., None]


def by_httpx(library: Any, transport: Any) -> Send:
    def send(
        method: str, url: str, policy: Policy, guards: Guards, pause: Callable[[], Any] = int, **headers: str
    ) -> None:
        with (
            library.Client(transport=transport(policy, name="acme", guards=guards)) as client,
            client.stream(method, url, headers=headers) as response,
        ):
            pause()
            response.read()

    return send


def by_async_httpx(library: Any, transport: Any) -> Send:
    async def main(
        method: str, url: str, policy: Policy, guards: Guards, pause: Callable[[], Any] = int, **headers: str
    ) -> None:
        async with (
            library.AsyncClient(transport=transport(policy, name="acme", guards=guards)) as client,
            client.stream(method, url, headers=headers) as response,
        ):
            pause()
            await response.aread()

    return lambda *given, **options: asyncio.run(main(*given, **options))


def by_requests(
    method: str, url: str, policy: Policy, guards: Guards, pause: Callable[[], Any] = int, **headers: str
) -> None:
    with requests.Session() as client:
        client.trust_env = False
        client.mount("http://", ours_requests.Adapter(policy, name="acme", guards=guards))
        response = client.request(method, url, headers=headers, stream=True)
        pause()
        assert response.content


def by_aiohttp(*given: Any, **options: Any) -> None:
    async def main(
        method: str, url: str, policy: Policy, guards: Guards, pause: Callable[[], Any] = int, **headers: str
    ) -> None:
        wares = (ours_aiohttp.middleware(policy, name="acme", guards=guards),)
        async with (
            aiohttp.ClientSession(middlewares=wares) as client,
            client.request(method, url, headers=headers) as response,
        ):
            pause()
            await response.read()

    asyncio.run(main(*given, **options))


CLIENTS: dict[str, Send] = {
    "httpx2": by_httpx(httpx2, Transport),
    "httpx2, async": by_async_httpx(httpx2, AsyncTransport),
    "httpx": by_httpx(httpx, ours_httpx.Transport),
    "httpx, async": by_async_httpx(httpx, ours_httpx.AsyncTransport),
    "requests": by_requests,
    "aiohttp": by_aiohttp,
}


def by_service(colour: str) -> Send:
    def send(_method: str, url: str, policy: Policy, guards: Guards) -> None:
        service = Ledger("k", base_url=url, guards=guards, policy=policy)
        run(colour, service.read("1"))
        service.close()

    return send


def by_function(_method: str, url: str, policy: Policy, guards: Guards) -> None:
    def ask() -> None:
        with httpx2.Client() as client:
            client.get(url)

    resilient("acme", policy, guards=guards).call(ask)


def by_async_function(_method: str, url: str, policy: Policy, guards: Guards) -> None:
    async def ask() -> None:
        async with httpx2.AsyncClient() as client:
            await client.get(url)

    asyncio.run(resilient("acme", policy, guards=guards).call_async(ask))


READERS = {
    **CLIENTS,
    "a service": by_service("sync"),
    "a service, async": by_service("async"),
    "a function": by_function,
    "a function, async": by_async_function,
}


class Slow(Faulty):
    """The head of each answer comes after *seconds* of the test's own clock."""

    def __init__(self, seconds: float) -> None:
        # More than one read takes, so that the body is still to come when the head is there.
        super().__init__((200, {}, b'{"id": "1", "more": "' + b"x" * 400_000 + b'"}'))
        self.seconds = seconds

    async def _answer(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.clock.advance(self.seconds)
        await super()._answer(head, reader, writer)


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest) -> Send:
    return CLIENTS[request.param]


@pytest.mark.parametrize("reader", READERS)
def test_slow_heads_open_the_breaker(reader):
    """Twelve calls whose head takes 9 s open a breaker for which 8 s are slow, under every kind of client."""
    with Slow(9) as server:
        for _ in range(10):
            READERS[reader]("GET", server.url, SLOW, server.guards)
        for _ in range(2):
            with pytest.raises(errors.CircuitOpen, match="slower than 8 s"):
                READERS[reader]("GET", server.url, SLOW, server.guards)
        assert len(server.heads) == 10


def test_a_slow_reader_is_not_a_slow_service(client):
    """Bodies that their reader leaves lying for 9 s say nothing of the service: the breaker stays closed."""
    with Slow(0) as server:
        for _ in range(12):
            client("GET", server.url, SLOW, server.guards, lambda: server.clock.advance(9))
        assert len(server.heads) == 12


class Broken(FaultServer):
    """Half a body, and then the end, or nothing more."""

    def __init__(self, *, ends: bool) -> None:
        super().__init__(self._answer)
        self._ends = ends

    async def _answer(self, _head: bytes, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'HTTP/1.1 200 OK\r\nX-Request-Id: req_1\r\nContent-Length: 100\r\n\r\n{"a":')
        await writer.drain()
        if self._ends:
            raise ConnectionResetError
        await asyncio.sleep(60)


@pytest.fixture(params=["truncated", "late"])
def broken(request: pytest.FixtureRequest) -> Iterator[Broken]:
    with Broken(ends=request.param == "truncated") as server:
        yield server


def failure(client: Send, method: str, server: Broken, **headers: str) -> errors.CallError:
    with pytest.raises(errors.CallError) as caught:
        client(method, server.url, Policy(deadline=0.4 if not server._ends else 5.0, retry=None), Guards(), **headers)
    return caught.value


def test_an_unkeyed_write_whose_answer_breaks_off(client, broken):
    """A POST without a key whose body breaks off, or is late, is not worth another try: it may act twice."""
    error = failure(client, "POST", broken)
    assert not error.retryable
    assert error.idempotency_key is None
    if isinstance(error, errors.NetworkFault):
        assert isinstance(error, errors.OutcomeUnknown)
        assert "carried no key" in error.find_out
    if not broken._ends:
        assert isinstance(error, errors.DeadlineOutcomeUnknown)


def test_a_keyed_write_whose_answer_breaks_off(client, broken):
    """With a fresh key the same POST may be sent again, and says that the service answers with the first result."""
    error = failure(client, "POST", broken, **{"Idempotency-Key": "k-1"})
    assert (error.retryable, error.idempotency_key) == (True, "k-1")
    if isinstance(error, errors.NetworkFault):
        assert isinstance(error, errors.OutcomeUnknown)
        assert error.find_out.startswith("send the same Call again")


def test_a_read_whose_answer_breaks_off(client, broken):
    """A GET whose body breaks off, or is late, may be sent again, and its outcome is no matter."""
    error = failure(client, "GET", broken)
    assert error.retryable
    assert not isinstance(error, errors.OutcomeUnknown)


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_what_an_error_of_the_body_knows(client, broken, method):
    """It has the name, the status, the service's id of the request and the attempts, as all others do."""
    error = failure(client, method, broken)
    assert (error.service, error.operation, error.status, error.request_id) == ("acme", method, 200, "req_1")
    assert [(each.number, each.status, each.reason) for each in error.attempts] == [(1, 200, "answered")]


def test_the_body_of_a_failure_that_breaks_off(client):
    """The error of a 503's own body, which its reader asked for, has the attempts as well."""

    async def unwell(_head: bytes, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 503 Unwell\r\nContent-Length: 100\r\n\r\nno")
        await writer.drain()
        raise ConnectionResetError

    with FaultServer(unwell) as server, pytest.raises(errors.CallError) as caught:
        client("GET", server.url, Policy(retry=None), Guards())
    assert (caught.value.status, len(caught.value.attempts)) == (503, 1)


def test_a_refused_status_has_the_request_id(client):
    """A 429 that is given up names the service's id of the request."""
    with (
        Faulty((429, {"Retry-After": "3600", "X-Request-Id": "req_2"}, b"busy")) as server,
        pytest.raises(errors.RateLimited) as caught,
    ):
        client("GET", server.url, Policy(), server.guards)
    assert caught.value.request_id == "req_2"
