"""What services say with a refusal beyond its status: when to come back, and what became of a key."""

from __future__ import annotations

import json
import re
from email.utils import formatdate
from typing import Any

import pytest
from tests.calls.ledger import Ledger, Script, both, run

from moorline import errors
from moorline.calls.service import ErrorMap, Plan, operation


class Wordy(Ledger):
    name = "wordy"
    errors = ErrorMap(
        code="name",
        message="message",
        key_reused=frozenset({"used"}),
        kinds={"spent": errors.LimitFault},
        until=re.compile(r"try again after (.+)"),
        retry=frozenset({409}),
    )

    @operation
    def strike(self) -> Plan[Any]:
        return self.post("/strike", parse=lambda exchange: exchange.data, keyed=False)


def said(status: int, name: str, message: str = "No") -> tuple[int, dict[str, str], bytes]:
    return status, {}, json.dumps({"name": name, "message": message}).encode()


@both
def test_a_limit_that_names_its_end_in_words(colour):
    """The time in the message is obeyed as one in Retry-After: waited for, or told where it is too far away."""
    script = Script(0, 200)
    script.answers[0] = said(429, "slow", f"try again after {formatdate(script.clock.wall() + 12)}")
    assert run(colour, script.service(Wordy).read("1")) == "b_1"
    assert 11 <= script.times[1] <= 12.1
    end = int(script.clock.wall()) + 3600
    script = Script(said(429, "slow", f"try again after {formatdate(end, usegmt=True)}"))
    with pytest.raises(errors.RateLimited) as caught:
        run(colour, script.service(Wordy).read("1"))
    assert (caught.value.retry_at, len(script.requests)) == (end, 1)
    script = Script(said(429, "slow", "try again after lunch"), 200)
    assert run(colour, script.service(Wordy).read("1")) == "b_1"


@both
def test_a_spent_quota_is_not_asked_again(colour):
    """A 429 that a service's words make a LimitFault, and no RateLimited, ends the call; later it may go well."""
    script = Script(said(429, "spent"), 200)
    service = script.service(Wordy)
    with pytest.raises(errors.LimitFault) as caught:
        run(colour, service.book(1))
    assert (len(script.requests), caught.value.retryable, caught.value.outcome) == (1, True, "done")
    run(colour, service.book(1))


@both
def test_a_409_has_two_meanings(colour):
    """One for a key that is still at work is repeated; one for a key that was used otherwise is not."""
    script = Script(said(409, "working"), 200)
    run(colour, script.service(Wordy).book(1))
    assert len(script.requests) == 2
    script = Script(said(409, "used"), 200)
    with pytest.raises(errors.IdempotencyConflict) as caught:
        run(colour, script.service(Wordy).book(1))
    assert (len(script.requests), caught.value.retryable) == (1, False)


@both
def test_a_write_without_a_key_at_a_service_that_has_them(colour):
    """``keyed=False`` mints no key: such a write is sent once, and its lost answer is OutcomeUnknown."""
    script = Script(504)
    service: Any = script.service(Wordy)
    call = service.strike()
    assert (call.idempotency_key, call.repeatable) == (None, False)
    with pytest.raises(errors.ServiceUnavailable) as caught:
        run(colour, call)
    assert (len(script.requests), caught.value.outcome, caught.value.retryable) == (1, "unknown", False)
    assert "idempotency-key" not in script.requests[0].headers
    with pytest.raises(errors.ConfigurationError, match="honours none on strike"):
        call.using(idempotency_key="k-1")
