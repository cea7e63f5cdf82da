from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import grpc
import httpx2
import pytest
import stripe
from tests.calls.adapters.grpc_server import GrpcServer
from tests.calls.adapters.scripted import Scripted
from twilio.rest import Client as Twilio

from moorline import errors
from moorline.calls.adapters import slack
from moorline.calls.adapters import stripe as ours_for_stripe
from moorline.calls.adapters import twilio as ours_for_twilio
from moorline.calls.adapters.aiohttp import middleware
from moorline.calls.adapters.grpc import intercept
from moorline.calls.guards import Guards
from moorline.calls.transport import Transport
from moorline.clock import ManualClock
from moorline.policies.breaker import Breaker
from moorline.policies.policy import Policy


def test_one_name_is_one_state_behind_all_adapters():
    """A service that one client found dead is refused by every other client of that name, with its own exceptions."""
    shared: Any = {"name": "vendor", "guards": Guards(ManualClock())}
    policy = Policy(retry=None, breaker=Breaker(failures=1))
    with Scripted(500) as server, GrpcServer(b"ok") as rpc:
        asyncio.run(_get(middleware(policy, **shared), server.url))

        with pytest.raises(aiohttp.ClientError) as by_aiohttp:
            asyncio.run(_get(middleware(policy, **shared), server.url))
        with (
            httpx2.Client(transport=Transport(policy, **shared)) as client,
            pytest.raises(httpx2.HTTPError) as by_httpx2,
        ):
            client.get(server.url)
        paying = stripe.StripeClient("sk_test_x", http_client=ours_for_stripe.Client(policy, **shared))
        with pytest.raises(stripe.StripeError) as by_stripe:
            paying.v1.balance.retrieve()
        texting = Twilio("AC0", "x", http_client=ours_for_twilio.Client(policy, **shared))
        with pytest.raises(Exception, match="circuit is open") as by_twilio:
            texting.request("GET", server.url)
        with pytest.raises(Exception, match="circuit is open") as by_slack:
            slack.WebClient("x", base_url=server.url, policy=policy, **shared).api_test()
        with grpc.insecure_channel(rpc.target) as channel, pytest.raises(grpc.RpcError) as by_grpc:
            intercept(channel, policy, **shared).unary_unary("/pkg.Files/Get")(b"")

        assert len(server.heads) == 1
        assert rpc.calls == []
    for caught in (by_aiohttp, by_httpx2, by_stripe, by_twilio, by_slack, by_grpc):
        assert isinstance(caught.value, errors.CircuitOpen)


async def _get(pipeline: Any, url: str) -> None:
    async with aiohttp.ClientSession(middlewares=(pipeline,)) as session, session.get(url) as response:
        await response.read()
