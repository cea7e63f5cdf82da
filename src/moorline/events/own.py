"""Events of moorline's own: what becomes of connected accounts, stored and handled as what services tell.

``@app.on("moorline", "connection.ended")``. Nobody can send them from outside: there is no scheme of that name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from moorline.events.event import Event

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

__all__ = ["OWN", "Beside", "own_event"]

OWN: Final = "moorline"
"""The name under which they come."""


def own_event(type: str, action: str, id: str, payload: Mapping[str, Any], at: float) -> Event:
    """An event that happened *at*, in seconds since the epoch. *id* is one for each."""
    body = json.dumps(payload, ensure_ascii=False).encode()
    headers = {"content-type": "application/json"}
    return Event(OWN, id, type, body, headers, action=action, received_at=at, timestamp=at)


class Beside:
    """An event that is stored in somebody else's transaction: ``also`` in it, ``woken`` after it. ``wrapped`` says what
    to give the store's writer, which has to lock keys first where its handlers keep an order.
    """

    def __init__(
        self,
        store: Callable[[Connection], object],
        wrap: Callable[[Any, Any], tuple[Any, Any]],
        wake: Callable[[], None],
    ) -> None:
        self.also = store
        self.wrapped = wrap
        self.woken = wake
