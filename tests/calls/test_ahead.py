"""Calls that read before they write."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest
from tests.calls.ledger import Ledger, Script, both, run

from moorline import errors
from moorline.calls.cache import Cache
from moorline.calls.call import Call
from moorline.calls.exchange import Exchange
from moorline.calls.failover import Failover
from moorline.calls.service import Plan, operation

HELD: tuple[int, dict[str, str], bytes] = (200, {}, b'{"id":"b_1","state":"held","left":7}')
PAID: tuple[int, dict[str, str], bytes] = (200, {}, b'{"id":"b_1","state":"paid","left":0}')
GIVEN: tuple[int, dict[str, str], bytes] = (200, {}, b'{"given":7}')
OVERTAKEN: tuple[int, dict[str, str], bytes] = (409, {}, b'{"error":{"code":"given"}}')
LOST = httpx2.ReadError("lost")
ONCE: dict[str, Any] = {"retry": None, "breaker": None}


class Bank(Ledger):
    """What is given back depends on what is left; a booking that is paid already is left alone."""

    name = "bank"

    @operation
    def give_back(self, id: str) -> Plan[Any]:
        """All that is left."""
        return self.post_after(self._sought(id), self._giving, parse=self._state, overtaken={"given"})

    @operation
    def end(self, id: str) -> Plan[Any]:
        """End it, which honours no key."""
        return self.post_after(self._sought(id), self._ending, parse=self._state, keyed=False)

    def _sought(self, id: str) -> Plan[Any]:
        return self.get(f"/bookings/{id}", parse=lambda exchange: exchange.data)

    def _giving(self, found: Any) -> Plan[Any] | None:
        if found["state"] == "paid":
            return None
        if not found["left"]:
            raise errors.InvalidRequest("id: nothing is left", code="id", outcome="not_sent")
        form = {"amount": found["left"]}
        return self.post(f"/bookings/{found['id']}/back", form=form, parse=lambda exchange: exchange.data["given"])

    def _ending(self, found: Any) -> Plan[Any] | None:
        ended = found["state"] == "paid"
        path = f"/bookings/{found['id']}/end"
        return None if ended else self.post(path, parse=self._state, keyed=False)

    def _state(self, exchange: Exchange) -> Any:
        return exchange.data["state"]


def bank(script: Script, **policy: Any) -> Any:
    return script.service(Bank, **policy)


def sent(script: Script) -> list[tuple[str, str, bytes]]:
    return [(request.method, request.url.path, request.content) for request in script.requests]


@both
def test_the_read_decides_what_is_written(colour):
    """The read comes first and without a key; the write that it leads to has the Call's, and its answer is the result."""
    script = Script(HELD, GIVEN)
    call = bank(script).give_back("b_1")
    assert run(colour, call) == 7
    assert sent(script) == [("GET", "/bookings/b_1", b""), ("POST", "/bookings/b_1/back", b"amount=7")]
    keys = [request.headers.get("idempotency-key") for request in script.requests]
    assert keys == [None, call.idempotency_key]
    assert call.idempotency_key is not None
    assert call.explain().count("attempt 1: 200") == 2
    assert run(colour, call.response()).data == {"given": 7}


@both
def test_nothing_left_to_do(colour):
    """Where the read finds it done, nothing is written, and its answer makes the result."""
    script = Script(PAID)
    assert run(colour, bank(script).give_back("b_1")) == "paid"
    assert len(script.requests) == 1


@both
def test_what_the_read_finds_wrong_was_not_sent(colour):
    """A refusal by what was found, and a read that failed, leave the write unsent; the latter is worth another try."""
    refused = Script((200, {}, b'{"id":"b_1","state":"held","left":0}'))
    with pytest.raises(errors.InvalidRequest, match="nothing is left") as caught:
        run(colour, bank(refused).give_back("b_1"))
    assert (caught.value.outcome, caught.value.retryable, caught.value.operation) == ("not_sent", False, "give_back")
    slow = Script(httpx2.ReadTimeout("slow"))
    call = bank(slow, **ONCE).give_back("b_1")
    with pytest.raises(errors.AttemptTimeout) as late:
        run(colour, call)
    assert (late.value.outcome, late.value.retryable) == ("not_sent", True)
    assert late.value.idempotency_key == call.idempotency_key
    odd = Script((200, {}, b'{"id":"b_1"}'))
    with pytest.raises(errors.BadAnswer) as bad:
        run(colour, bank(odd).give_back("b_1"))
    assert bad.value.outcome == "not_sent"


