from __future__ import annotations

import asyncio
import gc
import logging
import pickle
import time
import traceback
import warnings
from typing import Any

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.calls import fault_server
from tests.calls.fault_server import FaultServer
from tests.calls.ledger import CANARY, Ledger, Mail, Script, both, request, run

from moorline import errors
from moorline.calls import clients
from moorline.calls.call import Call
from moorline.calls.guards import Guards
from moorline.policies.breaker import Breaker
from moorline.policies.bulkhead import Bulkhead
from moorline.policies.policy import Policy
from moorline.policies.retry import Retry


@both
def test_retries_until_it_works(colour):
    """A keyed write is repeated after 503s, with the same key each time, after growing waits."""
    script = Script(503, 503, 200)
    assert run(colour, script.service(retry=Retry(jitter="none")).book(5)) == {"id": "b_1"}
    assert script.times == pytest.approx([0, 1, 3], abs=1e-5)
    assert len({request.headers["idempotency-key"] for request in script.requests}) == 1


@both
def test_an_unkeyed_write_is_not_repeated(colour):
    """A POST without a key is sent once when it fails with 500 or without an answer, and says so."""
    script = Script(500)
    with pytest.raises(errors.ServiceUnavailable) as caught:
        run(colour, script.service(Mail).book(5))
    assert (len(script.requests), caught.value.retryable) == (1, False)
    script = Script(httpx2.ReadTimeout("slow"))
    with pytest.raises(errors.OutcomeUnknown) as lost:
        run(colour, script.service(Mail).book(5))
    assert (len(script.requests), lost.value.outcome) == (1, "unknown")


@both
@pytest.mark.parametrize("first", [429, httpx2.ConnectError("refused"), (503, {"retry-after": "1"}, b"")])
def test_what_was_not_processed_is_repeated(colour, first):
    """Even an unkeyed POST is repeated after a 429, a refused connection, or a 503 that names a time."""
    script = Script(first, 200)
    run(colour, script.service(Mail).book(5))
    assert len(script.requests) == 2


@both
@pytest.mark.parametrize("kind", ["json", "form"])
def test_the_body_is_frozen(colour, kind):
    """A Call that is sent again sends what it sent before under the same key, whatever became of its arguments."""
    script = Script(200)
    order: dict[str, Any] = {"amount": "5"}
    body: dict[str, Any] = {kind: order}
    call = script.service().request("POST", "/bookings", **body)
    run(colour, call)
    order["amount"] = "500"
    run(colour, call.using(timeout=9.0))
    first, second = script.requests
    assert (second.content, second.headers["idempotency-key"]) == (first.content, first.headers["idempotency-key"])


@both
def test_a_keyed_write_without_answer_is_unknown(colour):
    """When all attempts of a keyed write time out, the outcome is unknown, and the key is in the error."""
    script = Script(httpx2.ReadTimeout("slow"))
    with pytest.raises(errors.OutcomeUnknown) as caught:
        run(colour, script.service(retry=Retry(retries=1), breaker=None).book(5))
    assert caught.value.idempotency_key == script.requests[0].headers["idempotency-key"]
    assert (len(caught.value.attempts), caught.value.retryable) == (2, True)


@both
@pytest.mark.parametrize("header", [{"retry-after": "7"}, {"retry-after-ms": "7000"}, {"x-left": "0", "x-reset": "7"}])
def test_asked_waits_are_kept(colour, header):
    """The next attempt comes no earlier than the service asked for, in whichever way."""
    script = Script((429, header, b""), 200)
    run(colour, script.service().read("1"))
    assert script.times[1] >= 7 - 1e-6


@both
def test_a_long_wait_gives_up_at_once(colour):
    """A wait beyond the deadline ends the call at once with the time in the error, and the gate keeps later calls back."""
    script = Script((429, {"retry-after": "3600"}, b""))
    service = script.service()
    with pytest.raises(errors.RateLimited) as caught:
        run(colour, service.read("1"))
    assert caught.value.retry_at == pytest.approx(script.clock.wall() + 3600)
    with pytest.raises(errors.RateLimited) as caught:
        run(colour, service.read("1"))
    assert (caught.value.outcome, len(script.requests)) == ("not_sent", 1)


@both
def test_limits_and_callers_faults_leave_the_breaker_closed(colour):
    """Neither 429s nor 404s count against a service."""
    for status in (429, 404, 402):
        script = Script(status)
        service = script.service(retry=None, breaker=Breaker(failures=2))
        for _ in range(5):
            with pytest.raises((errors.LimitFault, errors.CallerFault)):
                run(colour, service.read("1"))
        assert len(script.requests) == 5


