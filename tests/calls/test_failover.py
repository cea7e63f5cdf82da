"""Failover: who is asked next, and when nobody may be."""

from __future__ import annotations

import asyncio
import json
import logging
import pickle
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.calls.ledger import Script, both, run

from moorline import Failover, Moorline, Policy, errors
from moorline.calls.call import Call
from moorline.calls.guards import Guards
from moorline.calls.service import (
    BearerKey,
    Endpoints,
    ErrorMap,
    IdempotencyKey,
    Page,
    Plan,
    Service,
    listing,
    operation,
)
from moorline.clock import ManualClock
from moorline.errors import AllServicesFailed
from moorline.policies.breaker import Breaker
from moorline.policies.retry import Retry

REFUSED = httpx2.ConnectError("refused")
SILENT = httpx2.ReadTimeout("silent")


class Pigeon(Service):
    """A carrier of messages that honours no keys."""

    name, category = "pigeon", "post"
    endpoints = Endpoints("https://pigeon.example")
    credentials = BearerKey(env="PIGEON_KEY")
    errors = ErrorMap(code="code")

    @operation
    def send(self, to: str, text: str) -> Plan[str]:
        return self.post("/messages", json={"to": to, "text": text}, parse=self._by)

    @operation
    def status(self, id: str) -> Plan[str]:
        return self.get(f"/messages/{id}", parse=self._by)

    @listing
    def all(self) -> Plan[Page[str]]:
        return self.get("/messages", parse=lambda exchange: Page(tuple(exchange.data)))

    def _by(self, exchange) -> str:
        exchange.data["id"]
        return self.name


class Raven(Pigeon):
    """Another one, with keys, and stricter than the first."""

    name = "raven"
    endpoints = Endpoints("https://raven.example")
    credentials = BearerKey(env="RAVEN_KEY", header="X-Key", scheme="")
    idempotency = IdempotencyKey()

    @operation
    def send(self, to: str, text: str) -> Plan[str]:
        if len(text) > 100:
            raise errors.InvalidRequest("text: at most 100 letters", outcome="not_sent")
        return self.post("/messages", json={"to": to, "text": text}, parse=self._by)

    @operation
    def only_here(self) -> Plan[str]:
        return self.get("/here", parse=self._by)


class Owl(Pigeon):
    name = "owl"
    endpoints = Endpoints("https://owl.example")
    credentials = BearerKey(env="OWL_KEY")


def pair(
    one: Any,
    other: Any,
    *,
    at_least_once: bool = False,
    clock: ManualClock | None = None,
    kinds: tuple[Any, Any] = (None, None),
    **policy: Any,
) -> Any:
    """A failover of two carriers, which answer as told, and the scripts."""
    scripts = Script(*one), Script(*other)
    world = Guards(clock or scripts[0].clock)
    policy = {"retry": None, **policy}
    services = [
        kind(f"key-of-{kind.name}", wire=httpx2.MockTransport(script), guards=world, policy=Policy(**policy))
        for kind, script in zip((kinds[0] or Pigeon, kinds[1] or Raven), scripts, strict=True)
    ]
    return Failover(*services, at_least_once=at_least_once), *scripts


@both
@pytest.mark.parametrize(
    "failure", [500, 503, 429, REFUSED, (503, {"retry-after": "5"}, b""), (429, {"retry-after": "900"}, b"")]
)
def test_the_next_is_asked_when_the_first_cannot(colour, failure):
    """After a 5xx, a limit beyond the deadline or a refused connection the other service does it, once."""
    both_of_them, first, second = pair([failure], [200])
    assert run(colour, both_of_them.send("ada", "hello")) == "raven"
    assert (len(first.requests), len(second.requests)) == (1, 1)
    assert (second.requests[0].headers["x-key"], "authorization" in second.requests[0].headers) == (
        "key-of-raven",
        False,
    )


@both
def test_the_first_is_enough(colour):
    """Nobody else is asked when the first service answers."""
    both_of_them, _first, second = pair([200], [200])
    assert run(colour, both_of_them.send("ada", "hello")) == "pigeon"
    assert second.requests == []


@both
def test_retries_come_first(colour):
    """The first service has its retries before the next one is asked."""
    both_of_them, first, _second = pair([(503, {"retry-after": "1"}, b"")], [200], retry=Retry(retries=2))
    assert run(colour, both_of_them.send("ada", "hello")) == "raven"
    assert len(first.requests) == 3


