"""A small service and scripted answers, for the tests of the pipeline in both colours."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import pytest

from moorline.calls.guards import Guards
from moorline.calls.service import (
    BearerKey,
    Endpoints,
    ErrorMap,
    IdempotencyKey,
    Page,
    Plan,
    RateLimitHeaders,
    Service,
    listing,
    operation,
)
from moorline.clock import ManualClock
from moorline.policies.policy import Policy
from moorline.transport import AsyncTransport, Transport

CANARY = "sk_live_canary0123456789abcdef"


class Ledger(Service):
    name, category = "ledger", "business"
    endpoints = Endpoints("https://ledger.example")
    credentials = BearerKey(env="LEDGER_KEY")
    idempotency = IdempotencyKey()
    limits = RateLimitHeaders(should_retry="X-Should-Retry", remaining="X-Left", reset="X-Reset")
    errors = ErrorMap(code="error.code", message="error.message", request_id="header:Request-Id", declined={"declined"})

    @operation
    def book(self, /, amount: int, **extra: object) -> Plan[Any]:
        return self.post("/bookings", form={"amount": amount, **extra}, parse=lambda exchange: exchange.data)

    @operation
    def read(self, id: str) -> Plan[Any]:
        return self.get(f"/bookings/{id}", parse=lambda exchange: exchange.data["id"])

    @listing
    def all(self) -> Plan[Page[int]]:
        return self.get("/bookings", parse=self._page)

    def _page(self, exchange) -> Page[int]:
        after = exchange.link("next")
        return Page(tuple(exchange.data), self.get(after, parse=self._page) if after else None)

    @listing
    def found(self) -> Plan[Page[int]]:
        return self._found(None)

    def _found(self, after: str | None) -> Plan[Page[int]]:
        return self.post("/search", json={"after": after}, parse=self._finding, repeatable=True, keyed=False)

    def _finding(self, exchange) -> Page[int]:
        after = exchange.data.get("after")
        return Page(tuple(exchange.data["items"]), self._found(after) if after else None)


class Mail(Ledger):
    name = "mail"
    idempotency = None  # type: ignore[assignment]


class Script:
    """Answers in turn; the last one for ever. An exception is raised."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.requests: list[httpx2.Request] = []
        self.times: list[float] = []
        self.clock = ManualClock()

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        self.times.append(self.clock.monotonic())
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, int):
            return httpx2.Response(answer, json={"id": "b_1"})
        status, headers, body = answer
        return httpx2.Response(status, headers=headers, content=body)

    def service(self, kind: type[Ledger] = Ledger, **policy: Any) -> Ledger:
        return kind(CANARY, wire=httpx2.MockTransport(self), policy=Policy(**policy), guards=Guards(self.clock))


def run(colour: str, call: Any) -> Any:
    if colour == "sync":
        return call.result()

    async def wait() -> Any:
        return await call

    return asyncio.run(wait())


both = pytest.mark.parametrize("colour", ["sync", "async"])


def request(colour: str, policy: Policy, method: str, url: str, transport: Any = None, **body: Any) -> httpx2.Response:
    """The response of a plain client through our transport."""
    if colour == "sync":
        with httpx2.Client(transport=transport or Transport(policy)) as client:
            return client.request(method, url, **body)

    async def send() -> httpx2.Response:
        async with httpx2.AsyncClient(transport=transport or AsyncTransport(policy)) as client:
            return await client.request(method, url, **body)

    return asyncio.run(send())