@both
def test_the_breaker_answers_at_once_and_recovers(colour):
    """After five failures calls are refused without being sent; 30 s later one probe closes it."""
    script = Script(*[500] * 5, 200)
    service = script.service(retry=None)
    for _ in range(5):
        with pytest.raises(errors.ServiceUnavailable):
            run(colour, service.read("1"))
    with pytest.raises(errors.CircuitOpen) as caught:
        run(colour, service.read("1"))
    assert caught.value.retry_at == pytest.approx(script.clock.wall() + 30)
    script.clock.advance(31)
    assert run(colour, service.read("1")) == "b_1"


@both
def test_should_retry_is_obeyed(colour):
    """A service that says "false" is not asked again."""
    script = Script((503, {"x-should-retry": "false"}, b""))
    with pytest.raises(errors.ServiceUnavailable):
        run(colour, script.service().read("1"))
    assert len(script.requests) == 1


@both
@pytest.mark.parametrize("body", [b'{"id": ', b"<html>", b"", b"\xff\xfe", b"[" * 200_000])
def test_bad_json(colour, body):
    """Malformed, truncated or missing JSON is a BadAnswer, after retries."""
    script = Script((200, {}, body))
    with pytest.raises(errors.BadAnswer):
        run(colour, script.service(retry=Retry(retries=1)).read("1"))
    assert len(script.requests) == 2


@both
def test_paging(colour):
    """A listing follows the links, and refuses a page that names itself."""
    script = Script((200, {"link": '<https://ledger.example/bookings?p=2>; rel="next"'}, b"[1,2]"), (200, {}, b"[3]"))
    pages = script.service().all()

    async def collect():
        return [item async for item in pages]

    assert (list(pages) if colour == "sync" else asyncio.run(collect())) == [1, 2, 3]
    looping = Script((200, {"link": '<https://ledger.example/bookings?p=2>; rel="next"'}, b"[1]"))
    with pytest.raises(errors.BadAnswer):
        list(looping.service().all())


def test_paging_by_the_body():
    """A listing whose cursor is in the body follows it, and refuses a page that names itself."""
    script = Script((200, {}, b'{"items":[1],"after":"2"}'), (200, {}, b'{"items":[2]}'))
    assert list(script.service().found()) == [1, 2]
    assert [one.content for one in script.requests] == [b'{"after":null}', b'{"after":"2"}']
    with pytest.raises(errors.BadAnswer, match="itself"):
        list(Script((200, {}, b'{"items":[1],"after":"2"}')).service().found())


@both
def test_redirects_keep_credentials_at_home(colour):
    """A redirect of a GET is followed; another origin gets no credentials, and plain http is refused."""
    script = Script((302, {"location": "https://other.example/x"}, b""), 200)
    run(colour, script.service().read("1"))
    assert "authorization" in script.requests[0].headers
    assert "authorization" not in script.requests[1].headers
    script = Script((302, {"location": "http://ledger.example/x"}, b""))
    with pytest.raises(errors.BadAnswer):
        run(colour, script.service().read("1"))
    assert len(script.requests) == 1


@both
def test_fallback(colour):
    """A fallback stands in for a failing service, not for a wrong caller."""
    assert run(colour, Script(500).service(retry=None).read("1").or_else("cached")) == "cached"
    assert run(colour, Script(500).service(retry=None).read("1").or_else(lambda error: error.status)) == 500
    with pytest.raises(errors.NotFound):
        run(colour, Script(404).service().read("1").or_else("cached"))


async def test_result_in_a_loop_is_misuse():
    """Blocking inside a running loop is refused with the way out."""
    with pytest.raises(errors.Misuse, match="await"):
        Script(200).service().read("1").result()


def test_a_call_survives_a_queue():
    """Key, options and arguments come back from the payload; past the key's window it is not sent a second time."""
    script = Script(200)
    service = script.service()
    call = service.book(5, note="x").using(timeout=3, retry=Retry(retries=2))
    payload = call.to_payload()
    again = Call.from_payload(payload, lambda _name: service, attempt=2)
    assert (again.idempotency_key, again.options) == (call.idempotency_key, call.options)
    again.result()
    assert script.requests[0].content == b"amount=5&note=x"
    script.clock.advance(86_401)
    with pytest.raises(errors.OutcomeUnknown):
        Call.from_payload(payload, lambda _name: service, attempt=2).result()
    assert len(script.requests) == 1


def test_enqueue_needs_an_application():
    """A service of no application cannot enqueue, and says what to do."""
    with pytest.raises(errors.Misuse, match=r"app\.service"):
        Script(200).service().book(5).enqueue()


def test_errors_hold_no_secret(caplog):
    """No key leaves through the error, its pickle, its traceback or a log line, even when the service echoes it."""
    caplog.set_level(logging.DEBUG)
    script = Script((400, {}, b'{"error":{"code":"bad","message":"key ' + CANARY.encode() + b'\\nis bad"}}'))
    with pytest.raises(errors.InvalidRequest) as caught:
        script.service().book(5).result()
    error = caught.value
    copy = pickle.loads(pickle.dumps(error))
    shown = str(error) + repr(vars(copy)) + "".join(traceback.format_exception(error)) + caplog.text
    assert "canary" not in shown
    assert "\n" not in str(error)
    assert (copy.code, copy.status) == ("bad", 400)