@both
def test_an_open_breaker_is_skipped_at_once(colour):
    """While the first service's breaker is open, not a request and not a moment is spent on it."""
    both_of_them, first, second = pair([500], [200], breaker=Breaker(failures=2))
    for _ in range(5):
        assert run(colour, both_of_them.send("ada", "hello")) == "raven"
    assert (len(first.requests), len(second.requests), first.clock.monotonic()) == (2, 5, 0)


@both
@pytest.mark.parametrize("status", [400, 404, 409, 422])
def test_a_callers_fault_ends_it(colour, status):
    """What is wrong for one service is wrong for all: its error is raised and nobody else is asked."""
    both_of_them, _first, second = pair([status], [200])
    with pytest.raises(errors.CallerFault) as caught:
        run(colour, both_of_them.send("ada", "hello"))
    assert (caught.value.service, second.requests) == ("pigeon", [])


@both
def test_a_write_of_unknown_outcome_is_never_given_to_another(colour):
    """Nobody answered: the message may have been sent, so OutcomeUnknown is raised and the second stays idle."""
    for failure in (SILENT, 502, 504):
        both_of_them, _first, second = pair([failure], [200])
        with pytest.raises(errors.OutcomeUnknown) as caught:
            run(colour, both_of_them.send("ada", "hello"))
        assert (caught.value.outcome, caught.value.service, second.requests) == ("unknown", "pigeon", [])
        assert caught.value.attempts


@both
def test_sent_again_it_stays_with_the_one_that_may_have_done_it(colour):
    """The same Call after an unknown outcome goes to that service alone, even when it is down by now."""
    both_of_them, first, second = pair([SILENT, 500], [200])
    call = both_of_them.send("ada", "hello")
    with pytest.raises(errors.OutcomeUnknown):
        run(colour, call)
    with pytest.raises(errors.ServiceUnavailable):
        run(colour, call)
    assert (len(first.requests), second.requests) == (2, [])


@both
def test_sent_again_after_success_it_carries_the_same_key_to_the_same_service(colour):
    """A Call that the second did is the second's for good, with its key, although the first works again."""
    both_of_them, first, second = pair([500, 200], [200])
    call = both_of_them.send("ada", "hello")
    assert [run(colour, call), run(colour, call)] == ["raven", "raven"]
    assert len(first.requests) == 1
    assert len({request.headers["idempotency-key"] for request in second.requests}) == 1


@both
def test_it_is_counted(colour):
    """Operators see how often a service's calls went to which other, beside its breaker."""
    both_of_them, _first, _second = pair([500], [200])
    for _ in range(3):
        run(colour, both_of_them.send("ada", "hello"))
    world = both_of_them.services[0].guards
    assert world.snapshot()["pigeon"]["passed_on"] == {"raven": 3}
    assert "passed_on" not in world.snapshot()["raven"]


@both
def test_an_unreadable_receipt_ends_a_write(colour):
    """A 200 that cannot be read means that the message was taken: no other service sends it again."""
    both_of_them, _first, second = pair([(200, {}, b"<html>")], [200])
    with pytest.raises(errors.BadAnswer):
        run(colour, both_of_them.send("ada", "hello"))
    assert second.requests == []


@both
def test_duplicates_may_be_accepted(colour):
    """With ``at_least_once=True`` a second message is better than none."""
    both_of_them, _first, second = pair([SILENT], [200], at_least_once=True)
    assert run(colour, both_of_them.send("ada", "hello")) == "raven"
    assert len(second.requests) == 1


class Till(Pigeon):
    name, category = "till", "payments"


class Bank(Raven):
    name, category = "bank", "payments"


@both
@pytest.mark.parametrize(
    "failure", [500, 503, 429, 401, SILENT, (200, {}, b"<html>"), (503, {"retry-after": "5"}, b"")]
)
def test_payments_move_on_only_if_nothing_left(colour, failure):
    """Whatever a payment service answered, no other one charges; what an answer proves of a mail is not enough here."""
    both_of_them, _first, second = pair([failure], [200], kinds=(Till, Bank))
    call = both_of_them.send("ada", "hello")
    with pytest.raises(errors.CallError) as caught:
        run(colour, call)
    assert second.requests == []
    if failure == SILENT:
        assert isinstance(caught.value, errors.OutcomeUnknown)


@both
def test_payments_move_on_if_nothing_left(colour):
    """A refused connection, and then an open breaker, lead to the next."""
    breaker = Breaker(failures=1, reset=60)
    both_of_them, first, _second = pair([REFUSED], [200], kinds=(Till, Bank), breaker=breaker)
    assert run(colour, both_of_them.send("ada", "hello")) == "bank"
    assert run(colour, both_of_them.send("ada", "hello")) == "bank"
    assert len(first.requests) == 1


