from __future__ import annotations

import asyncio
import io
import pickle
import subprocess
import sys
import time
from typing import Any
from urllib.error import URLError

import aiohttp
import httpx2
import pytest
from aiohttp_retry import ExponentialRetry, RetryClient
from slack_sdk.errors import SlackApiError, SlackClientError
from slack_sdk.http_retry.builtin_async_handlers import AsyncRateLimitErrorRetryHandler
from slack_sdk.http_retry.builtin_handlers import RateLimitErrorRetryHandler
from tests.calls import fault_server
from tests.calls.adapters.scripted import Scripted
from tests.calls.fault_server import FaultServer
from tests.calls.ledger import both

from moorline import errors
from moorline.calls.adapters.aiohttp import middleware
from moorline.calls.adapters.slack import AsyncWebClient, WebClient
from moorline.calls.guards import Guards
from moorline.clock import ManualClock
from moorline.policies.breaker import Breaker
from moorline.policies.policy import Policy
from moorline.policies.retry import Retry

TOKEN = "xoxb-canary-0123456789"
OK: Any = (200, {}, b'{"ok": true, "ts": "1.2"}')
BUSY: Any = (429, {"retry-after": "7"}, b'{"ok": false, "error": "ratelimited"}')


class Slack:
    """One real client of either colour, and how to call it."""

    def __init__(self, colour: str, server: FaultServer, policy: Policy | None = None, **options: Any) -> None:
        options = {"guards": Guards(ManualClock()), "base_url": server.url + "/api/", **options}
        kind: Any = WebClient if colour == "sync" else AsyncWebClient
        self.client = kind(TOKEN, policy=policy, **options)
        self.colour = colour

    def call(self, operation: str, **arguments: Any) -> Any:
        try:
            method = getattr(self.client, operation)
            return method(**arguments) if self.colour == "sync" else asyncio.run(method(**arguments))
        finally:
            if self.colour == "sync":
                self.client.close()

    def post(self) -> Any:
        return self.call("chat_postMessage", channel="C1", text="hi ü")

    def read(self) -> Any:
        return self.call("conversations_list", limit=2)


@both
def test_a_message_goes_out_as_the_sdk_would_send_it(colour):
    """The request has the SDK's address, body and token, and its answer is the SDK's response."""
    with Scripted(OK) as server:
        response = Slack(colour, server).post()
        assert (response["ts"], response.status_code) == ("1.2", 200)
        assert server.heads[0].startswith(b"POST /api/chat.postMessage ")
        assert f"authorization: bearer {TOKEN}".encode().lower() in server.heads[0].lower()
        assert b"hi" in server.bodies[0]


@both
@pytest.mark.parametrize("first", [503, ConnectionError, (200, {}, b'{"ok": false, "error": "internal_error"}')])
def test_what_only_reads_is_repeated(colour, first):
    """A method that reads is called again after a failure, be it hidden in a 200; one that writes is not."""
    with Scripted(first, OK) as server:
        assert Slack(colour, server).read()["ok"]
        assert len(server.heads) == 2
    with Scripted(first, OK) as server:
        with pytest.raises(SlackClientError) as caught:
            Slack(colour, server).post()
        assert isinstance(caught.value, errors.CallError)
        assert caught.value.outcome == ("done" if first == 503 else "unknown")
        assert len(server.heads) == 1


@both
def test_what_writes_by_get_is_sent_once(colour):
    """Some methods write by GET, which aiohttp would send again by itself over a broken connection."""
    with Scripted(ConnectionError, OK) as server:
        with pytest.raises(errors.OutcomeUnknown):
            Slack(colour, server).call("admin_emoji_add", name="x", url="https://example.com/x.png")
        assert len(server.heads) == 1


@both
@pytest.mark.parametrize("busy", [BUSY, (200, {"retry-after": "7"}, b'{"ok": false, "error": "rate_limited"}')])
def test_a_limit_is_waited_for(colour, busy):
    """A message that was refused for its rate is sent again, no earlier than asked."""
    clock = ManualClock()
    with Scripted(busy, OK) as server:
        assert Slack(colour, server, guards=Guards(clock)).post()["ok"]
        assert max(clock.slept) >= 7
        assert len(server.heads) == 2


