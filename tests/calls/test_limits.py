from __future__ import annotations

import asyncio
import gzip
import threading
import time
from email.utils import formatdate
from typing import Any

import httpx2
import pytest
from tests.calls.ledger import Ledger, Mail, Script, both, request, run

from moorline import errors
from moorline.calls.guards import Guards
from moorline.calls.wiring import Wires
from moorline.policies.breaker import Breaker
from moorline.policies.bulkhead import Bulkhead
from moorline.policies.policy import Policy
from moorline.policies.rate import RateLimit
from moorline.policies.retry import Retry
from moorline.transport import AsyncTransport, Transport


@both
@pytest.mark.parametrize("status", [502, 504])
def test_a_gateways_error_leaves_a_write_unknown(colour, status):
    """A POST that a gateway answered may have been done: it is not repeated, and the error says so."""
    script = Script(status)
    with pytest.raises(errors.ServiceUnavailable) as caught:
        run(colour, script.service(Mail).book(1))
    assert (len(script.requests), caught.value.outcome, caught.value.retryable) == (1, "unknown", False)


@both
def test_a_date_in_retry_after(colour):
    """An HTTP-date in Retry-After is waited for, by the clock of the service's own guards."""
    script = Script(0, 200)
    date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(script.clock.wall() + 9))
    script.answers[0] = (503, {"retry-after": date}, b"")
    run(colour, script.service().read("1"))
    assert script.times[1] == pytest.approx(9, abs=1e-3)


@both
@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("said", ["retry-after", "x-reset"])
def test_a_service_whose_clock_is_behind(colour, status, said):
    """A date, or an epoch reset, of a service whose clock is 1.9 s behind is waited for by its clock, and no less."""
    script = Script(0, 200)
    theirs = script.clock.wall() - 1.9
    until = int(theirs + 10)
    headers = {"date": formatdate(int(theirs), usegmt=True)}
    headers |= {"x-left": "0", said: str(until)} if said == "x-reset" else {said: formatdate(until, usegmt=True)}
    script.answers[0] = (status, headers, b"")
    run(colour, script.service(retry=Retry(jitter="none")).read("1"))
    assert script.times[1] >= until - theirs


@both
@pytest.mark.parametrize(
    "headers",
    [{"x-left": "0", "x-reset": "7"}, {"ratelimit": '"a";r=0;t=7'}, {"retry-after": "soon", "x-left": "0"}],
)
def test_a_503_without_retry_after_may_have_acted(colour, headers):
    """A 503 that says only that the quota is spent does not repeat a write without a key; a read waits for the reset."""
    script = Script((503, headers, b""), 200)
    with pytest.raises(errors.ServiceUnavailable) as caught:
        run(colour, script.service(Mail).book(1))
    assert (len(script.requests), caught.value.retryable) == (1, False)
    script = Script((503, headers, b""), 200)
    run(colour, script.service(Mail).read("1"))
    assert len(script.requests) == 2
    assert script.times[1] >= (7 - 1e-6 if "retry-after" not in headers else 0)


@both
@pytest.mark.parametrize("named", [{"retry-after": "7"}, {"retry-after-ms": "7000"}])
def test_a_503_with_retry_after_turned_the_write_away(colour, named):
    """A 503 that names when to come back was not processed: a write without a key is repeated, no earlier than that."""
    script = Script((503, {**named, "x-left": "0", "x-reset": "3"}, b""), 200)
    run(colour, script.service(Mail).book(1))
    assert (len(script.requests), script.times[1] >= 7 - 1e-6) == (2, True)


@both
def test_a_long_back_off_does_not_outlive_the_deadline(colour):
    """A back-off that would pass the deadline ends the call at once, with the last error."""
    script = Script(500)
    policy = Policy(deadline=0.3, retry=Retry(base=60, jitter="none"))
    service = Ledger("k", wire=httpx2.MockTransport(script), policy=policy, guards=Guards())
    begun = time.monotonic()
    with pytest.raises(errors.ServiceUnavailable):
        run(colour, service.read("1"))
    assert (time.monotonic() - begun < 0.4, len(script.requests)) == (True, 1)


@both
def test_a_short_back_off_is_kept_within_the_deadline(colour):
    """A call that keeps failing is over by its deadline of 0.3 s, retries and waits included."""
    script = Script(500)
    policy = Policy(deadline=0.3, retry=Retry(retries=1000, base=0.05, factor=1, jitter="none"), breaker=None)
    service = Ledger("k", wire=httpx2.MockTransport(script), policy=policy, guards=Guards())
    begun = time.monotonic()
    with pytest.raises(errors.ServiceUnavailable):
        run(colour, service.read("1"))
    assert time.monotonic() - begun < 0.4
    assert len(script.requests) > 2


