from __future__ import annotations

import asyncio
import pickle
import time
from typing import Any

import httpx2
import pytest
from tests.calls import fault_server
from tests.calls.fault_server import FaultServer
from tests.calls.ledger import Script, both
from twilio.base.exceptions import TwilioException, TwilioRestException
from twilio.rest import Client as Twilio

from moorline import errors
from moorline.calls.adapters.twilio import AsyncClient, Client
from moorline.calls.guards import Guards
from moorline.policies.breaker import Breaker
from moorline.policies.policy import Policy
from moorline.policies.retry import Retry

SID, TOKEN = "AC00000000000000000000000000000000", "canary0123456789abcdef"
SENT: Any = (201, {}, b'{"sid": "SM1", "status": "queued"}')
BUSY: Any = (429, {}, b'{"code": 20429, "message": "Too Many Requests", "status": 429}')


def sdk(colour: str, script: Script | None = None, policy: Policy | None = None, **options: Any) -> Twilio:
    """The real SDK on our client, whose wire is scripted unless it shall be a real one."""
    kind = Client if colour == "sync" else AsyncClient
    if script is not None:
        options = {"guards": Guards(script.clock), "wire": httpx2.MockTransport(script), **options}
    return Twilio(SID, TOKEN, http_client=kind(policy, **options))


def send(colour: str, client: Twilio) -> Any:
    said = {"to": "+15558675310", "from_": "+15017122661", "body": "Hi ü"}
    if colour == "sync":
        return client.messages.create(**said)
    return asyncio.run(client.messages.create_async(**said))


def read(colour: str, client: Twilio) -> Any:
    if colour == "sync":
        return client.messages("SM1").fetch()
    return asyncio.run(client.messages("SM1").fetch_async())


def ask(colour: str, client: Twilio, url: str) -> Any:
    if colour == "sync":
        return client.request("GET", url)
    return asyncio.run(client.request_async("GET", url))


@both
def test_a_message_goes_out_as_the_sdk_would_send_it(colour):
    """The request has the SDK's address, form, credentials and headers."""
    script = Script(SENT)
    assert send(colour, sdk(colour, script)).sid == "SM1"
    request = script.requests[0]
    assert request.url == f"https://api.twilio.com/2010-04-01/Accounts/{SID}/Messages.json"
    assert request.content == b"To=%2B15558675310&From=%2B15017122661&Body=Hi+%C3%BC"
    assert request.headers["authorization"] == httpx2.BasicAuth(SID, TOKEN)._auth_header
    assert request.headers["content-type"] == "application/x-www-form-urlencoded"
    assert request.headers["user-agent"].startswith("twilio-python/")


def test_queries_and_json_go_out_as_the_sdk_would_send_them():
    """Parameters are put into the address, one pair for each value; JSON bodies stay JSON."""
    script = Script((200, {}, b"{}"))
    client = sdk("sync", script)
    client.request("GET", "https://api.twilio.com/x?a=1", params={"b": ["2", "3"], "c": None})
    assert script.requests[0].url.query == b"a=1&b=2&b=3"
    client.request("POST", "https://api.twilio.com/x", data={"a": [1]}, headers={"Content-Type": "application/json"})
    assert script.requests[1].content == b'{"a": [1]}'


@both
def test_a_read_is_repeated(colour):
    """A GET that meets 503s is asked again."""
    script = Script(503, 500, (200, {}, b'{"sid": "SM1"}'))
    assert read(colour, sdk(colour, script)).sid == "SM1"
    assert len(script.requests) == 3


@both
@pytest.mark.parametrize("first", [503, 500, httpx2.ReadTimeout("slow")])
def test_a_message_is_never_sent_twice(colour, first):
    """A POST that may have acted is sent once: with a failure it is raised, without an answer its outcome is
    unknown.
    """
    script = Script(first)
    with pytest.raises(TwilioException) as caught:
        send(colour, sdk(colour, script))
    assert len(script.requests) == 1
    if isinstance(first, int):
        assert isinstance(caught.value, errors.ServiceUnavailable)
        assert isinstance(caught.value, TwilioRestException)
        assert caught.value.status == first
    else:
        assert isinstance(caught.value, errors.OutcomeUnknown)


