"""Under SDKs that leave HTTP to us: they hand over a whole request and get the whole answer back.

The wire is moorline's own, so that the answer's body is read within the attempt and the deadline, and a truncated one
is asked for again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Final

import httpx2

from moorline.calls.adapters.arguments import checked
from moorline.calls.clients import Clients
from moorline.calls.dialects import RateLimitHeaders
from moorline.calls.drivers import drive, drive_async
from moorline.calls.effects import CallContext, Lease
from moorline.calls.engine import Pipeline
from moorline.calls.exchange import Exchange
from moorline.calls.faults import kind_of_status
from moorline.calls.guards import Guards
from moorline.calls.sending import ServiceRequest
from moorline.calls.wires import AsyncServiceWire, SyncServiceWire
from moorline.errors import Attempt, CallError, RateLimited, ServiceUnavailable
from moorline.policies.policy import Policy

__all__ = ["Ask", "Line", "judged"]

Judge = Callable[[Exchange], CallError | None]
Dress = Callable[[CallError, ServiceRequest, Exchange | None], CallError]

MOST_BODY: Final = 64 * 1024 * 1024


def judged(answer: Exchange) -> CallError | None:
    """The error that a status means; what an SDK may make of it beyond that is its own affair."""
    status = answer.status
    return kind_of_status(status)(f"answered {status}", status=status) if status >= 400 else None


class Ask(CallContext[ServiceRequest, Exchange]):
    """One call of an SDK. What gives no answer is raised, and so are limits and 5xx; other statuses are answers.

    *timeout* is what the SDK's user allows an attempt; the policy may allow less.
    """

    __slots__ = ("_answer", "_line", "_request")

    def __init__(
        self,
        line: Line,
        request: ServiceRequest,
        *,
        operation: str,
        idempotent: bool,
        key: str | None = None,
        timeout: float | None = None,
    ) -> None:
        policy = line.policy
        if timeout is not None:
            most = policy.attempt_timeout
            policy = replace(policy, attempt_timeout=timeout if most is None else min(timeout, most))
        super().__init__(
            service=line.name,
            operation=operation,
            policy=policy,
            guard=line.guard,
            limits=line.limits,
            idempotent=idempotent,
            key=None if idempotent else key,
            clock=line.guards.clock,
            retried=line.retried,
        )
        self._line = line
        self._request = request
        self._answer: Exchange | None = None

    def request(self) -> ServiceRequest:
        """The same request again."""
        return self._request

    def judge(self, answer: Exchange) -> CallError | None:
        """As the line judges."""
        return self._line.judge(answer)

    def succeeded(
        self,
        answer: Exchange,
        lease: Lease,
        deadline: float,  # noqa: ARG002 (the whole body is read within the attempt)
        attempts: tuple[Attempt, ...],
    ) -> Exchange:
        """The answer is read: nothing is held any longer."""
        lease.settle(worked=True, elapsed=attempts[-1].elapsed)
        answer.attempts = attempts
        return answer

    def unsuccessful(self, answer: Exchange, error: CallError, deadline: float) -> Exchange | None:  # noqa: ARG002
        """What is the caller's affair goes back to the SDK, which has its own errors for it."""
        if isinstance(error, (RateLimited, ServiceUnavailable)):
            self._answer = answer
            return None
        return answer

    def raised(self, error: CallError) -> CallError:
        """The error as the SDK's own."""
        return self._line.dress(error, self._request, self._answer)


class Line:
    """What all calls of one SDK client share: policy, name and state, connections, and how answers are read.

    *retried* are statuses worth repeating beside the usual ones; *dress* makes an error one of the SDK's own, given the
    request, and the answer if there was one; *wire* is an httpx2 transport to use in place of moorline's;
    *apart* tells that each operation has a rate limit of its own.

    Raises ConfigurationError naming the argument of *owner*.
    """

    def __init__(
        self,
        owner: str,
        policy: Policy | None,
        *,
        name: str,
        guards: Guards | None,
        dress: Dress,
        judge: Judge = judged,
        limits: RateLimitHeaders | None = None,
        retried: Collection[int] = (),
        wire: httpx2.BaseTransport | httpx2.AsyncBaseTransport | None = None,
        apart: bool = False,
    ) -> None:
        self.policy, self.guards = checked(owner, policy, name, guards)
        self.name = name
        self.guard = self.guards.guard(name, self.policy, apart=apart)
        self.dress = dress
        self.judge = judge
        self.limits = limits or RateLimitHeaders()
        self.retried = retried
        self._wire = wire
        self._clients = Clients()

    def send(self, ask: Ask) -> Exchange:
        """Send and block. Raises CallError in the SDK's dress."""
        return drive(Pipeline(ask).run(), SyncServiceWire(self.blocking()), ask.clock)

    async def send_async(self, ask: Ask) -> Exchange:
        """As ``send``, on the event loop."""
        wire = AsyncServiceWire(await self.for_loop(), marks=self._wire is None)
        return await drive_async(Pipeline(ask).run(), wire, ask.clock)

    def blocking(self) -> httpx2.BaseTransport:
        """The wire for blocking calls."""
        return self._wire if isinstance(self._wire, httpx2.BaseTransport) else self._clients.blocking()

    async def for_loop(self) -> httpx2.AsyncBaseTransport:
        """The wire for this event loop."""
        return self._wire if isinstance(self._wire, httpx2.AsyncBaseTransport) else await self._clients.for_loop()

    def close(self) -> None:
        """Close the connections of blocking calls."""
        self._clients.close()

    async def aclose(self) -> None:
        """Close the connections of this loop, and of blocking calls."""
        await self._clients.aclose()
