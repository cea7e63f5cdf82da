"""What each status and failure of the wire leads to, found by sending real Calls to a scripted wire and looking."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2

from moorline.calls.guards import Guards
from moorline.calls.service import BearerKey, Endpoints, IdempotencyKey, Plan, Service, operation
from moorline.clock import ManualClock
from moorline.errors import CallError
from moorline.policies.breaker import Breaker
from moorline.policies.policy import Policy
from moorline.policies.retry import Retry

__all__ = ["outcomes_page"]

STATUSES = (200, 301, 400, 401, 402, 403, 404, 408, 409, 410, 412, 413, 422, 425, 429, 500, 501, 502, 503, 504, 505)
ASKED = {"Retry-After": "3"}
FAILURES: tuple[tuple[str, Any], ...] = (
    ("connection refused, name unknown, TLS failed", httpx2.ConnectError("x")),
    ("no connection in time", httpx2.ConnectTimeout("x")),
    ("no free connection in our own pool", httpx2.PoolTimeout("x")),
    ("no answer in time", httpx2.ReadTimeout("x")),
    ("the upload stalls", httpx2.WriteTimeout("x")),
    ("the connection breaks", httpx2.ReadError("x")),
    ("the connection is closed without an answer", httpx2.RemoteProtocolError("x")),
    ("200 whose body cannot be decoded", httpx2.DecodingError("x")),
)


class Probe(Service):
    """A service of the tests of this page."""

    name, category = "probe", "business"
    endpoints = Endpoints("https://probe.example")
    credentials = BearerKey(env="PROBE_KEY")
    idempotency = IdempotencyKey()

    @operation
    def read(self) -> Plan[Any]:
        """A read."""
        return self.get("/x", parse=lambda exchange: exchange.data)

    @operation
    def write(self) -> Plan[Any]:
        """A write."""
        return self.post("/x", json={}, parse=lambda exchange: exchange.data)


class Keyless(Probe):
    """One that honours no idempotency keys."""

    name = "keyless"
    idempotency = None  # type: ignore[assignment]


class Seen:
    """What came of one Call: its error, the number of requests, and what breaker and gate learnt."""

    def __init__(self, kind: type[Probe], write: bool, answer: Any) -> None:  # noqa: FBT001 (a row of a table)
        self.requests = 0
        clock = ManualClock()
        guards = Guards(clock)
        policy = Policy(deadline=None, retry=Retry(retries=1, jitter="none"), breaker=Breaker(failures=100))

        def answered(_request: httpx2.Request) -> httpx2.Response:
            self.requests += 1
            if isinstance(answer, Exception):
                raise answer
            status, headers, body = answer
            return httpx2.Response(status, headers=headers, content=body)

        probe = kind("key", wire=httpx2.MockTransport(answered), policy=policy, guards=guards)
        self.error: CallError | None = None
        try:
            (probe.write() if write else probe.read()).result()
        except CallError as error:
            self.error = error
        (breaker,) = guards.breakers()[kind.name]
        found = breaker.snapshot()
        self.breaker = "failure" if found.failed else "success" if found.calls else "-"
        self.gate = "slows down" if guards.snapshot()[kind.name]["rate_gate"]["limits"] else "-"

    @property
    def said(self) -> str:
        """Class and outcome."""
        return "answer" if self.error is None else f"`{type(self.error).__name__}`"


def _rows() -> Iterator[tuple[str, Any]]:
    for status in STATUSES:
        yield f"{status}", (status, {}, b"{}")
        if status in (429, 503):
            yield f"{status} with `Retry-After`", (status, ASKED, b"{}")
    yield "200 that is no JSON", (200, {}, b"<html>")
    yield from FAILURES


def outcomes_page() -> str:
    """The table."""
    lines = [
        "# What each answer leads to",
        "",
        "Each line was found by sending a read, a write with an idempotency key that the service honours, and one",
        "without. *Again* says which of them are sent a second time, *outcome* what is known of the write without a",
        "key, *later* for which the same Call, sent again later, is safe and sensible (`error.retryable`). A",
        "service's own record may know better: codes that mean a limit, a declined card, a 200 that failed.",
        "",
        "| answer | read | write with key | write | fault | outcome | again | later | breaker | rate gate |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, answer in _rows():
        three = (Seen(Probe, False, answer), Seen(Probe, True, answer), Seen(Keyless, True, answer))
        read, _keyed, bare = three
        again = [word for word, seen in zip(("read", "key", "write"), three, strict=True) if seen.requests > 1]
        later = [
            word
            for word, seen in zip(("read", "key", "write"), three, strict=True)
            if seen.error is not None and seen.error.retryable
        ]
        fault = "-" if bare.error is None else bare.error.fault
        outcome = "done" if bare.error is None else bare.error.outcome.replace("_", " ")
        cells = [*(seen.said for seen in three), fault, outcome, ", ".join(again) or "no", ", ".join(later) or "no"]
        lines.append(f"| {name} | {' | '.join(cells)} | {read.breaker} | {read.gate} |")
    return "\n".join(lines) + "\n"
