"""The order of the pipeline: where several parts stand in a call's way, the outer one answers."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.calls.ledger import CANARY, Ledger, Script, both, run

from moorline import errors
from moorline.calls.guards import Guards
from moorline.errors import ConfigurationError
from moorline.policies.breaker import Breaker
from moorline.policies.bulkhead import Bulkhead
from moorline.policies.policy import Policy
from moorline.policies.rate import RateLimit
from moorline.policies.retry import Retry

ROOT = Path(__file__).resolve().parents[2]
POLICY = Policy(
    deadline=5.0, retry=None, breaker=Breaker(), rate=RateLimit(1, per=60.0), bulkhead=Bulkhead(1), admission=1
)

# Each part, in its order: how it is brought to refuse, and what it says then.
REFUSALS: dict[str, tuple[Callable[[Any, list[str]], object], type[Exception], str]] = {
    "admission cap": (lambda guard, _keys: guard.admission.enter(), errors.BulkheadFull, "calls are under way"),
    "breaker": (lambda guard, _keys: guard.breaker.force("open"), errors.CircuitOpen, "the circuit is open"),
    "rate gate": (lambda guard, _keys: guard.gate.take(1.0), errors.RateLimited, "beyond the deadline"),
    "bulkhead": (lambda guard, _keys: guard.bulkhead.enter(), errors.BulkheadFull, "in flight"),
    "fresh credentials": (lambda _guard, keys: keys.clear(), ConfigurationError, "no key today"),
    "the wire": (lambda _guard, _keys: None, errors.ServiceUnavailable, "answered 500"),
}


def _service(script: Script, keys: list[str], policy: Policy = POLICY) -> Ledger:
    def key() -> str:
        if not keys:
            raise ConfigurationError("no key today")
        return keys[0]

    return Ledger(key, wire=httpx2.MockTransport(script), policy=policy, guards=Guards(script.clock))


@both
@pytest.mark.parametrize(("outer", "inner"), list(pairwise(REFUSALS)))
def test_the_outer_part_answers(colour, outer, inner):
    """Of two parts that both refuse, the one further out does so, and what is inside is not asked."""
    script, keys = Script(500), [CANARY]
    service = _service(script, keys)
    guard = service._guard(service.base_url, service.policy)
    for part in (inner, outer):
        REFUSALS[part][0](guard, keys)
    _refuse, kind, said = REFUSALS[outer]
    with pytest.raises(kind, match=said):
        run(colour, service.read("1"))
    assert not script.requests


@both
@pytest.mark.parametrize("part", [part for part in REFUSALS if part != "fresh credentials"])
def test_the_fallback_is_outside_of_all(colour, part):
    """Whatever part refuses, the fallback answers instead. A missing key is the program's own fault, and is raised."""
    script, keys = Script(500), [CANARY]
    service = _service(script, keys)
    REFUSALS[part][0](service._guard(service.base_url, service.policy), keys)
    assert run(colour, service.read("1").or_else("instead")) == "instead"


@both
def test_a_retry_passes_what_is_inside_of_it(colour):
    """Each attempt asks the breaker, the gate and for the key anew; a call that backs off counts at the admission cap
    and holds no slot of the bulkhead.
    """
    policy = Policy(
        retry=Retry(retries=2, jitter="none"),
        breaker=Breaker(),
        rate=RateLimit(100),
        bulkhead=Bulkhead(1),
        admission=1,
    )
    script, keys = Script(503, 503, 200), [CANARY]
    service = _service(script, keys, policy)
    guard = service._guard(service.base_url, policy)
    seen: list[tuple[int, int]] = []
    clock: Any = script.clock
    sleep, asleep = clock.sleep, clock.asleep

    def look() -> None:
        assert guard.bulkhead is not None
        assert guard.admission is not None
        seen.append((guard.admission.under_way, guard.bulkhead.busy))
        keys[0] = "another"

    def slept(seconds: float) -> None:
        look()
        sleep(seconds)

    async def slept_async(seconds: float) -> None:
        look()
        await asleep(seconds)

    clock.sleep, clock.asleep = slept, slept_async
    run(colour, service.read("1"))
    assert seen == [(1, 0), (1, 0)]
    sent = [request.headers["authorization"] for request in script.requests]
    assert sent == [f"Bearer {CANARY}", "Bearer another", "Bearer another"]


def test_the_picture_shows_this_order():
    """The picture of the pipeline has its parts in the order that these tests prove."""
    drawn = runpy.run_path(str(ROOT / "scripts" / "pipeline.py"))
    names = [name for name, *_ in (*drawn["WHOLE"], *drawn["EACH"])]
    assert [name for name in names if name in REFUSALS] == list(REFUSALS)
    assert names[:2] == ["fallback", "total deadline"]
    assert names.index("retry with budget") == names.index("breaker") - 1
