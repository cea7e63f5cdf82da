from __future__ import annotations

import asyncio
import io
import pickle
import socket
import time
from typing import Any

import pytest
import requests
import urllib3
from tests.calls import fault_server
from tests.calls.adapters.faulty import HANG_UP, Faulty
from tests.calls.fault_server import FaultServer

from moorline import errors
from moorline.calls.adapters.functions import resilient
from moorline.calls.adapters.requests import Adapter
from moorline.calls.guards import Guards
from moorline.policies.breaker import Breaker
from moorline.policies.bulkhead import Bulkhead
from moorline.policies.policy import Policy
from moorline.policies.retry import Retry


def session(policy: Policy | None = None, **options: Any) -> requests.Session:
    made = requests.Session()
    made.trust_env = False
    made.mount("http://", Adapter(policy, **options))
    return made


def test_responses_are_requests_own():
    """A success is requests' response as ever, and its connection is used again."""
    with Faulty((200, {"X-A": "1"}, b'{"a": 1}')) as server, session(guards=server.guards) as client:
        for _ in range(2):
            response = client.get(server.url)
            assert (response.status_code, response.headers["x-a"], response.json()) == (200, "1", {"a": 1})
        adapter = client.get_adapter(server.url)
        assert isinstance(adapter, Adapter)
        pool: Any = adapter.get_connection_with_tls_context(response.request, True)
        assert (pool.num_connections, pool.num_requests) == (1, 2)


def test_a_read_is_repeated_and_a_status_that_lasts_is_a_response():
    """A GET is asked again after a 503 and a cut connection; a 503 that lasts is a response."""
    with Faulty(503, HANG_UP, 200) as server, session(guards=server.guards) as client:
        assert client.get(server.url).status_code == 200
        assert len(server.heads) == 3
    with Faulty(503) as server, session(Policy(retry=Retry(retries=1)), guards=server.guards) as client:
        assert client.get(server.url).status_code == 503
        assert len(server.heads) == 2


@pytest.mark.parametrize("first", [503, HANG_UP])
def test_a_post_is_repeated_only_with_a_key(first):
    """A POST that may have acted is sent once; with an idempotency key it is sent again with the same body."""
    with Faulty(first, 200) as server, session(guards=server.guards) as client:
        if first == 503:
            assert client.post(server.url, data=b"abc").status_code == 503
        else:
            with pytest.raises(requests.ConnectionError) as caught:
                client.post(server.url, data=b"abc")
            assert isinstance(caught.value, errors.OutcomeUnknown)
        assert len(server.heads) == 1
    with Faulty(first, 200) as server, session(guards=server.guards) as client:
        assert client.post(server.url, data=b"abc", headers={"Idempotency-Key": "k"}).status_code == 200
        assert server.bodies == [b"abc", b"abc"]


def test_files_are_rewound_and_generators_are_not_sent_twice():
    """A file is sent whole again; a generator that was begun is not."""
    with Faulty(503, 200) as server, session(guards=server.guards) as client:
        assert client.put(server.url, data=io.BytesIO(b"file")).status_code == 200
        assert server.bodies == [b"file", b"file"]
    with Faulty(503, 200) as server, session(guards=server.guards) as client:
        assert client.put(server.url, data=iter([b"part"])).status_code == 503
        assert len(server.bodies) == 1


def test_a_limit_is_waited_for_or_given_up():
    """A 429 is asked again no earlier than it says; one beyond the deadline is both libraries' error at once."""
    busy = (429, {"Retry-After": "7"}, b"")
    with Faulty(busy, 200) as server, session(guards=server.guards) as client:
        assert client.post(server.url).status_code == 200
        assert sum(server.clock.slept) >= 7 - 1e-6
    late = (429, {"Retry-After": "3600"}, b"busy")
    with Faulty(late) as server, session(guards=server.guards) as client:
        with pytest.raises(requests.HTTPError) as caught:
            client.get(server.url)
        error: Any = caught.value
        assert isinstance(caught.value, errors.RateLimited)
        assert (error.response.status_code, error.response.text, error.request.method) == (429, "busy", "GET")
        assert error.retry_at == pytest.approx(server.clock.wall() + 3600)
        with pytest.raises(errors.RateLimited) as refused:
            client.get(server.url)
        assert isinstance(refused.value, requests.RequestException)
        assert (refused.value.outcome, len(server.heads)) == ("not_sent", 1)
    with Faulty(late) as server, session(guards=server.guards, statuses=True) as client:
        assert client.get(server.url).status_code == 429


