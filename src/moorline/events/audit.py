"""Who did what that can be seen nowhere else: one row for each, in the transaction of what was done."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from moorline.errors import ConfigurationError
from moorline.store.ids import new_id
from moorline.store.schema import audit

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

__all__ = ["check_actor", "note"]


def note(connection: Connection, *, at: float, actor: str, action: str, detail: dict[str, Any]) -> None:
    """Keep that *actor* did *action* (``replay.start``, …) at that time, seconds since the epoch."""
    row = {"id": new_id(at), "at": at, "actor": actor, "action": action, "detail": json.dumps(detail)}
    connection.execute(sa.insert(audit), row)


def check_actor(actor: object) -> None:
    """Raises ConfigurationError unless it can be read as somebody's name."""
    if not isinstance(actor, str) or not actor or len(actor) > 200 or not actor.isprintable():
        raise ConfigurationError(f"actor: expected who does it, such as an e-mail address, got {actor!r}")