def opened(script: Script, **policy: Any) -> Ledger:
    """A service whose breaker was tripped by one failure, and may be probed now."""
    service = script.service(retry=None, breaker=Breaker(failures=1), **policy)
    breaker = service.guards.guard("ledger", service.policy).breaker
    assert breaker
    permit = breaker.admit()
    assert permit
    permit.failure()
    script.clock.advance(31)
    return service


async def test_a_thousand_calls_send_one_probe():
    """Of 1,000 concurrent calls to a half-open breaker one is sent; the others are refused at once."""
    script, answer = Script(200), asyncio.Event()
    service = opened(script)

    async def held(http_request):
        await answer.wait()
        return script(http_request)

    service._wires = Wires("ledger", httpx2.MockTransport(held), None)
    tasks = [asyncio.ensure_future(service.read("1")._answered_async()) for _ in range(1000)]
    refused, waiting = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED, timeout=10)
    while len(refused) < 999:
        refused, waiting = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED, timeout=0)
    assert all(isinstance(task.exception(), errors.CircuitOpen) for task in refused)
    answer.set()
    assert [await task for task in waiting] == ["b_1"]
    assert len(script.requests) == 1


def test_a_thousand_blocking_calls_send_one_probe():
    """The same from fifty threads."""
    script, answer = Script(200), threading.Event()
    service = opened(script)

    def held(http_request):
        assert answer.wait(10)
        return script(http_request)

    service._wires = Wires("ledger", httpx2.MockTransport(held), None)
    ends: list[str] = []

    def ask():
        for _ in range(20):
            try:
                ends.append(service.read("1").result())
            except errors.CircuitOpen:
                ends.append("refused")
                if len(ends) == 980:  # all but the probe's own thread are through
                    answer.set()

    threads = [threading.Thread(target=ask) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert (ends.count("b_1") >= 1, len(ends)) == (True, 1000)
    assert ends[:980] == ["refused"] * 980


async def test_a_cancelled_probe_frees_its_lease():
    """When the probe's task is cancelled the next call is the probe, and closes the breaker."""
    script, sent = Script(200), asyncio.Event()
    service = opened(script)
    mock = service._wires

    async def never(_request):
        sent.set()
        await asyncio.Event().wait()

    service._wires = Wires("ledger", httpx2.MockTransport(never), None)
    probe = asyncio.ensure_future(service.read("1")._answered_async())
    await asyncio.wait_for(sent.wait(), 10)
    with pytest.raises(errors.CircuitOpen):
        await service.read("1")
    probe.cancel()
    with pytest.raises(asyncio.CancelledError):
        await probe
    service._wires = mock
    assert await service.read("1") == "b_1"
    assert await service.read("1") == "b_1"


class Endless(httpx2.SyncByteStream, httpx2.AsyncByteStream):
    """A body without an end, which counts what was read of it."""

    def __init__(self, part: bytes = b"x" * 100) -> None:
        self.part, self.read, self.closed = part, 0, False

    def __iter__(self):
        while True:
            self.read += 1
            yield self.part

    async def __aiter__(self):
        while True:
            self.read += 1
            yield self.part

    def close(self):
        self.closed = True

    async def aclose(self):
        self.closed = True


def bounded(answer, **options: Any) -> Ledger:
    return Ledger("k", wire=httpx2.MockTransport(answer), guards=Guards(), max_body=1000, **options)


@both
def test_max_body(colour):
    """An answer above max_body is a BadAnswer that is not repeated, and is not read to its end."""
    stream = Endless()
    with pytest.raises(errors.BadAnswer, match="1000") as caught:
        run(colour, bounded(lambda _request: httpx2.Response(200, stream=stream)).read("1"))
    assert (stream.read, stream.closed, len(caught.value.attempts)) == (11, True, 1)


@both
def test_a_declared_length_above_max_body(colour):
    """An answer that announces too much is not read at all."""
    stream = Endless()
    answer = httpx2.Response(200, stream=stream, headers={"content-length": "1001"})
    with pytest.raises(errors.BadAnswer):
        run(colour, bounded(lambda _request: answer).read("1"))
    assert (stream.read, stream.closed) == (0, True)


class Once(Endless):
    """A body of one part, unread."""

    def __iter__(self):
        yield self.part

    async def __aiter__(self):
        yield self.part


def zipped(body: bytes):
    return lambda _request: httpx2.Response(
        200, stream=Once(gzip.compress(body)), headers={"content-encoding": "gzip", "content-type": "application/json"}
    )


@both
def test_gzip(colour):
    """A compressed answer is read; a broken one is a BadAnswer, and a small bomb stops at max_body."""
    assert run(colour, bounded(zipped(b'{"id":"1"}')).read("1")) == "1"
    broken = httpx2.Response(200, stream=Once(b"no gzip"), headers={"content-encoding": "gzip"})
    with pytest.raises(errors.BadAnswer, match="decoded"):
        run(colour, bounded(lambda _request: broken, policy=Policy(retry=None)).read("1"))
    with pytest.raises(errors.BadAnswer, match="larger than 1000"):
        run(colour, bounded(zipped(b"0" * 50_000_000)).read("1"))


def test_threads_share_a_bulkhead():
    """However many threads call, no more are in flight than the bulkhead allows, and all get their turn."""
    guard, flying, most = threading.Lock(), 0, 0
    full = threading.Barrier(3)

    def answer(_request):
        nonlocal flying, most
        with guard:
            flying += 1
            most = max(most, flying)
        full.wait(10)  # goes on only when three are in flight
        with guard:
            flying -= 1
        return httpx2.Response(200, json={"id": "1"})

    policy = Policy(bulkhead=Bulkhead(3, queue=12))
    guards = Guards()
    service = Ledger("k", wire=httpx2.MockTransport(answer), policy=policy, guards=guards)
    ends: list[str] = []
    threads = [threading.Thread(target=lambda: ends.append(service.read("1").result())) for _ in range(15)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    bulkhead = guards.guard("ledger", policy).bulkhead
    assert bulkhead
    assert (ends, most, bulkhead.busy, bulkhead.waiting) == (["1"] * 15, 3, 0, 0)


@both
def test_a_full_bulkhead_refuses(colour):
    """What finds bulkhead and queue full is refused at once, unsent, as our own limit and no failure of the service."""
    script = Script(200)
    service = script.service(bulkhead=Bulkhead(1), breaker=Breaker(failures=1))
    guard = service.guards.guard("ledger", service.policy)
    assert guard.bulkhead
    ticket = guard.bulkhead.enter()
    assert ticket
    with pytest.raises(errors.BulkheadFull) as caught:
        run(colour, service.read("1"))
    assert (caught.value.outcome, caught.value.fault, script.requests) == ("not_sent", "limit", [])
    ticket.leave()
    assert run(colour, service.read("1")) == "b_1"


@both
def test_a_full_queue_keeps_the_deadline(colour):
    """Who waits for a slot waits no longer than the deadline of 0.2 s, and leaves the queue."""
    policy = Policy(deadline=0.2, bulkhead=Bulkhead(1, queue=1))
    service = Ledger("k", wire=httpx2.MockTransport(Script(200)), policy=policy, guards=Guards())
    guard = service.guards.guard("ledger", policy)
    assert guard.bulkhead
    assert guard.bulkhead.enter()
    begun = time.monotonic()
    with pytest.raises(errors.DeadlineExceeded) as caught:
        run(colour, service.read("1"))
    assert time.monotonic() - begun < 0.35
    assert (caught.value.outcome, guard.bulkhead.waiting) == ("not_sent", 0)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Policy(rate=5), "Policy.rate"),  # type: ignore[arg-type]
        (lambda: Policy(bulkhead=5), "Policy.bulkhead"),  # type: ignore[arg-type]
        (lambda: Policy(deadline=float("nan")), "Policy.deadline"),
        (lambda: Retry(cap=-1), "Retry.cap"),
        (lambda: Retry(budget=-0.1), "Retry.budget"),
        (lambda: Breaker(probes=True), "Breaker.probes"),
        (lambda: RateLimit(1, per=0), "RateLimit.per"),
        (lambda: RateLimit(1, burst=0), "RateLimit.burst"),
        (lambda: Bulkhead(1.5), "Bulkhead.limit"),  # type: ignore[arg-type]
        (lambda: AsyncTransport(5), "AsyncTransport.policy"),  # type: ignore[arg-type]
        (lambda: AsyncTransport(name=""), "AsyncTransport.name"),
        (lambda: AsyncTransport(wire=httpx2.HTTPTransport()), "AsyncTransport.wire"),
        (lambda: AsyncTransport(guards="x"), "AsyncTransport.guards"),  # type: ignore[arg-type]
        (lambda: Transport(wire=object()), "Transport.wire"),
        (lambda: Ledger(5), "ledger.api_key"),  # type: ignore[arg-type]
        (lambda: Ledger(""), "ledger.api_key"),
        (lambda: Ledger("k", base_url="ftp://x"), "ledger.base_url"),
        (lambda: Ledger("k", region="mars"), "ledger.region"),
        (lambda: Ledger("k", policy=5), "ledger.policy"),  # type: ignore[arg-type]
        (lambda: Ledger("k", guards=5), "ledger.guards"),  # type: ignore[arg-type]
        (lambda: Ledger("k", wire=5), "ledger.wire"),  # type: ignore[arg-type]
        (lambda: Ledger("k", max_body=0), "ledger.max_body"),
    ],
)
def test_wrong_arguments_are_named(make, named):
    """A wrong argument gives an error that names it."""
    with pytest.raises(errors.ConfigurationError, match=named):
        make()