@both
@pytest.mark.parametrize("first", [BUSY, httpx2.ConnectError("refused")])
def test_what_was_not_taken_is_sent_again(colour, first):
    """A POST that was refused with 429, or never left, is repeated."""
    script = Script(first, SENT)
    assert send(colour, sdk(colour, script)).sid == "SM1"
    assert len(script.requests) == 2


@both
def test_a_limit_that_lasts_is_both_libraries_error(colour):
    """A 429 given up is RateLimited and TwilioRestException, with Twilio's code, and survives a pickle."""
    script = Script(BUSY)
    with pytest.raises(TwilioRestException) as caught:
        send(colour, sdk(colour, script, Policy(retry=Retry(retries=1))))
    error: Any = caught.value
    assert isinstance(error, errors.RateLimited)
    facts: Any = (error.status, error.code, len(error.attempts))
    assert facts == (429, 20429, 2)
    assert TOKEN not in repr(error) + str(error)
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.code) == (type(error), str(error), 20429)


@both
def test_callers_faults_are_the_sdks_own(colour):
    """A wrong number is Twilio's own error, sent once, and no failure of the service."""
    script = Script((400, {}, b'{"code": 21211, "message": "bad To"}'))
    client = sdk(colour, script, Policy(breaker=Breaker(failures=1)))
    for _ in range(2):
        with pytest.raises(TwilioRestException) as caught:
            send(colour, client)
        assert (caught.value.code, isinstance(caught.value, errors.CallError)) == (21211, False)


@both
def test_an_open_breaker_is_a_twilio_exception(colour):
    """After failures in a row the call is refused at once; clients of the same name share that, others do not."""
    script = Script(500)
    guards, policy = Guards(script.clock), Policy(retry=None, breaker=Breaker(failures=1))
    with pytest.raises(TwilioRestException):
        read(colour, sdk(colour, script, policy, guards=guards))
    with pytest.raises(TwilioException) as caught:
        read(colour, sdk(colour, script, policy, guards=guards))
    assert isinstance(caught.value, errors.CircuitOpen)
    assert caught.value.outcome == "not_sent"
    assert len(script.requests) == 1
    with pytest.raises(errors.ServiceUnavailable):
        read(colour, sdk(colour, script, policy, guards=guards, name="elsewhere"))


@both
@pytest.mark.parametrize("behaviour", [fault_server.drip, fault_server.silent])
def test_the_deadline_holds(colour, behaviour):
    """However slow the server, the call is back by its deadline, the body included."""
    with FaultServer(behaviour) as server:
        client = sdk(colour, None, Policy(deadline=0.3), guards=Guards())
        begun = time.monotonic()
        with pytest.raises(errors.DeadlineExceeded) as caught:
            ask(colour, client, server.url)
        assert time.monotonic() - begun < 0.6
        assert isinstance(caught.value, TwilioException)
        if colour == "sync":
            client.http_client.close()


@both
def test_the_clients_own_timeout_holds(colour):
    """A timeout that the SDK's user sets bounds the attempt, where the policy would allow more."""
    with FaultServer(fault_server.silent) as server:
        client = sdk(colour, None, Policy(retry=None), timeout=0.2, guards=Guards())
        with pytest.raises(errors.AttemptTimeout):
            ask(colour, client, server.url)
        if colour == "sync":
            client.http_client.close()


def test_arguments_are_checked():
    """Each wrong argument is named, and redirects with credentials are refused."""
    with pytest.raises(errors.ConfigurationError, match=r"twilio\.Client\.policy"):
        Client(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="0"):
        Client(timeout=0)
    client = sdk("sync", Script(200))
    with pytest.raises(errors.ConfigurationError, match="allow_redirects"):
        client.request("GET", "https://api.twilio.com", allow_redirects=True)
    with pytest.raises(ValueError, match="-1"):
        client.request("GET", "https://api.twilio.com", timeout=-1)
