from __future__ import annotations

import asyncio
import io
import pickle
import threading
import time
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import aiohttp.web
import pytest
from tests.calls import fault_server
from tests.calls.adapters.scripted import Scripted
from tests.calls.fault_server import FaultServer

from moorline import errors
from moorline.calls.adapters.aiohttp import middleware
from moorline.calls.guards import Guards
from moorline.clock import ManualClock
from moorline.policies.breaker import Breaker
from moorline.policies.bulkhead import Bulkhead
from moorline.policies.policy import Policy
from moorline.policies.retry import Retry

GOOD: Any = (200, {}, b'{"id": 1}')


class Noticed(FaultServer):
    """Drips, and tells when the second request came."""

    def __init__(self) -> None:
        super().__init__(self._drip)
        self.came = threading.Event()

    async def _drip(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self.heads) == 2:
            self.came.set()
        await fault_server.drip(head, reader, writer)


@asynccontextmanager
async def session(policy: Policy | None = None, **options: Any):
    """A real session behind our middleware."""
    options.setdefault("guards", Guards(ManualClock()))
    async with aiohttp.ClientSession(middlewares=(middleware(policy, **options),)) as opened:
        yield opened


async def test_a_read_is_repeated():
    """A GET that meets a 503 and a broken connection is asked again, and its body reads as ever."""
    with Scripted(503, ConnectionError, GOOD) as server:
        async with session() as client, client.get(server.url) as response:
            assert await response.json() == {"id": 1}
        assert len(server.heads) == 3


@pytest.mark.parametrize("first", [503, ConnectionError])
async def test_an_unkeyed_write_is_not_repeated(first):
    """A POST that may have acted is sent once: a 503 is handed over, a broken connection is an unknown outcome."""
    with Scripted(first) as server:
        async with session() as client:
            if first == 503:
                async with client.post(server.url, data=b"x") as response:
                    assert response.status == 503
            else:
                with pytest.raises(aiohttp.ClientConnectionError) as caught:
                    await client.post(server.url, data=b"x")
                assert isinstance(caught.value, errors.OutcomeUnknown)
        assert len(server.heads) == 1


async def test_a_keyed_write_is_repeated_whole():
    """A POST under an idempotency key is sent again, with its whole body: bytes, a form, or a file from its start."""
    form = aiohttp.FormData({"a": "1"})
    for body, sent in ((b"x" * 100_000, b"x" * 100_000), (form, b"a=1"), (io.BytesIO(b"file"), b"file")):
        with Scripted(503, 502, GOOD) as server:
            async with (
                session() as client,
                client.post(server.url, data=body, headers={"Idempotency-Key": "k"}) as response,
            ):
                assert response.status == 200
            assert server.bodies == [sent] * 3


async def test_a_spent_body_is_not_sent_half():
    """A body that can be read once only is sent once, whatever the method allows."""

    async def parts():
        yield b"one"

    with Scripted(503) as server:
        async with session() as client, client.put(server.url, data=parts()) as response:
            assert response.status == 503
        assert server.bodies == [b"one"]


async def test_a_limit_is_waited_for_or_raised_as_both():
    """A 429 is repeated after the time that it asks for; given up, it is RateLimited and a ClientResponseError."""
    clock = ManualClock()
    with Scripted((429, {"retry-after": "7"}, b"{}"), GOOD) as server:
        async with session(guards=Guards(clock)) as client, client.post(server.url) as response:
            assert response.status == 200
        assert max(clock.slept) >= 7
    with Scripted((429, {"retry-after": "3600", "x-why": "busy"}, b"{}")) as server:
        async with session(name="busy") as client:
            with pytest.raises(aiohttp.ClientResponseError) as caught:
                await client.get(server.url)
            assert isinstance(caught.value, errors.RateLimited)
            error: Any = caught.value
            assert (error.status, error.headers["x-why"], error.retry_at is not None) == (429, "busy", True)
            assert str(error.request_info.real_url).startswith(server.url)
            again = pickle.loads(pickle.dumps(error))
            assert (type(again), str(again)) == (type(error), str(error))
            with pytest.raises(aiohttp.ClientError) as refused:
                await client.get(server.url)
            assert isinstance(refused.value, errors.RateLimited)
            assert refused.value.outcome == "not_sent"
        assert len(server.heads) == 1


