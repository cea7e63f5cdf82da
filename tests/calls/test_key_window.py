"""Idempotency keys and the time for which a service knows them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx2
import pytest
from tests.calls.ledger import CANARY, Ledger, Script, both, run

import moorline
from moorline import errors
from moorline.calls import story
from moorline.calls.cache import Cache
from moorline.calls.call import Call
from moorline.calls.guards import Guards
from moorline.policies.policy import Policy

DAY = 86_400
REFUSED = httpx2.ConnectError("refused")
ONCE: dict[str, Any] = {"retry": None, "breaker": None}


def stored(call: Call[Any], service: Ledger, attempt: int = 1) -> Call[Any]:
    """The Call after a trip through a queue."""
    return Call.from_payload(json.loads(json.dumps(call.to_payload())), lambda _name: service, attempt=attempt)


@both
def test_what_never_left_starts_no_window(colour):
    """A Call whose connection was refused for more than a day is sent when the service is back: it never saw the key."""
    script = Script(REFUSED, REFUSED, 200)
    call = script.service(**ONCE).book(5)
    for _ in range(2):
        with pytest.raises(errors.ConnectFailed):
            run(colour, call)
        script.clock.advance(DAY + 1)
    assert run(colour, call) == {"id": "b_1"}


@both
@pytest.mark.parametrize("first", [httpx2.ReadTimeout("slow"), 500, 429, 200, (200, {}, b"<html>")])
def test_what_may_have_left_starts_it(colour, first):
    """An attempt that was answered, or whose fate nobody knows, starts the window; past it the Call is not sent again."""
    script = Script(first)
    call = script.service(**ONCE).book(5)
    try:
        run(colour, call)
    except errors.CallError as error:
        assert not isinstance(error, errors.ConnectFailed)  # noqa: PT017 (a success is fine as well)
    script.clock.advance(DAY - 1)
    script.answers = [200]
    assert run(colour, call) == {"id": "b_1"}
    script.clock.advance(2)
    with pytest.raises(errors.OutcomeUnknown, match="not sent again") as caught:
        run(colour, call.using(timeout=5))
    assert (caught.value.retryable, caught.value.idempotency_key) == (False, call.idempotency_key)
    assert len(script.requests) == 2


@both
def test_the_window_begins_with_the_first_attempt_that_left(colour):
    """Attempts of one sending that were refused before do not count: the window begins with the one that went out."""
    script = Script(REFUSED, httpx2.ReadTimeout("slow"), REFUSED)
    call = script.service(breaker=None).book(5)
    with pytest.raises(errors.OutcomeUnknown):
        run(colour, call)
    first = script.clock.wall() - script.clock.monotonic() + script.times[1]
    assert call.key_payload()["first_tried_at"] == pytest.approx(first, abs=1e-3)
    script.answers = [200]
    script.clock.advance(first + DAY - 0.1 - script.clock.wall())
    assert run(colour, call) == {"id": "b_1"}
    script.clock.advance(0.2)
    with pytest.raises(errors.OutcomeUnknown):
        run(colour, call)


@both
def test_a_refusal_of_ours_starts_no_window(colour):
    """Neither a breaker that is open nor a key that is missing means that the service saw anything."""
    script = Script(200)
    service = script.service()
    breaker = service.guards.guard("ledger", service.policy).breaker
    assert breaker
    call = service.book(5)
    breaker.force("open")
    with pytest.raises(errors.CircuitOpen):
        run(colour, call)
    breaker.force(None)

    def missing() -> str:
        raise errors.ConfigurationError("no key")

    keyless = Ledger(missing, wire=httpx2.MockTransport(script), guards=Guards(script.clock)).book(5)
    with pytest.raises(errors.ConfigurationError, match="no key"):
        run(colour, keyless)
    assert (call.key_payload()["first_tried_at"], keyless.key_payload()["first_tried_at"]) == (None, None)


async def test_a_cancelled_attempt_may_have_left():
    """A Call that was cancelled with the service starts the window."""
    script, sent = Script(200), asyncio.Event()

    async def never(_request: httpx2.Request) -> httpx2.Response:
        sent.set()
        await asyncio.Event().wait()
        raise AssertionError

    service = Ledger(CANARY, wire=httpx2.MockTransport(never), guards=Guards(script.clock))
    call = service.book(5)
    task = asyncio.ensure_future(call._answered_async())
    await asyncio.wait_for(sent.wait(), 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert call.key_payload()["first_tried_at"] == script.clock.wall()


@both
def test_across_a_queue(colour):
    """What never left before it was enqueued is sent by its job a day later; what may have left is not."""
    script = Script(REFUSED, 200)
    service = script.service(**ONCE)
    call = service.book(5)
    with pytest.raises(errors.ConnectFailed):
        run(colour, call)
    script.clock.advance(DAY + 1)
    again = stored(call, service)
    assert again.key_payload() == call.key_payload()
    assert run(colour, again) == {"id": "b_1"}
    assert again.key_payload()["first_tried_at"] == script.clock.wall()
    script.clock.advance(DAY + 1)
    with pytest.raises(errors.OutcomeUnknown):
        run(colour, stored(again, service))
    with pytest.raises(errors.OutcomeUnknown):  # nobody knows of the job's first start
        run(colour, stored(call, service, attempt=2))
    assert len(script.requests) == 2


@both
@pytest.mark.parametrize("cached", [False, True])
def test_the_refusal_is_told(colour, cached):
    """The refusal is a step, in ``explain`` and for who watches, and the Call is over with it."""
    script = Script(httpx2.ReadTimeout("slow"))
    wire, cache = httpx2.MockTransport(script), Cache() if cached else None
    service = Ledger(CANARY, wire=wire, policy=Policy(**ONCE), guards=Guards(script.clock), cache=cache)
    call = service.book(5)
    with pytest.raises(errors.OutcomeUnknown):
        run(colour, call)
    script.clock.advance(DAY + 1)
    steps: list[story.Step] = []
    stop = moorline.watch(steps.append)
    try:
        with pytest.raises(errors.OutcomeUnknown) as caught:
            run(colour, call)
    finally:
        stop()
    refused, finished = steps
    assert isinstance(refused, story.Refused)
    assert (refused.part, refused.service, refused.operation) == ("key window", "ledger", "book")
    assert refused.reason == caught.value.message
    assert isinstance(finished, story.Finished)
    assert (finished.attempts, finished.outcome, finished.error) == (0, "unknown", "OutcomeUnknown")
    assert refused.call == finished.call
    first, second = call.explain().splitlines()
    assert first.startswith("ledger.book: OutcomeUnknown after 0.000 s, 0 attempts, outcome unknown (not sent again")
    assert "refused by the key window: not sent again" in second