def test_payments_are_never_made_at_least_once():
    """It cannot be asked for."""
    with pytest.raises(errors.ConfigurationError, match="at_least_once"):
        Failover(Till("key-0123456789"), Bank("key-0123456789"), at_least_once=True)


@both
@pytest.mark.parametrize("failure", [SILENT, 502, (200, {}, b"<html>")])
def test_reads_always_fail_over(colour, failure):
    """What only reads may be asked of anybody, whatever happened to the first request."""
    both_of_them, _first, _second = pair([failure], [200])
    assert run(colour, both_of_them.status("m_1")) == "raven"


@both
@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_credential_is_said_loudly(colour, status, caplog):
    """The next service sends it, and the log has an error that names the one whose key is bad."""
    both_of_them, _first, _second = pair([status], [200])
    with caplog.at_level(logging.WARNING):
        assert run(colour, both_of_them.send("ada", "hello")) == "raven"
    loud = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(loud) == 1
    assert "pigeon" in loud[0].getMessage() + str(vars(loud[0]))
    assert "key-of-pigeon" not in caplog.text


@both
def test_when_all_fail_the_error_tells_of_each(colour):
    """One error has each service's own, all attempts, the time to come back, and survives a pickle."""
    both_of_them, first, _second = pair([(503, {"retry-after": "20"}, b"")], [(429, {"retry-after": "9000"}, b"")])
    with pytest.raises(AllServicesFailed) as caught:
        run(colour, both_of_them.send("ada", "hello"))
    error = pickle.loads(pickle.dumps(caught.value))
    assert [(type(each), each.service) for each in error.errors] == [
        (errors.ServiceUnavailable, "pigeon"),
        (errors.RateLimited, "raven"),
    ]
    assert (error.outcome, error.retryable, len(error.attempts)) == ("done", True, 2)
    assert error.retry_at == pytest.approx(first.clock.wall() + 20)
    assert "\n" not in str(error)
    assert "pigeon" in str(error)
    assert "raven" in str(error)


@both
def test_nothing_was_sent_when_nothing_left(colour):
    """When no connection could be made to any of them, the error says that nothing was sent."""
    both_of_them, _first, _second = pair([REFUSED], [REFUSED])
    with pytest.raises(AllServicesFailed) as caught:
        run(colour, both_of_them.send("ada", "hello"))
    assert caught.value.outcome == "not_sent"


@both
def test_arguments_that_only_the_next_refuses(colour):
    """What the second does not take matters only when it is asked, and hides no failure of the first, which may pass."""
    both_of_them, first, second = pair([200, (503, {"retry-after": "20"}, b"")], [200])
    long = "x" * 200
    assert run(colour, both_of_them.send("ada", long)) == "pigeon"
    with pytest.raises(AllServicesFailed, match="at most 100") as caught:
        run(colour, both_of_them.send("ada", long))
    assert [(type(each), each.service) for each in caught.value.errors] == [
        (errors.ServiceUnavailable, "pigeon"),
        (errors.InvalidRequest, "raven"),
    ]
    assert (caught.value.retryable, caught.value.outcome) == (True, "done")
    assert (len(first.requests), second.requests) == (2, [])


@both
def test_one_in_the_middle_that_cannot_is_passed_by(colour):
    """A service that refuses the arguments before it sends anything does not stand before one that takes them."""
    scripts = Script(REFUSED), Script(200), Script(200)
    world = Guards(scripts[0].clock)
    services = [
        kind("k", wire=httpx2.MockTransport(script), guards=world, policy=Policy(retry=None))
        for kind, script in zip((Pigeon, Raven, Owl), scripts, strict=True)
    ]
    assert run(colour, Failover(*services).send("ada", "x" * 200)) == "owl"
    assert [len(script.requests) for script in scripts] == [1, 0, 1]


@both
def test_what_a_later_one_answers_ends_it(colour):
    """A caller's fault that the second service itself found is raised: it looked at the request."""
    both_of_them, first, second = pair([500], [422])
    with pytest.raises(errors.InvalidRequest) as caught:
        run(colour, both_of_them.send("ada", "hello"))
    assert (caught.value.service, len(first.requests), len(second.requests)) == ("raven", 1, 1)


@both
def test_the_timeout_is_for_all_together(colour):
    """``using(timeout=3)`` bounds the waits at all services, not at each."""
    slow = (503, {"retry-after": "2"}, b"")
    both_of_them, first, second = pair([slow], [slow], retry=Retry(retries=5))
    second.clock = first.clock
    with pytest.raises(errors.CallError):
        run(colour, both_of_them.send("ada", "hello").using(timeout=3))
    assert first.clock.monotonic() < 3
    assert len(first.requests) == 2


