"""What codes and types of a service mean, where they stand in several places or say different things."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.calls.ledger import Ledger, Script, both, run

from moorline import errors
from moorline.calls.service import ErrorMap, Plan, operation


class Till(Ledger):
    name = "till"
    errors = ErrorMap(
        code="errors.0.code|error",
        error_type="errors.0.category",
        message="errors.0.detail|message|error_description",
        declined={"METHOD"},
        kinds={"LATER": errors.ServiceUnavailable, "AUTH": errors.AuthenticationFailed},
        retry=frozenset({"LATER"}),
    )


def answer(status: int, **body: Any) -> tuple[int, dict[str, str], bytes]:
    return status, {}, json.dumps(body).encode()


def listed(code: str, category: str, **more: Any) -> tuple[int, dict[str, str], bytes]:
    return answer(400, errors=[{"code": code, "category": category, **more}])


@both
def test_the_code_is_believed_before_the_type(colour):
    """A code of its own meaning wins over its category; others of the category are what the category says."""
    once: dict[str, Any] = {"retry": None, "breaker": None}
    cases = [
        (listed("LATER", "METHOD"), errors.ServiceUnavailable),
        (listed("FUNDS", "METHOD"), errors.PaymentDeclined),
        (listed("KEY", "AUTH"), errors.AuthenticationFailed),
    ]
    for said, kind in cases:
        with pytest.raises(kind):
            run(colour, Script(said).service(Till, **once).book(1))


@both
def test_a_code_can_be_worth_another_try(colour):
    """A code among those to retry is tried again under the same key, whatever the status; others of that status not."""
    script = Script(listed("LATER", "METHOD"), 200)
    assert run(colour, script.service(Till).book(1)) == {"id": "b_1"}
    assert len({request.headers["idempotency-key"] for request in script.requests}) == 1
    other = Script(listed("FUNDS", "METHOD"), 200)
    with pytest.raises(errors.PaymentDeclined):
        run(colour, other.service(Till).book(1))
    assert len(other.requests) == 1


@pytest.mark.parametrize(
    ("said", "code", "message"),
    [
        (listed("A", "B", detail="first"), "A", "first"),
        (answer(400, message="second"), None, "second"),
        (answer(400, error="x", error_description="third"), "x", "third"),
        (answer(400), None, "answered 400"),
    ],
)
def test_the_first_place_that_holds_something_counts(said: Any, code: str | None, message: str):
    """Several paths are tried in turn."""
    with pytest.raises(errors.InvalidRequest) as caught:
        Script(said).service(Till).book(1).result()
    assert (caught.value.code, caught.value.message) == (code, message)


class Shelf(Ledger):
    name = "shelf"
    idempotency = None  # type: ignore[assignment]
    errors = ErrorMap(code="error", kinds={"LOCKED": errors.Conflict}, undone=frozenset({"LOCKED"}))

    @operation
    def reserve(self) -> Plan[Any]:
        return Plan("POST", "/bookings", lambda exchange: exchange.data, undone=("OVERTAKEN",))


@both
def test_a_code_can_say_that_nothing_was_done(colour):
    """After such a code a write that honours no key is sent again, now or later; after another code it is not."""
    script = Script(answer(400, error="LOCKED"), 200)
    assert run(colour, script.service(Shelf).book(1)) == {"id": "b_1"}
    for code, retryable in (("LOCKED", True), ("FULL", False)):
        script = Script(answer(400, error=code))
        with pytest.raises(errors.CallerFault) as caught:
            run(colour, script.service(Shelf, retry=None).book(1))
        assert (caught.value.retryable, len(script.requests)) == (retryable, 1)
    script = Script(answer(400, error="FULL"))
    with pytest.raises(errors.CallerFault):
        run(colour, script.service(Shelf).book(1))
    assert len(script.requests) == 1


@both
def test_a_code_can_say_so_of_one_request(colour):
    """What a Plan names is said of its own request, beside what the service says of all."""
    for code in ("OVERTAKEN", "LOCKED"):
        script = Script(answer(400, error=code), 200)
        shelf: Any = script.service(Shelf)
        assert run(colour, shelf.reserve()) == {"id": "b_1"}
    script = Script(answer(400, error="OVERTAKEN"))
    with pytest.raises(errors.CallerFault) as caught:
        run(colour, script.service(Shelf).book(1))
    assert (caught.value.retryable, len(script.requests)) == (False, 1)
