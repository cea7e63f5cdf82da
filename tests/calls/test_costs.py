from __future__ import annotations

from typing import Any

import pytest
from tests.calls.ledger import Ledger, Script, both, run
from tests.calls.test_limits import spent

from moorline.calls.call import Call
from moorline.calls.service import Plan, operation
from moorline.errors import ConfigurationError
from moorline.policies.rate import RateLimit


class Points(Ledger):
    """A service whose limit counts points: an export takes five of them."""

    name = "points"

    @operation
    def export(self) -> Plan[Any]:
        return self.post("/exports", parse=lambda exchange: exchange.data["id"], cost=5)


@both
def test_an_operation_takes_its_cost_from_our_quota(colour):
    """Of 10 points in 10 s two exports of 5 are sent at once, and a read after them waits for a point to come back."""
    script = Script(200)
    service: Any = script.service(Points, rate=RateLimit(10, per=10.0))
    run(colour, service.export())
    run(colour, service.export())
    run(colour, service.read("1"))
    assert script.times == pytest.approx([0, 0, 1])


@both
def test_a_calls_own_cost_takes_the_place_of_the_operations(colour):
    """``using(cost=…)`` says what this one Call takes; None is what the operation says."""
    script = Script(200)
    service: Any = script.service(Points, rate=RateLimit(10, per=10.0))
    run(colour, service.read("1").using(cost=8))
    run(colour, service.export().using(cost=2.5))
    run(colour, service.export().using(cost=2).using(cost=None))
    assert script.times == pytest.approx([0, 0.5, 5.5])


@both
def test_an_operation_takes_its_cost_from_what_the_service_leaves(colour):
    """Where the service says that 3 remain for 20 s, a read is sent and an export, which takes 5, waits for more."""
    script = Script(0, 200)
    script.answers[0] = spent(script, 3, 20)
    service: Any = script.service(Points)
    run(colour, service.read("1"))
    run(colour, service.read("1"))
    assert script.times == [0, 0]
    run(colour, service.export())
    assert script.times[2] == pytest.approx(20, abs=1)  # the reset is told in whole seconds


def test_a_cost_survives_a_queue():
    """The cost of a Call that is stored is that of the Call that is restored."""
    script = Script(200)
    service: Any = script.service(Points, rate=RateLimit(10, per=10.0))
    call = service.read("1").using(cost=8)
    again: Call[Any] = Call.from_payload(call.to_payload(), lambda _name: service)
    assert again.options == call.options
    again.result()
    again.result()
    assert script.times == pytest.approx([0, 6])


@pytest.mark.parametrize("cost", [0, -1, "5", True, float("nan"), float("inf")])
def test_a_cost_that_is_none_is_named(cost):
    """A cost is a positive number, in a Plan and in ``using``."""
    service: Any = Script(200).service(Points)
    with pytest.raises(ConfigurationError, match=r"Plan\.cost"):
        service.get("/x", parse=lambda exchange: exchange.data, cost=cost)
    with pytest.raises(ConfigurationError, match=r"using\.cost"):
        service.read("1").using(cost=cost)
