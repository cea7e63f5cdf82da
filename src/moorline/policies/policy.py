"""``Policy``: all that decides how a call behaves when things go wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from moorline.errors import ConfigurationError
from moorline.policies.breaker import Breaker
from moorline.policies.bulkhead import Bulkhead
from moorline.policies.checks import check_count, check_seconds
from moorline.policies.rate import RateLimit
from moorline.policies.retry import Retry

__all__ = ["Policy"]


@dataclass(frozen=True, slots=True)
class Policy:
    """Seconds throughout; None switches a part off.

    *deadline* bounds the whole call, waits and body included; *attempt_timeout* each attempt; *retry* says when to
    repeat what is safe to repeat; *breaker* when to stop asking; *rate* is our own quota (one, or several of
    different windows); *bulkhead* limits what is in flight; *admission* the calls under way at once, those that wait
    for any of this included: one more is refused at once.

    Raises ConfigurationError naming the field.
    """

    deadline: float | None = 30.0
    attempt_timeout: float | None = 10.0
    retry: Retry | None = Retry()  # noqa: RUF009 (frozen, so sharing it is safe)
    breaker: Breaker | None = Breaker()  # noqa: RUF009
    rate: RateLimit | tuple[RateLimit, ...] | None = None
    bulkhead: Bulkhead | None = None
    admission: int | None = 10_000

    def __post_init__(self) -> None:
        for field in ("deadline", "attempt_timeout"):
            if getattr(self, field) is not None:
                check_seconds("Policy", field, getattr(self, field))
        self._check("retry", self.retry, Retry)
        self._check("breaker", self.breaker, Breaker)
        for each in self.rates:
            self._check("rate", each, RateLimit)
        self._check("bulkhead", self.bulkhead, Bulkhead)
        if self.admission is not None:
            check_count("Policy", "admission", self.admission)

    @property
    def rates(self) -> tuple[RateLimit, ...]:
        """Our own quotas, none, one or several."""
        if self.rate is None:
            return ()
        return self.rate if isinstance(self.rate, tuple) else (self.rate,)

    def _check(self, field: str, value: Any, kind: type) -> None:
        if value is not None and not isinstance(value, kind):
            raise ConfigurationError(f"Policy.{field} must be a {kind.__name__} or None, not {type(value).__name__}")
