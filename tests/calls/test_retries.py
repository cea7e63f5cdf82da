"""What is tried again, how often, and after how long; and what an error knows of it."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from random import Random
from typing import Any

import httpx2
import pytest
from tests.calls.ledger import Ledger, Mail, Script, both, request, run

from moorline import errors
from moorline.calls.call import Call
from moorline.calls.exchange import Exchange
from moorline.calls.guards import Guards
from moorline.calls.plain import PlainContext
from moorline.calls.service import IdempotencyKey
from moorline.clock import ManualClock
from moorline.policies.policy import Policy
from moorline.policies.retry import Retry
from moorline.transport import AsyncTransport, Transport

MOST = (1, 2, 4, 8, 16)  # seconds, before each retry


class Patching(Ledger):
    """Honours keys for PATCH as well."""

    name = "patching"
    idempotency = IdempotencyKey(methods=frozenset({"POST", "PATCH"}))


def transport(colour: str, script: Script, **policy: Any) -> Any:
    """Our transport over the script, with its clock."""
    kind = Transport if colour == "sync" else AsyncTransport
    return kind(Policy(**policy), wire=httpx2.MockTransport(script), guards=Guards(script.clock))


def sent(colour: str, call: Call[Any], random: Random) -> Exchange:
    """What the service answered to *call*, whose jitter comes from *random*."""
    context = call.service.context_of(call)
    context.random = random.random
    if colour == "sync":
        return call.service.send_context_blocking(context)
    return asyncio.run(call.service.send_context(context))


class TestPatch:
    @both
    @pytest.mark.parametrize("kind", [Ledger, Mail])
    @pytest.mark.parametrize("first", [500, 503, httpx2.ReadTimeout("slow")])
    def test_without_a_key_it_is_sent_once(self, colour, kind, first):
        """A PATCH may act, and a service that honours keys for POST alone gets none with it: it is not repeated."""
        script = Script(first, 200)
        with pytest.raises((errors.ServiceUnavailable, errors.OutcomeUnknown)) as caught:
            run(colour, script.service(kind).request("PATCH", "/bookings/1", json={"a": 1}))
        assert (len(script.requests), caught.value.retryable) == (1, False)
        assert "idempotency-key" not in script.requests[0].headers

    @both
    @pytest.mark.parametrize("first", [500, 503, httpx2.ReadTimeout("slow")])
    def test_with_a_key_that_the_service_honours_it_is_repeated(self, colour, first):
        """A PATCH that carries a key which the service honours for PATCH is sent again, under the same key."""
        script = Script(first, first, 200)
        run(colour, script.service(Patching).request("PATCH", "/bookings/1", json={"a": 1}))
        keys = [each.headers["idempotency-key"] for each in script.requests]
        assert (len(keys), len(set(keys))) == (3, 1)
        assert {each.content for each in script.requests} == {b'{"a":1}'}

    @both
    @pytest.mark.parametrize(("headers", "attempts"), [({}, 1), ({"Idempotency-Key": "k-1"}, 2)])
    def test_of_a_plain_client(self, colour, headers, attempts):
        """A plain client's PATCH is repeated if it carries a key, and handed back as it is if not."""
        script = Script(500, 200)
        ours = transport(colour, script)
        answer = request(colour, Policy(), "PATCH", "https://ledger.example/1", ours, headers=headers, content=b"x")
        assert (answer.status_code, len(script.requests)) == (500 if attempts == 1 else 200, attempts)

    @both
    def test_what_never_left_is_repeated(self, colour):
        """A PATCH without a key whose connection was refused is sent again."""
        script = Script(httpx2.ConnectError("refused"), 200)
        run(colour, script.service().request("PATCH", "/bookings/1", json={"a": 1}))
        assert len(script.requests) == 2


class TestTheDefault:
    """``Retry()``: five retries, after up to 1, 2, 4, 8 and 16 s."""

    @both
    @pytest.mark.parametrize(("answer", "policy"), [(429, {}), (503, {"breaker": None})])
    def test_six_attempts(self, colour, answer, policy):
        """A read that is never answered well is tried six times, and no more."""
        script = Script(answer)
        with pytest.raises(errors.CallError) as caught:
            sent(colour, script.service(**policy).read("1"), Random(1))
        assert (len(script.requests), len(caught.value.attempts)) == (6, 6)

    @both
    def test_full_jitter(self, colour):
        """Each wait is drawn from 0 to its most, and from all of that: not around it, nor from its upper half."""
        random, waits = Random(1), []
        for _ in range(150):
            script = Script(503)
            with pytest.raises(errors.ServiceUnavailable):
                sent(colour, script.service(breaker=None, deadline=None).read("1"), random)
            waits.append([after - before for before, after in pairwise(script.times)])
        for most, drawn in zip(MOST, zip(*waits, strict=True), strict=True):
            assert 0 <= min(drawn) < 0.05 * most
            assert 0.95 * most < max(drawn) <= most + 1e-6
            assert sum(drawn) / len(drawn) == pytest.approx(most / 2, rel=0.15)

    @both
    def test_jitter_of_a_plain_client(self, colour, monkeypatch):
        """A plain client's waits are drawn in the same way."""
        drawn = [0.5, 0.25, 1.0, 0.0, 0.75]
        numbers = iter(drawn)
        monkeypatch.setattr(PlainContext, "random", staticmethod(lambda: next(numbers)))
        script = Script(503)
        ours = transport(colour, script, breaker=None, deadline=None)
        assert request(colour, Policy(), "GET", "https://ledger.example/1", ours).status_code == 503
        assert script.clock.slept == [most * part for most, part in zip(MOST, drawn, strict=True)]