@both
def test_a_limit_that_lasts_is_both_libraries_error(colour):
    """A limit given up is RateLimited and SlackApiError with the response; the next call of that method is refused in
    Slack's words without being sent, and another method passes.
    """
    guards = Guards(ManualClock())
    with Scripted((429, {"retry-after": "120"}, BUSY[2]), OK) as server:
        with pytest.raises(SlackApiError) as caught:
            Slack(colour, server, guards=guards).post()
        error: Any = caught.value
        assert isinstance(caught.value, errors.RateLimited)
        assert (error.response["error"], error.response.status_code) == ("ratelimited", 429)
        assert error.response.headers["Retry-After"] == "120"
        assert TOKEN not in repr(error) + str(error)
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again)) == (type(error), str(error))
        with pytest.raises(SlackApiError) as refused:
            Slack(colour, server, guards=guards).post()
        assert refused.value.response["error"] == "ratelimited"
        assert refused.value.response.headers["Retry-After"] == "120"
        assert len(server.heads) == 1
        assert Slack(colour, server, guards=guards).read()["ok"]


@both
def test_callers_faults_are_the_sdks_own(colour):
    """An unknown channel is the SDK's own error, and no failure of Slack."""
    with Scripted((200, {}, b'{"ok": false, "error": "channel_not_found"}')) as server:
        guards, policy = Guards(ManualClock()), Policy(breaker=Breaker(failures=1))
        for _ in range(2):
            with pytest.raises(SlackApiError) as caught:
                Slack(colour, server, policy, guards=guards).post()
            assert caught.value.response["error"] == "channel_not_found"
            assert not isinstance(caught.value, errors.CallError)


@both
def test_an_open_breaker_is_a_slack_error(colour):
    """After failures the call is refused at once; clients of one name share that, others do not."""
    guards, policy = Guards(ManualClock()), Policy(retry=None, breaker=Breaker(failures=1))
    with Scripted(500) as server:
        with pytest.raises(SlackApiError) as failed:
            Slack(colour, server, policy, guards=guards).read()
        assert isinstance(failed.value, errors.ServiceUnavailable)
        with pytest.raises(SlackClientError) as caught:
            Slack(colour, server, policy, guards=guards).post()
        assert isinstance(caught.value, errors.CircuitOpen)
        assert isinstance(caught.value, URLError if colour == "sync" else aiohttp.ClientError)
        with pytest.raises(errors.ServiceUnavailable):
            Slack(colour, server, policy, guards=guards, name="elsewhere").read()
        assert len(server.heads) == 2


@both
def test_a_refused_connection_was_not_sent(colour):
    """Where nobody listens, even a message is tried again, and its outcome is known."""
    with Scripted(OK) as server:
        pass
    with pytest.raises(SlackClientError) as caught:
        Slack(colour, server, Policy(retry=Retry(retries=2))).post()
    assert isinstance(caught.value, errors.ConnectFailed)
    assert (caught.value.outcome, len(caught.value.attempts)) == ("not_sent", 3)


@both
@pytest.mark.parametrize("behaviour", [fault_server.drip, fault_server.silent], ids=lambda each: each.__name__)
def test_the_deadline_holds(colour, behaviour):
    """However slow the server, the call is back by its deadline, the body included."""
    with FaultServer(behaviour) as server:
        begun = time.monotonic()
        with pytest.raises(SlackClientError) as caught:
            Slack(colour, server, Policy(deadline=0.3), guards=Guards()).read()
        assert time.monotonic() - begun < 0.6
        assert isinstance(caught.value, errors.DeadlineExceeded)


@both
def test_an_answer_that_is_no_json(colour):
    """An answer that cannot be read is asked for again where that is safe, and stays a SlackApiError."""
    broken: Any = (200, {}, b'{"ok": tr')
    with Scripted(broken, OK) as server:
        assert Slack(colour, server).read()["ok"]
    with Scripted(broken) as server:
        with pytest.raises(SlackApiError):
            Slack(colour, server, Policy(retry=Retry(retries=1))).read()
        assert len(server.heads) == 2


