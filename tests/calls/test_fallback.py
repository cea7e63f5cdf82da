"""What stands in for an answer: values, functions, other Calls, and the last good answer with its age."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest
from tests.calls.ledger import Ledger, Mail, Script, both, run

from moorline import Policy, errors
from moorline.calls.call import Call
from moorline.calls.exchange import Plan
from moorline.calls.guards import Guards
from moorline.calls.lastgood import store_of
from moorline.calls.service import operation
from moorline.policies.breaker import Breaker

ONE: Any = (200, {}, b'{"id":"one"}')
TWO: Any = (200, {}, b'{"id":"two"}')


def service(script: Script, key: Any = "k1", guards: Guards | None = None, **policy: Any) -> Ledger:
    wire = httpx2.MockTransport(script)
    return Ledger(key, wire=wire, policy=Policy(**{"retry": None, **policy}), guards=guards or Guards(script.clock))


@both
def test_a_call_stands_in_for_a_call(colour):
    """Another Call, or a function that makes one of the error, is sent instead."""
    down, up = Script(500).service(retry=None), Script(TWO).service()
    assert run(colour, down.read("1").or_else(up.read("2"))) == "two"
    assert run(colour, down.read("1").or_else(lambda _error: up.read("2"))) == "two"
    assert run(colour, down.read("1").or_else(down.read("2").or_else(up.read("3")))) == "two"


@both
def test_a_fallback_that_fails_too(colour):
    """The error of what stood in is raised, with the first one as its context."""
    with pytest.raises(errors.NotFound) as caught:
        run(colour, Script(500).service(retry=None).read("1").or_else(Script(404).service().read("2")))
    assert isinstance(caught.value.__context__, errors.ServiceUnavailable)


async def test_an_async_function_stands_in():
    """Where a Call is awaited its fallback may be asynchronous."""

    async def instead(error: errors.CallError) -> str:
        return f"instead of {error.status}"

    assert await Script(500).service(retry=None).read("1").or_else(instead) == "instead of 500"


def test_an_async_function_cannot_stand_in_for_a_blocking_call():
    """``.result()`` says so, and leaves no coroutine behind."""

    async def instead(_error: errors.CallError) -> str:
        return "never"

    with pytest.raises(errors.Misuse, match="fallback"):
        Script(500).service(retry=None).read("1").or_else(instead).result()


@both
@pytest.mark.parametrize(
    "end", [500, 503, 429, (200, {}, b"<html>"), httpx2.ReadTimeout("slow"), httpx2.ConnectError("refused")]
)
def test_the_last_good_answer_stands_in_with_its_age(colour, end):
    """Whatever keeps the service from answering, the last answer is given and its age told."""
    script = Script(ONE, end)
    ledger = service(script)
    call = ledger.read("1").or_last_good(max_age=600)
    assert (run(colour, call), call.last_good_age) == ("one", None)
    script.clock.advance(599)
    assert (run(colour, call), call.last_good_age) == ("one", 599)
    raw = run(colour, call.response())
    assert (raw.stale, raw.from_cache, raw.status) == (True, False, 200)
    assert raw.age == pytest.approx(599, abs=0.6)  # after a 429 the gate may let a moment pass
    assert len(raw.attempts) == 1  # of the call that failed
    script.clock.advance(2)
    with pytest.raises(errors.CallError):
        run(colour, call)


@both
def test_a_good_answer_is_the_newest(colour):
    """A later good answer takes the place of the earlier one, and has no age."""
    script = Script(ONE, TWO, 500)
    ledger = service(script)
    call = ledger.read("1").or_last_good(max_age=None)
    assert [run(colour, call) for _ in range(3)] == ["one", "two", "two"]
    script.clock.advance(1_000_000)
    assert (run(colour, call), call.last_good_age) == ("two", 1_000_000)


@both
def test_while_the_breaker_is_open(colour):
    """No request, and an answer all the same."""
    script = Script(ONE, 500)
    ledger = service(script, breaker=Breaker(failures=1))
    call = ledger.read("1").or_last_good()
    assert [run(colour, call) for _ in range(5)] == ["one"] * 5
    assert len(script.requests) == 2


@both
@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 422])
def test_no_fault_of_ours_is_hidden(colour, status):
    """A caller's fault and a refused credential are raised: who lost access sees nothing of what was."""
    ledger = service(Script(ONE, status))
    call = ledger.read("1").or_last_good()
    run(colour, call)
    with pytest.raises((errors.CallerFault, errors.CredentialFault)):
        run(colour, call)


@both
def test_answers_are_kept_apart(colour):
    """By argument, by credential, by tenant, by address, by header, and by who shares state at all."""
    script = Script(ONE, 500)
    world = Guards(script.clock)
    ledger = service(script, guards=world)
    run(colour, ledger.read("1").or_last_good())
    others = [
        ledger.read("2"),
        service(script, "k2", world).read("1"),
        ledger.read("1").using(tenant="acme"),
        ledger.read("1").using(headers={"Accept-Language": "de"}),
        Ledger("k1", wire=httpx2.MockTransport(script), guards=world, base_url="https://other.example")
        .read("1")
        .using(retry=None),
        service(script).read("1"),
    ]
    for other in others:
        with pytest.raises(errors.ServiceUnavailable):
            run(colour, other.or_last_good())
    assert run(colour, ledger.read("1").or_last_good()) == "one"


