from __future__ import annotations

import contextlib

import pytest
from tests.calls.ledger import CANARY, Mail, Script, both, run

from moorline import errors
from moorline.policies.breaker import Breaker
from moorline.policies.rate import RateLimit
from moorline.policies.retry import Retry

PLAIN = Retry(jitter="none")


def explained(colour, call) -> list[str]:
    with contextlib.suppress(errors.CallError):
        run(colour, call)
    text: str = call.explain()
    return text.splitlines()


@both
def test_the_time_line_of_a_call_that_worked_at_last(colour):
    """Attempts, retries with their waits and causes, each with the seconds since the call began."""
    call = Script(503, (429, {"retry-after": "3"}, b""), 200).service(retry=PLAIN).read("x")
    assert call.explain() == "ledger.read: not sent yet"
    assert explained(colour, call) == [
        "ledger.read: answered 200 after 4.000 s, 3 attempts",
        "  +0.000 s  attempt 1: 503 after 0.000 s (answered 503)",
        "  +0.000 s  retry 1 in 1 s: answered 503",
        "  +1.000 s  attempt 2: 429 after 0.000 s (answered 429)",
        "  +1.000 s  retry 2 in 3 s: answered 429",
        "  +4.000 s  attempt 3: 200 after 0.000 s (answered)",
    ]


@both
def test_a_call_that_failed_says_why_no_other_attempt_followed(colour):
    """The first line names the error and the outcome, the last why it ended there."""
    lines = explained(colour, Script(500).service(Mail).book(5))
    assert lines[0].startswith("mail.book: ServiceUnavailable after 0.000 s, 1 attempt, outcome done")
    assert lines[-1].endswith("no other attempt: it may have acted: book carries no idempotency key")


@both
def test_refusals_and_waits(colour):
    """An open circuit, an own quota and a breaker that ends the retries are named."""
    service = Script(500).service(retry=PLAIN, breaker=Breaker(failures=2), deadline=20.0)
    lines = explained(colour, service.read("x"))
    assert lines[-1].endswith("no other attempt: the breaker is open for another 30 s, beyond the deadline")
    lines = explained(colour, service.read("x"))
    assert lines[1] == "  +0.000 s  refused by the breaker: not sent: the circuit is open (2 failures in a row)"
    limited = Script(200).service(rate=RateLimit(1, per=5, burst=1))
    run(colour, limited.read("x"))
    assert explained(colour, limited.read("x"))[1].startswith("  +0.000 s  waits at the rate gate, 5 s: ")


@both
def test_fallbacks(colour):
    """What stood in for the service is named, in the first line and at its time."""
    service = Script(200, 500).service(retry=None)
    kept = service.read("x").or_last_good()
    run(colour, kept)
    lines = explained(colour, kept)
    assert lines[0].endswith("(answered 500); the last good answer, 0 s old stood in")
    assert lines[-1].endswith("falls back to the last good answer, 0 s old: answered 500")
    assert explained(colour, service.read("y").or_else(None))[0].endswith("what or_else gives stood in")


@both
def test_it_tells_of_the_last_sending(colour):
    """Sending the same Call again begins a new time line."""
    call = Script(503, 200).service(retry=None).read("x")
    with pytest.raises(errors.ServiceUnavailable):
        run(colour, call)
    assert explained(colour, call) == [
        "ledger.read: answered 200 after 0.000 s, 1 attempt",
        "  +0.000 s  attempt 1: 200 after 0.000 s (answered)",
    ]


@both
def test_it_holds_no_secret(colour):
    """Neither the key nor the arguments are in the time line."""
    call = Script(500).service(retry=PLAIN).read("argument-of-mine")
    text = "".join(explained(colour, call))
    assert CANARY not in text
    assert "argument-of-mine" not in text
