"""Events that ``moorline events export`` wrote: as Events, and as deliveries to one's own application."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moorline import redaction
from moorline.errors import ConfigurationError
from moorline.events.export import imported
from moorline.events.verification import scheme_of

if TYPE_CHECKING:
    from moorline.events.event import Event
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


def delivery(path: str | Path, *, secret: Key, now: float | None = None) -> Delivery:
    """The exported file as a delivery that one's own application accepts: signed anew with *secret*, *now*.

    *now* is seconds since the epoch, by default this machine's clock. Headers that were masked are left out. Raises
    ConfigurationError for a file that is no event, or of a service whose signatures are not known here.
    """
    event = load_event(path)
    _, scheme = scheme_of(event.service)
    signed = scheme.sign(event.body, secret, now=now, id=event.id)
    new = {name.lower() for name in signed}
    kept = {
        name: value
        for name, value in event.headers.items()
        if name.lower() not in _OF_THE_CONNECTION | new and value != redaction.MASK
    }
    kept.setdefault("content-type", "application/json")
    return Delivery(f"/webhooks/{event.service}", event.body, {**kept, **signed})