@both
def test_a_plain_gateway_error_is_an_answer(colour):
    """A plain client sees the 503 that its POST got, once, as without the transport."""
    script = Script(503)
    policy = Policy()
    wire: Any = httpx2.MockTransport(script)
    kind: Any = Transport if colour == "sync" else AsyncTransport
    assert request(colour, policy, "POST", "https://x.example", transport=kind(policy, wire=wire)).status_code == 503
    assert len(script.requests) == 1


# The rate gate in the pipeline ---------------------------------------------------------------------------------------


def spent(script: Script, remaining: int, seconds: float) -> tuple[int, dict[str, str], bytes]:
    """A good answer that says how much remains for so many seconds."""
    reset = str(int(script.clock.wall() + seconds))
    headers = {"x-ratelimit-limit": "100", "x-ratelimit-remaining": str(remaining), "x-ratelimit-reset": reset}
    return (200, headers, b'{"id": "b_1"}')


@both
def test_a_good_answer_slows_the_next_call_down(colour):
    """When an answer says that nothing remains for 20 s, the next call waits for them and is not refused by the service."""
    script = Script(0, 200)
    script.answers[0] = spent(script, 0, 20)
    service = script.service()
    assert [run(colour, service.read("1")) for _ in range(2)] == ["b_1", "b_1"]
    assert script.times == [0, pytest.approx(20)]