@both
def test_a_failover_falls_back_like_any_call(colour):
    """``or_else`` stands in when all failed, not for a caller's fault; ``response()`` gives the raw answer."""
    both_of_them, _first, _second = pair([500], [500])
    assert run(colour, both_of_them.send("ada", "hello").or_else("later")) == "later"
    both_of_them, _first, _second = pair([400], [500])
    with pytest.raises(errors.CallerFault):
        run(colour, both_of_them.send("ada", "hello").or_else("later"))
    both_of_them, _first, _second = pair([500], [200])
    assert run(colour, both_of_them.send("ada", "hello").response()).url == "https://raven.example/messages"


@both
def test_the_last_good_answer_of_any(colour):
    """A read that all refuse now is answered with what one of them said before."""
    both_of_them, first, _second = pair([500], [200, 500])
    call = both_of_them.status("m_1").or_last_good()
    assert (run(colour, call), call.last_good_age) == ("raven", None)
    first.clock.advance(60)
    assert (run(colour, call), call.last_good_age) == ("raven", 60)
    with pytest.raises(AllServicesFailed):
        run(colour, both_of_them.status("m_2").or_last_good())


@both
def test_it_explains_the_last_sending(colour):
    """The time line has a part for each service that was asked this time, and for no other."""
    both_of_them, _first, _second = pair([500], [200])
    call = both_of_them.send("ada", "hello")
    assert "not sent yet" in call.explain()
    run(colour, call)
    assert [line.split(":")[0] for line in call.explain().splitlines() if line[0] != " "] == [
        "pigeon.send",
        "raven.send",
    ]
    run(colour, call)
    assert [line.split(":")[0] for line in call.explain().splitlines() if line[0] != " "] == ["raven.send"]


def test_one_key_for_all_who_honour_keys():
    """The caller's own key goes to the services that know keys; where none does it is refused."""
    both_of_them, first, second = pair([500], [200])
    both_of_them.send("ada", "hello").using(idempotency_key="mine").result()
    assert "idempotency-key" not in first.requests[0].headers
    assert second.requests[0].headers["idempotency-key"] == "mine"
    keyless = Failover(Pigeon("k"), Owl("k"))
    with pytest.raises(errors.ConfigurationError, match="none of pigeon, owl"):
        keyless.send("ada", "hello").using(idempotency_key="mine")


def test_it_has_what_all_have():
    """Operations of all members are there, one of a single member is not, and a listing is refused with the reason."""
    both_of_them, _first, _second = pair([200], [200])
    assert {"send", "status"} <= set(dir(both_of_them))
    assert "only_here" not in dir(both_of_them)
    with pytest.raises(AttributeError, match="pigeon has no operation 'only_here'"):
        _ = both_of_them.only_here
    with pytest.raises(errors.ConfigurationError, match="listing"):
        both_of_them.all()
    with pytest.raises(errors.ConfigurationError, match="two services"):
        Failover(Pigeon("k"))
    with pytest.raises(errors.ConfigurationError, match="not str"):
        Failover(Pigeon("k"), "raven")  # type: ignore[arg-type]
    assert repr(both_of_them) == "<Failover pigeon, raven>"


async def test_blocking_in_a_loop_is_misuse():
    """As with any Call."""
    both_of_them, _first, _second = pair([200], [200])
    with pytest.raises(errors.Misuse, match="await"):
        both_of_them.send("ada", "hello").result()


async def test_a_cancelled_write_is_not_given_to_another():
    """Cancelled in the middle, the first may have done it: sent again, the Call asks nobody else."""
    arrived, hold = asyncio.Event(), asyncio.Event()

    async def serve(_request: httpx2.Request) -> httpx2.Response:
        arrived.set()
        await hold.wait()
        return httpx2.Response(500)

    second = Script(200)
    world = Guards()
    policy = Policy(retry=None)
    services = [
        Pigeon("k", wire=httpx2.MockTransport(serve), guards=world, policy=policy),
        Raven("k", wire=httpx2.MockTransport(second), guards=world, policy=policy),
    ]
    call = Failover(*services).send("ada", "hello")
    task = asyncio.ensure_future(call._answered_async())
    await asyncio.wait_for(arrived.wait(), 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    hold.set()
    with pytest.raises(errors.ServiceUnavailable):
        await call
    assert second.requests == []


ENDS = {
    200: "done",
    500: "next",
    503: "next",
    429: "next",
    REFUSED: "next",
    SILENT: "unknown",
    502: "unknown",
    400: "caller",
}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(list(ENDS)), min_size=2, max_size=4))
def test_nothing_is_ever_done_twice(ends):
    """Over any course of answers: who is asked after an end is right, and no service follows one that may have acted."""
    scripts = [Script(end) for end in ends]
    world = Guards(scripts[0].clock)
    services = [
        Pigeon("k", wire=httpx2.MockTransport(script), guards=world, policy=Policy(retry=None, breaker=None))
        for script in scripts
    ]
    try:
        Failover(*services).send("ada", "hello").result()
    except AllServicesFailed as error:
        assert len(error.errors) == len(ends)  # noqa: PT017 (either end is fine)
        assert all(ENDS[end] == "next" for end in ends)
    except errors.CallError as error:
        end = ENDS[ends[sum(bool(script.requests) for script in scripts) - 1]]
        assert end == ("unknown" if isinstance(error, errors.OutcomeUnknown) else "caller")  # noqa: PT017
    asked = [len(script.requests) for script in scripts]
    decided = next((index for index, end in enumerate(ends) if ENDS[end] != "next"), len(ends) - 1)
    assert asked == [1] * (decided + 1) + [0] * (len(ends) - decided - 1)