@both
def test_sent_again_it_writes_the_same(colour):
    """A Call whose answer was lost sends the same write under the same key: it does not look again at what is left."""
    script = Script(HELD, LOST, GIVEN)
    call = bank(script, **ONCE).give_back("b_1")
    with pytest.raises(errors.OutcomeUnknown):
        run(colour, call)
    assert run(colour, call) == 7
    assert sent(script)[1] == sent(script)[2]
    assert script.requests[1].headers["idempotency-key"] == script.requests[2].headers["idempotency-key"]
    assert len(script.requests) == 3
    script.answers = [PAID]
    assert run(colour, call.using(idempotency_key="another")) == "paid"  # which is another write, so it looks


@both
def test_without_a_key_it_looks_again(colour):
    """A write that honours no key is not repeated by itself; sent again, the Call finds that it is done."""
    script = Script(HELD, LOST, PAID)
    call = bank(script).end("b_1")
    assert call.idempotency_key is None
    with pytest.raises(errors.OutcomeUnknown):
        run(colour, call)
    assert run(colour, call) == "paid"
    assert [method for method, _path, _body in sent(script)] == ["GET", "POST", "GET"]


@both
def test_another_was_quicker(colour):
    """An error that says so leads to one more read: what that finds done is the result, within the Call's own story."""
    script = Script(HELD, OVERTAKEN, PAID)
    call = bank(script).give_back("b_1")
    assert run(colour, call) == "paid"
    assert [request.method for request in script.requests] == ["GET", "POST", "GET"]
    assert [word in call.explain() for word in ("attempt 1: 200", "attempt 1: 409")] == [True, True]


@both
@pytest.mark.parametrize("after", [HELD, 503, (200, {}, b'{"id":"b_1","state":"held","left":0}')])
def test_another_was_quicker_at_something_else(colour, after):
    """Where that read finds it undone, or fails, the write's own error stands."""
    script = Script(HELD, OVERTAKEN, after)
    with pytest.raises(errors.Conflict) as caught:
        run(colour, bank(script, **ONCE).give_back("b_1"))
    assert (caught.value.code, caught.value.outcome, len(script.requests)) == ("given", "done", 3)


@both
def test_other_conflicts_lead_to_no_read(colour):
    """What nobody named as such an error is raised at once."""
    script = Script(HELD, (409, {}, b'{"error":{"code":"locked"}}'))
    with pytest.raises(errors.Conflict):
        run(colour, bank(script, **ONCE).give_back("b_1"))
    assert len(script.requests) == 2


@both
def test_both_are_within_one_deadline(colour):
    """What the read takes is no longer there for the write."""
    script = Script(503, HELD, 503)
    call = bank(script).give_back("b_1").using(timeout=3.0, retry=5)
    with pytest.raises(errors.CallError):
        run(colour, call)
    assert script.times[-1] <= 3.0
    assert len(script.requests) > 2


def test_it_survives_a_queue():
    """A worker reads and writes with the key of the payload."""
    script = Script(HELD, GIVEN)
    service = bank(script)
    call = service.give_back("b_1")
    payload = json.loads(json.dumps(call.to_payload()))
    assert Call.from_payload(payload, lambda _name: service).result() == 7
    assert script.requests[1].headers["idempotency-key"] == call.idempotency_key


@both
def test_the_read_is_never_an_old_one(colour):
    """A cache answers reads of the user's, not this one."""
    script = Script((200, {"cache-control": "max-age=60"}, HELD[2]), GIVEN)
    script.answers[1:1] = [script.answers[0]]
    service = Bank("k", wire=httpx2.MockTransport(script), guards=script.service().guards, cache=Cache())
    assert run(colour, service.read("b_1")) == "b_1"
    assert run(colour, service.give_back("b_1")) == 7
    assert len(script.requests) == 3


@both
def test_it_fails_over(colour):
    """In a Failover a read that fails lets the next service do it, as nothing was written."""
    down, up = Script(LOST), Script(HELD, GIVEN)
    both_banks = Failover(bank(down, **ONCE), bank(up))
    assert run(colour, both_banks.give_back("b_1")) == 7


def test_it_cannot_be_read_in_parts():
    """Its answer comes whole: streams and downloads are refused."""
    call = bank(Script(HELD)).give_back("b_1")
    for refused in (call.stream, lambda: call.download("/nowhere")):
        with pytest.raises(errors.Misuse, match="reads before it writes"):
            refused()