def test_the_breaker_opens_and_is_shared_by_name():
    """Failures through one session refuse another session's and a function's calls of that name, and only those."""
    policy = Policy(retry=None, breaker=Breaker(failures=2))
    with Faulty(503) as server, session(policy, name="acme", guards=server.guards) as client:
        for _ in range(2):
            client.get(server.url)
        other = session(policy, name="acme", guards=server.guards)
        with pytest.raises(requests.ConnectionError) as caught:
            other.get(server.url)
        assert isinstance(caught.value, errors.CircuitOpen)
        assert len(server.heads) == 2
        with pytest.raises(errors.CircuitOpen):
            resilient("acme", policy, guards=server.guards).call(len, "")
        nameless = session(policy, guards=server.guards)
        assert nameless.get(server.url).status_code == 503


def test_without_a_name_each_host_has_its_own_breaker():
    """One dead host does not close the others of a session."""
    policy = Policy(retry=None, breaker=Breaker(failures=1))
    with Faulty(503) as dead, Faulty(200) as fine, session(policy) as client:
        client.get(dead.url)
        with pytest.raises(errors.CircuitOpen):
            client.get(dead.url)
        assert client.get(fine.url).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_the_deadline_holds_for_a_dripping_body(stream):
    """A body that drips ends at the deadline, for who reads it at once and for who streams it."""
    begun = time.monotonic()
    with FaultServer(fault_server.drip) as server, session(Policy(deadline=0.5)) as client:
        with pytest.raises(requests.Timeout) as caught:
            for _part in client.get(server.url, stream=stream).iter_content(1):
                pass
        assert isinstance(caught.value, errors.DeadlineExceeded)
        assert 0.4 < time.monotonic() - begun < 0.6
        assert "deadline of 0.5 s" in str(caught.value)


async def dripping_head(_head, _reader, writer):
    for letter in b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 10_000:
        writer.write(bytes([letter]))
        await writer.drain()
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("behaviour", [fault_server.silent, dripping_head])
def test_the_deadline_holds_before_there_is_an_answer(behaviour):
    """A server that says nothing, or drips its head, is left at the deadline; a timeout of requests' own is finer."""
    with FaultServer(behaviour) as server, session(Policy(deadline=0.4, retry=None)) as client:
        begun = time.monotonic()
        with pytest.raises(requests.ReadTimeout) as caught:
            client.get(server.url, timeout=30)
        assert isinstance(caught.value, errors.DeadlineExceeded)
        assert 0.3 < time.monotonic() - begun < 0.5
        with pytest.raises(requests.ReadTimeout) as unknown:
            client.post(server.url)
        assert isinstance(unknown.value, errors.OutcomeUnknown)


def test_requests_own_timeout_still_holds():
    """The session's user may allow less than the policy: that is an attempt's failure."""
    with FaultServer(fault_server.silent) as server, session(Policy(retry=None)) as client:
        begun = time.monotonic()
        with pytest.raises(requests.ReadTimeout) as caught:
            client.get(server.url, timeout=(5, 0.1))
        assert isinstance(caught.value, errors.AttemptTimeout)
        assert time.monotonic() - begun < 1


def test_a_stalled_upload_ends_at_the_deadline():
    """A server that does not read a large body is left at the deadline, and the outcome is unknown."""
    with FaultServer(fault_server.silent) as server, session(Policy(deadline=0.4)) as client:
        begun = time.monotonic()
        with pytest.raises(requests.Timeout) as caught:
            client.post(server.url, data=b"x" * 50_000_000)
        assert isinstance(caught.value, errors.OutcomeUnknown)
        assert time.monotonic() - begun < 0.6


def test_a_handshake_that_stalls_was_never_sent():
    """A server that does not speak TLS is left at the deadline, and nothing was sent."""
    with FaultServer(fault_server.silent) as server, session() as client:
        client.mount("https://", Adapter(Policy(deadline=0.3, retry=None)))
        client.verify = False
        begun = time.monotonic()
        with pytest.raises(requests.Timeout) as caught:
            client.post(server.url.replace("http:", "https:"))
        assert isinstance(caught.value, errors.DeadlineExceeded)
        assert (caught.value.outcome, time.monotonic() - begun < 0.6) == ("not_sent", True)


def test_a_full_pool_ends_at_the_deadline():
    """A wait for one of the session's own connections is inside the deadline, and nothing was sent."""
    with FaultServer(fault_server.stalled_body) as server:
        client = session(Policy(deadline=0.3, retry=None), pool_maxsize=1, pool_block=True)
        held = client.get(server.url, stream=True)
        with pytest.raises(requests.Timeout) as caught:
            client.get(server.url)
        assert isinstance(caught.value, errors.DeadlineExceeded)
        assert caught.value.outcome == "not_sent"
        held.close()
        client.close()


