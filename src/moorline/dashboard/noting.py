"""Whatever is done on the dashboard is noted in the audit: by whom, when, what."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from moorline.events import audit
from moorline.telemetry import logger

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.engine import Connection

    from moorline.dashboard.page import Look

__all__ = ["note"]


log = logger("dashboard")


async def note(look: Look, action: str, detail: dict[str, Any]) -> None:
    """Keep that who *look*s has done *action*. Raises StoreError."""
    log.info("dashboard_action", actor=look.actor, action=action, detail=detail)
    await look.app.store.write(_keep, (look.now, look.actor, action, detail))


def _keep(connection: Connection, payloads: Sequence[tuple[float, str, str, dict[str, Any]]]) -> list[None]:
    for at, actor, action, detail in payloads:
        audit.note(connection, at=at, actor=actor, action=f"dashboard.{action}", detail=detail)
    return [None] * len(payloads)