@both
def test_it_comes_before_the_other_fallback(colour):
    """``or_else`` is for when there is no last good answer, in whatever order they were said."""
    script = Script(500, ONE, 500)
    ledger = service(script)
    for call in (ledger.read("1").or_last_good().or_else("else"), ledger.read("1").or_else("else").or_last_good()):
        script.answers = [500, ONE, 500]
        assert [run(colour, call) for _ in range(3)] == ["else", "one", "one"]
        store_of(ledger.guards).clear()


@both
def test_answers_are_not_shared(colour):
    """Who changes a last good answer changes no one else's."""
    ledger = service(Script(ONE, 500))
    call = ledger.read("1").or_last_good().response()
    for _ in range(3):
        exchange = run(colour, call)
        assert exchange.data == {"id": "one"}
        exchange.data["id"] = "changed"
        exchange.headers["x"] = "changed"


class Finder(Ledger):
    @operation
    def find(self, text: str) -> Plan[Any]:
        return self.post("/find", json={"text": text}, parse=lambda exchange: exchange.data["id"], repeatable=True)


@both
def test_a_post_that_reads_is_a_read(colour):
    """What a Plan declares repeatable has a last good answer, told apart by its body."""
    script = Script(ONE, 500)
    finder: Any = script.service(Finder, retry=None)
    run(colour, finder.find("a").or_last_good())
    assert run(colour, finder.find("a").or_last_good()) == "one"
    with pytest.raises(errors.ServiceUnavailable):
        run(colour, finder.find("b").or_last_good())


def test_only_reads_have_a_last_good_answer():
    """A write is refused when it is asked for, and so is an age that is none."""
    ledger = service(Script(ONE))
    with pytest.raises(errors.ConfigurationError, match="or_last_good"):
        ledger.book(5).or_last_good()
    with pytest.raises(errors.ConfigurationError, match="or_last_good"):
        ledger.request("PUT", "/x", json={}).or_last_good()
    with pytest.raises(errors.ConfigurationError, match="max_age"):
        ledger.read("1").or_last_good(max_age=0)


def test_the_store_is_bounded():
    """It keeps 1,000 answers, those used last, and nothing for Calls that do not ask for it."""
    script = Script(ONE)
    ledger = service(script)
    ledger.read("0").result()
    assert len(store_of(ledger.guards)) == 0
    for number in range(1_010):
        ledger.read(str(number)).or_last_good().result()
    assert len(store_of(ledger.guards)) == 1_000
    script.answers = [500]
    assert ledger.read("1009").or_last_good().result() == "one"
    with pytest.raises(errors.ServiceUnavailable):
        ledger.read("9").or_last_good().result()
    store = store_of(ledger.guards)
    assert store.put(b"large", next(iter(store._kept.values()))[0], 40_000_000) is False
    store.put(b"large", next(iter(store._kept.values()))[0], 33_000_000)
    assert store.bytes <= store.max_bytes


def test_a_queue_carries_no_fallback():
    """Neither kind survives a queue, and enqueueing says so."""
    with pytest.raises(errors.Misuse, match="fallback"):
        service(Script(ONE)).read("1").or_last_good().to_payload()


@pytest.mark.parametrize(
    "options",
    [
        {"tenant": "acme"},
        {"hedge": 0.2},
        {"coalesce": True},
        {"coalesce": False, "tenant": "b", "retry": 2, "timeout": None},
    ],
)
def test_options_survive_a_queue(options):
    """Tenant, hedge and sharing come back from the payload as they were."""
    ledger = service(Script(ONE))
    call = ledger.read("1").using(**options)
    payload = json.loads(json.dumps(call.to_payload()))
    assert Call.from_payload(payload, lambda _name: ledger).options == call.options


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"tenant": ""}, "tenant"),
        ({"tenant": 5}, "tenant"),
        ({"hedge": 0}, "Hedge.after"),
        ({"hedge": "soon"}, "hedge"),
        ({"hedge": True}, "hedge"),
        ({"coalesce": 1}, "coalesce"),
    ],
)
def test_options_are_checked(options, named):
    """A wrong option is named."""
    with pytest.raises(errors.ConfigurationError, match=named):
        service(Script(ONE)).read("1").using(**options)


@pytest.mark.parametrize("options", [{"hedge": 0.1}, {"coalesce": True}])
def test_writes_are_neither_hedged_nor_shared(options):
    """A write that carries no declaration is refused, keyed or not."""
    for kind in (Ledger, Mail):
        with pytest.raises(errors.ConfigurationError, match="may act"):
            Script(ONE).service(kind).book(5).using(**options)
    assert Script(ONE).service(Finder).find("a").using(**options)  # type: ignore[attr-defined]