class Timed:
    """Answers in turn, each after so many seconds of its clock."""

    def __init__(self, *answers: tuple[float, Any]) -> None:
        self.answers = list(answers)
        self.clock = ManualClock()

    def __call__(self, _request: httpx2.Request) -> httpx2.Response:
        seconds, answer = self.answers.pop(0)
        self.clock.advance(seconds)
        if isinstance(answer, Exception):
            raise answer
        status, headers = answer
        return httpx2.Response(status, headers=headers, json={"id": "b_1"})


class TestAttempts:
    """What is known of each: when, how long, with which answer, why, and how long was waited after it."""

    START = ManualClock().wall()
    FAILURES: tuple[tuple[float, Any], ...] = (
        (0.25, (503, {})),
        (0.5, httpx2.ConnectError("refused")),
        (1.5, (429, {"retry-after": "7"})),
    )
    TOLD = (
        (1, 0.0, 0.25, 503, "answered 503", 1.0),
        (2, 1.25, 0.5, None, "could not connect (ConnectError: refused)", 2.0),
        (3, 3.75, 1.5, 429, "answered 429", 7.0),
    )

    def told(self, attempts: tuple[errors.Attempt, ...]) -> list[tuple[Any, ...]]:
        """The attempts, with times since the start."""
        return [(each.number, each.at - self.START, *each[2:]) for each in attempts]

    def approximately(self, *last: tuple[Any, ...]) -> list[Any]:
        return [
            (number, pytest.approx(at, abs=1e-3), pytest.approx(elapsed, abs=1e-3), status, reason, wait)
            for number, at, elapsed, status, reason, wait in (*self.TOLD, *last)
        ]

    def service(self, *last: tuple[float, Any]) -> Ledger:
        timed = Timed(*self.FAILURES, *last)
        policy = Policy(retry=Retry(retries=3, jitter="none"))
        return Ledger("key", wire=httpx2.MockTransport(timed), policy=policy, guards=Guards(timed.clock))

    @both
    def test_of_an_error(self, colour):
        """An error has all attempts as they happened; after the last one nothing was waited for."""
        with pytest.raises(errors.ServiceUnavailable) as caught:
            run(colour, self.service((2.0, (500, {}))).read("1"))
        assert self.told(caught.value.attempts) == self.approximately((4, 12.25, 2.0, 500, "answered 500", 0.0))

    @both
    def test_of_an_answer(self, colour):
        """So has an answer that came after failures."""
        answer = run(colour, self.service((2.0, (200, {}))).read("1").response())
        assert self.told(answer.attempts) == self.approximately((4, 12.25, 2.0, 200, "answered", 0.0))

    @both
    def test_of_an_unknown_outcome(self, colour):
        """So has an OutcomeUnknown, whose last attempt says how the answer failed to come."""
        with pytest.raises(errors.OutcomeUnknown) as caught:
            run(colour, self.service((9.0, httpx2.ReadTimeout("slow"))).book(1))
        last = (4, 12.25, 9.0, None, "no complete answer in time (ReadTimeout: slow)", 0.0)
        assert self.told(caught.value.attempts) == self.approximately(last)


class TestEpochResets:
    @both
    @pytest.mark.parametrize("scale", [1, 1000])
    def test_a_429_with_an_epoch_reset(self, colour, scale):
        """A 429 whose quota is renewed at an epoch time, in seconds or milliseconds, is asked again no earlier."""
        script = Script(0, 200)
        reset = int((script.clock.wall() + 12) * scale)
        script.answers[0] = (429, {"x-left": "0", "x-reset": str(reset)}, b"")
        assert run(colour, script.service().read("1")) == "b_1"
        assert 12 - 1e-6 <= script.times[1] < 12.1

    @both
    def test_of_a_plain_client(self, colour):
        """So is a plain client's, even a POST without a key: a 429 was not processed."""
        script = Script(0, 200)
        headers = {"x-ratelimit-remaining": "0", "x-ratelimit-reset": str(int(script.clock.wall()) + 12)}
        script.answers[0] = (429, headers, b"")
        ours = transport(colour, script)
        assert request(colour, Policy(), "POST", "https://ledger.example/1", ours).status_code == 200
        assert 12 - 1e-6 <= script.times[1] < 12.1

    @both
    def test_one_beyond_the_deadline(self, colour):
        """One that is too far away ends the call at once, with that time in the error."""
        script = Script(0)
        reset = int(script.clock.wall()) + 3600
        script.answers[0] = (429, {"x-left": "0", "x-reset": str(reset)}, b"")
        with pytest.raises(errors.RateLimited) as caught:
            run(colour, script.service().read("1"))
        assert (caught.value.retry_at, len(script.requests), script.clock.slept) == (reset, 1, [])
