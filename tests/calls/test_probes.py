"""Probes of services that answer late, or never, on a clock that moves with what the wire takes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import httpx2
import pytest
from tests.calls.ledger import Script, both, request, run

from moorline import errors
from moorline.calls.adapters.functions import Resilient
from moorline.calls.guards import Guards
from moorline.calls.shared_store import SharedStore
from moorline.clock import ManualClock
from moorline.policies.breaker import Breaker, BreakerState, Terms
from moorline.policies.policy import Policy
from moorline.transport import AsyncTransport, Transport

URL = "https://slow.example/"
OUTAGE = 5  # failures in a row, which open the breaker


class Late(Script):
    """Answers after ``takes`` seconds of its clock, and gives the body after ``reading`` more."""

    takes = 0.0
    reading = 0.0

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.clock.advance(self.takes)
        response = super().__call__(request)
        return httpx2.Response(200, stream=Body(self)) if self.reading else response

    def transport(self, colour: str, policy: Policy, guards: Guards) -> Transport | AsyncTransport:
        kind = Transport if colour == "sync" else AsyncTransport
        return kind(policy, name="slow", wire=httpx2.MockTransport(self), guards=guards)


class Body(httpx2.SyncByteStream, httpx2.AsyncByteStream):
    def __init__(self, late: Late) -> None:
        self.late = late

    def __iter__(self) -> Iterator[bytes]:
        self.late.clock.advance(self.late.reading)
        yield b"{}"

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self:
            yield part


def breaker(guards: Guards) -> BreakerState:
    ((found,),) = guards.breakers().values()
    return found


def get(colour: str, late: Late, policy: Policy, guards: Guards) -> bool:
    """Whether a request was sent; it may have failed."""
    try:
        request(colour, policy, "GET", URL, late.transport(colour, policy, guards))
    except errors.CircuitOpen:
        return False
    except errors.CallError:
        return True
    return True


def outage(colour: str, late: Late, policy: Policy, guards: Guards) -> None:
    answers, late.answers = late.answers, [500]
    for _ in range(OUTAGE):
        assert get(colour, late, policy, guards)
    late.answers = answers
    assert breaker(guards).state == "open"
    late.clock.advance(breaker(guards).config.reset)


@both
def test_probes_of_a_silent_service(colour):
    """While a service says nothing, one probe a second is sent, each of which times out and opens the breaker again."""
    late = Late(httpx2.ReadTimeout("nothing"))
    policy, guards = Policy(attempt_timeout=0.3, retry=None, breaker=Breaker(reset=1.0)), Guards(late.clock)
    outage(colour, late, policy, guards)
    late.takes, begun, sent = 0.31, late.clock.monotonic(), 0
    while late.clock.monotonic() < begun + 3:
        if get(colour, late, policy, guards):
            sent += 1
            assert breaker(guards).state == "open"
        else:
            late.clock.advance(0.05)
    assert sent == 3


@both
@pytest.mark.parametrize(
    ("policy", "takes", "reading"),
    [
        (Policy(retry=None), 0.0, 12.0),
        (Policy(retry=None, attempt_timeout=None, deadline=None), 40.0, 0.0),
        (Policy(retry=None, attempt_timeout=5.0, deadline=None), 1.0, 900.0),
    ],
)
def test_good_answers_that_take_long(colour, policy, takes, reading):
    """Two good answers close the breaker however long they, or their bodies, take."""
    late = Late(200)
    guards = Guards(late.clock)
    outage(colour, late, policy, guards)
    late.takes, late.reading = takes, reading
    assert all(get(colour, late, policy, guards) for _ in range(2))
    assert breaker(guards).state == "closed"


def test_a_slow_probe_is_not_doubled():
    """While the body of a probe's answer is read, inside the deadline, no other is let in; when it is lost, one is."""
    late = Late(200)
    policy, guards = Policy(retry=None), Guards(late.clock)
    outage("sync", late, policy, guards)
    late.reading = 1.0
    transport = Transport(policy, name="slow", wire=httpx2.MockTransport(late), guards=guards)
    with httpx2.Client(transport=transport) as client, client.stream("GET", URL):
        late.clock.advance(29.9)
        assert not get("sync", late, policy, guards)
        late.clock.advance(2)
        assert get("sync", late, policy, guards)


class TestSharedByPolicies:
    @both
    def test_the_first_one_decides_nothing(self, colour):
        """After a first call with a short attempt timeout, those with a longer one are given their own."""
        late = Late(200)
        service = late.service(retry=None)
        run(colour, service.read("1").using(attempt_timeout=0.5))
        late.answers = [500]
        for _ in range(OUTAGE):
            with pytest.raises(errors.ServiceUnavailable):
                run(colour, service.read("1"))
        late.answers, late.takes = [200], 0.8
        late.clock.advance(30)
        for _ in range(20):
            run(colour, service.read("1"))
        assert breaker(service.guards).state == "closed"

    @both
    def test_each_has_its_own_threshold(self, colour):
        """What is slow for one client, with its attempt timeout of a second, is not for another with one of 60 s."""
        late = Late(200)
        hasty, patient, guards = Policy(attempt_timeout=1.0), Policy(attempt_timeout=60.0), Guards(late.clock)
        assert get(colour, late, hasty, guards)
        late.takes = 5.0
        for _ in range(20):
            assert get(colour, late, patient, guards)
        assert breaker(guards).state == "closed"
        late.takes = 0.9
        assert not all(get(colour, late, hasty, guards) for _ in range(21))
        assert "calls were slower than 0.8 s" in breaker(guards).reason

    def test_over_redis(self, redis_server):
        """Policies that share a breaker do so with all processes too, each with its own threshold."""
        clock = ManualClock()
        store = SharedStore(redis_server.url, patience=2.0)
        rules = Breaker(minimum=20, slow_rate=0.5)
        hasty, patient = (Policy(attempt_timeout=seconds, breaker=rules) for seconds in (1.0, 60.0))
        first = Resilient("slow", hasty, guards=Guards(clock, shared=store))
        second = Resilient("slow", patient, guards=Guards(clock, shared=store))
        for _ in range(10):
            second.call(clock.advance, 10.0)
        for _ in range(10):
            first.call(clock.advance, 0.9)
        with pytest.raises(errors.CircuitOpen, match=r"10 of 20 calls were slower than 0\.8 s"):
            second.call(clock.advance, 0.0)
        store.close()


@pytest.mark.parametrize(
    ("policy", "terms"),
    [
        (Policy(), Terms(31.0, 8.0)),
        (Policy(deadline=2.0), Terms(3.0, 8.0)),
        (Policy(deadline=None), Terms(31.0, 8.0)),
        (Policy(deadline=None, attempt_timeout=60.0), Terms(61.0, 48.0)),
        (Policy(deadline=None, attempt_timeout=None), Terms(31.0)),
        (Policy(deadline=86_400.0), Terms(600.0, 8.0)),
        (Policy(breaker=Breaker(slow=1.0)), Terms(31.0, 1.0)),
        (Policy(breaker=Breaker(slow=1.0, slow_rate=None)), Terms(31.0)),
    ],
)
def test_terms_of_a_policy(policy, terms):
    """A lease is longer than the deadline, or what is known of the attempt, and ten minutes at most; what is slow is the
    breaker's own threshold, or four fifths of the attempt timeout.
    """
    assert Guards().guard("any", policy).terms == terms
