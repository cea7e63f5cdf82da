"""Who did what that can be seen nowhere else: one row for each, in the transaction of what was done."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from moorline.store.ids import new_id
from moorline.store.schema import audit

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

__all__ = ["note"]


def note(connection: Connection, *, at: float, actor: str, action: str, detail: dict[str, Any]) -> None:
    """Keep that *actor* did *action* (``replay.start``, …) at that time, seconds since the epoch."""
    row = {"id": new_id(at), "at": at, "actor": actor, "action": action, "detail": json.dumps(detail)}
    connection.execute(sa.insert(audit), row)
