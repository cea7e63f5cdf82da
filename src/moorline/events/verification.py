"""``moorline.events.verify``: the check alone, for those who receive webhooks in their own way."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from moorline.clock import SYSTEM
from moorline.errors import ConfigurationError
from moorline.events.event import Event
from moorline.events.signatures import STANDARD_WEBHOOKS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from moorline.events.signatures import Key, Scheme, Verified

__all__ = ["event_from", "lower_case", "scheme_of", "verify"]

GENERIC: Mapping[str, Scheme] = {"standard_webhooks": STANDARD_WEBHOOKS}
"""Schemes that are nobody's own, by the name that stands in the place of a service's."""


def verify(
    service: str | type[Any],
    *,
    headers: Mapping[str, str],
    body: bytes,
    secrets: Key | Sequence[Key],
    url: str | None = None,
    method: str = "POST",
    now: float | None = None,
    tolerance: float | None = None,
    certificates: Mapping[str, str] | None = None,
) -> Event:
    """Check a webhook's signature over its raw bytes and return it as an Event. Nothing is stored and nothing is sent.

    ``service`` is a service class or its name (``"github"``, ``"standard_webhooks"``); ``headers`` a mapping in any
    case; ``body`` the bytes as received; ``secrets`` one or several, each a str, bytes or Secret; ``url`` as the sender
    called it (needed by senders that sign it); ``now`` seconds since the epoch, by default this machine's clock;
    ``tolerance`` seconds that the signed time may be off, either way; ``certificates`` PEM by URL, used instead of
    fetching.

    An Event may be a replay: keep ``event.id`` and refuse what was there before, or use the inbox, which does that.

    Raises InvalidSignature (missing, malformed, wrong, too old, too new), UnusableEvent for well-signed bytes that are
    no event of this service, ConfigurationError naming the argument that is wrong.
    """
    name, scheme = scheme_of(service)
    folded = lower_case(headers)
    body = _raw(body)
    if now is None:
        now = SYSTEM.wall()
    for argument, value in (("now", now), ("tolerance", tolerance)):
        if value is not None:
            _seconds(argument, value)
    verified = scheme.verify(
        folded, body, secrets, url=url, method=method, now=now, tolerance=tolerance, certificates=certificates
    )
    return event_from(name, folded, body, verified, received_at=now)


def scheme_of(service: str | type[Any]) -> tuple[str, Scheme]:
    """The name and the scheme of a service class, or of what has that name. Raises ConfigurationError."""
    if isinstance(service, str):
        generic = GENERIC.get(service)
        if generic is not None:
            return service, generic
        from moorline import registry

        service = registry.service(service)
    scheme: Scheme | None = getattr(service, "webhooks", None)
    name = getattr(service, "name", None)
    if not isinstance(name, str):
        raise ConfigurationError(f"service: expected a service class or its name, got {service!r}")
    if scheme is None:
        raise ConfigurationError(f"service: {name} sends no webhooks that are known here")
    return name, scheme


def lower_case(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers with lower-case names. One that comes twice is joined, and so matches no signature by half."""
    pairs = getattr(headers, "items", None)  # WSGI's and Django's are no Mapping and have it
    if pairs is None:
        raise ConfigurationError(f"headers: expected a mapping of names to values, got {type(headers).__name__}")
    folded: dict[str, str] = {}
    for name, value in pairs():
        if value is None:
            continue
        key, text = _text(name).lower(), _text(value)
        folded[key] = f"{folded[key]}, {text}" if key in folded else text
    return folded


def event_from(
    service: str, headers: Mapping[str, str], body: bytes, verified: Verified, *, received_at: float
) -> Event:
    """The Event that those facts make."""
    return Event(
        service=service,
        id=verified.id,
        type=verified.type,
        body=body,
        headers=headers,
        action=verified.action,
        received_at=received_at,
        timestamp=verified.timestamp,
        secret_index=verified.secret_index,
    )


def _raw(body: object) -> bytes:
    if isinstance(body, (bytes, bytearray, memoryview)):
        return bytes(body)
    raise ConfigurationError(f"body: expected the raw bytes as received, got {type(body).__name__}")


def _text(value: object) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _seconds(argument: str, value: object) -> None:
    """A NaN would make every comparison false, and so accept any age."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value) or value < 0:
        raise ConfigurationError(f"{argument}: expected seconds, 0 or more, got {value!r}")
