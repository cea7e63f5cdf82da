"""What receiving asks other hosts for: once at a time, not again at once after a failure, and each host by itself."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from moorline.clock import ManualClock
from moorline.errors import BadAnswer, CallError
from moorline.events.fetching import _MOST, Fetching, fetch, fetch_sync

URL = "https://sns.us-east-1.amazonaws.com/x.pem?Token=secret-token"


class Host:
    """A host that is asked: it waits until it may answer, in either colour."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.begun, self.may = threading.Event(), threading.Event()
        self.fails: Exception | None = None
        self.clock = ManualClock(0.0)
        self.fetching = Fetching(self.ask, self.ask_sync, clock=self.clock)

    def ask_sync(self, url: str) -> bytes:
        self.asked.append(url)
        self.begun.set()
        self.may.wait(5)
        if self.fails is not None:
            raise self.fails
        return b"pem"

    async def ask(self, url: str) -> bytes:
        return await asyncio.to_thread(self.ask_sync, url)


async def until_asked(host: Host) -> None:
    """Wait until the host was asked."""
    assert await asyncio.to_thread(host.begun.wait, 5)


async def test_an_address_is_asked_once_at_a_time():
    """Whoever wants it meanwhile, in this loop or in a thread, gets the same answer; after that it is asked anew."""
    host = Host()
    first = asyncio.ensure_future(host.fetching.fetch(URL))
    await until_asked(host)
    others = [asyncio.ensure_future(host.fetching.fetch(URL)) for _ in range(3)]
    thread = asyncio.ensure_future(asyncio.to_thread(host.fetching.fetch_sync, URL))
    await asyncio.sleep(0.05)
    host.may.set()
    assert await asyncio.gather(first, *others, thread) == [b"pem"] * 5
    assert len(host.asked) == 1
    assert await host.fetching.fetch(URL) == b"pem"
    assert len(host.asked) == 2


async def test_who_gives_up_does_not_end_it_for_the_others():
    """The first of them is cancelled: the request goes on."""
    host = Host()
    first = asyncio.ensure_future(host.fetching.fetch(URL))
    await until_asked(host)
    second = asyncio.ensure_future(host.fetching.fetch(URL))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    host.may.set()
    assert await second == b"pem"
    assert len(host.asked) == 1


@pytest.mark.parametrize(
    ("error", "seconds"),
    [(BadAnswer("no", status=404), 60), (BadAnswer("no", status=503), 10), (CallError("not reached"), 10)],
)
async def test_what_failed_is_not_asked_again_at_once(error: CallError, seconds: float):
    """What the host does not have, for a minute; what was not reached, for ten seconds. No token is shown."""
    host = Host()
    host.may.set()
    host.fails = error
    with pytest.raises(CallError):
        await host.fetching.fetch(URL)
    host.clock.advance(seconds - 1)
    with pytest.raises(CallError, match="a moment ago") as raised:
        host.fetching.fetch_sync(URL)
    assert "secret-token" not in str(raised.value)
    assert len(host.asked) == 1
    host.clock.advance(1)
    host.fails = None
    assert await host.fetching.fetch(URL) == b"pem"


def test_only_so_many_failures_are_remembered():
    """Strangers may name any number of addresses: the oldest is forgotten."""
    host = Host()
    host.may.set()
    host.fails = CallError("not reached")
    for number in range(_MOST + 1):
        with pytest.raises(CallError):
            host.fetching.fetch_sync(f"{URL}{number}")
    assert len(host.fetching._failed) == _MOST


class _Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        good = self.headers["host"].startswith("localhost")
        self.send_response(200 if good else 500)
        self.send_header("content-length", "3")
        self.end_headers()
        self.wfile.write(b"pem")

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def port() -> Iterator[int]:
    """A server that answers as localhost, and fails as 127.0.0.1."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


async def test_a_host_that_fails_closes_the_way_to_itself_alone(port: int):
    """Its breaker opens, after which it is not asked; another host's certificate is fetched all the same."""
    for number in range(6):
        with pytest.raises(CallError):
            await fetch(f"http://127.0.0.1:{port}/{number}")
    assert await fetch(f"http://localhost:{port}/a") == b"pem"
    assert await asyncio.to_thread(fetch_sync, f"http://localhost:{port}/b") == b"pem"
