"""moorline: calls, webhooks, jobs and credentials that hold when third-party APIs do not.

Importing this loads no service, no driver and no HTTP client; each name is loaded when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moorline import errors
    from moorline.app import Moorline
    from moorline.calls.adapters.functions import resilient
    from moorline.calls.addresses import PublicAddresses
    from moorline.calls.cache import Cache
    from moorline.calls.failover import Failover
    from moorline.calls.hedge import Hedge
    from moorline.calls.story import watch
    from moorline.calls.upload import Upload
    from moorline.events.event import Event
    from moorline.jobs.job import Job
    from moorline.money import Money
    from moorline.policies.breaker import Breaker
    from moorline.policies.bulkhead import Bulkhead
    from moorline.policies.deadline import deadline
    from moorline.policies.policy import Policy
    from moorline.policies.rate import RateLimit
    from moorline.policies.retry import Retry
    from moorline.secrets.secret import Secret
    from moorline.services.tracking import Analytics

__all__ = [
    "Analytics",
    "Breaker",
    "Bulkhead",
    "Cache",
    "Event",
    "Failover",
    "Hedge",
    "Job",
    "Money",
    "Moorline",
    "Policy",
    "PublicAddresses",
    "RateLimit",
    "Retry",
    "Secret",
    "Upload",
    "deadline",
    "errors",
    "resilient",
    "watch",
]
__version__ = "0.1.0"

_HOMES = {
    "Analytics": "moorline.services.tracking",
    "Breaker": "moorline.policies.breaker",
    "Bulkhead": "moorline.policies.bulkhead",
    "Cache": "moorline.calls.cache",
    "Event": "moorline.events.event",
    "Failover": "moorline.calls.failover",
    "Hedge": "moorline.calls.hedge",
    "Job": "moorline.jobs.job",
    "Money": "moorline.money",
    "Moorline": "moorline.app",
    "Policy": "moorline.policies.policy",
    "PublicAddresses": "moorline.calls.addresses",
    "RateLimit": "moorline.policies.rate",
    "Retry": "moorline.policies.retry",
    "Secret": "moorline.secrets.secret",
    "Upload": "moorline.calls.upload",
    "deadline": "moorline.policies.deadline",
    "resilient": "moorline.calls.adapters.functions",
    "watch": "moorline.calls.story",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name == "errors":
        return import_module("moorline.errors")
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'moorline' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
