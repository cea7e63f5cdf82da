"""What adapters to clients that hand out responses share: a request of such a client as the engine sees it, and the
body of its answer, watched until it ends.

An adapter fills in the holes of ``Foreign`` and gives ``drive`` or ``drive_async`` a wire of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, Final

from moorline import redaction
from moorline.calls.dialects import RateLimitHeaders
from moorline.calls.effects import CallContext, Lease
from moorline.calls.exchange import IDEMPOTENT
from moorline.calls.faults import usual_request_id
from moorline.calls.guards import Guard, Guards
from moorline.calls.watching import Watch
from moorline.errors import (
    Attempt,
    CallError,
    RateLimited,
    ServiceUnavailable,
)
from moorline.policies.policy import Policy

__all__ = ["Foreign", "Reply", "said"]

SMALL: Final = 65_536  # a body up to this size is read to keep its connection
_LIMITS: Final = RateLimitHeaders()
_SERVER_FAULTS: Final = frozenset({408, 425})


def said(error: BaseException) -> str:
    """One redacted line of an exception of somebody else's."""
    kind = type(error).__name__
    words = redaction.text(" ".join(str(error).split()))[:200]
    return f"{kind}: {words}" if words else kind


class Reply:
    """A response of a foreign client, as the engine sees it. *headers* finds names in any case."""

    __slots__ = ("_headers", "_names", "response", "status")

    def __init__(self, response: Any, status: int, headers: Mapping[str, str]) -> None:
        self.response = response
        self.status = status
        self._headers = headers
        self._names: frozenset[str] | None = None

    @property
    def names(self) -> frozenset[str]:
        """The names of its headers, in lower case: one look instead of one for each word of limits."""
        if self._names is None:
            self._names = frozenset(str(name).lower() for name in self._headers)
        return self._names

    def header(self, name: str, default: str | None = None) -> str | None:
        """The value of a header."""
        return self._headers.get(name, default)


class Foreign(CallContext["Foreign", Reply]):
    """One request of a foreign client, which is its own view for the engine: the same request for all attempts.

    *key* is the idempotency key that the request carries, if any; *timeout* what the client's user allows an attempt,
    in seconds, where the policy allows more. With *statuses* every status that is given up is an answer, the 429 too:
    for SDKs that raise their own errors for statuses. *apart* tells that each operation has a rate limit of its own;
    *guard* is the state of *name*, where the adapter looked it up before.
    """

    __slots__ = ("statuses",)

    def __init__(
        self,
        *,
        name: str,
        operation: str,
        policy: Policy,
        guards: Guards,
        idempotent: bool,
        key: str | None,
        statuses: bool = False,
        timeout: float | None = None,
        limits: RateLimitHeaders = _LIMITS,
        retried: Collection[int] = (),
        apart: bool = False,
        guard: Guard | None = None,
    ) -> None:
        guard = guard or guards.guard(name, policy, apart=apart)
        if timeout is not None and (policy.attempt_timeout is None or timeout < policy.attempt_timeout):
            policy = replace(policy, attempt_timeout=timeout)
        super().__init__(
            service=name,
            operation=operation,
            policy=policy,
            guard=guard,
            limits=limits,
            idempotent=idempotent,
            key=None if idempotent else key,
            clock=guards.clock,
            retried=retried,
        )
        self.statuses = statuses

    # The holes ------------------------------------------------------------------------------------------------------

    @property
    def replayable(self) -> bool:
        """Whether the body can be sent again."""
        return True

    def held(self, answer: Reply, watch: Watch) -> bool:  # noqa: ARG002 (a hole to fill)
        """Have *watch* told when the body of *answer* ends; False when it is complete already."""
        return False

    def dressed(self, error: CallError) -> CallError:
        """*error* as the client's own exception of that kind."""
        return error

    # What the engine asks -------------------------------------------------------------------------------------------

    def request(self) -> Foreign:
        """The same request again."""
        return self

    def judge(self, answer: Reply) -> CallError | None:
        """Limits and the service's own failures; all other statuses are answers."""
        status = answer.status
        if status == 429:
            return RateLimited("answered 429", status=status, request_id=usual_request_id(answer))
        if status >= 500 or status in _SERVER_FAULTS:
            return ServiceUnavailable(f"answered {status}", status=status, request_id=usual_request_id(answer))
        return None

    def succeeded(self, answer: Reply, lease: Lease, deadline: float, attempts: tuple[Attempt, ...]) -> Reply:
        """An answer whose body keeps the lease until it is read or closed."""
        if not self.held(answer, Watch(self, answer, lease, deadline, attempts)):
            lease.settle(worked=True, elapsed=attempts[-1].elapsed)
        return answer

    def unsuccessful(self, answer: Reply, error: CallError, deadline: float) -> Reply | None:
        """Users of a plain client want to see a 503 as a response; a 429 that is given up is raised."""
        if isinstance(error, RateLimited) and not self.statuses:
            return None
        self.held(answer, Watch(self, answer, None, deadline, error.attempts))
        return answer

    def raised(self, error: CallError) -> CallError:
        """The error as the client's own."""
        return self.dressed(error)


def is_idempotent(method: str) -> bool:
    """Whether the HTTP method itself makes a repeat safe."""
    return method.upper() in IDEMPOTENT
