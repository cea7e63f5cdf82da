"""The body of an answer that its caller reads by itself: until it ends, the call is not over."""

from __future__ import annotations

import math
from typing import Any, Final

from moorline.calls.effects import Answer, CallContext, Lease
from moorline.calls.verdicts import final
from moorline.errors import Attempt, CallError, DeadlineExceeded

__all__ = ["Watch"]

_ROUNDING: Final = 0.002  # a socket's timeout is counted in milliseconds


class Watch:
    """Watches the body of one answer: its deadline, its failures, and the lease that ends with it.

    The breaker learns how many seconds passed until the head of the answer was there, and not how long its body took:
    that is as much the reader's doing, and a slow reader must not make the service look slow.
    """

    __slots__ = ("_answer", "_attempts", "_lease", "context", "deadline")

    def __init__(
        self,
        context: CallContext[Any, Any],
        answer: Answer,
        lease: Lease | None,
        deadline: float,
        attempts: tuple[Attempt, ...],
    ) -> None:
        self.context = context
        self.deadline = deadline
        self._answer = answer
        self._lease = lease
        self._attempts = attempts

    def left(self) -> float | None:
        """Seconds until the deadline, None without one."""
        return None if math.isinf(self.deadline) else self.deadline - self.context.clock.monotonic()

    @property
    def over(self) -> bool:
        """Whether the deadline has passed."""
        left = self.left()
        return left is not None and left <= _ROUNDING

    def settle(self, *, worked: bool | None) -> None:
        """Free what the attempt held: the body is over. Only the first word counts."""
        if self._lease is not None:
            self._lease.settle(worked=worked, elapsed=self._attempts[-1].elapsed)

    def late(self) -> CallError:
        """The deadline passed while the body was read; the lease is settled."""
        seconds = self.context.policy.deadline
        bound = "the caller's deadline" if seconds is None else f"the deadline of {seconds:g} s"
        return self._broken(DeadlineExceeded(f"no complete answer within {bound}"))

    def failed(self, error: Exception) -> CallError:
        """What a failure within the body means; the lease is settled."""
        if self.over:
            late = self.late()
            late.__cause__ = error
            return late
        return self._broken(self.context.translated(error, in_body=True))

    def _broken(self, error: CallError) -> CallError:
        self.settle(worked=False)
        error.status, error.request_id = self._answer.status, self.context.request_id_of(self._answer)
        return final(error, self.context, self._attempts)