class TestDurable:
    """In a queue."""

    def app(self, tmp_path: Path, one: Any, other: Any) -> tuple[Moorline, Script, Script]:
        scripts = Script(*one), Script(*other)
        app = Moorline(f"sqlite:///{tmp_path}/app.db", clock=scripts[0].clock)
        for kind, script in zip((Pigeon, Raven), scripts, strict=True):
            policy = Policy(retry=None, breaker=None)
            wire = httpx2.MockTransport(script)
            app.service(kind, api_key="k", wire=wire, policy=policy, guards=Guards(scripts[0].clock))
        return app, *scripts

    async def drained(self, app: Moorline, clock: ManualClock, times: int = 1) -> Any:
        for _ in range(times):
            await app.worker().drain()
            clock.advance(600)
        from moorline.jobs.broker import JobFilter

        (job,) = await app.jobs.broker.list(JobFilter())
        return job

    async def test_it_survives_a_queue(self, tmp_path):
        """A worker asks the first, then the second, with the key that was made when the Call was."""
        app, first, second = self.app(tmp_path, [500], [200])
        async with app:
            call = app.failover(Pigeon, Raven).send("ada", "hello").using(tenant="acme")
            await call.enqueue()
            job = await self.drained(app, first.clock)
            key = json.loads(job.payload)["keys"]["1"]["idempotency_key"]
            assert job.state == "done"
        assert second.requests[0].headers["idempotency-key"] == key

    async def test_it_is_tried_again_when_nobody_could(self, tmp_path):
        """Both refuse at first: the job comes back, and the second's key is the same each time."""
        app, first, second = self.app(tmp_path, [500], [500, 200])
        async with app:
            await app.failover(Pigeon, Raven).send("ada", "hello").enqueue()
            assert (await self.drained(app, first.clock, 2)).state == "done"
        assert (len(first.requests), len(second.requests)) == (2, 2)
        assert len({request.headers["idempotency-key"] for request in second.requests}) == 1

    async def test_an_unknown_outcome_is_a_dead_letter(self, tmp_path):
        """A message that may have been sent is for a person to decide: no second attempt, no second service."""
        app, first, second = self.app(tmp_path, [SILENT], [200])
        async with app:
            await app.failover(Pigeon, Raven).send("ada", "hello").enqueue()
            job = await self.drained(app, first.clock, 3)
            assert (job.state, job.reason) == ("dead", "discarded")
        assert (len(first.requests), second.requests) == (1, [])

    def test_the_payload_names_all(self, tmp_path):
        """The payload rebuilds an equal Call from names; one of a service that the application does not own is refused."""
        app, _first, _second = self.app(tmp_path, [200], [200])
        call = app.failover(Pigeon, Raven, at_least_once=True).send("ada", text="hello").using(timeout=7, retry=2)
        payload = json.loads(json.dumps(call.to_payload()))
        again: Any = Call.from_payload(payload, app._service_for)
        assert again.to_payload() == payload
        assert (again.failover.at_least_once, again.options, again.repeatable) == (True, call.options, True)
        assert again.services == (app._service_for("pigeon"), app._service_for("raven"))
        with pytest.raises(errors.Misuse, match="not the first Owl"):
            app.failover(Pigeon, Owl("k")).send("ada", "hello").enqueue()
        with pytest.raises(errors.Misuse, match="fallback"):
            call.or_else(None).enqueue()
        with pytest.raises(errors.ConfigurationError, match="keys"):
            Call.from_payload({name: value for name, value in payload.items() if name != "keys"}, app._service_for)
