"""Events: what services tell us. Verified over the raw bytes, stored once, answered, then handled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moorline.events.event import Event
    from moorline.events.handlers import Handlers
    from moorline.events.inbox import Inbox, Stored
    from moorline.events.receiver import Receiver
    from moorline.events.signatures import HMACBody, Scheme, StandardWebhooks, TimestampedHMAC, Verified
    from moorline.events.verification import verify

__all__ = [
    "Event",
    "HMACBody",
    "Handlers",
    "Inbox",
    "Receiver",
    "Scheme",
    "StandardWebhooks",
    "Stored",
    "TimestampedHMAC",
    "Verified",
    "verify",
]

_HOMES = {
    "Event": "event",
    "HMACBody": "signatures",
    "Handlers": "handlers",
    "Inbox": "inbox",
    "Receiver": "receiver",
    "Scheme": "signatures",
    "StandardWebhooks": "signatures",
    "Stored": "inbox",
    "TimestampedHMAC": "signatures",
    "Verified": "signatures",
    "verify": "verification",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'moorline.events' has no attribute {name!r}")
    value = getattr(import_module(f"moorline.events.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
