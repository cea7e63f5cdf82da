"""``ServiceSettings``: ``[services.NAME]``, what differs from a service's defaults."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Annotated, Any, Final, TypeVar

from pydantic import BaseModel, Field, field_validator
from pydantic_settings import NoDecode

from moorline.calls.wiring import Wire
from moorline.policies.breaker import Breaker
from moorline.policies.bulkhead import Bulkhead
from moorline.policies.policy import Policy
from moorline.policies.rate import RateLimit
from moorline.policies.retry import Retry
from moorline.setting_kinds import STRICT, Seconds

__all__ = ["ServiceSettings"]

P = TypeVar("P", Policy, Retry, Breaker, Bulkhead)


class ServiceSettings(BaseModel):
    """``[services.NAME]``: what differs from the service's defaults. Seconds throughout."""

    model_config = STRICT

    base_url: str | None = None
    """Where requests go instead of the service's own address."""
    region: str | None = None
    """The region, for services that have several: ``eu`` (SendGrid), ``eu-west-1`` (SES)."""
    parameters: dict[str, str] = Field(default_factory=dict)
    """What the service needs beside its key: ``{account_sid = "AC…"}``; its page names them."""
    deadline: Seconds | None = None
    """Seconds for a whole call, waits and body included."""
    attempt_timeout: Seconds | None = None
    """Seconds for one attempt."""
    retries: Annotated[int, Field(ge=0, le=100)] | None = None
    """How often a call that failed is sent again, where that is safe."""
    breaker_failures: Annotated[int, Field(ge=1)] | None = None
    """Failures in a row after which the breaker opens."""
    breaker_reset: Seconds | None = None
    """Seconds after which it lets one probe through."""
    rate: Annotated[tuple[RateLimit, ...] | None, NoDecode, Field(min_length=1)] = None
    """Our own limits, each as calls/seconds: ``["10/1", "1000/3600"]``; in the environment separated by commas."""
    bulkhead: Annotated[int, Field(ge=1)] | None = None
    """Attempts in flight at a time; one more is refused, or waits where the service's policy has a queue."""
    admission: Annotated[int, Field(ge=1)] | None = None
    """Calls under way at a time, those that wait included; one more is refused."""
    retry_budget: Annotated[float, Field(ge=0)] | None = None
    """The part of the calls that may be repeats: 0.2 allows 20 %, and one a second besides."""
    wire: Wire | None = None
    """The library that speaks HTTP, where it is another than for the rest."""

    @field_validator("rate", mode="before")
    @classmethod
    def _limits(cls, value: object) -> object:
        given = value.split(",") if isinstance(value, str) else value
        return tuple(_limit(one) for one in given) if isinstance(given, (list, tuple)) else given

    def applied(self, policy: Policy) -> Policy:
        """*policy* with what is said here otherwise."""
        own: dict[str, Any] = {"deadline": self.deadline, "attempt_timeout": self.attempt_timeout, "rate": self.rate}
        own |= {"admission": self.admission}
        if policy.retry is not None:
            own["retry"] = _changed(policy.retry, retries=self.retries, budget=self.retry_budget)
        if policy.breaker is not None:
            own["breaker"] = _changed(policy.breaker, failures=self.breaker_failures, reset=self.breaker_reset)
        if self.bulkhead is not None:
            own["bulkhead"] = _changed(policy.bulkhead or Bulkhead(self.bulkhead), limit=self.bulkhead)
        return _changed(policy, **own)


_LIMIT: Final = re.compile(r"([0-9]{1,9})/([0-9]{1,9}(?:\.[0-9]{1,6})?)")


def _limit(text: object) -> RateLimit:
    """The limit that *text* says. Raises ValueError."""
    found = _LIMIT.fullmatch(text.strip()) if isinstance(text, str) else None
    if found is None or not int(found[1]) or not float(found[2]):
        raise ValueError('each limit must be calls/seconds, both more than zero, such as "100/60"')
    return RateLimit(int(found[1]), per=float(found[2]))


def _changed(part: P, **given: Any) -> P:
    """*part* of a policy with those values that are given."""
    return replace(part, **{name: value for name, value in given.items() if value is not None})
