"""Idempotency keys that travel in a field of the JSON body, and writes that honour none."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.calls.ledger import Ledger, Script, both, run

from moorline.calls.call import Call
from moorline.calls.service import IdempotencyKey, Plan, operation
from moorline.errors import ConfigurationError, ServiceUnavailable


class Notes(Ledger):
    name = "notes"
    idempotency = IdempotencyKey(field="idempotency_key", max_length=45, like="[0-9a-z-]+")

    @operation
    def note(self, /, text: str, **extra: object) -> Plan[Any]:
        return self.post("/notes", json={"text": text, **extra}, parse=lambda exchange: exchange.data)

    @operation
    def finish(self, id: str) -> Plan[Any]:
        return self.post(f"/notes/{id}/finish", json={}, parse=lambda exchange: exchange.data, keyed=False)

    @operation
    def follow(self, /, id: str, **extra: object) -> Plan[Any]:
        read = self.get(f"/notes/{id}", parse=lambda exchange: exchange.data)
        return self.post_after(read, lambda _found: self.note(id, **extra).plan, parse=lambda _: None, json=extra)


def bodies(script: Script) -> list[Any]:
    return [json.loads(request.content) for request in script.requests]


@both
def test_the_key_is_a_field_of_the_body(colour):
    """Each attempt carries the same key in the body and none in a header; the text is sent as it was given."""
    script = Script(503, 200)
    service: Any = script.service(Notes)
    call = service.note("ü 1.10", at=1.1)
    run(colour, call)
    assert bodies(script) == [{"text": "ü 1.10", "at": 1.1, "idempotency_key": call.idempotency_key}] * 2
    assert all("idempotency-key" not in request.headers for request in script.requests)


def test_one_of_your_own():
    """A key of the caller's, as an option or as the vendor's field, is the Call's; a later one takes its place."""
    script = Script(200)
    service: Any = script.service(Notes)
    named = service.note("x", idempotency_key="order-42")
    assert named.idempotency_key == "order-42"
    named.result()
    named.using(idempotency_key="order-43").result()
    service.follow("x", idempotency_key="order-44").result()
    keys = [json.loads(request.content)["idempotency_key"] for request in script.requests if request.content]
    assert keys == ["order-42", "order-43", "order-44"]
    for wrong in ("Order", "x" * 46):
        with pytest.raises(ConfigurationError, match="idempotency_key must"):
            service.note("x", idempotency_key=wrong)


def test_it_survives_a_queue():
    """The key of the payload is in the body that the worker sends."""
    script = Script(200)
    service: Any = script.service(Notes)
    call = service.note("x")
    payload = json.loads(json.dumps(call.to_payload()))
    Call.from_payload(payload, lambda _name: service).result()
    assert bodies(script) == [{"text": "x", "idempotency_key": call.idempotency_key}]


@both
def test_a_write_that_honours_no_key(colour):
    """It has none, is not repeated when its answer is lost, and takes none as an option."""
    script = Script((502, {}, b"{}"))
    service: Any = script.service(Notes)
    call = service.finish("1")
    assert call.idempotency_key is None
    with pytest.raises(ServiceUnavailable) as caught:
        run(colour, call)
    assert (caught.value.outcome, caught.value.retryable, bodies(script)) == ("unknown", False, [{}])
    with pytest.raises(ConfigurationError, match="honours none on finish"):
        call.using(idempotency_key="k")


def test_any_other_endpoint_has_one_if_its_body_names_it():
    """request() adds no field that an endpoint may not know; named, it is the key, or a new one where it is None."""
    script = Script(200)
    service: Any = script.service(Notes)
    calls = [
        service.request("POST", "/others", json=body)
        for body in ({"a": 1}, {"idempotency_key": "mine"}, {"idempotency_key": None}, [1], None)
    ]
    assert [call.idempotency_key is not None for call in calls] == [False, True, True, False, False]
    for call in calls:
        call.result()
    sent = [json.loads(request.content or b"null") for request in script.requests]
    assert sent == [{"a": 1}, {"idempotency_key": "mine"}, {"idempotency_key": calls[2].idempotency_key}, [1], None]
