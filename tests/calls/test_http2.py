from __future__ import annotations

import asyncio
from typing import Any

import httpx
import httpx2
import pytest
from tests.calls.h2_server import H2Server
from tests.calls.ledger import Mail, both, request, run

from moorline import errors
from moorline.calls.adapters import httpx as ours_for_httpx
from moorline.calls.guards import Guards
from moorline.calls.upload import Upload
from moorline.policies.policy import Policy
from moorline.policies.retry import Retry
from moorline.transport import AsyncTransport, Transport

POLICY = Policy(deadline=10.0, retry=Retry(retries=2, base=0.0))
HTTP2: Any = {"http1": False, "http2": True, "verify": False}


def by_transport(colour: str, url: str) -> int:
    wire: Any = httpx2.HTTPTransport(**HTTP2) if colour == "sync" else httpx2.AsyncHTTPTransport(**HTTP2)
    ours: Any = Transport if colour == "sync" else AsyncTransport
    return request(colour, POLICY, "POST", url, ours(POLICY, wire=wire), content=b"x").status_code


def by_service(colour: str, url: str) -> int:
    wire: Any = httpx2.HTTPTransport(**HTTP2) if colour == "sync" else httpx2.AsyncHTTPTransport(**HTTP2)
    service = Mail("key", base_url=url, wire=wire, policy=POLICY, guards=Guards())

    async def send() -> Any:
        async with wire:
            return await service.book(1).response()

    if colour == "async":
        return asyncio.run(send()).status  # type: ignore[no-any-return]
    with wire:
        return run(colour, service.book(1).response()).status  # type: ignore[no-any-return]


def by_httpx(colour: str, url: str) -> int:
    async def send() -> int:
        transport = ours_for_httpx.AsyncTransport(POLICY, wire=httpx.AsyncHTTPTransport(**HTTP2))
        async with httpx.AsyncClient(transport=transport) as client:
            return (await client.post(url, content=b"x")).status_code

    if colour == "async":
        return asyncio.run(send())
    with httpx.Client(transport=ours_for_httpx.Transport(POLICY, wire=httpx.HTTPTransport(**HTTP2))) as client:
        return client.post(url, content=b"x").status_code


clients: Any = pytest.mark.parametrize("send", [by_transport, by_service, by_httpx])


@both
@clients
@pytest.mark.parametrize("first", ["refused", "unseen"])
def test_what_the_service_did_not_process_is_sent_again(colour, send, first):
    """A POST without a key whose stream the service refused, or that came as it left, is repeated and answered."""
    with H2Server(first, 200) as server:
        assert send(colour, server.url) == 200
        assert server.seen == ["POST", "POST"]


@both
@clients
@pytest.mark.parametrize("first", ["leaving", "broken"])
def test_what_the_service_may_have_processed_is_not_sent_again(colour, send, first):
    """A POST without a key that the service saw before it left, or broke off, is sent once: its outcome is unknown."""
    with H2Server(first, 200) as server:
        with pytest.raises(errors.OutcomeUnknown):
            send(colour, server.url)
        assert server.seen == ["POST"]


@both
@clients
def test_what_is_never_processed_was_not_sent(colour, send):
    """A service that refuses each attempt gives an error that says so, and that the request was never processed."""
    with H2Server("refused") as server:
        with pytest.raises(errors.ConnectionLost, match="did not process it") as caught:
            send(colour, server.url)
        assert (caught.value.outcome, caught.value.retryable) == ("not_sent", True)
        assert len(server.seen) == 3


def test_httpx2_names_such_an_error():
    """A plain client catches it as httpx2's own error of a peer that broke the protocol off."""
    with H2Server("refused") as server, pytest.raises(httpx2.RemoteProtocolError) as caught:
        by_transport("sync", server.url)
    assert isinstance(caught.value, errors.ConnectionLost)


@both
def test_a_request_after_the_last_one_seen_is_sent_again(colour):
    """A POST on a connection that the service leaves after an earlier request is sent once more, on another one."""

    async def twice_async(url: str) -> list[int]:
        transport = AsyncTransport(POLICY, wire=httpx2.AsyncHTTPTransport(**HTTP2))
        async with httpx2.AsyncClient(transport=transport) as client:
            return [(await client.post(url, content=b"x")).status_code for _ in range(2)]

    with H2Server(200, "before", 200) as server:
        if colour == "async":
            answers = asyncio.run(twice_async(server.url))
        else:
            with httpx2.Client(transport=Transport(POLICY, wire=httpx2.HTTPTransport(**HTTP2))) as client:
                answers = [client.post(server.url, content=b"x").status_code for _ in range(2)]
        assert answers == [200, 200]
        assert server.seen == ["POST", "POST", "POST"]


@both
def test_an_upload_after_the_last_one_seen_is_sent_again_whole(colour):
    """An upload on a connection that the service leaves is read anew from its source, and is not cut short."""

    async def twice_async(url: str) -> None:
        async with httpx2.AsyncHTTPTransport(**HTTP2) as wire:
            service = Mail("key", base_url=url, wire=wire, policy=POLICY, guards=Guards())
            for _ in range(2):
                await service.request("POST", "/files", upload=Upload([b"one", b"two"]))

    with H2Server(200, "before", 200) as server:
        if colour == "async":
            asyncio.run(twice_async(server.url))
        else:
            with httpx2.HTTPTransport(**HTTP2) as wire:
                service = Mail("key", base_url=server.url, wire=wire, policy=POLICY, guards=Guards())
                for _ in range(2):
                    service.request("POST", "/files", upload=Upload([b"one", b"two"])).result()
        assert server.bodies == [b"onetwo"] * 3