async def test_an_open_breaker_is_a_client_error():
    """After failures the session is refused at once; sessions of one name share that, hosts of no name do not."""
    guards, policy = Guards(ManualClock()), Policy(retry=None, breaker=Breaker(failures=1))
    with Scripted(500) as server, Scripted(200) as other:
        async with session(policy, name="api", guards=guards) as client:
            await client.get(server.url)
        async with session(policy, name="api", guards=guards) as client:
            with pytest.raises(aiohttp.ClientConnectionError) as caught:
                await client.get(server.url)
            assert isinstance(caught.value, errors.CircuitOpen)
        async with session(policy) as client:
            await client.get(server.url)
            assert (await client.get(other.url)).status == 200
            with pytest.raises(errors.CircuitOpen):
                await client.get(server.url)
        assert len(server.heads) == 2


async def test_a_refused_connection_was_not_sent():
    """Where nobody listens, a POST is tried again, and the error is aiohttp's ClientConnectorError with its fields."""
    with Scripted(200) as server:
        gone = server.url
    async with session(Policy(retry=Retry(retries=2))) as client:
        with pytest.raises(aiohttp.ClientConnectorError) as caught:
            await client.post(gone, data=b"x")
    assert isinstance(caught.value, errors.ConnectFailed)
    error: Any = caught.value
    assert (error.outcome, len(error.attempts), error.host) == ("not_sent", 3, "127.0.0.1")


@pytest.mark.parametrize(
    "behaviour", [fault_server.drip, fault_server.stalled_body, fault_server.silent], ids=lambda each: each.__name__
)
@pytest.mark.parametrize("read", ["whole", "parts", "chunks", "lines"])
async def test_the_deadline_holds(behaviour, read):
    """However slow the server, and however the body is read, the call is over by its deadline."""
    with FaultServer(behaviour) as server:
        begun = time.monotonic()
        async with session(Policy(deadline=0.3), guards=Guards()) as client:
            with pytest.raises(aiohttp.ServerTimeoutError) as caught:
                await _read(client, server.url, read)
            assert isinstance(caught.value, errors.DeadlineExceeded)
            assert time.monotonic() - begun < 0.6


async def _read(client: aiohttp.ClientSession, url: str, how: str) -> None:
    async with client.get(url) as response:
        if how == "whole":
            await response.read()
        elif how == "parts":
            async for _ in response.content.iter_any():
                pass
        elif how == "chunks":
            async for _ in response.content.iter_chunks():
                pass
        else:
            async for _ in response.content:
                pass


async def test_a_stalled_upload_is_unknown():
    """A POST whose body the server does not take in time may have acted."""
    with FaultServer(fault_server.silent) as server:
        async with session(Policy(deadline=0.3), guards=Guards()) as client:
            begun = time.monotonic()
            with pytest.raises(errors.OutcomeUnknown):
                await client.post(server.url, data=io.BytesIO(b"x" * 20_000_000))
            assert time.monotonic() - begun < 0.8


async def test_what_a_body_holds_is_freed():
    """A slot is held while the body is unread, and free once it was read, released, or cut off."""
    policy = Policy(retry=None, bulkhead=Bulkhead(1), deadline=5)
    with Noticed() as slow, Scripted(GOOD, (200, {}, b"x" * 300_000)) as server:
        async with session(policy, name="one", guards=Guards()) as client:
            dripping = await client.get(slow.url)
            with pytest.raises(aiohttp.ClientError) as caught:
                await client.get(server.url)
            assert isinstance(caught.value, errors.BulkheadFull)
            dripping.close()
            async with client.get(server.url) as response:
                assert await response.json() == {"id": 1}
            async with client.get(server.url):
                pass  # not read at all
            async with client.get(server.url) as response:
                assert len(await response.content.readexactly(300_000)) == 300_000
            reading = asyncio.create_task(_read(client, slow.url, "whole"))
            await asyncio.to_thread(slow.came.wait, 10)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            async with client.get(server.url) as response:
                assert response.status == 200


async def test_a_truncated_body_is_a_failure():
    """A body that breaks off is an error of both libraries, and counts against the service."""
    with FaultServer(fault_server.truncated) as server:
        async with session(Policy(retry=None, breaker=Breaker(failures=1)), guards=Guards()) as client:
            response = await client.get(server.url)
            with pytest.raises(aiohttp.ClientPayloadError) as caught:
                await response.read()
            assert isinstance(caught.value, errors.BadAnswer)
            with pytest.raises(errors.CircuitOpen):
                await client.get(server.url)


async def test_a_body_that_came_in_time_may_be_read_late():
    """What is here already is no longer subject to the deadline."""
    with Scripted(GOOD) as server:
        clock = ManualClock()
        async with session(Policy(deadline=1), guards=Guards(clock)) as client, client.get(server.url) as response:
            clock.advance(60)
            assert await response.json() == {"id": 1}