@both
def test_pages_and_further_safe_methods(colour):
    """Each page goes through the pipeline; a method named as safe is repeated."""
    first: Any = (200, {}, b'{"ok": true, "channels": [1], "response_metadata": {"next_cursor": "n"}}')
    with Scripted(503, first, 503, OK) as server:
        slack = Slack(colour, server)
        if colour == "sync":
            assert len(list(slack.client.conversations_list(limit=1))) == 2
            slack.client.close()
        else:

            async def pages():
                return [page async for page in await slack.client.conversations_list(limit=1)]

            assert len(asyncio.run(pages())) == 2
        assert len(server.heads) == 4
    with Scripted(503, OK) as server:
        assert Slack(colour, server, safe=("chat.postMessage",)).post()["ok"]


@both
def test_files_are_uploaded_once(colour):
    """The three steps of an upload pass through the pipeline, and the bytes arrive."""
    with Scripted(OK) as server:
        place = f'{{"ok": true, "upload_url": "{server.url}/upload/v1/x", "file_id": "F1"}}'
        done = b'{"ok": true, "files": [{"id": "F1"}]}'
        server.answers = [(200, {}, place.encode()), (200, {"content-type": "text/plain"}, b"OK - 4"), (200, {}, done)]
        response = Slack(colour, server).call("files_upload_v2", filename="a.txt", file=io.BytesIO(b"abcd"))
        assert response["files"][0]["id"] == "F1"
        assert server.bodies[1] == b"abcd"


@both
def test_a_file_that_is_read_once_is_not_sent_half(colour):
    """An open file in a form that may be repeated is not sent a second time empty."""
    with Scripted(503) as server:
        slack = Slack(colour, server, Policy(retry=Retry(retries=1)), safe=("users.setPhoto",))
        with pytest.raises(SlackApiError):
            slack.call("users_setPhoto", image=io.BytesIO(b"\x89PNG"))
        assert all(b"\x89PNG" in body for body in server.bodies)


@both
def test_the_sdks_retries_are_refused(colour):
    """Retry handlers are refused, given or added later, with what to write instead; the SDK's defaults are left out."""
    handler: Any = RateLimitErrorRetryHandler() if colour == "sync" else AsyncRateLimitErrorRetryHandler()
    with Scripted(OK) as server:
        with pytest.raises(errors.ConfigurationError, match=r"RateLimitErrorRetryHandler.*Policy"):
            Slack(colour, server, retry_handlers=[handler])
        slack = Slack(colour, server)
        assert slack.client.retry_handlers == []
        slack.client.retry_handlers.append(handler)
        with pytest.raises(errors.ConfigurationError, match="multiply"):
            slack.read()


async def test_a_session_with_retries_is_refused():
    """A session that repeats by itself, or through us already, is refused; a plain one is used."""
    with Scripted(OK) as server:
        async with aiohttp.ClientSession(middlewares=(middleware(),)) as ours:
            client = AsyncWebClient(TOKEN, session=ours, guards=Guards())
            with pytest.raises(errors.ConfigurationError, match="middleware"):
                await client.auth_test()
        async with RetryClient(retry_options=ExponentialRetry(attempts=3)) as retrying:
            client = AsyncWebClient(TOKEN, session=retrying, guards=Guards())
            with pytest.raises(errors.ConfigurationError, match="multiply"):
                await client.auth_test()
        async with aiohttp.ClientSession() as plain:
            client = AsyncWebClient(TOKEN, base_url=server.url, session=plain, guards=Guards())
            assert (await client.auth_test())["ok"]


def test_a_proxy_is_used():
    """Where a proxy is set, requests go there."""
    with Scripted(OK) as proxy:
        client = WebClient(TOKEN, base_url="http://slack.example/api/", proxy=proxy.url, guards=Guards())
        client.auth_test()
        client.close()
        assert proxy.heads[0].startswith(b"POST http://slack.example/api/auth.test ")


def test_the_blocking_client_needs_no_aiohttp():
    """Who uses the blocking client loads no aiohttp."""
    code = "import sys, moorline.calls.adapters.slack; assert 'aiohttp' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_arguments_are_checked():
    """Each wrong argument is named."""
    for kind in (WebClient, AsyncWebClient):
        with pytest.raises(errors.ConfigurationError, match=rf"slack\.{kind.__name__}\.policy"):
            kind(TOKEN, policy=3)  # type: ignore[arg-type]
    wire = httpx2.MockTransport(lambda _request: httpx2.Response(200, json={"ok": True}))
    assert WebClient(TOKEN, wire=wire, guards=Guards()).auth_test()["ok"]
