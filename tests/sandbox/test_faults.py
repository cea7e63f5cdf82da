from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorline.errors import ConfigurationError
from moorline.sandbox.faults import Fault, Faults, broken_json


def test_count_and_after():
    """A fault skips the first ``after`` requests, then strikes ``count`` times and is spent."""
    faults = Faults()
    faults.add(Fault("status", after=1, count=2))
    struck = [faults.rule("stripe", "GET", "/v1/x").fault is not None for _ in range(5)]
    assert struck == [False, True, True, False, False]
    assert faults.listing()[0]["spent"] is True


def test_filters():
    """Service, method and path pattern each keep a fault from other requests."""
    faults = Faults()
    faults.add(Fault("dropped", service="stripe", method="post", path="/v1/refunds*"))
    assert faults.rule("github", "POST", "/v1/refunds").fault is None
    assert faults.rule("stripe", "GET", "/v1/refunds").fault is None
    assert faults.rule("stripe", "POST", "/v1/payment_intents").fault is None
    assert faults.rule("stripe", "POST", "/v1/refunds/re_1/cancel").fault is not None


def test_latency_stacks():
    """Delays add up and leave the choice of the failing fault to the next in line."""
    faults = Faults()
    faults.add(Fault("latency", seconds=0.5))
    faults.add(Fault("latency", seconds=0.25))
    faults.add(Fault("status", status=500))
    ruling = faults.rule("stripe", "GET", "/")
    assert (ruling.delay, ruling.fault and ruling.fault.status) == (0.75, 500)


def test_same_seed_same_dice():
    """Two runs with one seed strike the same requests; another seed strikes others."""

    def strikes(seed: int) -> list[bool]:
        faults = Faults(seed)
        faults.add(Fault("status", probability=0.5))
        return [faults.rule("stripe", "GET", "/").fault is not None for _ in range(64)]

    assert strikes(1) == strikes(1) != strikes(2)
    assert 10 < sum(strikes(1)) < 54


def test_clear():
    """Faults are disarmed by service, by number, or all together."""
    faults = Faults()
    first = faults.add(Fault("dropped", service="stripe"))
    faults.add(Fault("dropped", service="github"))
    faults.add(Fault("dropped"))
    assert faults.clear(service="github") == 1
    assert faults.clear(number=first) == 1
    assert faults.clear() == 1
    assert faults.listing() == []


@pytest.mark.parametrize(
    ("record", "named"),
    [
        ([], "JSON object"),
        ({"kind": "sabotage"}, "'kind'"),
        ({"kind": "status", "colour": 1}, "'colour'"),
        ({"kind": "status", "status": 200}, "'status'"),
        ({"kind": "status", "status": 500.5}, "'status'"),
        ({"kind": "latency", "seconds": -1}, "'seconds'"),
        ({"kind": "status", "probability": 2}, "'probability'"),
        ({"kind": "status", "count": True}, "'count'"),
        ({"kind": "status", "path": 3}, "'path'"),
        ({"kind": "status", "headers": "x"}, "'headers'"),
        ({"kind": "status", "processed": "yes"}, "'processed'"),
        ({"kind": "status", "retry_after": []}, "'retry_after'"),
        ({"kind": "status", "retry_after": "a\r\nb: c"}, "'retry_after'"),
        ({"kind": "status", "headers": {"a": "b\nc"}}, "'headers'"),
    ],
)
def test_bad_fault_is_named(record: object, named: str):
    """A fault that cannot be is refused with the key that is wrong."""
    with pytest.raises(ConfigurationError, match=named):
        Fault.parse(record)


@given(
    st.recursive(st.none() | st.integers() | st.text(), lambda leaf: st.dictionaries(st.text(), leaf)), st.integers()
)
def test_broken_json_never_parses(value: object, seed: int):
    """Whatever the body was, the malformed one is no JSON."""
    spoilt = broken_json(json.dumps(value).encode(), seed=seed)
    with pytest.raises(ValueError, match=r".*"):
        json.loads(spoilt)
