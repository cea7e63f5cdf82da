"""Events that ``moorline events export`` wrote: as Events, and as deliveries to one's own application."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from moorline import redaction
from moorline.errors import ConfigurationError
from moorline.events.body import wrapped
from moorline.events.delivery import media_of
from moorline.events.export import imported
from moorline.events.places import WHOLE
from moorline.events.verification import scheme_of

if TYPE_CHECKING:
    from moorline.events.event import Event
    from moorline.events.scheme import Scheme
    from moorline.events.signatures import Key

__all__ = ["Delivery", "delivery", "load_event"]

_OF_THE_CONNECTION = frozenset({"host", "content-length", "connection", "transfer-encoding", "accept-encoding"})


@dataclass(frozen=True, slots=True)
class Delivery:
    """A request as a sender would make it: ``client.post(d.path, content=d.body, headers=d.headers)``."""

    path: str
    body: bytes = field(repr=False)
    headers: dict[str, str] = field(repr=False)
    method: str = "POST"


def load_event(path: str | Path) -> Event:
    """The Event of an exported file: to call a handler with. Raises ConfigurationError that names file and fault."""
    try:
        document: Any = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path}: {error}") from error
    try:
        return imported(document)
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from None


def delivery(
    path: str | Path, *, secret: Key, key: Key | None = None, url: str = "", now: float | None = None
) -> Delivery:
    """The exported file as a delivery that one's own application accepts: signed anew with *secret*, *now*.

    *key* is the private key, for senders that sign with one (SendGrid, PayPal, SNS); *url* the address as the
    application knows it, for those that sign that (Square, Twilio, HubSpot), such as
    ``https://shop.example/webhooks/square``; *now* seconds since the epoch, by default this machine's clock. An event
    of a delivery of several comes in one of its own. Headers that were masked are left out.

    Raises ConfigurationError for a file that is no event, of a service whose signatures are not known here, or of one
    that signs the address if there is no *url*.
    """
    event = load_event(path)
    _, scheme = scheme_of(event.service)
    if scheme.signs_url and not url:
        raise ConfigurationError(f"url: {event.service} signs the address that it calls; give it")
    body = _whole(event, scheme)
    address = urlsplit(scheme.address(url or f"/webhooks/{event.service}", body))
    body = scheme.seal(body, secret, now=now, url=address.geturl(), key=key)
    signed = scheme.sign(body, secret, now=now, id=event.id, url=address.geturl(), key=key)
    new = {name.lower() for name in signed}
    kept = {
        name: value
        for name, value in event.headers.items()
        if name.lower() not in _OF_THE_CONNECTION | new and value != redaction.MASK
    }
    if event.body[:1] in (b"{", b"["):
        kept.setdefault("content-type", "application/json")
    target = f"{address.path}?{address.query}" if address.query else address.path
    return Delivery(target, body, {**kept, **signed})


def _whole(event: Event, scheme: Scheme) -> bytes:
    """The body of a delivery: of a sender that puts several events into one, one with this event alone."""
    if not scheme.each:
        return event.body
    media = media_of(event.headers)
    # What is the same for all events of a delivery stands beside them: of what we know that can be the type.
    kind = scheme.type if isinstance(scheme.type, str) else ""
    beside = {kind.removeprefix(WHOLE): event.type} if kind.startswith(WHOLE) else None
    return wrapped(event.body, scheme.each, media, beside=beside)
