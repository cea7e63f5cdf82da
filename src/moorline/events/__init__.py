"""Events: what services tell us. Verified over the raw bytes, stored once, answered, then handled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moorline.events.alerts import Alert
    from moorline.events.delivery import Delivers, Delivery, Reply
    from moorline.events.event import Event
    from moorline.events.forms import FormFile
    from moorline.events.handlers import Handlers
    from moorline.events.inbox import Inbox, Stored
    from moorline.events.places import Verified
    from moorline.events.receiver import Receiver
    from moorline.events.relay import Relay
    from moorline.events.replay import Replay, Replays
    from moorline.events.scheme import Scheme
    from moorline.events.schemes.hmac_signature import HMACSignature
    from moorline.events.schemes.shared_secret import SharedSecret
    from moorline.events.schemes.standard_webhooks import StandardWebhooks
    from moorline.events.selection import Selection
    from moorline.events.sender import Sender
    from moorline.events.verification import verify, verify_each

__all__ = [
    "Alert",
    "Delivers",
    "Delivery",
    "Event",
    "FormFile",
    "HMACSignature",
    "Handlers",
    "Inbox",
    "Receiver",
    "Relay",
    "Replay",
    "Replays",
    "Reply",
    "Scheme",
    "Selection",
    "Sender",
    "SharedSecret",
    "StandardWebhooks",
    "Stored",
    "Verified",
    "verify",
    "verify_each",
]

_HOMES = {
    "Alert": "alerts",
    "Delivers": "delivery",
    "Delivery": "delivery",
    "Event": "event",
    "FormFile": "forms",
    "HMACSignature": "schemes.hmac_signature",
    "Handlers": "handlers",
    "Inbox": "inbox",
    "Receiver": "receiver",
    "Relay": "relay",
    "Replay": "replay",
    "Replays": "replay",
    "Reply": "delivery",
    "Scheme": "scheme",
    "Selection": "selection",
    "Sender": "sender",
    "SharedSecret": "schemes.shared_secret",
    "StandardWebhooks": "schemes.standard_webhooks",
    "Stored": "inbox",
    "Verified": "places",
    "verify": "verification",
    "verify_each": "verification",
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