async def test_the_session_repeats_nothing_by_itself():
    """The session of aiohttp sends an idempotent request once more over a broken connection; under us it does not."""
    with Scripted(ConnectionError) as server:
        async with session(Policy(retry=None)) as client:
            with pytest.raises(errors.ConnectionLost):
                await client.get(server.url)
        assert len(server.heads) == 1


async def test_two_of_us_are_refused():
    """The middleware twice in one session would multiply retries, and is refused with what to do."""
    with Scripted(200) as server:
        both = (middleware(), middleware())
        async with aiohttp.ClientSession(middlewares=both) as client:
            with pytest.raises(errors.ConfigurationError, match="twice"):
                await client.get(server.url)


async def test_redirects_and_websockets_pass():
    """The session follows redirects itself; a websocket outlives the deadline and holds no slot."""
    with Scripted((302, {"location": "/there"}, b""), GOOD) as server:
        async with session() as client, client.get(server.url) as response:
            assert (response.status, len(response.history)) == (200, 1)
    policy = Policy(deadline=0.1, bulkhead=Bulkhead(1))
    async with (
        _echo() as url,
        session(policy, name="echo") as client,
        client.ws_connect(url) as first,
        client.ws_connect(url) as second,
    ):
        for socket in (first, second):
            await socket.send_str("hi")
            assert await socket.receive_str() == "hi"


async def test_redirects_share_one_deadline():
    """The hops of a redirect have together the time of one request."""
    clock = ManualClock()
    away: Any = (302, {"location": "/on", "retry-after": "0"}, b"")
    with Scripted((429, {"retry-after": "6"}, b""), away, (429, {"retry-after": "6"}, b""), GOOD) as server:
        async with session(Policy(deadline=10), guards=Guards(clock)) as client:
            with pytest.raises(errors.RateLimited):
                await client.get(server.url)
        assert clock.monotonic() < 10
        assert len(server.heads) == 3
    with Scripted(away, (429, {"retry-after": "6"}, b""), GOOD) as server:
        async with session(Policy(deadline=10)) as client, client.get(server.url) as response:
            assert response.status == 200


async def test_a_full_pool_is_no_failure_of_the_service():
    """Who waits in vain for a connection of the session's own was not sent, and leaves the breaker closed."""
    policy = Policy(deadline=0.3, retry=None, breaker=Breaker(failures=1))
    with FaultServer(fault_server.drip) as slow:
        pipeline = middleware(policy, guards=Guards())
        connector = aiohttp.TCPConnector(limit=1)
        async with aiohttp.ClientSession(connector=connector, middlewares=(pipeline,)) as client:
            async with client.get(slow.url):
                with pytest.raises(errors.DeadlineExceeded) as caught:
                    await client.get(slow.url)
                assert (caught.value.outcome, caught.value.code) == ("not_sent", "pool")
            async with client.get(slow.url) as response:
                assert response.status == 200
        assert len(slow.heads) == 2


async def test_cancelled_requests_leave_nothing_behind():
    """Requests cancelled while they connect, wait and stream leave no slot, connection or task."""
    policy, guards = Policy(bulkhead=Bulkhead(20, queue=1000), retry=None), Guards()
    guard = guards.guard("leaks", policy)
    with FaultServer(fault_server.drip) as dripping, FaultServer(fault_server.silent) as silent:
        before = asyncio.all_tasks()
        async with session(policy, name="leaks", guards=guards) as client:
            for server in (dripping, silent):
                for after in (0.0, 0.002, 0.02):
                    tasks = [asyncio.create_task(_read(client, server.url, "whole")) for _ in range(40)]
                    await asyncio.wait(tasks, timeout=after)
                    for task in tasks:
                        task.cancel()
                    await asyncio.gather(*tasks, return_exceptions=True)
            assert guard.bulkhead is not None
            assert (guard.bulkhead.busy, guard.bulkhead.waiting) == (0, 0)
            assert not client.connector._acquired
            assert asyncio.all_tasks() == before


@asynccontextmanager
async def _echo():
    async def serve(request: aiohttp.web.BaseRequest) -> aiohttp.web.WebSocketResponse:
        socket = aiohttp.web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(message.data)
        return socket

    runner = aiohttp.web.ServerRunner(aiohttp.web.Server(serve))
    await runner.setup()
    site = aiohttp.web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def test_arguments_are_checked():
    """Each wrong argument is named."""
    for wrong, named in (({"policy": 3}, "policy"), ({"name": ""}, "name"), ({"guards": {}}, "guards")):
        with pytest.raises(errors.ConfigurationError, match=rf"aiohttp\.middleware\.{named}"):
            middleware(**wrong)
