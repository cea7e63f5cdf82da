from __future__ import annotations

import asyncio
import itertools
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import botocore.config
import botocore.exceptions
import botocore.session
import httpx
import pytest
import requests
from tests.calls.adapters.faulty import Faulty

from moorline import errors
from moorline.calls.adapters import httpx as ours_for_httpx
from moorline.calls.adapters.botocore import install
from moorline.calls.adapters.requests import Adapter
from moorline.calls.resolving import RESOLVER
from moorline.policies.policy import Policy

SHORT = Policy(deadline=0.3, retry=None)
_number = itertools.count(1)


class Names:
    """The system's resolver: it says nothing of ``slow…`` names until ``go`` is set, and then that there are none;
    ``here…`` names are this machine. ``asked`` are the names that it was asked for.
    """

    def __init__(self, real: Callable[..., Any]) -> None:
        self._real = real
        self.go = threading.Event()
        self.asked: list[str] = []

    def __call__(self, host: Any, port: Any, *args: Any, **options: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if not name.startswith(("slow", "here")):
            return self._real(host, port, *args, **options)
        self.asked.append(name)
        if name.startswith("slow"):
            self.go.wait(30)
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return self._real("127.0.0.1", port, *args, **options)

    def fresh(self, kind: str) -> str:
        """A name that nobody has asked for."""
        return f"{kind}{next(_number)}.test"


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    """A resolver of the test's own; whoever waits for it is released at the end."""
    made = Names(socket.getaddrinfo)
    monkeypatch.setattr(socket, "getaddrinfo", made)
    yield made
    made.go.set()
    RESOLVER.forget()


def by_requests(url: str, policy: Policy) -> Any:
    with requests.Session() as session:
        session.trust_env = False
        session.mount("http://", Adapter(policy))
        return session.post(url, data=b"x").status_code


def by_httpx(url: str, policy: Policy) -> Any:
    transport = ours_for_httpx.Transport(policy, wire=httpx.HTTPTransport(verify=False))
    with httpx.Client(transport=transport) as client:
        return client.post(url, content=b"x").status_code


def by_httpx_async(url: str, policy: Policy) -> Any:
    async def send() -> Any:
        transport = ours_for_httpx.AsyncTransport(policy, wire=httpx.AsyncHTTPTransport(verify=False))
        async with httpx.AsyncClient(transport=transport) as client:
            return (await client.post(url, content=b"x")).status_code

    loop = asyncio.new_event_loop()  # without asyncio.run, which would wait for the resolver's own thread
    try:
        return loop.run_until_complete(send())
    finally:
        loop.close()


def by_botocore(url: str, policy: Policy) -> Any:
    session = botocore.session.Session()
    session.set_credentials("AKIDEXAMPLE", "canary0123456789")
    config = botocore.config.Config(
        retries={"total_max_attempts": 1, "mode": "standard"}, s3={"addressing_style": "path"}, proxies={}
    )
    client = session.create_client("s3", endpoint_url=url, config=config, region_name="us-east-1")
    answer = install(client, policy).put_object(Bucket="b", Key="k", Body=b"x")
    return answer["ResponseMetadata"]["HTTPStatusCode"]


CLIENTS: Any = pytest.mark.parametrize(
    ("send", "theirs"),
    [
        (by_requests, requests.ConnectTimeout),
        (by_httpx, httpx.ConnectTimeout),
        (by_httpx_async, httpx.ConnectTimeout),
        (by_botocore, botocore.exceptions.ConnectTimeoutError),
    ],
    ids=["requests", "httpx", "httpx on the loop", "botocore"],
)


@CLIENTS
def test_a_name_that_is_not_resolved_keeps_the_deadline(send, theirs, names):
    """While the resolver says nothing, the caller is back at the deadline: nothing was sent."""
    with pytest.raises(errors.DeadlineExceeded) as caught:
        send(f"http://{names.fresh('slow')}:9/", SHORT)
    assert sum(attempt.elapsed for attempt in caught.value.attempts) < 0.5
    assert caught.value.outcome == "not_sent"
    assert not isinstance(caught.value, theirs)  # it is the call that took too long
    assert len(names.asked) == 1


@CLIENTS
def test_a_name_that_is_not_resolved_within_the_attempt(send, theirs, names):
    """An attempt that ends before the name is resolved is the client's own time-out of a connection, unsent."""
    with pytest.raises(theirs) as caught:
        send(f"http://{names.fresh('slow')}:9/", Policy(attempt_timeout=0.2, retry=None))
    assert isinstance(caught.value, errors.ConnectFailed)
    assert caught.value.outcome == "not_sent"
    assert len(names.asked) == 1


@CLIENTS
def test_a_name_that_does_not_exist_is_asked_for_once(send, theirs, names):
    """A name without an address fails at once as the client's own failure to connect; nobody asks twice."""
    names.go.set()
    with pytest.raises(errors.ConnectFailed) as caught:
        send(f"http://{names.fresh('slow')}:9/", Policy(retry=None))
    assert not isinstance(caught.value, theirs)
    assert len(names.asked) == 1


@CLIENTS
def test_a_name_is_connected_to(send, theirs, names):
    """A name that is resolved leads to its server."""
    del theirs
    with Faulty((200, {}, b"")) as server:
        assert send(f"http://{names.fresh('here')}:{server.url.rpartition(':')[2].strip('/')}/", Policy()) == 200
    assert len(names.asked) == 1