def test_a_refused_connection_was_never_sent():
    """Nobody listens: the error is ours and requests', and says that nothing left, even for a POST."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with session(Policy(retry=None)) as client, pytest.raises(requests.ConnectionError) as caught:
        client.post(f"http://127.0.0.1:{port}/")
    assert isinstance(caught.value, errors.ConnectFailed)
    assert caught.value.outcome == "not_sent"


def test_what_is_wrong_with_the_request_is_raised_as_it_is():
    """An address that requests refuses is requests' own error, and no failure of a service."""
    with session() as client, pytest.raises(requests.exceptions.InvalidURL):
        client.get("http://")


def test_no_credential_of_an_address_is_shown():
    """User, password and token of an address are in no name, message or line of the error."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with session(Policy(retry=None)) as client, pytest.raises(errors.ConnectFailed) as caught:
        client.get(f"http://user:canary1@127.0.0.1:{port}/?api_key=canary2")
    assert caught.value.service == f"127.0.0.1:{port}"
    assert "canary" not in str(caught.value)


def test_a_truncated_body_is_a_failure_of_the_service():
    """A body that ends too early is both libraries' error, and opens the breaker."""
    with FaultServer(fault_server.truncated) as server, session(Policy(breaker=Breaker(failures=1))) as client:
        with pytest.raises(requests.exceptions.ChunkedEncodingError) as caught:
            client.get(server.url)
        assert isinstance(caught.value, errors.BadAnswer)
        with pytest.raises(errors.CircuitOpen):
            client.get(server.url)


@pytest.mark.parametrize("end", ["read", "close", "drop"])
def test_a_streamed_body_holds_its_slot_until_it_ends(end):
    """The bulkhead counts a response until its body is read, closed or forgotten."""
    guards, policy = Guards(), Policy(bulkhead=Bulkhead(1))
    bulkhead = guards.guard("acme", policy).bulkhead
    assert bulkhead
    with Faulty((200, {}, b"body" * 50_000)) as server, session(policy, name="acme", guards=guards) as client:
        response = client.get(server.url, stream=True)
        assert bulkhead.busy == 1
        with pytest.raises(errors.BulkheadFull):
            client.get(server.url)
        if end == "read":
            assert len(response.content) == 200_000
        elif end == "close":
            response.close()
        else:
            response.raw.close()
            del response
        assert bulkhead.busy == 0
        assert client.get(server.url).status_code == 200


def test_redirects_are_the_sessions():
    """The session follows a redirect, each hop through the pipeline."""
    with Faulty(200) as target, Faulty((302, {"Location": target.url + "/there"}, b"")) as server:
        with session() as client:
            response = client.get(server.url)
        assert (response.status_code, len(response.history)) == (200, 1)


def test_double_retries_are_refused():
    """Retries of the adapter's own are refused where they are given, and when they are set later."""
    with pytest.raises(errors.ConfigurationError, match="max_retries"):
        Adapter(max_retries=3)
    adapter = Adapter(guards=Guards())
    adapter.max_retries = urllib3.Retry(2)
    client = requests.Session()
    client.mount("http://", adapter)
    with pytest.raises(errors.ConfigurationError, match="max_retries"):
        client.get("http://127.0.0.1:9/")


@pytest.mark.parametrize(("argument", "value"), [("policy", 5), ("name", ""), ("guards", {})])
def test_wrong_arguments_are_named(argument, value):
    """A wrong argument is refused by name."""
    with pytest.raises(errors.ConfigurationError, match=argument):
        Adapter(**{argument: value})


def test_sessions_and_errors_pickle():
    """A pickled session keeps its policy and name; a pickled error leaves the request, and its key, behind."""
    client = session(Policy(deadline=3), name="acme")
    copy = pickle.loads(pickle.dumps(client))
    adapter = copy.get_adapter("http://x")
    assert isinstance(adapter, Adapter)
    assert (adapter._policy.deadline, adapter._name) == (3, "acme")
    with (
        FaultServer(fault_server.silent) as server,
        session(Policy(deadline=0.1)) as client,
        pytest.raises(errors.DeadlineExceeded) as caught,
    ):
        client.get(server.url, headers={"Authorization": "Bearer canary"})
    pickled = pickle.dumps(caught.value)
    assert b"canary" not in pickled
    assert isinstance(pickle.loads(pickled), requests.ReadTimeout)
