"""Errors that are answers: ``Plan.accept``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from moorline import errors
from moorline.calls.dialects import BearerKey, Endpoints
from moorline.calls.exchange import Plan
from moorline.calls.faults import ErrorMap
from moorline.calls.guards import Guards
from moorline.calls.operations import operation
from moorline.calls.service import Service
from moorline.policies.breaker import Breaker
from moorline.policies.policy import Policy


class Pager(Service):
    """Pages devices, some of which are gone."""

    name, category = "pager", "tests"
    endpoints = Endpoints("https://pager.example")
    credentials = BearerKey(env="PAGER_KEY")
    errors = ErrorMap(code="code", message="message", request_id="header:X-Id")

    @operation
    def page(self, device: str) -> Plan[str]:
        """Page one."""

        def gone(error: errors.CallError) -> str | None:
            if error.code == "GONE":
                return f"{device} is gone: {error.code}, {error.request_id}, {error.operation}, {len(error.attempts)}"
            return "elsewhere" if "elsewhere" in error.message else None

        return self.post("/page", json={}, parse=lambda answer: str(answer.data), accept=gone)


def pager(status: int, body: dict[str, Any]) -> Pager:
    def answer(_request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(status, json=body, headers={"X-Id": "r1"})

    policy = Policy(breaker=Breaker(failures=1))
    return Pager("k", wire=httpx2.MockTransport(answer), guards=Guards(), policy=policy)


@pytest.fixture(params=["sync", "async"])
def run(request: pytest.FixtureRequest) -> Callable[[Any], Any]:
    async def awaited(call: Any) -> Any:
        return await call

    return (lambda call: call.result()) if request.param == "sync" else (lambda call: asyncio.run(awaited(call)))


def test_an_accepted_error_is_a_result(run: Callable[[Any], Any]):
    """It is made of the typed error, which knows its call; the service is well, so that no breaker opens."""
    service = pager(404, {"code": "GONE", "message": "no such device"})
    for _ in range(3):
        assert run(service.page("d1")) == "d1 is gone: GONE, r1, page, 1"


def test_other_errors_are_raised(run: Callable[[Any], Any]):
    """The same status with another code, or none, is the error that it ever was."""
    for body in ({"code": "NO_PROJECT", "message": "no"}, {}):
        with pytest.raises(errors.NotFound):
            run(pager(404, body).page("d1"))


def test_what_is_not_accepted_is_raised_as_it_stands(run: Callable[[Any], Any]):
    """Also where only the message tells them apart."""
    assert run(pager(400, {"code": "MOVED", "message": "look elsewhere"}).page("d1")) == "elsewhere"
    with pytest.raises(errors.InvalidRequest) as caught:
        run(pager(400, {"code": "MOVED", "message": "to nowhere"}).page("d1"))
    error = caught.value
    assert (error.service, error.operation, error.status, error.retryable) == ("pager", "page", 400, False)
    assert (error.outcome, error.request_id) == ("done", "r1")


def test_the_answer_itself_can_be_had(run: Callable[[Any], Any]):
    """``response()`` gives the status and the body as they came."""
    exchange = run(pager(404, {"code": "GONE"}).page("d1").response())
    assert (exchange.status, exchange.data) == (404, {"code": "GONE"})