@settings(max_examples=150, deadline=None)
@given(
    st.integers(100, 999),
    st.binary(max_size=60) | st.sampled_from([b"{}", b"[]", b'{"error": 1}', b'{"error":{"code":{}}}']),
)
def test_any_answer_gives_an_answer_or_a_call_error(status, body):
    """Whatever comes back, the caller sees a result or a CallError."""
    service = Script((status, {}, body)).service(retry=None)
    for call in (service.book(1), service.read("1")):
        try:
            call.result()
        except errors.CallError as error:
            assert "\n" not in str(error)  # noqa: PT017 (either end is fine)


@pytest.fixture(autouse=True, scope="module")
def certificates():
    """The system's certificates are loaded once a process, and not in the measured time."""
    clients.tls()


class TestFaultServers:
    """Real time, short deadlines."""

    @both
    @pytest.mark.parametrize("behaviour", [fault_server.drip, fault_server.silent, fault_server.stalled_body])
    @pytest.mark.parametrize("method", ["GET", "POST"])
    def test_the_deadline_includes_the_body(self, colour, behaviour, method):
        """With a deadline of 0.3 s the call is over by 0.4 s, whatever the peer does; a POST is unknown."""
        with FaultServer(behaviour) as server:
            policy = Policy(deadline=0.3, retry=None)
            begun = time.monotonic()
            with pytest.raises(errors.DeadlineExceeded) as caught:
                request(colour, policy, method, server.url)
            assert time.monotonic() - begun < 0.55  # 0.4 and what a shared machine adds
            assert isinstance(caught.value, httpx2.TimeoutException)
            assert isinstance(caught.value, errors.OutcomeUnknown) == (method == "POST")
            assert pickle.loads(pickle.dumps(caught.value)).message == caught.value.message

    @both
    def test_a_stalled_upload(self, colour):
        """A peer that stops reading cannot hold an upload beyond the deadline."""
        with FaultServer(fault_server.silent) as server:
            begun = time.monotonic()
            with pytest.raises(errors.DeadlineOutcomeUnknown):
                request(colour, Policy(deadline=0.3), "POST", server.url, content=b"x" * 30_000_000)
            assert time.monotonic() - begun < 0.8

    @both
    def test_services_are_bounded_too(self, colour):
        """A service's call is over at its deadline, and a broken transfer is a BadAnswer."""
        with FaultServer(fault_server.drip) as server:
            service = Ledger("k", base_url=server.url, guards=Guards(), policy=Policy(deadline=0.3))
            with pytest.raises(errors.DeadlineExceeded):
                run(colour, service.read("1"))
            service.close()
        with FaultServer(fault_server.truncated) as server:
            service = Ledger("k", base_url=server.url, guards=Guards(), policy=Policy(retry=None))
            with pytest.raises(errors.BadAnswer):
                run(colour, service.read("1"))
            service.close()
        with FaultServer(fault_server.hang_up) as server:
            service = Ledger("k", base_url=server.url, guards=Guards(), policy=Policy(retry=None))
            with pytest.raises(errors.OutcomeUnknown):
                run(colour, service.book(1))
            service.close()

    def test_clients_close_with_their_loop(self):
        """A loop that ends leaves no open connection behind."""

        async def answer(_head, _reader, writer):
            writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{"id":"1"}')

        with FaultServer(answer) as server, warnings.catch_warnings():
            warnings.simplefilter("error")
            service = Ledger("k", base_url=server.url, guards=Guards())
            for _ in range(2):
                assert run("async", service.read("1")) == "1"
            assert service._wires._pools._pools == {}
            assert service.read("1").result() == "1"
            service.close()
            gc.collect()

    async def test_cancellation_leaves_nothing_behind(self):
        """Calls cancelled at any point leave no bulkhead slot, permit or task."""
        guards = Guards()
        policy = Policy(bulkhead=Bulkhead(5, queue=100), retry=None)
        with FaultServer(fault_server.silent) as server:
            service = Ledger("k", base_url=server.url, guards=guards, policy=policy)
            tasks = [asyncio.ensure_future(service.read("1")._answered_async()) for _ in range(50)]
            await asyncio.sleep(0.1)
            for task in tasks:
                task.cancel()
            assert all(
                isinstance(end, asyncio.CancelledError) for end in await asyncio.gather(*tasks, return_exceptions=True)
            )
            guard = guards.guard(service._guard_name(server.url), policy)
            assert guard.bulkhead
            assert guard.breaker
            assert (guard.bulkhead.busy, guard.bulkhead.waiting, guard.breaker.state) == (0, 0, "closed")
            assert len(asyncio.all_tasks()) == 1
            assert (await service._wires._pools.for_loop())._pool._requests == []
            await service.aclose()
