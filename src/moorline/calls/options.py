"""``Options``: what ``Call.using`` changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final

from moorline.calls.dialects import check_header
from moorline.calls.hedge import Hedge
from moorline.errors import ConfigurationError
from moorline.policies.checks import check_count, check_seconds
from moorline.policies.policy import Policy
from moorline.policies.retry import Retry

__all__ = ["PLAIN", "UNSET", "Options", "Unset"]

_LONGEST_TENANT: Final = 200


class Unset:
    """The type of UNSET: nothing was said, which is not the same as None."""

    def __repr__(self) -> str:
        return "UNSET"


UNSET: Final = Unset()


@dataclass(frozen=True, slots=True)
class Options:
    """What ``Call.using`` changed. UNSET leaves the service's policy as it is, as None does for the last four."""

    timeout: float | Unset | None = UNSET
    attempt_timeout: float | Unset | None = UNSET
    retry: Retry | int | Unset | None = UNSET
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    tenant: str | None = None
    hedge: Hedge | None = None
    coalesce: bool | None = None
    cost: float | None = None

    def __post_init__(self) -> None:
        for name in ("timeout", "attempt_timeout"):
            value = getattr(self, name)
            if value is not UNSET and value is not None:
                check_seconds("using", name, value)
        if isinstance(self.retry, int) and not isinstance(self.retry, bool):
            check_count("using", "retry", self.retry, least=0)
        elif self.retry is not None and not isinstance(self.retry, (Retry, Unset)):
            raise ConfigurationError(
                f"using.retry must be a Retry, an integer or None, not {type(self.retry).__name__}"
            )
        for name, text in self.headers.items():
            check_header("using.headers", name, text)
        if self.tenant is not None:
            _check_tenant(self.tenant)
        if self.hedge is not None and not isinstance(self.hedge, Hedge):
            raise ConfigurationError(f"using.hedge must be seconds, a Hedge or None, not {type(self.hedge).__name__}")
        if self.coalesce is not None and not isinstance(self.coalesce, bool):
            raise ConfigurationError(f"using.coalesce must be True, False or None, not {type(self.coalesce).__name__}")
        if self.cost is not None:
            check_seconds("using", "cost", self.cost)

    def applied(self, policy: Policy) -> Policy:
        """*policy* with these changes."""
        if self.timeout is UNSET and self.attempt_timeout is UNSET and self.retry is UNSET:
            return policy
        changed: dict[str, Any] = {}
        if self.timeout is not UNSET:
            changed["deadline"] = self.timeout
        if self.attempt_timeout is not UNSET:
            changed["attempt_timeout"] = self.attempt_timeout
        if isinstance(self.retry, int):
            changed["retry"] = replace(policy.retry or Retry(), retries=self.retry)
        elif self.retry is not UNSET:
            changed["retry"] = self.retry
        return replace(policy, **changed)

    def to_payload(self) -> dict[str, Any]:
        """The changes as JSON."""
        payload: dict[str, Any] = {}
        for name in ("timeout", "attempt_timeout"):
            if getattr(self, name) is not UNSET:
                payload[name] = getattr(self, name)
        if isinstance(self.retry, Retry):
            payload["retry"] = {each.name: getattr(self.retry, each.name) for each in fields(Retry)}
        elif self.retry is not UNSET:
            payload["retry"] = self.retry
        if self.headers:
            payload["headers"] = dict(self.headers)
        if self.hedge is not None:
            payload["hedge"] = {each.name: getattr(self.hedge, each.name) for each in fields(Hedge)}
        for name in ("tenant", "coalesce", "cost"):
            if getattr(self, name) is not None:
                payload[name] = getattr(self, name)
        return payload

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any]) -> Options:
        """The inverse of ``to_payload``. Fields of a newer version are an error, as they would be silently lost."""
        values = dict(payload)
        try:
            if isinstance(values.get("retry"), dict):
                values["retry"] = Retry(**values["retry"])
            if isinstance(values.get("hedge"), dict):
                values["hedge"] = Hedge(**values["hedge"])
            return cls(**values)
        except TypeError as error:
            raise ConfigurationError(f"the stored options of a Call do not fit this version: {error}") from None


PLAIN: Final = Options()


def _check_tenant(tenant: Any) -> None:
    if not isinstance(tenant, str) or not 0 < len(tenant) <= _LONGEST_TENANT:
        raise ConfigurationError(f"using.tenant must be a string of 1 to {_LONGEST_TENANT} characters")
