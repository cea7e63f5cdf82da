"""What the engine asks of a driver, and what it knows of one call: the seam between decisions and I/O."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar

from moorline.calls.dialects import RateLimitHeaders
from moorline.calls.faults import usual_request_id
from moorline.calls.guards import Guard
from moorline.calls.story import Story
from moorline.clock import SYSTEM, Clock
from moorline.errors import Attempt, CallError
from moorline.policies.breaker import Permit
from moorline.policies.bulkhead import Ticket
from moorline.policies.gate import Pass
from moorline.policies.policy import Policy

if TYPE_CHECKING:
    from moorline.calls.shared_guard import Agreed
    from moorline.calls.shared_store import Question

__all__ = [
    "POOL",
    "Answer",
    "CallContext",
    "Discard",
    "Effect",
    "Expired",
    "Lease",
    "Outgoing",
    "Renew",
    "Send",
    "Sleep",
    "SlotLease",
    "Wait",
]


class Answer(Protocol):
    """What the engine sees of a response."""

    @property
    def status(self) -> int:
        """The HTTP status."""
        ...

    def header(self, name: str, default: str | None = None) -> str | None:
        """The value of a header, its name in lower case."""
        ...


class Outgoing(Protocol):
    """What the engine sees of a request."""

    @property
    def replayable(self) -> bool:
        """Whether the body can still be sent from its start."""
        ...


POOL: Final = "pool"  # the code of an error that means: our own pool was full

A = TypeVar("A", bound=Answer)
R = TypeVar("R", bound=Outgoing)


class Expired(Exception):
    """The timer of an attempt rang. *sent*: whether anything may have reached the service by then. *in_pool*: whether
    it was still waiting for a connection of our own pool, of which the service knows nothing.
    """

    def __init__(self, *, sent: bool, in_pool: bool = False) -> None:
        super().__init__("the time of this attempt is over")
        self.sent = sent
        self.in_pool = in_pool


@dataclass(slots=True)
class Send:
    """Send *request* and resume with an Answer within *timeout* seconds, or with Expired."""

    request: Any
    timeout: float | None


@dataclass(slots=True)
class Sleep:
    """Do nothing for *seconds*."""

    seconds: float


@dataclass(slots=True)
class Wait:
    """Resume with True when *ticket*, or the place in the rate gate, is granted, or a question to other processes is
    answered; with False after *timeout* seconds.
    """

    ticket: Ticket | Pass | Question
    timeout: float | None


@dataclass(slots=True)
class Discard:
    """The answer is not wanted: free its connection, within *timeout* seconds."""

    answer: Any
    timeout: float | None


@dataclass(slots=True)
class Renew:
    """The service refused the credential: get a newer one within *timeout* seconds. Resume with whether there is."""

    context: CallContext[Any, Any]
    timeout: float | None


Effect = Send | Sleep | Wait | Discard | Renew


class Lease(Protocol):
    """What an attempt holds: a permit of the breaker, perhaps a slot. Settled once; a streamed answer keeps it until
    it is closed.
    """

    def settle(self, *, worked: bool | None, elapsed: float = 0.0) -> None:
        """Free it, and tell the breaker whether the service worked (None: nothing was learnt), and in how many
        seconds.
        """
        ...


class SlotLease:
    """A lease with a place in the bulkhead, one that all processes agreed on, or of a service without a breaker.
    Otherwise the permit itself is one.
    """

    __slots__ = ("agreed", "permit", "ticket")

    def __init__(self, permit: Permit | None) -> None:
        self.permit = permit
        self.agreed: Agreed | None = None
        self.ticket: Ticket | None = None

    def settle(self, *, worked: bool | None, elapsed: float = 0.0) -> None:
        """As ``Lease.settle``."""
        permit, ticket, agreed = self.permit, self.ticket, self.agreed
        self.permit = self.ticket = self.agreed = None
        if agreed is not None:
            agreed.settle(worked=worked, elapsed=elapsed)
        if ticket is not None:
            ticket.leave()
        if permit is not None:
            permit.settle(worked=worked, elapsed=elapsed)


class CallContext(Generic[R, A]):
    """One call, as the engine needs it. A service's Call and a plain httpx2 request each fill in the holes.

    *idempotent* tells whether the request itself is safe to repeat, *key* is the idempotency key that the service
    honours, *retried* are statuses and codes worth repeating beside the usual ones, *random* gives numbers from 0 to 1
    for jitter.
    *story*, where it is a list, is filled with what happens; *cost* is what an attempt takes from the service's quota.
    """

    __slots__ = (
        "clock",
        "cost",
        "guard",
        "idempotent",
        "key",
        "limits",
        "operation",
        "policy",
        "random",
        "retried",
        "service",
        "story",
    )

    undone: Collection[str] = ()  # codes that say that nothing was done, so that any request may be repeated
    tries: list[float] | None = None  # for ``reached``; None where nobody wants to know
    renewable = False  # whether ``renew`` may find another credential after a 401

    def __init__(
        self,
        *,
        service: str,
        operation: str,
        policy: Policy,
        guard: Guard,
        limits: RateLimitHeaders,
        idempotent: bool,
        key: str | None,
        clock: Clock = SYSTEM,
        retried: Collection[int | str] = (),
        random: Callable[[], float] = random.random,
        story: Story | None = None,
        cost: float = 1.0,
    ) -> None:
        self.service = service
        self.operation = operation
        self.policy = policy
        self.guard = guard
        self.limits = limits
        self.idempotent = idempotent
        self.key = key
        self.clock = clock
        self.retried = retried
        self.random = random
        self.story = story
        self.cost = cost

    @property
    def lane(self) -> str:
        """Which limits of the service it counts against, as the rate gate is asked."""
        return self.operation

    def request(self) -> R:
        """The request of the next attempt, with fresh credentials."""
        raise NotImplementedError

    def another(self) -> bool:
        """After a 403, whether there is another accepted version of the credential; the next attempt uses it."""
        return False

    def redirected(self, request: R, answer: A, hops: int) -> R | None:  # noqa: ARG002 (a hole to fill)
        """The request that follows a redirect, after *hops* of them; None where the answer stands for itself."""
        return None

    def judge(self, answer: A) -> CallError | None:
        """The error that the answer is, or None for a success."""
        raise NotImplementedError

    def succeeded(self, answer: A, lease: Lease, deadline: float, attempts: tuple[Attempt, ...]) -> A:
        """The result of a good call. Settles the lease, or hands it to the answer's stream, which ends at
        *deadline*.
        """
        raise NotImplementedError

    def unsuccessful(self, answer: A, error: CallError, deadline: float) -> A | None:  # noqa: ARG002
        """The answer of a failed call for who wants statuses as answers; None to have *error* raised, which knows its
        attempts.
        """
        return None

    def request_id_of(self, answer: A) -> str | None:
        """The service's own name for this request, if it gave one."""
        return usual_request_id(answer)

    def reached(self, at: float) -> None:
        """An attempt that began then (epoch seconds) may have been sent; asked only where there are ``tries``."""
        tries = self.tries
        if tries is not None and (not tries or at < tries[0]):
            tries[:] = [at]

    def translated(self, error: Exception, *, in_body: bool = False) -> CallError:
        """What an exception of the client underneath means, *in_body* once the head of the answer was there."""
        raise NotImplementedError

    def renew(self, timeout: float | None) -> bool:  # noqa: ARG002 (a hole to fill)
        """Look for a newer credential than the one that the last request carried, for at most *timeout* seconds.

        Returns whether there is one.
        """
        return False

    async def renew_async(self) -> bool:
        """As ``renew``, on the event loop, where the driver bounds it."""
        return self.renew(None)

    def raised(self, error: CallError) -> CallError:
        """*error* in the class that this kind of caller expects."""
        return error