@both
def test_a_reset_beyond_the_deadline(colour):
    """What remains spent for longer than the deadline refuses the call at once, unsent, with the time and the reason."""
    script = Script(0, 200)
    script.answers[0] = spent(script, 0, 900)
    service = script.service()
    run(colour, service.read("1"))
    with pytest.raises(
        errors.RateLimited, match="the service allows 0 more calls in 900 s, beyond the deadline"
    ) as caught:
        run(colour, service.read("1"))
    assert (caught.value.outcome, len(script.requests)) == ("not_sent", 1)
    assert caught.value.retry_at == pytest.approx(script.clock.wall() + 900)


@both
def test_several_quotas_of_our_own(colour):
    """With 2 a second and 3 a minute, the third call comes after half a second and the fourth with the next minute's share."""
    script = Script(200)
    service = script.service(rate=(RateLimit(2), RateLimit(3, per=60.0)), deadline=None)
    for _ in range(4):
        run(colour, service.read("1"))
    assert script.times == pytest.approx([0, 0, 0.5, 20])


async def test_a_cancelled_call_leaves_the_gates_queue():
    """A call that is cancelled while it waits for the quota leaves the queue, and holds nothing of the quota."""
    policy = Policy(rate=RateLimit(1, per=1000.0), deadline=None)
    service = Ledger("k", wire=httpx2.MockTransport(Script(200)), policy=policy, guards=Guards())
    gate = service.guards.guard("ledger", policy).gate
    await service.read("1")
    waiting = [asyncio.ensure_future(service.read("1")._answered_async()) for _ in range(3)]
    for _ in range(20):  # turns of the loop, until all three have come to the gate
        await asyncio.sleep(0)
    before = gate.snapshot()
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert (before.waiting, before.why) == (3, "our own rate limit of 1 in 1000 s")
    assert (gate.waiting, gate.snapshot().in_flight) == (0, 0)
    assert gate.take(2000.0).wait == pytest.approx(1000, abs=5)
